"""Free fermions: estimators, rates of growth, light cone, opening law, resonant level."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import (
    block_diag,
    charge_cumulants,
    charge_distribution,
    contact_transmission,
    dot,
    entropy,
    evolve_eig,
    ground_corr,
    hopping_chain,
    kl_series,
    levitov_rates,
    mutual_information,
    occupations,
    qpc,
    roots_estimator,
    song_extrapolated,
    song_series,
    star,
    subsystems,
    thermal_corr,
)
from jaxlab.vne.entropy import binary_entropy


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
    mixing = rng.normal(size=(16, 16)) + 1j * rng.normal(size=(16, 16))
    filled = np.diag([1.0, 1, 1, 0] * 4) + 0j
    corr = evolve_eig(mixing + mixing.conj().T, filled, np.array([1.0]))[0]
    masks = subsystems(3, 4, 9)
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
    orders = (3, 5, 9, 15, 19)

    @jax.jit
    def summed(corr):
        cumulants = charge_cumulants(corr, None, 20)
        return {
            "entropy": entropy(corr),
            "naive": jnp.stack([kl_series(cumulants, terms) for terms in range(1, 7)]),
            "song": jnp.stack([song_series(cumulants, order) for order in orders]),
            "extrapolated": song_extrapolated(cumulants),
        }

    found = {name: np.asarray(value).tolist() for name, value in summed(sine_kernel(block)).items()}
    return {**found, "song": dict(zip(map(str, orders), found["song"], strict=True))}


@in_double
def contact_rates(
    lead: int,
    contacts: tuple[float, ...],
    bias: tuple[float, float],
    times: tuple[float, float],
) -> list[dict]:
    """Growth of entropy, charge and noise on the right beside Levitov's integrals.

    A bias over the whole band is a domain wall.
    """
    chain = hopping_chain(lead)
    levels = np.linalg.eigvalsh(np.asarray(chain))
    right, left = (ground_corr(chain, int((levels < mu).sum())) for mu in bias)
    start = block_diag(left, right)

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
        exact = levitov_rates(lambda e, j=contact: contact_transmission(e, j), bias)
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


@in_double
def current_and_information(
    lead: int, biases: tuple[float, ...], temperatures: tuple[float, ...]
) -> list[dict]:
    """Mutual information of a resonant level with its leads against the squared current.

    For each temperature, R^2 of a line, and the power of the current with which the information
    leaves its value without bias.
    """
    middle = np.arange(2 * lead + 1) == lead

    @jax.jit
    def carried(bias, temperature):
        h, chain = dot(lead, lead, couplings=(0.3, 0.3), energy=0.4), hopping_chain(lead)
        ends = [thermal_corr(chain, mu, temperature) for mu in (bias / 2, -bias / 2)]
        start = block_diag(ends[0], np.zeros((1, 1)), ends[1])
        corr = evolve_eig(h, start, np.array([0.4 * lead]))[0]
        current = -2 * (h[lead - 1, lead] * corr[lead - 1, lead]).imag
        return current, mutual_information(corr, middle, ~middle)

    rows = []
    for temperature in temperatures:
        curve = [tuple(map(float, carried(bias, temperature))) for bias in biases]
        current, shared = np.array(curve).T
        line = np.polyval(np.polyfit(current**2, shared, 1), current**2)
        left = ((shared - line) ** 2).sum() / ((shared - shared.mean()) ** 2).sum()
        change = np.abs(shared - float(carried(0.0, temperature)[1]))
        rows.append(
            {
                "temperature": temperature,
                "r_squared": 1 - float(left),
                "power": float(np.polyfit(np.log(current), np.log(change), 1)[0]),
                "curve": curve,
            }
        )
    return rows
