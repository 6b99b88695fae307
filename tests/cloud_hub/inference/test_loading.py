"""A release that is not in memory yet is loaded in the time of the request that asks for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from cloud_hub.app import create_app
from cloud_hub.errors import DeadlineError
from cloud_hub.inference import loaded
from fleet.protocol import oip
from fleet.protocol.manifest import encode_manifest
from tests.support import models
from tests.support.hub import HubFixture, make_hub

ROW = {"inputs": [{"name": "input", "shape": [1, 4], "datatype": "FP32", "data": [0, 0, 0, 0]}]}
PATHS = ["infer", "infer_async"]


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Loads wait for this."""
    go_on, load = threading.Event(), loaded.load_lanes
    monkeypatch.setattr(loaded, "load_lanes", lambda *given: (go_on.wait(60), load(*given))[1])
    yield go_on
    go_on.set()


def published(folder: Path, **settings: Any) -> HubFixture:
    hub = make_hub(folder, inference=settings)
    hub.model("tiny")
    made = models.release(folder / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    hub.hub.publisher.publish_release("tiny", encode_manifest(made.manifest), actor="test")
    return hub


@contextmanager
def client_of(hub: HubFixture) -> Iterator[TestClient]:
    """A client of the hub's application, whose event loop goes on between requests."""
    token = hub.token("application", scope="infer:tiny")
    with TestClient(create_app(hub.hub), headers=hub.auth(token)) as client:
        yield client


@pytest.mark.parametrize(
    ("path", "bound"), [("infer", "the request's"), ("infer", "the hub's"), ("infer_async", "the hub's")]
)
def test_a_cold_load_is_bound_by_the_deadline_and_goes_on(
    tmp_path: Path, slow: threading.Event, path: str, bound: str
) -> None:
    hub = published(tmp_path, **({"deadline_s": 0.05} if bound == "the hub's" else {}))
    asked = ROW if bound == "the hub's" else {**ROW, "parameters": {"timeout": 50_000}}

    with client_of(hub) as client:
        inference = client.app.state.inference  # type: ignore[attr-defined]
        answer = client.post(f"/v2/models/tiny/{path}", json=asked)
        assert answer.status_code == 504 and "was not loaded within" in answer.json()["error"]
        assert inference.loaded.models == [] and inference.loaded._loading
        slow.set()
        assert client.get("/v2/models/tiny/ready").status_code == 200
        assert inference.loaded.models == [("tiny", 1)]
        assert inference.budget.taken == 0


@pytest.mark.parametrize("path", PATHS)
def test_what_is_no_request_is_refused_before_anything_is_loaded(
    tmp_path: Path, slow: threading.Event, path: str
) -> None:
    with client_of(published(tmp_path)) as client:
        for body, status in ((b"{", 400), (b" " * (3 << 20), 413)):
            assert client.post(f"/v2/models/tiny/{path}", content=body).status_code == status
        assert not client.app.state.inference.loaded._loading  # type: ignore[attr-defined]


def test_over_grpc_it_is_the_same(tmp_path: Path, slow: threading.Event) -> None:
    x = oip.TensorValue("input", models.inputs(1))

    inference = create_app(published(tmp_path).hub).state.inference

    async def scenario() -> None:
        assert await inference.rpc.body_limit("tiny", "") > 0
        request = oip.InferRequest(inputs=(x,), parameters={"timeout": 50_000})
        with pytest.raises(DeadlineError, match="was not loaded within"):
            await inference.rpc.infer("tiny", "", request, asyncio.get_running_loop().time(), lambda: False)
        slow.set()

    asyncio.run(scenario())
    inference.close()
