"""What the fast path costs beside the library calls it cannot do without."""

import dataclasses
import os
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from experiments.workloads.transport_programs import in_double
from jaxlab.measure import compiled_cost, time_ratio
from jaxlab.vne import entropy, evolve_eig, map_quenches, qpc


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of the speed measurements.

    Attributes:
      sites: of the half-chain entropy curve.
      times: of it.
      rounds: samples of each function.
      large: sites, times and quenches of the program whose memory is read.
      run: quenches and times of it that are really run.
      full: sites, times and quenches of the batch that is run in full.
    """

    sites: int = 1024
    times: int = 100
    rounds: int = 3
    large: tuple[int, int, int] = (2048, 200, 64)
    run: tuple[int, int] = (2, 5)
    full: tuple[int, int, int] = (512, 100, 16)


def _half_entropy(now: jax.Array) -> jax.Array:
    return entropy(now)


@in_double
def beside_library_calls(sizes: Sizes) -> dict:
    """The curve against its eigenproblems and products alone, called from numpy and scipy.

    Both are timed as a whole, in turns: a single call of a few hundredths of a second, timed once
    and multiplied, says little on a machine that others use too.
    """
    sites, half = sizes.sites, sizes.sites // 2
    h = qpc(half, half, contact=0.5)
    start = np.diag(np.arange(sites) < half).astype(complex)
    times, left = np.linspace(1, 0.4 * half, sizes.times), np.arange(half)
    on_host = np.asarray(h)
    rng = np.random.default_rng(0)
    block = np.asarray(evolve_eig(h, start, times[-1:], sites=left)[0])
    square, rows = rng.normal(size=(sites, sites)), rng.normal(size=(half, sites))
    columns = np.ascontiguousarray(rows.T)

    def ours():
        return evolve_eig(h, start, times, sites=left, measure=_half_entropy)

    def calls():
        scipy.linalg.eigh(on_host, driver="evd", check_finite=False)
        for _ in range(2):  # the start, into the eigenbasis
            square @ square
        for _ in times:
            rows @ square @ columns
            scipy.linalg.eigh(block, eigvals_only=True, driver="evd", check_finite=False)
        return ()

    timed = time_ratio(calls, ours, names=("calls", "ours"), rounds=sizes.rounds, warmup=1)
    ratios = timed.seconds[:, 1] / timed.seconds[:, 0]
    return {
        "calls": float(timed.median[0]),
        "ours": float(timed.median[1]),
        "ratio": float(np.max(ratios)),
        "spread": ratios,
    }


def _curves(contacts: jax.Array, sites: int, times: int) -> jax.Array:
    half = sites // 2
    start = jnp.diag(jnp.arange(sites) < half).astype(jnp.complex128)

    def curve(contact: jax.Array) -> jax.Array:
        return evolve_eig(
            qpc(half, half, contact=contact),
            start,
            jnp.linspace(1, 0.4 * half, times),
            sites=jnp.arange(half),
            measure=_half_entropy,
        )

    return map_quenches(curve, contacts)


@in_double
def memory(sizes: Sizes) -> dict:
    """Temporary bytes of the large program; a small part of it is run."""
    sites, times, quenches = sizes.large
    program = jax.jit(_curves, static_argnums=(1, 2))
    cost = compiled_cost(
        program.lower(jax.ShapeDtypeStruct((quenches,), jnp.float64), sites, times)
    )
    some, few = sizes.run
    found = program(jnp.linspace(0.3, 0.9, some), sites, few)
    return {"temp_bytes": cost.temp_bytes, "finite": bool(jnp.isfinite(found).all())}


@in_double
def full_batch(sizes: Sizes) -> dict:
    """Seconds of a batch of quenches run in full, compilation included."""
    import time

    sites, times, quenches = sizes.full
    started = time.perf_counter()
    found = jax.jit(_curves, static_argnums=(1, 2))(jnp.linspace(0.2, 1, quenches), sites, times)
    found.block_until_ready()
    return {
        "seconds": time.perf_counter() - started,
        "finite": bool(jnp.isfinite(found).all()),
    }


@in_double
def compilations(regions: int, times: int) -> dict:
    """Programs that masks of many sizes need."""
    seen = []

    def curves(masks: jax.Array) -> jax.Array:
        seen.append(1)  # traced once for every program
        start = jnp.diag(jnp.arange(24) < 12).astype(jnp.complex128)
        return evolve_eig(
            qpc(12, 12, contact=0.5),
            start,
            jnp.linspace(0.1, 5, times),
            measure=lambda c: jax.vmap(entropy, (None, 0))(c, masks),
        )

    program, rng = jax.jit(curves), np.random.default_rng(0)
    for _ in range(3):
        found = program(rng.random((regions, 24)) < rng.uniform(0.1, 0.9))
    return {"programs": len(seen), "finite": bool(jnp.isfinite(found).all())}


@in_double
def beside_qutip(sites: int, times: int) -> dict | None:
    """The same curve by QuTiP's state vectors, on as many sites as it can do; None without it."""
    try:
        os.environ.setdefault("MPLCONFIGDIR", tempfile.gettempdir())
        import qutip
    except ImportError:
        return None
    half, at = sites // 2, np.linspace(0, 3, times)
    h = np.asarray(qpc(half, half, contact=0.5))
    c = [
        qutip.tensor([qutip.sigmaz()] * n + [qutip.destroy(2)] + [qutip.qeye(2)] * (sites - n - 1))
        for n in range(sites)
    ]
    energy = sum(h[i, j] * c[i].dag() * c[j] for i, j in np.argwhere(h))
    first = qutip.tensor([qutip.basis(2, int(n < half)) for n in range(sites)])
    start = np.diag(np.arange(sites) < half).astype(complex)
    options = {"atol": 1e-11, "rtol": 1e-9}

    def theirs():
        states = qutip.sesolve(energy, first, at, options=options).states
        return np.array([qutip.entropy_vn(state.ptrace(list(range(half)))) for state in states])

    @jax.jit
    def curve(contact):
        h = qpc(half, half, contact=contact)
        return evolve_eig(h, start, at, sites=np.arange(half), measure=_half_entropy)

    def ours():
        return curve(0.5)

    error = float(np.abs(theirs() - np.asarray(ours())).max())
    timed = time_ratio(ours, theirs, names=("ours", "qutip"), rounds=3)
    return {"ratio": float(timed.ratio[1]), "error": error, "sites": sites}
