"""Transport entropy from two-point functions: exact when free, certified when interacting.

Tests the abstract's claims (arXiv 2508.02378; its figures were not read): entropy from charge
statistics with several subsystems, what interactions on the contact and in the leads change,
quenching the leads' couplings, and mutual information as a witness of an environment.

    python -m experiments run vne --preset paper

takes about twenty minutes on two cores and needs the extras ``models``, ``transport`` and
``bench``; rows of NetKet, quimb or QuTiP are not run where these are missing.
"""

import contextlib
import dataclasses
import importlib.util

import numpy as np

from experiments.claims.vne import ASSUMPTIONS, CLAIMS, NOTES, REASONS
from experiments.harness import Missing, Result, Steps
from experiments.workloads import (
    transport_design,
    transport_environment,
    transport_exact,
    transport_extremes,
    transport_free,
    transport_mps,
    transport_shots,
    transport_speed,
)
from experiments.workloads.transport_programs import compiled_quickly
from experiments.workloads.transport_speed import Sizes
from experiments.workloads.transport_tables import local_exponents, tables
from experiments.workloads.transport_values import values

__all__ = ["ASSUMPTIONS", "CLAIMS", "PRESETS", "REASONS", "Config", "run"]


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      terminals: leads of the stars whose charge is counted.
      block: sites of the block of the infinite chain.
      wall: sites of each half of the domain wall.
      contacts: tunneling amplitudes of it.
      window: times between which it grows steadily.
      bias: chemical potentials of a finite bias, and the times there; None to leave it out.
      openings: lead lengths of the opened contact.
      opening_window: times between which its entropy is fitted.
      star: lead length of the star, and the time at which it is read.
      environments: couplings to the environment.
      inferred: couplings to find from A and B alone.
      shots: for the inference.
      level: lead length of the resonant level, and its temperatures.
      warm: least temperature at which its mutual information is judged.
      exact_lead: sites of each lead of the interacting contact.
      sweep: interaction strengths; the exponent uses those up to 0.2.
      vanishing: strengths below those, on the contact alone, for the limit of the exponent.
      dots: interacting dots, which are swept as well.
      quenched: interaction strengths in the leads, quenched off, on or left.
      quench_times: at which the gap is swept, before reflections return.
      grown: times of the dots, and of the exponent once the gap has grown.
      weakened: strengths in the leads, quenched off, whose gap is read until reflections return.
      weak_leads: sites of each lead there.
      long_leads: sites of each lead of longer interacting contacts, solved exactly.
      longest_leads: the same, for the strongest interaction alone, quenched off or left.
      chain: lead length, interaction and singular values of the matrix-product reference; None to
        leave it out.
      chain_times: of it.
      netket: whether Hamiltonians are built by NetKet's operators too.
      brackets: random instances of the certificate.
      reached: thermal ones for which states with the same data are searched.
      counted: shots of each estimator.
      paired: shots in each setting of the two-point functions.
      repeats: repetitions of the counting.
      design: lead length, pieces of the drive and steps of the optimizer; None to leave it out.
      noisy: noise paths and their intervals.
      speed: sizes, or None to leave timings out.
      seed: of everything random.
    """

    terminals: tuple[int, ...] = (2, 3, 4)
    block: int = 100
    wall: int = 400
    contacts: tuple[float, ...] = (0.8, 0.5, 0.25)
    window: tuple[float, float] = (120.0, 160.0)
    bias: tuple[tuple[float, float], tuple[float, float]] | None = ((-0.5, 0.5), (80.0, 160.0))
    openings: tuple[int, ...] = (200, 400, 800, 1600)
    opening_window: tuple[float, float] = (10.0, 40.0)
    star: tuple[int, float] = (60, 20.0)
    environments: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    inferred: tuple[float, ...] = (0.1, 0.3, 0.5)
    shots: int = 200_000
    level: tuple[int, tuple[float, ...]] = (150, (0.05, 0.2, 1.0, 3.0))
    warm: float = 1.0
    exact_lead: int = 6
    sweep: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6)
    vanishing: tuple[float, ...] = (1 / 640, 1 / 320, 1 / 80, 1 / 40)
    dots: tuple[str, ...] = ("resonant", "spinful")
    quenched: tuple[float, ...] = (0.5, 1.0)
    quench_times: tuple[float, ...] = (0.5, 1.0, 2.0, 3.0, 4.0)
    grown: tuple[float, ...] = (1.0, 2.0, 4.0)
    weakened: tuple[float, ...] = (0.05, 0.1, 0.2, 0.5, 1.0)
    weak_leads: tuple[int, ...] = (6, 8)
    long_leads: tuple[int, ...] = (8,)
    longest_leads: tuple[int, ...] = (10,)
    chain: tuple[int, float, int] | None = (20, 0.5, 64)
    chain_times: tuple[float, ...] = (1.0, 2.0, 3.0)
    netket: bool = True
    brackets: int = 1200
    reached: int = 12
    counted: tuple[int, ...] = (100, 1000, 10_000)
    paired: tuple[int, ...] = (300, 3000)
    repeats: int = 1000
    design: tuple[int, int, int] | None = (6, 8, 400)
    noisy: tuple[int, int] = (60, 12)
    speed: Sizes | None = dataclasses.field(default_factory=Sizes)
    seed: int = 0

    def __post_init__(self) -> None:
        if not any(u <= 0.2 for u in self.sweep[1:]) or sorted(self.sweep) != list(self.sweep):
            raise ValueError(f"sweep={self.sweep} must ascend, with two strengths up to 0.2.")
        if self.window[1] > 0.9 * self.wall:
            raise ValueError(f"window={self.window}: reflections return after {0.9 * self.wall}.")


PRESETS = {
    "smoke": Config(
        terminals=(3,),
        wall=40,
        contacts=(0.5,),
        window=(12.0, 16.0),
        bias=None,
        openings=(80,),
        opening_window=(5.0, 20.0),
        star=(15, 5.0),
        environments=(0.0, 0.2, 0.4),
        inferred=(),
        level=(20, (1.0,)),
        exact_lead=6,  # in shorter leads one particle or one hole has nothing to meet
        sweep=(0.1, 0.2),
        vanishing=(),
        dots=(),
        quenched=(1.0,),
        quench_times=(0.5, 1.0),
        grown=(1.0,),
        weakened=(),
        long_leads=(),
        longest_leads=(),
        chain=None,
        netket=False,
        brackets=0,
        reached=0,
        counted=(1000,),
        paired=(),
        repeats=10,
        design=None,
        noisy=(4, 4),
        speed=None,
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
    with compiled_quickly() if config.speed is None else contextlib.nullcontext():
        found = _measured(config, steps)
    measured = values(found)
    return Result(
        {claim.id: measured.get(claim.id, Missing(_why_not(claim.id))) for claim in CLAIMS},
        tables(found),
        notes=NOTES,
        facts=found,
    )


def _measured(config: Config, steps: Steps) -> dict:
    found = {
        **_free(config, steps),
        **_boundary(config, steps),
        **_bulk(config, steps),
        "brackets": steps.do(
            "random brackets", transport_exact.random_brackets, config.brackets, config.seed
        ),
        "reached": steps.do(
            "states with the same data",
            transport_extremes.reached_widths,
            config.reached,
            config.seed,
        ),
    }
    if config.netket and importlib.util.find_spec("netket") is not None:
        found["netket"] = steps.do(
            "Hamiltonians of NetKet",
            transport_exact.beside_netket,
            config.exact_lead,
            config.quenched[-1],
            config.dots,
            config.seed,
        )
    if config.chain is not None and importlib.util.find_spec("quimb") is not None:
        found |= _chain(*config.chain, config.chain_times, steps)
    return found | _speed(config.speed, steps)


_PACKAGES = {
    "hamiltonian-netket": "netket",
    "bulk-quench-long": "quimb",
    "matrix-products": "quimb",
    "quimb-ratio": "quimb",
    "qutip-ratio": "qutip",
}
"""What some claims need, of the extras ``transport`` and ``bench``."""


def _why_not(claim: str) -> str:
    package = _PACKAGES.get(claim)
    if package and importlib.util.find_spec(package) is None:
        return f"not installed: {package}"
    return "left out at this preset"


def _free(config: Config, steps: Steps) -> dict:
    found = {
        "estimators": steps.do("estimators", transport_free.estimators, config.terminals),
        "series": steps.do("cumulant series", transport_free.cumulant_series, config.block),
        "rates": steps.do(
            "rates",
            transport_free.contact_rates,
            config.wall,
            config.contacts,
            (-2.0, 2.0),
            config.window,
        ),
        "cone": steps.do("light cone", transport_free.light_cone, min(config.wall, 60), 0.5, 30),
        "opening": steps.do(
            "opening", transport_free.opening_law, config.openings, config.opening_window
        ),
        "environment": steps.do(
            "environment",
            transport_environment.environment,
            config.star[0],
            config.environments,
            config.star[1],
        ),
        "inferred": steps.do(
            "inference",
            transport_environment.inferred_couplings,
            config.star[0],
            config.inferred,
            config.star[1],
            config.shots,
            config.seed,
        ),
        "warm": config.warm,
        "level": steps.do(
            "resonant level",
            transport_free.current_and_information,
            config.level[0],
            tuple(np.linspace(0.1, 1.5, 8).tolist()),
            config.level[1],
        ),
        "shots": steps.do(
            "finite shots",
            transport_shots.finite_shots,
            config.counted,
            config.repeats,
            config.seed,
        ),
        "biased": [],
        "pairs": [],
    }
    if config.bias is not None:
        found["biased"] = steps.do(
            "rates at a finite bias",
            transport_free.contact_rates,
            config.wall,
            config.contacts,
            *config.bias,
        )
    if config.paired:
        found["pairs"] = steps.do(
            "shots of pairs", transport_shots.pair_shots, config.paired, config.repeats, config.seed
        )
    if config.design is not None:
        found["design"] = steps.do(
            "inverse design", transport_design.inverse_design, *config.design
        )
        found["drawn"] = steps.do("drawn curves", transport_design.drawn_curves, *config.design)
    return found


def _boundary(config: Config, steps: Steps) -> dict:
    lead, times = config.exact_lead, config.quench_times
    sweep = steps.do(
        "interaction sweep", transport_exact.interaction_sweep, lead, config.sweep, times
    )
    vanishing = steps.do(
        "vanishing interaction",
        transport_exact.interaction_sweep,
        lead,
        config.vanishing,
        times,
        ("contact",),
    )["contact"]
    return {
        "grown": config.grown,
        "sweep": sweep,
        "vanishing": vanishing,
        "powers": local_exponents(vanishing + sweep["contact"]),
        "noise": steps.do(
            "noisy contact", transport_exact.noisy_contact, *config.noisy, config.seed
        ),
        "dots": steps.do(
            "dots", transport_exact.dot_sweep, config.dots, config.sweep, config.grown
        ),
    }


def _bulk(config: Config, steps: Steps) -> dict:
    """Leads of the usual size, weaker interactions, then longer leads."""
    lead = config.exact_lead
    return {
        "lead": lead,
        "quenches": steps.do(
            "quenches of the leads",
            transport_exact.quenches,
            lead,
            config.quenched,
            before_reflections(lead),
        ),
        "weakened": [
            {"lead": some, **row}
            for some in config.weak_leads
            for row in steps.do(
                f"weak interactions, leads of {some}",
                transport_exact.quenches,
                some,
                config.weakened,
                before_reflections(some),
                ("off",),
            )
        ],
        "long": {
            str(some): steps.do(
                f"leads of {some}",
                transport_exact.quenches,
                some,
                strengths,
                before_reflections(some),
                kinds,
            )
            for leads, strengths, kinds in (
                (config.long_leads, config.quenched, ("off", "none", "on")),
                (config.longest_leads, config.quenched[-1:], ("off", "none")),
            )
            for some in leads
        },
    }


def before_reflections(lead: int) -> tuple[float, ...]:
    """Times until 0.9 times a lead's length, when reflections return to the contact."""
    last = 0.9 * lead
    return (*(t for t in (0.5, 1.0, *np.arange(2.0, last, 2)) if t < last), last)


def _chain(lead: int, strength: float, bond: int, times: tuple[float, ...], steps: Steps) -> dict:
    """Matrix products: leads beyond exact states."""
    return {
        "chain lead": lead,
        "chain": steps.do(
            "matrix products",
            transport_mps.long_quenches,
            *(lead, strength, bond, times),
            ("off", "none"),
        ),
        "coarse": steps.do(
            "fewer singular values",
            transport_mps.long_quenches,
            *(lead, strength, bond // 2, times),
            ("off",),
        ),
        "quimb": steps.do("quimb", transport_mps.beside_quimb, lead, bond, times),
    }


def _speed(sizes: Sizes | None, steps: Steps) -> dict:
    found = {"compilations": steps.do("compilations", transport_speed.compilations, 20, 50)}
    if sizes is not None:
        found["library"] = steps.do("library calls", transport_speed.beside_library_calls, sizes)
        found["memory"] = steps.do("memory", transport_speed.memory, sizes)
        found["batch"] = steps.do("full batch", transport_speed.full_batch, sizes)
        found["qutip"] = steps.do("QuTiP", transport_speed.beside_qutip, 10, 20)
    return found
