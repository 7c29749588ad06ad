"""Inverse design: a drive of the contact for a wanted entropy curve."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import block_diag, entropy, evolve_driven, ground_corr, hopping_chain, qpc

HEIGHT = 0.5
"""Nats that the drawn curves reach."""


@in_double
def inverse_design(lead: int, pieces: int, steps: int) -> dict:
    """Fits a drive J'(t) to the curve that a hidden drive of the same form makes."""
    times, curve = _driven_contact(lead, pieces)
    hidden = 0.5 * np.sin(np.pi * np.linspace(0.1, 0.9, pieces + 1)) ** 2
    target = curve(jnp.asarray(hidden))
    return {"times": times, "hidden": hidden, **_fitted(curve, pieces, steps)(target)}


@in_double
def drawn_curves(lead: int, pieces: int, steps: int) -> list[dict]:
    """The same for curves that no drive has made: nothing says that one can."""
    times, curve = _driven_contact(lead, pieces)
    part = times / times[-1]
    fit = _fitted(curve, pieces, steps)
    drawn = {"straight line": part, "stays from half time on": np.minimum(1, 2 * part)}
    return [
        {"curve": name, "times": times, **fit(jnp.asarray(HEIGHT * shape))}
        for name, shape in drawn.items()
    ]


def _driven_contact(lead: int, pieces: int) -> tuple[np.ndarray, Callable]:
    """Times, and the entropies there as a function of J' at 0 and at these times."""
    half = [ground_corr(hopping_chain(lead), n) for n in (2 * lead // 3, lead // 3)]
    start, left = block_diag(*half), np.arange(2 * lead) < lead
    knots = np.linspace(0, 0.4 * lead, pieces + 1)

    def curve(drive: jax.Array) -> jax.Array:
        return evolve_driven(
            lambda t: qpc(lead, lead, contact=jnp.interp(t, jnp.asarray(knots), drive)),
            start,
            knots[1:],
            steps=4,
            measure=lambda c: entropy(c, left),
        )

    return knots[1:], curve


def _fitted(curve: Callable, pieces: int, steps: int) -> Callable:
    """A function of the wanted curve: least squares by Adam, from a closed contact.

    Closed at every knot but the first, where the leads' levels are degenerate. Closed at all, the
    slope vanishes by symmetry.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(0.05, steps))

    @jax.jit
    def fit(target: jax.Array) -> tuple[jax.Array, ...]:
        def improve(carry: tuple, _: None) -> tuple[tuple, jax.Array]:
            drive, state = carry
            slope = jax.grad(lambda d: jnp.mean((curve(d) - target) ** 2))(drive)
            change, state = optimizer.update(slope, state)
            return (optax.apply_updates(drive, change), state), jnp.all(jnp.isfinite(slope))

        begin = jnp.zeros(pieces + 1).at[0].set(0.01)
        (drive, _), finite = jax.lax.scan(improve, (begin, optimizer.init(begin)), None, steps)
        return drive, curve(drive), jnp.all(finite)

    def designed(target: jax.Array) -> dict:
        drive, found, finite = fit(target)
        error = jnp.sqrt(jnp.mean((found - target) ** 2)) / jnp.max(target)
        return {
            "target": target,
            "found": found,
            "drive": drive,
            "error": float(error),
            "finite": bool(finite),
        }

    return designed
