"""Free-fermion measurements: estimators, rates, environment, shots, design."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxlab.vne import (
    block_diag,
    charge_cumulants,
    charge_distribution,
    contact_transmission,
    dot,
    entropy,
    entropy_from_modes,
    evolve_driven,
    evolve_eig,
    ground_corr,
    hopping_chain,
    jackknife,
    kl_series,
    levitov_rates,
    mutual_information,
    occupations,
    qpc,
    roots_estimator,
    sample_occupations,
    song_extrapolated,
    song_series,
    star,
    subsystems,
    thermal_corr,
)
from jaxlab.vne.entropy import binary_entropy


def in_double(function):
    """Runs a step in 64-bit mode."""

    @functools.wraps(function)
    def scoped(*arguments):
        with jax.enable_x64(True):
            return function(*arguments)

    return scoped


def sine_kernel(length: int) -> np.ndarray:
    """A block of the infinite half-filled chain."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return np.sinc(distance / 2) / 2 + 0j


@in_double
def estimators(terminals: tuple[int, ...]) -> list[dict]:
    """Peschel's entropy beside the zeros of the charge's polynomial and the extrapolated series.

    Stars of 2 to 4 leads, and a random scatterer of three subsystems.
    """

    def opened(leads):
        h = star(leads, np.array([0.5, 0.7, 0.4, 0.6])[: len(leads)], energy=0.2)
        starts = [
            ground_corr(hopping_chain(n), k) for n, k in zip(leads, (3, 1, 2, 2), strict=False)
        ]
        return evolve_eig(h, block_diag(np.zeros((1, 1)), *starts), np.array([3.0]))[0]

    @jax.jit
    def counted(corr, region):
        series = song_extrapolated(charge_cumulants(corr, region, 20))
        return entropy(corr, region), series, charge_distribution(corr, region)

    cases = []
    for count in terminals:
        leads = (5, 4, 6, 3)[:count]
        corr = jax.jit(opened, static_argnums=0)(leads)
        masks = subsystems(1, *leads)
        cases.append((f"star of {count}", "first lead and dot", corr, masks[0] | masks[1]))
        cases.append((f"star of {count}", "last lead", corr, masks[-1]))
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(12, 12)) + 1j * rng.normal(size=(12, 12))
    filled = np.diag([1.0, 1, 1, 0] * 3) + 0j
    corr = evolve_eig(mixing + mixing.conj().T, filled, np.array([1.0]))[0]
    masks = subsystems(3, 4, 5)
    cases.append(("random", "first of three", corr, masks[0]))
    cases.append(("random", "two of three", corr, masks[0] | masks[1]))
    rows = []
    for name, part, corr, region in cases:
        exact, series, chances = counted(corr, region)
        rows.append(
            {
                "system": name,
                "region": part,
                "entropy": float(exact),
                "error": abs(roots_estimator(chances) - float(exact)),
                "series error": abs(float(series - exact)),
            }
        )
    return rows


@in_double
def cumulant_series(block: int) -> dict:
    """The naive series, Song's and its extrapolation, on a block of the infinite chain."""
    corr = sine_kernel(block)
    cumulants, exact = jax.jit(lambda c: (charge_cumulants(c, None, 20), entropy(c)))(corr)
    return {
        "entropy": float(exact),
        "naive": [float(kl_series(cumulants, terms)) for terms in range(1, 7)],
        "song": {str(k): float(song_series(cumulants, k)) for k in (3, 5, 9, 15, 19)},
        "extrapolated": float(song_extrapolated(cumulants)),
    }


@in_double
def contact_rates(lead: int, contacts: tuple[float, ...], times: tuple[float, float]) -> list[dict]:
    """Growth of a domain wall's entropy, charge and noise beside Levitov's integrals."""
    start = np.diag(np.arange(2 * lead) < lead).astype(complex)

    def measure(corr):
        return jnp.append(charge_cumulants(corr, None, 2), entropy(corr))

    @jax.jit
    def counted(contact):
        h, right = qpc(lead, lead, contact=contact), np.arange(lead, 2 * lead)
        return evolve_eig(h, start, np.array(times), sites=right, measure=measure)

    rows = []
    for contact in contacts:
        found = counted(contact)
        slope = np.asarray(found[1] - found[0]) / (times[1] - times[0])
        exact = levitov_rates(lambda e, j=contact: contact_transmission(e, j), (-2.0, 2.0))
        rows.append(
            {
                "contact": contact,
                **{
                    f"{name}": float(slope[n])
                    for name, n in (("entropy", 2), ("charge", 0), ("variance", 1))
                },
                **{f"exact {name}": exact[name] for name in ("entropy", "charge", "variance")},
            }
        )
    return rows


@in_double
def light_cone(lead: int, contact: float, times: int) -> dict:
    """Density and entropy while a domain wall melts: pictures only."""
    start = np.diag(np.arange(2 * lead) < lead).astype(complex)
    at = np.linspace(0.5, 0.45 * lead, times)
    left = np.arange(2 * lead) < lead

    @jax.jit
    def melted():
        def measure(c):
            levels = occupations(c, left, largest=lead)
            return jnp.diagonal(c).real, jnp.sum(binary_entropy(levels)), levels

        return evolve_eig(qpc(lead, lead, contact=contact), start, at, measure=measure)

    density, found, levels = melted()
    return {"times": at, "density": density, "entropy": found, "occupations": levels}


@in_double
def opening_law(leads: tuple[int, ...], window: tuple[float, float]) -> dict:
    """Slope of the entropy against ln t after two half-filled chains are joined.

    The window is the same for all leads, so that their length alone is extrapolated.
    """
    slopes, curves, times = [], [], np.geomspace(*window, 8)

    def opened(lead):
        half = ground_corr(hopping_chain(lead), lead // 2)
        start, left = block_diag(half, half), np.arange(lead)
        return evolve_eig(qpc(lead, lead), start, times, sites=left, measure=entropy)

    for lead in leads:
        found = jax.jit(opened, static_argnums=0)(lead)
        curves.append(found)
        slopes.append(float(np.polyfit(np.log(times), np.asarray(found), 1)[0]))
    limits = [
        float(np.polyfit(np.power(leads, -power), slopes, 1)[1]) if len(leads) > 1 else slopes[0]
        for power in (2.0, 1.0)
    ]
    names = (*map(str, leads), "limit in 1/L^2", "limit in 1/L")
    return {
        "rows": [{"leads": n, "slope": s} for n, s in zip(names, slopes + limits, strict=True)],
        "leads": leads,
        "times": times,
        "entropy": curves,
        "slopes": slopes,
        "limit": limits[0],
    }


def _star(lead: int, coupling, fillings: tuple[int, int, int], environment: int):
    h = star((lead, lead, environment), jnp.stack([jnp.asarray(0.5), jnp.asarray(0.5), coupling]))
    sizes = (lead, lead, environment)
    starts = [ground_corr(hopping_chain(n), k) for n, k in zip(sizes, fillings, strict=True)]
    masks = subsystems(1, *sizes)
    return h, block_diag(np.zeros((1, 1)), *starts), masks[0] | masks[1], masks[2], masks[3]


@in_double
def environment(lead: int, couplings: tuple[float, ...], time: float) -> list[dict]:
    """Mutual information with and without an environment at the dot."""
    fillings = (2 * lead // 3, lead // 3, lead // 2)

    @jax.jit
    def informations(coupling):
        h, start, a, b, e = _star(lead, coupling, fillings, lead)
        corr = evolve_eig(h, start, np.array([time]))[0]
        return entropy(corr, a), mutual_information(corr, a, b), mutual_information(corr, a, e)

    rows = []
    for coupling in couplings:
        own, shared, lost = map(float, informations(coupling))
        rows.append(
            {
                "coupling": coupling,
                "entropy": own,
                "shared": shared,
                "lost": lost,
                "fraction": shared / (2 * own),
                "residual": abs(shared + lost - 2 * own),
            }
        )
    return rows


@in_double
def inferred_couplings(
    lead: int, couplings: tuple[float, ...], time: float, shots: int, seed: int
) -> list[dict]:
    """Finds an environment's coupling from A and B alone, measured with finite shots.

    The data come from a longer environment than the model assumes. Shots are taken in the modes of
    A, of B and of both together, in which occupations are independent.
    """
    rng = np.random.default_rng(seed)
    fillings = (2 * lead // 3, lead // 3, lead // 2)
    rows = []

    def correlated(coupling):
        h, start, a, b, _ = _star(lead, coupling, fillings, lead)
        corr = evolve_eig(h, start, np.array([time]))[0]
        return 2 * entropy(corr, a) - mutual_information(corr, a, b)

    slope = jax.jit(jax.value_and_grad(correlated))
    for true in couplings:
        longer = lead + lead // 3
        h, start, a, b, _ = _star(lead, jnp.asarray(true), (*fillings[:2], longer // 2), longer)
        corr = evolve_eig(h, start, np.array([time]))[0]
        seen = [
            entropy_from_modes(rng.binomial(shots, np.asarray(occupations(corr, region))), shots)
            for region in (a, a | b, b)
        ]
        target = seen[0].value + seen[1].value - seen[2].value
        guess = jnp.asarray(0.2)
        for _ in range(12):
            value, growth = slope(guess)
            guess = jnp.clip(guess - (value - target) / growth, 0.5 * guess, 2 * guess)
        rows.append({"true": true, "found": float(guess), "error": abs(float(guess) - true) / true})
    return rows


@in_double
def current_and_information(lead: int, biases: tuple[float, ...], temperature: float) -> dict:
    """Mutual information of a resonant level with its leads against the squared current."""
    middle = np.arange(2 * lead + 1) == lead

    @jax.jit
    def carried(bias):
        h, chain = dot(lead, lead, couplings=(0.3, 0.3), energy=0.4), hopping_chain(lead)
        ends = [thermal_corr(chain, mu, temperature) for mu in (bias / 2, -bias / 2)]
        start = block_diag(ends[0], np.zeros((1, 1)), ends[1])
        corr = evolve_eig(h, start, np.array([0.4 * lead]))[0]
        current = -2 * (h[lead - 1, lead] * corr[lead - 1, lead]).imag
        return current, mutual_information(corr, middle, ~middle)

    rows = [tuple(map(float, carried(bias))) for bias in biases]
    squared, shared = np.array(rows).T[0] ** 2, np.array(rows).T[1]
    fit = np.polyval(np.polyfit(squared, shared, 1), squared)
    left = ((shared - fit) ** 2).sum() / ((shared - shared.mean()) ** 2).sum()
    return {"rows": rows, "r_squared": 1 - float(left)}


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
    targets = {"modes": exact, "zeros": exact}
    targets |= {"first cumulant": _one_term(chances), "two cumulants": _two_terms(chances)}
    rows = []
    for count in shots:
        keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), count))
        in_modes, _ = _sums(keys[0], rotated, repeats, count)
        _, charges = _sums(keys[1], part, repeats, count)
        found = {"modes": [entropy_from_modes(seen, count) for seen in in_modes]}
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
            needed.append({"estimator": row["estimator"], "shots for 2 %": shots})
    return needed


@in_double
def inverse_design(lead: int, pieces: int, steps: int) -> dict:
    """Fits a drive J'(t) to a target entropy curve, from a closed contact."""
    half = [ground_corr(hopping_chain(lead), n) for n in (2 * lead // 3, lead // 3)]
    start, left = block_diag(*half), np.arange(2 * lead) < lead
    times = np.linspace(0, 0.4 * lead, pieces + 1)[1:]

    def curve(drive):
        def contact(time):
            return jnp.interp(time, jnp.asarray(np.append(0, times)), drive)

        return evolve_driven(
            lambda t: qpc(lead, lead, contact=contact(t)),
            start,
            times,
            steps=4,
            measure=lambda c: entropy(c, left),
        )

    hidden = 0.5 * np.sin(np.pi * np.linspace(0.1, 0.9, pieces + 1)) ** 2
    target = curve(jnp.asarray(hidden))
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @jax.jit
    def improve(drive, state):
        loss, slope = jax.value_and_grad(lambda d: jnp.mean((curve(d) - target) ** 2))(drive)
        change, state = optimizer.update(slope, state)
        return optax.apply_updates(drive, change), state, loss, jnp.all(jnp.isfinite(slope))

    # Closed at every knot but the first, where the leads' levels are degenerate. Closed at all, the
    # slope vanishes by symmetry.
    drive = jnp.zeros(pieces + 1).at[0].set(0.01)
    state, finite = optimizer.init(drive), True
    for _ in range(steps):
        drive, state, _, good = improve(drive, state)
        finite &= bool(good)
    found = curve(drive)
    error = jnp.sqrt(jnp.mean((found - target) ** 2)) / jnp.max(target)
    return {
        "times": times,
        "target": target,
        "found": found,
        "drive": drive,
        "hidden": hidden,
        "error": float(error),
        "finite": finite,
    }
