"""Exact planning: the lowest height that can be proved, and a plan as near to it as time allows."""

import itertools
import time
import typing
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from jaxlab.stweaver.bound import next_height
from jaxlab.stweaver.branch import FOUND, REFUTED, UNDECIDED, decide
from jaxlab.stweaver.choice import LOWEST, REFINED, TIGHTEST
from jaxlab.stweaver.kernel import kernel, kernel_part
from jaxlab.stweaver.lifetimes import Lifetimes
from jaxlab.stweaver.orders import highest_load
from jaxlab.stweaver.search_state import Search

MAX_REQUESTS = 5_000
MAX_PAIRS = 10_000_000
_SLOTS = 1 << 20
_STEPS = 1 << 19
_DIVES = 4
_SHARE, _STEP = 0.05, 1 / 64
_WORK_A_SECOND = 100_000_000


def suits(lives: Lifetimes) -> bool:
    """Whether an instance is small enough for the exact planner."""
    return lives.size.size <= MAX_REQUESTS and _count_pairs(lives) <= MAX_PAIRS


def exact(
    lives: Lifetimes,
    *,
    lower: int,
    offsets: Int64[np.ndarray, " live"],
    capacity: int | None = None,
    deadline: float,
    seed: int = 0,
) -> tuple[Int64[np.ndarray, " live"], int]:
    """Branch and bound between a lower bound and a known plan.

    Without a capacity a quarter of the time goes to the lower bound itself. Then come heights
    between it and the best plan: steps down double after a success and halve after a failure.

    Args:
      lives: the requests.
      lower: a height that no plan undercuts.
      offsets: int64 ``[live]``, a plan to improve.
      capacity: stop at the first plan of at most this height.
      deadline: value of ``time.perf_counter()`` at which to stop.
      seed: of the random orders.

    Returns:
      int64 ``[live]``, the best offsets; and the proven lower bound.
    """
    if not lives.size.size:
        return offsets, lower
    solver = Solver(lives, seed)
    height = int((offsets + lives.size).max())
    goal = lower if capacity is None else max(capacity, lower)
    begin = time.perf_counter()
    share, step = (1.0 if capacity is not None else 0.25), 1.0
    while height > goal and time.perf_counter() < deadline:
        target = height - max(int(step * (height - goal)), solver.unit)
        until = time.perf_counter() + share * (deadline - begin)
        answer, found = solver.attempt(max(target, goal), min(until, deadline))
        if answer == FOUND:
            offsets, step = found, min(2 * step, 1.0)
            height = int((offsets + lives.size).max())
        elif answer == REFUTED:
            lower = next_height(lives.size, max(target, goal))
            if capacity is not None:
                break
            goal = lower
        else:
            step = step / 2 if step * (height - goal) > 2 * solver.unit and step > _STEP else 0.5
        share = _SHARE if capacity is None else share
    return offsets, lower


class Solver:
    """Restarts of the search under several orders; keeps what each has refuted."""

    def __init__(self, lives: Lifetimes, seed: int) -> None:
        count = lives.size.size
        self.unit = int(np.gcd.reduce(lives.size))
        self.size = lives.size // self.unit
        self.lives = lives
        self.begin, self.meets = overlaps(lives)
        self.twin = _twins(lives)
        self.salt = np.random.default_rng(1).integers(0, 1 << 63, (count, 2)).astype(np.uint64)
        self.failed = np.zeros((_SLOTS, 2), np.uint64)
        self.trail = np.empty((max(_STEPS, 64 * count), 4), np.int64)
        self.dive = int(lives.length.sum()) * count // 2 + count
        self.keys = _keys(lives, np.diff(self.begin))
        self.random = np.random.default_rng(seed)
        self.speed = _WORK_A_SECOND

    def attempt(self, capacity: int, deadline: float) -> tuple[int, Int64[np.ndarray, " live"]]:
        """Decides one capacity, or gives up at the deadline."""
        self.failed[:] = 0
        for (rank, strategy), factor in zip(self._orders(), _luby(), strict=False):
            now = time.perf_counter()
            if now >= deadline:
                break
            work = min(_DIVES * factor * self.dive, int((deadline - now) * self.speed) + 1)
            answer, addresses = self.run(capacity // self.unit, rank, strategy, work)
            self.speed = max(work / (time.perf_counter() - now + 1e-9), 1e6)
            if answer != UNDECIDED:
                return answer, addresses * self.unit
        return UNDECIDED, np.zeros(0, np.int64)

    def run(
        self, capacity: int, rank: np.ndarray, strategy: int, work: int
    ) -> tuple[int, Int64[np.ndarray, " live"]]:
        """One search; capacity and addresses count in ``unit`` bytes.

        Args:
          capacity: units.
          rank: int64 ``[live]``, preference among equal bounds, smallest first.
          strategy: LOWEST or TIGHTEST, with or without REFINED.
          work: how much to do before giving up.

        Returns:
          FOUND, REFUTED or UNDECIDED; and int64 ``[live]``, the addresses if found.
        """
        count, sections = self.size.size, self.lives.sections
        if int(self.size.max()) > capacity:
            return REFUTED, np.zeros(count, np.int64)
        lives = self.lives
        state = Search(
            size=self.size,
            first=lives.first,
            last=lives.last,
            wrap=lives.wrap,
            rank=rank,
            begin=self.begin,
            meets=self.meets,
            twin=self.twin,
            rest=np.zeros(count, np.int64),
            bound=np.zeros(count, np.int64),
            status=np.zeros(count, np.int64),
            pool=np.arange(count),
            spare=np.empty(count, np.int64),
            stacked=np.zeros(sections + 1, np.int64),
            reach=np.zeros(sections, np.int64),
            starts=np.zeros(sections + 1, np.int64),
            trail=self.trail,
            counters=np.array([0, work, capacity, strategy]),
            failed=self.failed,
            salt=self.salt,
        )
        return decide(state), state.rest

    def _orders(self) -> Iterator[tuple[Int64[np.ndarray, " live"], int]]:
        """Preference ranks and strategies, without end: fixed rules between random mixtures."""
        names = list(self.keys)
        fixed = [
            (("load", a, b), strategy)
            for a, b in itertools.permutations(names[1:], 2)
            for strategy in (LOWEST, REFINED)
        ]
        strategies = (LOWEST, REFINED, TIGHTEST, TIGHTEST | REFINED)
        standard = [np.log(key + 1.0) for key in self.keys.values()]
        standard = [(key - key.mean()) / (key.std() + 1e-9) for key in standard]
        for turn in itertools.count():
            if turn < 2 * len(fixed) and turn % 2 == 0:
                rule, strategy = fixed[turn // 2]
                yield _rank([-self.keys[name] for name in rule]), strategy
            else:
                weights = self.random.dirichlet(np.full(len(standard), 0.5))
                noise = self.random.choice([0.0, 0.1, 0.3]) * self.random.normal(
                    size=self.size.size
                )
                score = sum(w * key for w, key in zip(weights, standard, strict=True)) + noise
                yield _rank([-score]), int(self.random.choice(strategies))


def _keys(
    lives: Lifetimes, met: Int64[np.ndarray, " live"]
) -> dict[str, Int64[np.ndarray, " live"]]:
    return {
        "load": highest_load(lives),
        "duration": lives.duration,
        "area": lives.duration * lives.size.astype(np.float64),
        "size": lives.size,
        "sections": lives.length,
        "met": met,
    }


def _rank(keys: list[np.ndarray]) -> Int64[np.ndarray, " live"]:
    rank = np.empty(keys[0].size, np.int64)
    rank[np.lexsort(keys[::-1])] = np.arange(keys[0].size)
    return rank


def _luby() -> Iterator[int]:
    """1 1 2 1 1 2 4 1 1 2 ...: restarts that are within a logarithm of the best schedule."""
    u, v = 1, 1
    while True:
        yield v
        u, v = (u + 1, 1) if u & -u == v else (u, 2 * v)


def _twins(lives: Lifetimes) -> Int64[np.ndarray, " live"]:
    order = np.lexsort((lives.wrap, lives.last, lives.first, lives.size))
    table = np.stack([lives.size, lives.first, lives.last, lives.wrap])[:, order]
    twin = np.full(order.size, -1, np.int64)
    same = (np.diff(table) == 0).all(axis=0)
    twin[order[1:][same]] = order[:-1][same]
    return twin


def overlaps(lives: Lifetimes) -> tuple[Int64[np.ndarray, " ranges"], Int64[np.ndarray, " pairs"]]:
    """Which requests meet in time.

    Args:
      lives: the requests.

    Returns:
      int64 ``[live + 1]`` and int64 ``[2 * pairs]``: request ``i`` meets the requests
      ``meets[begin[i]:begin[i + 1]]``.
    """
    order = np.argsort(lives.first, kind="stable")
    degree = np.zeros(order.size, np.int64)
    empty = np.zeros(0, np.int64)
    _pairs(lives.first, lives.last, lives.wrap, order, degree, empty, empty)
    begin = np.concatenate([[0], np.cumsum(degree)])
    meets = np.empty(begin[-1], np.int64)
    _pairs(lives.first, lives.last, lives.wrap, order, degree, meets, begin[:-1].copy())
    return begin, meets


def _count_pairs(lives: Lifetimes) -> int:
    """Upper estimate of the overlapping pairs in O(n log n)."""
    starts = np.sort(np.concatenate([lives.first, np.zeros((lives.wrap > 0).sum(), np.int64)]))
    met = np.searchsorted(starts, lives.last) - np.searchsorted(starts, lives.first)
    return int(met.sum()) + int((lives.wrap > 0).sum()) * lives.size.size


@kernel
@typing.no_type_check
def _pairs(first, last, wrap, order, degree, meets, fill):
    """Counts the overlaps of every request, or lists them if ``meets`` has room."""
    for place in range(order.size):
        a = order[place]
        for later in range(place + 1, order.size):
            b = order[later]
            if first[b] >= last[a]:
                break
            _note(a, b, degree, meets, fill)
    for a in range(order.size):
        if wrap[a] == 0:
            continue
        for b in range(order.size):
            if b == a or (wrap[b] > 0 and b > a):
                continue
            direct = first[a] < last[b] and first[b] < last[a]
            around = first[b] < wrap[a] or (wrap[b] > 0)
            if around and not direct:
                _note(a, b, degree, meets, fill)


@kernel_part
@typing.no_type_check
def _note(a, b, degree, meets, fill):
    if meets.size == 0:
        degree[a] += 1
        degree[b] += 1
    else:
        meets[fill[a]] = b
        meets[fill[b]] = a
        fill[a] += 1
        fill[b] += 1
