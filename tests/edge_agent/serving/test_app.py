"""The local API through real sockets: tritonclient is the other implementation of the protocol."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import socket
import threading
import zlib

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from edge_agent.serving.endpoint import Endpoint
from fleet.protocol.channel import ModelEntry, Routing
from fleet.protocol.refusals import STATUS
from fleet.runtimes.cost import BODY_LIMIT
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import serving


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    agent = Agent(tmp_path_factory.mktemp("agent"))
    one = models.release(agent.blobs, number=1, data=b"fake", threshold=0.6)
    two = models.release(agent.blobs, number=2, data=b"fake", threshold=0.6)
    agent.follow(ModelEntry(release=2))
    asyncio.run(agent.slots.activate(one, None, None))
    asyncio.run(agent.slots.activate(two, one, None))
    with serving(**agent.listener) as (address, loop):
        yield agent, address, loop


@pytest.fixture
def client(served):
    with triton.InferenceServerClient(served[1]) as client:
        yield client


def infer(client, x, *, binary=True, version="", **more):
    value = triton.InferInput("input", list(x.shape), "FP32")
    value.set_data_from_numpy(x, binary_data=binary)
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary)]
    return client.infer("tiny", [value], model_version=version, outputs=wanted, **more)


def test_health_and_metadata(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("tiny", "9")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    metadata = client.get_model_metadata("tiny")
    assert metadata["versions"] == ["2", "1"]
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 4]}]
    assert metadata["parameters"] == {"task": "classification", "labels": list(models.LABELS)}


@pytest.mark.parametrize("binary", [True, False])
def test_the_best_classes_by_name(client, binary):
    x = models.inputs(3)
    value = triton.InferInput("input", list(x.shape), "FP32")
    value.set_data_from_numpy(x)
    wanted = [triton.InferRequestedOutput("logits", binary_data=binary, class_count=2)]
    found = client.infer("tiny", [value], outputs=wanted).as_numpy("logits")
    for row, scores in zip(found, models.answer(x), strict=True):
        best = np.argsort(-scores)[:2]
        parts = [(item.decode() if binary else item).split(":") for item in row]
        assert [part[1:] for part in parts] == [[str(c), models.LABELS[c]] for c in best]
        assert [float(part[0]) for part in parts] == pytest.approx(scores[best], abs=1e-5)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("squeeze", [None, "gzip", "deflate"])
@pytest.mark.parametrize("version", ["", "1"])
def test_infer(client, binary, squeeze, version):
    x = models.inputs(3) * 9
    result = infer(client, x, binary=binary, version=version, request_compression_algorithm=squeeze, request_id="r7")
    np.testing.assert_allclose(result.as_numpy("logits"), models.answer(x), rtol=1e-5)
    response = result.get_response()
    assert response["id"] == "r7"
    assert response["model_version"] == (version or "2")
    assert response["parameters"]["served_by"] in ("edge", "cloud")


def test_answers_say_who_gave_them(client):
    sure = infer(client, np.array([[9, 0, 0, 0]], np.float32)).get_response()["parameters"]
    unsure = infer(client, np.zeros((1, 4), np.float32)).get_response()["parameters"]
    assert (sure["served_by"], sure["release"], sure["degraded"], sure["deferred"]) == ("edge", 2, False, False)
    assert (unsure["served_by"], unsure["deferred"]) == ("cloud", True)
    assert unsure["confidence"] < 0.6 <= sure["confidence"]


def test_a_large_body_arrives_whole(client):
    x = models.inputs(100_000)  # 1.6 MB: many network reads
    np.testing.assert_allclose(infer(client, x).as_numpy("logits"), models.answer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("model", "shape", "status", "text"),
    [("tiny", [1, 5], "400", "shape"), ("other", [1, 4], "404", "not served"), ("tiny", [4], "400", "shape")],
)
def test_mistakes_get_a_status_and_a_sentence(client, model, shape, status, text):
    value = triton.InferInput("input", shape, "FP32")
    value.set_data_from_numpy(np.zeros(shape, np.float32))
    with pytest.raises(InferenceServerException, match=text) as caught:
        client.infer(model, [value])
    assert caught.value.status() == status


def raw(address, method, path, body=b"", **headers):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    answer = connection.getresponse()
    return answer.status, answer.read()


JSON = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [9, 0, 0, 0]}]}).encode()
PATH = "/v2/models/tiny/infer"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost:8080"}, 200),
        ({"Host": "[::1]:8080"}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "127.0.0.1.evil.example"}, 403),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000"}, 200),
        ({"Origin": "http://localhost:3000.evil.example"}, 403),
    ],
)
def test_web_pages_of_others_are_refused(served, headers, status):
    assert raw(served[1], "POST", PATH, JSON, **headers)[0] == status
    assert raw(served[1], "GET", "/status", **headers)[0] == status


def test_a_lying_or_bombing_body_is_refused(served):
    bomb = zlib.compress(b" " * (BODY_LIMIT + 1000), 9)
    assert raw(served[1], "POST", PATH, bomb, Content_Encoding="deflate")[0] == 413
    assert raw(served[1], "POST", PATH, JSON, Content_Encoding="br")[0] == 400
    assert raw(served[1], "POST", PATH, JSON, Inference_Header_Content_Length="999999")[0] == 400
    assert raw(served[1], "POST", PATH, JSON, Inference_Header_Content_Length="x")[0] == 400
    assert raw(served[1], "POST", PATH, b"{")[0] == 400
    assert raw(served[1], "GET", PATH)[0] == 405
    assert raw(served[1], "POST", PATH, JSON)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/v3",
        "/v2/nothing",
        "/v2/models",
        "/v2/models/tiny/versions/99999999999",
        "/v2/models/tiny/versions/99999999999/infer",
        "/v2/models/tiny/versions/%C2%B2/infer",
        "/v2/models/Tiny/infer",
        "/v2/models/tiny%00/ready",
        "/v2/models/%ff/ready",
        "/v2/models/" + "x" * 5000,
        "/status/more",
    ],
)
def test_what_is_not_there_is_said_in_json(served, path):
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        status, body = raw(served[1], method, path)
        assert status in (404, 405), (method, status)
        refusal = json.loads(body)
        assert refusal.keys() == {"error", "code"} and STATUS[refusal["code"]] == status


@pytest.mark.parametrize(
    "path", ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny", "/metrics", "/status"]
)
def test_another_method_is_refused_in_json(served, path):
    status, body = raw(served[1], "POST", path)
    assert status == 405 and "POST" in json.loads(body)["error"]


@pytest.mark.parametrize("path", ["/v2", "/v2/health/live", "/v2/models/tiny", "/v2/models/tiny/ready", "/status"])
def test_a_slash_at_the_end_changes_nothing(served, path):
    assert raw(served[1], "GET", path + "/")[0] == 200
    assert raw(served[1], "POST", PATH + "/", JSON)[0] == 200


@pytest.mark.parametrize("path", [PATH + "?x=1", "/v2/models/t%69ny/infer", "http://127.0.0.1" + PATH])
def test_other_spellings_of_the_hot_route_are_answered_like_it(served, path):
    assert raw(served[1], "POST", path, JSON)[0] == 200
    assert raw(served[1], "GET", path)[0] == 405


def test_health_is_json(served):
    assert json.loads(raw(served[1], "GET", "/v2/health/live")[1]) == {"live": True}
    assert json.loads(raw(served[1], "GET", "/v2/health/ready")[1]) == {"live": True, "ready": True}


@pytest.mark.parametrize("header", ["²", "9" * 5000, "-1", "1e3", "", "NaN", "99999999999999999999"])
def test_a_header_length_that_is_no_number_is_refused(served, header):
    answer = raw(served[1], "POST", PATH, JSON, Inference_Header_Content_Length=header)
    assert answer[0] == 400 and "error" in json.loads(answer[1])


def test_a_raw_body_fills_the_single_input(served):
    body = np.array([[9, 0, 0, 0]], np.float32).tobytes()
    status, answer = raw(served[1], "POST", PATH, body, Inference_Header_Content_Length="0")
    assert status == 200
    assert answer[-12:] == models.answer(np.array([[9, 0, 0, 0]], np.float32)).tobytes()


def test_a_version_that_is_no_number_is_named(served):
    status, answer = raw(served[1], "POST", "/v2/models/tiny/versions/abc/infer", JSON)
    assert (status, json.loads(answer)["error"][:43]) == (404, "model 'tiny' version 'abc' is not served he")


def test_a_request_for_the_index_that_announces_too_much_is_not_told_to_go_on(served):
    host, port = served[1].split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        head = b"POST /v2/repository/index HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n"
        client.sendall(head + b"content-length: 10000000\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_metrics_and_status(served, client):
    infer(client, np.array([[9, 0, 0, 0]], np.float32))
    status, text = raw(served[1], "GET", "/metrics")
    assert status == 200
    lines = text.decode().splitlines()
    assert 'edge_model_info{model="tiny",release="2",variant="onnx-fp32"} 1' in lines
    assert any(line.startswith('edge_inference_requests_total{model="tiny",served_by="edge"') for line in lines)
    assert any('edge_inference_duration_seconds_bucket{model="tiny",served_by="edge",le="+Inf"}' in x for x in lines)
    assert json.loads(raw(served[1], "GET", "/status")[1]) == {"pid": os.getpid(), "models": ["tiny"]}


def test_swaps_under_real_load_fail_no_request(served):
    agent, address, loop = served
    stop, failures, versions = threading.Event(), [], []

    def load():
        with triton.InferenceServerClient(address) as client:
            while not stop.is_set():
                try:
                    response = infer(client, np.array([[9, 0, 0, 0]], np.float32)).get_response()
                    versions.append(response["model_version"])
                except Exception as error:
                    failures.append(error)

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(3, 13):
        release = models.release(agent.blobs, number=number, data=b"fake", threshold=0.6)
        asyncio.run_coroutine_threadsafe(agent.slots.activate(release, None, None), loop).result(60)
        seen = len(versions)
        while len(versions) < seen + 5 and not failures:
            stop.wait(0.001)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert failures == []
    assert "12" in versions


def test_every_503_says_when_to_come_back(tmp_path):
    """Not ready, and a request that nobody can answer though nobody is busy."""
    agent = Agent(tmp_path)
    body = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]})
    with serving(**agent.listener) as (address, _):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", "/v2/health/ready")
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"], json.loads(answer.read())["ready"]) == (503, "1", False)
        agent.follow(ModelEntry(release=1, routing=Routing(cloud=False)))  # no local model, no cloud
        connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        assert json.loads(answer.read())["code"] == "unreachable"
        connection.close()


def test_what_nobody_has_time_to_answer_says_when_to_come_back(tmp_path):
    agent = Agent(tmp_path)
    agent.follow(ModelEntry(release=1))  # no local model yet, and
    agent.engine.cloud.endpoint = Endpoint(agent.cloud, calls=0, waiting=0)  # no place at the cloud
    body = json.dumps({"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]})
    with serving(**agent.listener) as (address, _):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        refusal = json.loads(answer.read())
        assert "cloud-busy" in refusal["error"] and refusal["code"] == "busy"
        connection.close()
