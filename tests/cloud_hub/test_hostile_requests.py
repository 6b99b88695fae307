"""No input ends in HTTP 500: every operation of the hub, with hostile paths, queries, headers, bodies and cookies.

What comes is an answer of the route, or an error document in JSON. The full size asks each operation 250 times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any, NamedTuple
from unittest.mock import patch

import msgspec
import numpy as np
import pytest
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from msgspec.structs import replace
from sqlmodel import select

from cloud_hub.app import create_app, routers
from cloud_hub.dashboard import live as live_pages
from cloud_hub.dashboard.access import COOKIE, csrf_token
from cloud_hub.dashboard.acts.register import ACTS
from cloud_hub.events import outbox
from cloud_hub.events.kinds import Event
from cloud_hub.ingest.commands import send_command
from cloud_hub.jobs import queue
from cloud_hub.rollouts.orders import apply_order
from cloud_hub.samples import store
from cloud_hub.store.tables import Alarm, ChannelRow, EventRow, OutboxCommand
from fleet.protocol.channel import Audit, Channel, ModelEntry, decode_channel
from fleet.protocol.messages import Sample, SampleBatch
from fleet.protocol.tensors import to_array
from tests.support.device_key import DeviceKey
from tests.support.hostile import HEADERS, NUMBERS, TEXTS, URL_VALUES, Case, body, changed, form
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.rollouts import live, make_fleet, start
from tests.support.size import sized

PER_OPERATION = sized(8, 250)
PER_ACT = sized(2, 250)  # all of them go through the same route
PARAMETER = re.compile(r"\{(\w+)(?::path)?\}")
MANIFEST, BLOBS = small_release(seed=7)
SHA256 = next(iter(BLOBS))
SCHEDULE = {
    "start_at": 1.801e9,
    "expires_at": 1.81e9,
    "window": "Mon-Fri 22:00-04:00",
    "time_zone": "Europe/Berlin",
    "rate": {"per_minute": 10.0, "factor": 1.5, "after": 100, "most": 500.0},
}

# A valid body of each operation that takes one; a new operation needs its own here, or says that it takes none.
ORDER = {"reason": "because"}
INFER = {
    "id": "1",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}],
    "outputs": [{"name": "logits"}],
    "parameters": {"timeout": 1000},
}
KEY = DeviceKey()
BODIES: dict[str, Any] = {
    "POST /api/v1/drift/{model}/rebaseline": {"devices": ["d-0"]},
    "POST /api/v1/tokens": {
        "kind": "claim",
        "note": "n",
        "channel": "stable",
        "labels": {"a": "b"},
        "expires_in_s": 60.0,
        "rate_per_s": 0.0,
        "role": "",
        "scope": "",
    },
    "POST /api/v1/models": {
        "name": "faces",
        "recipe": "examples.digits.recipe",
        "policy": {"drift": {"samples": 3, "min_count": 2}},
    },
    "PATCH /api/v1/models/{name}": {
        "recipe": "examples.digits.recipe",
        "policy": {"drift": {"samples": 3}},
        "min_release": 1,
        "interface_from": 1,
    },
    "POST /api/v1/models/{model}/releases": msgspec.json.decode(MANIFEST),
    "POST /api/v1/models/{model}/releases/{number}/withdraw": {"reason": "bad"},
    "POST /api/v1/models/{model}/releases/{number}/signature": {"key_id": "a", "signature": "00" * 64, "version": 2},
    "POST /api/v1/channels": {"name": "beta"},
    "PUT /api/v1/channels/{name}/models/{model}": {
        "release": 1,
        "routing": {"deadline_ms": 5, "threshold": 0.5},
        "audit": {"share_ppm": 5, "auditor": 1},
        "sampling": {"enabled": True, "retention_days": 3, "max_spool_bytes": 4},
        "bench": {"rounds": 5},
        "probation": {"seconds": 3.0, "max_p95_us": 4.0},
        "spread_s": 1,
    },
    "PATCH /api/v1/channels/{name}": {
        "telemetry": {"window_s": 3.0},
        "spread_s": 2,
        "fetching": {"window": "22:30-05:00", "bytes_per_day": 9},
    },
    "PATCH /api/v1/devices/{device_id}": {
        "labels": {"site": "berlin", "hw": None},
        "pins": {"digits": 1},
        "channel": "stable",
    },
    "POST /api/v1/devices/{device_id}/commands": {"kind": "benchmark", "args": {"model": "digits", "rounds": 3}},
    "POST /api/v1/rollouts": {
        "model": "digits",
        "release": 2,
        "channel": "stable",
        "stages": [34.0, 100.0],
        "guard": {"margin": 0.1, "min_pairs": 30, "max_p95_us": 5.0},
        "soak_s": 1.0,
        "groups": ["g-1"],
        "schedule": SCHEDULE,
    },
    "POST /api/v1/rollouts/plan": {
        "model": "digits",
        "release": 2,
        "channel": "stable",
        "stages": [34.0, 100.0],
        "guard": {"margin": 0.1, "evidence": "install"},
        "soak_s": 1.0,
        "groups": ["g-1"],
        "schedule": SCHEDULE,
    },
    "POST /api/v1/rollouts/{rollout}/{order}": ORDER,
    "POST /api/v1/events/{event}/resend": {"target": "ops"},
    "POST /api/v1/event-tests": {"target": "ops"},
    "POST /api/v1/samples/labels": {"labels": [{"id": "s1", "label": 3}], "by": "ada"},
    "POST /api/v1/samples/tasks": {"model": "digits", "ids": ["s1"], "boxes": "pixels", "words": True},
    "POST /api/v1/snapshots": {"model": "digits"},
    "POST /api/v1/jobs": {
        "kind": "retrain",
        "model": "digits",
        "payload": {"seed": 1, "rollout": {"stages": [100]}, "channel": "stable", "snapshot": ""},
    },
    "POST /api/v1/models/{model}/retrain": {
        "seed": 1,
        "rollout": {"stages": [100]},
        "channel": "stable",
        "hyper": {"batch": 8, "student_rate": 0.1},
    },
    "POST /api/v1/models/{model}/tune": {
        "space": {"batch": [8.0], "student_rate": {"low": 0.1, "high": 1.0}},
        "trials": 2,
        "for_s": 5.0,
        "retrain": {"channel": "stable"},
    },
    "POST /v2/models/{model}/infer": INFER,
    "POST /v2/models/{model}/versions/{version}/infer": INFER,
    "POST /v2/models/{model}/infer_async": INFER,
    "POST /v2/models/{model}/versions/{version}/infer_async": INFER,
    "POST /v2/repository/index": {"ready": True, "repository_name": "r"},
    "POST /enroll": {
        "token": "t",
        "secret": "s",
        "csr": KEY.csr(),
        "name": "kiosk-9",
        "agent": "1",
        "hardware": {"machine": "x86", "cpus": 4},
    },
    "POST /device/nonce": {"device_id": "d-0"},
    "POST /device/token": {"device_id": "d-0", "nonce": "n", "signature": "AAAA"},
    "POST /device/renew": {"device_id": "d-0", "nonce": "n", "signature": "AAAA", "csr": KEY.csr()},
}
FORMS: dict[str, dict[str, str]] = {
    "POST /login": {"token": "el1.a.b"},
    "POST /logout": {"csrf": ""},
}
ACT = {"csrf": "", "form": "", "seen": "", "step": ""}  # what every act on the dashboard is sent with
FIELDS: dict[str, dict[str, str]] = {
    "/act/rollouts": {
        "model": "digits",
        "release": "2",
        "channel": "stable",
        "stages": "34, 100",
        "margin": "10",
        "soak": "1",
        "deadline": "1",
        "groups": "",
        "window": "",
        "zone": "UTC",
        "evidence": "install",
    },
    "/act/models/{model}/retrain": {"snapshot": "", "channel": "stable", "seed": "1", "max_bytes": "9"},
    "/act/models/{model}/label": {"sample-0": "s1", "label-0": "3", "again": "yes"},
    "/act/models/{model}/rebaseline": {"release": "1", "devices": "d-0"},
    "/act/alarms/{alarm}/close": {"usual": "yes"},
    "/act/events/{event}/resend": {"target": "ops"},
    "/act/devices/{device_id}/commands/logs": {"lines": "5", "minutes": "1"},
    "/act/devices/{device_id}/commands/benchmark": {"model": "digits", "rounds": "3"},
    "/act/devices/{device_id}/commands/send-samples": {"model": "digits", "count": "3", "hours": "1", "mib": "1"},
    "/act/devices/{device_id}/commands/set-log-level": {"level": "INFO"},
    "/act/devices": {"channel": "stable", "name": "kiosk-8", "labels": "a=b", "life": "3600"},
    "/act/tokens": {"kind": "operator", "role": "viewer", "scope": "", "rate": "", "note": "n", "life": "3600"},
}
FORMS |= {f"POST {act.path}": ACT | FIELDS.get(act.path, {"reason": "because"}) for act in ACTS}
BYTES = (
    "PUT /api/v1/blobs/{sha256}",
    "PUT /api/v1/blobs/{sha256}/from/{old}",
    "POST /device/samples",
    "POST /device/held",
)
BODILESS = (
    "POST /api/v1/alarms/{alarm}/close",
    "POST /api/v1/devices/{device_id}/revoke",
    "POST /api/v1/jobs/{job}/cancel",
)
MAY_BE_UNREADY = ("/healthz", "/readyz")  # 503 is what they are for
DEVICE = ("/device/", "/tuf/", "/blobs/")


class Operation(NamedTuple):
    """A method of a route, with the names of its query parameters."""

    method: str
    path: str
    queries: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"


def operations() -> list[Operation]:
    """Every operation of the application, in the order of matching."""
    routes = [route for router in routers() for route in router.routes if isinstance(route, APIRoute)]
    return [
        Operation(method, route.path, tuple(found.alias for found in route.dependant.query_params))
        for route in routes
        for method in sorted(route.methods)
    ]


def test_every_operation_that_writes_has_its_body_here() -> None:
    known = {*BODIES, *FORMS, *BYTES, *BODILESS}
    writing = {found.name for found in operations() if found.method in ("POST", "PUT", "PATCH")}
    assert writing == known


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def hub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubFixture]:
    """A hub with one of everything: devices, releases, a rollout, a sample, a job, an alarm, a command."""
    document: dict[str, Any] = {}
    if request.param == "postgresql":
        from tests.support.databases import migrated_postgres

        document["database"] = migrated_postgres(request.getfixturevalue("postgres"), "edgeloop_hostile")
    made = make_fleet(make_hub(Path(tmp_path_factory.mktemp("hostile")), **document))
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
        outbox.record(session, Event(kind="event.test", subject="ops", message="a test"), made.clock(), target="ops")
    send_command(made.hub, "d-0", "diagnose", {})
    yield made
    made.hub.engine.dispose()


@pytest.fixture(scope="module")
def client(hub: HubFixture) -> Iterator[TestClient]:
    """Made once, and in one event loop, as a hub runs; a loop for each request costs a sixth of it.

    A stream of the dashboard's has no end of its own: here it ends when it has begun.
    """
    with (
        patch.object(live_pages, "LIFE_S", 0.0),
        TestClient(create_app(hub.hub), raise_server_exceptions=False, follow_redirects=False) as client,
    ):
        yield client


def known_values(hub: HubFixture, rollout: str) -> dict[str, str]:
    """A value of each path parameter that there is."""
    with hub.hub.reading() as session:
        sent = session.exec(select(OutboxCommand.id)).first()
        told = session.exec(select(EventRow.id)).first()
    return {
        "command": sent or "none",
        "event": told or "none",
        "target": "ops",
        "model": "digits",
        "number": "1",
        "name": "digits",
        "device_id": "d-0",
        "sha256": SHA256,
        "old": SHA256,
        "rollout": rollout,
        "order": "pause",
        "sample": "s1",
        "job": queue.submit(hub.hub, "k", actor="t").id,
        "alarm": "1",
        "version": "1",
        "token_id": "none",
        "snapshot": "none",
        "path": f"channels/{SHA256}.stable.json",
    }


def hold_the_model(hub: HubFixture) -> None:
    """Let the channel hold the model and audit it again, if an operation before has changed that."""

    def change(channel: Channel) -> Channel:
        entry = channel.models.get("digits", ModelEntry(release=1))
        return replace(channel, models={**channel.models, "digits": replace(entry, audit=Audit(auditor=1))})

    with hub.hub.reading() as session:
        row = session.get(ChannelRow, "stable")
    entry = None if row is None else decode_channel(row.document).models.get("digits")
    if entry is None or entry.audit.auditor is None or not entry.audit.share_ppm:
        hub.hub.publisher.change_channel("stable", change, actor="test")


class Maker:
    """Makes the requests of one operation."""

    def __init__(self, hub: HubFixture, operation: Operation) -> None:
        self._hub, self._operation = hub, operation
        self._random = Random(operation.name)
        rollout = ""
        hold_the_model(hub)
        if "rollout" in operation.path:
            rollout = (live(hub) or [start(hub)])[0]
        self._known = known_values(hub, rollout)
        if "request_id" in operation.path:
            self._known["request_id"] = hub.async_request()
        if operation.path.startswith("/api/v1/channels"):
            self._known["name"] = "stable"
        if operation.path.startswith("/tuf/metadata"):
            self._known["name"] = "timestamp.json"

    def case(self, number: int) -> Case:
        """One request. The first has nothing wrong in its path, so that the body is reached."""
        random, operation = self._random, self._operation
        asked = random.random()
        url = PARAMETER.sub(lambda found: self._part(found.group(1), number), operation.path)
        if operation.queries and asked < 0.7:
            names = random.sample(operation.queries, random.randint(1, len(operation.queries)))
            url += "?" + "&".join(f"{name}={random.choice(URL_VALUES)}" for name in names)
        elif asked > 0.9:
            url += f"?{random.choice(URL_VALUES)}={random.choice(URL_VALUES)}"
        content = self._content()
        return Case(operation.method, url, self._headers(content), content)

    def _part(self, name: str, number: int) -> str:
        if number and self._random.random() < 0.4:
            return self._random.choice(URL_VALUES) or "%20"
        return self._known[name]

    def _content(self) -> bytes | None:
        name = self._operation.name
        if name in BODIES:
            return body(self._random, BODIES[name])
        if name in FORMS:
            csrf = csrf_token(self._hub.admin_token)
            own = {"csrf": csrf, "form": f"{self._random.getrandbits(128):032x}"}
            fields = {key: own.get(key, value) for key, value in FORMS[name].items()}
            return form(self._random, fields)
        if name == "POST /device/samples":
            return self._samples()
        if name in BYTES:
            return self._random.choice((b"", b"\0" * 100, next(iter(BLOBS.values())), self._random.randbytes(20)))
        return body(self._random, None) if self._operation.method == "POST" and self._random.random() < 0.3 else None

    def _samples(self) -> bytes:
        x = to_array("x", np.zeros((1, 4), np.float32))
        template = msgspec.to_builtins(
            SampleBatch(
                samples=(
                    Sample(
                        id="s2",
                        model="digits",
                        release=1,
                        variant="v",
                        at=1.0,
                        reason="random",
                        inputs=(x,),
                        outputs=(x,),
                        confidence=0.5,
                        prediction=1,
                        cloud_prediction=2,
                    ),
                )
            ),
            builtin_types=(bytes,),
        )
        document = changed(self._random, template)
        try:
            return msgspec.msgpack.encode(document)
        except (OverflowError, UnicodeEncodeError, RecursionError):  # not sayable in MessagePack at all
            return b"\xc1"

    def _headers(self, content: bytes | None) -> dict[str, str]:
        random = self._random
        device = self._operation.path.startswith(DEVICE)
        token = self._hub.hub.device_tokens.token("d-0", now=self._hub.clock()) if device else self._hub.admin_token
        if random.random() < 0.06:
            parts = ["el1", "eld1", "x", *HEADERS, "a.b.c", "el1.a\0b.c", "el1." + "9" * 5000 + ".x"]
            token = ".".join(random.sample(parts, 3))
        headers = {"Authorization": f"Bearer {token}", "Cookie": f"{COOKIE}={self._hub.admin_token}"}
        for name in (
            "Cookie",
            "Range",
            "If-Range",
            "If-None-Match",
            "X-Note",
            "Accept",
            "Content-Encoding",
            "Inference-Header-Content-Length",
            "Accept-Encoding",
            "HX-Request",
            "Host",
        ):
            if random.random() < 0.05:
                headers[name] = random.choice(HEADERS)
        if content is not None:
            headers["Content-Type"] = (
                "application/x-www-form-urlencoded" if self._operation.name in FORMS else "application/json"
            )
        return headers


def wrong_with(answer: Any, case: Case) -> str:
    """The fault of an answer; empty when there is none."""
    if case.url.partition("?")[0] in MAY_BE_UNREADY:
        return ""
    if answer.status_code == 504 and case.url.startswith("/v2") and answer.json()["code"] == "deadline":
        return ""  # a request may give itself less time than a cold model takes to load
    if answer.status_code >= 500:
        return f"HTTP {answer.status_code}"
    kind = answer.headers.get("content-type", "")
    if answer.status_code < 400 or case.method == "HEAD" or answer.status_code == 416 or kind.startswith("text/html"):
        return ""
    if not kind.startswith("application/json"):
        return f"HTTP {answer.status_code} with {kind or 'no'} content"
    document = answer.json()
    wanted = {"error", "code"} if case.url.startswith("/v2") else {"error", "code", "subject", "hint"}
    return "" if document.keys() == wanted and document["error"] else f"not an error document: {document}"


@pytest.mark.parametrize("operation", operations(), ids=lambda operation: operation.name)
def test_no_input_is_an_internal_error(hub: HubFixture, client: TestClient, operation: Operation) -> None:
    client.cookies.clear()
    maker, failures = Maker(hub, operation), []
    for number in range(PER_ACT if operation.path.startswith("/act/") else PER_OPERATION):
        case = maker.case(number)
        headers = {key: value.encode("latin-1") for key, value in case.headers.items()}
        answer = client.request(case.method, case.url, headers=headers, content=case.content)
        wrong = wrong_with(answer, case)
        if wrong:
            failures.append(f"{wrong}: {case.method} {case.url[:200]} {(case.content or b'')[:300]!r}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize(
    ("method", "url", "content"),
    [
        ("GET", "/v2/models/digits/versions/99999999999", None),
        ("GET", "/v2/models/digits/versions/" + "9" * 200 + "/ready", None),
        ("GET", "/api/v1/models/digits/releases/99999999999999999999", None),
        ("GET", "/api/v1/models/a%00b", None),
        ("GET", "/api/v1/jobs?after=%00", None),
        ("POST", "/api/v1/alarms/9223372036854775808/close", b""),
        ("POST", "/api/v1/rollouts", b'{"model":"digits","release":2,"channel":"stable","stages":[1e308]}'),
        ("POST", "/api/v1/rollouts", b'{"model":"digits","release":2,"channel":"stable","soak_s":1e308}'),
        ("POST", "/api/v1/rollouts", b'{"model":"digits","release":1e308,"channel":"stable"}'),
        ("POST", "/api/v1/samples/labels", b'{"labels":[{"id":"s1","label":99999999999999999999}]}'),
        ("POST", "/api/v1/samples/labels", b'{"labels":[{"id":"s\\u00001","label":1}]}'),
        ("POST", "/api/v1/models", b'{"name":"m","policy":{"a":99999999999999999999}}'),
        ("POST", "/api/v1/models", b'{"name":"m","policy":' + b'{"a":' * 900 + b"1" + b"}" * 901),
        ("POST", "/v2/models/digits/infer", b'{"inputs":[],"parameters":{"timeout":1' + b"0" * 400 + b"}}"),
    ],
)
def test_what_was_an_internal_error_once(hub: HubFixture, method: str, url: str, content: bytes | None) -> None:
    for rollout in live(hub):
        apply_order(hub.hub, rollout, "abort", "", "test")
    answer = hub.client.request(method, url, headers=hub.auth(), content=content)
    assert answer.status_code in (400, 404), answer.text
    assert answer.json()["error"]


def test_health_of_the_inference_protocol_is_json(hub: HubFixture) -> None:
    assert hub.client.get("/v2/health/live").json() == {"live": True}
    assert hub.client.get("/v2/health/ready").json() == {"live": True, "ready": True}


def test_the_values_stay_hostile() -> None:
    """Values that found a fault once are among them."""
    assert {"%00", "99999999999999999999", "99999999999"} <= set(URL_VALUES)
    assert {1e308, 2**63, 10**20} <= set(NUMBERS) and {"\0", "\ud800"} <= set(TEXTS)
