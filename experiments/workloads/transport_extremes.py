"""How far apart the entropies of states with the same two-point functions really are.

The certificate knows ``C`` and the entropy of all sites, nothing else. A search among all density
matrices without coherence between charges, on few sites, finds states with just these data and the
least or the largest entropy of the region: no bracket from these data can be narrower.
"""

import functools
import itertools

import numpy as np
import scipy.optimize

from experiments.workloads.transport_exact import Quench, random_quenches
from experiments.workloads.transport_programs import in_double
from jaxlab.vne import certificate, entropy

_SITES = 5
_ERROR = 1e-5
"""By which the data of a state that is found may differ."""


@in_double
def reached_widths(count: int, seed: int) -> list[dict]:
    """Plain, certified and reached widths of thermal quenches that zero does not clip."""
    rows = []
    for one in random_quenches(40 * count, seed, ((_SITES, 2),)):
        surplus = float(entropy(one.corr)) - one.start
        if not one.thermal or not 1e-6 < surplus <= float(entropy(one.corr, one.region)):
            continue
        low, high = map(float, certificate(one.corr, one.region, one.start))
        order = np.argsort(~one.region, kind="stable")
        corr, inside = one.corr[np.ix_(order, order)], int(one.region.sum())
        search = _Search(corr, inside, one.start, _density(one, order))
        ends = [search.extreme(sign) for sign in (1.0, -1.0)]
        found = [end for end in ends if end is not None]
        rows.append(
            {
                "sites of the region": inside,
                "entropy of the start": one.start,
                "plain": surplus,
                "certified": high - low,
                # Both states have the data, whichever of the two lies higher.
                "reached": abs(found[1] - found[0]) if len(found) == 2 else None,
            }
        )
        if len(rows) == count:
            break
    return rows


def _density(one: Quench, order: np.ndarray) -> np.ndarray:
    """The true state over all occupations, with the sites in another order."""
    sites = len(order)
    rank = np.argsort(order)
    crossed = np.triu(rank[:, None] > rank, 1)
    passed = np.einsum("si,ij,sj->s", one.basis, crossed, one.basis)
    vectors = np.zeros((len(one.ensemble), 2**sites), complex)
    places = one.basis[:, order] @ (1 << np.arange(sites)[::-1])
    vectors[:, places] = one.ensemble * (1 - 2 * (passed % 2))
    return vectors.T @ vectors.conj()


class _Search:
    """States with given two-point functions and entropy, the region's modes first.

    ``known`` is one of them.
    """

    def __init__(self, corr: np.ndarray, inside: int, start: float, known: np.ndarray):
        lower, sign, one = np.array([[0, 1], [0, 0]]), np.diag([1, -1]), np.eye(2)
        sites = len(corr)
        c = [
            functools.reduce(np.kron, [sign] * n + [lower] + [one] * (sites - n - 1))
            for n in range(sites)
        ]
        self.corr, self.start, self.known = corr, start, known
        self.pairs = np.array([a.T @ b for a, b in itertools.product(c, repeat=2)])
        self.traces = self.pairs.transpose(0, 2, 1).reshape(len(self.pairs), -1)
        charge = sum(a.T @ a for a in c).diagonal().round()
        self.blocks = [np.flatnonzero(charge == n) for n in range(sites + 1)]
        self.places = np.nonzero(charge[:, None] == charge)
        self.shape = (2**inside, 2 ** (sites - inside))

    def extreme(self, sign: float) -> float | None:
        """Least (sign 1) or largest (sign -1) entropy of the region that the search finds.

        From the Gaussian state and, where the data are not met in the end, once more from the state
        that is known. None where they are not met either.
        """
        found = self._from(self._gaussian(), sign, 10.0)
        return self._from(_root(self.known), sign, 300.0) if found is None else found

    def _from(self, root: np.ndarray, sign: float, stiffness: float) -> float | None:
        """Augmented Lagrangian from a state's root, moved a little so that no symmetry holds it."""
        x = self._pack(root / np.linalg.norm(root))
        x = x + 0.02 * np.abs(x).max() * np.random.default_rng(0).normal(size=x.size)
        force, pull, last = 0 * self.corr, 0.0, 1.0
        for _ in range(14):
            x = scipy.optimize.minimize(
                self._lagrangian,
                x,
                (sign, force, pull, stiffness),
                jac=True,
                method="L-BFGS-B",
                options={"maxiter": 60, "maxcor": 15},
            ).x
            x /= np.linalg.norm(x)
            state = self._state(x)[1]
            off, excess = self._errors(state)
            force, pull = force + stiffness * off, pull + stiffness * excess
            error = max(np.abs(off).max(), abs(excess))
            if error < _ERROR / 10:
                break
            if error > 0.3 * last:
                stiffness = min(2 * stiffness, 1e5)
            last = error
        return _log(self._part(state))[1] if error < _ERROR else None

    def _gaussian(self) -> np.ndarray:
        """Root of the Gaussian state, up to a factor."""
        z, modes = np.linalg.eigh(self.corr.T)
        z = np.clip(z, 1e-9, 1 - 1e-9)
        energy = (modes * np.log((1 - z) / z)) @ modes.conj().T
        levels, states = np.linalg.eigh(np.tensordot(energy.ravel(), self.pairs, 1))
        return (states * np.exp((levels[0] - levels) / 2)) @ states.conj().T

    def _pack(self, matrix: np.ndarray) -> np.ndarray:
        return np.concatenate([matrix[self.places].real, matrix[self.places].imag])

    def _state(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        root = np.zeros((np.prod(self.shape),) * 2, complex)
        root[self.places] = x[: x.size // 2] + 1j * x[x.size // 2 :]
        state = root @ root.conj().T
        weight = float(np.trace(state).real)
        return root, state / weight, weight

    def _part(self, state: np.ndarray) -> np.ndarray:
        return np.einsum("abcb->ac", state.reshape(self.shape * 2))

    def _total(self, state: np.ndarray) -> tuple[np.ndarray, float]:
        """Logarithm and entropy of the whole, block by block."""
        logarithm, entropy_found = np.zeros_like(state), 0.0
        for block in self.blocks:
            logarithm[np.ix_(block, block)], part = _log(state[np.ix_(block, block)])
            entropy_found += part
        return logarithm, entropy_found

    def _errors(self, state: np.ndarray) -> tuple[np.ndarray, float]:
        found = self.traces @ state.ravel()
        return found.reshape(self.corr.shape) - self.corr, self._total(state)[1] - self.start

    def _lagrangian(
        self, x: np.ndarray, sign: float, force: np.ndarray, pull: float, stiffness: float
    ) -> tuple[float, np.ndarray]:
        root, state, weight = self._state(x)
        off, excess = self._errors(state)
        logarithm, _ = self._total(state)
        inner, found = _log(self._part(state))
        value = sign * found + (force.conj() * off).real.sum() + pull * excess
        value += stiffness / 2 * ((np.abs(off) ** 2).sum() + excess**2)
        slope = -sign * np.kron(inner, np.eye(self.shape[1]))
        slope -= (pull + stiffness * excess) * logarithm
        slope += np.tensordot((force + stiffness * off).conj().ravel(), self.pairs, 1)
        slope = (slope + slope.conj().T) / 2
        slope -= (slope * state.T).sum().real * np.eye(len(state))
        return value, self._pack(2 * slope @ root / weight)


def _root(matrix: np.ndarray) -> np.ndarray:
    """Root of a positive matrix."""
    weights, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(weights, 0))) @ vectors.conj().T


def _log(matrix: np.ndarray) -> tuple[np.ndarray, float]:
    """Logarithm of a positive matrix, finite at zero, and its entropy."""
    weights, vectors = np.linalg.eigh(matrix)
    weights = np.maximum(weights, 0)
    logs = np.log(np.maximum(weights, 1e-13))
    return (vectors * logs) @ vectors.conj().T, -float(weights @ logs)
