"""schemathesis over the protocol's paths, against the agent: the document is the hub's, which answers the same paths.

No answer is a fault of the agent's, every error is the JSON document, and whatever the hub's document says of a status
is true of the agent's answer, too. Half of the names are those of the model that is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import response_schema_conformance

from cloud_hub.api.openapi import document
from cloud_hub.inference.routes import router
from fleet.protocol.channel import ModelEntry
from fleet.protocol.refusals import STATUS
from tests.contract.test_openapi import MODES, SEEDS, made_known
from tests.support import models
from tests.support.agent import Agent
from tests.support.server import serving
from tests.support.size import examples

EXAMPLES = 20  # of each operation, of each way of generating
KNOWN = {"model": "tiny", "version": "1"}
SCHEMA = schemathesis.openapi.from_dict(document([router], title="Edgeloop hub", version="1"))
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An agent that serves release 1 of `tiny`."""
    agent = Agent(tmp_path_factory.mktemp("agent"))
    agent.follow(ModelEntry(release=1))
    asyncio.run(agent.slots.activate(models.release(agent.blobs, data=b"fake"), None, None))
    with serving(**agent.listener) as (where, _):
        yield f"http://{where}"


def made_fitting(body: Any) -> None:
    """Let half of the tensors be called and typed as the model's input; which ones hangs on what was generated."""
    tensors = body.get("inputs") if isinstance(body, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        if isinstance(tensor, dict) and zlib.crc32(repr(tensor).encode("utf-8", "replace")) % 2:
            tensor |= {"name": "input", "datatype": "FP32"}


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_one_of_the_protocols(address: str, label: str, number: int) -> None:
    operation = OPERATIONS[label]
    seen: set[int] = set()

    def ask(case: Any) -> None:
        made_known(case.path_parameters, KNOWN, operation.path)
        made_fitting(case.body)
        answer = case.call(base_url=address)
        seen.add(answer.status_code)
        assert answer.status_code < 500, answer.text
        assert answer.headers["content-type"][0] in ("application/json", "application/octet-stream")
        if answer.status_code != 200:
            told = answer.json()
            assert set(told) == {"error", "code"} and answer.status_code == STATUS.get(told["code"], 405), told
        else:
            case.validate_response(answer, checks=[response_schema_conformance])

    for mode in MODES:
        tried = given(case=operation.as_strategy(generation_mode=mode))(ask)
        quiet = settings(
            max_examples=examples(EXAMPLES),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        with contextlib.suppress(Unsatisfiable):  # nothing to give, so nothing to give wrongly
            seed(number)(quiet(tried))()
    assert seen
