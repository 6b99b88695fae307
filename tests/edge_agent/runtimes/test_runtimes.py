from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

from edge_agent import runtimes
from edge_agent.errors import CorruptBlobError, ModelLoadError, RuntimeMissingError
from edge_agent.runtimes import selftest
from tests.support import any_model, models
from tests.support.fake_runtime import FakeRuntime

CASES = ["fake", "ai-edge-litert/fp32", "ai-edge-litert/int8", "onnxruntime", "onnxruntime/1"]


@pytest.fixture(params=CASES)
def case(request, tmp_path):
    """(runtime, release, tolerance): every implementation of the port, the fake included."""
    name, _, precision = request.param.partition("/")
    if name == "fake":
        return FakeRuntime(), models.release(tmp_path, data=b"fake"), 1e-6
    if name == "onnxruntime":
        data = models.onnx_bytes(rows=1) if precision else models.onnx_bytes()
        return runtimes.named(name), models.release(tmp_path, data=data), 1e-5
    data = models.litert_bytes(precision)
    tolerance = 1e-5 if precision == "fp32" else 0.06
    return runtimes.named(name), models.release(tmp_path, data=data, runtime="litert", tolerance=0.06), tolerance


def load(case):
    runtime, release, _ = case
    return runtime.load(release.open_blob(release.variant.blob.sha256), release.manifest, release.variant)


@pytest.mark.parametrize("rows", [1, 5, 1, 3])
def test_answers_every_batch_size(case, rows):
    model, x = load(case), models.inputs(rows)
    (logits,) = model.run({"input": x}).values()
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, models.answer(x), atol=case[2])


def test_answers_are_the_callers_own(case):
    model = load(case)
    first = model.run({"input": models.inputs(1)})["logits"]
    kept = first.copy()
    model.run({"input": models.inputs(1, seed=9)})
    np.testing.assert_array_equal(first, kept)


def test_changing_batch_sizes_keep_answers_right(case):
    model = load(case)
    for rows in (1, 4, 2, 1):
        x = models.inputs(rows, seed=rows)
        np.testing.assert_allclose(model.run({"input": x})["logits"], models.answer(x), atol=case[2])


def test_read_only_inputs_are_fine(case):
    x = np.frombuffer(models.inputs(1).tobytes(), np.float32).reshape(1, 4)
    np.testing.assert_allclose(load(case).run({"input": x})["logits"], models.answer(x), atol=case[2])


def test_a_wrong_shape_is_an_error_and_the_model_lives_on(case):
    model = load(case)
    with pytest.raises((ValueError, RuntimeError)):
        model.run({"input": np.zeros((1, 7), np.float32)})
    x = models.inputs(1)
    np.testing.assert_allclose(model.run({"input": x})["logits"], models.answer(x), atol=case[2])


@pytest.mark.parametrize("case", CASES[1:], indirect=True)  # the fake remembers what it has loaded
def test_a_closed_model_goes_without_a_collection(case):
    """The agent leaves what it has loaded at its start out of collections."""
    model = load(case)
    model.run({"input": models.inputs(2)})
    session = model._file._session if case[0].name == "onnxruntime" else model._interpreter
    whole = [weakref.ref(model), weakref.ref(session)]
    gc.collect()
    gc.disable()
    try:
        model.close()
        del model, session
        assert [ref() for ref in whole] == [None, None]
    finally:
        gc.enable()


def test_saturates_where_int8_ends(tmp_path):
    case = (
        runtimes.named("ai-edge-litert"),
        models.release(tmp_path, data=models.litert_bytes("int8"), runtime="litert"),
        0,
    )
    huge = load(case).run({"input": np.full((1, 4), 1e6, np.float32)})["logits"]
    edge = load(case).run({"input": np.full((1, 4), 1.0, np.float32)})["logits"]
    np.testing.assert_allclose(huge, edge, atol=0.06)


@pytest.mark.parametrize("name", ["ai-edge-litert", "onnxruntime"])
def test_garbage_is_refused(tmp_path, name):
    kind = "onnx" if name == "onnxruntime" else "litert"
    release = models.release(tmp_path, data=b"garbage" * 40, runtime=kind)
    with pytest.raises(ModelLoadError, match="refuses"):
        load((runtimes.named(name), release, 0))


def test_onnx_external_data_is_refused(tmp_path):
    import onnx
    from onnx.external_data_helper import convert_model_to_external_data

    model = onnx.load_from_string(models.onnx_bytes())
    convert_model_to_external_data(model, location="weights.bin", size_threshold=0)
    folder = tmp_path / "external"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    assert (folder / "weights.bin").exists()
    release = models.release(tmp_path / "blobs", data=(folder / "model.onnx").read_bytes())
    with pytest.raises(ModelLoadError):
        load((runtimes.named("onnxruntime"), release, 0))


def test_tensors_that_are_not_the_manifests_are_refused(tmp_path):
    import msgspec

    release = models.release(tmp_path)
    twice = msgspec.structs.replace(release.manifest, outputs=release.manifest.outputs * 2)
    with pytest.raises(ModelLoadError, match="names 2 outputs"):
        runtimes.named("onnxruntime").load(models.onnx_bytes(), twice, release.variant)


def test_available_names_versions_without_importing():
    found = runtimes.available()
    assert {"ai-edge-litert", "onnxruntime"} <= set(found)
    assert runtimes.kinds() == {"litert", "onnx"}


def test_a_runtime_is_made_once(tmp_path):
    variant = models.release(tmp_path).variant
    assert runtimes.for_variant(variant) is runtimes.for_variant(variant)


def test_a_missing_runtime_names_the_extra():
    if "tflite-runtime" in runtimes.available():
        pytest.skip("tflite-runtime is installed here")
    with pytest.raises(RuntimeMissingError) as caught:
        runtimes.named("tflite-runtime")
    assert "edgeloop[tflite]" in caught.value.hint


def test_selftest_passes_the_right_model_and_fails_a_bad_one(tmp_path):
    good = models.release(tmp_path)
    assert selftest.run(good.manifest, "onnx-fp32", tmp_path).passed
    bad = models.release(tmp_path, data=models.onnx_bytes(swap=True))
    outcome = selftest.run(bad.manifest, "onnx-fp32", tmp_path)
    assert not outcome.passed
    assert "off by" in outcome.reason


def test_selftest_refuses_a_tampered_blob_before_loading_it(tmp_path):
    release = models.release(tmp_path)
    path = tmp_path / release.variant.blob.sha256
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(CorruptBlobError):
        selftest.run(release.manifest, "onnx-fp32", tmp_path)


@pytest.mark.parametrize("x", [np.float32([[1, 0]]), np.float32([[1, -1]])], ids=["infinite", "NaN"])
def test_a_release_that_answers_no_numbers_fails_its_self_test_unless_it_means_them(tmp_path, x):
    data = any_model.logarithm()
    inputs, outputs = (any_model.tensors({name: ("FP32", ["n", 2])}) for name in ("x", "y"))
    with np.errstate(all="ignore"):
        golden = [({"x": x}, {"y": np.log(x)})]
    release = any_model.release(tmp_path, inputs, outputs, edge=data, golden=golden)
    outcome = selftest.run(release.manifest, "onnx-fp32", tmp_path)
    assert not outcome.passed and "output 'y' is" in outcome.reason
    assert selftest.run(any_model.relaxed(release).manifest, "onnx-fp32", tmp_path).passed
