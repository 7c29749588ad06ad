"""Find an asset: in the cache, in a local folder, or at its providers.

Only downloading needs pooch: what is here already is found without.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.assets.archives import ArchiveError, extract
from experiments.assets.asset import Asset, Source
from experiments.assets.providers import ProviderError, download
from experiments.harness.result import Unavailable


@dataclass(frozen=True)
class Attempt:
    """One place an asset was looked for, and what it said."""

    place: str
    said: str


class AssetUnavailable(Unavailable):
    """An asset could not be had; the message names every place tried and the way offline.

    Attributes:
      asset: what was asked for.
      attempts: every place tried, in order.
    """

    def __init__(self, asset: Asset, attempts: tuple[Attempt, ...]):
        self.asset = asset
        self.attempts = attempts
        archives = [(s.archive.filename, s.archive.sha256) for s in asset.sources]
        files = [(asset.name, asset.sha256), *archives]
        lines = [
            f"asset {asset.name} is not available:",
            *(f"  {attempt.place}: {attempt.said}" for attempt in attempts),
            "to work offline, set JAXLAB_DATA to a folder that holds one of",
            *(f"  {path} (sha256 {sha256})" for path, sha256 in files),
            f"or run `python -m experiments.assets fetch {asset.name}` where there is a network, "
            f"and carry {cache_folder() / 'data'} over as that folder",
        ]
        super().__init__("\n".join(lines))


def cache_folder() -> Path:
    """The folder for downloads: ``JAXLAB_CACHE``, or else the user's cache folder.

    Returns:
      A path that need not exist. Below it, ``data`` holds the assets and ``archives`` what they
      came in.
    """
    folder = os.environ.get("JAXLAB_CACHE")
    if not folder:
        try:
            import pooch
        except ModuleNotFoundError:
            folder = "~/.cache/jaxlab"
        else:
            folder = pooch.os_cache("jaxlab")
    return Path(folder).expanduser().absolute()


def cached(asset: Asset) -> Path | None:
    """The asset's verified file in the cache, without asking anyone for it.

    Args:
      asset: what to look for.

    Returns:
      Its path, or None where it is absent.

    Raises:
      ValueError: a file is there, but of another size or sha256.
      OSError: a file is there, but cannot be read.
    """
    path = cache_folder() / "data" / asset.name
    if not path.exists():
        return None
    _check_file(path, asset.size, asset.sha256)
    return path


def fetch(asset: Asset) -> Path:
    """The path of an asset's verified file, downloaded on first use.

    The cache is asked first, then the folder ``JAXLAB_DATA``, then the asset's sources in order.
    Several processes may fetch the same asset at once.

    Args:
      asset: what to fetch.

    Returns:
      Path of a file with the declared size and sha256.

    Raises:
      AssetUnavailable: no place could supply it.
    """
    attempts: list[Attempt] = []
    for place, look in _places(asset):
        try:
            if path := look():
                return path
        except (ProviderError, ValueError, OSError) as error:
            attempts.append(Attempt(place, str(error)))
    raise AssetUnavailable(asset, tuple(attempts))


def _places(asset: Asset) -> Iterator[tuple[str, Callable[[], Path | None]]]:
    yield "cache", lambda: cached(asset)
    yield "local", lambda: _local(asset)
    for source in asset.sources:
        yield source.archive.name, lambda source=source: _download(asset, source)


def _local(asset: Asset) -> Path:
    folder = os.environ.get("JAXLAB_DATA")
    if not folder:
        raise ProviderError("JAXLAB_DATA is not set")
    root = Path(folder).expanduser().absolute()
    if not root.is_dir():
        raise ProviderError(f"JAXLAB_DATA is {root}, which is no folder")
    if (path := root / asset.name).is_file():
        _check_file(path, asset.size, asset.sha256)
        return path
    for source in asset.sources:
        if (path := root / source.archive.filename).is_file():
            _check_file(path, source.archive.size, source.archive.sha256)
            return _unpack(path, asset, source)
    names = [asset.name, *(source.archive.filename for source in asset.sources)]
    raise ProviderError(f"{root} (JAXLAB_DATA) holds no {' and no '.join(names)}")


def _download(asset: Asset, source: Source) -> Path:
    try:
        import pooch
    except ModuleNotFoundError:
        raise ProviderError(
            "downloading needs pooch: install the extra `experiments`, or pooch alone"
        ) from None
    archive = source.archive

    def downloader(url: str, output_file: str, pooch_object: object) -> None:
        pooch.get_logger().info("%s: %.1f MB, on first use only", url, archive.size / 1e6)
        download(archive, Path(output_file))

    pooch.retrieve(
        url=archive.name,
        known_hash=f"sha256:{archive.sha256}",
        fname=archive.filename,
        path=cache_folder() / "archives",
        downloader=downloader,
    )
    return _unpack(cache_folder() / "archives" / archive.filename, asset, source)


def _unpack(archive: Path, asset: Asset, source: Source) -> Path:
    return extract(
        archive,
        source.member,
        cache_folder() / "data" / asset.name,
        size=asset.size,
        sha256=asset.sha256,
    )


def _check_file(path: Path, size: int, sha256: str) -> None:
    if (found := path.stat().st_size) != size:
        raise ArchiveError(f"{path} has {found} bytes, expected {size}")
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != sha256:
        raise ArchiveError(f"{path} has sha256 {digest}, expected {sha256}")
