"""The client says what it takes and gives: models and structs, and nothing that may be anything."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]


def anything(tree: ast.AST) -> Iterator[int]:
    """The lines whose annotations, or values, name `Any`."""
    for node in ast.walk(tree):
        if (isinstance(node, ast.Name) and node.id == "Any") or (
            isinstance(node, ast.Attribute) and node.attr == "Any"
        ):
            yield node.lineno


def test_no_annotation_of_the_client_says_any() -> None:
    """A private function's neither: what it passes on goes unchecked."""
    found = [
        f"{path.name}:{line}"
        for path in sorted((ROOT / "fleet" / "client").rglob("*.py"))
        for line in anything(ast.parse(path.read_text()))
    ]
    assert found == []


def test_the_check_sees_any_wherever_it_stands() -> None:
    texts = (
        "def f(a: dict[str, Any]): ...",
        "def f() -> list[typing.Any]: ...",
        "a: Any = 1",
        "class A:\n    a: dict[str, Any]",
    )
    assert all(list(anything(ast.parse(text))) for text in texts)
    assert not list(anything(ast.parse("def f(a: dict[str, object]) -> Anything: ...")))
