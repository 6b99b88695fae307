from __future__ import annotations

import asyncio
import threading
from typing import NamedTuple

import numpy as np
import pytest

from edge_agent.serving.cloud import CloudError, HubCloud
from fleet.protocol import oip
from tests.support import models


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    data: bytes


class FakeHub:
    """Answers inference like the tiny classifier; `gate` holds every call back until it is set."""

    def __init__(self):
        self.paths = []
        self.gate = threading.Event()
        self.gate.set()
        self.answer = None

    def request(self, method, path, body=None, headers=None, timeout=30.0):
        self.paths.append((method, path))
        self.gate.wait(10)
        if self.answer is not None:
            return self.answer
        request = oip.decode_request(body, oip.parse_header(headers[oip.HEADER]))
        outputs = (oip.TensorValue("logits", models.answer(request.inputs[0].array)),)
        response = oip.InferResponse(model_name="tiny", model_version="3", outputs=outputs)
        data, length = oip.encode_response(response, request)
        return Answer(200, {"Inference-Header-Content-Length": str(length)}, data)


@pytest.fixture
def hub():
    hub = FakeHub()
    yield hub
    hub.gate.set()


X = models.inputs(2)
REQUEST = oip.InferRequest(inputs=(oip.TensorValue("input", X),), binary_outputs=oip.ALL)


@pytest.mark.parametrize(
    ("version", "path"), [(5, "/v2/models/tiny/versions/5/infer"), (None, "/v2/models/tiny/infer")]
)
def test_asks_the_hub_in_binary(hub, version, path):
    answer = asyncio.run(HubCloud(hub).infer("tiny", version, REQUEST, 5.0))
    np.testing.assert_array_equal(answer.outputs[0].array, models.answer(X))
    assert answer.model_version == "3"
    assert hub.paths == [("POST", path)]


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(500, {}, b'{"error": "broken"}'), 500),
        (Answer(200, {}, b"not json"), 502),
        (Answer(200, {oip.HEADER: "9999"}, b"{}"), 502),
    ],
)
def test_a_bad_answer_says_so(hub, answer, status):
    hub.answer = answer
    with pytest.raises(CloudError) as caught:
        asyncio.run(HubCloud(hub).infer("tiny", 1, REQUEST, 5.0))
    assert caught.value.status == status
    assert caught.value.retry_after_s is None


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (429, {"Retry-After": "7"}, 7.0),
        (503, {"retry-after": "7"}, 7.0),
        (429, {}, 1.0),
        (503, {}, None),  # a proxy with nobody behind it says this
        (429, {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1.0),
        (429, {"Retry-After": "999999999"}, 60.0),
        (429, {"Retry-After": "9" * 400}, 1.0),
        (429, {"Retry-After": "-1"}, 1.0),
        (500, {"Retry-After": "7"}, None),
    ],
)
def test_a_busy_cloud_says_when_to_come_back(hub, status, headers, expected):
    hub.answer = Answer(status, headers, b"{}")
    with pytest.raises(CloudError) as caught:
        asyncio.run(HubCloud(hub).infer("tiny", 1, REQUEST, 5.0))
    assert caught.value.retry_after_s == expected
