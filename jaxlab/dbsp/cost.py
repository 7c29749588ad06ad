"""How long a layer takes on several devices: kernels, ring hops, exchanges and all-to-alls."""

import dataclasses
import math
import typing
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float, Float64, Int64

from jaxlab.dbsp.plan import Plan


@dataclasses.dataclass(frozen=True)
class Links:
    """What connects the devices, the same between any two.

    Attributes:
      all_to_all_bandwidth: bytes a second that a device sends when all send to all.
      all_to_all_latency: seconds that any such operation takes at least.
      hop_bandwidth: bytes a second that a device sends to its neighbor in the ring.
      hop_latency: seconds that a hop takes at least.

    Raises:
      ValueError: a bandwidth is not positive, a latency negative, or either not a number.
    """

    all_to_all_bandwidth: float
    all_to_all_latency: float
    hop_bandwidth: float
    hop_latency: float

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not (value > 0 or (value == 0 and name.endswith("latency"))):
                raise ValueError(f"Links: {name}={value} must be positive, in bytes and seconds.")


@dataclasses.dataclass(frozen=True)
class LayerTime:
    """Seconds of one attention layer, by what they are spent on.

    Attributes:
      ring: kernels and the key hops that they do not hide, all steps of the slowest group.
      exchange: token blocks between ring shards, there and back.
      all_to_all: heads for tokens between Ulysses ranks, there and back.
    """

    ring: float
    exchange: float
    all_to_all: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.ring + self.exchange + self.all_to_all


def layer_time(
    step_seconds: Float[np.ndarray, "ulysses steps ranks"],
    plan: Plan | None,
    *,
    tensor_bytes: float | int,
    links: Links,
) -> LayerTime:
    """Adds communication to the kernel times of every device.

    Each ring step takes as long as its slowest kernel, or as the hop that brings the keys and
    values of the next step, whichever is longer; the last step awaits no hop. Groups run beside one
    another. All-to-alls and exchanges hide behind nothing.

    Args:
      step_seconds: float ``[U, R, R]``, kernel time of ring rank ``i`` of group ``u`` at step ``s``
        at ``[u, s, i]``.
      plan: which blocks leave home; None if none does.
      tensor_bytes: bytes of the layer's queries on all devices; keys, values and output are taken
        to be as large.
      links: what connects the devices.

    Returns:
      The time, in seconds.

    Raises:
      ValueError: times of another shape, negative or not finite, or of other degrees than the
        plan's.

    Source: reconstructed from the published figure; see ``docs/sources/dbsp.md``.

    Example:
      >>> links = Links(1e9, 0.0, hop_bandwidth=1e9, hop_latency=0.0)
      >>> kernels = np.array([[[0.004, 0.001], [0.002, 0.003]]])  # [group, step, rank]
      >>> layer_time(kernels, None, tensor_bytes=5e6, links=links).seconds
      0.008
    """
    step_seconds = np.asarray(step_seconds, np.float64)
    _check_table("step_seconds", step_seconds, plan)
    if not (np.isfinite(step_seconds) & (step_seconds >= 0)).all():
        raise ValueError("step_seconds must be finite and not negative.")
    constants = _constants(0.0, 1.0, links)
    slowest = step_seconds.max(2)  # the launch column carries the kernels' own seconds
    terms = _terms(np.zeros_like(slowest), slowest, plan, tensor_bytes)
    return LayerTime(*_seconds(terms, constants))


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class CostModel:
    """Predicts the time of a layer from its work table.

    A kernel is taken to cost a launch and so much for every active block; the rest is as in
    ``layer_time``. All in bytes and seconds.

    Attributes:
      seconds_per_block: of one active block of one head.
      seconds_per_launch: of a kernel without any.
      links: what connects the devices.
      tensor_bytes: bytes of the layer's queries on all devices; 1 where that tensor is the unit.
      error: root mean square of the relative errors on the points it was fitted to; None if it was
        not fitted.

    Source: reconstructed; the published code looks times up in measured tables instead. See
    ``docs/sources/dbsp.md``.
    """

    seconds_per_block: float
    seconds_per_launch: float
    links: Links
    tensor_bytes: float | int
    error: float | None = None

    def __post_init__(self) -> None:
        for name in ("seconds_per_block", "seconds_per_launch", "tensor_bytes"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"CostModel: {name}={value} must be finite and not negative.")

    @classmethod
    def fit(
        cls,
        points: Iterable[tuple[Int64[np.ndarray, "ulysses ring ring"], Plan | None, float]],
        *,
        tensor_bytes: float | int | None = None,
        links: Links | None = None,
    ) -> "CostModel":
        """Finds the constants that explain measured times best.

        Least squares of the relative errors, no constant negative. Which ring steps wait for a hop
        depends on the constants: both are found in turn, from several beginnings.

        Args:
          points: work table, plan (None if nothing leaves home) and measured seconds of each.
          tensor_bytes: bytes of the layer's queries on all devices. Left out, that tensor is the
            unit: the model predicts layers of this size, its bandwidths are in tensors a second.
          links: what connects the devices, if known; None fits it too. That needs points with
            several groups and several ring shards; and more than one device count, or only the sum
            of a hop's latency and transfer is found, which predicts the same count as well.

        Returns:
          The model, with its error.

        Raises:
          ValueError: too few points, or none that could tell a constant; a time not positive;
            links in bytes a second without ``tensor_bytes``.

        Example:
          >>> links = Links(1e9, 1e-5, 1e9, 1e-5)
          >>> true = CostModel(2e-6, 3e-5, links, tensor_bytes=1e4)
          >>> works = [np.full((1, 2, 2), blocks) for blocks in (10, 20, 40)]
          >>> points = [(work, None, true.predict(work)) for work in works]
          >>> fitted = CostModel.fit(points, tensor_bytes=1e4, links=links)
          >>> round(fitted.seconds_per_block, 9), round(fitted.seconds_per_launch, 8)
          (2e-06, 3e-05)
        """
        from scipy.optimize import nnls

        if tensor_bytes is None and links is not None:
            raise ValueError("CostModel.fit: links are in bytes a second; pass tensor_bytes too.")
        tensor_bytes = 1.0 if tensor_bytes is None else tensor_bytes
        points = list(points)
        fitted = slice(0, 6 if links is None else 2)
        if len(points) < fitted.stop:
            raise ValueError(
                f"CostModel.fit: {len(points)} points cannot tell {fitted.stop} constants."
            )
        seconds = np.array([point[2] for point in points], np.float64)
        if not (np.isfinite(seconds) & (seconds > 0)).all():
            raise ValueError("CostModel.fit: measured seconds must be finite and positive.")
        terms = [
            _terms(_slowest(work, plan), np.ones(work.shape[:2]), plan, tensor_bytes)
            for work, plan, _ in points
        ]
        if links is None and not (
            any(one.all_to_all.any() for one in terms) and any(one.hop.any() for one in terms)
        ):
            raise ValueError(
                "CostModel.fit: no point has several groups, or none has several ring shards; "
                "measure such points or pass links=."
            )
        best = np.inf, np.zeros(6)
        busiest = np.array([max(one.blocks.sum(1).max(), 1) for one in terms])
        block = float(np.median(seconds / busiest))
        for hop in np.median(seconds) * np.array([0, 0.01, 0.03, 0.1, 0.3, 1]):
            constants = np.array([block, 0, 0, 0, 0, hop])
            if links is not None:
                constants = _constants(block, 0.0, links)
            for _ in range(50):
                rows = np.stack([_row(one, constants) for one in terms]) / seconds[:, None]
                aim = 1 - rows[:, fitted.stop :] @ constants[fitted.stop :]
                scale = np.maximum(rows[:, fitted].max(0), np.finfo(float).tiny)
                answer, _ = nnls(rows[:, fitted] / scale, aim)
                before, constants = constants, constants.copy()
                constants[fitted] = answer / scale
                predicted = np.array([sum(_seconds(one, constants)) for one in terms])
                error = float(np.sqrt(np.mean((predicted / seconds - 1) ** 2)))
                best = min(best, (error, constants), key=lambda one: one[0])
                if np.allclose(before, constants, rtol=1e-12, atol=0):
                    break
        error, found = best
        if links is None:
            pace = 1 / np.maximum(found, np.finfo(float).tiny)
            links = Links(float(pace[2]), float(found[3]), float(pace[4]), float(found[5]))
        return cls(float(found[0]), float(found[1]), links, tensor_bytes, error)

    def terms(
        self, work: Int64[np.ndarray, "ulysses ring ring"], plan: Plan | None = None
    ) -> LayerTime:
        """What ``predict`` adds up.

        Args:
          work: int64 ``[U, R, R]`` from ``work_table``, in blocks.
          plan: the plan it was counted under, for what leaves home; None if nothing does.

        Returns:
          The predicted time by what it is spent on.

        Raises:
          ValueError: a table of another shape than the plan's degrees.
        """
        terms = _terms(_slowest(work, plan), np.ones(work.shape[:2]), plan, self.tensor_bytes)
        constants = _constants(self.seconds_per_block, self.seconds_per_launch, self.links)
        return LayerTime(*_seconds(terms, constants))

    def predict(
        self, work: Int64[np.ndarray, "ulysses ring ring"], plan: Plan | None = None
    ) -> float:
        """Predicts the seconds of a layer.

        Args:
          work: int64 ``[U, R, R]`` from ``work_table``.
          plan: whose blocks move; None if nothing leaves home.

        Returns:
          Seconds, the sum of what ``terms`` tells apart.
        """
        return self.terms(work, plan).seconds


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class _Terms:
    """Factors of the six constants: block, launch, then inverse bandwidth and latency of both."""

    blocks: Float64[np.ndarray, "ulysses steps"]
    launches: Float64[np.ndarray, "ulysses steps"]
    hop: Float64[np.ndarray, "2"]
    exchange: Float64[np.ndarray, "2"]
    all_to_all: Float64[np.ndarray, "2"]


def _terms(
    blocks: np.ndarray, launches: np.ndarray, plan: Plan | None, tensor_bytes: float | int
) -> _Terms:
    ulysses, ring = blocks.shape
    local = tensor_bytes / (ulysses * ring)
    moved = [0.0, 0.0]
    if plan is not None:
        for exchange in (plan.q_exchange, plan.kv_exchange):
            stay = np.diagonal(exchange, axis1=1, axis2=2) / np.maximum(exchange.sum(2), 1)
            sent = float(1 - stay.min())  # of the busiest rank
            moved[0] += 2 * sent * local  # queries and output, or keys and values
            moved[1] += 2 * (sent > 0)
    return _Terms(
        blocks.astype(np.float64),
        launches.astype(np.float64),
        np.array([2 * local, 1.0]) if ring > 1 else np.zeros(2),
        np.array(moved),
        np.array([4 * local * (ulysses - 1) / ulysses, 4.0 * (ulysses > 1)]),
    )


def _constants(block: float, launch: float, links: Links) -> np.ndarray:
    return np.array(
        [
            block,
            launch,
            1 / links.all_to_all_bandwidth,
            links.all_to_all_latency,
            1 / links.hop_bandwidth,
            links.hop_latency,
        ]
    )


def _waiting(terms: _Terms, constants: np.ndarray) -> tuple[int, np.ndarray]:
    """The slowest group, and which of its steps wait for a hop."""
    kernels = terms.blocks * constants[0] + terms.launches * constants[1]
    waits = kernels < terms.hop @ constants[4:]
    waits[:, -1] = False
    slowest = int(np.where(waits, terms.hop @ constants[4:], kernels).sum(1).argmax())
    return slowest, waits[slowest]


def _row(terms: _Terms, constants: np.ndarray) -> np.ndarray:
    """What each constant is multiplied by, where these constants tell who waits for whom."""
    group, waits = _waiting(terms, constants)
    kernels = [terms.blocks[group][~waits].sum(), terms.launches[group][~waits].sum()]
    return np.concatenate([kernels, terms.exchange + terms.all_to_all, waits.sum() * terms.hop])


def _seconds(terms: _Terms, constants: np.ndarray) -> tuple[float, float, float]:
    row = _row(terms, constants)
    ring = row[:2] @ constants[:2] + row[4:] @ constants[4:]
    sent = terms.exchange @ constants[2:4], terms.all_to_all @ constants[2:4]
    return float(ring), float(sent[0]), float(sent[1])


def _slowest(work: np.ndarray, plan: Plan | None) -> np.ndarray:
    """Blocks of the busiest rank, by group and step."""
    work = np.asarray(work)
    _check_table("work", work, plan)
    shard = np.arange(work.shape[1])
    return work[:, shard[:, None], (shard[:, None] + shard) % len(shard)].max(1)


def _check_table(name: str, table: np.ndarray, plan: Plan | None) -> None:
    if table.ndim != 3 or table.shape[1] != table.shape[2] or 0 in table.shape:
        raise ValueError(f"{name} has shape {table.shape}, expected [U, R, R].")
    if plan is not None and (plan.ulysses, plan.ring) != table.shape[:2]:
        raise ValueError(
            f"{name} has shape {table.shape}, the plan has U={plan.ulysses}, R={plan.ring}."
        )
