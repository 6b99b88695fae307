"""Requests of `fleet.protocol.oip` to gRPC's inference messages, and answers back: the asking side of `codec`."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from fleet.protocol import oip
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.tensors import datatype_of, element_count, from_bytes, to_bytes
from fleet.rpc import messages
from fleet.rpc.codec import FIELDS, RAW, VALUES, elements_of, parameter_values, set_parameters, typed_array


def encode_call(request: oip.InferRequest, model: str, version: str = "", *, raw: bool = True) -> bytes:
    """A ModelInferRequest.

    Args:
        raw: tensors as raw bytes; else in typed fields, of which FP16 has none.

    Raises:
        MalformedError: a tensor that has no such form. TooLargeError: more than VALUES elements for typed fields.
    """
    message = messages.InferRequest(model_name=model, model_version=version, id=request.id)
    set_parameters(message.parameters, request.parameters)
    for name in request.outputs:
        message.outputs.add(name=name)
    if not raw and sum(array.size for _, array in request.inputs) > VALUES:
        raise TooLargeError(f"more than {VALUES} values are not sent one by one", subject="inputs")
    for name, array in request.inputs:
        kind = datatype_of(array)
        tensor = message.inputs.add(name=name, datatype=kind, shape=array.shape)
        if raw:
            message.raw_input_contents.append(to_bytes(array))
        elif kind in FIELDS:
            getattr(tensor.contents, FIELDS[kind]).extend(elements_of(array))
        else:
            raise MalformedError(f"input {name!r}: {kind} has no typed field", subject=name, hint=RAW)
    data: bytes = message.SerializeToString()
    return data


def decode_answer(data: bytes) -> oip.InferResponse:
    """The answer in a ModelInferResponse, whose size the caller has bounded.

    Raises:
        MalformedError: it is none. TooLargeError: more than VALUES elements in typed fields.
    """
    try:
        message = messages.InferResponse.FromString(data)
    except DecodeError as error:
        raise MalformedError(f"not a ModelInferResponse: {error}", subject="body") from error
    raw = message.raw_output_contents
    if raw and len(raw) != len(message.outputs):
        raise MalformedError(f"{len(raw)} raw_output_contents for {len(message.outputs)} outputs", subject="outputs")
    left, found = VALUES, []
    for place, tensor in enumerate(message.outputs):
        if raw:
            array = from_bytes(raw[place], tensor.datatype, tuple(tensor.shape), tensor.name)
        else:
            values = _values(tensor)
            left -= len(values)
            if left < 0:
                raise TooLargeError(f"more than {VALUES} values are not read one by one", subject=tensor.name)
            array = typed_array(values, tensor)
        found.append(oip.TensorValue(tensor.name, array))
    return oip.InferResponse(
        model_name=message.model_name,
        model_version=message.model_version,
        id=message.id,
        parameters=parameter_values(message.parameters),
        outputs=tuple(found),
    )


def _values(tensor: Any) -> list[Any]:
    field = FIELDS.get(tensor.datatype)
    if field is None:
        raise MalformedError(f"output {tensor.name!r}: {tensor.datatype} has no typed field", subject=tensor.name)
    element_count(tuple(tensor.shape), tensor.name)
    return list(getattr(tensor.contents, field))
