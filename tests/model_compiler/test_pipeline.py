"""Compiling a real torch module to every target, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fleet.protocol import selftest
from fleet.protocol.drift_encoder import decode_encoder
from fleet.protocol.figures import decode_profile, figures_of, planned_figures
from fleet.protocol.manifest import Gate, encode_manifest
from fleet.protocol.manifest_detail import decode_detail, with_detail
from model_compiler.build.artifacts import CLOUD
from model_compiler.errors import DataError, GateError, TargetError
from model_compiler.inputs.release_folder import read_blob, read_release
from model_compiler.inputs.request import CompileRequest
from model_compiler.package import vectors as making
from model_compiler.pipeline import compile_release
from model_compiler.report.document import CompileReport
from tests.model_compiler.conftest import answers, stripes


@pytest.fixture(scope="module", autouse=True)
def children_here() -> None:
    """Here variants are run as users run them: in processes, one of which crashes."""


def test_every_target_is_built_measured_and_packed(compiled: CompileReport, request_: CompileRequest):
    manifest = read_release(compiled.out)
    blob = manifest.detail
    assert with_detail(manifest, decode_detail(read_blob(compiled.out, blob))) == compiled.manifest
    assert not manifest.lineage.tools and not any(v.deferral.curve for v in manifest.placed("edge"))
    sizes = [len(encode_manifest(each)) for each in (manifest, compiled.manifest)]
    assert sizes[0] < 0.5 * sizes[1]  # what each device fetches, at each update
    assert compiled.left_out == {}
    assert [variant.name for variant in manifest.variants] == [*request_.targets, CLOUD]
    for variant in manifest.variants:
        verdict = variant.verdict
        assert verdict.samples == 200
        assert verdict.interval[0] <= verdict.value <= verdict.interval[1]
        assert verdict.size_bytes == (compiled.out / "blobs" / variant.blob.sha256).stat().st_size
        assert verdict.latency_us_p95 >= verdict.latency_us_p50 > 0
    assert manifest.variant("litert-fp32").verdict.latency_ratio == 1.0
    assert manifest.variant("litert-int8").verdict.size_bytes < manifest.variant("litert-fp32").verdict.size_bytes
    assert compiled.manifest.lineage.tools["torch"] == torch.__version__


def test_the_float_variants_agree_with_torch(compiled, request_, student):
    with torch.no_grad():
        expected = student(torch.from_numpy(request_.validation.x)).numpy()
    for name in ("litert-fp32", "onnx-fp32"):
        variant = compiled.manifest.variant(name)
        model = (compiled.out / "blobs" / variant.blob.sha256).read_bytes()
        found = answers(name, variant.runtime, model, request_.validation.x)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_deferral_spends_its_cloud_calls_on_the_doubtful_and_gains_by_it(compiled):
    for variant in compiled.manifest.placed("edge"):
        deferral = variant.deferral
        assert deferral.target == "at most 10 % cloud calls"
        shares = [point.cloud_share for point in deferral.curve]
        assert shares == sorted(shares) and shares[0] == 0.0 and shares[-1] == 1.0
        chosen = [point for point in deferral.curve if point.cloud_share <= 0.1][-1]
        assert chosen.combined_accuracy >= deferral.curve[0].combined_accuracy
        assert 0.0 < deferral.threshold <= 1.0
    assert compiled.manifest.variant(CLOUD).deferral is None


def test_self_test_vectors_pass_the_right_model_and_fail_one_with_flipped_weights(compiled, request_):
    manifest = compiled.manifest
    data = (compiled.out / "blobs" / manifest.selftest.blob.sha256).read_bytes()
    vectors = selftest.decode_vectors(data)
    variant = manifest.variant("litert-int8")
    model = bytearray((compiled.out / "blobs" / variant.blob.sha256).read_bytes())

    def run_with(content: bytes):
        x = np.concatenate([selftest.from_array(v.inputs[0]) for v in vectors])
        rows = iter(answers("litert-int8", "litert", content, x))
        return lambda inputs: {"logits": next(rows)[None]}

    good = selftest.check_vectors(vectors, manifest.selftest, "litert-int8", run_with(bytes(model)))
    assert good.passed and good.worst <= manifest.selftest.tolerance["litert-int8"] / making.STEPS
    dense = _largest_run_of_weights(bytes(model))
    model[dense] = bytes((-b) % 256 for b in model[dense])
    bad = selftest.check_vectors(vectors, manifest.selftest, "litert-int8", run_with(bytes(model)))
    assert not bad.passed and bad.reason


def test_a_release_says_what_it_was_trained_on_and_no_device_fetches_it(compiled, request_):
    manifest = compiled.manifest
    data = (compiled.out / "blobs" / manifest.profile.sha256).read_bytes()
    (found,) = decode_profile(data).inputs
    (told,) = planned_figures(manifest.inputs)
    rows = next(iter(request_.calibration.inputs.values()))
    assert (found.name, found.rows, found.nan) == (manifest.inputs[0].name, len(rows), 0)
    assert len(figures_of(found)) == len(told.names) and len(data) < 4096
    assert manifest.profile in manifest.blobs() and manifest.profile not in manifest.blobs(manifest.variants)


def _largest_run_of_weights(model: bytes) -> slice:
    """The dense layer's 192 int8 weights: the longest stretch with few zero bytes."""
    best, start, size = 0, 0, 192
    for position in range(0, len(model) - size, 4):
        varied = len(set(model[position : position + size]))
        if varied > best:
            best, start = varied, position
    return slice(start, start + size)


def test_the_drift_section_has_its_encoder_and_a_later_release_can_keep_it(compiled, request_, tmp_path):
    ref = compiled.manifest.sketch
    encoder = decode_encoder((compiled.out / "blobs" / ref.encoder.sha256).read_bytes())
    later = replace(
        request_,
        targets=("onnx-fp32",),
        cloud=None,
        calibration=stripes(80, seed=9),
        encoder=encoder,
        out=tmp_path / "r",
    )
    assert compile_release(later).manifest.sketch.sketch_id == ref.sketch_id


def test_a_gate_that_nothing_meets_writes_nothing(request_, tmp_path):
    strict = replace(request_, targets=("onnx-fp32",), gate=Gate(min_metric=1.01), out=tmp_path / "release")
    with pytest.raises(GateError, match=r"accuracy is .* at least 1\.01"):
        compile_release(strict)
    assert list(tmp_path.iterdir()) == []


class Unsupported(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values = torch.linalg.eigvals(x[:, 0]).real
        return values[:, :3]


def test_a_target_that_cannot_be_built_names_the_operator(request_, tmp_path):
    odd = replace(request_, module=Unsupported(), targets=("litert-fp32",), cloud=None, out=tmp_path / "release")
    with pytest.raises(TargetError, match="eig"):
        compile_release(odd)
    assert list(tmp_path.iterdir()) == []


def test_validation_that_calibration_saw_is_refused(request_, tmp_path):
    with pytest.raises(DataError, match="200 validation inputs are also calibration inputs"):
        compile_release(replace(request_, calibration=request_.validation, out=tmp_path / "r"))


def test_labels_out_of_range_are_refused(request_, tmp_path):
    data = request_.validation
    wrong = replace(data, y=data.y + 7)
    with pytest.raises(DataError, match="classes 0 to 2"):
        compile_release(replace(request_, validation=wrong, targets=("onnx-fp32",), cloud=None, out=tmp_path / "r"))


def test_a_crash_of_the_runtime_is_a_refusal(request_):
    with pytest.raises(TargetError, match="litert-fp32"):
        answers("litert-fp32", "litert", b"\x1c\0\0\0TFL3" + b"\xff" * 400, request_.validation.x[:2])


def test_the_same_inputs_give_the_same_release_but_for_latencies(compiled, request_, tmp_path):
    """ADR 0008: every blob, and the manifest without what was timed."""
    again = compile_release(replace(request_, out=tmp_path / "again"))

    def untimed(manifest):
        document = msgspec.to_builtins(manifest)
        for variant in document["variants"]:
            for timed in ("latency_us_p50", "latency_us_p95", "latency_ratio", "notes", "load_ms", "peak_memory_bytes"):
                variant["verdict"].pop(timed, None)
        return document

    assert untimed(again.manifest) == untimed(compiled.manifest)
    names = [
        {blob.name for blob in (out / "blobs").iterdir()} - {read_release(out).detail.sha256}  # notes on latencies
        for out in (again.out, compiled.out)
    ]
    assert names[0] == names[1]
