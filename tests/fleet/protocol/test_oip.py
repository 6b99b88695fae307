"""The inference protocol's codec: round trips, hostile bodies, and the reference client."""

from __future__ import annotations

import gzip
import json
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fleet.protocol import oip
from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.manifest import Tensor
from fleet.protocol.oip import DTYPES, InferRequest, InferResponse
from fleet.protocol.oip_reading import ALL, TensorValue
from tests.support.size import examples

NUMERIC = [dtype for name, dtype in DTYPES.items() if name != "BYTES"]
ARRAYS = st.sampled_from(NUMERIC).flatmap(
    lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, min_side=0, max_side=4), elements=_elements(d))
)
TEXTS = hnp.arrays(np.dtype("O"), hnp.array_shapes(max_side=3), elements=st.text(max_size=5).map(str.encode))


def _elements(dtype: np.dtype) -> st.SearchStrategy | None:
    if dtype.kind == "f":
        return st.floats(width=dtype.itemsize * 8, allow_nan=False, allow_infinity=False)
    return None


def body(**changes: object) -> bytes:
    tensor = {"name": "x", "shape": [2], "datatype": "FP32", "data": [1, 2], **changes}
    return json.dumps({"inputs": [{k: v for k, v in tensor.items() if v is not None}]}).encode()


@given(st.lists(st.one_of(ARRAYS, TEXTS), min_size=1, max_size=3), st.booleans())
@settings(max_examples=examples(150), deadline=None)
def test_requests_come_back_equal(arrays: list[np.ndarray], binary: bool) -> None:
    values = tuple(TensorValue(f"t{i}", a) for i, a in enumerate(arrays))
    request = InferRequest(id="7", parameters={"priority": 1}, inputs=values, outputs=("y",))
    back = oip.decode_request(*oip.encode_request(request, binary=binary))
    assert (back.id, back.parameters, back.outputs, back.binary_outputs) == ("7", {"priority": 1}, ("y",), frozenset())
    for sent, got in zip(values, back.inputs, strict=True):
        assert got.name == sent.name and got.array.dtype == sent.array.dtype
        np.testing.assert_array_equal(got.array, sent.array)


@given(ARRAYS, st.sampled_from([ALL, frozenset(), frozenset(("y",))]))
@settings(max_examples=examples(80), deadline=None)
def test_responses_come_back_equal(array: np.ndarray, binary: frozenset[str]) -> None:
    outputs = (TensorValue("y", array), TensorValue("z", np.arange(3)))
    response = InferResponse(model_name="m", model_version="4", parameters={"served_by": "edge"}, outputs=outputs)
    request = InferRequest(inputs=(), binary_outputs=binary)
    back = oip.decode_response(*oip.encode_response(response, request))
    assert (back.model_name, back.model_version, back.parameters) == ("m", "4", {"served_by": "edge"})
    np.testing.assert_array_equal(back.outputs[0].array, array)
    assert back.outputs[0].array.dtype == array.dtype


@given(st.binary(max_size=200), st.one_of(st.none(), st.integers(0, 250)))
@settings(max_examples=examples(200), deadline=None)
def test_noise_is_refused_and_never_crashes(data: bytes, header: int | None) -> None:
    if header == 0:
        assert oip.decode_request(data, 0).inputs[0].name == ""
        return
    with pytest.raises(MalformedError):
        oip.decode_request(data, header)


def test_nested_and_flat_data_are_the_same() -> None:
    nested = oip.decode_request(body(shape=[2, 2], data=[[1, 2], [3, 4.5]]), None).inputs[0].array
    flat = oip.decode_request(body(shape=[2, 2], data=[1, 2, 3, 4.5]), None).inputs[0].array
    assert nested.tolist() == flat.tolist() == [[1, 2], [3, 4.5]]
    assert nested.dtype == np.float32


def test_binary_inputs_are_views_of_the_body() -> None:
    request = InferRequest(inputs=(TensorValue("x", np.arange(8, dtype="u1")),))
    data, header = oip.encode_request(request)
    array = oip.decode_request(data, header).inputs[0].array
    assert not array.flags.owndata and not array.flags.writeable


def test_sixty_four_bit_integers_keep_every_digit() -> None:
    values = [2**64 - 1, 0]
    assert oip.decode_request(body(datatype="UINT64", data=values), None).inputs[0].array.tolist() == values
    values = [-(2**63), 2**63 - 1]
    assert oip.decode_request(body(datatype="INT64", data=values), None).inputs[0].array.tolist() == values


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": [1]}, "1 values do not fill shape"),
        ({"data": [1, 2, 3]}, "3 values"),
        ({"data": [[1], [2, 3]]}, "inhomogeneous"),
        ({"data": ["1", "2"]}, "not FP32"),
        ({"data": [True, False]}, "not FP32"),
        ({"data": [True, None]}, "not FP32"),
        ({"data": [{}, 2]}, "not FP32"),
        ({"datatype": "INT8", "data": [1, 300]}, "outside INT8"),
        ({"datatype": "UINT8", "data": [-1, 3]}, "outside UINT8"),
        ({"datatype": "INT32", "data": [1.5, 2]}, "not integers"),
        ({"datatype": "UINT64", "data": [2**64, 2]}, "t"),
        ({"datatype": "BOOL", "data": [0, 1]}, "not BOOL"),
        ({"datatype": "BYTES", "data": [1, 2]}, "must be strings"),
        ({"datatype": "BF16"}, "datatype 'BF16' is not known"),
        ({"shape": [-2]}, "not a concrete shape"),
        ({"shape": [1] * 33}, "not a concrete shape"),
        ({"shape": [2**40, 2**40]}, "do not fill"),
        ({"shape": "2"}, "shape"),
        ({"data": None}, "neither data nor binary_data_size"),
        ({"data": None, "parameters": {"shared_memory_region": "r"}}, "shared memory is not supported"),
        ({"parameters": {"binary_data_size": 8}}, "binary_data_size 8 does not fit"),
        ({"data": None, "parameters": {"binary_data_size": -1}}, "does not fit"),
        ({"data": None, "parameters": {"binary_data_size": "8"}}, "does not fit"),
        ({"name": 4}, "name"),
    ],
)
def test_wrong_tensors_are_refused_in_words(changes: dict, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        oip.decode_request(body(**changes), None)


def test_broken_frames_are_refused() -> None:
    for data, header, words in [
        (b"{", None, "not an inference message"),
        (b"[" * 100_000, None, "not an inference message"),
        (b'{"inputs":[' + b'{"data":' + b"[" * 50_000, None, "not an inference message"),
        (b'{"inputs":[]}', None, "no inputs"),
        (body(), 4000, "the body has"),
        (body() + b"tail", len(body()), "4 bytes follow"),
    ]:
        with pytest.raises(MalformedError, match=words):
            oip.decode_request(data, header)


def test_too_large_bodies_are_refused_before_decoding() -> None:
    with pytest.raises(TooLargeError):
        oip.decode_request(b"x" * 11, None, limit=10)
    with pytest.raises(TooLargeError):
        oip.decode_response(b"x" * 11, None, limit=10)


def test_headers_are_numbers() -> None:
    assert (oip.parse_header(None), oip.parse_header("0"), oip.parse_header("17")) == (None, 0, 17)
    for bad in ("", "-1", "1.0", "٣", "9" * 12):
        with pytest.raises(MalformedError, match="must be a number"):
            oip.parse_header(bad)


def test_compressed_bodies_inflate_within_the_limit() -> None:
    data = b"a" * 5000
    assert oip.decompress(gzip.compress(data), "gzip") == data
    assert oip.decompress(zlib.compress(data), "deflate") == data
    assert oip.decompress(data, "") == data
    with pytest.raises(TooLargeError, match="more than 4999"):
        oip.decompress(gzip.compress(data), "gzip", limit=4999)
    for broken, encoding in [(gzip.compress(data)[:-9], "gzip"), (b"zz", "gzip"), (data, "br")]:
        with pytest.raises(MalformedError):
            oip.decompress(broken, encoding)


def test_only_the_outputs_that_were_asked_for_come_back() -> None:
    response = InferResponse(model_name="m", outputs=(TensorValue("a", np.ones(1)), TensorValue("b", np.zeros(1))))
    back = oip.decode_response(*oip.encode_response(response, InferRequest(inputs=(), outputs=("b",))))
    assert [o.name for o in back.outputs] == ["b"]
    with pytest.raises(MalformedError, match="no output 'c'"):
        oip.encode_response(response, InferRequest(inputs=(), outputs=("c",)))


def test_binary_may_be_asked_for_all_outputs_or_for_one() -> None:
    base = json.loads(body())
    base["parameters"] = {"binary_data_output": True}
    assert oip.decode_request(json.dumps(base).encode(), None).wants_binary("anything")
    base["outputs"] = [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}]
    request = oip.decode_request(json.dumps(base).encode(), None)
    assert (request.wants_binary("a"), request.wants_binary("b"), request.outputs) == (False, True, ("a", "b"))
    for count in (-1, 1.5, True, "3"):
        base["outputs"] = [{"name": "a", "parameters": {"classification": count}}]
        with pytest.raises(MalformedError, match="classification"):
            oip.decode_request(json.dumps(base).encode(), None)


def test_null_reads_as_nan_and_only_a_model_that_takes_it_gets_it() -> None:
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[1.5, None]]}]}
    asked = oip.decode_request(json.dumps(body).encode(), None)
    np.testing.assert_array_equal(asked.inputs[0].array, np.array([[1.5, np.nan]], np.float32))
    oip.check_request(asked, (Tensor(name="x", datatype="FP32", shape=(-1, 2), finite=False),), ())
    with pytest.raises(MalformedError, match="NaN") as refused:
        oip.check_request(asked, (Tensor(name="x", datatype="FP32", shape=(-1, 2)),), ())
    assert "null in JSON stands for NaN" in refused.value.hint
    body["inputs"][0] |= {"datatype": "INT32", "data": [[1, None]]}
    with pytest.raises(MalformedError, match="tensor 'x': null stands for NaN in FP tensors only"):
        oip.decode_request(json.dumps(body).encode(), None)
    for datatype, data in (("INT32", [[1, None]]), ("FP32", [["1", None]]), ("FP32", [[True, None]])):
        body["inputs"][0] |= {"datatype": datatype, "data": data}
        with pytest.raises(MalformedError, match="tensor 'x'"):
            oip.decode_request(json.dumps(body).encode(), None)


@pytest.mark.parametrize("datatype", ["<f2", "<f4", "<f8"])
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused_in_json_and_carried_in_binary(datatype: str, value: float) -> None:
    x = TensorValue("x", np.array([np.nan, value, 1], datatype))
    y = TensorValue("null", np.array([1, 2], np.int8))
    response = InferResponse(model_name="m", outputs=(y, x))
    asked = InferRequest(inputs=(x,))
    for write in (lambda: oip.encode_response(response, asked), lambda: oip.encode_request(asked, binary=False)):
        with pytest.raises(MalformedError, match="put 'x' holds infinity") as refused:
            write()
        assert "binary extension" in refused.value.hint
    for wanted in (frozenset(["x"]), oip.ALL):
        data, header = oip.encode_response(response, InferRequest(inputs=(x,), binary_outputs=wanted))
        np.testing.assert_array_equal(oip.decode_response(data, header).outputs[1].array, x.array)
    finite = InferRequest(inputs=(x,), outputs=("null",))
    assert b"null" in oip.encode_response(response, finite)[0]


def test_not_a_number_is_null_in_answers() -> None:
    response = InferResponse(model_name="m", outputs=(TensorValue("y", np.array([1.0, np.nan])),))
    data, header = oip.encode_response(response, InferRequest(inputs=()))
    assert b"null" in data
    np.testing.assert_array_equal(oip.decode_response(data, header).outputs[0].array, [1.0, np.nan])


SPECS = (Tensor(name="x", datatype="FP32", shape=(-1, 2)),)


def test_a_raw_body_takes_its_shape_from_the_single_input() -> None:
    raw = oip.decode_request(np.arange(6, dtype="<f4").tobytes(), 0)
    assert oip.check_inputs(raw.inputs, SPECS)["x"].tolist() == [[0, 1], [2, 3], [4, 5]]
    for data, specs in [
        (b"1234", SPECS),
        (b"12345678", SPECS * 2),
        (b"", (Tensor(name="s", datatype="BYTES", shape=(1,)),)),
    ]:
        with pytest.raises(MalformedError):
            oip.check_inputs(oip.decode_request(data, 0).inputs, specs)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([], "'x' is missing"),
        ([("x", np.zeros((1, 2)))], "is FP64, the model takes FP32"),
        ([("x", np.zeros((1, 3), "f4"))], r"has shape \[1, 3\]"),
        ([("x", np.zeros(2, "f4"))], r"has shape \[2\]"),
        ([("x", np.zeros((1, 2), "f4")), ("y", np.zeros(1))], "no input 'y'"),
        ([("x", np.zeros((1, 2), "f4")), ("x", np.zeros(1))], "two inputs are called"),
    ],
)
def test_inputs_are_checked_against_the_manifest(values: list, words: str) -> None:
    with pytest.raises(MalformedError, match=words):
        oip.check_inputs([TensorValue(*v) for v in values], SPECS)


def test_metadata_has_the_protocols_fields() -> None:
    data = oip.model_metadata("m", ["1"], "litert_tflite", SPECS, SPECS)
    assert data["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    assert set(data) == {"name", "versions", "platform", "inputs", "outputs"}


@pytest.mark.parametrize("binary", [True, False])
def test_the_reference_client_speaks_the_same_bytes(binary: bool) -> None:
    client = pytest.importorskip("tritonclient.http", reason="needs the extra [dev]: pip install tritonclient[http]")
    array = np.arange(4, dtype="f4").reshape(2, 2)
    given_input = client.InferInput("x", [2, 2], "FP32")
    given_input.set_data_from_numpy(array, binary_data=binary)
    output = client.InferRequestedOutput("y", binary_data=binary)
    data, header = client.InferenceServerClient.generate_request_body([given_input], outputs=[output], request_id="9")
    request = oip.decode_request(bytes(data), header)
    np.testing.assert_array_equal(request.inputs[0].array, array)
    assert (request.id, request.outputs, request.wants_binary("y")) == ("9", ("y",), binary)
    answer, length = oip.encode_response(InferResponse(model_name="m", outputs=(TensorValue("y", array),)), request)
    result = client.InferenceServerClient.parse_response_body(answer, header_length=length)
    np.testing.assert_array_equal(result.as_numpy("y"), array)


@pytest.mark.parametrize("value", ["NaN", "-Infinity", "Infinity"])
def test_json_that_holds_no_number_says_so(value: str) -> None:
    body = f'{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1],"data":[{value}]}}]}}'.encode()
    with pytest.raises(MalformedError) as caught:
        oip.decode_request(body, None)
    assert "no NaN" in caught.value.hint
    with pytest.raises(MalformedError) as caught:
        oip.decode_request(b'{"inputs":[{"name":"NaN"', None)
    assert not caught.value.hint


def test_json_that_comes_again_is_read_as_the_first_time() -> None:
    """Requests of one client differ in the bytes behind it; nothing that one was given is the next one's."""
    first = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = []
    for array in (first, first + 1, first):
        body, length = oip.encode_request(
            oip.InferRequest(id="a", parameters={"timeout_ms": 9}, inputs=(oip.TensorValue("x", array),))
        )
        asked = oip.decode_request(body, length)
        np.testing.assert_array_equal(asked.inputs[0].array, array)
        found.append((asked.id, dict(asked.parameters), asked.outputs, asked.binary_outputs))
        asked.parameters["timeout_ms"] = 1
    assert found[0] == found[1] == found[2] and found[0][1] == {"timeout_ms": 9}


@pytest.mark.parametrize("behind", [-1, 1, 8])
def test_json_that_comes_again_with_other_bytes_behind_it_is_refused(behind: int) -> None:
    array = np.arange(4, dtype=np.int64)
    body, length = oip.encode_request(oip.InferRequest(inputs=(oip.TensorValue("x", array),)))
    oip.decode_request(body, length)
    wrong = body[:behind] if behind < 0 else body + bytes(behind)
    with pytest.raises(MalformedError, match=r"does not fit|follow the last tensor"):
        oip.decode_request(wrong, length)


@pytest.mark.parametrize("pad", range(8))
def test_tensors_behind_json_of_any_length_are_aligned(pad: int) -> None:
    arrays = {"a": np.arange(3, dtype=np.float64), "b": np.arange(5, dtype=np.int16), "c": np.zeros((0, 2), np.uint32)}
    values = tuple(oip.TensorValue(*item) for item in arrays.items())
    body, length = oip.encode_request(oip.InferRequest(id="x" * pad, inputs=values))
    for name, array in oip.decode_request(body, length).inputs:
        np.testing.assert_array_equal(array, arrays[name])
        assert array.flags.aligned and array.dtype == arrays[name].dtype


@pytest.mark.parametrize("shape", [[0, 2**62], [0, 2**70], [2**40, 2**40, 0]])
@pytest.mark.parametrize("binary", [True, False])
def test_an_empty_tensor_with_a_shape_beyond_memory_is_refused(shape: list[int], binary: bool) -> None:
    tensor = {"name": "x", "shape": shape, "datatype": "FP64"}
    tensor |= {"parameters": {"binary_data_size": 0}} if binary else {"data": []}
    sent = json.dumps({"inputs": [tensor]}).encode()
    with pytest.raises(MalformedError, match="shape"):
        oip.decode_request(sent, len(sent) if binary else None)
