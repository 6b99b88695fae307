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
