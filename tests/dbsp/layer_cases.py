"""Problems for the sharded layer, with float64 results; and random plans for them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxlab.blocksparse import BlockMask
from jaxlab.dbsp import Plan
from tests.oracles import attention

FACTORINGS = [(u, n // u) for n in (1, 2, 3, 4, 6, 8) for u in range(1, n + 1) if n % u == 0]


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem: sizes, and what is unusual about its mask."""

    q_len: int
    kv_len: int
    q_block: int
    kv_block: int
    heads: int
    kv_heads: int
    dim: int = 4
    value_dim: int = 4
    batch: int = 1
    mask_batch: int | None = None
    causal: bool = False
    positions: bool = False
    text: int = 0  # blocks at the end that everything attends to, and that attend to everything
    one_busy_head: bool = False
    dtype: str = "float32"

    @functools.cached_property
    def mask(self) -> BlockMask:
        rng = np.random.default_rng(7 * self.q_len + self.heads)
        lead = () if self.mask_batch is None else (self.mask_batch,)
        rows, columns = -(-self.q_len // self.q_block), -(-self.kv_len // self.kv_block)
        densities = rng.permutation(np.linspace(0.1, 0.8, self.heads))[:, None, None]
        blocks = rng.random((*lead, self.heads, rows, columns)) < densities
        if self.text:
            blocks[..., -self.text :, :] = blocks[..., -self.text :] = True
        blocks[..., 1, :, :] = False
        blocks[..., 0, 2, :] = False
        if self.one_busy_head:
            blocks[..., :-1, :, :] = False
            blocks[..., -1, : rows // 2, :] = False
        q_at = kv_at = None
        if self.positions:
            q_at, kv_at = (rng.permutation(n).astype(np.int32) for n in (self.q_len, self.kv_len))
            q_at[3] = kv_at[[0, -2]] = -1
        return BlockMask(
            blocks, self.q_block, self.kv_block, self.q_len, self.kv_len, self.causal, q_at, kv_at
        )

    @functools.cached_property
    def arrays(self) -> tuple[jax.Array, ...]:
        """q, k, v and the cotangent of the output."""
        rng = np.random.default_rng(5)
        shapes = (
            (self.q_len, self.heads, self.dim),
            (self.kv_len, self.kv_heads, self.dim),
            (self.kv_len, self.kv_heads, self.value_dim),
            (self.q_len, self.heads, self.value_dim),
        )
        return tuple(
            jnp.asarray(rng.standard_normal((self.batch, *shape)), self.dtype) for shape in shapes
        )

    @functools.cached_property
    def expected(self) -> tuple[np.ndarray, ...]:
        """out, dq, dk, dv in float64, of inputs as they were rounded."""
        mask = self.mask
        allowed = attention.token_mask(
            np.asarray(mask.blocks), mask.q_block, mask.kv_block, mask.q_len, mask.kv_len,
            mask.causal, mask.q_positions, mask.kv_positions,
        )  # fmt: skip
        *tokens, d_out = (np.asarray(x, np.float64) for x in self.arrays)
        scale = self.dim**-0.5
        out, lse = attention.attention(*tokens, allowed, scale)
        gradients = attention.gradients(*tokens, allowed, scale, d_out, np.zeros_like(lse))
        return out, *gradients

    def plan(self, ulysses: int, ring: int, *, seed: int = 0, together: bool = False) -> Plan:
        """A random plan, every group with orders of its own; ``together`` keeps key heads whole."""
        rng = np.random.default_rng(seed)
        sharing = self.heads // self.kv_heads if together else 1
        sets = -(-(self.heads // sharing) // ulysses) * ulysses
        heads = rng.permutation(sets)[:, None] * sharing + rng.permutation(sharing)
        plan = Plan.contiguous(
            heads=sets * sharing,
            q_blocks=self.mask.blocks.shape[-2],
            kv_blocks=self.mask.blocks.shape[-1],
            ulysses=ulysses,
            ring=ring,
        )
        return dataclasses.replace(
            plan,
            head_perm=heads.reshape(-1),
            q_order=rng.permuted(plan.q_order, axis=1),
            kv_order=rng.permuted(plan.kv_order, axis=1),
        )


CASES = {
    "ragged": Case(75, 75, 8, 8, 5, 5, batch=2, mask_batch=2),
    "grouped": Case(70, 70, 16, 8, 6, 2, value_dim=3, causal=True),
    "text": Case(52, 84, 4, 4, 4, 4, value_dim=5, text=2, positions=True),
    "lonely": Case(63, 45, 3, 5, 3, 1, batch=2, mask_batch=1, one_busy_head=True),
}


def mesh_of(ulysses: int, ring: int) -> Mesh:
    return jax.make_mesh(
        (ring, ulysses),
        ("ring", "ulysses"),
        axis_types=(AxisType.Auto,) * 2,
        devices=jax.devices()[: ulysses * ring],
    )
