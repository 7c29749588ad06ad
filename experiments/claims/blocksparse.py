"""What block-sparse attention claims, declared before any measurement, and what it assumes."""

import functools

from experiments.harness import Claim, at_least, at_most

_claim = functools.partial(Claim, unit="", paper=None, obtained="exact", preset="paper")
_goal = functools.partial(_claim, source="goal", goal=True)

CLAIMS = (
    _goal(
        "forward-exact",
        sentence="Attention over the active blocks equals softmax over their token pairs.",
        quantity="relative error against float64, mask of a real clip, ragged; causal and grouped",
        criterion=at_most(2e-5),
        preset="smoke",
    ),
    _goal(
        "backward-exact",
        sentence="Attention's gradients, through output and log-sum-exp, are the definition's.",
        quantity="relative error against float64, worst of dq, dk, dv",
        criterion=at_most(2e-5),
        preset="smoke",
    ),
    _goal(
        "forward-exact-bfloat16",
        sentence="In bfloat16 too, attention is softmax over those pairs, but for rounding.",
        quantity="relative error against float64 of the rounded inputs; bfloat16 has 2^-8",
        criterion=at_most(2**-8),
    ),
    _goal(
        "backward-exact-bfloat16",
        sentence="In bfloat16 the gradients are the definition's, but for rounding.",
        quantity="relative error against float64 of the rounded inputs, worst of dq, dk, dv",
        criterion=at_most(2**-7),
    ),
    _goal(
        "skips-blocks",
        sentence="Blocks that the mask leaves out are not computed forward.",
        quantity="computed blocks / active blocks forward, eight heads of one window of a clip",
        unit="x",
        criterion=at_most(1.1),
    ),
    _goal(
        "time-affine",
        sentence="Forward time is a constant plus a price for every active block.",
        quantity="R^2 of forward time against active blocks, worst block shape",
        criterion=at_least(0.99),
        obtained="measured",
    ),
    _goal(
        "time-affine-backward",
        sentence="The gradients' time, too, is a constant plus a price for every active block.",
        quantity="R^2 of backward time against active blocks, worst block shape; a row added after "
        "the result was seen",
        criterion=at_least(0.99),
        obtained="measured",
    ),
    _goal(
        "forward-rate",
        sentence="Forward, it keeps a good share of the machine's matrix product rate.",
        quantity="forward rate / matmul rate, worst density and block shape",
        criterion=at_least(0.45),
        obtained="measured",
    ),
    _goal(
        "forward-rate-aim",
        sentence="Forward, it reaches most of the machine's matrix product rate.",
        quantity="forward rate / matmul rate, worst density and block shape",
        criterion=at_least(0.60),
        obtained="measured",
    ),
    _goal(
        "backward-rate",
        sentence="Attention's gradients keep a good share of the matrix product rate.",
        quantity="backward rate / matmul rate, worst density and block shape",
        criterion=at_least(0.40),
        obtained="measured",
    ),
    _goal(
        "faster-than-dense",
        sentence="Forward, at density 0.2, it is much faster than dense attention.",
        quantity="time of jax.nn.dot_product_attention / time at density 0.2, worst block shape",
        unit="x",
        criterion=at_least(7),
        obtained="measured",
    ),
    _claim(
        "imbalance-before",
        sentence="Splitting heads, fitted to a published spread, over 8 devices leaves unequal "
        "work, in the mean over clips.",
        source="our computation from per-head block counts the authors published",
        quantity="sparse imbalance ratio U8R1, mean over clips, layers and steps; sharpness of "
        "heads fitted to the published spread",
        paper="1.402 (ours, from published counts)",
        criterion=at_least(1.2),
        obtained="modelled",
    ),
    _claim(
        "imbalance-after",
        sentence="Regrouping these heads greedily makes work nearly equal, in the mean over clips.",
        source="4.2.1; our computation from per-head block counts the authors published",
        quantity="sparse imbalance ratio U8R1, mean over clips, layers and steps; sharpness of "
        "heads fitted to the published spread",
        paper="1.025 (ours, from published counts)",
        criterion=at_most(1.03),
        obtained="modelled",
    ),
    _claim(
        "imbalance-before-plain",
        sentence="Heads as first drawn, not fitted, are as unequal, in the mean over clips.",
        source="our computation from per-head block counts the authors published",
        quantity="sparse imbalance ratio U8R1 before regrouping, mean over clips and layers; a row "
        "added after the result was seen",
        paper="1.402 (ours, from published counts)",
        criterion=at_least(1.2),
        obtained="modelled",
        goal=True,
    ),
    _claim(
        "imbalance-after-plain",
        sentence="Heads as first drawn, not fitted, become as equal, in the mean over clips.",
        source="4.2.1; our computation from per-head block counts the authors published",
        quantity="sparse imbalance ratio U8R1 after regrouping, mean over clips and layers; a row "
        "added after the result was seen",
        paper="1.025 (ours, from published counts)",
        criterion=at_most(1.03),
        obtained="modelled",
        goal=True,
    ),
    _goal(
        "gpu-rate",
        sentence="On a GPU, at density 1, the kernel keeps a good share of cuDNN's forward rate.",
        quantity="time of cuDNN attention / time of the Pallas kernel, worst block shape",
        criterion=at_least(0.6),
        obtained="measured",
        preset="gpu",
    ),
    _goal(
        "gpu-affine",
        sentence="On a GPU its forward time is a constant plus a price for every active block.",
        quantity="R^2 of the Pallas kernel's time against active blocks, worst block shape",
        criterion=at_least(0.99),
        obtained="measured",
        preset="gpu",
    ),
)

ASSUMPTIONS = (
    "Queries and keys come from real frames through random per-head projections, constants and "
    "rotations; a trained layer would choose its own heads.",
    "How sharp heads are is fitted to two published figures, density (0.38 to 0.58) and its "
    "coefficient of variation over heads (0.61). This decides imbalance-before: the first choice, "
    "made before any mask was seen, gave milder heads that miss its criterion. The fit came after "
    "the criterion and after seeing that; the criterion stayed. Both stand in the table, and the "
    "heads as first drawn have rows of their own, added after their results were known.",
    "Skipping is counted forward; of the backward pass only the time shows it. How straight that "
    "time runs became a claim after it was known, with the forward's criterion: of the last two "
    "runs before, one missed it and one met it.",
    "The mask rule is SpargeAttn's on 128x64 blocks with similarity 0.1 and mass 0.9; exactness is "
    "checked on smaller blocks with less mass, so that many are left out, and on the first tokens "
    "of the window, since the definition in float64 holds all pairs.",
    "In bfloat16 results are rounded once, hence the bound of one unit in the last place; the "
    "gradients' is two. A first run missed the latter (0.015), because gradients were taken from "
    "the rounded output; they now get it unrounded.",
    "Rates count the operations of active blocks only: two matrix products forward, five backward, "
    "the backward without the forward.",
    "Dense attention is jax.nn.dot_product_attention, the only one jax has for CPUs. Part of the "
    "speedup is that ours is faster than it at density 1 too: the last column of the rates says by "
    "how much.",
    "Functions are timed in rounds whose order changes so that every one follows every other "
    "equally often. Earlier results were measured with orders drawn at random, in which dense "
    "attention ran right before some of ours much more often than before others.",
    "The masks of the timings are random, their heads up to three times as dense as one another.",
    "Imbalance is in blocks, every block costing the same; no device is simulated.",
)

REASONS = {
    "time-affine-backward": "A line through four densities bends when the machine slows down at "
    "one of them; on the same code R^2 falls on either side of the criterion from run to run.",
    "forward-rate": "In blocks of 64 x 64 at density 0.1 filling lists, gathers and exponentials "
    "cost about as much as the products; rates of a run move by a fifth with what runs beside it.",
    "forward-rate-aim": "Filling up lists, gathers and exponentials cost about as much as the "
    "products of blocks at low density; see docs/sources/blocksparse.md.",
    "gpu-affine": "Blocks of 64 x 64 alone: where all are active they cost 0.8 of what a line "
    "through lower densities says, perhaps because all rows then read the same keys at once; in "
    "blocks of 128 x 64 R^2 is 0.998 (docs/sources/blocksparse.md).",
    "imbalance-before-plain": "Heads drawn without fitting their sharpness to the published "
    "spread are more alike than trained ones.",
    "imbalance-after-plain": "As before regrouping: these heads are not distributed as the "
    "published ones.",
}
