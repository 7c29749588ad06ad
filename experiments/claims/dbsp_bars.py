"""The bars for db-SP's block plans: which plans, on which masks, how balanced."""

from typing import NamedTuple


class Bar(NamedTuple):
    """How balanced block plans shall be, in the mean over seeds of every family of masks.

    Attributes:
      plan: which plan: a fitted ``home`` alone, 5 % moved ``near`` it, that plan some steps
        ``later``, or a fifth ``moved`` from contiguous shards.
      degrees: what is judged: ``U2R4``, ``U1R8``, or both.
      reordered: at U1R8, whether the family ``svg-reord`` counts alone (True), not at all (False)
        or too; at U2R4 it counts.
      bound: the ratio that no family may pass.
      sentence: of the claim.
    """

    plan: str
    degrees: tuple[str, ...]
    reordered: bool | None
    bound: float
    sentence: str


BARS = {
    "home-r4": Bar(
        "home",
        ("U2R4",),
        None,
        1.01,
        "One static token order, fitted to other layers' first steps, balances a layer at U2R4 "
        "with no block moved, every family and real clips.",
    ),
    "home-r8": Bar(
        "home",
        ("U1R8",),
        False,
        1.025,
        "One static token order, fitted to other layers' first steps, balances a layer at U1R8 "
        "with no block moved, every family but reordered SVG heads, and real clips.",
    ),
    "home-r8-svg": Bar(
        "home",
        ("U1R8",),
        True,
        1.035,
        "One static token order, fitted to first steps, balances reordered SVG heads at U1R8 "
        "with no block moved.",
    ),
    "near-home": Bar(
        "near",
        ("U2R4", "U1R8"),
        False,
        1.006,
        "At most 5 % of the blocks moved from a fitted order balance a layer further: U2R4, every "
        "family; U1R8, all but reordered SVG heads, and real clips.",
    ),
    "near-home-svg": Bar(
        "near",
        ("U1R8",),
        True,
        1.02,
        "At most 5 % of the blocks moved from a fitted order balance reordered SVG heads at U1R8.",
    ),
    "later": Bar(
        "later",
        ("U2R4", "U1R8"),
        False,
        1.01,
        "A plan with 5 % moved from a fitted order still fits three steps later: U2R4, every "
        "family; U1R8, all but reordered SVG heads; and real clips.",
    ),
    "moved-r4": Bar(
        "moved",
        ("U2R4",),
        None,
        1.03,
        "At most 20 % of the query and 25 % of the key blocks moved from contiguous shards balance "
        "a layer at U2R4, every family and real clips.",
    ),
    "moved-r8": Bar(
        "moved",
        ("U1R8",),
        None,
        1.05,
        "At most 20 % of the query and 25 % of the key blocks moved from contiguous shards "
        "balance a layer at U1R8, every family, and real clips.",
    ),
}
"""By name of the claim."""
