"""A package offers to others what its `__all__` names, and everybody's type checker may rely on it."""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
DOORS = ("edge_agent.local", "fleet.client", "fleet.runtimes", "model_compiler")


def public(module: ModuleType) -> set[str]:
    """The functions, classes and constants of the door's own that can be imported there without a warning sign.

    A package's own are those of its modules, too; what a module takes from elsewhere is for its own use.
    """
    inside = module.__name__ + "." if hasattr(module, "__path__") else None
    found = {name: getattr(module, name) for name in dir(module) if not name.startswith("_")}
    return constants(inspect.getsource(module)) | {
        name
        for name, value in found.items()
        if (inspect.isfunction(value) or inspect.isclass(value))
        and (value.__module__ == module.__name__ or (inside is not None and value.__module__.startswith(inside)))
    }


def constants(source: str) -> set[str]:
    """The public names in capitals that a module gives a value."""
    targets = [
        target
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign | ast.AnnAssign)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
    ]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if name.isupper() and not name.startswith("_")}


@pytest.mark.parametrize("door", DOORS)
def test_a_door_offers_what_it_says(door: str) -> None:
    module = import_module(door)
    elsewhere = {name for name in module.__all__ if not callable(getattr(module, name))} - public(module)
    assert public(module) == set(module.__all__) - elsewhere


@pytest.mark.parametrize("door", DOORS)
def test_every_name_of_a_door_has_a_docstring(door: str) -> None:
    module = import_module(door)
    offered = {name: getattr(module, name) for name in module.__all__}
    assert [name for name, value in offered.items() if callable(value) and not inspect.getdoc(value)] == []


def test_constants_are_seen_and_private_names_are_none() -> None:
    assert constants("A = 1\nB: int = 2\n_C = 3\nd = 4\ndef f():\n    E = 5\n") == {"A", "B"}


@pytest.mark.parametrize("package", ["fleet", "edge_agent", "cloud_hub", "model_compiler"])
def test_every_package_says_that_it_is_typed(package: str) -> None:
    assert (ROOT / package / "py.typed").is_file()
