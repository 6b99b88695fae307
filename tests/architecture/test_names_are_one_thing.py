"""One word for one thing: how often a class name may stand for different things."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
MOST = 2
# Of these there are more, with a reason.
ALIKE = {
    "ConflictError": "each room has an exception tree of its own, with the same exit codes",
    "NotFoundError": "as above",
    "UnreachableError": "as above",
    "UsageError": "as above",
}


def classes(sources: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """The modules that define a class, by its name."""
    found: dict[str, list[str]] = defaultdict(list)
    for where, source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(where)
    return found


def test_no_class_name_stands_for_many_things() -> None:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    found = classes((str(path.relative_to(ROOT)), path.read_text()) for path in paths)
    assert {name: where for name, where in found.items() if len(where) > MOST and name not in ALIKE} == {}
    assert [name for name in ALIKE if len(found[name]) <= MOST] == [], "take it from the list"


def test_the_search_counts_every_module_that_defines_a_name() -> None:
    assert classes([("a.py", "class One: ..."), ("b.py", "class One:\n    class Two: ...")]) == {
        "One": ["a.py", "b.py"],
        "Two": ["b.py"],
    }
