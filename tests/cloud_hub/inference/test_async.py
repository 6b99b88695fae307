"""Requests that are answered later: taken in by one instance, answered by another, fetched from a third."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy.exc import OperationalError

from cloud_hub.app import create_app
from cloud_hub.errors import NotFoundError, UnreachableError
from cloud_hub.inference import async_queue, async_runner
from cloud_hub.inference.async_queue import ATTEMPTS, LEASE_S, SWEPT, Attempt, QueuedRequest
from cloud_hub.inference.parts import Inference
from cloud_hub.store.tables import AsyncRequest
from fleet.api.inference import AsyncInference
from fleet.client import Client
from fleet.errors import FailedError, TimedOutError
from fleet.errors import NotFoundError as NoSuchThingError
from fleet.protocol import oip
from fleet.protocol.manifest import encode_manifest
from tests.fleet.client.test_real_hub import AppTransport
from tests.support import models
from tests.support.hub import HubFixture, make_hub

PATH = "/v2/models/tiny/infer_async"
ROWS = models.inputs(3)
ASKED = {"id": "7", "inputs": [{"name": "input", "shape": [3, 4], "datatype": "FP32", "data": ROWS.ravel().tolist()}]}
KEEP_S = 3600.0


def published(folder: Path, **document: Any) -> HubFixture:
    hub = make_hub(folder, **document)
    hub.model("tiny")
    made = models.release(folder / "blobs", cloud=True)
    for blob in made.blobs.iterdir():
        hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
    manifest = encode_manifest(made.manifest)
    hub.hub.publisher.publish_release("tiny", manifest, actor="test")
    (folder / "manifest").write_bytes(manifest)
    return hub


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    limits = {"pending": 3, "bytes": 5000, "token_bytes": 4000}
    return published(tmp_path, inference={"asynchronous": limits})


@pytest.fixture
def auth(hub: HubFixture) -> dict[str, str]:
    return hub.auth(hub.token("application", scope="infer:tiny"))


@pytest.fixture
def instance(hub: HubFixture) -> Inference:
    """Another process beside the one that `hub.client` asks."""
    found: Inference = create_app(hub.hub, inference_only=True).state.inference
    return found


def run(instance: Inference) -> bool:
    return asyncio.run(instance.later.step())


def submit(hub: HubFixture, auth: dict[str, str], **more: Any) -> str:
    answer = hub.client.post(PATH, json=ASKED | more, headers=auth)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


def left(hub: HubFixture) -> list[str]:
    return sorted(found.key for found in hub.hub.objects.list("async"))


def test_a_request_taken_in_here_is_answered_there(hub: HubFixture, auth: dict[str, str], instance: Inference) -> None:
    taken = hub.client.post(PATH, json=ASKED, headers=auth)
    where = taken.headers["location"]
    assert (taken.status_code, taken.headers["retry-after"], taken.json()["state"]) == (202, "1", "queued")
    assert where == f"{PATH}/{taken.json()['id']}" and taken.json()["expires_at"] == hub.clock() + KEEP_S
    waiting = hub.client.get(f"{where}/result", headers=auth)
    assert (waiting.status_code, waiting.headers["retry-after"], waiting.json()["state"]) == (202, "1", "queued")
    assert run(instance) and not run(instance)
    shown = hub.client.get(where, headers=auth).json()
    assert (shown["state"], shown["release"], shown["ended_at"]) == ("succeeded", 1, hub.clock())
    answer = hub.client.get(f"{where}/result", headers=auth)
    at_once = hub.client.post("/v2/models/tiny/infer", json=ASKED, headers=auth)
    found, expected = answer.json(), at_once.json()
    for one in (found, expected):
        assert one["parameters"].pop("latency_us") > 0
    assert (answer.status_code, found) == (200, expected)
    assert answer.headers["content-type"] == at_once.headers["content-type"]


def test_the_release_is_the_one_of_the_time_of_asking(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    asked = submit(hub, auth)
    manifest = (hub.hub.config.directory.parent / "manifest").read_bytes()
    assert hub.hub.publisher.publish_release("tiny", manifest, actor="test").number == 2
    later = submit(hub, auth)
    assert run(instance) and run(instance)
    answers = [hub.client.get(f"{PATH}/{one}/result", headers=auth).json() for one in (asked, later)]
    assert [answer["model_version"] for answer in answers] == ["1", "2"]


def test_the_python_client(hub: HubFixture, instance: Inference) -> None:
    client = Client(AppTransport(hub.client), hub.token("application", scope="infer:tiny"))
    asked = client.infer_later("tiny", {"input": ROWS}, version="1")
    assert (client.answer(asked), client.later(asked).state) == (None, "queued")
    ticks = iter(range(100))
    with pytest.raises(TimedOutError):
        client.wait(asked, timeout_s=2.5, sleep=lambda _: None, now=lambda: float(next(ticks)))
    answer = client.wait(asked, timeout_s=60, sleep=lambda _: run(instance) and None)
    np.testing.assert_allclose(answer.outputs[0].array, models.answer(ROWS), rtol=1e-5)
    assert client.forget(asked).state == "succeeded" and left(hub) == []
    with pytest.raises(NoSuchThingError, match="no request"):
        client.answer(asked)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"inputs": [{**ASKED["inputs"][0], "shape": [3, 5]}]}, 400),
        ({"inputs": []}, 400),
        ({}, 400),  # type: ignore[dict-item]
        ({"inputs": [{**ASKED["inputs"][0], "name": "x"}]}, 400),
        ({"id": "x" * 3_000_000}, 413),
    ],  # type: ignore[dict-item]
)
def test_what_is_refused_is_refused_at_once(
    hub: HubFixture, auth: dict[str, str], body: dict[str, Any], status: int
) -> None:
    refused = hub.client.post(PATH, json=body, headers=auth)
    assert (refused.status_code, set(refused.json())) == (status, {"error", "code"})
    assert left(hub) == []


@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("binary", [True, False])
def test_a_body_that_is_too_large_names_the_binary_extension_where_that_would_help(
    hub: HubFixture, auth: dict[str, str], announced: bool, binary: bool
) -> None:
    body, headers = b" " * 3_000_000, auth | ({oip.HEADER: "0"} if binary else {})
    refused = hub.client.post(PATH, content=body if announced else iter([body]), headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (413, "too-large")
    assert refused.json()["error"].startswith("the body has" if binary else "the request has 3000000 bytes of JSON")
    assert ("binary extension" in refused.json()["error"]) is not binary


def test_what_fails_later_is_told_as_it_would_have_been(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    late = submit(hub, auth, parameters={"timeout": 1})
    assert run(instance)
    answer = hub.client.get(f"{PATH}/{late}/result", headers=auth)
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline")
    gone = submit(hub, auth)
    hub.hub.publisher.withdraw("tiny", 1, "bad", actor="test")
    assert run(create_app(hub.hub).state.inference)
    with hub.hub.reading() as session:
        row = session.get(AsyncRequest, gone)
    assert row is not None and (row.state, row.code) == ("failed", "not-found") and "published" in row.error


def test_nobody_else_sees_or_deletes_it(hub: HubFixture, auth: dict[str, str]) -> None:
    asked = submit(hub, auth)
    for other in (hub.token("application", scope="infer:tiny"), hub.admin_token):
        for method, path in (("GET", ""), ("GET", "/result"), ("DELETE", "")):
            answer = hub.client.request(method, f"{PATH}/{asked}{path}", headers=hub.auth(other))
            assert (answer.status_code, answer.json()["code"]) == (404, "not-found")
    assert hub.client.get(f"{PATH}/{asked}", headers=auth).status_code == 200
    assert hub.client.get(f"{PATH}/{asked}").status_code == 401


def test_a_token_has_a_bound_of_requests_and_of_bytes(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    first = [submit(hub, auth) for _ in range(3)]
    refused = hub.client.post(PATH, json=ASKED, headers=auth)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited") and "retry-after" in refused.headers
    assert submit(hub, hub.auth(hub.token("application", scope="infer:tiny")))  # another one's place
    for _ in range(4):
        assert run(instance)
    for _ in range(3):
        submit(hub, auth)
    assert len(first) == 3


def test_a_token_has_a_bound_of_what_is_kept(tmp_path: Path) -> None:
    hub = published(tmp_path, inference={"asynchronous": {"kept": 2}})
    one, other = (hub.auth(hub.token("application", scope="infer:tiny")) for _ in range(2))
    instance = create_app(hub.hub).state.inference
    first = submit(hub, one)
    assert run(instance) and submit(hub, one)
    refused = hub.client.post(PATH, json=ASKED, headers=one)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited") and "delete" in refused.json()[
        "error"
    ]
    assert hub.client.delete(f"{PATH}/{first}", headers=one).status_code == 200
    assert submit(hub, one) and submit(hub, other)


def test_an_answer_is_sent_in_pieces_and_never_held_whole(
    hub: HubFixture, auth: dict[str, str], instance: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = submit(hub, auth)
    assert run(instance)
    monkeypatch.setattr(async_queue, "PIECE", 7)
    monkeypatch.setattr(hub.hub.objects, "get", None)
    answer = hub.client.get(f"{PATH}/{asked}/result", headers=auth)
    assert answer.json()["id"] == "7" and answer.headers["content-length"] == str(len(answer.content))
    for key in left(hub):
        hub.hub.objects.delete(key)
    answer = hub.client.get(f"{PATH}/{asked}/result", headers=auth)
    assert (answer.status_code, answer.json()["code"]) == (404, "not-found")


def test_the_store_has_a_bound_of_bytes(tmp_path: Path) -> None:
    size = len(json.dumps(ASKED).encode())
    hub = published(tmp_path, inference={"asynchronous": {"bytes": 3 * size, "token_bytes": 2 * size}})
    one, other = (hub.auth(hub.token("application", scope="infer:tiny")) for _ in range(2))
    assert [hub.client.post(PATH, json=ASKED, headers=one).status_code for _ in range(3)] == [202, 202, 429]
    assert [hub.client.post(PATH, json=ASKED, headers=other).status_code for _ in range(2)] == [202, 503]
    assert len(left(hub)) == 3


def test_a_request_of_an_instance_that_died_is_taken_over_and_the_late_one_writes_for_nobody(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    asked = submit(hub, auth)
    late = async_queue.claim(hub.hub, "first")
    assert late is not None and async_queue.claim(hub.hub, "second") is None
    hub.clock.advance(LEASE_S - 1)
    async_queue.renew(hub.hub, "first", {Attempt(late.id, late.attempt)})
    hub.clock.advance(LEASE_S - 1)
    assert async_queue.claim(hub.hub, "second") is None
    hub.clock.advance(2)
    assert run(instance)
    kept = left(hub)
    async_queue.succeed(hub.hub, late, b"late", {})
    async_queue.fail(hub.hub, late, "internal", "late")
    assert left(hub) == kept
    assert hub.client.get(f"{PATH}/{asked}/result", headers=auth).json()["id"] == "7"


def test_a_request_that_ends_its_instances_is_given_up(hub: HubFixture, auth: dict[str, str]) -> None:
    asked = submit(hub, auth)
    for attempt in range(ATTEMPTS):
        row = async_queue.claim(hub.hub, f"instance-{attempt}")
        assert row is not None and row.attempt == attempt + 1
        hub.clock.advance(LEASE_S + 1)
    assert async_queue.claim(hub.hub, "last") is None
    answer = hub.client.get(f"{PATH}/{asked}/result", headers=auth)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal") and "3 attempts" in answer.json()["error"]


def test_what_finds_no_room_waits_and_loses_no_attempt(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    asked = submit(hub, auth)
    before, instance.budget.limit = instance.budget.limit, 1
    assert run(instance) and not run(instance)
    assert hub.client.get(f"{PATH}/{asked}", headers=auth).json()["state"] == "queued"
    instance.budget.limit = before
    hub.clock.advance(5)
    assert run(instance) and instance.budget.taken == 0
    with hub.hub.reading() as session:
        row = session.get(AsyncRequest, asked)
    assert row is not None and (row.state, row.attempt) == ("succeeded", 1)


def test_one_that_is_forgotten_while_it_runs_leaves_nothing(
    hub: HubFixture, auth: dict[str, str], instance: Inference
) -> None:
    asked = submit(hub, auth)
    row = async_queue.claim(hub.hub, "one")
    assert row is not None and hub.client.delete(f"{PATH}/{asked}", headers=auth).status_code == 200
    async_queue.succeed(hub.hub, row, b"answer", {})
    assert left(hub) == []
    with pytest.raises(NotFoundError):
        async_queue.body_of(hub.hub, row)


@pytest.mark.parametrize("state", ["arriving", "queued", "running", "succeeded"])
def test_everything_is_deleted_at_its_end(
    hub: HubFixture, auth: dict[str, str], instance: Inference, state: str
) -> None:
    asked = submit(hub, auth)
    if state == "succeeded":
        run(instance)
    elif state != "queued":
        with hub.hub.session() as session:
            row = session.get(AsyncRequest, asked)
            assert row is not None
            row.state, row.lease_until = state, hub.clock() + LEASE_S
            session.add(row)
    hub.clock.advance(KEEP_S - 1)
    if state == "running":
        async_queue.renew(hub.hub, "", {Attempt(asked, 0)})
    assert async_queue.sweep(hub.hub) == 0
    hub.clock.advance(2)
    assert async_queue.sweep(hub.hub) == (0 if state == "running" else 1)  # what runs has its lease
    hub.clock.advance(LEASE_S + 1)
    async_queue.sweep(hub.hub)
    assert left(hub) == [] and hub.client.get(f"{PATH}/{asked}", headers=auth).status_code == 404


def test_one_tokens_requests_keep_no_other_waiting(hub: HubFixture, auth: dict[str, str]) -> None:
    mine = [submit(hub, auth) for _ in range(3)]
    theirs = submit(hub, hub.auth(hub.token("application", scope="infer:tiny")))
    taken = [async_queue.claim(hub.hub, "one") for _ in range(4)]
    assert [row.id for row in taken if row is not None] == [mine[0], theirs, *mine[1:]]


def test_a_clock_that_ran_ahead_holds_nothing_up(hub: HubFixture, auth: dict[str, str]) -> None:
    hub.clock.advance(10 * KEEP_S)
    asked = submit(hub, auth)
    assert async_queue.claim(hub.hub, "one") is not None
    hub.clock.advance(-10 * KEEP_S)
    assert async_queue.claim(hub.hub, "two") is not None  # a lease that ends in ten hours is none
    hub.clock.advance(LEASE_S + 1)
    assert async_queue.sweep(hub.hub) == 1  # nor is an end in eleven
    assert hub.client.get(f"{PATH}/{asked}", headers=auth).status_code == 404


async def state_at_the_end(hub: HubFixture, instance: Inference, first: Callable[[], bool] = lambda: True) -> str:
    """Of a request that comes after `first`, with the service running."""
    task = asyncio.create_task(instance.later.run())
    async with asyncio.timeout(60):
        while not first():
            await asyncio.sleep(0)
        asked = QueuedRequest("application:a", "tiny", 1, json.dumps(ASKED).encode(), {})
        row = await asyncio.to_thread(async_queue.submit, hub.hub, asked)
        instance.later.wake()
        state: Callable[[], AsyncRequest] = lambda: async_queue.find(hub.hub, "application:a", "tiny", row.id)  # noqa: E731
        while (found := await asyncio.to_thread(state)).state in async_queue.PENDING and not task.done():
            pass
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return found.state


def test_the_service_answers_what_it_is_woken_for(hub: HubFixture, instance: Inference) -> None:
    assert asyncio.run(state_at_the_end(hub, instance)) == "succeeded"


def test_two_instances_never_take_the_same(hub_database: str, tmp_path: Path) -> None:
    """On SQLite and PostgreSQL."""
    hub = make_hub(tmp_path, database=hub_database).hub
    for _ in range(3):
        async_queue.submit(hub, QueuedRequest("a", "m", 1, b"x", {}))
    begin = threading.Barrier(4)

    def take(number: int) -> AsyncRequest | None:
        begin.wait(60)
        return async_queue.claim(hub, str(number))

    with ThreadPoolExecutor(4) as pool:
        taken = [row.id for row in pool.map(take, range(4)) if row is not None]
    assert len(set(taken)) == len(taken)
    taken += [row.id for row in iter(lambda: async_queue.claim(hub, "last"), None)]  # who came second may have none
    assert len(set(taken)) == len(taken) == 3


class Faults:
    """Does as `real` does, after it has raised `error` once."""

    def __init__(self, real: Callable[..., Any], error: Exception) -> None:
        self.real, self.error, self.raised = real, error, False

    def __call__(self, *args: Any) -> Any:
        if not self.raised:
            self.raised = True
            raise self.error
        return self.real(*args)


def test_a_store_that_fails_once_costs_a_request_one_lease(
    hub: HubFixture, auth: dict[str, str], instance: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = submit(hub, auth)
    store = hub.hub.objects
    monkeypatch.setattr(store, "put", Faults(store.put, UnreachableError("the store is away", subject="async")))
    assert run(instance)
    hub.clock.advance(LEASE_S - 1)
    asyncio.run(instance.later._renew())  # nothing of what it has let go of
    hub.clock.advance(2)
    assert run(instance)
    assert hub.client.get(f"{PATH}/{asked}/result", headers=auth).json()["id"] == "7"


def test_an_attempt_is_held_while_it_runs(
    hub: HubFixture, auth: dict[str, str], instance: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = submit(hub, auth)
    answer = instance.later._one

    async def slowly(row: AsyncRequest) -> None:
        for _ in range(3):
            hub.clock.advance(LEASE_S - 1)
            await instance.later._renew()
        assert async_queue.claim(hub.hub, "second") is None
        await answer(row)

    monkeypatch.setattr(instance.later, "_one", slowly)
    assert run(instance)
    assert hub.client.get(f"{PATH}/{asked}/result", headers=auth).json()["id"] == "7"


@pytest.mark.parametrize("call", ["claim", "renew", "sweep"])
def test_a_database_that_fails_once_ends_no_service(
    hub: HubFixture, instance: Inference, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    for module, name in ((async_runner, "AGAIN_S"), (async_runner, "SWEEP_S"), (async_queue, "LEASE_S")):
        monkeypatch.setattr(module, name, 0.01)
    fault = Faults(getattr(async_queue, call), OperationalError("", {}, Exception("the database is away")))
    monkeypatch.setattr(async_queue, call, fault)
    if call == "renew":
        instance.later._held.add(Attempt("any", 1))
    assert asyncio.run(state_at_the_end(hub, instance, lambda: fault.raised)) == "succeeded"


def test_a_nul_in_a_refusal_is_kept_as_another_sign(hub: HubFixture, auth: dict[str, str]) -> None:
    asked = submit(hub, auth)
    row = async_queue.claim(hub.hub, "one")
    assert row is not None
    async_queue.fail(hub.hub, row, "invalid", "a\0b")
    assert async_queue.find(hub.hub, row.owner, "tiny", asked).error == "a\N{REPLACEMENT CHARACTER}b"


def test_a_sweep_deletes_everything_but_what_the_store_keeps(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    old = {"owner": "a", "model": "m", "release": 1, "state": "queued", "size_bytes": 0, "created_at": 0.0}
    with hub.hub.session() as session:
        ids = [f"{number:04}" for number in range(2 * SWEPT + 1)]
        session.add_all(AsyncRequest(id=one, expires_at=hub.clock() - 1, **old) for one in ids)
    store = hub.hub.objects
    monkeypatch.setattr(store, "list", Faults(store.list, UnreachableError("the store is away", subject="async")))
    assert async_queue.sweep(hub.hub) == 2 * SWEPT
    assert async_queue.sweep(hub.hub) == 1


def test_answers_are_counted_once_and_their_wait_is_no_latency(hub: HubFixture, auth: dict[str, str]) -> None:
    registry = CollectorRegistry()
    instance = Inference(hub.hub, registry)
    submit(hub, auth)
    submit(hub, auth, parameters={"timeout": 1})
    before, instance.budget.limit = instance.budget.limit, 1
    assert run(instance) and run(instance)  # no room
    instance.budget.limit = before
    hub.clock.advance(5)
    assert run(instance) and run(instance)
    read = registry.get_sample_value
    counts = [read("edgeloop_hub_inference_answers_total", {"status": status}) for status in ("200", "503", "504")]
    assert (counts, read("edgeloop_hub_inference_seconds_count")) == ([1.0, None, 1.0], 0.0)
    instance.close()


def test_a_model_of_the_answer(hub: HubFixture, auth: dict[str, str]) -> None:
    asked = AsyncInference.model_validate(hub.client.post(PATH, json=ASKED, headers=auth).json())
    with pytest.raises(FailedError):
        Client(AppTransport(hub.client), auth["Authorization"].removeprefix("Bearer ")).infer_later(
            asked.model, {"input": ROWS[:, :2]}
        )
