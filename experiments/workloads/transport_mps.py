"""A matrix-product reference (quimb) for chains that are too long for exact states."""

import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.workloads.transport_programs import in_double
from jaxlab.vne import block_diag, certificate, entropy, evolve_eig, ground_corr, hopping_chain, qpc

CONTACT = 0.5
_STEP = 0.1
"""Of the fourth-order splitting."""


def leads(lead: int, strength: float, bond: int):
    """Two uncoupled half-filled chains in their ground states, as one matrix-product state.

    The interaction is ``V (n - 1/2) (n - 1/2)`` between neighbors, symmetric in particles and
    holes, so that the lowest state of all is the half-filled one.
    """
    import quimb.tensor as qtn

    solver = qtn.DMRG2(
        qtn.MPO_ham_heis(lead, j=(-2.0, -2.0, strength)), bond_dims=[16, 32, bond], cutoffs=1e-12
    )
    solver.opts["local_eig_tol"] = 1e-10  # 1e-3 is too coarse for correlations
    solver.solve(tol=1e-13, max_sweeps=20, verbosity=0)
    solver.state.normalize()
    half = _tensors(solver.state)
    arrays = [half[0][0], *half[1:], *half[:-1], half[-1][:, 0]]
    return qtn.MatrixProductState(arrays, shape="lrp")


def evolver(state, lead: int, strength: float, bond: int):
    """Time evolution by splitting, with the contact open."""
    import quimb as qu
    import quimb.tensor as qtn

    x, y, z = (qu.spin_operator(axis) for axis in "xyz")
    hop, charge = -2 * (x & x) - 2 * (y & y), strength * (z & z)
    terms = {(n, n + 1): hop + charge for n in range(2 * lead - 1)}
    terms[lead - 1, lead] = CONTACT * hop
    ham = qtn.LocalHam1D(2 * lead, H2=terms)
    options = {"cutoff": 1e-10, "max_bond": bond}
    return qtn.TEBD(state, ham, dt=_STEP, progbar=False, split_opts=options)


def half_entropy(state, lead: int) -> float:
    """Entropy of the left lead, in nats."""
    weights = np.asarray(state.schmidt_values(lead))
    weights = weights[weights > 0] / weights.sum()
    return float(-(weights * np.log(weights)).sum())


def correlation(state) -> np.ndarray:
    """``<c_i^dag c_j>`` of a spin chain, with the strings of Jordan and Wigner between the sites.

    The occupied state is spin up, index 0 of the physical axis.
    """
    tensors = _tensors(state)
    sites = len(tensors)
    raised = np.array([[0.0, 1.0], [0.0, 0.0]])
    string = np.diag([-1.0, 1.0])

    def across(left: np.ndarray, site: int, operator: np.ndarray) -> np.ndarray:
        ket = tensors[site]
        moved = np.einsum("pq,lrq->lrp", operator, ket)
        half = np.tensordot(left, moved, axes=(1, 0))
        return np.tensordot(ket.conj(), half, axes=((0, 2), (0, 2)))

    right = [np.ones((1, 1))]
    for ket in tensors[::-1]:
        half = np.tensordot(ket, right[0], axes=(1, 1))
        right.insert(0, np.tensordot(ket.conj(), half, axes=((1, 2), (2, 1))))
    left, corr = np.ones((1, 1)), np.zeros((sites, sites), complex)
    for i in range(sites):
        corr[i, i] = (across(left, i, raised @ raised.T) * right[i + 1]).sum()
        open_string = across(left, i, raised)
        for j in range(i + 1, sites):
            corr[i, j] = (across(open_string, j, raised.T) * right[j + 1]).sum()
            corr[j, i] = corr[i, j].conj()
            open_string = across(open_string, j, string)
        left = across(left, i, np.eye(2))
    return corr / left.item().real


def _tensors(state) -> list[np.ndarray]:
    """Arrays of all sites with the axes left, right, physical."""
    state = state.copy()
    state.permute_arrays("lrp")
    first, *middle, last = (np.asarray(array) for array in state.arrays)
    return [first[None], *middle, last[:, None]]


@in_double
def long_quenches(
    lead: int, strength: float, bond: int, times: tuple[float, ...], kinds: tuple[str, ...]
) -> list[dict]:
    """Gap S_G - S in long leads whose couplings are switched off, left, or never there."""
    left = np.arange(2 * lead) < lead
    rows = []
    for kind in kinds:
        start = leads(lead, 0.0 if kind == "free" else strength, bond)
        walk = evolver(start, lead, strength if kind == "none" else 0.0, bond)
        for at in times:
            walk.update_to(at, order=4)
            exact, corr = half_entropy(walk.pt, lead), correlation(walk.pt)
            low, high = map(float, certificate(corr, left))
            gaussian = float(entropy(corr, left))
            rows.append(
                {
                    "strength": strength,
                    "quench": kind,
                    "time": at,
                    "exact": exact,
                    "gaussian": gaussian,
                    "gap": gaussian - exact,
                    "gap / S": (gaussian - exact) / exact,
                    "low": low,
                    "high": high,
                    "bond": walk.pt.max_bond(),
                }
            )
    return rows


@in_double
def beside_quimb(lead: int, bond: int, times: tuple[float, ...]) -> dict:
    """The free curve by matrix products and from two-point functions: difference and seconds."""
    half = ground_corr(hopping_chain(lead), lead // 2)
    at, left = np.array(times), np.arange(lead)

    def ours() -> jax.Array:
        start = block_diag(half, half)
        h = qpc(lead, lead, contact=CONTACT)
        return evolve_eig(h, start, jnp.asarray(at), sites=left, measure=entropy)

    found, seconds = np.asarray(ours()), []
    for _ in range(5):
        began = time.perf_counter()
        ours().block_until_ready()
        seconds.append(time.perf_counter() - began)
    start = leads(lead, 0.0, bond)
    began = time.perf_counter()
    walk, theirs = evolver(start, lead, 0.0, bond), []
    for now in times:
        walk.update_to(now, order=4)
        theirs.append(half_entropy(walk.pt, lead))
    theirs_seconds = time.perf_counter() - began
    return {
        "error": float(np.abs(found - theirs).max()),
        "ratios": [theirs_seconds / one for one in seconds],
        "seconds": theirs_seconds,
    }
