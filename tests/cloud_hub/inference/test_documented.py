"""Answers of a model, in JSON and with tensors as bytes, have the forms that the OpenAPI document names."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jsonschema import validate

from cloud_hub.api.openapi import document
from cloud_hub.app import create_app, routers
from edge_agent.ports import InstalledRelease
from fleet.protocol import oip
from tests.support import models
from tests.support.hub import HubFixture

WHOLE = document(routers(), title="x", version="1")
ROWS = np.ones((2, 4), np.float32)
INFER = ("/v2/models/{model}/infer", "/v2/models/{model}/versions/{version}/infer")
LATER = "/v2/models/{model}/infer_async"


def check(operation: dict[str, Any], answer: Any) -> str:
    """The content type of an answer, which has the form that the document names for it."""
    kind = answer.headers["content-type"]
    schema = operation["responses"][str(answer.status_code)]["content"][kind]["schema"]
    if kind == "application/json":
        validate(answer.json(), schema | {"components": WHOLE["components"]})
    else:
        assert oip.HEADER in operation["responses"][str(answer.status_code)]["headers"] and oip.HEADER in answer.headers
    return str(kind)


@pytest.fixture
def asked(hub: HubFixture, serve: Callable[[InstalledRelease], int], tmp_path: Path) -> HubFixture:
    serve(models.release(tmp_path / "made", cloud=True))
    return hub


def in_json(binary: bool) -> tuple[bytes, dict[str, str]]:
    tensor = {"name": "input", "datatype": "FP32", "shape": ROWS.shape, "data": ROWS.ravel().tolist()}
    body = {"inputs": [tensor], "parameters": {"binary_data_output": binary}}
    return json.dumps(body).encode(), {"content-type": "application/json"}


def in_bytes(binary: bool) -> tuple[bytes, dict[str, str]]:
    tensors = (oip.TensorValue("input", ROWS),)
    body, head = oip.encode_request(oip.InferRequest(inputs=tensors, binary_outputs=oip.ALL if binary else frozenset()))
    return body, {"content-type": "application/octet-stream", oip.HEADER: str(head)}


@pytest.mark.parametrize("binary", [False, True], ids=["to JSON", "to bytes"])
@pytest.mark.parametrize("request_of", [in_json, in_bytes])
def test_a_models_answer_is_documented(asked: HubFixture, request_of: Any, binary: bool) -> None:
    body, about = request_of(binary)
    kind, headers = about["content-type"], asked.auth() | about
    wanted = "application/octet-stream" if binary else "application/json"
    for path in INFER:
        operation = WHOLE["paths"][path]["post"]
        assert kind in operation["requestBody"]["content"]
        answer = asked.client.post(path.format(model="any", version="1"), content=body, headers=headers)
        assert (answer.status_code, check(operation, answer)) == (200, wanted)
    operation = WHOLE["paths"][LATER]["post"]
    assert kind in operation["requestBody"]["content"]
    taken = asked.client.post(LATER.format(model="any"), content=body, headers=headers)
    assert (taken.status_code, check(operation, taken)) == (202, "application/json")
    fetched = WHOLE["paths"][LATER + "/{request_id}/result"]["get"]
    where = taken.headers["location"] + "/result"
    assert check(fetched, asked.client.get(where, headers=asked.auth())) == "application/json"
    instance = create_app(asked.hub, inference_only=True).state.inference
    assert asyncio.run(instance.later.step())
    answer = asked.client.get(where, headers=asked.auth())
    assert (answer.status_code, check(fetched, answer)) == (200, wanted)


def test_the_header_of_binary_tensors_is_a_parameter_of_the_operations_that_read_it() -> None:
    for path in (*INFER, LATER):
        (named,) = (one for one in WHOLE["paths"][path]["post"]["parameters"] if one["in"] == "header")
        assert named["name"] == oip.HEADER and not named["required"]
    assert json.dumps(WHOLE).count(f'"name": "{oip.HEADER}"') == 4
