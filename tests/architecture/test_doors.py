"""A package offers to others what its `__all__` names, and everybody's type checker may rely on it."""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOORS = ("edge_agent.local", "fleet.client", "fleet.runtimes", "model_compiler")


def public(module: ModuleType) -> set[str]:
    """The functions and classes of the door's own that can be imported there without a warning sign.

    A package's own are those of its modules, too; what a module takes from elsewhere is for its own use.
    """
    inside = module.__name__ + "." if hasattr(module, "__path__") else None
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return {
        name
        for name, value in found.items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and (value.__module__ == module.__name__ or (inside is not None and value.__module__.startswith(inside)))
    }


@pytest.mark.parametrize("door", DOORS)
def test_a_door_offers_what_it_says(door: str) -> None:
    module = import_module(door)
    values = {name for name in module.__all__ if not callable(getattr(module, name))}
    assert public(module) == set(module.__all__) - values


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_has_a_docstring(door: str) -> None:
    module = import_module(door)
    offered = {name: getattr(module, name) for name in module.__all__}
    assert [name for name, value in offered.items() if callable(value) and not inspect.getdoc(value)] == []


@pytest.mark.parametrize("package", ["fleet", "edge_agent", "cloud_hub", "model_compiler"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
