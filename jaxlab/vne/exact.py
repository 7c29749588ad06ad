"""Exact interacting fermions, for what two-point functions cannot tell: up to about 20 sites.

Works on the vector of amplitudes of one number of particles (`sector`), on the host.
"""

import dataclasses
import itertools
import math
import typing
from typing import Any

import numpy as np
from jaxtyping import Bool, Complex128, Float, Int8, Num

from jaxlab.vne.krylov import evolve_vector
from jaxlab.vne.sector import build, codes, hopping, sector

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
        basis = sector(len(h), self.particles)
        hamiltonian = build(h, interaction, basis, self.implementation)
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
          ValueError: regions come without charges, charges without regions or not as many, the
            Hamiltonian couples the regions, no state has these charges, or the lowest level is
            degenerate.
        """
        inside = np.arange(len(self.basis))
        if (0 if regions is None else len(regions)) != (0 if charges is None else len(charges)):
            raise ValueError(
                f"ground_state: charges={charges} must be one number for each of regions="
                f"{regions}; give both or neither."
            )
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

        Raises:
          ValueError: the state is not normalized.
        """
        state = _normalized(state)
        weights = (np.abs(state) ** 2).sum(0)
        corr = np.diag(weights @ self.basis).astype(np.complex128)
        hops = hopping(self.basis)
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
          ValueError: the region does not fit, or the state is not normalized.
        """
        inside, first, second, signs = self._split(region)
        signed, total = signs * _normalized(state), 0.0
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
          ValueError: the region does not fit, or the state is not normalized.
        """
        inside, *_ = self._split(region)
        return np.bincount(inside, (np.abs(_normalized(state)) ** 2).sum(0), self.sites + 1)

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
            codes(self.basis * region),
            codes(self.basis * ~region),
            1 - 2 * (passed % 2),
        )


def _normalized(state: State) -> Complex128[np.ndarray, "members states"]:
    """The rows of an ensemble, if their weights add up to one."""
    rows = np.atleast_2d(state)
    weight = float((np.abs(rows) ** 2).sum())
    if not abs(weight - 1) <= 1e-8:
        raise ValueError(
            f"Interacting: the state's squared norm is {weight}, not 1; divide it by its norm, and "
            "the rows of an ensemble by the root of their number where they weigh the same."
        )
    return rows


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
