"""No function and no class is left that nobody names any more."""

from __future__ import annotations

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
READERS = (*PACKAGES, "benchmarks", "deploy", "docs", "examples", "scripts", "pyproject.toml", "README.md")
# Methods that a library calls by their names: uvicorn, asyncio, grpc, tuf, amqtt, httptools, SQLAlchemy.
CALLED_BY_LIBRARIES = {
    "_persist_file",
    "_should_upgrade",
    "_update_root_symlink",
    "intercept_service",
    "on_header",
    "process_bind_param",
    "process_result_value",
    "retain_message",
    "stream_connected",
    "topic_filtering",
    "wait_closed",
}
# Named by tests alone: how the product does the same is held against them. It only becomes less.
IN_TESTS = {"harm_log_e", "health_log_e", "load_cloud", "without_inputs"}


def texts() -> dict[Path, str]:
    found = {}
    for name in READERS:
        top = ROOT / name
        for path in [top] if top.is_file() else sorted(top.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts and "node_modules" not in path.parts:
                found[path.relative_to(ROOT)] = path.read_text("utf-8", errors="ignore")
    return found


def unnamed(sources: Iterable[str], readers: Iterable[str]) -> set[str]:
    """Functions and classes of `sources` that stand in no text but where they are defined.

    What has a decorator is left out: a route or a command is found by whoever the decorator hands it to.
    """
    defined: dict[str, int] = defaultdict(int)
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.decorator_list:
                defined[node.name] += not node.name.startswith("__")
    words = Counter(word for text in readers for word in re.findall(r"\w+", text))
    return {name for name, count in defined.items() if count and words[name] <= count}


def test_every_function_and_class_is_named_somewhere() -> None:
    found = texts()
    sources = [
        text
        for path, text in found.items()
        if path.suffix == ".py" and path.parts[0] in PACKAGES and "migrations" not in path.parts
    ]
    assert unnamed(sources, found.values()) == CALLED_BY_LIBRARIES | IN_TESTS


def test_the_search_finds_one_that_nobody_names() -> None:
    source = "def used(): ...\ndef unused(): ...\n@route\ndef handed_on(): ...\nused()"
    assert unnamed([source], [source]) == {"unused"}
