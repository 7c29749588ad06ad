"""Small programs, one for every way in which a jaxpr can hold another or use its values."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

Case = tuple[Callable[..., Any], tuple[Any, ...]]


def _normal(seed: int, *shape: int) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def plain() -> Case:
    return lambda x, y: (jnp.sin(x) @ y, x, 1.5, jnp.cos(x)), (_normal(0, 3, 5), _normal(1, 5, 7))


def nested_jit() -> Case:
    inner = jax.jit(lambda a, b: (a + b, a, b * a))

    def fn(x: jax.Array) -> Any:
        y = jnp.exp(x)
        total, same, product = inner(y, x)
        again, _, _ = inner(product, total)
        return again - same, jax.nn.silu(total)

    return fn, (_normal(2, 9, 3),)


def scan() -> Case:
    def fn(w: jax.Array, rows: jax.Array) -> Any:
        def body(carry: Any, row: jax.Array) -> Any:
            a, b, n = carry
            h = jnp.tanh(row @ a)
            return (b, a * 0.9 + h, n + 1), (h.sum(), row)

        (a, b, n), out = lax.scan(body, (w, w + 1, 0), rows)
        return a + b, n, out

    return fn, (_normal(3, 6, 6), _normal(4, 5, 6))


def reversed_scan() -> Case:
    def fn(x: jax.Array) -> Any:
        return lax.scan(lambda c, r: (c * 0.5 + r, c), jnp.zeros(3), x, reverse=True)

    return fn, (_normal(5, 4, 3),)


def empty_scan() -> Case:
    return lambda x: lax.scan(lambda c, r: (c + r, c), x[0], x[:0]), (_normal(6, 4, 3),)


def while_loop() -> Case:
    def fn(x: jax.Array, limit: jax.Array) -> Any:
        scale = jnp.exp(-limit)
        done = lax.while_loop(
            lambda s: s[0] < limit, lambda s: (s[0] + 1.0, jnp.sin(s[1]) @ x * scale), (0.0, x)
        )
        return done[1] + 1, done

    return fn, (_normal(7, 5, 5), jnp.float32(3.5))


def idle_while() -> Case:
    return lambda x: lax.while_loop(lambda s: s.sum() > 1e9, lambda s: s + 1, x), (_normal(8, 3),)


def shared_start() -> Case:
    """A loop that starts from a value which its body reads too, and swaps what it carries."""

    def fn(x: jax.Array, rows: jax.Array) -> Any:
        start = jnp.exp(x)
        (a, b), out = lax.scan(lambda c, row: ((c[1], c[0]), start * row), (start, x), rows)
        return a, b, out, lax.fori_loop(0, 3, lambda i, s: (s[1], s[0], start + i), (a, b, start))

    return fn, (_normal(23, 5), _normal(24, 3, 5))


def cond() -> Case:
    def fn(x: jax.Array, y: jax.Array) -> Any:
        taken = lax.cond(x.sum() > 0, lambda a, b: (a @ b, b), lambda a, b: (b + 1, a), x, y)
        other = lax.cond(x.sum() <= 0, lambda a: (jnp.exp(a), a), lambda a: (a, a), y)
        return taken, other

    return fn, (_normal(9, 4, 4), _normal(10, 4, 4))


def switch() -> Case:
    def fn(i: jax.Array, x: jax.Array) -> Any:
        twice = jax.jit(lambda a: (a * 2, a * 2))
        branches = [lambda a: (a, jnp.zeros(3)), lambda a: twice(a + 1), lambda a: (a * a, a)]
        return lax.switch(i, branches, x)

    return fn, (jnp.int32(1), _normal(11, 3))


def remat() -> Case:
    def loss(w: Any, x: jax.Array) -> jax.Array:
        layer = jax.checkpoint(lambda h, m: jnp.tanh(h @ m))
        for m in w:
            x = layer(x, m)
        return (x**2).sum()

    return jax.value_and_grad(loss), ([_normal(12, 6, 6), _normal(13, 6, 6)], _normal(14, 5, 6))


def remat_scan() -> Case:
    def loss(w: jax.Array, x: jax.Array) -> jax.Array:
        body = jax.checkpoint(lambda h, m: (jnp.tanh(h @ m), h.sum()))
        h, sums = lax.scan(body, x, w)
        return (h**2).sum() + sums[1]

    return jax.value_and_grad(loss), (_normal(15, 3, 6, 6), _normal(16, 5, 6))


def custom_rules() -> Case:
    @jax.custom_vjp
    def clip(x: jax.Array) -> jax.Array:
        return jnp.clip(x, -1, 1) * 2

    clip.defvjp(lambda x: (clip(x), x), lambda x, g: (jnp.where(jnp.abs(x) < 1, g, 0.0),))

    def fn(x: jax.Array) -> Any:
        return jax.grad(lambda a: clip(jax.nn.relu(a)).sum())(x), clip(x), jax.nn.gelu(x)

    return fn, (_normal(17, 11),)


def mapped() -> Case:
    mesh = jax.sharding.Mesh(jax.devices()[:1], ("rows",))
    spec = jax.sharding.PartitionSpec("rows")
    inner = jax.shard_map(lambda a: jnp.sin(a) * 2, mesh=mesh, in_specs=spec, out_specs=spec)
    return lambda x: inner(x + 1), (_normal(18, 4, 3),)


def nested_loops() -> Case:
    def fn(x: jax.Array) -> Any:
        def outer(c: jax.Array, row: jax.Array) -> Any:
            inner = lax.fori_loop(0, 3, lambda i, s: jnp.sin(s) + i * c, row)
            return lax.cond(inner.sum() > 0, lambda a: a + c, lambda a: a - c, inner), inner

        return lax.scan(outer, x[0], x)

    return fn, (_normal(19, 3, 4),)


def keys() -> Case:
    def fn(key: jax.Array, n: jax.Array) -> Any:
        first, second = jax.random.split(key)
        noise, _ = lax.scan(
            lambda k, _: (jax.random.split(k)[0], jax.random.uniform(k)), second, length=2
        )
        return jax.random.normal(first, (3,)) * n, noise, jax.random.fold_in(key, 3)

    return fn, (jax.random.key(20), jnp.float32(2))


def many_types() -> Case:
    def fn(x: jax.Array) -> Any:
        half = x.astype(jnp.bfloat16) * 2
        return half, half > 0, (x * 10).astype(jnp.int8), x + 1j, x[:0], half.astype(jnp.float16)

    return fn, (_normal(21, 3, 5),)


def closed_over() -> Case:
    table = _normal(22, 4, 4)
    return lambda i: lax.fori_loop(0, 2, lambda _, c: c @ table, table)[i], (jnp.int32(2),)


PROGRAMS = {
    case.__name__: case
    for case in (
        plain,
        nested_jit,
        scan,
        reversed_scan,
        empty_scan,
        while_loop,
        idle_while,
        shared_start,
        cond,
        switch,
        remat,
        remat_scan,
        custom_rules,
        mapped,
        nested_loops,
        keys,
        many_types,
        closed_over,
    )
}
