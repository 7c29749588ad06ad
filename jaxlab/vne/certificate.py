"""Bounds on the true entropy of a region, whatever the state, from two-point functions alone.

Let ``gamma`` be the Gaussian state with the same two-point functions as the state ``rho``, and
``D(X) = S_G(X) - S(X)``, the relative entropy of the two on the modes X. It is not negative and
does not shrink when X grows (data processing). So with A and everything else, B,

- ``S(A) <= S_G(A)``, and by Araki and Lieb ``S(A) <= S_G(B) + S_0``;
- ``D(A) <= D(all) = S_G(all) - S_0``;
- ``D(A) <= D(rest)`` for the rest of all modes without a few, Y, that are taken from B:
  ``D(rest) = S_G(rest) - S(rest)``, and ``S(rest)`` is known nearly as well as that of all modes:
  ``S(rest) >= S(Y) - S_0``. One mode of a particle-conserving state has the entropy ``h(z)``
  exactly, and two modes have at least the least entropy of two coins with their means.

The last is never worse than the second for pure states, and usually far better: what makes a pure
state look mixed in its two-point functions is shared by few modes. The same holds with A and B
exchanged, and ``S(A) >= S(B) - S_0`` carries it back. Source of the first two: the literature on
Gaussian extremality; the third is ours, see ``docs/sources/vne.md``.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxlab.vne.entropy import binary_entropy
from jaxlab.vne.occupations import Region, check_region, occupations
from jaxlab.vne.precision import Matrix, in_double


def certificate(
    corr: Matrix,
    region: Region,
    initial_entropy: float | Float[Array, ""] = 0.0,
    *,
    modes: int = 4,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Two-sided bound on a region's von Neumann entropy, in any particle-conserving state.

    Args:
      corr: ``C[i, j] = <c_i^dag c_j>`` of all sites, ``[L, L]``.
      region: bool ``[L]``.
      initial_entropy: entropy of the state of all sites, in nats; unitary evolution keeps it, so
        that of the start will do. 0 for pure states.
      modes: how many modes of each side are tried, alone and in pairs, to tighten the lower bound;
        0 for ``S_G(A) - D(all)`` alone. Each try costs one eigenvalue problem. Derivatives hold
        these modes fixed.

    Returns:
      ``(lower, upper)``, float64, in nats; rigorous up to rounding (1e-12 or so).

    Raises:
      TypeError: 64-bit mode is off, or the region is not boolean.
      ValueError: a shape does not fit, or ``modes`` is negative.

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
    return _certificate(corr, region, initial_entropy, modes)


@functools.partial(jax.jit, static_argnames="modes")
def _certificate(
    corr: Array, region: Array, initial_entropy: Array, modes: int
) -> tuple[Array, Array]:
    corr, start = in_double("certificate", corr=corr, initial_entropy=initial_entropy)
    corr, region = (corr + corr.conj().T) / 2, jnp.asarray(region)
    inside, outside = _entropy(corr, region), _entropy(corr, ~region)
    surplus = _entropy(corr) - start
    upper = jnp.minimum(inside, outside + start)
    lower = inside - jnp.minimum(surplus, _surplus_without(corr, ~region, start, modes))
    other = outside - jnp.minimum(surplus, _surplus_without(corr, region, start, modes))
    best = jnp.maximum(lower, jnp.maximum(other - start, start - outside))
    return jnp.clip(best if modes else lower, 0.0, upper), upper


def _entropy(corr: Array, region: Array | None = None) -> Array:
    return jnp.sum(binary_entropy(occupations(corr, region)))


def _surplus_without(corr: Array, region: Array, start: Array, modes: int) -> Array:
    """Least bound on D of all modes but one or two of a region."""
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
    choices = [(n, n) for n in range(tried)] + list(itertools.combinations(range(tried), 2))

    def surplus(pair: Array) -> Array:
        taken = vectors[:, pair] * jnp.array([1.0, 0.0]).at[1].set(pair[0] != pair[1])
        rest = jnp.eye(corr.shape[0]) - taken @ taken.conj().T
        z = occupations(taken.conj().T @ corr @ taken)
        least = jnp.maximum(_least_entropy(z) - start, start - jnp.sum(binary_entropy(z)))
        found = _entropy(rest @ corr @ rest) - jnp.maximum(least, 0.0)
        return jnp.where(jnp.all(usable[pair]), found, jnp.inf)

    return jnp.min(jax.lax.map(surplus, jnp.array(choices)))


def _least_entropy(z: Array) -> Array:
    """Least joint entropy of two coins with given means, at one end of their correlation."""

    def joint(both: Array) -> Array:
        chances = jnp.stack([both, z[0] - both, z[1] - both, 1 - z[0] - z[1] + both])
        return -jnp.sum(jax.scipy.special.xlogy(chances, jnp.maximum(chances, 1e-300)))

    apart, together = jnp.maximum(0.0, z[0] + z[1] - 1), jnp.minimum(z[0], z[1])
    return jnp.minimum(joint(apart), joint(together))
