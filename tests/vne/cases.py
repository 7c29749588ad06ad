"""Hamiltonians, states and regions that hide no transpose and no symmetry."""

import numpy as np


def hermitian(rng: np.random.Generator, sites: int) -> np.ndarray:
    """Complex hopping between all sites."""
    matrix = rng.normal(size=(sites, sites)) + 1j * rng.normal(size=(sites, sites))
    return (matrix + matrix.conj().T) / 2


def mixed(rng: np.random.Generator, sites: int) -> np.ndarray:
    """A valid correlation matrix with occupations drawn from [0, 1]."""
    _, modes = np.linalg.eigh(hermitian(rng, sites))
    return (modes * rng.uniform(size=sites)) @ modes.conj().T


def projector(rng: np.random.Generator, sites: int, particles: int) -> np.ndarray:
    """A pure Gaussian state's correlation matrix."""
    _, modes = np.linalg.eigh(hermitian(rng, sites))
    return modes[:, :particles] @ modes[:, :particles].conj().T


def sine_kernel(length: int, fermi: float = np.pi / 2) -> np.ndarray:
    """A block of the infinite chain, ``sin(kF d) / (pi d)``."""
    distance = np.arange(length)[:, None] - np.arange(length)
    return fermi / np.pi * np.sinc(fermi * distance / np.pi) + 0j


def q12(contact: float = 0.5, phase: float | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Twelve sites with 4 and 2 particles: Hamiltonian and start, by numpy alone."""
    h = np.diag(-np.ones(11), 1).astype(complex)
    if phase is not None:
        h *= np.exp(1j * phase)
    closed = h.copy()
    closed[5, 6] = 0
    h[5, 6] *= contact
    h, closed = h + h.conj().T, closed + closed.conj().T
    start = np.zeros((12, 12), complex)
    for block, particles in ((slice(0, 6), 4), (slice(6, 12), 2)):
        _, modes = np.linalg.eigh(closed[block, block])
        start[block, block] = modes[:, :particles].conj() @ modes[:, :particles].T
    return h, start


Q12_LEFT = np.arange(12) < 6
