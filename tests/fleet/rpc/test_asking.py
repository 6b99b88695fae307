"""The asking side of the codec: what it writes is read by the answering side as it was meant, and the other way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.protocol import oip
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.rpc import messages
from fleet.rpc.asking import decode_answer, encode_call
from fleet.rpc.codec import VALUES, decode_request, encode_response
from tests.support.size import examples

NUMBERS = [dtype for name, dtype in oip.DTYPES.items() if name != "BYTES"]
ARRAYS = st.sampled_from(NUMBERS).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
        elements=st.floats(-100, 100, width=16) if dtype.kind == "f" else None,
    )
)
TEXTS = hnp.arrays(np.dtype("O"), hnp.array_shapes(max_side=3), elements=st.binary(max_size=5))


def values(arrays: list[np.ndarray]) -> tuple[oip.TensorValue, ...]:
    return tuple(oip.TensorValue(f"t{place}", array) for place, array in enumerate(arrays))


def same(found: tuple[oip.TensorValue, ...], wanted: tuple[oip.TensorValue, ...]) -> None:
    assert [name for name, _ in found] == [name for name, _ in wanted]
    for (_, one), (_, other) in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@given(st.lists(ARRAYS | TEXTS, min_size=1, max_size=3), st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_a_call_is_read_as_it_was_meant(arrays: list[np.ndarray], raw: bool) -> None:
    request = oip.InferRequest(id="a", parameters={"ready": "d", "n": 2}, inputs=values(arrays), outputs=("y",))
    if not raw and any(array.dtype == np.float16 for array in arrays):
        with pytest.raises(MalformedError, match="no typed field"):
            encode_call(request, "m", raw=False)
        return
    data = encode_call(request, "m", "4", raw=raw)
    message = messages.InferRequest.FromString(data)
    assert (message.model_name, message.model_version) == ("m", "4")
    found = decode_request(data)
    assert (found.id, found.parameters, found.outputs) == ("a", {"ready": "d", "n": 2}, ("y",))
    assert found.binary_outputs == (oip.ALL if raw else frozenset())
    same(found.inputs, request.inputs)


@given(st.lists(ARRAYS | TEXTS, min_size=1, max_size=3), st.booleans())
@settings(max_examples=examples(60), deadline=None)
def test_an_answer_is_read_as_it_was_given(arrays: list[np.ndarray], raw: bool) -> None:
    answer = oip.InferResponse(
        model_name="m", model_version="2", id="a", parameters={"variant": "v"}, outputs=values(arrays)
    )
    asked = oip.InferRequest(inputs=values(arrays), binary_outputs=oip.ALL if raw else frozenset())
    found = decode_answer(encode_response(answer, asked).SerializeToString())
    assert (found.model_name, found.model_version, found.id, found.parameters) == ("m", "2", "a", {"variant": "v"})
    same(found.outputs, answer.outputs)


def test_values_one_by_one_are_bounded() -> None:
    many = oip.InferRequest(inputs=values([np.zeros(VALUES + 1, np.float32)]))
    with pytest.raises(TooLargeError):
        encode_call(many, "m", raw=False)
    message = messages.InferResponse()
    for _ in range(2):
        message.outputs.add(name="y", datatype="INT8", shape=[VALUES]).contents.int_contents.extend([1] * VALUES)
    with pytest.raises(TooLargeError):
        decode_answer(message.SerializeToString())


@pytest.mark.parametrize(
    ("raw", "datatype", "shape", "ints", "why"),
    [
        ([b"", b""], "FP32", [0], [], "2 raw_output_contents for 1 outputs"),
        ([b"1234"], "FP32", [2], [], "do not fill"),
        ([b"1234"], "FP13", [1], [], "not known"),
        ([], "FP16", [1], [], "no typed field"),
        ([], "FP13", [1], [], "no typed field"),
        ([], "INT32", [3], [1], "do not fill"),
        ([], "INT32", [-1], [1], "not a concrete shape"),
        ([], "INT8", [1], [1000], "outside INT8"),
    ],
)
def test_what_is_no_answer_is_refused(
    raw: list[bytes], datatype: str, shape: list[int], ints: list[int], why: str
) -> None:
    message = messages.InferResponse(raw_output_contents=raw)
    message.outputs.add(name="y", datatype=datatype, shape=shape).contents.int_contents.extend(ints)
    with pytest.raises(MalformedError, match=why):
        decode_answer(message.SerializeToString())


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(MalformedError, match="not a ModelInferResponse"):
        decode_answer(b"\xff\xff")
