"""Inputs of block_sparse_attention and what float64 numpy makes of them."""

import dataclasses
import functools
from collections.abc import Callable

import jax
import numpy as np

import jaxlab.blocksparse.mosaic_tpu  # noqa: F401  imported later, Pallas has jax compile all anew
from jaxlab.blocksparse import BlockMask, block_sparse_attention
from tests.oracles import attention as oracle


@dataclasses.dataclass
class Case:
    """Inputs, cotangents and what the oracle makes of them."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray
    mask: BlockMask
    scale: float | None = None

    def __post_init__(self) -> None:
        random = np.random.default_rng(7)
        batch, q_len, heads, dim = self.q.shape
        self.d_out = random.normal(size=(batch, q_len, heads, self.v.shape[-1])).astype("f4")
        self.d_lse = random.normal(size=(batch, q_len, heads)).astype("f4")
        self.factor = dim**-0.5 if self.scale is None else self.scale

    @functools.cached_property
    def allowed(self) -> np.ndarray:
        m = self.mask
        sizes = (m.q_block, m.kv_block, m.q_len, m.kv_len)
        return oracle.token_mask(
            np.asarray(m.blocks), *sizes, m.causal, m.q_positions, m.kv_positions
        )

    def expected(self) -> tuple[np.ndarray, np.ndarray]:
        return oracle.attention(self.q, self.k, self.v, self.allowed, self.factor)

    def expected_gradients(self) -> tuple[np.ndarray, ...]:
        inputs = (self.q, self.k, self.v, self.allowed, self.factor)
        return oracle.gradients(*inputs, self.d_out, self.d_lse)


def make(
    batch: int = 2,
    q_len: int = 45,
    kv_len: int = 70,
    heads: int = 6,
    kv_heads: int = 2,
    dim: int = 4,
    value_dim: int = 5,
    q_block: int = 16,
    kv_block: int = 8,
    density: float = 0.4,
    mask_batch: tuple[int, ...] = (),
    seed: int = 0,
    **mask: object,
) -> Case:
    random = np.random.default_rng(seed)
    q = random.normal(size=(batch, q_len, heads, dim)).astype("f4")
    k = random.normal(size=(batch, kv_len, kv_heads, dim)).astype("f4")
    v = random.normal(size=(batch, kv_len, kv_heads, value_dim)).astype("f4")
    shape = (*mask_batch, heads, -(-q_len // q_block), -(-kv_len // kv_block))
    blocks = random.random(shape) < density
    return Case(q, k, v, BlockMask(blocks, q_block, kv_block, q_len, kv_len, **mask))


def shuffled(causal: bool = True) -> Case:
    """Tokens out of order, some of them padding."""
    random = np.random.default_rng(3)
    q_positions, kv_positions = random.permutation(45), random.permutation(61)
    q_positions[[3, 17, 18]] = -1
    kv_positions[16:35] = -1
    return make(
        1,
        kv_len=61,
        kv_block=16,
        density=0.6,
        causal=causal,
        q_positions=q_positions,
        kv_positions=kv_positions,
    )


def long() -> Case:
    """More blocks than one trip takes and more rows than one group, the last group not full."""
    return make(1, 570, 550, 2, 1, 4, 4, 64, 32, density=0.9)


def one_partial_block() -> Case:
    return dataclasses.replace(make(1, 3, 5, 1, 1, density=1.0), scale=-1.3)


def tiny(seed: int = 0, density: float = 0.7, **options: object) -> Case:
    """Two by two blocks: what little there is to compile suits tests of transformations."""
    sizes = {"q_len": 11, "kv_len": 13, "heads": 2, "kv_heads": 1, "q_block": 8, "kv_block": 8}
    return make(seed=seed, density=density, **(sizes | options))


CASES: dict[str, Callable[[], Case]] = {
    "ragged": make,
    "batched mask": functools.partial(make, mask_batch=(2,), density=0.2),
    "broadcast mask, causal": functools.partial(make, kv_len=45, mask_batch=(1,), causal=True),
    "shuffled": shuffled,
    "one partial block, negative scale": one_partial_block,
    "empty": functools.partial(make, density=0.0),
    "long": long,
}


@functools.cache
def known(name: str) -> tuple[Case, tuple, tuple]:
    """A case, what it should give and what its gradients should be; not to be changed."""
    case = CASES[name]()
    return case, case.expected(), case.expected_gradients()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _everything(implementation: str | None, scale: float | None, *inputs: object) -> tuple:
    *tokens, mask, d_out, d_lse = inputs
    options = {"scale": scale, "return_lse": True, "implementation": implementation}

    def attend(*tokens: jax.Array) -> tuple:
        out, lse, trips = block_sparse_attention(*tokens, mask, return_trips=True, **options)
        return (out, lse), trips

    (out, lse), pullback, trips = jax.vjp(attend, *tokens, has_aux=True)
    return (out, lse, trips), pullback((d_out, d_lse))


def everything(case: Case, implementation: str | None) -> tuple[tuple, tuple]:
    """``(out, lse, trips), (dq, dk, dv)``, compiled once for all cases of a shape."""
    inputs = (case.q, case.k, case.v, case.mask, case.d_out, case.d_lse)
    return _everything(implementation, case.scale, *inputs)


def close(actual: object, expected: object, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(
        np.asarray(actual, np.float64), expected, rtol=tolerance, atol=tolerance
    )
