"""Only `fleet.runtimes` runs a model file; the compiler reads the formats, and quantizes with the runtimes' tools."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("fleet", "edge_agent", "cloud_hub", "model_compiler")
RUNNERS = {"InferenceSession", "Interpreter", "LiteRTLMEngine", "CompiledModel"}
# What the compiler takes of these distributions: the schema of LiteRT's files, and ONNX Runtime's quantizer, which is
# given the ranges and runs nothing.
DISTRIBUTIONS = ("onnxruntime", "ai_edge_litert", "tflite_runtime")
TOOLS = ("ai_edge_litert.schema_py_generated", "onnxruntime.quantization")


def runners(tree: ast.AST) -> Iterator[str]:
    """Find names of what runs a model file, and modules of a runtime's distribution that are no tool."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            if name in RUNNERS:
                yield f"{name} in line {node.lineno}"
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom):
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            theirs = module.split(".")[0] in DISTRIBUTIONS
            if theirs and not f"{module}.".startswith(tuple(f"{tool}." for tool in TOOLS)):
                yield f"{module} in line {node.lineno}"


def named(path: Path) -> list[str]:
    text = path.read_text()
    worth = any(word in text for word in (*RUNNERS, *DISTRIBUTIONS))  # most modules name none, and need no parsing
    return list(runners(ast.parse(text))) if worth else []


def test_nothing_but_the_runtimes_runs_a_model_file() -> None:
    found = {
        str(path.relative_to(ROOT)): named(path)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if (ROOT / "fleet" / "runtimes") not in path.parents
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_the_check_sees_a_runtime_however_it_is_named() -> None:
    texts = (
        "import onnxruntime",
        "from onnxruntime import SessionOptions",
        "from ai_edge_litert.interpreter import Interpreter as Other",
        "ort.InferenceSession(data)",
        "from tflite_runtime import interpreter",
    )
    assert all(list(runners(ast.parse(text))) for text in texts)
    fine = "from onnxruntime.quantization import quantize_static\nfrom ai_edge_litert import schema_py_generated"
    assert not list(runners(ast.parse(fine)))
    inside = (ROOT / "fleet" / "runtimes").glob("*.py")
    assert sum(len(list(runners(ast.parse(path.read_text())))) for path in inside) >= 4
