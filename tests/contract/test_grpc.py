"""The Open Inference Protocol over gRPC, on agent and hub alike: Triton's client, and messages that no client sends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient import grpc as triton
from tritonclient import http as triton_http
from tritonclient.utils import InferenceServerException

from fleet.protocol.refusals import CODES, GRPC
from fleet.protocol.tensors import DTYPES
from fleet.rpc import codec, messages
from tests.support.all_kinds import CALLS, INPUTS, Door, agent_door, example, hub_door

TYPED = {name: kind for name, (kind, _) in INPUTS.items() if kind in codec.FIELDS}


@pytest.fixture(scope="module", params=[agent_door, hub_door], ids=["agent", "hub"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with request.param(tmp_path_factory.mktemp("door")) as made:
        yield made


@pytest.fixture
def client(door: Door) -> Iterator[Any]:
    with triton.InferenceServerClient(door.rpc) as client:
        yield client


@pytest.fixture
def channel(door: Door) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(door.rpc) as channel:
        yield channel


def metadata(door: Door) -> dict[str, str]:
    return {name.lower(): value for name, value in door.headers.items()}


def tensors(names: Any = INPUTS) -> list[Any]:
    found = []
    for name in names:
        found.append(triton.InferInput(name, [2, 2], INPUTS[name][0]))
        found[-1].set_data_from_numpy(example(INPUTS[name][0]))
    return found


def call(channel: grpc.Channel, name: str, request: Any, door: Door, **more: Any) -> Any:
    """One call with our own messages."""
    answer = messages.calls()[name][1]
    data = request if isinstance(request, bytes) else request.SerializeToString()
    ask = channel.unary_unary(f"/{messages.SERVICE}/{name}", None, answer.FromString)
    return ask(data, **{"metadata": tuple(metadata(door).items()), "timeout": 60} | more)


def typed(kind: str = "", rows: int = 2) -> Any:
    """A request with typed contents for every input, which FP16 cannot have."""
    request = messages.InferRequest(model_name="any", id="t")
    for name, (datatype, _) in INPUTS.items():
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[rows, 2])
        if datatype in codec.FIELDS:
            getattr(tensor.contents, codec.FIELDS[datatype]).extend(example(datatype).ravel().tolist())
    return request


@pytest.mark.parametrize("squeeze", [None, "gzip", "deflate"])
@pytest.mark.parametrize("version", ["", "1"])
def test_every_datatype_raw(door: Door, client: Any, squeeze: str | None, version: str) -> None:
    found = client.infer(
        "any", tensors(), model_version=version, request_id="r7", headers=metadata(door), compression_algorithm=squeeze
    )
    for kind in DTYPES:
        np.testing.assert_array_equal(found.as_numpy(f"out_{kind.lower()}"), example(kind), strict=True)
    answer = found.get_response()
    assert (answer.model_name, answer.model_version, answer.id) == ("any", "1", "r7")
    assert answer.parameters["served_by"].string_param == {"agent": "edge", "hub": "cloud"}[door.name]
    assert answer.parameters["release"].int64_param == 1


@pytest.mark.parametrize("name", TYPED)
def test_an_output_that_is_asked_for_alone(door: Door, client: Any, name: str) -> None:
    out = name.replace("in_", "out_")
    found = client.infer("any", tensors(), outputs=[triton.InferRequestedOutput(out)], headers=metadata(door))
    assert [one.name for one in found.get_response().outputs] == [out]


def test_typed_contents_are_read_and_answered_typed() -> None:
    """Of a request without FP16, bit for bit."""
    request = messages.InferRequest(model_name="m", id="t")
    for name, kind in TYPED.items():
        tensor = request.inputs.add(name=name, datatype=kind, shape=[2, 2])
        getattr(tensor.contents, codec.FIELDS[kind]).extend(example(kind).ravel().tolist())
    read = codec.decode_request(request.SerializeToString())
    for value, kind in zip(read.inputs, TYPED.values(), strict=True):
        np.testing.assert_array_equal(value.array, example(kind), strict=True)
    from fleet.protocol import oip

    answer = codec.encode_response(oip.InferResponse(model_name="m", outputs=read.inputs, id=read.id), read)
    assert not answer.raw_output_contents
    assert [one.contents for one in answer.outputs] == [one.contents for one in request.inputs]


def test_fp16_has_no_typed_field_and_says_so(door: Door, channel: grpc.Channel) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", typed(), door)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "FP16 has no typed field" in caught.value.details() and "raw_input_contents" in caught.value.details()


def test_documents_are_those_of_http(door: Door, client: Any) -> None:
    headers = metadata(door)
    with triton_http.InferenceServerClient(door.address) as other:
        assert client.is_server_live() and client.is_server_ready()
        assert client.is_model_ready("any", headers=headers) and client.is_model_ready("any", "1", headers=headers)
        assert not client.is_model_ready("any", "9", headers=headers)
        assert client.get_server_metadata(as_json=True) == other.get_server_metadata()
        said, known = (
            client.get_model_metadata("any", headers=headers),
            other.get_model_metadata("any", headers=door.headers),
        )
        assert [(t.name, t.datatype, list(t.shape)) for t in said.inputs] == [
            (t["name"], t["datatype"], t["shape"]) for t in known["inputs"]
        ]
        config, wanted = (
            client.get_model_config("any", headers=headers).config,
            other.get_model_config("any", headers=door.headers),
        )
        assert (config.max_batch_size, config.backend) == (wanted["max_batch_size"], "onnx")
        assert [list(one.dims) for one in config.input] == [one["dims"] for one in wanted["input"]]
        index = client.get_model_repository_index(headers=headers)
        assert [one.name for one in index.models] == [
            e["name"] for e in other.get_model_repository_index(headers=door.headers)
        ]


def test_both_protocols_count_in_one_place(door: Door, client: Any) -> None:
    headers = metadata(door)

    def counted() -> tuple[int, int]:
        (one,) = client.get_inference_statistics("any", headers=headers).model_stats
        return one.inference_count, one.inference_stats.fail.count

    client.infer("any", tensors(), headers=headers)
    rows, failed = counted()
    client.infer("any", tensors(), headers=headers)
    with pytest.raises(InferenceServerException):
        client.infer("any", tensors(list(INPUTS)[1:]), headers=headers)
    with triton_http.InferenceServerClient(door.address) as other:
        value = triton_http.InferInput("in_bool", [2, 2], "BOOL")
        value.set_data_from_numpy(example("BOOL"))
        with pytest.raises(InferenceServerException):
            other.infer("any", [value], headers=dict(door.headers))
    assert counted() == (rows + 2, failed + 2)


@pytest.mark.parametrize(
    ("change", "status", "word"),
    [
        ({"model_name": "none"}, "NOT_FOUND", "not-found"),
        ({"model_version": "9"}, "NOT_FOUND", "not-found"),
        ({"model_name": "n" * 300}, "INVALID_ARGUMENT", "invalid"),
        ({"model_name": "a\0b"}, "INVALID_ARGUMENT", "invalid"),
        ({"inputs": []}, "INVALID_ARGUMENT", "invalid"),
    ],
)
def test_refusals_have_the_status_of_the_table(
    door: Door, channel: grpc.Channel, change: dict[str, Any], status: str, word: str
) -> None:
    request = messages.InferRequest(model_name="any")
    request.inputs.add(name="in_bool", datatype="BOOL", shape=[1]).contents.bool_contents.append(True)
    for name, value in change.items():
        request.ClearField(name) if value == [] else setattr(request, name, value)
    if door.name == "hub" and word == "not-found" and "model_name" in change:
        status, word = "PERMISSION_DENIED", "forbidden"  # beyond the token's scope, whether it is there or not
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", request, door)
    assert caught.value.code() == grpc.StatusCode[status]
    assert dict(caught.value.trailing_metadata())["edgeloop-code"] == word and caught.value.details()


def test_every_word_has_a_status() -> None:
    assert set(GRPC) == set(CODES) and all(name in grpc.StatusCode.__members__ for name in GRPC.values())


@pytest.mark.parametrize(
    "data",
    [
        b"\xff",
        b"\x0a\xff\xff\xff\xff\x0f",
        b"\x0b",
        b"\x0a\x05any",
        b"\x0a\x02\xff\xfe",
        b"\x80" * 20,
        b"\x0a\x03any" + b"\x2a\x02\x0a\xff",
        b"\x0a\x03any" + b"\x3a\x00" * 5000,
        b"\x0a\x03any" + b"\x2a\x80\x80\x80\x01" + b"\x00" * (2 << 20),
    ],
    ids=["tag", "length", "group", "short", "name", "varint", "inside", "fields", "beside raw"],
)
def test_what_is_no_request_is_refused_and_costs_nothing(door: Door, channel: grpc.Channel, data: bytes) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ModelInfer", data, door)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()


def test_more_parameters_and_values_than_are_read(door: Door, channel: grpc.Channel) -> None:
    many = messages.InferRequest(model_name="any")
    many.inputs.add(name="in_bool", datatype="BOOL", shape=[1])
    for number in range(codec.PARAMETERS + 1):
        many.parameters[str(number)].bool_param = True
    long = messages.InferRequest(model_name="any")
    long.inputs.add(name="in_int8", datatype="INT8", shape=[1]).contents.int_contents.extend([0] * (codec.VALUES + 1))
    deep = messages.InferRequest(model_name="any")
    deep.inputs.add(name="in_bool", datatype="BOOL", shape=[1] * 40)
    for request, text in ((many, "parameters"), (long, "raw_input_contents"), (deep, "dimensions")):
        with pytest.raises(grpc.RpcError, match=text) as caught:
            call(channel, "ModelInfer", request, door)
        assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


def test_a_deadline_that_is_none_is_refused(door: Door, client: Any) -> None:
    with pytest.raises(InferenceServerException, match="deadline_ms") as caught:
        client.infer("any", tensors(), headers=metadata(door), parameters={"deadline_ms": -1})
    assert "INVALID_ARGUMENT" in caught.value.status()


def test_a_stream_answers_in_order_and_survives_a_refusal(door: Door, client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=metadata(door))
    for number in range(30):
        names = list(INPUTS)[1:] if number == 11 else INPUTS
        client.async_stream_infer("any", tensors(names), request_id=str(number))
    for number in range(30):
        result, error = answers.get(timeout=60)
        if number == 11:
            assert "in_bool" in str(error) and result is None
        else:
            assert error is None and result.get_response().id == str(number)
            np.testing.assert_array_equal(result.as_numpy("out_int64"), example("INT64"))
    client.stop_stream()


def test_more_calls_than_there_may_be_are_refused(door: Door, channel: grpc.Channel) -> None:
    """Streams that lie still hold a place each; the next call is told so, and is answered when one ends."""
    stream = channel.stream_stream(f"/{messages.SERVICE}/ModelStreamInfer", None, messages.StreamResponse.FromString)
    done = threading.Event()

    def still() -> Iterator[bytes]:
        yield b""  # is refused by message, which says that the stream is under way
        done.wait(60)

    open_streams = [stream(still(), metadata=tuple(metadata(door).items())) for _ in range(CALLS)]
    for one in open_streams:
        assert next(one).error_message
    with pytest.raises(grpc.RpcError) as caught:
        call(channel, "ServerLive", b"", door)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    done.set()
    for one in open_streams:
        assert list(one) == []
    assert call(channel, "ServerLive", b"", door).live


def test_who_may_not_ask_is_refused(door: Door, channel: grpc.Channel) -> None:
    if door.other is None:
        return  # on a device, whoever reaches the socket may ask
    other = tuple((name.lower(), value) for name, value in door.other.items())
    asked = {name: b"" for name in ("RepositoryIndex", "ModelStatistics")}
    asked |= dict.fromkeys(("ModelReady", "ModelMetadata", "ModelConfig", "ModelInfer"), b"\x0a\x03any")
    for name, data in asked.items():
        for sent, status in (
            (other, "PERMISSION_DENIED"),
            ((), "UNAUTHENTICATED"),
            ((("authorization", "x"),), "UNAUTHENTICATED"),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                call(channel, name, data, door, metadata=sent)
            assert caught.value.code() == grpc.StatusCode[status], name
    never = threading.Event()

    def nothing() -> Iterator[bytes]:
        never.wait(60)
        yield b""

    for name in ("ModelStreamInfer", "ModelInfer", "ModelConfig"):  # and nothing of the call was read before
        with pytest.raises(grpc.RpcError) as caught:
            list(channel.stream_stream(f"/{messages.SERVICE}/{name}")(nothing(), metadata=(), timeout=20))
        assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED, name
    never.set()
    assert call(channel, "ServerReady", b"", door, metadata=()).ready  # as over HTTP
