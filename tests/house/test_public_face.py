"""Every package shows exactly what it lists, and everything it lists explains itself."""

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Iterator

import jaxtyping
import pytest

import jaxlab
from tests.house.packages import PACKAGES, package, public_objects

PUBLIC = [item for name in PACKAGES for item in public_objects(name)]


def surplus(face: types.ModuleType) -> set[str]:
    """Public names of a package that it does not list.

    Its own modules do not count, nor does jaxtyping, which the run-time shape checker puts there.
    """
    return {
        name
        for name, value in vars(face).items()
        if not name.startswith("_")
        and value is not jaxtyping
        and not (
            isinstance(value, types.ModuleType) and value.__name__ == f"{face.__name__}.{name}"
        )
    } - set(getattr(face, "__all__", ()))


def undocumented(name: str, value: object) -> list[str]:
    """What the docstrings of a public object and of its public methods leave out."""
    documentation = inspect.getdoc(value) or ""
    if not documentation.strip():
        return [f"{name} has no docstring"]
    if not isinstance(value, type):
        return _undocumented_call(name, value) if callable(value) else []
    missing = []
    fields = [field.name for field in dataclasses.fields(value)] if _is_dataclass(value) else []
    fields = [*fields, *getattr(value, "_fields", ())]
    if fields and not re.search(r"^(Attributes|Args):$", documentation, re.MULTILINE):
        missing.append(f"{name} has no Attributes section")
    missing += [
        f"{name} does not explain {field}"
        for field in fields
        if not field.startswith("_") and not _explains(documentation, field)
    ]
    for method, function in _methods(value):
        missing += undocumented(f"{name}.{method}", function)
    return missing


def _is_dataclass(value: type) -> bool:
    return dataclasses.is_dataclass(value)


def _methods(value: type) -> Iterator[tuple[str, Callable]]:
    for name, member in vars(value).items():
        function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if not name.startswith("_") and inspect.isfunction(inspect.unwrap(function)):
            yield name, function


def _undocumented_call(name: str, function: Callable) -> list[str]:
    documentation = inspect.getdoc(function) or ""
    signature = inspect.signature(function)
    parameters = [name for name in signature.parameters if name not in ("self", "cls")]
    missing = []
    if parameters and not re.search(r"^Args:$", documentation, re.MULTILINE):
        missing.append(f"{name} has no Args section")
    missing += [
        f"{name} does not explain {parameter}"
        for parameter in parameters
        if not _explains(documentation, parameter)
    ]
    returns = signature.return_annotation not in (None, "None", inspect.Signature.empty)
    if parameters and returns and not re.search(r"^(Returns|Yields):$", documentation, re.M):
        missing.append(f"{name} has no Returns section")
    return missing


def _explains(documentation: str, name: str) -> bool:
    """Whether a line such as ``name: ...`` or ``one, name: ...`` stands in the docstring."""
    return bool(re.search(rf"^ +(?:[\w*, ]*[ ,*])?{name}\b[\w*, ]*:", documentation, re.MULTILINE))


def test_packages_are_found() -> None:
    assert {"jaxlab.blocksparse", "jaxlab.measure"} <= set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_face_is_complete_and_nothing_else_is_public(name: str) -> None:
    face = package(name)
    assert face.__doc__, f"{name} has no docstring, the map of the package"
    listed = getattr(face, "__all__", None)
    assert listed, f"{name} has no __all__"
    assert len(set(listed)) == len(listed), f"{name}.__all__ repeats a name"
    assert not [public for public in listed if not hasattr(face, public)]
    assert not surplus(face), f"{name} shows names that __all__ does not list"


def test_the_library_itself_shows_only_its_packages() -> None:
    assert not surplus(jaxlab)


@pytest.mark.parametrize(("name", "value"), PUBLIC, ids=[name for name, _ in PUBLIC])
def test_public_names_are_documented(name: str, value: object) -> None:
    assert not undocumented(name, value)


def test_the_checks_see_what_is_missing() -> None:
    def bare(x: int) -> int:
        return x

    def half(x: int, y: int) -> int:
        """Adds.

        Args:
          x: one of them.
        """
        return x + y

    @dataclasses.dataclass
    class Pair:
        """Two numbers.

        Attributes:
          left: the first.
        """

        left: int
        right: int

        def total(self, scale: int) -> int:
            """Adds."""
            return scale * (self.left + self.right)

    assert undocumented("bare", bare) == ["bare has no docstring"]
    assert undocumented("half", half) == ["half does not explain y", "half has no Returns section"]
    assert undocumented("Pair", Pair) == [
        "Pair does not explain right",
        "Pair.total has no Args section",
        "Pair.total does not explain scale",
        "Pair.total has no Returns section",
    ]
    module = types.ModuleType("module")
    vars(module).update(__all__=["half"], half=half, numpy=dataclasses)
    assert surplus(module) == {"numpy"}
