"""Looking for the fewest operators to keep in float, on made-up costs and on a model that int8 breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol.manifest import Gate
from model_compiler.build.calibration import METHODS, QuantizationPlan
from model_compiler.errors import GateError
from model_compiler.inputs.request import CompileRequest
from model_compiler.pipeline import compile_release
from model_compiler.search.plans import BUDGET, Candidate, SearchResult, search
from tests.model_compiler.conftest import stripes
from tests.support import stubborn

NAMES = [f"op{number}" for number in range(20)]


def judging(culprits: frozenset[str], cure: str = ""):
    """A gate that holds when all `culprits` are in float, or under the calibration method `cure`."""
    judged: list[QuantizationPlan] = []

    def judge(plan: QuantizationPlan) -> Candidate:
        judged.append(plan)
        missing = len(culprits - plan.float_operators)
        holds = not missing or plan.calibration == cure
        return Candidate(plan, 100 + 10 * len(plan.float_operators), 0.9, float(missing), 0.9, () if holds else ("no",))

    return judge, judged


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=5), st.permutations(NAMES))
def test_the_fewest_operators_are_freed_when_the_ranking_is_right(culprits, rest):
    judge, judged = judging(frozenset(culprits))
    order = [*culprits, *[name for name in rest if name not in culprits]]
    found = search(judge, lambda method: [(name, -float(place)) for place, name in enumerate(order)])
    assert found.plan is not None and found.plan.float_operators == culprits
    assert len(judged) == len(set(judged)) <= BUDGET
    assert [name for name, _ in found.sensitivity] == order


@given(st.sets(st.sampled_from(NAMES), min_size=1, max_size=4), st.permutations(NAMES))
def test_a_wrong_ranking_still_ends_within_the_budget_in_a_plan_that_holds(culprits, order):
    judge, judged = judging(frozenset(culprits))
    found = search(judge, lambda method: [(name, -float(place)) for place, name in enumerate(order)])
    assert found.plan is not None and culprits <= found.plan.float_operators
    assert len(judged) <= BUDGET


@pytest.mark.parametrize("cure", METHODS)
def test_a_better_calibration_is_enough_where_it_is(cure):
    judge, judged = judging(frozenset(NAMES[:3]), cure)
    found = search(judge, lambda method: pytest.fail("nothing needs to be ranked"))
    assert found.plan == QuantizationPlan(cure) and len(judged) == METHODS.index(cure) + 1


def test_nothing_found_is_said():
    judge, _ = judging(frozenset({"nowhere"}))
    assert search(judge, lambda method: [(name, 1.0) for name in NAMES]).plan is None


def test_a_model_of_which_nothing_can_be_quantized_is_no_int8_variant():
    judge, judged = judging(frozenset(NAMES[:3]))
    found = search(judge, lambda method: [(name, 1.0) for name in NAMES[:3]])
    assert found.plan is None and judged[-1].float_operators < frozenset(NAMES[:3])


def test_the_frontier_holds_what_nothing_beats_smallest_first():
    sizes = {0: 0.0, 30: 0.8, 20: 0.9, 10: 0.5, 25: 0.9}  # nothing was built where the size is 0
    tried = tuple(
        Candidate(QuantizationPlan(), size, 0.9, 0.0, agreement, ("no",)) for size, agreement in sizes.items()
    )
    assert [candidate.size_bytes for candidate in SearchResult(None, tried).frontier()] == [10, 20]


@pytest.fixture(scope="module")
def request_(tmp_path_factory) -> CompileRequest:
    data = stripes(300, seed=1)
    return CompileRequest(
        module=stubborn.fitted(torch.from_numpy(data.x), torch.from_numpy(data.labels)),
        calibration=stripes(150, seed=2),
        validation=stripes(300, seed=3),
        targets=("litert-int8", "onnx-int8"),
        gate=Gate(max_drop_points=1.0),
        out=tmp_path_factory.mktemp("stubborn") / "release",
    )


def test_a_model_that_int8_breaks_misses_the_gate_and_passes_with_a_search(request_, tmp_path):
    with pytest.raises(GateError, match="drop in points"):
        compile_release(request_)
    found = compile_release(
        replace(request_, targets=("litert-int8", "litert-fp32", "onnx-int8", "onnx-fp32"), search=True)
    )
    assert found.left_out == {}
    for runtime in ("litert", "onnx"):
        int8, fp32 = (found.manifest.variant(f"{runtime}-{name}") for name in ("int8", "fp32"))
        assert int8.verdict.drop_points <= 1.0 and int8.verdict.value > 0.9
        assert int8.blob.size < 0.45 * fp32.blob.size
        assert any("kept in float" in note for note in int8.verdict.notes)
        told = found.document["search"][f"{runtime}-int8"]
        assert (told["tried"][0]["broken"] and not told["tried"][-1]["broken"]) or told["chosen"]
        errors = [entry["error"] for entry in told["sensitivity"]]
        assert errors == sorted(errors, reverse=True) and errors[0] > 100 * errors[-1]
    unlabelled = replace(request_, calibration=replace(request_.calibration, y=None), targets=("litert-int8",))
    again = compile_release(replace(unlabelled, search=True, out=tmp_path / "release"))
    assert again.manifest.variant("litert-int8").verdict.drop_points <= 1.0
