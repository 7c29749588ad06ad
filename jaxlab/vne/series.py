"""Entropy from charge statistics: what a counting experiment would compute.

The three agree for Gaussian states. None is an entropy for other states, or for starts whose charge
fluctuates (a temperature above 0): there they are estimates.
"""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex128, Float

from jaxlab.vne.precision import in_double

_FROZEN = 1e-17
"""A mode this close to empty or full carries no entropy; its zero lies too far out to be found."""


def kl_series(cumulants: Float[Array | np.ndarray, " order"], terms: int) -> Float[Array, ""]:
    """Partial sum of the Klich-Levitov series, ``sum_q 2 zeta(2 q) kappa_2q`` for q = 1..terms.

    The series is asymptotic: it comes close and then diverges. Stop at its smallest term, usually
    the second or third, or use `song_series`.

    Args:
      cumulants: of the charge, ``[order]``, entry ``n - 1`` the n-th.
      terms: how many, at most ``order // 2``.

    Returns:
      float64, in nats.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: there are too few cumulants.

    Source: the paper's Eq. (3); Klich and Levitov, PRL 102, 100502 (2009).
    """
    (cumulants,) = in_double("kl_series", cumulants=cumulants)
    if not 1 <= terms <= cumulants.size // 2:
        raise ValueError(
            f"kl_series: terms={terms} must be at least 1 and needs {2 * terms} cumulants, got "
            f"{cumulants.size}."
        )
    weights = jnp.asarray([2 * _zeta(2 * q) for q in range(1, terms + 1)])
    return weights @ cumulants[1 : 2 * terms : 2]


def song_series(cumulants: Float[Array | np.ndarray, " order"], order: int) -> Float[Array, ""]:
    """Song's convergent rearrangement of the series, from cumulants up to ``order + 1``.

    Rises monotonically to the entropy of a Gaussian state, but slowly, about as ``1 / order``;
    `song_extrapolated` takes that out.

    Args:
      cumulants: of the charge, ``[order + 1]`` or more, entry ``n - 1`` the n-th.
      order: the cut-off K, at least 1; an even K adds nothing to ``K - 1``'s cumulants but weights.

    Returns:
      float64, in nats.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: there are too few cumulants.

    Source: Song et al., arXiv:1008.5191 and PRB 85, 035409.
    """
    (cumulants,) = in_double("song_series", cumulants=cumulants)
    if not 1 <= order < cumulants.size:
        raise ValueError(
            f"song_series: order={order} must be at least 1 and needs {order + 1} cumulants, got "
            f"{cumulants.size}."
        )
    return jnp.asarray(_song_weights(order)) @ cumulants[: order + 1]


def song_extrapolated(
    cumulants: Float[Array | np.ndarray, " order"], orders: tuple[int, int] = (15, 19)
) -> Float[Array, ""]:
    """Richardson extrapolation of Song's series, taking its error as ``1 / order``.

    Args:
      cumulants: of the charge, ``[max(orders) + 1]`` or more.
      orders: two different cut-offs.

    Returns:
      float64, in nats; not a bound.

    Raises:
      TypeError: 64-bit mode is off.
      ValueError: the orders are equal, or there are too few cumulants.

    Source: ours; the decay is observed, not proved.
    """
    first, second = orders
    if first == second:
        raise ValueError(f"song_extrapolated: orders={orders} must be different.")
    ends = second * song_series(cumulants, second) - first * song_series(cumulants, first)
    return ends / (second - first)


def roots_occupations(
    distribution: Float[Array | np.ndarray, " outcomes"], *, digits: int | None = None
) -> Complex128[np.ndarray, " modes"]:
    """Occupations behind a charge distribution: the zeros of ``sum_n P(n) x^n``, on the host.

    For free fermions the zeros ``x`` are real and not positive, and ``z = 1 / (1 - x)`` are the
    occupations. Complex ones prove that the state is not Gaussian.

    Args:
      distribution: probabilities, concrete ``[outcomes]``.
      digits: decimal digits of the root finding; None for double precision, which is good to 1e-9
        up to about 12 modes. More needs mpmath, and probabilities that are as exact.

    Returns:
      complex128, by real part: as many as the largest charge, without modes emptier than 1e-17.

    Raises:
      ValueError: the distribution is not one.
    """
    chances = np.asarray(distribution, np.float64)
    if chances.ndim != 1 or not (chances > 0).any() or (chances < -1e-12).any():
        raise ValueError(
            "roots_occupations: distribution must be [outcomes], not negative and not all zero."
        )
    chances = np.trim_zeros(np.maximum(chances, 0.0), "b")
    while chances.size > 1 and chances[-1] <= _FROZEN * chances[-2]:
        chances = chances[:-1]
    full = 0
    while chances.size > 1 and chances[0] <= _FROZEN * chances[1]:
        chances, full = chances[1:], full + 1
    if digits is None:
        ratios = _polished(np.roots(chances[::-1]), chances)
    else:
        import mpmath

        with mpmath.workdps(digits):
            found = mpmath.polyroots(
                [mpmath.mpf(float(p)) for p in chances[::-1]], maxsteps=500, extraprec=200
            )
        ratios = np.array([*map(complex, found)])
    return np.sort(np.append(1 / (1 - ratios.astype(np.complex128)), np.ones(full)))


def roots_estimator(
    distribution: Float[Array | np.ndarray, " outcomes"], *, digits: int | None = None
) -> float:
    """Entropy from the zeros of the charge's generating polynomial, without any series.

    Args:
      distribution: probabilities, concrete ``[outcomes]``.
      digits: decimal digits of the root finding (`roots_occupations`).

    Returns:
      The entropy in nats: exact for Gaussian states, ``Re sum h(z)`` otherwise.

    Raises:
      ValueError: the distribution is not one.

    Source: Klich and Levitov (2009), reconstructed: the spectral density of their Eq. for the
    generating function is a sum over its zeros.

    Example:
      >>> import numpy as np
      >>> float(round(roots_estimator(np.array([0.25, 0.5, 0.25])) / np.log(2), 6))
      2.0
    """
    z = roots_occupations(distribution, digits=digits)
    inner = z[(z != 0) & (z != 1)]
    return float(np.sum(-inner * np.log(inner) - (1 - inner) * np.log(1 - inner)).real)


def _polished(roots: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Aberth's iteration in extended precision, where the machine has it.

    Eigenvalues of the companion matrix are exact for coefficients that differ by rounding of the
    largest; probabilities span many decades.
    """
    wide = roots.astype(np.clongdouble)
    high = factors[::-1].astype(np.longdouble)
    slopes = np.polyder(high)
    moving = wide != 0
    for _ in range(100):
        with np.errstate(all="ignore"):
            newton = np.polyval(high, wide) / np.polyval(slopes, wide)
            apart = wide[:, None] - wide
            np.fill_diagonal(apart, 1)
            crowd = (1 / apart).sum(1) - 1
            step = newton / (1 - newton * crowd)
        step = np.where(moving & np.isfinite(step), step, 0)
        wide = wide - step
        if (abs(step) <= 1e-18 * abs(wide)).all():
            break
    return wide.astype(np.complex128)


@functools.cache
def _zeta(even: int) -> float:
    """Riemann's zeta: the sum to 40, and the integral with its first corrections beyond."""
    near = math.fsum(n**-even for n in range(1, 40))
    end = 40.0
    tail = end ** (1 - even) / (even - 1) + end**-even / 2 + even * end ** (-even - 1) / 12
    tail -= even * (even + 1) * (even + 2) * end ** (-even - 3) / 720
    return near + tail


@functools.cache
def _song_weights(order: int) -> tuple[float, ...]:
    """``a_n = 2 sum_{k=n-1}^{K} s(k, n-1) / (k! k)`` for even n, 0 for odd, n = 1..K+1."""
    weights = [0.0] * (order + 1)
    counts = [1]  # unsigned Stirling numbers of the first kind s(k, .), k = 0
    for k in range(1, order + 1):
        counts = [
            (k - 1) * (counts[m] if m < k else 0) + (counts[m - 1] if m else 0)
            for m in range(k + 1)
        ]
        for n in range(2, k + 2, 2):
            weights[n - 1] += 2 * counts[n - 1] / (math.factorial(k) * k)
    return tuple(weights)
