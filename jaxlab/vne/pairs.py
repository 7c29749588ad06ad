"""Two-point functions as an experiment has them: pairs of sites mixed half and half, then counted.

A detector counts particles on sites: that is the diagonal of ``C``. Behind a beam splitter for the
pair i, j it counts ``(c_i + c_j) / sqrt 2`` and ``(c_i - c_j) / sqrt 2``; half the difference is
the real part of ``C[i, j]`` and, with a quarter turn ahead, its imaginary part. Pairs that share no
site are mixed at once, as in the rounds of a tournament: ``2 L - 1`` settings for an even number of
sites, ``2 L + 1`` for an odd one. All on the host, in numpy.
"""

import functools

import numpy as np
from jaxtyping import Bool, Complex128

from jaxlab.vne.sampling import Estimate, coin_entropy


def pair_settings(sites: int) -> Complex128[np.ndarray, "settings sites sites"]:
    """Single-particle unitaries of all settings, ``d = W c``, of which ``d^dag d`` is counted.

    Args:
      sites: of the region, at least 1.

    Returns:
      complex128 ``[settings, sites, sites]``, the sites themselves first. Ahead of the detector
      the correlation matrix is ``conj(W) C W^T``.

    Raises:
      ValueError: ``sites`` is not positive.
    """
    if sites < 1:
        raise ValueError(f"pair_settings: sites={sites} must be at least 1.")
    settings = [np.eye(sites, dtype=complex)]
    for pairs in _rounds(sites):
        for turn in (1, -1j):
            mixer = np.eye(sites, dtype=complex)
            for i, j in pairs:
                mixer[np.ix_([i, j], [i, j])] = np.array([[1, turn], [1, -turn]]) / np.sqrt(2)
            settings.append(mixer)
    return np.stack(settings)


def corr_from_pairs(
    occupied: Bool[np.ndarray, "settings shots sites"],
) -> Complex128[np.ndarray, "sites sites"]:
    """Least squares of the two-point functions from shots in every setting of `pair_settings`.

    Args:
      occupied: which modes were seen full, ``[settings, shots, sites]``.

    Returns:
      ``C[i, j] = <c_i^dag c_j>``, complex128 ``[sites, sites]``, Hermitian and without bias; its
      eigenvalues may leave [0, 1] by the noise of the shots.

    Raises:
      ValueError: the settings are not those of `pair_settings`.
    """
    maps = _maps(*_checked(occupied))
    return np.einsum("sabk,sk->ab", maps, occupied.mean(1))


def entropy_from_pairs(
    occupied: Bool[np.ndarray, "settings shots sites"], *, deviations: float = 1.96
) -> Estimate:
    """Two-point entropy ``S_G`` of a region from shots in every setting of `pair_settings`.

    Nothing of the state is assumed, so the interval is one for ``S_G``, of which the certificate
    makes one for the entropy. It needs occupations that stand clear of 0 and 1 by the noise of the
    shots: a pure state's frozen modes come out half full of noise, and no correction knows.

    Args:
      occupied: which modes were seen full, ``[settings, shots, sites]``.
      deviations: half width of the interval, in standard deviations.

    Returns:
      The estimate in nats: bias and spread by the jackknife, one shot of one setting left out at a
      time; shots that look alike need one evaluation.

    Raises:
      ValueError: the settings are not those of `pair_settings`, or there are fewer than two shots.

    Source: Quenouille and Tukey's jackknife, for several samples; ours for this use.
    """
    settings, sites = _checked(occupied)
    shots = occupied.shape[1]
    if shots < 2:
        raise ValueError(f"entropy_from_pairs: shots={shots} must be at least 2.")
    maps, means = _maps(settings, sites), occupied.mean(1)
    corr = np.einsum("sabk,sk->ab", maps, means)
    value = whole = float(_entropies(corr[None])[0])
    variance = 0.0
    for one, mean, seen in zip(maps, means, occupied, strict=True):
        looks, counts = _counted(seen)
        without = _entropies(corr + np.einsum("abk,pk->pab", one, mean - looks) / (shots - 1))
        average = counts @ without / shots
        value -= (shots - 1) * float(average - whole)
        variance += (shots - 1) / shots * float(counts @ (without - average) ** 2)
    width = deviations * variance**0.5
    return Estimate(value, value - width, value + width)


def _counted(seen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Different rows, and how often each stands there."""
    ordered = seen[np.lexsort(seen.T)]
    first = np.flatnonzero(np.append(True, (ordered[1:] != ordered[:-1]).any(1)))
    return ordered[first], np.diff(np.append(first, len(seen)))


def _entropies(corr: np.ndarray) -> np.ndarray:
    return coin_entropy(np.clip(np.linalg.eigvalsh(corr), 0, 1)).sum(-1)


def _checked(occupied: np.ndarray) -> tuple[int, int]:
    """Settings and sites."""
    if occupied.ndim != 3 or len(occupied) != len(pair_settings(max(1, occupied.shape[-1]))):
        raise ValueError(
            f"occupied has shape {occupied.shape}, not [settings, shots, sites] with the settings "
            "of pair_settings(sites)."
        )
    return len(occupied), occupied.shape[2]


@functools.cache
def _maps(settings: int, sites: int) -> Complex128[np.ndarray, "settings sites sites modes"]:
    """What each counted mean adds to each entry of ``C``, by the pseudoinverse of the settings."""
    mixers = pair_settings(sites)
    design = np.einsum("ska,skb->skab", mixers.conj(), mixers).reshape(settings * sites, -1)
    inverse = np.linalg.pinv(design).reshape(sites, sites, settings, sites)
    return inverse.transpose(2, 0, 1, 3)


def _rounds(sites: int) -> list[list[tuple[int, int]]]:
    """Rounds of a tournament in which each meets every other once (the circle method)."""
    players = [*range(sites + sites % 2)]
    half, rounds = len(players) // 2, []
    for _ in players[1:]:
        pairs = zip(players[:half], reversed(players[half:]), strict=True)
        rounds.append([pair for pair in pairs if max(pair) < sites])
        players.insert(1, players.pop())
    return rounds
