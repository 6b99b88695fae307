"""The Open Inference Protocol over HTTP, on agent and hub alike: what Triton's client asks of a server.

One request carries a tensor of each of the 13 datatypes, in every way of writing and compressing that there is: 468
cases, 13 × JSON or binary each way × no, gzip or deflate each way.
"""

from __future__ import annotations

import http.client
import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tritonclient import http as triton
from tritonclient.utils import InferenceServerException

from fleet.protocol.tensors import DTYPES
from tests.support.all_kinds import INPUTS, Door, agent_door, example, hub_door

WAYS = list(itertools.product((True, False), (True, False), (None, "gzip", "deflate"), (None, "gzip", "deflate")))


@pytest.fixture(scope="module", params=[agent_door, hub_door], ids=["agent", "hub"])
def door(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with request.param(tmp_path_factory.mktemp("door")) as made:
        yield made


@pytest.fixture
def client(door: Door) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(door.address) as client:
        yield client


def tensors(*, binary: bool) -> list[triton.InferInput]:
    found = []
    for name, (kind, _) in INPUTS.items():
        found.append(triton.InferInput(name, [2, 2], kind))
        found[-1].set_data_from_numpy(example(kind), binary_data=binary)
    return found


@pytest.mark.parametrize(("binary", "answer_binary", "squeeze", "answer_squeeze"), WAYS)
def test_every_datatype_in_every_way(
    door: Door, client: Any, binary: bool, answer_binary: bool, squeeze: str | None, answer_squeeze: str | None
) -> None:
    wanted = [triton.InferRequestedOutput(f"out_{k.lower()}", binary_data=answer_binary) for k in DTYPES]
    found = client.infer(
        "any",
        tensors(binary=binary),
        outputs=wanted,
        headers=dict(door.headers),  # the client writes into them
        request_compression_algorithm=squeeze,
        response_compression_algorithm=answer_squeeze,
    )
    for kind in DTYPES:
        answer, sent = found.as_numpy(f"out_{kind.lower()}"), example(kind)
        if kind == "BYTES" and not answer_binary:
            sent = np.vectorize(bytes.decode, otypes=[object])(sent)
        np.testing.assert_array_equal(answer, sent, strict=True)


def test_what_the_server_says_of_itself(door: Door, client: Any) -> None:
    assert client.is_server_live() and client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["extensions"] == ["binary_tensor_data", "classification", "model_configuration", "statistics"]


def test_index_and_configuration(door: Door, client: Any) -> None:
    index = client.get_model_repository_index(headers=door.headers)
    assert index[0] == {"name": "any", "version": "1", "state": "READY", "reason": ""}
    assert [(entry["name"], entry["state"]) for entry in index[1:]] == (
        [("absent", "UNAVAILABLE")] if door.name == "agent" else []  # the hub does not tell what one may not ask
    )
    config = client.get_model_config("any", headers=door.headers)
    assert (config["name"], config["backend"]) == ("any", "onnx") and config["max_batch_size"] > 0
    kinds = {one["name"]: (one["data_type"], one["dims"]) for one in config["input"] + config["output"]}
    assert kinds["in_bytes"] == ("TYPE_STRING", [2]) and kinds["out_fp16"] == ("TYPE_FP16", [2])
    assert client.get_model_config("any", "1", headers=door.headers) == config
    with pytest.raises(InferenceServerException):
        client.get_model_config("any", "9", headers=door.headers)


def test_statistics_count_requests_rows_and_runs(door: Door, client: Any) -> None:
    def counted() -> dict[str, Any]:
        (one,) = client.get_inference_statistics("any", headers=door.headers)["model_stats"]
        return dict(one)

    client.infer("any", tensors(binary=True), headers=dict(door.headers))
    before = counted()
    client.infer("any", tensors(binary=True), headers=dict(door.headers))
    with pytest.raises(InferenceServerException):
        client.infer("any", tensors(binary=True)[1:], headers=dict(door.headers))
    after = counted()
    assert after["inference_count"] - before["inference_count"] == 2
    assert after["execution_count"] - before["execution_count"] == 1
    for what, count in (("success", 1), ("fail", 1), ("queue", 1), ("compute_infer", 1), ("cache_hit", 0)):
        assert after["inference_stats"][what]["count"] - before["inference_stats"][what]["count"] == count, what
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert after["batch_stats"][0]["batch_size"] == 2 and after["last_inference"] >= before["last_inference"] > 0
    everything = client.get_inference_statistics(headers=door.headers)["model_stats"]
    assert [(one["name"], one["version"]) for one in everything] == [("any", "1")]
    assert client.get_inference_statistics("any", "1", headers=door.headers)["model_stats"] == [counted()]


def ask(door: Door, method: str, path: str, body: bytes = b"", headers: Any = None) -> tuple[int, Any, str]:
    connection = http.client.HTTPConnection(door.address, timeout=60)
    connection.request(method, path, body, door.headers if headers is None else headers)
    answer = connection.getresponse()
    found = answer.status, json.loads(answer.read()), answer.headers.get("allow", "")
    connection.close()
    return found


@pytest.mark.parametrize(
    ("method", "path", "status", "allowed"),
    [
        ("GET", "/v2/nothing", 404, ""),
        ("GET", "/v2/models/any/nothing", 404, ""),
        ("GET", "/v2/models/any/versions/1/nothing", 404, ""),
        ("POST", "/v2/models/any/load", 404, ""),
        ("POST", "/v2/repository/models/any/load", 404, ""),
        ("GET", "/v2/models/none", 404, ""),
        ("GET", "/v2/models/any/versions/9/config", 404, ""),
        ("GET", "/v2/models/any/versions/x/stats", 404, ""),
        ("GET", "/v2/repository/index", 405, "POST"),
        ("DELETE", "/v2/repository/index", 405, "POST"),
        ("POST", "/v2/models/any/config", 405, "GET"),
        ("POST", "/v2/models/any/versions/1/stats", 405, "GET"),
        ("PATCH", "/v2/models/stats", 405, "GET"),
        ("POST", "/v2/health/ready", 405, "GET"),
        ("OPTIONS", "/v2", 405, "GET"),
        ("GET", "/v2/models/any/infer", 405, "POST"),
        ("PUT", "/v2/models/any/versions/1/infer", 405, "POST"),
    ],
)
def test_every_refusal_is_json_and_names_the_methods(
    door: Door, method: str, path: str, status: int, allowed: str
) -> None:
    found, document, methods = ask(door, method, path)
    if door.name == "hub" and path == "/v2/models/none":
        status = 403  # this caller's scope ends at its model
    assert (found, set(document)) == (status, {"error", "code"})
    assert allowed in methods.split(", ") if allowed else methods == ""


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 200),
        (b"{}", 200),
        (b'{"ready": true}', 200),
        (b'{"repository_name": "r", "x": 1}', 200),
        (b'{"ready": null}', 200),
        (b'{"ready": 1}', 400),
        (b"[]", 400),
        (b"{", 400),
        (b"\xff", 400),
        (b" " * 70_000, 413),
    ],
)
def test_what_is_asked_of_the_index(door: Door, body: bytes, status: int) -> None:
    found, document, _ = ask(door, "POST", "/v2/repository/index", body)
    assert found == status
    if status == 200:
        missing = door.name == "agent" and b"true" not in body
        assert {entry["state"] for entry in document} == ({"READY", "UNAVAILABLE"} if missing else {"READY"})


def test_who_may_ask_nothing_is_told_nothing(door: Door) -> None:
    if door.other is None:
        return  # on a device, whoever reaches the socket may ask
    for method, path in (
        ("POST", "/v2/repository/index"),
        ("GET", "/v2/models/stats"),
        ("GET", "/v2/models/any/config"),
    ):
        assert ask(door, method, path, headers=door.other)[0] == 403
        assert ask(door, method, path, headers={})[0] == 401
