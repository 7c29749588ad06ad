"""A star with an environment: who shares what, and its coupling from A and B alone."""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import (
    block_diag,
    entropy,
    entropy_from_modes,
    evolve_eig,
    ground_corr,
    hopping_chain,
    mutual_information,
    occupations,
    star,
    subsystems,
)


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
