"""Bounds on the true entropy of a region, whatever the state, from two-point functions alone.

Let ``gamma`` be the Gaussian state with the same two-point functions as the state ``rho``, and
``D(X) = S_G(X) - S(X)``, the relative entropy of the two on the modes X. It is not negative and
does not shrink when X grows (data processing). So with A and everything else, B,

- ``S(A) <= S_G(A)``, and by Araki and Lieb ``S(A) <= S_G(B) + S_0``;
- ``D(A) <= D(all) = S_G(all) - S_0``;
- up to three modes Y of a particle-conserving state have a least entropy, ``f(z)`` of their
  occupations. So ``S(A) >= f(Y) - S_G(A without Y)`` for Y in A, whatever the rest does;
- ``D(A) <= D(rest)`` for the rest of all modes without a few, Y, that are taken from B:
  ``D(rest) = S_G(rest) - S(rest)``, and ``S(rest) >= f(Y) - S_0``.

The last is never worse than the second for pure states, and usually far better: what makes a pure
state look mixed in its two-point functions is shared by few modes. For mixed starts it fades as
S_0 grows, and the third remains, for small regions. All hold with A and B exchanged, and
``S(A) >= S(B) - S_0`` carries them back. Where the number of particles of all sites is known to be
definite, charges on the two sides of a cut are as random as each other, and modes Y can take from
the rest no more than what they hold beside their charge, ``g(Y)``: ``S(rest) >= S_0 - g(Y)``. This
helps large regions of mixed starts: ``S(A) >= S_0`` if A is all but one site. Source of the first
two: the literature on Gaussian extremality; the others are ours, see ``docs/sources/vne.md``, which
also tells how close states with the same data come to both ends.
"""

import functools
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxlab.vne.counting import coin_distribution
from jaxlab.vne.entropy import binary_entropy
from jaxlab.vne.occupations import Region, check_region, occupations
from jaxlab.vne.precision import Matrix, concrete, in_double

_ROUNDING = 1e-8
"""How far an initial entropy may leave what is possible, in nats."""


def certificate(
    corr: Matrix,
    region: Region,
    initial_entropy: float | Float[Array, ""] = 0.0,
    *,
    modes: int = 4,
    definite_number: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Two-sided bound on a region's von Neumann entropy, in any particle-conserving state.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>`` of all sites, ``[L, L]``.
      region: bool ``[L]``.
      initial_entropy: entropy of the state of all sites, in nats; unitary evolution keeps it, so
        that of the start will do. 0, the default, says that the state is PURE: for a mixed state
        it makes both bounds wrong. Give no less than the truth for the upper bound, and no more
        for the lower one.
      modes: how many modes of each side are tried, up to three at a time, to tighten the lower
        bound; 0 for ``S_G(A) - D(all)`` alone. Each try costs one eigenvalue problem. Derivatives
        hold these modes fixed.
      definite_number: whether the state of all sites has one number of particles, without
        fluctuations, as ground states and canonical ensembles have and evolution keeps. True
        tightens the lower bound of mixed states; it is WRONG for grand-canonical ones.

    Returns:
      ``(lower, upper)``, float64, in nats; rigorous up to rounding (1e-12 or so). Under ``jit``,
      NaN where this function would raise a ValueError for what an array holds.

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit, ``modes`` is negative, or no state has these data:
        ``initial_entropy`` is negative or above that of a Gaussian state with the same ``corr``, or
        eigenvalues of ``corr`` leave [0, 1].

    Example:
      The two-point functions of ``(|0011> + |1100>) / sqrt 2`` are those of the fully mixed state,
      whose entropy on the first two sites is 2 ln 2. The truth, ln 2, is the lower bound.

      >>> import jax, numpy as np
      >>> with jax.enable_x64(True):
      ...     low, high = certificate(np.eye(4) / 2 + 0j, np.array([True, True, False, False]))
      ...     print(float(low / np.log(2)).__round__(6), float(high / np.log(2)).__round__(6))
      1.0 2.0
    """
    check_region("certificate", corr, region)
    if modes < 0:
        raise ValueError(f"certificate: modes={modes} must not be negative.")
    found = _certificate(corr, region, initial_entropy, modes, definite_number)
    if concrete(found[0]) and jnp.isnan(found[0]):
        raise ValueError(
            f"certificate: no state has initial_entropy={initial_entropy} and this corr; it must "
            f"lie between 0 and entropy(corr) = {jnp.sum(binary_entropy(occupations(corr)))} nats."
        )
    return found


@functools.partial(jax.jit, static_argnames=("modes", "definite_number"))
def _certificate(
    corr: Array, region: Array, initial_entropy: Array, modes: int, definite_number: bool
) -> tuple[Array, Array]:
    corr, start = in_double("certificate", corr=corr, initial_entropy=initial_entropy)
    corr, region = (corr + corr.conj().T) / 2, jnp.asarray(region)
    inner, outer = occupations(corr, region), occupations(corr, ~region)
    inside, outside = _entropy(inner), _entropy(outer)
    surplus = _entropy(occupations(corr)) - start
    upper = jnp.minimum(inside, outside + start)
    held = _entropy_beside_charge if definite_number else _entropy
    lower = inside - jnp.minimum(surplus, _surplus_without(corr, ~region, start, modes, held))
    other = outside - jnp.minimum(surplus, _surplus_without(corr, region, start, modes, held))
    if modes:
        other = jnp.maximum(other, _entropy_alone(outer))
        lower = jnp.maximum(lower, jnp.maximum(_entropy_alone(inner), start - held(outer)))
        lower = jnp.maximum(lower, other - start)
    # Also false where one of the two is NaN.
    known = (start >= -_ROUNDING) & (surplus >= -_ROUNDING)
    return jnp.where(known, jnp.clip(lower, 0.0, upper), jnp.nan), jnp.where(known, upper, jnp.nan)


def _entropy(z: Array) -> Array:
    return jnp.sum(binary_entropy(z))


def _entropy_beside_charge(z: Array) -> Array:
    """Most entropy that modes hold beside that of their charge.

    ``S - H(P)`` for the distribution P of the charge. It is the mean of the entropies of the parts
    of given charge n, each at most ``-Tr rho_n ln gamma_n`` for the Gaussian state's part. These
    add up to ``S_G + sum_n P(n) ln P_G(n)``, and as P_G is log-concave, Jensen's inequality leaves
    its logarithm at the mean charge, between neighboring n on a straight line.
    """
    logs = jnp.log(jnp.maximum(coin_distribution(z), 1e-300))
    return _entropy(z) + jnp.interp(jnp.sum(z), jnp.arange(logs.size), logs)


def _entropy_alone(z: Array) -> Array:
    """Least entropy of modes by themselves: that of three, less what the others can undo."""
    z = jnp.append(z, jnp.zeros(3))
    order = jnp.argsort(binary_entropy(z))
    return _least_entropy(z[order[-3:]]) - _entropy(z[order[:-3]])


def _surplus_without(
    corr: Array, region: Array, start: Array, modes: int, held: Callable[[Array], Array]
) -> Array:
    """Least bound on D of all modes but one, two or three of a region.

    These take no more than ``held`` of the entropy of all from the rest.
    """
    tried = min(modes, corr.shape[0])
    if tried == 0:
        return jnp.asarray(jnp.inf)
    fixed = jax.lax.stop_gradient(corr)
    # Modes that are neither full nor empty share entropy with whatever makes the state mixed. The
    # shift by one keeps the region's modes ahead of those outside, which are at zero.
    weight = fixed - fixed @ fixed + jnp.eye(corr.shape[0])
    weight = jnp.where(region[:, None] & region, weight, 0)
    values, vectors = jnp.linalg.eigh(weight)
    usable = values[::-1][:tried] > 0.5
    vectors = vectors[:, ::-1][:, :tried]
    choices = np.array(
        [
            np.isin(np.arange(tried), some)
            for size in (1, 2, 3)
            for some in itertools.combinations(range(tried), size)
        ]
    )

    def surplus(chosen: Array) -> Array:
        taken = vectors * chosen
        rest = jnp.eye(corr.shape[0]) - taken @ taken.conj().T
        z = jnp.append(occupations(taken.conj().T @ corr @ taken), jnp.zeros(3))
        z = z[jnp.argsort(binary_entropy(z))[-3:]]  # modes not chosen are at zero
        least = jnp.maximum(_least_entropy(z) - start, start - held(z))
        found = _entropy(occupations(rest @ corr @ rest)) - jnp.maximum(least, 0.0)
        return jnp.where(jnp.all(usable | ~chosen), found, jnp.inf)

    return jnp.min(jax.lax.map(surplus, choices))


def _least_entropy(z: Array) -> Array:
    """Lower bound on the joint entropy of three modes with given occupations.

    The state is a block for every charge. With ``p`` the chances of none and of three particles and
    ``R``, ``Q`` the blocks of one particle and of one hole, ``C = R - Q + s`` for
    ``s = tr Q + p_3``. So the eigenvalues of R are no smaller than those of ``C - s`` where these
    are positive, those of Q no smaller than the others' magnitudes, and both traces have the same
    excess. All excess on the largest eigenvalue majorizes the rest. What remains is a function of
    ``s`` and the excess, concave between lines: least at one of their crossings. Modes at zero
    make it exact for two and for one.
    """
    low, middle, high = z = jnp.sort(z)
    total = jnp.sum(z)
    crossings = [low, middle, high, 0 * low, 1 + 0 * low, low + middle, middle + high - 1]
    s = jnp.stack([*crossings, total / 2, (total - 1) / 2, total - 1])
    particle, hole = jnp.maximum(z - s[:, None], 0), jnp.maximum(s[:, None] - z, 0)
    full, empty = s - jnp.sum(hole, axis=1), 1 - s - jnp.sum(particle, axis=1)
    room = jnp.minimum(full, empty)

    def joint(excess: Array) -> Array:
        ends = jnp.stack([full - excess, empty - excess], axis=1)
        chances = [ends, particle.at[:, 2].add(excess), hole.at[:, 0].add(excess)]
        chances = jnp.maximum(jnp.concatenate(chances, axis=1), 0)
        return -jnp.sum(jax.scipy.special.xlogy(chances, jnp.maximum(chances, 1e-300)), axis=1)

    least = jnp.minimum(joint(jnp.zeros_like(s)), joint(jnp.maximum(room, 0)))
    return jnp.min(jnp.where(room >= -1e-12, least, jnp.inf))
