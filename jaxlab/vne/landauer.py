"""Scattering references for infinite leads: transmission, current, noise, entropy rates.

Leads are half-infinite chains with hopping 1 (band from -2 to 2). Numbers are quadratures on the
host, in double precision, independent of the lattice code that they are compared with.
"""

import functools
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Complex128, Float

from jaxlab.vne.sampling import coin_entropy

_NODES, _PIECES = 32, 20_000
"""Nodes on each piece of an integral, and most pieces of it before it counts as not resolved."""

_ERROR = 1e-13
"""Change of a piece, beside the whole integral, at which it is halved no more."""

_EDGE = 1e-9
"""How far beyond the band rounding may take an energy."""

_legendre = functools.cache(np.polynomial.legendre.leggauss)

Energies = Float[np.ndarray, "*energies"]


def lead_surface(energy: Energies) -> Complex128[np.ndarray, "*energies"]:
    """Retarded Green function of a lead's first site, ``(E - i sqrt(4 - E^2)) / 2`` in the band.

    Args:
      energy: inside the band, -2 to 2.

    Returns:
      complex128, of the same shape.

    Raises:
      ValueError: an energy is outside the band.
    """
    _in_band("lead_surface", energy)
    return (energy - 1j * np.sqrt(np.maximum(4 - energy**2, 0))) / 2


def contact_transmission(energy: Energies, contact: float) -> Energies:
    """Transmission of a contact, ``(1 - E^2/4) / (cosh^2 nu - E^2/4)`` with ``nu = -ln J'``.

    Args:
      energy: inside the band, -2 to 2.
      contact: tunneling amplitude J', in units of the leads' hopping; not 0.

    Returns:
      float64 between 0 and 1, of the same shape.

    Raises:
      ValueError: an energy is outside the band, or the contact is 0 or not finite.
    """
    _in_band("contact_transmission", energy)
    if contact == 0 or not np.isfinite(contact):
        raise ValueError(
            f"contact_transmission: contact={contact} must be finite and not 0, where nothing "
            "passes."
        )
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

    Raises:
      ValueError: an energy is outside the band.
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

    Raises:
      ValueError: an energy is outside the band.
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

    Raises:
      ValueError: the temperature is negative or not a number.
    """
    _warm("fermi", temperature)
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
      ValueError: the window is not inside the band, or the transmission has features too narrow
        to integrate in double precision.
    """
    low, high = bias
    if not -2 <= low <= high <= 2:
        raise ValueError(f"levitov_rates: bias={bias} must be ascending and inside the band.")

    def rate(of: Callable[[Energies], Energies]) -> float:
        found = _integral("levitov_rates", lambda e: of(transmission(e)), (low, high))
        return found / (2 * np.pi)

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
      ValueError: couplings and potentials are not as many, there are none, the temperature is
        negative, or couplings are too weak for double precision. Or a state is bound outside the
        band: it never decays, so there is no steady state.
    """
    if not len(couplings) == len(mu) > 0:
        raise ValueError(
            f"dot_steady_state: couplings={couplings} and mu={mu} must have one number a lead."
        )
    _warm("dot_steady_state", temperature)
    # Beyond an edge, E - eps_d must meet the shift sum g^2 s(E), which is largest at the edge.
    shift = sum(g**2 for g in couplings)
    if level + shift > 2 or level - shift < -2:
        raise ValueError(
            f"dot_steady_state: level={level} and couplings={couplings} bind a state outside the "
            "band; keep |level| + sum g^2 at most 2."
        )
    # The resonance is one more edge, so that a piece ends in the middle of it, however narrow.
    steps = {m + width * temperature for m in mu for width in (-40, 0, 40)}
    steps.add(level / (1 - shift / 2) if shift < 2 else level)
    edges = sorted({-2.0, 2.0, *(min(max(step, -2.0), 2.0) for step in steps)})

    def total(of: Callable[..., Energies]) -> float:
        return _integral(
            "dot_steady_state", lambda e: of(e, couplings, level, mu, temperature), edges
        )

    return {"occupation": total(_spectral), "current": total(_current)}


def _in_band(function: str, energy: Energies) -> None:
    if not np.all(np.abs(energy) <= 2 + _EDGE):
        raise ValueError(f"{function}: energy={energy} must lie inside the band, -2 to 2.")


def _warm(function: str, temperature: float) -> None:
    if not temperature >= 0:
        raise ValueError(f"{function}: temperature={temperature} must be at least 0.")


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


def _integral(name: str, function: Callable[[Energies], Energies], edges: Sequence[float]) -> float:
    """Gauss-Legendre over all stretches between edges, on pieces halved until nothing changes.

    In each stretch ``E = mean + half sin(x)`` smooths the roots at the band's edges. The tails of a
    narrow line change as long as pieces are wider than their distance from it, so it is not missed.
    """
    nodes, weights = _legendre(_NODES)
    low, high = np.array(edges[:-1]), np.array(edges[1:])

    def integrals(stretch: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Of the function and of its magnitude, ``[2, pieces]``."""
        mean, half = (ends[1] + ends[0]) / 2, (ends[1] - ends[0]) / 2
        angle = mean[:, None] + half[:, None] * nodes
        middle, width = (low + high)[stretch, None] / 2, (high - low)[stretch, None] / 2
        values = function(middle + width * np.sin(angle)) * np.cos(angle) * width * half[:, None]
        return np.stack([values @ weights, abs(values) @ weights])

    stretch = np.arange(low.size)
    ends = np.stack([np.full(low.size, -np.pi / 2), np.full(low.size, np.pi / 2)])
    whole, done = integrals(stretch, ends), np.zeros(2)
    while stretch.size:
        if stretch.size > _PIECES:
            raise ValueError(
                f"{name}: a line is too narrow to integrate in double precision; widen it, by "
                "stronger couplings for instance."
            )
        middle = ends.mean(0)
        halves = [np.stack([ends[0], middle]), np.stack([middle, ends[1]])]
        parts = np.stack([integrals(stretch, half) for half in halves])
        both = parts.sum(0)
        scale = done[1] + both[1].sum()
        moving = ~(abs(both[0] - whole[0]) <= _ERROR * scale)
        done += both[:, ~moving].sum(1)
        stretch = np.tile(stretch[moving], 2)
        ends = np.concatenate([half[:, moving] for half in halves], axis=1)
        whole = np.concatenate([part[:, moving] for part in parts], axis=1)
    return float(done[0])
