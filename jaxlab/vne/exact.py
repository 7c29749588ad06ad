"""Exact interacting fermions, for what two-point functions cannot tell: up to about 20 sites.

Works on the vector of amplitudes, on the host. Entries of the Hamiltonian come from numpy or, for a
second opinion, from NetKet's fermion operators (extra ``transport``), which are imported when first
asked for, without letting them switch jax's 64-bit mode.
"""

import dataclasses
import itertools
import math
import os
import typing
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Complex128, Float, Int8, Num

from jaxlab.vne.krylov import evolve_vector

_TOGETHER = 200_000
"""Rows of the Hamiltonian that NetKet builds at once."""

_LARGEST = 3_000_000
"""States of the largest sector: its vectors and matrix stay below a gigabyte or two."""

State = Complex128[np.ndarray, "*ensemble states"]


@typing.no_type_check
@dataclasses.dataclass(frozen=True, eq=False)
class Interacting:
    """Spinless fermions, ``sum h_ij c_i^dag c_j + sum_{i<j} V_ij n_i n_j``, at a fixed number.

    Spin is a second set of sites. States are amplitudes over ``basis``, with operators ordered by
    site. An ensemble is ``[members, states]``, each row with the root of its weight as its norm.
    Results are numpy arrays in double precision, in any mode of jax.

    Attributes:
      h: ``[L, L]`` Hermitian, energy.
      interaction: ``[L, L]`` symmetric, energy; its diagonal does not count.
      particles: how many, 0 to ``L``.
      implementation: what builds the Hamiltonian, ``"numpy"`` or ``"netket"``, which compiles for
        some ten seconds first; None for the faster, numpy.
      basis: int8 ``[states, L]``, occupation of every site in every basis state.
      hamiltonian: scipy sparse matrix ``[states, states]``.

    Raises:
      ValueError: a shape does not fit, a matrix is not Hermitian, or there are too many states, or
        the implementation is unknown.
      ImportError: scipy, or NetKet if asked for, is missing; install the extra ``transport``.
    """

    h: Num[np.ndarray, "sites sites"]
    interaction: Float[np.ndarray, "sites sites"]
    particles: int
    implementation: str | None = None
    basis: Int8[np.ndarray, "states sites"] = dataclasses.field(init=False, repr=False)
    hamiltonian: Any = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        h = np.asarray(self.h, np.complex128)
        interaction = np.asarray(self.interaction, np.float64)
        if h.ndim != 2 or h.shape[0] != h.shape[1] or interaction.shape != h.shape:
            raise ValueError(
                f"Interacting: h has shape {h.shape} and interaction {interaction.shape}; both "
                "must be [L, L]."
            )
        for name, matrix in (("h", h), ("interaction", interaction)):
            if not np.allclose(matrix, matrix.conj().T, rtol=0, atol=1e-12):
                raise ValueError(f"Interacting: {name} is not Hermitian; symmetrize it.")
        if not 0 <= self.particles <= len(h):
            raise ValueError(
                f"Interacting: particles={self.particles} must lie between 0 and {len(h)}."
            )
        states = math.comb(len(h), self.particles)
        if states > _LARGEST:
            raise ValueError(
                f"Interacting: {self.particles} particles on {len(h)} sites have {states} states, "
                f"more than {_LARGEST}; take fewer sites."
            )
        builders = {None: _by_numpy, "numpy": _by_numpy, "netket": _by_netket}
        if self.implementation not in builders:
            raise ValueError(
                f"Interacting: implementation={self.implementation!r} must be numpy or netket."
            )
        basis = _sector(len(h), self.particles)
        hamiltonian = builders[self.implementation](h, interaction, basis)
        for name, value in (
            ("h", h),
            ("interaction", interaction),
            ("basis", basis),
            ("hamiltonian", hamiltonian),
        ):
            object.__setattr__(self, name, value)

    @property
    def sites(self) -> int:
        """Number of sites."""
        return len(self.h)

    def ground_state(
        self,
        regions: Bool[np.ndarray, "regions sites"] | None = None,
        charges: tuple[int, ...] | None = None,
    ) -> State:
        """State of lowest energy, with given numbers of particles in uncoupled regions.

        Args:
          regions: bool ``[R, L]``, regions that the Hamiltonian does not couple; None for none.
          charges: particles in each region.

        Returns:
          complex128 ``[states]``, normalized.

        Raises:
          ValueError: the Hamiltonian couples the regions, no state has these charges, or the
            lowest level is degenerate.
        """
        inside = np.arange(len(self.basis))
        if regions is not None:
            counts = self.basis @ np.asarray(regions).T.astype(np.int64)
            inside = np.flatnonzero((counts == np.asarray(charges)).all(1))
            if not inside.size:
                raise ValueError(
                    f"ground_state: no state of {self.particles} particles has charges={charges}."
                )
        rows = self.hamiltonian[inside]
        block = rows[:, inside]
        if rows.nnz != block.nnz:
            raise ValueError("ground_state: the Hamiltonian couples the regions; uncouple them.")
        state = np.zeros(len(self.basis), np.complex128)
        state[inside] = _lowest(block)
        return state

    def thermal_state(self, temperature: float) -> Complex128[np.ndarray, "members states"]:
        """Canonical ensemble, all eigenstates with their weights; for small sectors.

        Args:
          temperature: above 0, energy (k_B = 1).

        Returns:
          complex128 ``[states, states]``; the squared norms of its rows are the weights.

        Raises:
          ValueError: the temperature is not positive, or the sector has more than 2,000 states.
        """
        if not temperature > 0 or len(self.basis) > 2000:
            raise ValueError(
                f"thermal_state: temperature={temperature} must be positive, and the sector's "
                f"{len(self.basis)} states at most 2000."
            )
        energies, vectors = np.linalg.eigh(self.hamiltonian.toarray())
        weights = np.exp((energies[0] - energies) / temperature)
        return np.sqrt(weights / weights.sum())[:, None] * vectors.T

    def evolve(
        self, state: State, times: Float[np.ndarray, " times"]
    ) -> Complex128[np.ndarray, "times *ensemble states"]:
        """Evolves a state by Krylov steps, to about 1e-12 in norm.

        Args:
          state: complex128 ``[states]`` or ``[members, states]`` at time 0.
          times: ``[T]``, in any order, in units of hbar / energy.

        Returns:
          complex128 ``[T, states]`` or ``[T, members, states]``.

        Raises:
          ValueError: a time is not finite.
        """
        if not np.isfinite(times).all():
            raise ValueError(f"Interacting: times={times} must be finite.")
        if np.ndim(state) == 2:
            return np.stack([self.evolve(member, times) for member in state], axis=1)
        found = np.empty((len(times), len(self.basis)), np.complex128)
        now, reached = np.asarray(state, np.complex128), 0.0
        for place in np.argsort(times):
            now = evolve_vector(self.hamiltonian, now, float(times[place]) - reached)
            reached = float(times[place])
            found[place] = now
        return found

    def correlation(self, state: State) -> Complex128[np.ndarray, "sites sites"]:
        """Two-point function ``C[i, j] = <c_i^dag c_j>``.

        Args:
          state: complex128 ``[states]`` or ``[members, states]``.

        Returns:
          complex128 ``[L, L]``, Hermitian.
        """
        state = np.atleast_2d(state)
        weights = (np.abs(state) ** 2).sum(0)
        corr = np.diag(weights @ self.basis).astype(np.complex128)
        hops = _hopping(self.basis)
        for i, j in itertools.combinations(range(self.sites), 2):
            sources, targets, signs = hops(i, j)
            corr[i, j] = np.vdot(state[:, targets], signs * state[:, sources])
            corr[j, i] = corr[i, j].conj()
        return corr

    def entropy(self, state: State, region: Bool[np.ndarray, " sites"]) -> float:
        """Von Neumann entropy of the reduced state of a region.

        Args:
          state: complex128 ``[states]`` or ``[members, states]``.
          region: bool ``[L]``; sites need not be neighbors, and the signs of exchange are kept.

        Returns:
          The entropy, in nats.

        Raises:
          ValueError: the region does not fit.
        """
        inside, first, second, signs = self._split(region)
        signed, total = signs * np.atleast_2d(state), 0.0
        for charge in np.unique(inside):
            chosen = inside == charge
            rows, row = np.unique(first[chosen], return_inverse=True)
            columns, column = np.unique(second[chosen], return_inverse=True)
            # Members of an ensemble act as one more part of what is traced out.
            amplitudes = np.zeros((rows.size, len(signed), columns.size), np.complex128)
            amplitudes[row, :, column] = signed[:, chosen].T
            flat = amplitudes.reshape(rows.size, -1)
            weights = np.linalg.svd(flat, compute_uv=False) ** 2
            weights = weights[weights > 0]
            total -= float(weights @ np.log(weights))
        return max(total, 0.0)

    def charge_distribution(
        self, state: State, region: Bool[np.ndarray, " sites"]
    ) -> Float[np.ndarray, " outcomes"]:
        """Probability of every number of particles in a region.

        Args:
          state: complex128 ``[states]`` or ``[members, states]``.
          region: bool ``[L]``.

        Returns:
          float64 ``[L + 1]``, as `jaxlab.vne.charge_distribution`.

        Raises:
          ValueError: the region does not fit.
        """
        inside, *_ = self._split(region)
        return np.bincount(inside, (np.abs(np.atleast_2d(state)) ** 2).sum(0), self.sites + 1)

    def _split(self, region: Any) -> tuple[np.ndarray, ...]:
        """Charge inside, codes inside and outside, and sign of moving the region's modes first."""
        region = np.asarray(region)
        if region.dtype != np.bool_ or region.shape != (self.sites,):
            raise ValueError(
                f"Interacting: region must be bool [{self.sites}], got {region.dtype} "
                f"{region.shape}."
            )
        outside = np.cumsum(self.basis * ~region, axis=1, dtype=np.int64)
        passed = (outside * (self.basis * region)).sum(1)
        counts = self.basis @ region.astype(np.int64)
        return (
            counts,
            _codes(self.basis * region),
            _codes(self.basis * ~region),
            1 - 2 * (passed % 2),
        )


def _lowest(block: Any) -> np.ndarray:
    """Ground state of a sparse Hermitian matrix, if it is alone."""
    from scipy.sparse.linalg import eigsh

    if block.shape[0] <= 400:
        energies, vectors = np.linalg.eigh(block.toarray())
    else:
        start = np.random.default_rng(0).normal(size=block.shape[0])
        energies, vectors = eigsh(block, k=2, which="SA", v0=start)
        order = np.argsort(energies)
        energies, vectors = energies[order], vectors[:, order]
    if energies.size > 1 and energies[1] - energies[0] < 1e-9 * max(1.0, abs(energies[0])):
        raise ValueError("ground_state: the lowest level is degenerate; fix the charges.")
    return vectors[:, 0]


def _hopping(basis: np.ndarray) -> Callable[[int, int], tuple[np.ndarray, ...]]:
    """``c_i^dag c_j`` for ``i < j``: states that it acts on, what it makes of them, and signs."""
    codes, before = _codes(basis), np.cumsum(basis, axis=1, dtype=np.int64)

    def hops(i: int, j: int) -> tuple[np.ndarray, ...]:
        sources = np.flatnonzero((basis[:, j] == 1) & (basis[:, i] == 0))
        targets = np.searchsorted(codes, codes[sources] + (1 << i) - (1 << j))
        return sources, targets, 1 - 2 * ((before[sources, j - 1] - before[sources, i]) % 2)

    return hops


def _by_numpy(h: np.ndarray, interaction: np.ndarray, basis: np.ndarray) -> Any:
    """Sparse Hamiltonian of one sector: half of its hops, their conjugates, and the diagonal."""
    from scipy.sparse import csr_matrix, diags

    hops, upper = _hopping(basis), csr_matrix((len(basis),) * 2, dtype=np.complex128)
    for i, j in np.argwhere(np.triu(h, 1) != 0).tolist():
        sources, targets, signs = hops(i, j)
        upper += csr_matrix((h[i, j] * signs, (targets, sources)), shape=upper.shape)
    pairs = (basis @ np.triu(interaction, 1) * basis).sum(1)
    diagonal = basis @ h.diagonal().real + pairs
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
    columns = np.searchsorted(_codes(basis), _codes(reached))
    return values.astype(np.complex128), np.repeat(rows, np.diff(ends, prepend=0)), columns


def _sector(sites: int, particles: int) -> np.ndarray:
    """All occupations with a given number of particles, in ascending order of their codes."""
    states = math.comb(sites, particles)
    occupied = itertools.chain.from_iterable(itertools.combinations(range(sites), particles))
    places = np.fromiter(occupied, np.int64, states * particles).reshape(states, particles)
    basis = np.zeros((states, sites), np.int8)
    np.put_along_axis(basis, places, 1, axis=1)
    return basis[np.argsort(_codes(basis))]


def _codes(occupations: np.ndarray) -> np.ndarray:
    """One integer for each row of zeros and ones."""
    return occupations.astype(np.int64) @ (1 << np.arange(occupations.shape[1]))


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
