"""A variant with weights in other files is refused, wherever in the model they are named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fleet import runtimes
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.onnx_file import keeps_weights_elsewhere, port_names
from tests.support.manifests import small_release

onnx = pytest.importorskip("onnx")


def model(*, constant: bool) -> object:
    from onnx import TensorProto, helper

    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 2], np.ones(2, np.float32).tobytes(), raw=True)
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 2])],
        [] if constant else [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("constant", [False, True])
def test_weights_outside_are_refused_even_when_the_file_is_there(
    constant: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = model(constant=constant)
    assert not keeps_weights_elsewhere(made.SerializeToString())
    monkeypatch.chdir(tmp_path)
    onnx.save_model(
        made, "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0, convert_attribute=True
    )
    data = (tmp_path / "m.onnx").read_bytes()
    assert keeps_weights_elsewhere(data)
    with pytest.raises(runtimes.ModelLoadError, match="other files"):
        load(data)


def load(data: bytes) -> runtimes.LoadedModel:
    manifest = decode_manifest(small_release()[0])
    return runtimes.load(runtimes.named("onnxruntime"), data, manifest.inputs, manifest.outputs)


def test_damaged_bytes_are_refused() -> None:
    data = model(constant=False).SerializeToString()
    for broken in (data[:-3], b"\xff" * 40):
        with pytest.raises(MalformedError):
            keeps_weights_elsewhere(broken)
        with pytest.raises(runtimes.ModelLoadError):
            load(broken)


def field(number: int, value: bytes | int) -> bytes:
    """One field of a protobuf message, of numbers below 16 or with a tag of two bytes."""
    wire = 0 if isinstance(value, int) else 2
    tag = number << 3 | wire
    head = bytes([tag]) if tag < 128 else bytes([tag & 0x7F | 0x80, tag >> 7])
    return head + (bytes([value]) if isinstance(value, int) else bytes([len(value)]) + value)


@pytest.mark.parametrize(
    "path", [(7, 5), (7, 15, 1), (7, 1, 5, 5), (7, 1, 5, 6, 5), (20, 1, 5), (25, 7, 5, 10), (25, 11, 5)]
)
@pytest.mark.parametrize("mark", [field(13, b""), field(14, 1), field(14, 3)], ids=["entry", "location", "unknown"])
def test_a_tensor_elsewhere_is_found_wherever_it_hides(path: tuple[int, ...], mark: bytes) -> None:
    """Paths are field numbers: in a graph, an attribute, a subgraph, a training graph, a function."""
    for inner, found in ((mark, True), (field(14, 0), False)):
        message = field(1, 4) + inner
        for number in reversed(path):
            message = field(number, message)
        assert keeps_weights_elsewhere(field(1, 8) + message) is found


def test_ports_are_called_as_the_runtime_calls_them() -> None:
    import onnxruntime
    from onnx import TensorProto, helper

    made = model(constant=False)
    # Files of older exporters list weights among the inputs.
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [1, 2]))
    data = made.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert port_names(data) == (("x",), ("y",))
    assert port_names(data)[0] == tuple(value.name for value in session.get_inputs())
    for broken in (data[:-3], b"", b"\xff" * 40):
        with pytest.raises(MalformedError):
            port_names(broken)
