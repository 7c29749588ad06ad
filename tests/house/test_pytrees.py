"""Every public pytree survives what jax does to pytrees, with the shape checker on."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, jaxtyped

from tests.house.packages import PACKAGES, public_objects
from tests.house.pytree_examples import EXAMPLES

beartype = pytest.importorskip("beartype").beartype

pytestmark = pytest.mark.oldest


def is_pytree(value: object) -> bool:
    """Whether instances of a class are pytrees of their own."""
    if not isinstance(value, type):
        return False
    if issubclass(value, tuple):
        return hasattr(value, "_fields")
    try:
        return not jax.tree_util.all_leaves([object.__new__(value)])
    except (AttributeError, TypeError):  # jax knows the class and misses its fields
        return dataclasses.is_dataclass(value)


FOUND = sorted(
    {full for name in PACKAGES for full, value in public_objects(name) if is_pytree(value)}
)


def same(left: object, right: object) -> None:
    """Asserts that two trees have equal structures, types and leaves."""
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, other = jax.random.key_data(one), jax.random.key_data(other)
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


def survive(tree: typing.Any) -> None:
    """Pushes a tree through the transformations of jax."""
    leaves, structure = jax.tree.flatten(tree)
    assert leaves, "a pytree without array leaves belongs into static fields"
    for field in dataclasses.fields(tree) if dataclasses.is_dataclass(tree) else ():
        if field.metadata.get("static"):
            hash(getattr(tree, field.name))
    same(jax.tree.unflatten(structure, leaves), tree)
    assert jax.tree.leaves(jax.tree.map(lambda _: None, tree)) == []
    same(jax.tree.map(lambda leaf: leaf, tree), tree)
    same(jax.device_put(tree), tree)
    same(jax.device_put(tree, jax.devices()[-1]), tree)
    same(jax.jit(lambda t: t)(tree), tree)
    assert jax.tree.structure(jax.eval_shape(lambda t: t, tree)) == structure
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf, leaf]), tree)
    same(jax.vmap(lambda t: t)(stacked), stacked)
    carry, outputs = jax.lax.scan(lambda c, t: (c, t), jax.device_put(tree), stacked)
    same(carry, tree)
    same(outputs, stacked)


def test_every_public_pytree_has_an_example() -> None:
    assert FOUND, "no pytree was found: the search is broken"
    assert sorted(EXAMPLES) == FOUND, "tests/house/pytree_examples.py does not list these"


@pytest.mark.parametrize("name", sorted(EXAMPLES))
def test_survives(name: str) -> None:
    example = EXAMPLES[name]()
    assert type(example).__name__ == name.rpartition(".")[2]
    survive(example)


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Good:
    x: Float[Array, " n"]
    n: int = dataclasses.field(metadata={"static": True})


@jaxtyped(typechecker=beartype)
@dataclasses.dataclass(frozen=True)
class Checked:
    x: Float[Array, " n"]


@typing.no_type_check
@dataclasses.dataclass(frozen=True)
class Unhashable:
    x: Float[Array, " n"]
    table: np.ndarray = dataclasses.field(metadata={"static": True})


@dataclasses.dataclass(frozen=True)
class Plain:
    x: int


def test_the_checks_see_broken_pytrees() -> None:
    for kind in (Good, Checked, Unhashable):
        assert not is_pytree(kind)
        jax.tree_util.register_dataclass(kind)
        assert is_pytree(kind)
    assert not is_pytree(Plain)
    assert not is_pytree(survive)
    survive(Good(jnp.arange(3.0), 3))
    with pytest.raises(TypeError):  # the checker refuses None, as it does in jaxlab
        survive(Checked(jnp.arange(3.0)))
    with pytest.raises(TypeError, match="unhashable"):
        survive(Unhashable(jnp.arange(3.0), np.arange(3)))
