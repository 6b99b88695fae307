"""Docstrings name a thing or an act.

One that begins with who, what, which, whether, where, how, why or when is a clause in place of a noun ("What a device
said of its release."): a reader learns only at its end whether it is a question, a value or a condition. "The release
that a device runs", "Return the rows that …" and "Tell whether …" are read once.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("fleet", "edge_agent", "cloud_hub", "model_compiler", "benchmarks", "examples", "tests")
CLAUSE = re.compile(
    r"(who(m|se|ever)?|what(ever)?|which(ever)?|whether|where(ver)?|how|why|when(ever)?)\b", re.IGNORECASE
)
# Public functions of more than two parameters, or that raise, whose docstrings name neither. It only becomes less.
UNTOLD = {"fleet": 134, "edge_agent": 63, "cloud_hub": 201, "model_compiler": 30}
Function = ast.FunctionDef | ast.AsyncFunctionDef
Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def clauses(source: str) -> Iterator[tuple[str, str]]:
    """Names of what is documented by a clause, each with its docstring's first line."""
    for node in ast.walk(ast.parse(source)):
        text = ast.get_docstring(node) if isinstance(node, Documented) else None
        if text is not None and CLAUSE.match(text):
            yield getattr(node, "name", ""), text.splitlines()[0]


def test_no_docstring_begins_with_a_clause() -> None:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = [(str(path.relative_to(ROOT)), *one) for path in paths for one in clauses(path.read_text("utf-8"))]
    assert found == [], "begin with a noun or a verb: The release that …, Return …, Tell whether …"


def test_the_search_reads_modules_classes_and_functions() -> None:
    source = '"""What it is."""\nclass One:\n    """How one is."""\n    def two(self):\n        """whether two is."""\n'
    assert [name for name, _ in clauses(source)] == ["", "One", "two"]
    assert list(clauses('def one():\n    """However, this is a sentence."""\ndef two(): ...\n')) == []


def raises(node: ast.AST) -> bool:
    """Tell whether a body raises an error of its own making; functions inside of it are not looked into."""
    inner = [one for one in ast.iter_child_nodes(node) if not isinstance(one, Function | ast.Lambda)]
    return any((isinstance(one, ast.Raise) and one.exc is not None) or raises(one) for one in inner)


def untold(source: str) -> list[str]:
    """Public functions that lack `Args:` for more than two parameters, or a word on the errors that they raise.

    Those that a call decorates are left out, since a route's or a command's options have texts of their own, and so
    are those that refer to their port (`See …`).
    """
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, Function) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node) or ""
        if text.startswith("See ") or any(isinstance(one, ast.Call) for one in node.decorator_list):
            continue
        names = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        many = sum(one.arg not in ("self", "cls") for one in names) > 2
        if (many and "Args:" not in text) or (raises(node) and "Raises" not in text and "Error" not in text):
            found.append(node.name)
    return found


def test_ever_fewer_functions_leave_arguments_and_errors_untold() -> None:
    found = {
        folder: sum(
            len(untold(path.read_text())) for path in (ROOT / folder).rglob("*.py") if "versions" not in path.parts
        )
        for folder in UNTOLD
    }
    more = {folder: count for folder, count in found.items() if count > UNTOLD[folder]}
    assert more == {}, "give the new ones Args and Raises; python tests/architecture/test_docstrings.py lists all"


def test_the_search_finds_arguments_and_errors_that_nobody_tells() -> None:
    head = "def one(self, a, b, c):\n    "
    assert untold(head + '"""One."""') == ["one"]
    assert untold(head + '"""One.\n\n    Args:\n        a: x\n    """') == []
    assert untold('def two(a):\n    """Two."""\n    raise ValueError(a)') == ["two"]
    assert untold('def two(a):\n    """Two; ValueError without."""\n    raise ValueError(a)') == []
    assert untold("@app.command()\ndef three(a, b, c): ...") == []


if __name__ == "__main__":
    for folder in UNTOLD:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "versions" not in path.parts and (names := untold(path.read_text())):
                print(path.relative_to(ROOT), *names)
