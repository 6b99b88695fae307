"""One word for one thing.

A class has a name that at most two modules give to a class. A function may be called `read` or `settle` in many
modules, as long as it is called through its module (`claims.read`); one that is imported by its own name has to tell
by that name what it does, so at most two modules may have a function of that name.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
MOST = 2
# Functions of these names are the same thing in every module: an entry point, and the services of a package.
SAME = {"main", "services"}
# Imported by names that still tell too little. It only becomes less.
VAGUE: set[tuple[str, str]] = {
    ("cloud_hub.backtest.loading", "load"),
    ("cloud_hub.backtest.report", "moment"),
    ("cloud_hub.backtest.run", "run"),
    ("cloud_hub.dashboard.acts.forms", "check"),
    ("cloud_hub.dashboard.words", "failed"),
    ("cloud_hub.dashboard.words", "moment"),
    ("cloud_hub.drift.baseline", "fit"),
    ("cloud_hub.drift.deferring", "judge"),
    ("cloud_hub.drift.input_state", "text_of"),
    ("cloud_hub.drift.input_state", "without"),
    ("cloud_hub.ingest.slowing", "note"),
    ("cloud_hub.rollouts.engine", "settle"),
    ("fleet.cli.label_files", "settle"),
    ("fleet.cli.label_files", "text_of"),
    ("fleet.rollouts.calendar", "in_words"),
    ("fleet.rollouts.orders", "apply"),
    ("fleet.rollouts.signals", "count"),
    ("fleet.rollouts.steps", "wanted"),
    ("fleet.tasks.boxes", "matched"),
    ("model_compiler.build.artifacts", "build"),
    ("model_compiler.build.fronts", "read"),
    ("model_compiler.inputs.dataset", "wanted"),
    ("model_compiler.inputs.former_release", "wanted_of"),
    ("model_compiler.inputs.sources", "named"),
    ("model_compiler.metrics", "table"),
    ("model_compiler.option_values", "task_of"),
    ("model_compiler.package.delta", "build"),
    ("model_compiler.report.terminal", "show"),
}
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


def vague(modules: dict[str, str]) -> set[tuple[str, str]]:
    """Modules with functions of theirs that others import by a name which more than `MOST` modules define."""
    trees = {module: ast.parse(source) for module, source in modules.items()}
    defined: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_registered(node):
                defined[node.name].add(module)
    taken = {
        (node.module or "", alias.name)
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return {(module, name) for module, name in taken if len(defined[name]) > MOST and module in defined[name]}


def is_registered(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Tell whether a call decorates it, as routes and commands are: those are found by it, and not by name."""
    return any(isinstance(decorator, ast.Call) for decorator in function.decorator_list)


def sources() -> dict[str, str]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in paths}
    return {
        name.removesuffix(".__init__"): path.read_text() for name, path in names.items() if ".versions." not in name
    }


def test_a_function_that_is_imported_by_its_name_tells_by_it_what_it_does() -> None:
    found = {(module, name) for module, name in vague(sources()) if name not in SAME}
    assert found - VAGUE == set(), "give it a name of its own, or call it through its module"
    assert VAGUE - found == set(), "take it from the list"


def test_the_search_finds_functions_that_share_a_name_and_are_imported_by_it() -> None:
    three = {name: "def read(): ..." for name in ("a", "b", "c")}
    assert vague({**three, "d": "from a import read\nimport b\nb.read()"}) == {("a", "read")}
    assert vague({"a": "def read(): ...", "b": "def read(): ...", "c": "from a import read"}) == set()
    assert vague({**three, "c": "@app.get('/')\ndef read(): ...", "d": "from a import read"}) == set()


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
