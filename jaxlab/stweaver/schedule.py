"""The memory requests of one rank that trains a language model: which, when, in which phase."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from jaxlab.stweaver.block_ops import MIXTURE, BlockOps, Operation, block_ops
from jaxlab.stweaver.models import GPT2_345M, LLAMA2_7B, QWEN_MOE, Model, block_weights, end_weights
from jaxlab.stweaver.pipeline import one_forward_one_backward
from jaxlab.stweaver.tape import Tape
from jaxlab.stweaver.trace import Trace

MODELS = {model.name: model for model in (GPT2_345M, LLAMA2_7B, QWEN_MOE)}
SCHEDULES = ("N", "R", "V", "VR", "ZR", "ZOR")
_BUCKET = 25 << 20  # bytes of a staging buffer between host and device


@dataclasses.dataclass(frozen=True)
class Parallelism:
    """How a model is trained, and which rank we look at.

    Attributes:
      tensor: ranks that share each matrix.
      pipeline: stages.
      data: replicas; ranks in all are ``tensor * pipeline * data``.
      expert: ranks, out of the replicas, that share the experts.
      rank: stage that is traced, from 0.
      microbatch: samples of a microbatch.
      microbatches: microbatches of an iteration and replica.
      chunks: model chunks on a stage when the schedule is virtual ("V").
      schedule: letters: "N" none, "R" recompute every block, "V" virtual pipeline, "Z" optimizer
        states sharded over replicas (ZeRO), "O" optimizer states on the host.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    expert: int = 1
    rank: int = 0
    microbatch: int = 1
    microbatches: int = 8
    chunks: int = 2
    schedule: str = "N"

    def __post_init__(self) -> None:
        for name in ("tensor", "pipeline", "data", "expert", "microbatch", "microbatches"):
            if getattr(self, name) < 1:
                raise ValueError(f"Parallelism: {name}={getattr(self, name)} must be positive.")
        if self.data % self.expert:
            raise ValueError(
                f"Parallelism: expert={self.expert} must divide data={self.data} replicas."
            )
        if not 0 <= self.rank < self.pipeline:
            raise ValueError(
                f"Parallelism: rank={self.rank} must lie in 0..{self.pipeline - 1}, the stages."
            )
        letters = set(self.schedule)
        if not letters or not letters <= set("NRVZO") or ("N" in letters and len(letters) > 1):
            raise ValueError(
                f"Parallelism: schedule={self.schedule!r} must be 'N' or letters of 'RVZO'."
            )
        if "V" in letters and self.chunks < 2:
            raise ValueError(f"Parallelism: chunks={self.chunks} must be at least 2 for 'V'.")


def schedule_trace(
    model: Model | str,
    parallelism: Parallelism,
    *,
    iterations: int = 3,
    periodic: bool = False,
    seed: int = 0,
) -> Trace:
    """The memory requests of a training run on one rank, from shapes alone.

    Every request is made in a phase: "init" (weights, before the first iteration), "0F", "0B", "1F"
    ... (forward and backward of a microbatch; with a virtual pipeline of a chunk of it, counted
    through), and "0W" (the update of the weights). Its ``layer`` is the module that runs, in its
    phase. ``iteration`` is -1 for "init". Time counts allocations and frees.

    Args:
      model: a model, or "GPT-2-345M", "Llama-2-7B" or "Qwen1.5-MoE-A2.7B".
      parallelism: how it is trained.
      iterations: number of iterations; at least 3 for a periodic trace.
      periodic: keep only one steady iteration, as a period: what lives through it is live in
        ``[0, period)``, what crosses into the next iteration wraps around.
      seed: of the tokens' routing to experts, in every iteration anew.

    Returns:
      The trace; ``dynamic`` requests are those made inside a layer of experts.

    Raises:
      ValueError: an unknown model, or shapes that do not divide.

    Source: reconstructed; the assumptions stand in ``docs/sources/stweaver.md``, section
    "schedules".

    Example:
      >>> trace = schedule_trace("GPT-2-345M", Parallelism(pipeline=4, microbatches=4))
      >>> trace.phases[:3], bool(trace.dynamic.any())
      (('init', '0F', '1F'), False)
    """
    if isinstance(model, str):
        if model not in MODELS:
            known = ", ".join(MODELS)
            raise ValueError(f"schedule_trace: model={model!r} must be one of {known}.")
        model = MODELS[model]
    if iterations < (3 if periodic else 1):
        raise ValueError(f"schedule_trace: iterations={iterations}; a periodic trace needs 3.")
    rank = _Rank(model, parallelism, seed)
    rank.start()
    starts = []
    for iteration in range(iterations):
        starts.append(rank.tape.time)
        rank.iterate(iteration)
    trace = rank.tape.trace()
    return _steady(trace, starts[1], starts[2]) if periodic else trace


def _steady(trace: Trace, begin: int, end: int) -> Trace:
    """The second iteration as a period."""
    lasting = (trace.start < begin) & (trace.end >= end)
    rows = lasting | ((trace.start >= begin) & (trace.start < end))
    part, lasting = trace.select(rows), lasting[rows]
    period = end - begin
    start = np.where(lasting, 0, part.start - begin)
    stop = np.where(lasting, period, np.minimum(part.end - begin, start + period))
    layers = {
        name: np.where(lasting, -1, getattr(part, name)) for name in ("layer_start", "layer_end")
    }
    return dataclasses.replace(part, start=start, end=stop, period=period, **layers)


class _Rank:
    """One rank: its part of the model, and the requests of its passes."""

    def __init__(self, model: Model, how: Parallelism, seed: int) -> None:
        self.model, self.how, self.seed, self.tape = model, how, seed, Tape()
        self.chunks = how.chunks if "V" in how.schedule else 1
        stages = how.pipeline * self.chunks
        for name, value, parts in (
            ("layers", model.layers, stages),
            ("heads", model.heads, how.tensor),
            ("experts", model.experts, how.expert),
        ):
            if value % parts:
                raise ValueError(f"schedule_trace: {value} {name} do not divide by {parts}.")
        self.blocks = model.layers // stages
        self.tokens = how.microbatch * model.sequence
        self.order = one_forward_one_backward(how.pipeline, how.rank, how.microbatches, self.chunks)
        self.weights: dict[str, int] = {}
        self.batch: list[int] = []  # data of the next microbatch, fetched ahead
        self.kept: dict[tuple[int, int], dict] = {}  # what backward passes wait for
        self.plain = block_ops(model, self.tokens, how.tensor) if not model.experts else None

    # Weights and optimizer.

    def start(self) -> None:
        """Weights, gradient buffers and the optimizer's copy of the weights."""
        how, tape = self.how, self.tape
        for chunk in range(self.chunks):
            first, last = self._ends(chunk)
            ends = end_weights(self.model, how.tensor, first=first, last=last)
            self.weights |= {f"{chunk}.{name}": size for name, size in ends.items()}
            for block in range(self.blocks):
                shapes = block_weights(self.model, how.tensor, how.expert)
                self.weights |= {f"{chunk}.{block}.{k}": size for k, size in shapes.items()}
        made = []
        for name, size in self.weights.items():
            single = tape.allocate(f"{name}.init", 4 * size)
            made.append(tape.allocate(name, 2 * size))
            tape.free(single)
        routed = sum(size for name, size in self.weights.items() if ".expert" in name)
        for name, size in (("dense", sum(self.weights.values()) - routed), ("expert", routed)):
            if size and "Z" in how.schedule:
                tape.allocate(f"{name}.parameters", 2 * size)
            if size:
                tape.allocate(f"{name}.gradients", 4 * size)
        if "Z" in how.schedule:  # weights become views of one buffer
            for number in made:
                tape.free(number)
        if "O" not in how.schedule:
            for name, size in self._states():
                tape.allocate(f"{name}.master", 4 * size)
        self._fetch()

    def _states(self) -> Iterable[tuple[str, int]]:
        """Elements of the optimizer's state of each weight on this rank."""
        for name, size in self.weights.items():
            replicas = self.how.data // (self.how.expert if ".expert" in name else 1)
            yield name, -(-size // replicas) if "Z" in self.how.schedule else size

    def _update(self, iteration: int) -> None:
        self.tape.enter("0W", iteration)
        self.tape.inside("optimizer")
        norms = self.tape.allocate("norms", 4 * len(self.weights))
        for name, size in self._states():
            if "O" in self.how.schedule:
                self._stage(name, size)
            elif iteration == 0:
                self.tape.allocate(f"{name}.first_moment", 4 * size)
                self.tape.allocate(f"{name}.second_moment", 4 * size)
        self.tape.free(norms)

    def _stage(self, name: str, size: int) -> None:
        """Updated weights come from the host through two buffers in turn."""
        previous = None
        for begin in range(0, 2 * size, _BUCKET):
            buffer = self.tape.allocate(f"{name}.stage", min(_BUCKET, 2 * size - begin))
            if previous is not None:
                self.tape.free(previous)
            previous = buffer
        if previous is not None:
            self.tape.free(previous)

    # One iteration.

    def iterate(self, iteration: int) -> None:
        """All passes of an iteration, and the update of the weights."""
        losses = []
        for kind, microbatch, chunk in self.order:
            self.tape.enter(f"{microbatch * self.chunks + chunk}{kind}", iteration)
            if kind == "F":
                losses += self._forward(iteration, microbatch, chunk)
            else:
                self._backward(microbatch, chunk)
        self._update(iteration)
        for loss in losses:
            self.tape.free(loss)

    def _ends(self, chunk: int) -> tuple[bool, bool]:
        """Whether a chunk begins or ends the model."""
        first = self.how.rank == 0 and chunk == 0
        last = self.how.rank == self.how.pipeline - 1 and chunk == self.chunks - 1
        return first, last

    def _fetch(self) -> None:
        """Tokens, labels, loss mask and positions of a microbatch, on the ranks that read them."""
        if self._ends(0)[0] or self._ends(self.chunks - 1)[1]:
            for name, width in (("tokens", 8), ("labels", 8), ("loss_mask", 4), ("positions", 8)):
                self.batch.append(self.tape.allocate(name, width * self.tokens))

    def _forward(self, iteration: int, microbatch: int, chunk: int) -> list[int]:
        model, tape = self.model, self.tape
        stream = 2 * self.tokens * model.hidden
        first, last = self._ends(chunk)
        kept: dict = {"blocks": [], "ends": [], "batch": []}
        tape.inside("ends")
        if first or (last and self.how.pipeline > 1):
            kept["batch"], self.batch = self.batch, []
        if first:
            x = tape.allocate("embedded", stream)
            if not model.gated:
                kept["ends"].append(tape.allocate("embedding_mask", stream // 2))
        else:
            x = tape.allocate("received", stream)
        for block in range(self.blocks):
            ops = self._block(iteration, microbatch, chunk, block)
            saves = frozenset() if "R" in self.how.schedule else ops.saved
            values = self._play(ops.forward, {"x": x}, saves, f"{chunk}.{block}", keep_input=True)
            x = values.pop("y")
            kept["blocks"].append((ops, values))
        tape.inside("ends")
        losses = []
        if last:
            losses = self._loss(kept, x)
        else:
            tape.free(x)  # sent to the next stage; only its shape is needed again
        self.kept[microbatch, chunk] = kept
        if kept["batch"]:
            self._fetch()
        return losses

    def _loss(self, kept: dict, x: int) -> list[int]:
        """Final norm, logits and cross entropy; the float32 logits wait for the backward pass."""
        tape, tokens = self.tape, self.tokens
        logits = tokens * self.model.vocab // self.how.tensor
        norm = tape.allocate("final_norm", 2 * tokens * self.model.hidden)
        half = tape.allocate("logits", 2 * logits)
        single = tape.allocate("logits_float32", 4 * logits)
        tape.free(half)
        loss = tape.allocate("token_loss", 4 * tokens)
        kept["loss"] = [x, norm, single, loss]
        return [tape.allocate("loss", 4)]

    def _backward(self, microbatch: int, chunk: int) -> None:
        tape = self.tape
        stream = 2 * self.tokens * self.model.hidden
        kept = self.kept.pop((microbatch, chunk))
        tape.inside("ends")
        if "loss" in kept:
            x, norm, single, loss = kept["loss"]
            half = tape.allocate("dlogits", self._half_logits())
            tape.free(single)
            tape.free(loss)
            dnorm = tape.allocate("dfinal_norm", stream)
            tape.free(half)
            tape.free(norm)
            dy = tape.allocate("dlast", stream)
            tape.free(dnorm)
            tape.free(x)
        else:
            dy = tape.allocate("received_gradient", stream)
        for block, (ops, values) in reversed(list(enumerate(kept["blocks"]))):
            where = f"{chunk}.{block}"
            if "R" in self.how.schedule:
                values = self._play(ops.forward, values, ops.saved, where, keep_input=True)
                tape.free(values.pop("y"))
            values = self._play(ops.backward, values | {"dy": dy}, frozenset(), where)
            dy = values.pop("dx")
        tape.inside("ends")
        tape.free(dy)  # sent to the stage before, or added to the embedding's gradient
        for number in [*kept["ends"], *kept["batch"]]:
            tape.free(number)

    def _half_logits(self) -> int:
        return 2 * self.tokens * self.model.vocab // self.how.tensor

    def _block(self, iteration: int, microbatch: int, chunk: int, block: int) -> BlockOps:
        if self.plain is not None:
            return self.plain
        from jaxlab.stweaver.routing import expert_tokens  # needs numba

        model, how = self.model, self.how
        stage = chunk * how.pipeline + how.rank
        counts = expert_tokens(
            self.tokens * how.expert,
            model.experts,
            model.top_k,
            layer=stage * self.blocks + block,
            microbatch=iteration * how.microbatches + microbatch,
            seed=self.seed,
        )
        return block_ops(model, self.tokens, how.tensor, counts[: model.experts // how.expert])

    def _play(
        self,
        operations: tuple[Operation, ...],
        values: dict[str, int],
        saves: frozenset[str],
        where: str,
        keep_input: bool = False,
    ) -> dict[str, int]:
        """Runs operations on named values; returns those that are still there."""
        values = dict(values)
        for operation in operations:
            self.tape.inside(f"{where}.{operation.module}", operation.module.startswith(MIXTURE))
            for name, size in operation.results:
                values[name] = self.tape.allocate(name, size)
            for name in operation.drops:
                if name not in saves and not (keep_input and name == "x"):
                    self.tape.free(values.pop(name))
        return values
