"""Published systems as pure JAX functions.

Each system is one package and reads as data flows: spec -> plan (host) -> execute (jit) ->
account (cost, bound, error). Import the package you need, for example
``from jaxlab import blocksparse``; nothing heavier than jax, numpy and jaxtyping comes with
``import jaxlab``.
"""

__version__ = "0.1.0"
