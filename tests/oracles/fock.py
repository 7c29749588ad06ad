"""Fermions by brute force: dense Jordan-Wigner matrices over all 2^L states, nothing clever."""

import functools
import itertools

import numpy as np
import scipy.linalg


@functools.cache
def annihilators(sites: int) -> tuple[np.ndarray, ...]:
    """``c_0 .. c_{L-1}``; site 0 is the leftmost factor."""
    lower, sign, one = np.array([[0, 1], [0, 0]]), np.diag([1, -1]), np.eye(2)
    return tuple(
        functools.reduce(np.kron, [sign] * place + [lower] + [one] * (sites - place - 1))
        for place in range(sites)
    )


def hamiltonian(h: np.ndarray, interaction: np.ndarray | None = None) -> np.ndarray:
    """``sum h_ij c_i^dag c_j + sum_{i<j} V_ij n_i n_j``."""
    c = annihilators(len(h))
    total = sum(
        h[i, j] * c[i].conj().T @ c[j] for i, j in itertools.product(range(len(h)), repeat=2)
    )
    if interaction is not None:
        n = [x.conj().T @ x for x in c]
        total = total + sum(
            interaction[i, j] * n[i] @ n[j] for i, j in itertools.combinations(range(len(h)), 2)
        )
    return total


def ground(matrix: np.ndarray, sites: int, charges: dict[tuple[int, ...], int]) -> np.ndarray:
    """Density matrix of the lowest state with given charges on groups of sites."""
    kept = np.ones(2**sites, bool)
    for group, charge in charges.items():
        kept &= np.array([sum(bits[i] for i in group) == charge for bits in configurations(sites)])
    places = np.flatnonzero(kept)
    _, vectors = np.linalg.eigh(matrix[np.ix_(places, places)])
    state = np.zeros(2**sites, complex)
    state[places] = vectors[:, 0]
    return np.outer(state, state.conj())


def configurations(sites: int) -> list[tuple[int, ...]]:
    return list(itertools.product((0, 1), repeat=sites))


def thermal(matrix: np.ndarray, number: np.ndarray, beta: float, mu: float) -> np.ndarray:
    weights = scipy.linalg.expm(-beta * (matrix - mu * number))
    return weights / np.trace(weights)


def evolved(rho: np.ndarray, matrix: np.ndarray, time: float) -> np.ndarray:
    unitary = scipy.linalg.expm(-1j * matrix * time)
    return unitary @ rho @ unitary.conj().T


def correlation(rho: np.ndarray, sites: int) -> np.ndarray:
    """``C[i, j] = Tr rho c_i^dag c_j``."""
    c = annihilators(sites)
    return np.array([[np.trace(rho @ a.conj().T @ b) for b in c] for a in c])


def von_neumann(rho: np.ndarray) -> float:
    weights = np.linalg.eigvalsh((rho + rho.conj().T) / 2)
    weights = weights[weights > 1e-15]
    return float(-(weights * np.log(weights)).sum())


def reduced(rho: np.ndarray, sites: int, region: np.ndarray) -> np.ndarray:
    """State of a region, defined by its expectation values: products of its own operators.

    The monomials of the region's operators, in Jordan-Wigner order of the region alone, span its
    algebra; ``rho_A`` is the matrix of the smaller system with the same expectation values.
    """
    inside = np.flatnonzero(region)
    big, small = annihilators(sites), annihilators(len(inside))
    total = np.zeros((2 ** len(inside),) * 2, complex)
    # Per site a basis orthogonal under Tr a^dag b of {1, n, c, c^dag}: 1-n, n, c, c^dag.
    for choice in itertools.product(range(4), repeat=len(inside)):
        one, other = np.eye(len(big[0])), np.eye(len(small[0]))
        for kind, place, index in zip(choice, inside, range(len(inside)), strict=True):
            for_big, for_small = _local(big[place])[kind], _local(small[index])[kind]
            one, other = one @ for_big, other @ for_small
        total += np.trace(rho @ one) * other.conj().T / np.trace(other @ other.conj().T)
    return total


def _local(c: np.ndarray) -> tuple[np.ndarray, ...]:
    n = c.conj().T @ c
    return np.eye(len(c)) - n, n, c, c.conj().T


def charge_distribution(rho: np.ndarray, sites: int, region: np.ndarray) -> np.ndarray:
    inside = np.flatnonzero(region)
    chances = np.zeros(len(inside) + 1)
    for place, bits in enumerate(configurations(sites)):
        chances[sum(bits[i] for i in inside)] += rho[place, place].real
    return chances
