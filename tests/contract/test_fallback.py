"""A student and a teacher that name the same inputs in another order answer alike, wherever a request is answered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import runtimes
from edge_agent.ports import InstalledRelease
from edge_agent.serving.cloud import HubCloud
from fleet.protocol import oip
from fleet.protocol.channel import Channel, ModelEntry, Routing
from fleet.protocol.manifest import encode_manifest
from tests.contract.test_litert_models import difference as student
from tests.contract.test_models import AB, MINUS_PLUS, A, B, request_of
from tests.contract.test_models import difference as teacher
from tests.support import any_model
from tests.support.agent import Agent
from tests.support.any_model import tensors
from tests.support.hub import HubFixture, make_hub
from tests.support.loop import Calls

PATIENT = Routing(deadline_ms=60_000)  # the teacher is loaded at its first request
WANTED = {"minus": A - B, "plus": A + B}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    made = make_hub(tmp_path_factory.mktemp("hub"))
    made.model("any")
    return made


def published(hub: HubFixture, blobs: Path, edge: bytes) -> InstalledRelease:
    """A release whose LiteRT student names a before b, and whose ONNX teacher names b before a."""
    made = any_model.release(
        blobs,
        tensors(AB),
        tensors(MINUS_PLUS),
        edge=edge,
        cloud=teacher("n", turned=True),
        runtime="litert",
        golden=[({"a": A, "b": B}, WANTED)],
    )
    for blob in blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    number = hub.hub.publisher.publish_release("any", encode_manifest(made.manifest), actor="test").number
    return InstalledRelease(model="any", number=number, manifest=made.manifest, variant=made.variant, blobs=made.blobs)


def asked(
    hub: HubFixture, directory: Path, made: InstalledRelease, rows: int, **parameters: object
) -> oip.InferResponse:
    """One request to an agent that serves the student and may ask the hub."""
    agent = Agent(directory / "agent", runtime=runtimes.for_variant(made.variant))  # type: ignore[arg-type]
    agent.endpoint._cloud = HubCloud(Calls(hub, "any"))
    entry = ModelEntry(release=made.number, routing=PATIENT)
    agent.policies.apply(Channel(channel="stable", version=1, models={"any": entry}))
    request = request_of({"a": A[:rows], "b": B[:rows]})
    request = oip.InferRequest(inputs=request.inputs, binary_outputs=oip.ALL, parameters=parameters)

    async def scenario() -> oip.InferResponse:
        await agent.slots.activate(made, None, None)
        return await agent.engine.infer("any", "", request)

    try:
        return asyncio.run(scenario())
    finally:
        agent.database.close()


@pytest.mark.parametrize(
    ("rows", "parameters", "served_by"),
    [(3, {}, "edge"), (3, {"route": "cloud"}, "cloud"), (2, {}, "cloud")],
    ids=["the student", "the teacher", "the teacher, since the student takes three rows"],
)
def test_student_and_teacher_answer_alike(
    hub: HubFixture, tmp_path: Path, rows: int, parameters: dict[str, Any], served_by: str
) -> None:
    made = published(hub, tmp_path / "blobs", student(3))
    answer = asked(hub, tmp_path, made, rows, **parameters)
    assert answer.parameters["served_by"] == served_by
    assert [value.name for value in answer.outputs] == ["minus", "plus"]
    for value in answer.outputs:
        np.testing.assert_array_equal(value.array, WANTED[value.name][:rows], strict=True)
