from __future__ import annotations

import asyncio
import threading
from typing import NamedTuple

import numpy as np
import pytest

from edge_agent.errors import LateError, UnreachableError
from edge_agent.serving.cloud import CALLS, CloudError, HubCloud
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


def test_a_deadline_is_kept_while_the_hub_thinks(hub):
    hub.gate.clear()

    async def scenario():
        with pytest.raises(LateError):
            await HubCloud(hub).infer("tiny", 1, REQUEST, 0.02)
        hub.gate.set()

    asyncio.run(scenario())


def test_calls_that_hang_do_not_pile_up(hub):
    hub.gate.clear()
    cloud = HubCloud(hub)

    async def scenario():
        late = await asyncio.gather(
            *(cloud.infer("tiny", 1, REQUEST, 0.02) for _ in range(CALLS)), return_exceptions=True
        )
        assert [type(error) for error in late] == [LateError] * CALLS
        with pytest.raises(UnreachableError, match="waiting already"):
            await cloud.infer("tiny", 1, REQUEST, 0.02)
        hub.gate.set()
        while cloud._busy:
            await asyncio.sleep(0)
        await cloud.infer("tiny", 1, REQUEST, 5.0)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (Answer(429, {}, b'{"error": "busy"}'), 429),
        (Answer(200, {}, b"not json"), 502),
        (Answer(200, {oip.HEADER: "9999"}, b"{}"), 502),
    ],
)
def test_a_bad_answer_says_so(hub, answer, status):
    hub.answer = answer
    with pytest.raises(CloudError) as caught:
        asyncio.run(HubCloud(hub).infer("tiny", 1, REQUEST, 5.0))
    assert caught.value.status == status
