"""Fermions of a definite number on a few sites: basis, signs of hops, sparse Hamiltonian.

Entries of the Hamiltonian come from numpy or, for a second opinion, from NetKet's fermion operators
(extra ``transport``), which are imported when first asked for, without letting them switch jax's
64-bit mode.
"""

import itertools
import math
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

_TOGETHER = 200_000
"""Rows of the Hamiltonian that NetKet builds at once."""


def sector(sites: int, particles: int) -> np.ndarray:
    """All occupations with a given number of particles, in ascending order of their codes."""
    states = math.comb(sites, particles)
    occupied = itertools.chain.from_iterable(itertools.combinations(range(sites), particles))
    places = np.fromiter(occupied, np.int64, states * particles).reshape(states, particles)
    basis = np.zeros((states, sites), np.int8)
    np.put_along_axis(basis, places, 1, axis=1)
    return basis[np.argsort(codes(basis))]


def codes(occupations: np.ndarray) -> np.ndarray:
    """One integer for each row of zeros and ones."""
    return occupations.astype(np.int64) @ (1 << np.arange(occupations.shape[1]))


def hopping(basis: np.ndarray) -> Callable[[int, int], tuple[np.ndarray, ...]]:
    """``c_i^dag c_j`` for ``i < j``: states that it acts on, what it makes of them, and signs."""
    places, before = codes(basis), np.cumsum(basis, axis=1, dtype=np.int64)

    def hops(i: int, j: int) -> tuple[np.ndarray, ...]:
        sources = np.flatnonzero((basis[:, j] == 1) & (basis[:, i] == 0))
        targets = np.searchsorted(places, places[sources] + (1 << i) - (1 << j))
        return sources, targets, 1 - 2 * ((before[sources, j - 1] - before[sources, i]) % 2)

    return hops


def build(
    h: np.ndarray, interaction: np.ndarray, basis: np.ndarray, implementation: str | None
) -> Any:
    """Sparse Hamiltonian ``[states, states]`` over a sector's basis."""
    builders = {None: _by_numpy, "numpy": _by_numpy, "netket": _by_netket}
    if implementation not in builders:
        raise ValueError(f"Interacting: implementation={implementation!r} must be numpy or netket.")
    return builders[implementation](h, interaction, basis)


def _by_numpy(h: np.ndarray, interaction: np.ndarray, basis: np.ndarray) -> Any:
    """Sparse Hamiltonian of one sector: half of its hops, their conjugates, and the diagonal."""
    from scipy.sparse import csr_matrix, diags

    hops, upper = hopping(basis), csr_matrix((len(basis),) * 2, dtype=np.complex128)
    for i, j in np.argwhere(np.triu(h, 1) != 0).tolist():
        sources, targets, signs = hops(i, j)
        upper += csr_matrix((h[i, j] * signs, (targets, sources)), shape=upper.shape)
    pairs = (basis @ np.triu(interaction, 1) * basis).sum(1)
    diagonal = basis @ np.real(h.diagonal()) + pairs
    return csr_matrix(upper + upper.conj().T + diags(diagonal))


def _by_netket(h: np.ndarray, interaction: np.ndarray, basis: np.ndarray) -> Any:
    """The same by NetKet's operators."""
    from scipy.sparse import csr_matrix

    sites, particles = len(h), int(basis[0].sum())
    terms: list[tuple[tuple[int, int], ...]] = [
        ((i, 1), (j, 0)) for i, j in np.argwhere(h != 0).tolist()
    ]
    weights = list(h[h != 0])
    for i, j in np.argwhere(np.triu(interaction, 1) != 0).tolist():
        terms.append(((i, 1), (i, 0), (j, 1), (j, 0)))
        weights.append(interaction[i, j])
    shape = (len(basis),) * 2
    if not terms:
        return csr_matrix(shape, dtype=np.complex128)
    netket = _netket()
    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it recommends others, for sampling
        hilbert = netket.hilbert.SpinOrbitalFermions(sites, n_fermions=particles)
        operator = netket.operator.FermionOperator2ndNumba(hilbert, terms, weights)
        parts = [
            _rows(operator, basis, np.arange(first, min(first + _TOGETHER, len(basis))))
            for first in range(0, len(basis), _TOGETHER)
        ]
    values, rows, columns = (np.concatenate(part) for part in zip(*parts, strict=True))
    return csr_matrix((values, (rows, columns)), shape=shape)


def _rows(operator: Any, basis: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
    """Entries of some rows, their rows and their columns.

    `to_sparse` gives the same, but compiles a program of jax for every number of entries.
    """
    ends = np.zeros(len(rows), np.int64)
    reached, values = operator.get_conn_flattened(basis[rows], ends)
    columns = np.searchsorted(codes(basis), codes(reached))
    return values.astype(np.complex128), np.repeat(rows, np.diff(ends, prepend=0)), columns


def _netket() -> Any:
    """NetKet, imported without its switching 64-bit mode or setting a mesh for the process."""
    # The import sets 64-bit mode, on or off. A scope hides the process's mode from its own thread.
    with ThreadPoolExecutor(1) as elsewhere:
        wide = elsewhere.submit(lambda: jax.config.values["jax_enable_x64"]).result()
    quiet = {"NETKET_ENABLE_X64": str(int(wide)), "NETKET_SHARDING": "0"}
    before = {name: os.environ.get(name) for name in quiet}
    os.environ.update(quiet)
    try:
        import netket
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    return netket
