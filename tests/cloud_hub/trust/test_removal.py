"""An object that nothing names can be deleted; one that something names stays, and the refusal says what names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from cloud_hub.errors import ConflictError
from cloud_hub.samples import store
from cloud_hub.store.tables import Alarm, DriftMonitor, InputMonitor, InputWatch, Job, MeaningMonitor, Release, Snapshot
from cloud_hub.trust import repository
from cloud_hub.trust.collecting import GRACE_S, collect
from cloud_hub.trust.rows import all_targets, latest_metadata
from fleet.protocol.channel import Channel, ModelEntry
from fleet.protocol.messages import Sample
from fleet.protocol.selftest import to_array
from tests.cloud_hub.api.test_operator_api import add_device
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.rollouts import make_fleet, start


def snapshot(name: str) -> Snapshot:
    return Snapshot(
        id=name, model="digits", path=f"snapshots/{name}.npz", samples=1, labelled=0, size_bytes=1, created_at=0.0
    )


def delete(hub: HubFixture, path: str) -> Any:
    return hub.client.delete(f"/api/v1{path}", headers=hub.auth())


def listed(hub: HubFixture, role: str) -> set[str]:
    """The targets that a role lists, as devices see them."""
    with hub.hub.reading() as session:
        return set(repository.read(latest_metadata(session)[role]).signed.targets)


def serve(hub: HubFixture, channel: str, model: str, release: int) -> None:
    def change(document: Channel) -> Channel:
        return msgspec.structs.replace(document, models={**document.models, model: ModelEntry(release=release)})

    hub.hub.publisher.change_channel(channel, change, actor="t")


def test_a_model_goes_with_its_releases_and_what_is_signed_of_them(hub: HubFixture) -> None:
    hub.model("digitz")
    hub.release("digitz"), hub.release("digitz", seed=1)
    hub.hub.publisher.withdraw("digitz", 1, "bad", actor="t")
    with hub.hub.session() as session:
        session.add(DriftMonitor(model="digitz", sketch_id="", release=1, state="alarmed", updated_at=0.0))
        session.add(MeaningMonitor(model="digitz", release=1, updated_at=0.0))
        session.add(InputMonitor(model="digitz", release=1, updated_at=0.0))
        session.add(InputWatch(model="digitz", release=1, device_id="d", updated_at=0.0))
        session.add(Alarm(id=1, model="digitz", release=1, at=0.0, status="open"))
    assert listed(hub, "models") == {"models/digitz/1.json", "models/digitz/2.json", "models/digitz/floor.json"}
    assert delete(hub, "/models/digitz").json()["name"] == "digitz"
    assert listed(hub, "models") == set()
    assert hub.client.get("/api/v1/models/digitz", headers=hub.auth()).status_code == 404
    with hub.hub.reading() as session:
        assert session.get(DriftMonitor, ("digitz", 1)) is None and session.get(MeaningMonitor, ("digitz", 1)) is None
        assert session.get(InputMonitor, ("digitz", 1)) is None and session.get(InputWatch, ("digitz", 1, "d")) is None
        assert session.get(Alarm, 1).status == "closed"  # type: ignore[union-attr]
        assert set(all_targets(session)) & {"models/digitz/1.json"} == set()
    actions = [entry["action"] for entry in hub.client.get("/api/v1/audit", headers=hub.auth()).json()["items"]]
    assert "model.delete" in actions


def test_a_model_of_the_same_name_goes_on_counting(hub: HubFixture) -> None:
    hub.model("digits")
    hub.release(), hub.release(seed=1)
    delete(hub, "/models/digits")
    made = hub.client.post("/api/v1/models", json={"name": "digits"}, headers=hub.auth()).json()
    assert (made["next_release"], made["min_release"]) == (3, 3)
    assert hub.release(seed=2) == 3
    with hub.hub.reading() as session:
        assert b'"min_release":3' in all_targets(session)["models/digits/floor.json"], "the old ones stay forbidden"


def test_a_channel_of_the_same_name_goes_on_counting(hub: HubFixture) -> None:
    hub.model()
    serve(hub, "stabel", "digits", hub.release())
    hub.hub.publisher.change_channel("stabel", lambda channel: channel, actor="t")
    assert delete(hub, "/channels/stabel").json()["version"] == 2
    assert "channels/stabel.json" not in listed(hub, "channels")
    assert hub.hub.publisher.change_channel("stabel", lambda channel: channel, actor="t").version == 3


def test_a_channel_without_models_is_made_once(hub: HubFixture) -> None:
    def make(name: str) -> Any:
        return hub.client.post("/api/v1/channels", json={"name": name}, headers=hub.auth())

    assert make("stable").json()["version"] == 1
    assert listed(hub, "channels") >= {"channels/stable.json"}
    assert make("stable").status_code == 409 and make("No Name").status_code == 400


def with_device(hub: HubFixture) -> str:
    add_device(hub, "kiosk-1")
    return "device kiosk-1"


def with_claim(hub: HubFixture) -> str:
    return f"claim token {hub.token('claim', channel='stable', pin='p').split('.')[1]}"


@pytest.mark.parametrize("user", [with_device, with_claim])
def test_a_channel_that_somebody_follows_stays(hub: HubFixture, user: Callable[[HubFixture], str]) -> None:
    hub.channel()
    said = user(hub)
    refused = delete(hub, "/channels/stable")
    assert refused.status_code == 409 and refused.json()["error"] == f"channel 'stable' is used by {said}"
    assert "channels/stable.json" in listed(hub, "channels")


def test_what_is_over_follows_nothing(hub: HubFixture) -> None:
    hub.channel()
    add_device(hub, "kiosk-1")
    hub.client.post("/api/v1/devices/kiosk-1/revoke", headers=hub.auth())
    hub.token("claim", channel="stable", pin="p")
    hub.clock.advance(86_401)
    assert delete(hub, "/channels/stable").status_code == 200


def test_what_a_rollout_moves_stays(hub: HubFixture) -> None:
    rollout = start(make_fleet(hub))
    for path in ("/models/digits", "/models/digits/releases/1", "/models/digits/releases/2", "/channels/stable"):
        refused = delete(hub, path).json()["error"]
        assert f"rollout {rollout}" in refused, refused
    assert "a rollout" not in delete(hub, "/models/digits/releases/3").text  # which it does not concern
    removed = hub.client.delete("/api/v1/channels/stable/models/digits", headers=hub.auth())
    assert removed.status_code == 409 and f"fleet rollout abort {rollout}" in removed.json()["hint"]


def named_by_pin(hub: HubFixture) -> str:
    add_device(hub, "k")
    hub.client.patch("/api/v1/devices/k", json={"pins": {"digits": 1}}, headers=hub.auth())
    return "pin of device k"


def named_by_channel(hub: HubFixture) -> str:
    serve(hub, "stable", "digits", 1)
    return "channel stable"


def named_by_token(hub: HubFixture) -> str:
    return f"application token {hub.token('application', scope='infer:digits').split('.')[1]}"


def named_by_job(hub: HubFixture) -> str:
    with hub.hub.session() as session:
        session.add(Job(id="j1", kind="retrain", model="digits", state="queued", created_at=0.0))
    return "job j1"


def named_by_snapshot(hub: HubFixture) -> str:
    with hub.hub.session() as session:
        session.add(snapshot("s1"))
    return "snapshot s1"


def named_by_samples(hub: HubFixture) -> str:
    add_device(hub, "k")
    sample = Sample(
        id="s1",
        model="digits",
        release=1,
        variant="v",
        at=hub.clock(),
        reason="random",
        inputs=(to_array("x", np.zeros((1, 64), np.float32)),),
        outputs=(),
        confidence=0.5,
        prediction=1,
    )
    store.commit(hub.hub, "k", [sample])
    return "1 sample"


USERS = [named_by_pin, named_by_channel, named_by_token, named_by_job, named_by_snapshot, named_by_samples]


@pytest.mark.parametrize("user", USERS)
def test_a_model_that_something_names_stays(hub: HubFixture, user: Callable[[HubFixture], str]) -> None:
    hub.model()
    hub.release()
    said = user(hub)
    refused = delete(hub, "/models/digits")
    assert refused.status_code == 409 and refused.json()["error"] == f"model 'digits' is used by {said}"
    assert refused.json()["hint"].startswith("first: ")
    assert "models/digits/1.json" in listed(hub, "models")


@pytest.mark.parametrize("user", [named_by_pin, named_by_channel])
def test_a_release_that_something_names_stays(hub: HubFixture, user: Callable[[HubFixture], str]) -> None:
    hub.model()
    hub.release()
    said = user(hub)
    assert delete(hub, "/models/digits/releases/1").json()["error"] == f"release 1 of 'digits' is used by {said}"


def test_a_release_goes_and_its_number_is_not_used_again(hub: HubFixture) -> None:
    hub.model()
    hub.release(), hub.release(seed=1)
    hub.hub.publisher.reserve("digits", actor="t")
    assert delete(hub, "/models/digits/releases/2").json()["status"] == "published"
    assert delete(hub, "/models/digits/releases/3").json()["status"] == "reserved"
    assert listed(hub, "models") == {"models/digits/1.json", "models/digits/floor.json"}
    assert delete(hub, "/models/digits/releases/2").status_code == 404
    assert hub.release(seed=2) == 4


def test_what_was_withdrawn_stays_forbidden(hub: HubFixture) -> None:
    hub.model()
    hub.release(), hub.release(seed=1)
    hub.hub.publisher.withdraw("digits", 1, "bad", actor="t")
    assert delete(hub, "/models/digits/releases/1").status_code == 409
    assert delete(hub, "/models/digits/releases/2").status_code == 200


def test_without_the_release_key_only_what_is_not_signed_goes(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, release_key="external")
    hub.model()
    hub.release()
    hub.hub.publisher.signing("digits", 1)
    assert delete(hub, "/models/digits/releases/1").json()["status"] == "awaiting-signature"
    hub.release(seed=1)
    with hub.hub.session() as session:
        row = session.get(Release, ("digits", 2))
        assert row is not None
        row.status = "published"
        session.add(row)
    for path in ("/models/digits/releases/2", "/models/digits"):
        refused = delete(hub, path)
        assert refused.status_code == 403 and "a key that is not held here" in refused.json()["error"]


def test_a_model_is_taken_off_a_channel(hub: HubFixture) -> None:
    hub.model(), hub.model("faces")
    serve(hub, "stable", "digits", hub.release())
    serve(hub, "stable", "faces", hub.release("faces", seed=1))
    gone = hub.client.delete("/api/v1/channels/stable/models/digits", headers=hub.auth()).json()
    assert list(gone["document"]["models"]) == ["faces"] and gone["version"] == 3
    again = hub.client.delete("/api/v1/channels/stable/models/digits", headers=hub.auth())
    assert again.status_code == 404 and "does not hold model 'digits'" in again.json()["error"]


def test_deleting_is_for_operators(hub: HubFixture) -> None:
    hub.model()
    hub.channel()
    viewer = hub.auth(hub.token(role="viewer"))
    for path in ("/models/digits", "/models/digits/releases/1", "/channels/stable", "/channels/stable/models/digits"):
        assert hub.client.delete(f"/api/v1{path}", headers=viewer).status_code == 403


# ---- blobs -------------------------------------------------------------------------------------------


class Aged:
    """The hub's objects, whose times are the fixture clock's at the time of the first look."""

    def __init__(self, hub: HubFixture) -> None:
        self._objects, self._hub = hub.hub.objects, hub
        self.at = {found.key: hub.clock() for found in self._objects.list("blobs")}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objects, name)

    def list(self, prefix: str) -> list[Any]:
        known = self._objects.list(prefix)
        return [found._replace(modified_at=self.at.setdefault(found.key, self._hub.clock())) for found in known]


def blobs(hub: HubFixture) -> set[str]:
    return {found.key for found in hub.hub.objects.list("blobs")}


@pytest.fixture
def aged(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> HubFixture:
    """Release 1 and 2 of `digits`, a patch between their blobs, and release 2 deleted."""
    hub.model()
    hub.release(), hub.release(seed=1)
    first, second = (next(iter(small_release(seed=seed)[1])) for seed in (0, 1))
    hub.hub.objects.put_new(f"deltas/{second}/{first}", b"patch")
    delete(hub, "/models/digits/releases/2")
    object.__setattr__(hub.hub, "objects", Aged(hub))
    return hub


def test_blobs_that_no_release_names_go_after_a_day(aged: HubFixture) -> None:
    kept = {f"blobs/{sha256}" for sha256 in small_release(seed=0)[1]}
    before = blobs(aged)
    assert kept < before
    assert collect(aged.hub) == 0, "somebody may just be uploading"
    list(aged.hub.objects.list("deltas"))
    aged.clock.advance(GRACE_S + 1)
    assert collect(aged.hub) == len(before - kept) + 1  # the patch, too
    assert blobs(aged) == kept and not list(aged.hub.objects.list("deltas"))
    assert collect(aged.hub) == 0


def test_a_publication_whose_blobs_were_collected_is_refused_and_works_again(aged: HubFixture) -> None:
    manifest, data = small_release(seed=1)
    publisher = aged.hub.publisher

    def collected_meanwhile(model: str) -> Any:  # after the first look at the blobs, before the publishing lock
        aged.clock.advance(GRACE_S + 1)
        collect(aged.hub)
        return run(model)

    run = publisher.transactions.run  # type: ignore[attr-defined]
    list(aged.hub.objects.list("deltas"))
    publisher.transactions.run = collected_meanwhile  # type: ignore[attr-defined]
    with pytest.raises(Exception, match="is not in the store"):
        publisher.publish_release("digits", manifest, actor="t")
    publisher.transactions.run = run  # type: ignore[attr-defined]
    for sha256, content in data.items():
        aged.hub.objects.put_new(f"blobs/{sha256}", content)
    assert publisher.publish_release("digits", manifest, actor="t").number == 3


# ---- snapshots ---------------------------------------------------------------------------------------


def test_a_snapshot_goes_unless_a_release_or_a_job_comes_from_it(hub: HubFixture) -> None:
    hub.model()
    with hub.hub.session() as session:
        session.add_all([snapshot("free"), snapshot("asked")])
        session.add(
            Job(id="j1", kind="retrain", model="digits", state="queued", created_at=0.0, payload={"snapshot": "asked"})
        )
    hub.hub.objects.put_new("snapshots/free.npz", b"data")
    assert delete(hub, "/snapshots/free").status_code == 200 and not hub.hub.objects.exists("snapshots/free.npz")
    refused = delete(hub, "/snapshots/asked")
    assert refused.status_code == 409 and "job j1" in refused.json()["error"]
    assert delete(hub, "/snapshots/free").status_code == 404
    with pytest.raises(ConflictError):
        hub.hub.publisher.delete_model("digits", actor="t")
