"""Does an ONNX model keep weights in other files? Read from the protobuf wire format; nothing is resolved.

Field numbers are those of onnx.proto: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

from collections.abc import Iterator

from cloud_hub.errors import InvalidError

# Where tensors can hide: message -> {field number: message of that field}.
_INSIDE: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14


def keeps_weights_elsewhere(model: bytes) -> bool:
    """Whether any tensor has a location outside the file.

    Raises InvalidError when `model` is not a protobuf message.
    """
    todo = [("model", memoryview(model))]
    while todo:
        kind, message = todo.pop()
        for number, value in _fields(message):
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _DATA_LOCATION and value == 1)):
                return True
            inner = _INSIDE[kind].get(number)
            if inner is not None and isinstance(value, memoryview):
                todo.append((inner, value))
    return False


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
        else:
            raise InvalidError("the cloud variant is not an ONNX model", subject="model")
        if at + size > len(message):
            raise InvalidError("the cloud variant is cut short", subject="model")
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
    raise InvalidError("the cloud variant is not an ONNX model", subject="model")
