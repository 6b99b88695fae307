"""gRPC's inference messages to requests and answers of `fleet.protocol.oip`, and back.

An answer has the form of its request: raw where that was raw, else in the typed fields, unless one of its outputs is
FP16, which has no such field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from fleet.protocol import oip
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.oip_messages import ReadOutput
from fleet.protocol.tensors import (
    MAX_DIMENSIONS,
    AnyArray,
    datatype_of,
    dtype_of,
    element_count,
    from_bytes,
    from_json,
    to_bytes,
)
from fleet.rpc import messages

VALUES = 100_000  # elements in typed fields, as in JSON
PARAMETERS = 32  # of a request, a tensor or an output
FIELDS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
RAW = "send tensors in raw_input_contents, and the answer is raw, too"


def decode_request(data: bytes) -> oip.InferRequest:
    """A request, of bytes that `head.head_of` has looked at.

    Raises:
        MalformedError: it is none. TooLargeError: more than VALUES elements in typed fields.
    """
    try:
        message = messages.InferRequest.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"not a ModelInferRequest: {error}", subject="body") from error
    if not message.inputs:
        raise MalformedError("the request has no inputs", subject="inputs")
    raw = bool(message.raw_input_contents)
    parameters = parameter_values(message.parameters)
    wanted = [ReadOutput(output.name, parameter_values(output.parameters)) for output in message.outputs]
    names, _, classification = oip.asked_outputs(parameters, wanted)
    return oip.InferRequest(
        id=message.id,
        parameters=parameters,
        inputs=_raw_inputs(message) if raw else _typed_inputs(message),
        outputs=names,
        binary_outputs=oip.ALL if raw else frozenset(),
        classification=classification,
    )


def encode_response(response: oip.InferResponse, request: oip.InferRequest) -> Any:
    """The ModelInferResponse to `request`.

    Raises:
        MalformedError: as `oip.encode_response`. TooLargeError: more than VALUES elements for typed fields.
    """
    outputs = oip.chosen_outputs(response, request)
    kinds = [datatype_of(array) for _, array in outputs]
    raw = bool(request.binary_outputs) or any(kind not in FIELDS for kind in kinds)
    values = sum(array.size for _, array in outputs)
    if not raw and values > VALUES:
        raise TooLargeError(f"the answer has {values} values, at most {VALUES} are written one by one", hint=RAW)
    message = messages.InferResponse(
        model_name=response.model_name, model_version=response.model_version, id=response.id
    )
    set_parameters(message.parameters, response.parameters)
    for (name, array), kind in zip(outputs, kinds, strict=True):
        tensor = message.outputs.add(name=name, datatype=kind, shape=array.shape)
        if raw:
            message.raw_output_contents.append(to_bytes(array))
        else:
            getattr(tensor.contents, FIELDS[kind]).extend(elements_of(array))
    return message


def parameter_values(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as values; one without a value is left out. Raises TooLargeError for more than PARAMETERS."""
    if len(parameters) > PARAMETERS:
        raise TooLargeError(f"{len(parameters)} parameters, at most {PARAMETERS} are read", subject="parameters")
    chosen = ((name, value, value.WhichOneof("parameter_choice")) for name, value in parameters.items())
    return {name: getattr(value, field) for name, value, field in chosen if field}


def set_parameters(parameters: Any, values: Mapping[str, Any]) -> None:
    """Write values into a message's parameters; a kind of value that the protocol has no field for is left out."""
    fields = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in values.items():
        field = fields.get(type(value))
        if field is not None:
            setattr(parameters[name], field, value)


def _raw_inputs(message: Any) -> tuple[oip.TensorValue, ...]:
    tensors, raw = message.inputs, message.raw_input_contents
    if len(raw) != len(tensors):
        raise MalformedError(f"{len(raw)} raw_input_contents for {len(tensors)} inputs", subject="inputs")
    found = []
    for tensor, data in zip(tensors, raw, strict=True):
        _check(tensor)
        if tensor.HasField("contents"):
            raise MalformedError(f"input {tensor.name!r} has contents beside raw_input_contents", subject=tensor.name)
        array = from_bytes(data, tensor.datatype, tuple(tensor.shape), tensor.name)
        found.append(oip.TensorValue(tensor.name, array))
    return tuple(found)


def _typed_inputs(message: Any) -> tuple[oip.TensorValue, ...]:
    left, found = VALUES, []
    for tensor in message.inputs:
        _check(tensor)
        dtype_of(tensor.datatype)  # an unknown one is refused as such
        field = FIELDS.get(tensor.datatype)
        if field is None:
            why = f"input {tensor.name!r}: {tensor.datatype} has no typed field"
            raise MalformedError(why, subject=tensor.name, hint=RAW)
        values = getattr(tensor.contents, field)
        left -= len(values)
        if left < 0:
            raise TooLargeError(f"more than {VALUES} values are not read one by one", subject=tensor.name, hint=RAW)
        found.append(oip.TensorValue(tensor.name, typed_array(list(values), tensor)))
    return tuple(found)


def typed_array(values: list[Any], tensor: Any) -> AnyArray:
    """The array of a tensor whose elements are in its typed field; raises MalformedError where they do not fill it."""
    shape, name = tuple(tensor.shape), tensor.name
    if tensor.datatype != "BYTES":
        return from_json(values, tensor.datatype, shape, name)
    if element_count(shape, name) != len(values):
        raise MalformedError(f"tensor {name!r}: {len(values)} values do not fill shape {list(shape)}", subject=name)
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)


def _check(tensor: Any) -> None:
    if len(tensor.shape) > MAX_DIMENSIONS:
        why = f"tensor {tensor.name!r}: a shape of {len(tensor.shape)} dimensions"
        raise MalformedError(why, subject=tensor.name, hint=f"at most {MAX_DIMENSIONS} are known")
    if "shared_memory_region" in tensor.parameters:
        raise MalformedError(f"tensor {tensor.name!r}: shared memory is not supported", subject=tensor.name)


def elements_of(array: AnyArray) -> list[Any]:
    """Return an array's elements in the form of a typed field."""
    flat: list[Any] = array.ravel().tolist()
    return [item.encode() if isinstance(item, str) else item for item in flat] if array.dtype.kind == "O" else flat
