"""ONNX's own node tests through the agent's door; the full size asks all, as `benchmarks/onnx_nodes.py` does."""

from __future__ import annotations

from pathlib import Path

from benchmarks import onnx_nodes
from tests.support.size import sized

EVERY = sized(25, 1)  # of the cases in the order of their names
ALWAYS = ("test_isinf", "test_isnan", "test_string_concat")  # infinity, NaN, text


def test_the_agent_answers_each_node_test_as_the_bare_runtime_does(tmp_path: Path) -> None:
    made, left_out = onnx_nodes.cases(EVERY, ALWAYS)
    counts, wrong = onnx_nodes.ask(made, tmp_path)
    assert wrong == []
    assert len(made) > sum(left_out.values()) and {case.name for case in made} >= set(ALWAYS)
    assert counts["binary: as the runtime"] == len(made)
    assert counts["json: as the runtime"] + counts["json: refused in words"] == len(made)
    assert counts["json: refused in words"] > 0
