from __future__ import annotations

import base64
import json

import pytest

from fleet import errors
from fleet.api.devices import DeviceChanges
from fleet.api.rollouts import NewRollout
from fleet.client import Client
from fleet.errors import UsageError
from tests.support.fake_hub import ScriptedHub


@pytest.fixture
def hub() -> ScriptedHub:
    return ScriptedHub()


@pytest.fixture
def client(hub: ScriptedHub) -> Client:
    return Client(hub, "el1.a.b")


def test_every_request_carries_the_token(hub: ScriptedHub, client: Client) -> None:
    hub.on("GET", "/models", {"items": [], "next": None})
    client.models()
    assert hub.asked[0][3]["authorization"] == "Bearer el1.a.b"


def test_lists_follow_cursors_and_stop_at_the_limit(hub: ScriptedHub, client: Client) -> None:
    hub.on("GET", "/audit", {"items": [{"id": 1}, {"id": 2}], "next": 2})
    hub.on("GET", "/audit?after=2", {"items": [{"id": 3}, {"id": 4}], "next": 4})
    hub.on("GET", "/audit?after=4", {"items": [{"id": 5}], "next": None})
    assert [entry.id for entry in client.audit()] == [1, 2, 3, 4, 5]
    hub.asked.clear()
    assert [entry.id for entry in client.audit(limit=3)] == [1, 2, 3]
    assert len(hub.asked) == 2


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        (400, errors.FailedError, 1),
        (401, errors.NotAllowedError, 4),
        (403, errors.NotAllowedError, 4),
        (404, errors.NotFoundError, 3),
        (409, errors.ConflictError, 5),
        (413, errors.FailedError, 1),
        (500, errors.FailedError, 1),
        (503, errors.UnreachableError, 6),
        (504, errors.TimedOutError, 8),
    ],
)
def test_a_refusal_keeps_the_hubs_words(hub: ScriptedHub, client: Client, status: int, kind: type, code: int) -> None:
    hub.on("GET", "/devices/x", {"error": "it is so", "subject": "x", "hint": "do this"}, status=status)
    with pytest.raises(errors.FleetError) as caught:
        client.device("x")
    assert type(caught.value) is kind
    assert (str(caught.value), caught.value.subject, caught.value.hint) == ("it is so", "x", "do this")
    assert caught.value.exit_code == code


def test_an_older_hub_that_lacks_a_path_is_no_missing_device(hub: ScriptedHub, client: Client) -> None:
    path = "/api/v1/devices/x/vitals"
    refused = {"error": "Not Found", "code": "not-found", "subject": path, "hint": ""}
    hub.on("GET", "/devices/x/vitals?since=0.0&limit=1000", refused, status=404)
    with pytest.raises(errors.NotFoundError, match=f"the hub has no {path}: it is older than this client") as caught:
        client.device_vitals("x")
    assert caught.value.hint == "upgrade the hub"


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b'{"detail": 1}'])
def test_an_answer_of_something_else_is_named_as_such(hub: ScriptedHub, client: Client, body: bytes) -> None:
    hub.on("GET", "/devices/x", body, status=502)
    with pytest.raises(errors.UnreachableError, match="status 502") as caught:
        client.device("x")
    assert "Edgeloop hub" in caught.value.hint


@pytest.mark.parametrize("body", [b"<html>", b"[1]"])
def test_success_that_is_no_document_fails(hub: ScriptedHub, client: Client, body: bytes) -> None:
    hub.on("GET", "/devices/x", body)
    with pytest.raises(errors.FailedError):
        client.device("x")


def test_names_cannot_break_out_of_the_path(hub: ScriptedHub, client: Client) -> None:
    with pytest.raises(errors.NotFoundError):
        client.device("../models?x=1")
    assert hub.asked[0][1] == "/api/v1/devices/..%2Fmodels%3Fx%3D1"


def test_blobs_are_asked_for_before_they_are_sent(hub: ScriptedHub, client: Client, tmp_path) -> None:
    file = tmp_path / "blob"
    file.write_bytes(b"abc")
    assert not client.has_blob("00")
    hub.on("PUT", "/blobs/00").on("HEAD", "/blobs/00", b"")
    client.put_blob("00", file)
    assert client.has_blob("00")
    assert [(m, body) for m, _, body, _ in hub.asked] == [("HEAD", b""), ("PUT", b"abc"), ("HEAD", b"")]
    assert hub.asked[1][3]["content-length"] == "3"


def test_the_signing_payload_comes_as_bytes(hub: ScriptedHub, client: Client) -> None:
    payload = {"payload": base64.b64encode(b"sign me").decode(), "version": 3}
    hub.on("GET", "/models/m/releases/4/signing", payload)
    assert client.signing_payload("m", 4) == (b"sign me", 3)


def test_options_that_were_not_given_are_not_sent(hub: ScriptedHub, client: Client) -> None:
    hub.on("POST", "/rollouts", {"id": "r"}).on("PATCH", "/devices/d", {"id": "d"})
    client.create_rollout(NewRollout(model="m", release=2, channel="stable", stages=[50, 100]))
    client.change_device("d", DeviceChanges(labels={}))
    assert hub.sent("POST", "/rollouts") == [{"model": "m", "release": 2, "channel": "stable", "stages": [50, 100]}]
    assert hub.sent("PATCH", "/devices/d") == [{"labels": {}}]


def test_labels_become_a_list(hub: ScriptedHub, client: Client) -> None:
    hub.on("POST", "/samples/labels", {"labelled": 2})
    client.label_samples({"a": 1, "b": 0}, by="ada")
    assert hub.sent("POST", "/samples/labels") == [
        {"labels": [{"id": "a", "label": 1}, {"id": "b", "label": 0}], "by": "ada"}
    ]


def test_many_labels_go_in_requests_that_a_hub_takes(hub: ScriptedHub, client: Client) -> None:
    """An inspector's file of a hundred thousand lines was larger than the largest request."""
    hub.on("POST", "/samples/labels", {"labelled": 3})
    given = {f"sample-{n:04d}": ["x" * 100] * 10 for n in range(2000)}
    written = client.label_samples(given, by="ada")
    sent = hub.sent("POST", "/samples/labels")
    assert len(sent) > 3 and written.labelled == 3 * len(sent)
    assert all(len(json.dumps(body)) < 1 << 20 for body in sent)
    assert {item["id"]: item["label"] for body in sent for item in body["labels"]} == given


@pytest.mark.parametrize("label", [None, float("nan"), [1, float("inf")], 1 << 64, {"a": "\0"}])
def test_what_no_hub_could_keep_is_refused_with_its_sample(hub: ScriptedHub, client: Client, label: object) -> None:
    with pytest.raises(UsageError, match="the label of sample 's' cannot be sent"):
        client.label_samples({"a": 1, "s": label}, by="ada")
    assert hub.sent("POST", "/samples/labels") == []


def test_filters_of_samples_are_a_query(hub: ScriptedHub, client: Client) -> None:
    hub.on("GET", "/samples?model=m&labelled=false", {"items": [{"id": "s"}], "next": None})
    assert [sample.id for sample in client.samples(model="m", labelled=False)] == ["s"]
