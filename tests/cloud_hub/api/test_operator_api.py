"""The operator API: models, releases, channels, devices, tokens, the audit log."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlmodel import delete

from cloud_hub.jobs import queue
from cloud_hub.store.tables import AuditEntry, Device, DeviceEvent, DeviceModel, RolloutRow
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.manifests import small_release


def add_device(hub: HubFixture, device_id: str, *, channel: str = "stable", **labels: str) -> None:
    with hub.hub.session() as session:
        session.add(
            Device(
                id=device_id,
                public_key="",
                key_fingerprint=device_id,
                certificate="",
                certificate_serial="1",
                certificate_expires_at=0,
                channel=channel,
                labels=labels,
                enrolled_at=hub.clock(),
                online=True,
                last_seen_at=hub.clock(),
            )
        )
        session.flush()
        session.add(DeviceModel(device_id=device_id, model="digits", state="committed", active=1))


def publish(hub: HubFixture, **changes: Any) -> Any:
    """The way of `fleet release publish`: blobs, then the manifest."""
    manifest, blobs = small_release(**changes)
    for sha256, data in blobs.items():
        answer = hub.client.put(f"/api/v1/blobs/{sha256}", content=data, headers=hub.auth())
        assert answer.status_code in (200, 201), answer.text
    headers = {**hub.auth(), "X-Note": "first"}
    return hub.client.post("/api/v1/models/digits/releases", content=manifest, headers=headers)


def test_from_model_to_channel(hub: HubFixture) -> None:
    http, auth = hub.client, hub.auth()
    assert (
        http.post(
            "/api/v1/models", json={"name": "digits", "recipe": "examples.digits.recipe"}, headers=auth
        ).status_code
        == 201
    )
    answer = publish(hub)
    assert answer.status_code == 201
    assert answer.json() == {"model": "digits", "number": 1, "status": "published"}
    release = http.get("/api/v1/models/digits/releases/1", headers=auth).json()
    assert release["note"] == "first" and release["manifest"]["variants"][0]["name"] == "litert-int8"
    body = {"release": 1, "sampling": {"enabled": True}, "audit": {"auditor": 1}}
    changed = http.put("/api/v1/channels/stable/models/digits", json=body, headers=auth)
    assert changed.status_code == 200 and changed.json()["version"] == 1
    patched = http.patch("/api/v1/channels/stable", json={"telemetry": {"window_s": 2}}, headers=auth)
    assert patched.json()["version"] == 2
    body = {"sampling": {"random_ppm": 5}}
    http.put("/api/v1/channels/stable/models/digits", json=body, headers=auth)
    document = http.get("/api/v1/channels/stable", headers=auth).json()["document"]
    assert document["version"] == 3 and document["telemetry"]["window_s"] == 2
    sampling = document["models"]["digits"]["sampling"]
    assert sampling["enabled"] is True and sampling["random_ppm"] == 5
    assert [item["name"] for item in http.get("/api/v1/channels", headers=auth).json()["items"]] == ["stable"]
    actions = [item["action"] for item in http.get("/api/v1/audit", headers=auth).json()["items"]]
    assert {"model.create", "blob.upload", "release.publish", "channel.change"} <= set(actions)


def test_withdrawing_and_the_floor(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    hub.release(seed=1)
    http, auth = hub.client, hub.auth()
    answer = http.post("/api/v1/models/digits/releases/1/withdraw", json={"reason": "bad"}, headers=auth)
    assert answer.json()["status"] == "withdrawn"
    assert http.patch("/api/v1/models/digits", json={"min_release": 2}, headers=auth).json()["min_release"] == 2
    assert http.patch("/api/v1/models/digits", json={"min_release": 1}, headers=auth).status_code == 409
    assert http.get("/api/v1/models/digits", headers=auth).json()["releases"] == {"withdrawn": [1], "published": [2]}
    listed = http.get("/api/v1/models/digits/releases", headers=auth).json()["items"]
    assert [item["number"] for item in listed] == [2, 1]


def test_signing_outside(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, release_key="external")
    hub.model()
    assert publish(hub).json()["status"] == "awaiting-signature"
    http, auth, url = hub.client, hub.auth(), "/api/v1/models/digits/releases/1"
    wanted = http.get(f"{url}/signing", headers=auth).json()
    key = load_pem_private_key((hub.offline / "release.pem").read_bytes(), PASSPHRASE)
    signature = key.sign(base64.b64decode(wanted["payload"])).hex()  # type: ignore[union-attr, call-arg]
    body = {"key_id": wanted["key_id"], "version": wanted["version"]}
    for wrong in ("zz", "", "00" * 64):
        assert http.post(f"{url}/signature", json={**body, "signature": wrong}, headers=auth).status_code == 400
    answer = http.post(f"{url}/signature", json={**body, "signature": signature}, headers=auth)
    assert answer.json()["status"] == "published"


def test_devices_by_label_channel_and_page(hub: HubFixture) -> None:
    for number in range(5):
        add_device(hub, f"k{number}", site="berlin" if number % 2 else "rome", hw="rpi4")
    add_device(hub, "z", channel="beta")
    http, auth = hub.client, hub.auth()

    def ids(query: str) -> list[str]:
        return [item["id"] for item in http.get(f"/api/v1/devices{query}", headers=auth).json()["items"]]

    assert ids("?label=site=berlin&label=hw=rpi4") == ["k1", "k3"]
    assert ids("?channel=beta") == ["z"]
    first = http.get("/api/v1/devices?limit=4", headers=auth).json()
    assert len(first["items"]) == 4 and first["next"] == "k3"
    assert ids(f"?after={first['next']}") == ["k4", "z"]
    assert http.get("/api/v1/devices?label=site", headers=auth).status_code == 400
    shown = http.get("/api/v1/devices/k0", headers=auth).json()
    assert shown["state"] == "online" and shown["models"][0]["active"] == 1
    assert not {"mqtt_password", "public_key"} & shown.keys()
    hub.clock.advance(3600)
    assert http.get("/api/v1/devices/k0", headers=auth).json()["state"] == "offline"


def test_changing_a_device(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    add_device(hub, "k", site="rome", hw="rpi4")
    http, auth, url = hub.client, hub.auth(), "/api/v1/devices/k"
    shown = http.patch(url, json={"labels": {"site": "berlin", "hw": None}}, headers=auth).json()
    assert shown["labels"] == {"site": "berlin"}
    assert http.patch(url, json={"pins": {"digits": 1}}, headers=auth).json()["pins"] == {"digits": 1}
    assert http.patch(url, json={"pins": {"digits": None}}, headers=auth).json()["pins"] == {}
    for wrong in ({"pins": {"digits": 9}}, {"labels": {"Site": "x"}}, {"labels": {"a": ""}}, {"unknown": 1}):
        assert http.patch(url, json=wrong, headers=auth).status_code == 400, wrong
    assert http.patch(url, json={"channel": "nowhere"}, headers=auth).status_code == 404
    http.put("/api/v1/channels/beta/models/digits", json={"release": 1}, headers=auth)
    assert http.patch(url, json={"channel": "beta"}, headers=auth).json()["channel"] == "beta"


def test_a_claim_token_says_where_it_leads_and_who_cannot_get_there(hub: HubFixture, tmp_path: Path) -> None:
    hub.channel()
    made = hub.client.post("/api/v1/tokens", json={"kind": "claim", "channel": "stable"}, headers=hub.auth()).json()
    assert made["hub"] == "https://127.0.0.1:8080"
    assert any("devices on other machines cannot reach 127.0.0.1" in warning for warning in made["warnings"])
    viewer = hub.client.post("/api/v1/tokens", json={"kind": "operator", "role": "viewer"}, headers=hub.auth()).json()
    assert viewer["warnings"] == [] and viewer["hub"] == ""
    named = make_hub(tmp_path / "named", host="0.0.0.0", hostnames=["hub.example"], broker={"kind": "mosquitto"})
    named.channel()
    claim = {"kind": "claim", "channel": "stable"}
    made = named.client.post("/api/v1/tokens", json=claim, headers=named.auth()).json()
    assert (made["hub"], made["warnings"]) == ("https://hub.example:8080", [])


def test_tokens_are_shown_once_and_end_at_once(hub: HubFixture) -> None:
    http, auth = hub.client, hub.auth()
    made = http.post("/api/v1/tokens", json={"kind": "operator", "role": "viewer"}, headers=auth).json()
    viewer = hub.auth(made["token"])
    assert http.get("/api/v1/models", headers=viewer).status_code == 200
    listed = http.get("/api/v1/tokens", headers=auth).text
    assert made["id"] in listed and made["token"].split(".")[2] not in listed and "secret_hash" not in listed
    assert http.delete(f"/api/v1/tokens/{made['id']}", headers=auth).status_code == 200
    assert http.get("/api/v1/models", headers=viewer).status_code == 401
    assert http.delete("/api/v1/tokens/none", headers=auth).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {"kind": "king"},
        {"kind": "operator"},
        {"kind": "operator", "role": "root"},
        {"kind": "application"},
        {"kind": "application", "scope": "train:x"},
        {"kind": "application", "scope": "infer:../x"},
        {"kind": "claim"},
        {"kind": "claim", "channel": "A b"},
        {"kind": "mirror", "expires_in_s": -1},
        {"kind": "mirror", "typo": 1},
        {},
        [],
    ],
)
def test_tokens_that_make_no_sense(hub: HubFixture, body: Any) -> None:
    answer = hub.client.post("/api/v1/tokens", json=body, headers=hub.auth())
    assert answer.status_code == 400 and answer.json()["error"]


def test_roles(hub: HubFixture) -> None:
    hub.model()
    http = hub.client
    viewer, operator = (hub.auth(hub.token(role=role)) for role in ("viewer", "operator"))
    application = hub.auth(hub.token("application", scope="infer:digits"))
    mirror = hub.auth(hub.token("mirror"))
    for headers in (viewer, operator):
        assert http.get("/api/v1/models", headers=headers).status_code == 200
    assert http.post("/api/v1/models", json={"name": "x"}, headers=viewer).status_code == 403
    assert http.post("/api/v1/models", json={"name": "x"}, headers=operator).status_code == 201
    named = {"name": "y", "recipe": "examples.digits.recipe"}  # a recipe is code that a worker will run
    assert http.post("/api/v1/models", json=named, headers=operator).status_code == 403
    assert http.patch("/api/v1/models/x", json={"recipe": "this"}, headers=operator).status_code == 403
    assert http.patch("/api/v1/models/x", json={"recipe": "this"}, headers=hub.auth()).status_code == 200
    assert http.get("/api/v1/tokens", headers=operator).status_code == 403
    wanted = {"kind": "operator", "role": "admin"}
    assert http.post("/api/v1/tokens", json=wanted, headers=operator).status_code == 403
    hub.channel("s")
    assert http.post("/api/v1/tokens", json={"kind": "claim", "channel": "s"}, headers=operator).status_code == 201
    for headers in (application, mirror):
        assert http.get("/api/v1/models", headers=headers).status_code == 403
        assert http.get("/device/me", headers=headers).status_code == 403
    assert http.get("/tuf/metadata/timestamp.json", headers=mirror).status_code == 200
    assert http.get("/tuf/metadata/timestamp.json", headers=application).status_code == 403


def test_channel_changes_that_are_refused(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    http, auth, url = hub.client, hub.auth(), "/api/v1/channels/stable/models/digits"
    refused: list[tuple[Any, str]] = [
        ({}, "needs a release"),
        ({"release": 2}, "unknown"),
        ({"release": 1, "audit": {"share_ppm": 2_000_000}}, "outside 0 to"),
        ({"release": 1, "routing": {"dead": 1}}, "no field 'dead'"),
        ({"release": 1, "routing": {"deadline_ms": "x"}}, "deadline_ms"),
        ({"release": 1, "routing": {"when": "sometimes"}}, "sometimes"),
        ({"release": 1, "routing": {"calls_per_s": -1}}, "calls_per_s"),
        ({"release": 1, "routing": {"remote": {"url": "ftp://x"}}}, "remote.url"),
        ({"release": 1, "routing": {"remote": {"url": "https://x", "credential": "../k"}}}, "credential"),
        ({"release": 1, "spread_s": -1}, "spread_s"),
        ({"release": "1"}, "release"),
    ]
    for body, why in refused:
        answer = http.put(url, json=body, headers=auth)
        assert answer.status_code == 400 and why in answer.json()["error"], answer.text
    assert http.put("/api/v1/channels/St!/models/digits", json={"release": 1}, headers=auth).status_code == 400
    assert http.get("/api/v1/channels/stable", headers=auth).status_code == 404
    assert http.patch("/api/v1/channels/stable", json={"telemetry": {}}, headers=auth).status_code == 404


def test_another_server_in_the_hubs_place_and_the_hub_again(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    http, auth, url = hub.client, hub.auth(), "/api/v1/channels/stable/models/digits"

    def routing(**wanted: Any) -> tuple[dict[str, Any], list[str]]:
        answer = http.put(url, json={"release": 1, "routing": wanted}, headers=auth)
        assert answer.status_code == 200, answer.text
        document = http.get("/api/v1/channels/stable", headers=auth).json()["document"]
        return document["models"]["digits"]["routing"], document["requires"]

    server = {"url": "https://kserve.example", "credential": "kserve"}
    found, requires = routing(when="speculative", remote=server)
    assert found["remote"] == {**server, "model": "", "version": "", "binary": True}
    assert set(requires) == {"routing-when", "routing-remote"}  # agents that do not know them keep what they have
    found, requires = routing(calls_per_s=2.5)
    assert found["remote"]["credential"] == "kserve" and set(requires) > {"routing-budget"}
    found, requires = routing(when="low-confidence", calls_per_s=0, remote=None)
    assert found["remote"] is None and requires == []


def test_errors_name_subject_and_hint(hub: HubFixture) -> None:
    answer = hub.client.get("/api/v1/models/none", headers=hub.auth())
    assert answer.status_code == 404
    assert answer.json() == {
        "error": "no model 'none'",
        "code": "not-found",
        "subject": "none",
        "hint": "make it: fleet model create none",
    }
    assert hub.client.get("/api/v1/models/x/releases/one", headers=hub.auth()).status_code == 400
    assert hub.client.get("/nothing", headers=hub.auth()).json()["code"] == "not-found"
    assert hub.client.post("/healthz").status_code == 405


def test_an_unexpected_error_says_nothing_of_the_inside(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **more: object) -> None:
        raise RuntimeError("secret path /keys/x")

    monkeypatch.setattr(hub.hub.publisher, "withdraw", fail)
    url = "/api/v1/models/digits/releases/1/withdraw"
    answer = hub.client.post(url, json={"reason": "x"}, headers=hub.auth())
    assert answer.status_code == 500 and "secret" not in answer.text and answer.json()["code"] == "internal"


def ids(hub: HubFixture, path: str) -> tuple[list[object], object]:
    answer = hub.client.get(f"/api/v1/{path}", headers=hub.auth())
    assert answer.status_code == 200, answer.text
    return [item["id"] for item in answer.json()["items"]], answer.json()["next"]


def test_the_audit_log_is_read_backwards_too_and_of_one_subject_and_time(hub: HubFixture) -> None:
    with hub.hub.session() as session:
        session.connection().execute(delete(AuditEntry))
        for number in range(1, 8):
            hub.clock.advance(1)
            hub.hub.audit(session, "test", "did", f"device-{number % 2}")
    assert ids(hub, "audit?newest=true&limit=3") == ([7, 6, 5], 5)
    assert ids(hub, "audit?newest=true&limit=3&after=5") == ([4, 3, 2], 2)
    assert ids(hub, "audit?newest=true&after=2") == ([1], None)
    assert ids(hub, "audit?subject=device-1") == ([1, 3, 5, 7], None)
    assert ids(hub, f"audit?since={hub.clock() - 1}") == ([6, 7], None)
    assert ids(hub, f"audit?since={hub.clock() - 3}&until={hub.clock() - 1}&subject=device-1") == ([5], None)
    assert ids(hub, "audit?actor=test&action=did&limit=1&newest=true") == ([7], 7)
    assert ids(hub, "audit?actor=nobody") == ids(hub, "audit?action=di") == ids(hub, "audit?until=0") == ([], None)


@pytest.mark.parametrize("query", ["actor=" + "a" * 256, "action=" + "a" * 256, "until=-1", "until=1e300", "until=nan"])
def test_what_is_sought_in_the_audit_log_is_bounded(hub: HubFixture, query: str) -> None:
    answer = hub.client.get(f"/api/v1/audit?{query}", headers=hub.auth())
    assert answer.status_code == 400 and answer.json()["subject"] == f"query.{query.partition('=')[0]}", answer.text


def test_jobs_are_newest_first_in_pages(hub: HubFixture) -> None:
    hub.model()
    made = []
    for _ in range(4):
        hub.clock.advance(1)
        made.insert(0, queue.submit(hub.hub, "retrain", model="digits", actor="test").id)
    assert ids(hub, "jobs?limit=3") == (made[:3], made[2])
    assert ids(hub, f"jobs?limit=3&after={made[2]}") == (made[3:], None)
    assert ids(hub, f"jobs?since={hub.clock() - 1}") == (made[:2], None)


def test_rollouts_are_newest_first_in_pages_and_of_one_device(hub: HubFixture) -> None:
    rows = [
        RolloutRow(
            id=f"r-{number}",
            model="digits",
            channel=f"c-{number}",
            release=2,
            from_release=1,
            state="running",
            salt=f"{number}",
            plan={},
            progress={},
            created_at=float(number // 2),
            updated_at=0.0,
        )
        for number in range(6)
    ]
    with hub.hub.session() as session:
        session.add_all(rows)
        for number in (1, 4):
            body = {"model": "digits", "rollout": f"r-{number}"}
            session.add(
                DeviceEvent(device_id="d", spool="s", seq=number, at=0.0, received_at=0.0, kind="model", body=body)
            )
    assert ids(hub, "rollouts?limit=3") == (["r-5", "r-4", "r-3"], "r-3")
    assert ids(hub, "rollouts?limit=3&after=r-3") == (["r-2", "r-1", "r-0"], None)
    assert ids(hub, "rollouts?since=2") == (["r-5", "r-4"], None)
    assert ids(hub, "rollouts?device=d") == (["r-4", "r-1"], None)
    assert ids(hub, "rollouts?device=d&limit=1&after=r-4") == (["r-1"], None)
    assert hub.client.get("/api/v1/rollouts?after=nowhere", headers=hub.auth()).status_code == 404


def test_the_audit_log_pages(hub: HubFixture) -> None:
    for number in range(5):
        hub.client.post("/api/v1/models", json={"name": f"m{number}"}, headers=hub.auth())
    first = hub.client.get("/api/v1/audit?limit=3", headers=hub.auth()).json()
    rest = hub.client.get(f"/api/v1/audit?after={first['next']}", headers=hub.auth()).json()
    assert len(first["items"]) == 3 and len(rest["items"]) == 3 and rest["next"] is None
    actor = rest["items"][-1]["actor"]
    assert actor == f"operator:{hub.admin_token.split('.')[1]}"


def test_metrics_and_health(hub: HubFixture) -> None:
    hub.model()
    hub.release()
    add_device(hub, "k")
    assert hub.client.get("/healthz").json()["parts"]["database"] == {"state": "ok", "reason": ""}
    assert hub.client.get("/metrics").status_code == 401
    text = hub.client.get("/metrics", headers=hub.auth()).text
    assert 'edgeloop_hub_devices{state="online"} 1.0' in text
    assert 'edgeloop_hub_releases{status="published"} 1.0' in text
    assert 'edgeloop_hub_http_requests_total{method="GET",route="/healthz",status="200"} 1.0' in text
    assert 'edgeloop_hub_metadata_expires_seconds{role="root"}' in text
