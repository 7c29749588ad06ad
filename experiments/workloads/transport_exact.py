"""Interacting measurements against exact states: gaps, quenches, certificates, classical noise."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator

import jax
import numpy as np

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import (
    Interacting,
    certificate,
    entropy,
    evolve_noisy,
    subsystems,
    telegraph_noise,
)


@functools.cache
def contact_model(lead: int, kind: str, strength: float) -> Interacting:
    """Two chains with J' = 0.5; interaction on the ``contact``, ``all`` bonds or in the ``leads``.

    ``closed`` is ``leads`` before the contact opens.
    """
    sites = 2 * lead
    hops, bonds = np.ones(sites - 1), np.full(sites - 1, strength)
    hops[lead - 1] = 0.0 if kind == "closed" else 0.5
    if kind == "contact":
        bonds = np.where(np.arange(sites - 1) == lead - 1, strength, 0.0)
    elif kind in ("leads", "closed"):
        bonds[lead - 1] = 0
    h, interaction = -np.diag(hops, 1), np.diag(bonds, 1)
    return Interacting(h + h.T, interaction + interaction.T, lead)


def dot_matrices(kind: str, strength: float) -> tuple[np.ndarray, ...]:
    """A dot between two leads: ``h`` closed and open, interaction, mask of the left part and dot.

    ``resonant``: 5 + 1 + 5 sites, the dot's charge repels that of both neighbors. ``spinful``:
    2 + 1 + 2 sites for each spin, and the dot's two charges repel each other.
    """
    lead, spins = (5, 1) if kind == "resonant" else (2, 2)
    sites = 2 * lead + 1
    hops = np.ones(sites - 1)
    apart = hops.copy()
    hops[lead - 1 : lead + 1], apart[lead - 1 : lead + 1] = 0.5, 0.0
    interaction = np.zeros((spins * sites,) * 2)
    pairs = [(lead, lead - 1), (lead, lead + 1)] if spins == 1 else [(lead, lead + sites)]
    for pair in pairs:
        interaction[pair] = interaction[pair[::-1]] = strength
    shift = -np.diag(interaction.sum(1)) / 2  # U (n - 1/2) (n - 1/2)
    closed, opened = (
        np.kron(np.eye(spins), -np.diag(bonds, 1) - np.diag(bonds, -1)) for bonds in (apart, hops)
    )
    return closed, opened + shift, interaction, np.tile(np.arange(sites) <= lead, spins)


@in_double
def dot_sweep(kinds: tuple[str, ...], strengths: tuple[float, ...], times: tuple[float, ...]):
    """Gap S_G - S against U for interactions on a dot."""
    found = {}
    for kind in kinds:
        groups, charges = (5, 1, 5), (4, 0, 2)
        if kind == "spinful":
            groups, charges = (2, 1, 2) * 2, (2, 1, 0, 1, 0, 1)
        closed, _, interaction, left = dot_matrices(kind, 0.0)
        particles = sum(charges)
        start = Interacting(closed, interaction, particles).ground_state(
            subsystems(*groups), charges
        )
        found[kind] = []
        for u in strengths:
            _, opened, interaction, _ = dot_matrices(kind, u)
            model = Interacting(opened, interaction, particles)
            found[kind] += [{"strength": u, **row} for row in _gaps(model, start, times, left)]
    return found


@in_double
def beside_netket(lead: int, strength: float, dots: tuple[str, ...], seed: int) -> dict[str, float]:
    """Largest difference between Hamiltonians of numpy and of NetKet's operators, by model."""
    models = {
        kind: contact_model(lead, kind, strength) for kind in ("contact", "all", "leads", "closed")
    }
    for kind in dots:
        _, opened, interaction, left = dot_matrices(kind, strength)
        models[kind] = Interacting(opened, interaction, int(left.sum()))
    rng = np.random.default_rng(seed)
    h, pairs = rng.normal(size=(9, 9)) + 1j * rng.normal(size=(9, 9)), rng.normal(size=(9, 9))
    models["random"] = Interacting(h + h.conj().T, pairs + pairs.T, 4)
    return {
        kind: float(
            abs(
                model.hamiltonian
                - Interacting(model.h, model.interaction, model.particles, "netket").hamiltonian
            ).max()
        )
        for kind, model in models.items()
    }


def _start(lead: int, strength: float) -> np.ndarray:
    left = np.arange(2 * lead) < lead
    # Four of six: unequal leads, so that particles flow.
    charges = (lead - lead // 3, lead // 3)
    return contact_model(lead, "closed", strength).ground_state(np.stack([left, ~left]), charges)


def _gaps(
    model: Interacting, start: np.ndarray, times: tuple[float, ...], left: np.ndarray | None = None
) -> list[dict]:
    if left is None:
        left = np.arange(model.sites) < model.sites // 2
    rows = []
    for time, state in zip(times, model.evolve(start, np.array(times)), strict=True):
        corr = model.correlation(state)
        exact, gaussian = model.entropy(state, left), float(entropy(corr, left))
        low, high = map(float, certificate(corr, left))
        rows.append(
            {
                "time": time,
                "exact": exact,
                "gaussian": gaussian,
                "gap": gaussian - exact,
                "gap / S": (gaussian - exact) / exact if exact > 0 else 0.0,
                "surplus": float(entropy(corr)),
                "low": low,
                "high": high,
            }
        )
    return rows


@in_double
def interaction_sweep(
    lead: int,
    strengths: tuple[float, ...],
    times: tuple[float, ...],
    kinds: tuple[str, ...] = ("contact", "all"),
) -> dict:
    """Gap S_G - S against U for interactions on the contact and on all bonds."""
    start = _start(lead, 0.0)
    return {
        kind: [
            {"strength": u, **row}
            for u in strengths
            for row in _gaps(contact_model(lead, kind, u), start, times)
        ]
        for kind in kinds
    }


@in_double
def quenches(
    lead: int,
    strengths: tuple[float, ...],
    times: tuple[float, ...],
    kinds: tuple[str, ...] = ("off", "none", "on"),
) -> list[dict]:
    """Gap while the couplings in the leads are switched off, on, or left."""
    rows = []
    for strength, kind in itertools.product(strengths, kinds):
        model = contact_model(lead, "leads", 0.0 if kind == "off" else strength)
        start = _start(lead, 0.0 if kind == "on" else strength)
        rows += [
            {"strength": strength, "quench": kind, **row} for row in _gaps(model, start, times)
        ]
    return rows


@dataclasses.dataclass(frozen=True)
class Quench:
    """What a random quench leaves to the certificate, and the truth.

    Attributes:
      corr: two-point functions after it.
      region: mask.
      start: entropy of all sites.
      exact: entropy of the region.
      thermal: whether it started from a canonical ensemble.
      basis: occupations of the states that the ensemble is over.
      ensemble: the true state, rows with the roots of their weights as norms.
    """

    corr: np.ndarray
    region: np.ndarray
    start: float
    exact: float
    thermal: bool
    basis: np.ndarray
    ensemble: np.ndarray


def random_quenches(
    count: int, seed: int, sizes: tuple[tuple[int, int], ...] = ((6, 3), (5, 2), (6, 2))
) -> Iterator[Quench]:
    """Random h, U, start (pure or thermal), time and region.

    Particles interact before the quench, after it, or both.
    """
    rng = np.random.default_rng(seed)
    for number in range(count):
        sites, particles = sizes[number % len(sizes)]
        thermal = bool(rng.random() < 0.5)
        cut = int(rng.integers(1, sites))
        h = rng.normal(size=(sites, sites)) + 1j * rng.normal(size=(sites, sites))
        if rng.random() < 0.5:  # a chain instead of hopping between all sites
            h = np.triu(np.tril(h, 1), -1)
        h = (h + h.conj().T) / 2
        strength = float(rng.choice([0.05, 0.2, 0.5, 1.0, 3.0]))
        interaction = np.triu(strength * rng.normal(size=(sites, sites)), 1)
        interaction += interaction.T
        apart = np.ones((sites, sites))
        apart[:cut, cut:] = apart[cut:, :cut] = 0
        prepared, moved = ((1, 0), (0, 1), (1, 1))[rng.integers(3)]
        before = Interacting(h * apart, interaction * apart * prepared, particles)
        after = Interacting(h, interaction * moved, particles)
        state, mixed = _random_start(before, cut, thermal, rng)
        (state,) = after.evolve(state, rng.uniform(0.2, 4, size=1))
        region = np.zeros(sites, bool)
        region[rng.permutation(sites)[: rng.integers(1, sites)]] = True
        exact = after.entropy(state, region)
        corr, ensemble = after.correlation(state), np.atleast_2d(state)
        yield Quench(corr, region, mixed, exact, thermal, after.basis, ensemble)


@in_double
def random_brackets(count: int, seed: int) -> list[dict]:
    """Certificates of random quenches, without and with the number of particles as definite."""
    rows = []
    for one in random_quenches(count, seed):
        low, high = map(float, certificate(one.corr, one.region, one.start))
        known = certificate(one.corr, one.region, one.start, definite_number=True)
        rows.append(
            {
                "thermal": one.thermal,
                "exact": one.exact,
                "low": low,
                "high": high,
                "number low": float(known[0]),
                "number high": float(known[1]),
                "gaussian": float(entropy(one.corr, one.region)),
                "surplus": float(entropy(one.corr)) - one.start,
            }
        )
    return rows


def _random_start(
    model: Interacting, cut: int, thermal: bool, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """A state of uncoupled halves, and its entropy."""
    if thermal:
        ensemble = model.thermal_state(float(rng.uniform(0.1, 3)))
        weights = (np.abs(ensemble) ** 2).sum(1)
        weights = weights[weights > 0]
        return ensemble, float(-(weights * np.log(weights)).sum())
    left = np.arange(model.sites) < cut
    least = max(0, model.particles - (model.sites - cut))
    inside = int(rng.integers(least, min(cut, model.particles) + 1))
    charges = (inside, model.particles - inside)
    return model.ground_state(np.stack([left, ~left]), charges), 0.0


@in_double
def noisy_contact(paths: int, steps: int, seed: int) -> list[dict]:
    """Entropy of a state averaged over telegraph noise, exact and bracketed, at the end."""
    interval, lead = 0.25, 3
    clean = contact_model(lead, "contact", 0.0)
    moved = np.zeros((6, 6))
    moved[2, 3] = moved[3, 2] = 1
    noise = np.asarray(
        telegraph_noise(jax.random.key(seed), paths, steps, interval, rate=0.5, amplitude=0.3)
    )
    start = _start(lead, 0.0)
    shaken = {
        sign: Interacting(clean.h + sign * 0.3 * moved, np.zeros((6, 6)), lead)
        for sign in (-1.0, 1.0)
    }
    members = []
    for path in noise:
        state = start
        for value in path:
            (state,) = shaken[float(np.sign(value))].evolve(state, np.array([interval]))
        members.append(state)
    ensemble = np.array(members) / np.sqrt(paths)
    left = np.arange(6) < 3

    @jax.jit
    def averaged(noise):
        return evolve_noisy(
            *(clean.h, moved, clean.correlation(start), noise, interval),
            measure=lambda c: entropy(c, left),
        )

    corrs, means = averaged(noise)
    return [
        {
            "paths": paths,
            "low": float(means[-1]),
            "exact": clean.entropy(ensemble, left),
            "high": float(entropy(corrs[-1], left)),
            "corr_error": float(np.abs(clean.correlation(ensemble) - np.asarray(corrs[-1])).max()),
        }
    ]
