"""`edge-agent bench`: what a release costs here, measured in child processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import bench
from edge_agent.bench import Case
from edge_agent.errors import LateError, ModelLoadError, NotFoundError, UsageError
from edge_agent.main import main
from edge_agent.runtimes import measuring
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet.protocol import selftest
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor, encode_manifest
from tests.support import models


@pytest.fixture
def compiled(tmp_path):
    """A release directory as the compiler writes it, LiteRT at the edge."""
    made = models.release(tmp_path / "out" / "blobs", data=models.litert_bytes("fp32"), runtime="litert", cloud=False)
    (tmp_path / "out" / "manifest.json").write_bytes(encode_manifest(made.manifest))
    return tmp_path / "out"


def case(folder, **changes) -> Case:
    manifest, blobs = bench.compiled(folder)
    return replace(bench.cases_of(manifest, blobs, rounds=20)[0], **changes)


def measured(one: Case, **options):
    return asyncio.run(bench.in_child(one, **options))


def test_a_compiled_release_is_measured_on_every_runtime(compiled, capsys):
    assert main(["bench", "--release-dir", str(compiled), "--rounds", "50", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["refused"] == []
    runtimes = {one["runtime"] for one in document["figures"]}
    assert "ai-edge-litert" in runtimes and "onnxruntime" not in runtimes
    for one in document["figures"]:
        assert one["variant"] == "litert-fp32" and one["rounds"] == 50
        assert 0 < one["p50_us"] <= one["p95_us"]
        assert one["load_us"] > 0 and 0 < one["memory_bytes"] < one["process_bytes"]


def test_an_installed_release_is_measured_from_the_agents_store(tmp_path, capsys):
    store = Store(tmp_path)
    made = models.release(store.blobs, data=models.onnx_bytes(), cloud=False)
    held = HeldRelease(release=4, variant="onnx-fp32", manifest=store.put_manifest(encode_manifest(made.manifest)))
    StateFile(tmp_path).put_model("tiny", ModelState(state="committed", active=held))
    assert main(["bench", "--dir", str(tmp_path), "--model", "tiny", "--rounds", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "p95 µs" in lines[0] and lines[1].startswith("tiny 4 onnx-fp32")
    assert main(["bench", "--dir", str(tmp_path), "--model", "other"]) == 3
    assert "tiny" in capsys.readouterr().err


def test_a_model_that_answers_wrongly_is_not_timed(compiled, tmp_path):
    wrong = models.release(tmp_path / "wrong", data=models.onnx_bytes(swap=True), cloud=False)
    with pytest.raises(ModelLoadError, match="is off by") as caught:
        measured(
            Case(
                model="tiny",
                release=1,
                manifest=wrong.manifest,
                variant="onnx-fp32",
                runtime="onnxruntime",
                blobs=str(wrong.blobs),
                rounds=5,
            )
        )
    assert caught.value.reason == "selftest-failed"


def test_bytes_that_are_not_what_was_signed_are_not_parsed(compiled):
    one = case(compiled)
    path = compiled / "blobs" / one.manifest.variants[0].blob.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelLoadError, match="does not have that hash") as caught:
        measured(one)
    assert caught.value.reason == "hash-mismatch"


def test_one_case_that_fails_does_not_end_the_others(compiled):
    good = case(compiled)
    figures, refused = asyncio.run(bench.run([replace(good, runtime="no-such-runtime"), good]))
    assert [one.runtime for one in figures] == [good.runtime]
    assert [one.runtime for one in refused] == ["no-such-runtime"] and "unknown runtime" in refused[0].detail


def test_a_child_that_dies_is_named_by_its_signal(compiled):
    one = case(compiled, memory_limit_bytes=96 << 20)  # not even the interpreter's libraries fit
    with pytest.raises(ModelLoadError, match="litert") as caught:
        measured(one)
    assert caught.value.reason in ("crashed", "failed")
    with pytest.raises(ModelLoadError, match="was killed by SIGSEGV"):
        bench._figures(one, b"", -signal.SIGSEGV)


def test_a_case_that_never_ends_is_ended(compiled):
    with pytest.raises(LateError, match="was not measured within"):
        measured(case(compiled, rounds=bench.MAX_BENCH_ROUNDS), timeout_s=0.0)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)  # nothing is left behind


def test_requests_have_one_row_each_unless_the_batch_is_fixed(compiled):
    skeleton = bench.compiled(compiled)[0]
    made = [
        selftest.Vector(inputs=(selftest.to_array("input", models.inputs(3, seed)),), outputs={}) for seed in (1, 2)
    ]
    shape = lambda *size: (Tensor(name="input", datatype="FP32", shape=size),)  # noqa: E731
    manifest = lambda *size: replace(skeleton, inputs=shape(*size))  # noqa: E731
    assert [row["input"].shape for row in measuring.rows_of(made, manifest(-1, 4))] == [(1, 4), (1, 4)]
    assert [row["input"].shape for row in measuring.rows_of(made, manifest(3, 4))] == [(3, 4), (3, 4)]
    assert np.array_equal(measuring.rows_of(made, manifest(-1, 4))[1]["input"], models.inputs(3, 2)[:1])


def test_what_cannot_be_asked_for_is_refused_in_words(compiled, tmp_path):
    manifest, blobs = bench.compiled(compiled)
    with pytest.raises(UsageError, match="0 rounds"):
        bench.cases_of(manifest, blobs, rounds=0)
    with pytest.raises(MalformedError, match="no variant 'other'"):
        bench.cases_of(manifest, blobs, variant="other")
    with pytest.raises(NotFoundError, match="can be measured here"):
        bench.cases_of(manifest, tmp_path)
    with pytest.raises(NotFoundError, match="no release in"):
        bench.compiled(tmp_path)
    with pytest.raises(NotFoundError, match="no release is installed"):
        list(bench.installed(tmp_path))


def test_a_burst_of_other_work_does_not_decide():
    quiet = [10.0] * 180 + [12.0] * 20
    assert measuring.quantiles(np.random.default_rng(0).permutation(quiet)) == (10.0, 12.0)
    assert measuring.quantiles([10.0] * 150 + [900.0] * 40 + [10.0] * 10) == (10.0, 10.0)
    slow = [900.0 if number % 10 == 0 else 10.0 for number in range(200)]  # one call in ten, all the time
    assert measuring.quantiles(slow) == (10.0, 900.0)
    assert measuring.quantiles([10.0] * 9 + [900.0]) == (10.0, float(np.percentile([10.0] * 9 + [900.0], 95)))
