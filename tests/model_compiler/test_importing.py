"""A model that the runtimes serve is imported as it is: datatypes, scalars, sizes that vary, states, a choice of
outputs.
"""

from __future__ import annotations

import errno
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec import structs

from edge_agent.runtimes import selftest
from fleet import runtimes
from fleet.protocol.interface import Interface, interface_of, tensors
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.manifest_detail import decode_detail, with_detail
from fleet.protocol.steps import Concat
from fleet.runtimes.tensors import FileTensor
from model_compiler import main
from model_compiler.build.artifacts import Artifact
from model_compiler.build.targets import TARGETS
from model_compiler.errors import DataError, InterfaceError, SourceError, TargetError
from model_compiler.evaluate import measurements
from model_compiler.importing import import_release
from model_compiler.inputs import ports, release_folder, sources
from model_compiler.inputs.dataset import Dataset, make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import parse
from model_compiler.package import pack
from model_compiler.report.terminal import own_auditors
from model_compiler.running import runner
from model_compiler.running.runner import Wanted
from model_compiler.running.runner_process import Loaded
from tests.support.any_model import onnx_file
from tests.support.litert_file import Node, litert_file
from tests.support.models import BIAS, WEIGHTS

N = 24
RANDOM = np.random.default_rng(5)
X = RANDOM.normal(size=(N, 5, 4))
W = RANDOM.normal(size=(4, 3))


def many_kinds() -> bytes:
    """Truth values, double precision of any length, a scalar; a hidden output, the class, and the scores."""
    nodes = [
        ("Cast", ["flags"], ["on"], {"to": 11}),
        ("ReduceMean", ["x"], ["mean"], {"axes": [1], "keepdims": 0}),
        ("Add", ["mean", "on"], ["hidden"], {}),
        ("MatMul", ["hidden", "W"], ["cold"], {}),
        ("Cast", ["heat"], ["wide"], {"to": 11}),
        ("Mul", ["cold", "wide"], ["scores"], {}),
        ("ArgMax", ["scores"], ["label"], {"axis": 1, "keepdims": 0}),
    ]
    inputs = {"flags": ("BOOL", ["n", 4]), "x": ("FP64", ["n", "t", 4]), "heat": ("FP32", [])}
    outputs = {"hidden": ("FP64", ["n", 4]), "label": ("INT64", ["n"]), "scores": ("FP64", ["n", 3])}
    return onnx_file(nodes, inputs, outputs, {"W": W})


def data_of_many_kinds() -> Dataset:
    flags = X[:, 0] > 0
    y = ((X.mean(1) + flags) @ W).argmax(1)
    return make_dataset({"flags": flags, "x": X, "heat": np.float32(2)}, y, "validation", exact=True)


def imported(tmp_path: Path, file: bytes, data: Dataset, **more: Any) -> Manifest:
    (tmp_path / "m.onnx").write_bytes(file)
    request = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "r", **more)
    made = import_release(tmp_path / "m.onnx", request).manifest
    for variant in made.variants:
        assert selftest.run(made, variant.name, tmp_path / "r" / "blobs").passed
    return made


def test_a_file_keeps_its_datatypes_and_what_varies_in_it(tmp_path: Path) -> None:
    cloud = many_kinds()
    made = imported(tmp_path, many_kinds(), data_of_many_kinds(), outputs=("scores", "hidden"), cloud=cloud)
    assert tensors(made.inputs) == "flags BOOL [-1, 4], x FP64 [-1, -1, 4], heat FP32 []"
    assert tensors(made.outputs) == "scores FP64 [-1, 3], hidden FP64 [-1, 4]"
    assert made.variants[0].verdict.value == 1.0 and made.variants[0].verdict.metric == "accuracy"
    assert [variant.placement for variant in made.variants] == ["edge", "cloud"]
    edge = (tmp_path / "r" / "blobs" / made.variants[0].blob.sha256).read_bytes()
    assert edge == cloud, "the file is unchanged"
    model = runtimes.load(runtimes.named("onnxruntime"), edge, made.inputs, made.outputs, strict=True)
    longer = RANDOM.normal(size=(3, 9, 4))
    answer = model.run({"flags": np.zeros((3, 4), bool), "x": longer, "heat": np.array(2, np.float32)})
    np.testing.assert_allclose(answer["scores"], 2 * longer.mean(1) @ W, rtol=1e-12)


def test_a_cloud_variant_that_is_the_file_itself_is_known_for_it(tmp_path: Path) -> None:
    """Its data names the inputs in another order than the file, which is no reason to write it anew."""
    made = imported(tmp_path, many_kinds(), data_of_many_kinds(), outputs=("scores",), cloud=many_kinds())
    assert len({variant.blob.sha256 for variant in made.variants}) == 1
    (said,) = own_auditors(made)
    assert "cloud-onnx-fp32 is the same file as onnx-fp32" in said


def test_the_float_origin_of_a_file_gets_what_its_integers_stand_for(tmp_path: Path) -> None:
    """Data in the file's own integers is given to its float origin as real values, or the drop would be of nonsense."""
    fixtures = Path(__file__).parents[1] / "fixtures"
    (tensor,) = ports.read("litert", (fixtures / "tiny_int8.tflite").read_bytes()).inputs
    real = RANDOM.uniform(-1, 1, size=(60, 4)).astype(np.float32)
    y = (real @ WEIGHTS + BIAS).argmax(1)
    x = np.clip(np.rint(real / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)
    data = make_dataset(x, y, "validation", exact=True)
    asked = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "r", labels=("a", "b", "c"))
    made = import_release(fixtures / "tiny_int8.tflite", asked, reference=fixtures / "tiny_fp32.tflite").manifest
    verdict = made.variants[0].verdict
    assert made.inputs[0].datatype == "INT8" and verdict.reference > 0.95 and verdict.agreement > 0.9


def test_the_float_origin_of_a_file_behind_steps_gets_what_their_integers_stand_for(
    tmp_path: Path,
) -> None:
    fixtures = Path(__file__).parents[1] / "fixtures"
    (tensor,) = ports.read("litert", (fixtures / "tiny_int8.tflite").read_bytes()).inputs
    real = RANDOM.uniform(-1, 1, size=(60, 4)).astype(np.float32)
    y = (real @ WEIGHTS + BIAS).argmax(1)
    x = np.clip(np.rint(real / tensor.scale) + tensor.zero_point, -128, 127).astype(np.int8)
    data = make_dataset({"left": x[:, :1], "right": x[:, 1:]}, y, "validation", exact=True)
    steps = (Concat(inputs=("left", "right"), output="joined"),)
    asked = CompileRequest(
        calibration=data, validation=data, targets=(), out=tmp_path / "r", labels=("a", "b", "c"), preprocess=steps
    )
    made = import_release(fixtures / "tiny_int8.tflite", asked, reference=fixtures / "tiny_fp32.tflite").manifest
    verdict = made.variants[0].verdict
    assert tensors(made.inputs) == "left INT8 [-1, 1], right INT8 [-1, 3]"
    assert verdict.reference > 0.95 and verdict.agreement > 0.9


def test_an_input_goes_to_the_tensor_of_its_name_in_the_signature_else_of_its_own_else_of_its_place() -> None:
    first, second = (
        FileTensor(name="a:0", datatype="FP32", shape=(1,)),
        FileTensor(name="b", datatype="FP32", shape=(1,)),
    )
    assert ports.takers(("b", "a"), (first, second)) == {"b": second, "a": first}
    assert ports.takers(("b", "c"), (first, second))["b"] == second
    assert ports.takers(("x", "y", "z"), (first, second)) == {"x": first, "y": second}
    signed = (structs.replace(first, signature="b"), structs.replace(second, signature="a"))
    assert ports.takers(("a", "b"), signed) == {"a": signed[1], "b": signed[0]}
    assert ports.takers(("b", "c"), signed)["b"] == signed[1], "the signature lacks c"


def test_an_operator_whose_locale_is_missing_says_what_to_install(tmp_path: Path) -> None:
    nodes = [("StringNormalizer", ["word"], ["low"], {"case_change_action": "LOWER", "locale": "xx_NOWHERE"})]
    file = onnx_file(nodes, {"word": ("BYTES", ["n"])}, {"low": ("BYTES", ["n"])})
    words = np.array(["Red", "green"] * 4, object)
    data = make_dataset({"word": words}, words, "validation", exact=True)
    with pytest.raises(TargetError, match=r"needs the locale xx_NOWHERE.* or export the model with locale 'C'"):
        imported(tmp_path, file, data, metric=parse("exact"))


def test_an_output_whose_size_differs_from_sample_to_sample_is_refused_in_words(tmp_path: Path) -> None:
    """As of a detector that gives as many boxes as it finds."""
    nodes = [("NonZero", ["x"], ["places"], {}), ("Cast", ["places"], ["found"], {"to": 1})]
    file = onnx_file(nodes, {"x": ("FP32", [4])}, {"found": ("FP32", [1, "k"])})
    x = np.tril(np.ones((4, 4), np.float32)).repeat(6, axis=0)
    data = make_dataset({"x": x}, x.sum(1), "validation", exact=True)
    with pytest.raises(TargetError, match=r"'found' has another size for each sample \(\[1, 1\] to \[1, 4\]\)"):
        imported(tmp_path, file, data, metric=parse("mae"))


def state_file() -> bytes:
    """The sum of what came so far: time varies, the state has no batch."""
    nodes = [
        ("ReduceSum", ["x", "axis"], ["step"], {"keepdims": 0}),
        ("Add", ["state", "step"], ["next"], {}),
        ("ReduceMax", ["next"], ["loudest"], {"keepdims": 0}),
    ]
    inputs = {"x": ("FP32", ["t", 4]), "state": ("FP32", [4])}
    outputs = {"loudest": ("FP32", []), "next": ("FP32", [4])}
    return onnx_file(nodes, inputs, outputs, {"axis": np.array([0])})


def test_a_model_with_a_state_takes_and_gives_it(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    data = make_dataset({"x": x, "state": np.zeros((N, 4), np.float32)}, x.sum(1).max(1), "validation", exact=True)
    made = imported(tmp_path, state_file(), data)
    assert tensors(made.inputs) == "x FP32 [-1, 4], state FP32 [4]"
    assert tensors(made.outputs) == "loudest FP32 [], next FP32 [4]"
    assert made.variants[0].verdict.value == pytest.approx(0, abs=1e-5)


# ---- without a child ---------------------------------------------------------------------------------


def loaded(file: bytes, wanted: Wanted = Wanted(), **arrays: np.ndarray[Any, Any]) -> Loaded:  # noqa: B008 (frozen)
    return Loaded(runtimes.named("onnxruntime").open(file), list(arrays), list(arrays.values()), wanted)


def doubled(kind: str, shape: list[Any]) -> bytes:
    return onnx_file([("Add", ["x", "x"], ["out"], {})], {"x": (kind, shape)}, {"out": (kind, shape)})


@pytest.mark.parametrize(
    ("shape", "given", "sliced", "batched"),
    [
        (["n", 4], (6, 4), True, True),
        ([1, 4], (6, 4), True, True),
        (["n"], (6,), True, True),
        ([4], (6, 4), False, False),
        ([], (6,), False, False),
        ([7, 4], (6, 7, 4), False, False),
        (["n", "t"], (6, 3), True, True),
        (["t", 1, 4], (6, 9, 1, 4), False, False),
        ([1, 4], (6, 1, 4), False, False),
    ],
)
def test_an_array_holds_rows_or_whole_inputs(shape: list[Any], given: Any, sliced: bool, batched: bool) -> None:
    x = RANDOM.normal(size=given).astype(np.float32)
    model = loaded(doubled("FP32", shape), x=x)
    assert (model.sliced == ("x",), model.batched) == (sliced, batched)
    ((answer, _),) = model.answers([0])
    np.testing.assert_allclose(answer, 2 * x, rtol=1e-6)


@pytest.mark.parametrize(
    ("shape", "given"), [(["n", 4], (6, 5)), ([7, 4], (6, 4)), ([], (6, 2)), (["n", 4], (6, 4, 1))]
)
def test_an_array_that_is_neither_is_refused_with_both_shapes(shape: list[Any], given: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"input 'x' has shape \[.*\] per sample, the model takes \["):
        loaded(doubled("FP32", shape), x=np.zeros(given, np.float32))


@pytest.mark.parametrize(("kind", "dtype"), [("FP16", "f2"), ("FP64", "f8")])
def test_precision_is_kept_where_it_is_wanted(kind: str, dtype: str) -> None:
    x = np.full((3, 2), 0.1, dtype)
    assert loaded(doubled(kind, ["n", 2]), Wanted(precise=True), x=x).answer(0)[0].dtype == np.dtype(dtype)
    assert loaded(doubled(kind, ["n", 2]), x=x).answer(0)[0].dtype == np.float32


def test_a_model_of_single_precision_keeps_it_for_its_applications(tmp_path: Path) -> None:
    """A file in double precision for a model whose applications send and read single precision."""
    known = Interface(
        inputs=(Tensor(name="x", datatype="FP32", shape=(-1, 4)),),
        outputs=(Tensor(name="out", datatype="FP32", shape=(-1, 4)),),
    )
    x = X[:, 0]
    made = imported(tmp_path, doubled("FP64", ["n", 4]), make_dataset(x, 2 * x, "v", exact=True), interface=known)
    assert interface_of(made).inputs == known.inputs and interface_of(made).outputs == known.outputs


def test_a_size_that_applications_know_stays_fixed(tmp_path: Path) -> None:
    shape = (Tensor(name="x", datatype="FP32", shape=(-1, 5, 4)),)
    known = Interface(inputs=shape, outputs=(Tensor(name="out", datatype="FP32", shape=(-1, 5, 4)),))
    x = X.astype(np.float32)
    made = imported(tmp_path, doubled("FP32", ["n", "t", 4]), make_dataset(x, 2 * x, "v"), interface=known)
    assert made.inputs == shape


# ---- outputs -----------------------------------------------------------------------------------------


def classifier(*, zipped: bool) -> ports.Ports:
    """A file as scikit-learn's converter writes it: the class and the probabilities, in maps unless ZipMap is off."""
    from onnx import TensorProto, helper

    label = helper.make_tensor_value_info("label", TensorProto.INT64, ["n"])
    kind = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    maps = helper.make_value_info("probabilities", helper.make_sequence_type_proto(kind))
    table = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])
    graph = helper.make_graph([], "sklearn", [x], [label, maps if zipped else table])
    return ports.read("onnx", helper.make_model(graph).SerializeToString())


def test_probabilities_in_maps_are_refused_with_the_cause_and_both_ways_out() -> None:
    with pytest.raises(SourceError, match=r"'probabilities' is no tensor.*ZipMap") as refused:
        ports.chosen(classifier(zipped=True).outputs, ())
    assert "options={'zipmap': False}" in refused.value.hint and "--output label" in refused.value.hint
    (label,) = ports.chosen(classifier(zipped=True).outputs, ("label",))
    assert label.name == "label"


def test_a_class_beside_its_probabilities_is_not_the_score() -> None:
    found = classifier(zipped=False).outputs
    with pytest.raises(InterfaceError, match=r"'label' .* holds the class itself") as refused:
        ports.check_scores(ports.chosen(found, ()), found)
    assert refused.value.hint == "choose the scores: --output probabilities"
    ports.check_scores(ports.chosen(found, ("probabilities", "label")), found)
    with pytest.raises(InterfaceError) as alone:
        ports.check_scores(found[:1], found[:1])
    assert alone.value.hint == "--metric exact compares classes"


def test_an_output_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(InterfaceError, match="no output 'scores'; it has label, probabilities"):
        ports.chosen(classifier(zipped=False).outputs, ("scores",))


# ---- data --------------------------------------------------------------------------------------------


def fitted(array: np.ndarray[Any, Any], datatype: str, *, scale: float = 0.0, kept: str = "") -> np.ndarray[Any, Any]:
    tensor = FileTensor(name="x", datatype=datatype, shape=None, scale=scale)
    return ports.fit(Dataset({"x": array}), {"x": tensor}, {"x": kept} if kept else {}).inputs["x"]


@pytest.mark.parametrize(
    ("array", "datatype", "dtype"),
    [
        (np.array([[0, 1]]), "BOOL", "?"),
        (np.array([[0.0, 1.0]]), "BOOL", "?"),
        (np.array([[True, False]]), "FP32", "f4"),
        (np.array([[1, 2]], "i4"), "INT64", "i8"),
        (np.array([[1.0, 2.0]]), "INT32", "i4"),
        (np.array([[0.1]]), "FP16", "f2"),
    ],
)
def test_data_becomes_what_the_file_takes(array: np.ndarray[Any, Any], datatype: str, dtype: str) -> None:
    found = fitted(array, datatype)
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_allclose(found.astype(float), array.astype(float), rtol=1e-3)


@pytest.mark.parametrize(
    ("array", "datatype"),
    [
        (np.array([[0.5]]), "BOOL"),
        (np.array([[1.5]]), "INT64"),
        (np.array([[300]]), "UINT8"),
        (np.array([[-1]]), "UINT32"),
        (np.array([[1e6]]), "FP16"),
        (np.array([[b"a"]], dtype=object), "FP32"),
        (np.array([[1.0]]), "BYTES"),
    ],
)
def test_data_that_the_file_cannot_take_is_refused(array: np.ndarray[Any, Any], datatype: str) -> None:
    with pytest.raises(DataError, match=f"input 'x' .*{datatype}"):
        fitted(array, datatype)


def test_integers_that_stand_for_real_values_are_not_what_is_asked_for() -> None:
    assert fitted(np.array([[0.5]]), "INT8", scale=0.1).dtype == np.float32
    assert fitted(np.array([[5]], np.int8), "INT8", scale=0.1).dtype == np.int8
    assert fitted(np.array([[0.5]]), "FP64", kept="FP32").dtype == np.float32


def test_one_value_for_all_samples_may_be_given_once() -> None:
    data = make_dataset({"x": X, "rate": np.int64(16_000)}, np.zeros(N, np.int64), "v", exact=True)
    assert data.inputs["rate"].shape == (N,) and data.inputs["x"].dtype == np.float64
    with pytest.raises(DataError, match="rate must have shape"):
        make_dataset({"x": X, "rate": np.int64(16_000)}, np.zeros(N, np.int64), "v")


# ---- files of the user's, and disks that refuse ------------------------------------------------------


def test_a_users_file_has_its_siblings_and_dataclasses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_it_5e1f.py").write_text("WIDTH = 3\n")
    (tmp_path / "later_5e1f.py").write_text("HEIGHT = 2\n")
    (tmp_path / "model.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom torch import nn\n"
        "from beside_it_5e1f import WIDTH\n"
        "@dataclass\nclass Settings:\n    width: int = WIDTH\n"
        "def make():\n    from later_5e1f import HEIGHT\n    return nn.Linear(Settings().width, HEIGHT)\n"
    )
    made: Any = sources.load_torch(f"{tmp_path / 'model.py'}:make", None)
    assert tuple(made.weight.shape) == (2, 3)


@pytest.mark.parametrize("line", ["raise SystemExit(3)", "import no_such_module_5e1f", "def make(): raise SystemExit"])
def test_a_users_file_that_ends_the_program_is_refused_by_name(tmp_path: Path, line: str) -> None:
    (tmp_path / "model.py").write_text(f"{line}\n")
    with pytest.raises(SourceError, match=r"model\.py"):
        sources.load_torch(f"{tmp_path / 'model.py'}:make", None)


def figures(kept: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures of `measurements`, with a clock that needs no child."""
    latency = runner.RunLatency(p50=1.0, p95=2.0)
    monkeypatch.setattr(runner, "latencies", lambda models, *_: dict.fromkeys(models, latency))
    profile = runner.VariantProfile(
        inputs=(), outputs=(), batched=True, sliced=(), places={}, output_places=(), load_ms=1.0, peak_memory_bytes=1
    )
    artifact = Artifact("onnx-fp32", TARGETS["onnx-fp32"], "edge", b"model")
    return measurements.figures([artifact], {"onnx-fp32": profile}, make_dataset(X, None, "v"), kept)


def test_a_home_that_cannot_be_written_costs_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert figures(tmp_path / "file" / "kept", monkeypatch)["onnx-fp32"].latency_us_p50 == 1.0
    assert "what was measured is not kept" in caplog.text


def test_a_full_disk_costs_no_release_and_leaves_no_draft(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        assert figures(tmp_path, monkeypatch)["onnx-fp32"].latency_us_p50 == 1.0
    assert "No space left" in caplog.text and list(tmp_path.iterdir()) == []


def test_what_was_kept_and_cut_short_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures(tmp_path, monkeypatch)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(whole[:-5])
    assert figures(tmp_path, monkeypatch)["onnx-fp32"].latency_us_p50 == 1.0
    assert kept.read_bytes() == whole


def test_without_a_home_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", nobody)
    assert main._kept(None, again=False) is None
    assert main._kept(Path("here"), again=False) == Path("here")


def test_a_release_that_cannot_be_written_is_a_sentence_and_leaves_the_old_one(tmp_path: Path) -> None:
    made = imported(tmp_path, doubled("FP32", ["n", 4]), make_dataset(X[:, 0], 2 * X[:, 0], "v"))
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SourceError, match="cannot be written") as refused:
        pack.write_release(tmp_path / "file" / "r", made, [], {})
    assert "--out" in refused.value.hint
    kept = release_folder.read_release(tmp_path / "r")
    assert with_detail(kept, decode_detail(release_folder.read_blob(tmp_path / "r", kept.detail))) == made


def remembering(*, resource: bool) -> bytes:
    """The sum of all that was ever asked, in a resource variable, or in a variable tensor."""
    x, y = {"x": ("FP32", [1, 4])}, {"y": ("FP32", [1, 4])}
    if not resource:
        return litert_file(
            [Node("ADD", ["x", "sum"], ["y"])], x, y, between={"sum": ("FP32", [1, 4])}, variables=["sum"]
        )
    between = {"handle": ("INT32", []), "sum": ("FP32", [1, 4])}
    nodes = [
        Node("VAR_HANDLE", [], ["handle"]),
        Node("READ_VARIABLE", ["handle"], ["sum"]),
        Node("ADD", ["x", "sum"], ["y"]),
        Node("ASSIGN_VARIABLE", ["handle", "y"], []),
    ]
    return litert_file(nodes, x, y, between=between)


@pytest.mark.parametrize("resource", [True, False])
def test_a_litert_file_that_remembers_is_refused_in_words(tmp_path: Path, resource: bool) -> None:
    (tmp_path / "model.tflite").write_bytes(remembering(resource=resource))
    data = make_dataset({"x": np.ones((N, 4), np.float32)}, np.ones((N, 4), np.float32), "validation", exact=True)
    request = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "release")
    with pytest.raises(SourceError, match=r"keeps a state .*from one request to the next") as refused:
        import_release(tmp_path / "model.tflite", request)
    assert "state as an input and an output" in refused.value.hint


@pytest.mark.parametrize("words", [False, True])
def test_a_file_of_skl2onnx_as_it_comes_names_zipmap_and_what_to_do(tmp_path: Path, words: bool) -> None:
    from skl2onnx import to_onnx
    from sklearn.linear_model import LogisticRegression

    x = np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32)
    y = np.array(["fine", "odd"])[(x[:, 0] > 0).astype(int)] if words else (x[:, 0] > 0).astype(np.int64)
    (tmp_path / "model.onnx").write_bytes(to_onnx(LogisticRegression().fit(x, y), x[:1]).SerializeToString())
    data = make_dataset(x, y, "validation", exact=True)
    request = CompileRequest(calibration=data, validation=data, targets=(), out=tmp_path / "release")
    with pytest.raises(SourceError, match=r"'output_probability' is no tensor.*ZipMap") as refused:
        import_release(tmp_path / "model.onnx", request)
    assert "--output output_label" in refused.value.hint
    made = import_release(tmp_path / "model.onnx", replace(request, outputs=("output_label",), metric=parse("exact")))
    assert made.manifest.outputs[0].datatype == ("BYTES" if words else "INT64")
    assert made.manifest.placed("edge")[0].verdict.value > 0.9
