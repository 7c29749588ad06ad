"""The packages of jaxlab and what they make public: new ones are found by themselves."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import jaxlab

PACKAGES = sorted(
    f"jaxlab.{module.name}" for module in pkgutil.iter_modules(jaxlab.__path__) if module.ispkg
)


def package(name: str) -> ModuleType:
    return importlib.import_module(name)


def public_objects(name: str) -> Iterator[tuple[str, object]]:
    """Full name and object of every name in a package's ``__all__``."""
    face = package(name)
    for public in face.__all__:
        yield f"{name}.{public}", getattr(face, public)
