"""Scattering references for infinite leads: transmission, current, noise, entropy rates.

Leads are half-infinite chains with hopping 1 (band from -2 to 2). Numbers are quadratures on the
host, in double precision, independent of the lattice code that they are compared with.
"""

import functools
import itertools
from collections.abc import Callable

import numpy as np
from jaxtyping import Complex128, Float

from jaxlab.vne.sampling import coin_entropy

_NODES = 400
"""Enough that halving them moves no rate below by more than 1e-12 of itself, edges included."""

_legendre = functools.cache(np.polynomial.legendre.leggauss)

Energies = Float[np.ndarray, "*energies"]


def lead_surface(energy: Energies) -> Complex128[np.ndarray, "*energies"]:
    """Retarded Green function of a lead's first site, ``(E - i sqrt(4 - E^2)) / 2`` in the band.

    Args:
      energy: inside the band, -2 to 2.

    Returns:
      complex128, of the same shape.
    """
    return (energy - 1j * np.sqrt(np.maximum(4 - energy**2, 0))) / 2


def contact_transmission(energy: Energies, contact: float) -> Energies:
    """Transmission of a contact, ``(1 - E^2/4) / (cosh^2 nu - E^2/4)`` with ``nu = -ln J'``.

    Args:
      energy: inside the band, -2 to 2.
      contact: tunneling amplitude J', in units of the leads' hopping; not 0.

    Returns:
      float64 between 0 and 1, of the same shape.
    """
    height = np.cosh(np.log(abs(contact))) ** 2
    return (1 - energy**2 / 4) / (height - energy**2 / 4)


def dot_green(
    energy: Energies, couplings: tuple[float, ...], level: float
) -> Complex128[np.ndarray, "*energies"]:
    """Retarded Green function of a dot, ``1 / (E - eps_d - sum g^2 s(E))``.

    Args:
      energy: inside the band.
      couplings: g of every lead.
      level: energy of the dot.

    Returns:
      complex128, of the same shape.
    """
    return 1 / (energy - level - sum(g**2 for g in couplings) * lead_surface(energy))


def dot_transmission(energy: Energies, couplings: tuple[float, float], level: float) -> Energies:
    """Transmission through a dot between two leads, ``Gamma_1 Gamma_2 |G|^2``.

    Args:
      energy: inside the band.
      couplings: g of the two leads.
      level: energy of the dot.

    Returns:
      float64 between 0 and 1, of the same shape.
    """
    band = np.maximum(4 - energy**2, 0)
    return (couplings[0] * couplings[1]) ** 2 * band * abs(dot_green(energy, couplings, level)) ** 2


def fermi(energy: Energies, mu: float, temperature: float) -> Energies:
    """Occupation of a reservoir's level.

    Args:
      energy: of the level.
      mu: chemical potential.
      temperature: at least 0 (k_B = 1).

    Returns:
      float64 between 0 and 1, of the same shape.
    """
    if temperature == 0:
        return np.heaviside(mu - energy, 0.5)
    return 0.5 * (1 - np.tanh((energy - mu) / (2 * temperature)))


def levitov_rates(
    transmission: Callable[[Energies], Energies], bias: tuple[float, float]
) -> dict[str, float]:
    """Growth per time of entropy, charge and charge noise at zero temperature.

    Every energy in the window sends one particle per time ``2 pi / dE`` at the contact, which
    passes with the transmission's probability (Levitov's binomial statistics).

    Args:
      transmission: of the contact, as a function of energy.
      bias: lower and upper chemical potential, inside the band.

    Returns:
      ``entropy`` in nats, ``charge`` and ``variance``, each per unit of time.

    Raises:
      ValueError: the window is not inside the band.
    """
    low, high = bias
    if not -2 <= low <= high <= 2:
        raise ValueError(f"levitov_rates: bias={bias} must be ascending and inside the band.")

    def rate(of: Callable[[Energies], Energies]) -> float:
        return _integral(lambda energy: of(transmission(energy)), low, high) / (2 * np.pi)

    return {
        "entropy": rate(coin_entropy),
        "charge": rate(lambda t: t),
        "variance": rate(lambda t: t * (1 - t)),
    }


def dot_steady_state(
    couplings: tuple[float, ...],
    level: float,
    mu: tuple[float, ...],
    temperature: float,
) -> dict[str, float]:
    """Occupation of a dot between leads and the current through it, in the steady state.

    Args:
      couplings: g of every lead.
      level: energy of the dot.
      mu: chemical potential of every lead.
      temperature: of all leads, at least 0.

    Returns:
      ``occupation``, and ``current`` out of the first lead in particles per time.

    Raises:
      ValueError: a state is bound outside the band. It never decays, so there is no steady state.
    """
    # Beyond an edge, E - eps_d must meet the shift sum g^2 s(E), which is largest at the edge.
    shift = sum(g**2 for g in couplings)
    if level + shift > 2 or level - shift < -2:
        raise ValueError(
            f"dot_steady_state: level={level} and couplings={couplings} bind a state outside the "
            "band; keep |level| + sum g^2 at most 2."
        )
    steps = {m + shift * temperature for m in mu for shift in (-40, 0, 40)}
    edges = sorted({-2.0, 2.0, *(min(max(step, -2.0), 2.0) for step in steps)})

    def total(of: Callable[..., Energies]) -> float:
        return sum(
            _integral(lambda e: of(e, couplings, level, mu, temperature), low, high)
            for low, high in itertools.pairwise(edges)
        )

    return {"occupation": total(_spectral), "current": total(_current)}


def _spectral(
    energy: Energies,
    couplings: tuple[float, ...],
    level: float,
    mu: tuple[float, ...],
    temperature: float,
) -> Energies:
    band = np.sqrt(np.maximum(4 - energy**2, 0))
    filled = sum(g**2 * fermi(energy, m, temperature) for g, m in zip(couplings, mu, strict=True))
    return abs(dot_green(energy, couplings, level)) ** 2 * band * filled / (2 * np.pi)


def _current(
    energy: Energies,
    couplings: tuple[float, ...],
    level: float,
    mu: tuple[float, ...],
    temperature: float,
) -> Energies:
    strength = abs(dot_green(energy, couplings, level)) ** 2 * np.maximum(4 - energy**2, 0)
    first = fermi(energy, mu[0], temperature)
    lost = sum(
        (couplings[0] * g) ** 2 * (first - fermi(energy, m, temperature))
        for g, m in zip(couplings[1:], mu[1:], strict=True)
    )
    return strength * lost / (2 * np.pi)


def _integral(function: Callable[[Energies], Energies], low: float, high: float) -> float:
    """Gauss-Legendre after ``E = mean + half sin(x)``, which smooths the roots at the band edge."""
    mean, half = (low + high) / 2, (high - low) / 2
    nodes, weights = _legendre(_NODES)
    angle = np.pi / 2 * nodes
    values = function(mean + half * np.sin(angle)) * np.cos(angle)
    return float(half * np.pi / 2 * (weights @ values))
