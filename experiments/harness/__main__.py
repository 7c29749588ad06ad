"""Run experiments where only jax and the plotting stack stand: no option but the essential.

``python -m experiments`` does more and needs tyro.
"""

import argparse
import sys
from collections.abc import Sequence

from experiments.harness.claim import PRESETS
from experiments.harness.experiment import Checkout
from experiments.harness.runner import run_experiments


def main(argv: Sequence[str] | None = None, checkout: Checkout | None = None) -> int:
    """Run the command line; returns the exit status."""
    checkout = checkout or Checkout()
    parser = argparse.ArgumentParser(
        prog="python -m experiments.harness",
        description="Run experiments without the full command line.",
        epilog=f"experiments: {', '.join(checkout.names()) or 'none'}",
    )
    parser.add_argument("names", nargs="+", metavar="NAME", help="an experiment, or 'all'")
    parser.add_argument("--preset", choices=PRESETS, default="smoke", help="size of the runs")
    parser.add_argument("--seed", type=int, help="instead of the preset's own")
    parser.add_argument("--save", action="store_true", help="write the committed results")
    options = parser.parse_args(argv)
    try:
        return run_experiments(
            options.names,
            options.preset,
            seed=options.seed,
            save=options.save,
            checkout=checkout,
        )
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
