"""The counter of compilations sees each one, only those asked for, and nothing afterwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compile_counter import count_compilations

pytestmark = pytest.mark.oldest


def test_counts_shapes_and_static_arguments_but_not_data() -> None:
    @jax.jit(static_argnames="power")
    def scaled(x: jax.Array, power: int = 1) -> jax.Array:
        return (2.0 * x) ** power

    with count_compilations("scaled") as compiled:
        for length in (3, 5, 3):
            for value in range(4):
                scaled(np.full(length, value, np.float32))
        assert compiled.count == 2
        scaled(np.ones(3, np.float32), power=2)
        assert compiled.count == 3
        scaled(np.ones(3, np.float64))  # float32 once jax has it
        assert compiled.count == 3


def test_counts_a_function_that_hides_data_in_its_program() -> None:
    def careless(x: np.ndarray) -> jax.Array:
        return jax.jit(lambda y: y * float(x[0]))(x)

    with count_compilations("<lambda>") as compiled:
        for value in range(3):
            careless(np.full(2, value, np.float32))
    assert compiled.count == 3


def test_names_select_and_the_block_ends_the_count() -> None:
    def first(x: jax.Array) -> jax.Array:
        return x + 1

    def second(x: jax.Array) -> jax.Array:
        return x + 2

    x = jnp.ones(7)
    with count_compilations() as everything, count_compilations("second") as chosen:
        jax.jit(first)(x)
        jax.jit(second)(x)
    jax.jit(lambda x: first(second(x)))(x)
    assert everything.names == ["jit(first)", "jit(second)"]
    assert chosen.names == ["jit(second)"]


def test_stops_listening_after_an_error() -> None:
    seen = []

    def fail() -> None:
        with count_compilations() as compiled:
            seen.append(compiled)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    jax.jit(lambda x: x * 3)(np.ones(11, np.float32))
    assert [compilations.count for compilations in seen] == [0]
