"""A cloud variant on the hub: the names of its tensors, and the requests that may be joined."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cloud_hub.errors import InvalidError, NoAnswerError
from cloud_hub.inference.batching import Batcher, Limits
from cloud_hub.inference.sessions import CloudModel, load_cloud
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest
from tests.support import any_model
from tests.support.any_model import Arrays, Shapes, onnx_file, tensors
from tests.support.hub import HubFixture

X, Y = {"x": ("FP32", ["n", 2])}, {"y": ("FP32", ["n", 2])}
DOUBLE: list[Any] = [("Add", ["x", "x"], ["y"], {})]


def rows(*values: float) -> Arrays:
    return {"x": np.array([[value, 1] for value in values], np.float32)}


class Watched:
    """A cloud model whose runs wait for `open`; remembers how many rows each run had."""

    def __init__(self, model: CloudModel) -> None:
        self._model = model
        self.open, self.entered, self.batches = threading.Event(), threading.Event(), list[int]()

    @property
    def joins(self) -> bool:
        return self._model.joins

    def run(self, inputs: Any) -> Any:
        self.entered.set()
        assert self.open.wait(30)
        self.batches.append(len(inputs["x"]))
        return self._model.run(inputs)


@pytest.fixture
def load(hub: HubFixture, tmp_path: Path) -> Any:
    def make(file: bytes, inputs: Shapes = X, outputs: Shapes = Y, golden: Any = ()) -> tuple[CloudModel, Manifest]:
        made = any_model.release(
            tmp_path / "blobs", tensors(inputs), tensors(outputs), edge=file, cloud=file, golden=golden
        )
        for blob in made.blobs.iterdir():
            hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
        return load_cloud(hub.hub, made.manifest), made.manifest

    return make


def together(model: CloudModel, requests: list[Arrays]) -> tuple[list[Any], list[int]]:
    """The answers (or errors) to requests that all wait while the first one runs, and the rows of each run."""

    async def scenario(pool: ThreadPoolExecutor) -> tuple[list[Any], list[int]]:
        watched, until = Watched(model), asyncio.get_running_loop().time() + 60
        batcher = Batcher([watched], pool, Limits(max_rows=64))
        answers = [batcher.submit(requests[0], until)]
        await asyncio.to_thread(watched.entered.wait, 30)
        answers += [batcher.submit(inputs, until) for inputs in requests[1:]]
        watched.open.set()
        return await asyncio.gather(*answers, return_exceptions=True), watched.batches

    with ThreadPoolExecutor(1) as pool:
        return asyncio.run(scenario(pool))


def test_a_file_with_a_variable_batch_is_asked_together(load) -> None:
    answers, batches = together(load(onnx_file(DOUBLE, X, Y))[0], [rows(k) for k in range(5)])
    assert batches == [1, 4]
    assert [answer["y"][0, 0] for answer in answers] == [0, 2, 4, 6, 8]


def test_a_teacher_of_batch_one_answers_every_one_of_many_requests(load) -> None:
    """Of 240 joined requests 190 ended in HTTP 500."""
    model, _ = load(onnx_file(DOUBLE, {"x": ("FP32", [1, 2])}, {"y": ("FP32", [1, 2])}))
    answers, batches = together(model, [rows(*range(k, k + 1 + k % 3)) for k in range(240)])
    assert len(batches) == 240
    for k, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["y"], 2 * rows(*range(k, k + 1 + k % 3))["x"])


def test_requests_of_other_lengths_are_not_joined(load) -> None:
    shape = {"x": ("FP32", ["n", "time"])}, {"y": ("FP32", ["n", "time"])}
    requests = [{"x": np.full((2, time), time, np.float32)} for time in (3, 3, 3, 5, 5, 3)]
    answers, batches = together(load(onnx_file(DOUBLE, *shape), *shape)[0], requests)
    assert batches == [2, 4, 4, 2]
    assert [answer["y"].shape for answer in answers] == [request["x"].shape for request in requests]


@pytest.mark.parametrize(
    ("nodes", "outputs"),
    [
        ([("Softmax", ["x"], ["y"], {"axis": 0})], Y),  # each row is weighed against the others
        ([("ReduceSum", ["x"], ["s"], {}), ("Add", ["x", "s"], ["y"], {})], Y),
    ],
)
def test_rows_that_look_at_each_other_are_not_joined(load, nodes, outputs) -> None:
    file = onnx_file(nodes, X, outputs)
    alone = [load(file)[0].run(rows(k)) for k in (1, 2)]
    golden = [(rows(k), answer) for k, answer in zip((1, 2), alone, strict=True)]
    answers, batches = together(load(file, X, outputs, golden)[0], [rows(1), rows(1), rows(2)])
    assert batches == [1, 1, 1]
    for answer, wanted in zip(answers, [alone[0], alone[0], alone[1]], strict=True):
        np.testing.assert_array_equal(answer["y"], wanted["y"])


def test_an_output_without_a_batch_keeps_requests_apart(load) -> None:
    file = onnx_file([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], X, {"y": ("FP32", [])})
    answers, batches = together(load(file, X, {"y": ("FP32", [])})[0], [rows(k) for k in range(4)])
    assert batches == [1, 1, 1, 1]
    assert [float(answer["y"]) for answer in answers] == [1, 2, 3, 4]


def test_one_bad_request_does_not_take_its_batch_along(load) -> None:
    file = onnx_file([("Identity", ["x"], ["y"], {})], {"x": ("BYTES", ["n"])}, {"y": ("BYTES", ["n"])})
    model, _ = load(file, {"x": ("BYTES", ["n"])}, {"y": ("BYTES", ["n"])})
    requests = [{"x": np.array([item], object)} for item in (b"a", b"b", b"\xff", b"d")]
    answers, batches = together(model, requests)
    assert batches == [1, 3, 1, 1, 1]
    assert [a["y"][0] for a in answers if isinstance(a, dict)] == [b"a", b"b", b"d"]
    assert isinstance(answers[2], MalformedError) and "is not UTF-8 text" in str(answers[2])


def test_what_the_model_fails_on_is_told_from_what_the_caller_did(load) -> None:
    """Rows of nothing and rows that disagree are the caller's doing; an index out of range is between them."""
    inputs = {"x": ("FP32", ["n", 2]), "at": ("INT64", ["n"])}
    file = onnx_file([("Gather", ["x", "at"], ["y"], {})], inputs, Y)
    model, _ = load(file, inputs)
    with pytest.raises(NoAnswerError, match="the cloud variant failed"):
        model.run({**rows(1), "at": np.array([9])})
    with pytest.raises(InvalidError, match="a batch of 0 rows"):
        model.run({"x": np.zeros((0, 2), np.float32), "at": np.zeros(0, np.int64)} | {"x": np.zeros((0, 3), "f4")})


@pytest.mark.parametrize(
    ("file_inputs", "file_outputs", "words"),
    [
        ({"b": X["x"], "c": X["x"]}, None, r"the manifest's inputs are not the model file's \(a, b\).*\(b, c\)"),
        (None, {"plus": Y["y"], "less": Y["y"]}, r"outputs are not the model file's \(minus, plus\).*\(plus, less\)"),
        ({"a": X["x"], "b": X["x"], "c": X["x"]}, None, r"names 2 inputs \(a, b\), the model file has 3 \(a, b, c\)"),
        ({"a": ("FP32", ["n", 3]), "b": X["x"]}, None, r"input 'a' has shape \[-1, 2\] in the manifest, \[-1, 3\] in"),
        (
            {"a": ("INT64", ["n", 2]), "b": X["x"]},
            {"minus": ("INT64", ["n", 2]), "plus": Y["y"]},
            "input 'a' is FP32 in the manifest, INT64 in the file",
        ),
    ],
)
def test_tensors_that_are_not_the_manifests_are_refused_with_both_sides(load, file_inputs, file_outputs, words) -> None:
    inputs, outputs = {"a": X["x"], "b": X["x"]}, {"minus": Y["y"], "plus": Y["y"]}
    have, give = list(file_inputs or inputs), list(file_outputs or outputs)
    nodes: list[Any] = [("Identity", [name], [out], {}) for name, out in zip(have, give, strict=False)]
    nodes += [("Identity", [name], [f"{name}_unused"], {}) for name in have[2:]]
    with pytest.raises(InvalidError, match=words):
        load(onnx_file(nodes, file_inputs or inputs, file_outputs or outputs), inputs, outputs)


def test_a_single_tensor_needs_no_name_to_be_known(load) -> None:
    """There is nothing to confuse; releases of 0.1 call a teacher's input as its exporter did."""
    file = onnx_file([("Add", ["image", "image"], ["scores"], {})], {"image": X["x"]}, {"scores": Y["y"]})
    np.testing.assert_array_equal(load(file)[0].run(rows(3))["y"], [[6, 2]])
