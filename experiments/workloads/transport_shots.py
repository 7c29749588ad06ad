"""Finite shots: error, coverage and need of shots of each estimator."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import (
    block_diag,
    charge_distribution,
    entropy,
    entropy_from_modes,
    entropy_from_pairs,
    evolve_eig,
    ground_corr,
    hopping_chain,
    jackknife,
    pair_settings,
    qpc,
    roots_estimator,
    sample_occupations,
    thermal_corr,
)

IN_MODES = "modes, if known"
"""The estimator that counts in the region's own modes, which takes knowledge of the state."""

PURE = "ground states"


def _one_term(p: np.ndarray) -> float:
    charges = np.arange(p.size)
    return np.pi**2 / 3 * (p @ charges**2 - (p @ charges) ** 2)


def _two_terms(p: np.ndarray) -> float:
    centered = np.arange(p.size) - p @ np.arange(p.size)
    second = p @ centered**2
    return np.pi**2 / 3 * second + np.pi**4 / 45 * (p @ centered**4 - 3 * second**2)


@functools.partial(jax.jit, static_argnums=2)
def _batch(keys: jax.Array, corr: jax.Array, shots: int) -> tuple[jax.Array, jax.Array]:
    def run(key):
        seen = sample_occupations(key, corr, shots)
        return seen.sum(0), jnp.bincount(seen.sum(1), length=len(corr) + 1)

    return jax.vmap(run)(keys)


def _sums(key: jax.Array, corr: jax.Array, repeats: int, shots: int) -> tuple[np.ndarray, ...]:
    """Slater samples of repeated runs: how often each site and each charge was seen."""
    runs = min(repeats, max(1, 100_000 // shots))
    keys = jax.random.split(key, -(-repeats // runs) * runs).reshape(-1, runs)
    parts = [_batch(some, corr, shots) for some in keys]
    return tuple(np.concatenate([np.asarray(part[n]) for part in parts])[:repeats] for n in (0, 1))


@in_double
def finite_shots(shots: tuple[int, ...], repeats: int, seed: int) -> dict:
    """Error, coverage and need of shots of each estimator, counting the twelve-site contact.

    Every shot is a Slater sample of the left lead: of its sites, of which only the number of
    particles is kept, or after a rotation into its own modes.
    """

    @jax.jit
    def contact():
        halves = [ground_corr(hopping_chain(6), n) for n in (4, 2)]
        corr = evolve_eig(qpc(6, 6, contact=0.5), block_diag(*halves), np.array([2.0]))[0]
        part = corr[:6, :6]
        _, modes = jnp.linalg.eigh(part)
        rotated = modes.conj().T @ part @ modes
        return part, rotated, charge_distribution(part), entropy(part)

    part, rotated, chances, exact = contact()
    chances, exact = np.asarray(chances), float(exact)
    statistics = {
        "first cumulant": _one_term,
        "two cumulants": _two_terms,
        "zeros": roots_estimator,
    }
    targets = {IN_MODES: exact, "zeros": exact}
    targets |= {"first cumulant": _one_term(chances), "two cumulants": _two_terms(chances)}
    rows = []
    for count in shots:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), count))
        in_modes, _ = _sums(keys[0], rotated, repeats, count)
        _, charges = _sums(keys[1], part, repeats, count)
        found = {IN_MODES: [entropy_from_modes(seen, count) for seen in in_modes]}
        for name, statistic in statistics.items():
            found[name] = [jackknife(statistic, seen) for seen in charges]
        for name, estimates in found.items():
            values = np.array([e.value for e in estimates])
            inside = np.mean([e.low <= targets[name] <= e.high for e in estimates])
            rows.append(
                {
                    "shots": count,
                    "estimator": name,
                    "target": targets[name],
                    "bias": float(values.mean() - targets[name]),
                    "spread": float(values.std()),
                    "error": float(np.sqrt(np.mean((values - exact) ** 2)) / exact),
                    "coverage": float(inside),
                }
            )
    return {"entropy": exact, "rows": rows, "needed": shots_needed(rows, exact)}


def shots_needed(rows: list[dict], exact: float, error: float = 0.02) -> list[dict]:
    """Shots for a relative root-mean-square error, from the spread at the most shots.

    None where the estimator's limit is further off than that, however many shots are taken.
    """
    most = max(row["shots"] for row in rows)
    needed = []
    for row in rows:
        if row["shots"] == most:
            room = (error * exact) ** 2 - (row["target"] - exact) ** 2
            shots = most * row["spread"] ** 2 / room if room > 0 else None
            needed.append(
                {"estimator": row["estimator"], "start": PURE, "settings": 1, "shots": shots}
            )
    return needed


def pair_shots_needed(rows: list[dict], error: float = 0.02) -> list[dict]:
    """The same for two-point functions: shots of all settings together, by start.

    From the root-mean-square error at the most shots, as if bias and spread fell alike.
    """
    most = max((row["shots a setting"] for row in rows), default=0)
    return [
        {
            "estimator": "two-point functions",
            "start": row["start"],
            "settings": row["settings"],
            "shots": most
            * row["settings"]
            * (row["spread"] ** 2 + row["bias"] ** 2)
            / (error * row["entropy"]) ** 2,
        }
        for row in rows
        if row["shots a setting"] == most
    ]


@in_double
def pair_shots(shots: tuple[int, ...], repeats: int, seed: int) -> list[dict]:
    """Two-point entropy of the left lead of the twelve-site contact, from shots of pairs.

    From ground states, whose modes are mostly frozen, and from thermal ones at a bias of 1.
    """
    rng = np.random.default_rng(seed)
    chain, settings, rows = hopping_chain(6), pair_settings(6), []
    patterns = np.array([*itertools.product((False, True), repeat=6)])
    for temperature in (None, 1.0, 2.0):
        halves = [
            ground_corr(chain, particles)
            if temperature is None
            else thermal_corr(chain, mu, temperature)
            for particles, mu in ((4, 0.5), (2, -0.5))
        ]
        (corr,) = evolve_eig(qpc(6, 6, contact=0.5), block_diag(*halves), np.array([2.0]))
        part = np.asarray(corr)[:6, :6]
        exact = float(entropy(part))
        seen = settings.conj() @ part @ settings.transpose(0, 2, 1)
        # Minors of C: the chance of every pattern of occupied sites, in every setting.
        full = patterns[None, :, :, None]
        chances = np.linalg.det(np.where(full, seen[:, None], np.eye(6) - seen[:, None])).real
        chances = np.maximum(chances, 0) / np.maximum(chances, 0).sum(1, keepdims=True)
        for count in shots:
            found = []
            for _ in range(repeats):
                drawn = rng.multinomial(count, chances)
                occupied = np.stack([np.repeat(patterns, some, axis=0) for some in drawn])
                found.append(entropy_from_pairs(occupied))
            values = np.array([one.value for one in found])
            rows.append(
                {
                    "start": PURE if temperature is None else f"T = {temperature:g}",
                    "pure": temperature is None,
                    "settings": len(settings),
                    "shots a setting": count,
                    "entropy": exact,
                    "bias": float(values.mean() - exact),
                    "spread": float(values.std()),
                    "coverage": float(np.mean([one.low <= exact <= one.high for one in found])),
                }
            )
    return rows
