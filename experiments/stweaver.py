"""Planned memory of training: how much online allocators waste, how tight plans are, at what cost.

Training jobs become traces of memory requests by their shapes alone. What do PyTorch's allocators
and GMLake reserve for them, and what does a plan with its runtime? How far are plans from the
bound, on published hard instances too? Then JAX programs: the order of their equations, their
execution in one arena, and what XLA says of its temporaries.

    python -m experiments run stweaver --preset paper

takes about half an hour on two cores; the comparison with a peer needs omnimalloc (extra
``bench``).
"""

import dataclasses

from experiments.claims.stweaver import ASSUMPTIONS, CLAIMS, REASONS
from experiments.harness import Result, Steps, Value
from experiments.workloads import (
    stweaver_packing,
    stweaver_programs,
    stweaver_runtime,
    stweaver_tables,
    stweaver_training,
    stweaver_values,
)
from experiments.workloads.stweaver_packing import Cut, Published
from experiments.workloads.stweaver_tables import lost
from experiments.workloads.stweaver_training import Training
from experiments.workloads.training_steps import MODELS as PROGRAMS
from jaxlab.stweaver import SCHEDULES, Parallelism

__all__ = ["ASSUMPTIONS", "CLAIMS", "PRESETS", "REASONS", "Config", "run"]

GPT2 = Training("GPT-2-345M", Parallelism(pipeline=4, data=2, microbatch=8, microbatches=8))
LLAMA = Training("Llama-2-7B", Parallelism(tensor=2, pipeline=2, data=2, microbatches=8))
QWEN = Training("Qwen1.5-MoE-A2.7B", Parallelism(pipeline=2, data=4, expert=4, microbatches=4))

TABLE_2 = (
    Published(GPT2, "N", 12_785, 24.36),
    Published(GPT2, "R", 16_569, 21.93),
    Published(LLAMA, "N", 66_529, 104.96),
    Published(LLAMA, "R", 86_721, 136.34),
    Published(QWEN, "N", 196_759, 374.18),
    Published(QWEN, "R", 281_669, 145.40),
)

KNOWN = tuple(
    Cut(requests, duration, pinwheels, seed)
    for seed in range(9)
    for requests in (500, 1000, 1500, 2000)
    for duration in (1 << 20, 1 << 12, 1 << 8)
    for pinwheels in (0.0, 0.5)
)


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      dense: jobs without experts; the last one is swept over microbatches and interrupted.
      mixture: a job with experts.
      schedules: letters of the schedules of both.
      seeds: other routings that a plan of seed 0 must serve.
      microbatches: of the sweep.
      capacity: bytes of the device on which the largest microbatch is sought.
      largest: schedules under which it is.
      limit: largest microbatch tried.
      published: rows of the paper's table of planning times.
      minimalloc: names of instances.
      exact_seconds: limit of our planner for each.
      peer_seconds: limit of supermalloc for each.
      iterations: of a job that are replayed; the plan knows the first two.
      known: instances of known optimum.
      known_seconds: limit for each.
      patient: instances of known optimum, one of each kind, that get more time.
      patient_seconds: limit for each.
      rounds: repetitions of the timing of one request.
      trials: inserted and deleted requests.
      dynamic: dynamic requests that are replayed.
      programs: JAX models.
      batches: their batch sizes.
      execute: also run the programs, equation by equation and in the arena.
      moves: of the search of an order.
      plan_seconds: limit for a plan of a JAX program.
      remat: also with every block recomputed.
      seed: of everything random.
    """

    dense: tuple[Training, ...] = (GPT2, LLAMA)
    mixture: Training = QWEN
    schedules: tuple[str, ...] = SCHEDULES
    seeds: int = 10
    microbatches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    capacity: int = 80 << 30
    largest: tuple[str, ...] = ("N", "R", "VR")
    limit: int = 1024
    published: tuple[Published, ...] = TABLE_2
    minimalloc: tuple[str, ...] = tuple("ABCDEFGHIJK")
    exact_seconds: float = 10.0
    peer_seconds: float = 20.0
    iterations: int = 10
    known: tuple[Cut, ...] = KNOWN
    known_seconds: float = 2.0
    patient: tuple[Cut, ...] = tuple(cut for cut in KNOWN if cut.seed == 0)
    patient_seconds: float = 60.0
    rounds: int = 9
    trials: int = 20
    dynamic: int = 1_000_000
    programs: tuple[str, ...] = PROGRAMS
    batches: tuple[int, ...] = (4, 64)
    execute: bool = True
    moves: int = 20_000
    plan_seconds: float = 5.0
    remat: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("seeds", "rounds", "trials", "dynamic", "moves", "limit", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1.")
        for name in ("dense", "schedules", "microbatches", "largest", "programs", "batches"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: name at least one.")
        if not {"N", "R"} <= set(self.schedules):
            raise ValueError(f"schedules={self.schedules} must hold both 'N' and 'R'.")
        unknown = set(self.programs) - set(PROGRAMS)
        if unknown:
            raise ValueError(f"programs: {sorted(unknown)} are unknown; choose from {PROGRAMS}.")


def _small(training: Training) -> Training:
    return dataclasses.replace(training, layers=4)


PRESETS = {
    "smoke": Config(
        dense=(_small(LLAMA),),
        mixture=_small(QWEN),
        schedules=("N", "R"),
        seeds=2,
        microbatches=(1, 4),
        largest=("R",),
        limit=8,
        published=(),
        minimalloc=("A",),
        peer_seconds=1.0,
        iterations=3,
        known=KNOWN[:2],
        known_seconds=1.0,
        patient=(),
        rounds=3,
        trials=4,
        dynamic=5_000,
        programs=("mixture",),
        batches=(2,),
        execute=False,
        moves=2_000,
        plan_seconds=1.0,
        remat=False,
    ),
    "paper": Config(),
}


def run(config: Config, steps: Steps = Steps()) -> Result:
    """Measures every claim.

    Args:
      config: what to measure.
      steps: progress and resumption.

    Returns:
      The result.
    """
    training, packing = stweaver_training, stweaver_packing
    runtime, programs = stweaver_runtime, stweaver_programs
    last = config.dense[-1]
    dense = [
        steps.do(
            f"{job.model} under {letters}", training.efficiency, job, letters, config.iterations
        )
        for job in config.dense
        for letters in config.schedules
    ]
    mixture = [
        steps.do(
            f"routings of {config.mixture.model} under {letters}",
            training.other_seeds,
            config.mixture,
            letters,
            config.seeds,
            config.iterations,
        )
        for letters in config.schedules
    ]
    sweep = [
        (
            size,
            steps.do(
                f"microbatch {size}",
                training.efficiency,
                last,
                "R",
                config.iterations,
                microbatch=size,
            ),
        )
        for size in config.microbatches
    ]
    jobs = [(job, letters) for job in config.dense for letters in config.largest]
    largest = [
        {
            "case": f"{job.model}, {letters}",
            **steps.do(
                f"largest microbatch of {job.model} under {letters}",
                training.largest,
                job,
                letters,
                config.capacity,
                config.limit,
            ),
        }
        for job, letters in jobs
    ]
    full = [
        {
            "microbatch": row["caching"],
            **steps.do(
                f"full device, {row['case']}",
                training.efficiency,
                job,
                letters,
                config.iterations,
                microbatch=row["caching"],
            ),
        }
        for (job, letters), row in zip(jobs, largest, strict=True)
        if row["caching"]
    ]
    times = [
        {
            "paper": row.seconds,
            **steps.do(
                f"plan {row.requests} requests",
                packing.in_fresh_process,
                row.training,
                row.schedule,
                row.requests,
            ),
        }
        for row in config.published
    ]
    hard = [
        steps.do(f"MiniMalloc {name}", packing.minimalloc, name, config.exact_seconds, config.seed)
        for name in config.minimalloc
    ]
    peer = {
        name: steps.do(f"supermalloc {name}", packing.supermalloc, name, config.peer_seconds)
        for name in config.minimalloc
        if packing.peer_here()
    }
    known = [
        steps.do(f"known optimum {cut}", packing.known_optimum, cut, config.known_seconds, 0)
        for cut in config.known
    ]
    patient = (
        steps.do(
            "known optimum, one of each kind", packing.patiently, config.patient,
            config.patient_seconds,
        )
        if config.patient
        else []
    )  # fmt: skip
    price = steps.do("price of a request", runtime.price, last, "R", config.rounds)
    surprises = steps.do("surprises", runtime.surprises, last, "R", config.trials, config.seed)
    dynamic = steps.do(
        "dynamic requests", runtime.dynamic_overlaps, config.mixture, "R", config.dynamic
    )
    orders = [
        steps.do(
            f"order of {model}, batch {batch}",
            programs.order,
            model,
            batch,
            config.moves,
            config.execute,
            config.seed,
        )
        for model in config.programs
        for batch in config.batches
    ]
    kinds = [(model, remat) for model in config.programs for remat in (False, True)]
    kinds = [kind for kind in kinds if config.remat or not kind[1]]
    batch = config.batches[0]
    jaxprs = [
        steps.do(
            f"jaxpr of {model}{' with remat' if remat else ''}",
            programs.jaxpr_plan,
            model,
            batch,
            remat,
            config.plan_seconds,
            config.seed,
        )
        for model, remat in kinds
    ]
    compiled = [
        steps.do(
            f"temporaries of {model}{' with remat' if remat else ''}",
            programs.xla_temporaries,
            model,
            batch,
            remat,
        )
        for model, remat in kinds
    ]
    small = dataclasses.replace(config.dense[0], layers=4)
    return Result(
        {
            **stweaver_values.training_values(dense, mixture, sweep, largest, full),
            **stweaver_values.packing_values(times, hard, peer, known, patient),
            "runtime-price": Value(price["runtime_ns"] / price["caching_ns"], "timed"),
            "resynchronizes": Value(min(row["resynchronized"] for row in surprises)),
            "dynamic-never-overlaps": Value(
                not dynamic["collision"]
                and dynamic["dynamic"] >= config.dynamic
                and dynamic["counters"]["planned"] >= 0.9 * dynamic["static"]
            ),
            **stweaver_values.program_values(orders, jaxprs, compiled),
        },
        (
            *stweaver_tables.training_tables(dense, mixture, sweep, largest, full),
            *stweaver_tables.packing_tables(times, hard, peer, known, patient),
            *stweaver_tables.program_tables(orders, jaxprs, compiled),
            stweaver_tables.surprise_table(surprises),
            stweaver_tables.shortfalls(dense, mixture, times, hard, peer, known, jaxprs, compiled),
        ),
        notes=_notes(known, price, dynamic, mixture),
        facts={
            "efficiency": dense,
            "curves": steps.do("curves", training.curves, last, "R"),
            "occupancy": steps.do("occupancy", training.occupancy, small, "R"),
            "known": known,
            "patient": patient,
            "price": price,
            "dynamic": dynamic,
        },
    )


def _notes(known: list, price: dict, dynamic: dict, mixture: list) -> tuple[str, ...]:
    runs = [one for row in mixture for one in row["runs"]]
    gains = {
        name: (lost(runs, "caching") - lost(runs, name)) / len(runs) / 2**30
        for name in ("static", "stweaver")
    }
    return (
        f"{len(known)} instances of known optimum, {sum(row['solved'] for row in known)} solved.",
        "Mixture of experts, GiB a run that the caching allocator fragments more than the static "
        f"plan: {gains['static']:.3f}; than plan and reuse: {gains['stweaver']:.3f}. A share of "
        "the gain is a number only where there is one.",
        f"A planned request costs {price['runtime_ns']:.0f} ns, one of the caching simulator "
        f"{price['caching_ns']:.0f} ns; preparing a replay included.",
        f"{dynamic['dynamic']} dynamic requests: {dynamic['counters']['reused']} in idle ranges; "
        f"{dynamic['counters']['planned']} of {dynamic['static']} static ones where planned; "
        f"{dynamic['counters']['fallback']} requests of all kinds in the fallback."
        + (f" {dynamic['collision']}" if dynamic["collision"] else ""),
    )
