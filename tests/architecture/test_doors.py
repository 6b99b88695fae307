"""What a package offers to others is what its `__all__` says, and everybody's type checker may rely on it."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOORS = ("edge_agent.local", "model_compiler")


def public(module: object) -> set[str]:
    """The functions and classes that can be imported from a door without a warning sign: ours, not typing's."""
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name
        for name, value in found.items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and (name in vars(module).get("__all__", ()) or value.__module__ == vars(module)["__name__"])
    }


@pytest.mark.parametrize("door", DOORS)
def test_a_door_offers_what_it_says(door: str) -> None:
    module = import_module(door)
    assert sorted(module.__all__) == module.__all__, "sorted"
    assert public(module) == set(module.__all__)


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_has_a_docstring(door: str) -> None:
    module = import_module(door)
    assert [name for name in module.__all__ if not inspect.getdoc(getattr(module, name))] == []


@pytest.mark.parametrize("package", ["fleet", "edge_agent", "cloud_hub", "model_compiler"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
