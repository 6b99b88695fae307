"""Detectors that give as many boxes as they find: NMS inside the model, with a batch axis and without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from fleet import tasks
from fleet.protocol import selftest
from fleet.protocol.manifest import Manifest
from fleet.runtimes import named
from fleet.runtimes.models import LoadedModel
from model_compiler.errors import CompilerError
from model_compiler.evaluate import tasking
from model_compiler.importing import import_release
from model_compiler.inputs.dataset import make_dataset
from model_compiler.inputs.request import CompileRequest

SLOTS, ROWS = 4, 24
TASK = "detection:layout=outputs"


def detector(*, batch: bool, scale: float = 1.0, image: tuple[Any, ...] = (1, SLOTS, 6)) -> bytes:
    """A model of 'images' that are boxes already, (1, slots, [x1, y1, x2, y2, score, class]): those above a half are
    found, as torchvision's detectors give them, without a batch axis, or with one."""
    zero, half = helper.make_tensor("zero", TensorProto.INT64, [1], [0]), 0.5
    constants = [
        zero,
        helper.make_tensor("half", TensorProto.FLOAT, [], [half]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [scale]),
        helper.make_tensor("flat", TensorProto.INT64, [2], [-1, 6]),
        helper.make_tensor("cuts", TensorProto.INT64, [3], [4, 1, 1]),
        helper.make_tensor("line", TensorProto.INT64, [1], [-1]),
    ]
    nodes = [
        helper.make_node("Reshape", ["image", "flat"], ["rows"]),
        helper.make_node("Split", ["rows", "cuts"], ["places", "sure", "kinds"], axis=1),
        helper.make_node("Reshape", ["sure", "line"], ["all_scores"]),
        helper.make_node("Reshape", ["kinds", "line"], ["all_kinds"]),
        helper.make_node("Greater", ["all_scores", "half"], ["found"]),
        helper.make_node("Compress", ["places", "found"], ["unscaled"], axis=0),
        helper.make_node("Mul", ["unscaled", "scale"], ["boxes_"]),
        helper.make_node("Compress", ["all_scores", "found"], ["scores_"], axis=0),
        helper.make_node("Compress", ["all_kinds", "found"], ["kinds_"], axis=0),
        helper.make_node("Cast", ["kinds_"], ["labels_"], to=TensorProto.INT64),
    ]
    names = {"boxes": TensorProto.FLOAT, "scores": TensorProto.FLOAT, "labels": TensorProto.INT64}
    for name in names:
        done = ["Unsqueeze", [f"{name}_", "zero"]] if batch else ["Identity", [f"{name}_"]]
        nodes.append(helper.make_node(done[0], done[1], [name]))
    lead: list[Any] = [1] if batch else []
    outputs = [
        helper.make_tensor_value_info(name, kind, [*lead, "found", *([4] if name == "boxes" else [])])
        for name, kind in names.items()
    ]
    given = [helper.make_tensor_value_info("image", TensorProto.FLOAT, list(image))]
    graph = helper.make_graph(nodes, "detector", given, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def images(seed: int = 0) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Images (n, slots, 6) with no to four boxes, and what is right of them (n, slots, 5)."""
    random = np.random.default_rng(seed)
    x, y = np.zeros((ROWS, SLOTS, 6), np.float32), np.full((ROWS, SLOTS, 5), -1, np.float32)
    for row in range(ROWS):
        for slot in range(row % (SLOTS + 1)):
            corner, kind = random.uniform(0, 50, 2), int(random.integers(2))
            box = [*corner, *(corner + random.uniform(5, 20, 2))]
            x[row, slot], y[row, slot] = [*box, random.uniform(0.6, 1.0), kind], [*box, kind]
        x[row, row % (SLOTS + 1) :, 4] = random.uniform(0.0, 0.4)
    return x, y


def imported(folder: Path, model: bytes, *, task: str = TASK, cloud: bytes = b"", **more: Any) -> Manifest:
    x, y = images()
    x = more.pop("x", x)
    file = folder / "model.onnx"
    file.write_bytes(model)
    request = CompileRequest(
        calibration=None,  # type: ignore[arg-type]  # an import uses none
        validation=make_dataset({"image": x}, y, "validation"),
        targets=(),
        out=folder / "release",
        labels=("cat", "dog"),
        task=tasking.parse(task),
        cloud=cloud or None,
        **more,
    )
    return import_release(file, request).manifest


def loaded(manifest: Manifest, model: bytes) -> LoadedModel:
    return named("onnxruntime").open(model).model(manifest.inputs, manifest.outputs)


@pytest.mark.parametrize("batch", [True, False], ids=["with a batch axis", "without one"])
def test_the_verdict_is_what_the_served_release_answers(tmp_path: Path, batch: bool) -> None:
    model = detector(batch=batch)
    manifest = imported(tmp_path, model)
    assert manifest.variants[0].verdict.value == 1.0
    assert {tensor.name: tensor.shape for tensor in manifest.outputs} == {
        "boxes": (-1, -1, 4),
        "scores": (-1, -1),
        "labels": (-1, -1),
    }
    assert "variable-outputs" in manifest.requires
    x, y = images()
    served, task = loaded(manifest, model), tasks.of_manifest(manifest)
    together = task.answers(served.run({"image": x}))
    for row in range(ROWS):
        answer = served.run({"image": x[row : row + 1]})
        found = row % (SLOTS + 1)
        assert answer["boxes"].shape == (1, found, 4) and answer["labels"].shape == (1, found)
        (alone,) = task.answers(answer)
        label = [{"box": box[:4].tolist(), "class": int(box[4])} for box in y[row] if box[4] >= 0]
        assert task.right(alone, label) == 1.0
        assert task.agreement(alone, together[row]) == 1.0, "a batch is filled up with boxes of score 0"


def test_an_input_without_a_batch_axis_is_one_image(tmp_path: Path) -> None:
    model = detector(batch=False, image=(SLOTS, 6))
    manifest = imported(tmp_path, model)
    assert [tensor.shape for tensor in (*manifest.inputs, *manifest.outputs)] == [
        (SLOTS, 6),
        (1, -1, 4),
        (1, -1),
        (1, -1),
    ]
    x, _ = images()
    served, task = loaded(manifest, model), tasks.of_manifest(manifest)
    for row in range(5):
        (answer,) = task.answers(served.run({"image": x[row]}))
        assert len(answer.scores) == row


def test_a_cloud_model_may_find_another_number_of_boxes(tmp_path: Path) -> None:
    manifest = imported(tmp_path, detector(batch=False), cloud=detector(batch=True, scale=1.01))
    edge, cloud = manifest.variants
    assert (edge.placement, cloud.placement) == ("edge", "cloud")
    assert cloud.verdict.value == 1.0 and cloud.verdict.agreement > 0.9


def test_the_self_test_lets_the_task_judge_where_another_processor_finds_another_number(tmp_path: Path) -> None:
    model = detector(batch=True)
    manifest = imported(tmp_path, model)
    blob = tmp_path / "release" / "blobs" / manifest.selftest.blob.sha256
    vectors = selftest.decode_vectors(blob.read_bytes())
    served, task = loaded(manifest, model), tasks.of_manifest(manifest)

    def agree(one: Any, other: Any) -> tuple[int, int]:
        pairs = list(zip(task.answers(one), task.answers(other), strict=True))
        return sum(task.agrees(*pair) for pair in pairs), len(pairs)

    def check(run: Any, judge: Any = agree) -> selftest.SelftestResult:
        return selftest.check_vectors(vectors, manifest.selftest, "onnx-fp32", run, manifest.outputs, judge)

    lost: list[int] = []

    def one_less(inputs: Any) -> Any:
        answer = served.run(inputs)
        if answer["scores"].shape[1] == SLOTS and not lost:
            lost.append(1)
            return {name: array[:, 1:] for name, array in answer.items()}
        return answer

    assert check(served.run).passed
    assert check(one_less).passed and lost
    nothing = check(lambda inputs: {name: array[:, :0] for name, array in served.run(inputs).items()})
    assert not nothing.passed and "keep their answer" in nothing.reason
    lost.clear()
    assert not check(one_less, None).passed, "without a task nobody says whether a box less is alike"


def test_other_tasks_keep_one_size(tmp_path: Path) -> None:
    with pytest.raises(CompilerError, match="has another size for each sample"):
        imported(tmp_path, detector(batch=True), task="regression:tolerance=1")


def test_onnx_checks_the_model_of_these_tests() -> None:
    onnx.checker.check_model(onnx.load_from_string(detector(batch=False)))
