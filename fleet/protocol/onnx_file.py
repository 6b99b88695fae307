"""Facts about an ONNX file, read from the protobuf wire format; nothing is resolved.

Does it keep weights in other files? Hub and agent refuse such a file: ONNX Runtime looks for the others in the
process's working folder, even when the model comes from memory, and would load files that nobody hashed. And what are
the names of its inputs and outputs? The hub compares them with the manifest's. Only the parts that lead there are
walked. Field numbers are those of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator

from fleet.protocol.errors import MalformedError

# The places where tensors can hide: message -> {field number: message of that field}.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # location 0 is the file itself


def keeps_weights_elsewhere(model: bytes) -> bool:
    """Tell whether any tensor has a location outside the file.

    Raises:
        MalformedError: `model` is not a protobuf message.
    """
    todo = [("model", memoryview(model))]
    while todo:
        kind, message = todo.pop()
        for number, value in _fields(message):
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value != 0)):
                return True
            inner = _INSIDE[kind].get(number)
            if inner is not None and isinstance(value, memoryview):
                todo.append((inner, value))
    return False


_GRAPH, _INITIALIZER, _INPUT, _OUTPUT = 7, 5, 11, 12
_TENSOR_NAME, _SPARSE_VALUES, _SPARSE, _VALUE_NAME = 8, 1, 15, 1


def port_names(model: bytes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of a model's inputs (without those that have a value in the file) and of its outputs, in its order.

    Raises MalformedError when `model` is not a protobuf message, or holds no graph.
    """
    graphs = [value for number, value in _fields(memoryview(model)) if number == _GRAPH]
    graph = graphs[-1] if graphs else None  # as protobuf reads a field that comes twice
    if not isinstance(graph, memoryview):
        raise MalformedError("not an ONNX model: it has no graph", subject="model", hint="export it again")
    found: dict[int, list[str]] = {_INITIALIZER: [], _INPUT: [], _OUTPUT: []}
    for number, value in _fields(graph):
        if number in found and isinstance(value, memoryview):
            found[number].append(_text(value, _TENSOR_NAME if number == _INITIALIZER else _VALUE_NAME))
        elif number == _SPARSE and isinstance(value, memoryview):
            inner = next((v for n, v in _fields(value) if n == _SPARSE_VALUES), None)
            found[_INITIALIZER].append(_text(inner, _TENSOR_NAME) if isinstance(inner, memoryview) else "")
    constants = set(found[_INITIALIZER])
    return tuple(name for name in found[_INPUT] if name not in constants), tuple(found[_OUTPUT])


def _text(message: memoryview, wanted: int) -> str:
    """The last text of a field, as protobuf reads it; empty when there is none."""
    name = ""
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            name = bytes(value).decode("utf-8", "replace")
    return name


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            size, at = _varint(message, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
        else:  # groups are of a time before ONNX
            raise MalformedError("not an ONNX model", subject="model", hint="export it again")
        if at + size > len(message) or number >= 1 << 29:
            raise MalformedError("the ONNX model is cut short", subject="model", hint="export it again")
        yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedError("not an ONNX model", subject="model", hint="export it again")
