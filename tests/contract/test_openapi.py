"""schemathesis over the whole OpenAPI document, against the hub's own application.

No answer is status 500, none has a status, a content type or a form that the document does not name, and 429 and 503
say when to come back. Half of the names in paths and bodies are those of things that the hub has, so that requests
come further than "no such thing". The full size tries three seeds and more requests.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from cloud_hub.api.openapi import document
from cloud_hub.app import create_app, routers
from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs import queue
from cloud_hub.samples import store
from cloud_hub.store.tables import Alarm, DriftMonitor
from fleet.protocol.messages import Sample
from fleet.protocol.tensors import to_array
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.rollouts import live, make_fleet, start
from tests.support.size import examples, sized

CHECKS = [
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
EXAMPLES = 5  # of each operation, of each way of generating
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
SEEDS = sized((0,), (0, 1, 2))
_, BLOBS = small_release(seed=7)

SCHEMA = schemathesis.openapi.from_dict(document(routers(), title="Edgeloop hub", version="1"))
OPERATIONS = {found.ok().label: found.ok() for found in SCHEMA.get_all_operations()}


@schemathesis.serializer("application/msgpack")
def packed(context: Any, value: Any) -> bytes:
    """A body of devices, as far as it can be said in MessagePack."""
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError, TypeError):
        return b"\xc1"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFixture]:
    """A hub with one of everything."""
    made = make_fleet(make_hub(Path(tmp_path_factory.mktemp("openapi"))))
    for sha256, data in BLOBS.items():
        made.hub.objects.put_new(f"blobs/{sha256}", data)
    x = to_array("x", np.zeros((1, 64), np.float32))
    sample = Sample(
        id="s1",
        model="digits",
        release=1,
        variant="v",
        at=made.clock(),
        reason="random",
        inputs=(x,),
        outputs=(),
        confidence=0.5,
        prediction=1,
    )
    store.commit(made.hub, "d-0", [sample])
    with made.hub.session() as session:
        session.add(Alarm(id=1, model="digits", release=1, at=0.0, status="open"))
        session.add(DriftMonitor(model="digits", sketch_id="s", release=1, state="watching", updated_at=0.0))
    yield made
    made.hub.engine.dispose()


@pytest.fixture(scope="module")
def known(hub: HubFixture) -> dict[str, str]:
    """The names of things that the hub has, by the parameter or field that takes them."""
    sha256 = next(iter(BLOBS))
    return {
        "model": "digits",
        "number": "1",
        "device_id": "d-0",
        "sha256": sha256,
        "old": sha256,
        "channel": "stable",
        "rollout": (live(hub) or [start(hub)])[0],
        "order": "pause",
        "sample": "s1",
        "alarm": "1",
        "version": "1",
        "job": queue.submit(hub.hub, "retrain", model="digits", actor="test").id,
        "kind": "retrain",
        "request_id": hub.async_request(),
        "command": send_command(hub.hub, "d-0", "diagnose", {}),
    }


def made_known(values: Any, known: dict[str, str], path: str) -> None:
    """Put things that there are in place of half of the names; which ones hangs on what was generated."""
    if not isinstance(values, dict):
        return
    names = known | {"name": "stable" if "/channels/" in path else "timestamp.json" if "/tuf/" in path else "digits"}
    for key, value in list(values.items()):
        if key in names and isinstance(value, str) and zlib.crc32(value.encode("utf-8", "replace")) % 2:
            values[key] = names[key]


def token(hub: HubFixture, operation: Any) -> str:
    """The credential that the operation wants."""
    wanted = {name for choice in operation.definition.raw["security"] for name in choice}
    return hub.hub.device_tokens.token("d-0", now=hub.clock()) if wanted == {"device"} else hub.admin_token


@pytest.mark.parametrize("number", SEEDS)
@pytest.mark.parametrize("label", OPERATIONS)
def test_every_answer_is_one_that_the_document_names(
    hub: HubFixture, known: dict[str, str], label: str, number: int
) -> None:
    operation, app = OPERATIONS[label], create_app(hub.hub)

    def ask(case: Any) -> None:
        made_known(case.path_parameters, known, operation.path)
        made_known(case.body, known, operation.path)
        answer = case.call(app=app, headers={"Authorization": f"Bearer {token(hub, operation)}"})
        assert answer.status_code != 500, answer.text
        assert answer.status_code not in (429, 503) or int(answer.headers["retry-after"][0]) > 0
        case.validate_response(answer, checks=CHECKS)

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
