"""NaN and infinity at the hub."""

from __future__ import annotations

from typing import Any

import pytest

from fleet.protocol import oip
from tests.support import any_model
from tests.support.hub import HubFixture

XY = {"x": ("FP32", ["n", 2])}, {"y": ("FP32", ["n", 2])}


@pytest.fixture
def release(tmp_path):
    inputs, outputs = map(any_model.tensors, XY)
    data = any_model.logarithm()
    return any_model.release(tmp_path / "blobs", inputs, outputs, edge=data, cloud=data)


def infer(hub: HubFixture, *values: Any, **more: Any) -> Any:
    tensor = {"name": "x", "shape": [len(values) // 2, 2], "datatype": "FP32", "data": list(values)}
    token = hub.token("application", scope="infer:any")
    return hub.client.post("/v2/models/any/infer", json={"inputs": [tensor], **more}, headers=hub.auth(token))


def test_an_answer_that_is_no_number_is_an_error_of_its_own_request(hub, serve, release) -> None:
    serve(release)
    assert infer(hub, 1, 1).status_code == 200
    refused = infer(hub, 1, 1, 1, 0)
    assert refused.status_code == 422
    assert "release 1 of any: output 'y' is infinite at [1, 1]" in refused.json()["error"]


def test_an_input_that_is_no_number_is_refused_with_its_place(hub, serve, release) -> None:
    serve(release)
    refused = infer(hub, 1, 1e39)
    assert refused.status_code == 400 and "input 'x' is infinite at [0, 1]" in refused.json()["error"]


def test_a_model_that_means_it_answers_and_says_so(hub, serve, release) -> None:
    serve(any_model.relaxed(release))
    answered = infer(hub, 1, -1)
    assert answered.status_code == 200
    assert answered.json()["outputs"][0]["data"] == [0.0, None]
    assert answered.json()["parameters"]["non_finite"] is True


def test_infinity_is_refused_in_json_and_goes_in_binary(hub, serve, release) -> None:
    serve(any_model.relaxed(release))
    refused = infer(hub, 1, 0)
    assert refused.status_code == 400 and "output 'y' holds infinity" in refused.json()["error"]
    assert "binary" in refused.json()["error"]
    answered = infer(hub, 1, 0, parameters={"binary_data_output": True})
    found = oip.decode_response(answered.content, oip.parse_header(answered.headers[oip.HEADER]))
    assert found.outputs[0].array.tolist() == [[0.0, float("-inf")]]
