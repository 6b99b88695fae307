"""The hub's forecast of a rollout before it starts, and the rollouts that it refuses."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import UNSET
from msgspec.structs import replace
from sqlalchemy import delete

from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.store.pairing import MOST_INPUTS
from cloud_hub.store.tables import Device, PairEvidence, RolloutRow, WindowRow
from fleet.protocol.channel import Audit, Channel, ModelEntry
from fleet.protocol.resolve import resolve
from tests.support.hub import HubFixture
from tests.support.manifests import INPUTS, OUTPUTS, hollow_onnx
from tests.support.rollouts import DEVICES, cohort, entry, evidence, live, make_fleet, names_auditor, row_of, start

WANTED = {"model": "digits", "release": 2, "channel": "stable", "stages": [34, 100], "guard": {"margin": 0.1}}


@pytest.fixture
def fleet(hub: HubFixture) -> HubFixture:
    return make_fleet(hub)


def plan(fleet: HubFixture, **changes: Any) -> dict[str, Any]:
    answer = fleet.client.post("/api/v1/rollouts/plan", json={**WANTED, **changes}, headers=fleet.auth())
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()["forecast"]
    return found


def window(fleet: HubFixture, device: str, ago_s: float, **counters: int) -> None:
    ended = fleet.clock() - ago_s
    with fleet.hub.session() as session:
        session.add(
            WindowRow(
                device_id=device,
                spool="s",
                seq=int(1e6 - ago_s),
                model="digits",
                release=1,
                started_at=ended - 60,
                ended_at=ended,
                body={"counters": counters},
            )
        )


def change(fleet: HubFixture, device: str, **fields: Any) -> None:
    with fleet.hub.session() as session:
        row = session.get(Device, device)
        assert row is not None
        for name, value in fields.items():
            setattr(row, name, value)
        session.add(row)


def audit(fleet: HubFixture, audit: Audit) -> None:
    def changed(channel: Channel) -> Channel:
        return replace(channel, models={"digits": replace(channel.models["digits"], audit=audit)})

    fleet.hub.publisher.change_channel("stable", changed, actor="test")


def test_traffic_is_the_mean_of_the_hours_since_the_first_window_of_the_day(fleet: HubFixture) -> None:
    for hours_ago in (0, 1, 2, 3):
        if hours_ago != 1:  # an hour of silence counts
            for minute in range(0, 60, 10):
                window(fleet, "d-0", 3600 * hours_ago + 60 * minute + 1, requests=100, audited=10)
    window(fleet, "d-0", 30 * 3600, requests=10**9)  # a day and more ago
    traffic = plan(fleet)["traffic"]
    assert traffic["hours"] == 4
    assert traffic["requests"] == pytest.approx(3 / 4 * 600 * 24 / 3)  # per device and day, of three devices
    assert traffic["audited"] == pytest.approx(3 / 4 * 60 * 24 / 3)


def test_a_window_that_claims_the_impossible_counts_as_what_a_device_can_serve(fleet: HubFixture) -> None:
    window(fleet, "d-0", 5, requests=2**60, audited=2**61)
    traffic = plan(fleet)["traffic"]
    assert traffic["requests"] == traffic["audited"] == 60 * 10_000 * 24 / 3


def test_of_busy_hours_the_last_windows_are_read(fleet: HubFixture) -> None:
    for second in range(150):
        window(fleet, "d-1", second, requests=10)
    assert plan(fleet)["traffic"]["requests"] == pytest.approx(10 * 86_400 / 3, rel=0.02)


def test_who_can_belong_to_the_cohort_is_what_devices_would_find(fleet: HubFixture) -> None:
    change(fleet, "d-0", pins={"digits": 1})
    change(fleet, "d-1", labels={"site": "berlin"})
    assert plan(fleet)["scope"] == {
        "free": 2,
        "pinned": 1,
        "ruled": 0,
        "outside": 0,
        "unable": [],
        "unnamed": 0,
        "hardware": {"": 2},
    }
    assert plan(fleet, groups=["site=berlin"])["scope"]["free"] == 1
    made = fleet.client.post("/api/v1/rollouts", json={**WANTED, "groups": ["site=berlin"]}, headers=fleet.auth())
    assert made.status_code == 201, made.text
    assert cohort(fleet) == [] or cohort(fleet) == ["d-1"]


def test_agents_that_name_no_inputs_cannot_bring_pairs(fleet: HubFixture) -> None:
    for device in ("d-0", "d-1"):
        change(fleet, device, info={"agent": "0.1.0"})
    found = plan(fleet)
    assert found["scope"]["unnamed"] == 2 and found["blockers"] == []
    assert any("pairs of 2 of 3 devices prove nothing" in note for note in found["notes"])
    change(fleet, "d-2", info={"agent": "0.1.0", "capabilities": []})
    refused = fleet.client.post("/api/v1/rollouts", json=WANTED, headers=fleet.auth())
    assert refused.status_code == 409 and "update the agents" in refused.json()["hint"]
    alone = {**WANTED, "guard": {"evidence": "install"}}
    assert fleet.client.post("/api/v1/rollouts", json=alone, headers=fleet.auth()).status_code == 201


def test_the_first_stage_of_a_group_holds_a_device_of_the_group(fleet: HubFixture) -> None:
    for device in ("d-0", "d-1"):
        change(fleet, device, labels={"site": "berlin"})
    wanted = {**WANTED, "stages": [50, 100], "groups": ["site=berlin"]}
    for _ in range(4):
        made = fleet.client.post("/api/v1/rollouts", json=wanted, headers=fleet.auth()).json()
        groups = frozenset(made["plan"]["groups"])
        held = [device for device in ("d-0", "d-1") if joins(fleet, device, groups)]
        assert len(held) == 1
        fleet.client.post(f"/api/v1/rollouts/{made['id']}/abort", json={}, headers=fleet.auth())


def joins(fleet: HubFixture, device: str, groups: frozenset[str]) -> bool:
    channel = Channel(channel="stable", version=1, models={"digits": entry(fleet)})
    target = resolve(channel, "digits", device, groups=groups, committed=1)
    return target is not None and target.rollout is not None


def test_a_rollout_that_could_never_finish_is_not_started_and_says_what_to_add(fleet: HubFixture) -> None:
    audit(fleet, Audit())
    assert "no auditor" in plan(fleet)["blockers"][0]["what"]
    answer = fleet.client.post("/api/v1/rollouts", json=WANTED, headers=fleet.auth())
    assert answer.status_code == 409 and "could never finish" in answer.json()["error"]
    assert "fleet channel set stable --model digits --auditor" in answer.json()["hint"]
    assert live(fleet) == []
    alone = {**WANTED, "guard": {"evidence": "install"}}
    made = fleet.client.post("/api/v1/rollouts", json=alone, headers=fleet.auth())
    assert made.status_code == 201 and any("no soak" in note for note in made.json()["notes"])


def test_of_an_auditor_that_answers_nothing_plan_and_status_say_so(fleet: HubFixture) -> None:
    rollout = start(fleet)
    evidence(fleet, rollout, good=False)
    mute = fleet.release(seed=9, cloud=None)
    names_auditor(fleet, mute)
    with fleet.hub.session() as session:  # no pairs: the devices have committed, and every audit fails
        session.connection().execute(delete(PairEvidence))
    RolloutEngine(fleet.hub).look()
    why = f"no audited pair can come: release {mute} of 'digits' has no cloud variant"
    verdict = fleet.client.get(f"/api/v1/rollouts/{rollout}", headers=fleet.auth()).json()["verdict"]
    assert verdict["judgement"] == "not-enough-evidence" and why in verdict["reason"]
    fleet.clock.advance(3700)
    for device in DEVICES:
        change(fleet, device, last_seen_at=fleet.clock())
    RolloutEngine(fleet.hub).look()
    assert row_of(fleet, rollout).state == "holding" and why in row_of(fleet, rollout).reason
    fleet.client.post(f"/api/v1/rollouts/{rollout}/abort", json={}, headers=fleet.auth())
    found = plan(fleet)
    assert "no cloud variant" in found["blockers"][0]["what"] and "--auditor N" in found["blockers"][0]["add"]
    assert plan(fleet, guard={"evidence": "install"})["blockers"] == []


def test_an_auditor_that_is_a_compared_release_s_float_model_compares_nothing(fleet: HubFixture) -> None:
    twin = fleet.release(seed=8, twin=True)
    audit(fleet, Audit(auditor=twin, share_ppm=10_000))
    (blocker,) = plan(fleet, release=twin)["blockers"]
    assert f"release {twin} audits with 'onnx-fp32', which answers as the float model of" in blocker["what"]
    refused = fleet.client.post("/api/v1/rollouts", json={**WANTED, "release": twin}, headers=fleet.auth())
    assert refused.status_code == 409 and "which answers as the float model" in refused.json()["error"]
    assert plan(fleet, release=2)["blockers"] == [], "of two other releases it may say something"


@pytest.mark.parametrize(("recorded", "told"), [(UNSET, True), (False, False)])
def test_an_auditor_of_which_nothing_is_recorded_is_taken_and_told(fleet: HubFixture, recorded, told: bool) -> None:
    number = fleet.release(seed=8, twin=recorded)
    audit(fleet, Audit(auditor=number, share_ppm=10_000))
    found = plan(fleet, release=number)
    assert found["blockers"] == []
    assert any("nobody recorded whether 'onnx-fp32'" in note for note in found["notes"]) is told


@pytest.mark.parametrize("whose", ["of the release before", "of the new one"])
def test_an_auditor_with_a_file_that_devices_run_compares_nothing(fleet: HubFixture, whose: str) -> None:
    """It agrees with that release whatever is true: a better one beside it would be halted as harmful."""
    file = hollow_onnx([tensor.name for tensor in INPUTS], [tensor.name for tensor in OUTPUTS], "the same model")
    auditor = fleet.release(seed=8, cloud=file)
    wanted = {"release": fleet.release(seed=9, edge_file=file)}
    if whose == "of the release before":
        default = ModelEntry(release=wanted["release"])
        fleet.hub.publisher.change_channel("stable", lambda one: replace(one, models={"digits": default}), actor="test")
        wanted = {"release": 2}
    audit(fleet, Audit(auditor=auditor, share_ppm=10_000))
    (blocker,) = plan(fleet, **wanted)["blockers"]
    assert f"release {auditor} audits with 'onnx-fp32', which is the file 'litert-int8' of release 5" in blocker["what"]
    assert "--auditor N" in blocker["add"] and "--evidence install" in blocker["add"]
    refused = fleet.client.post("/api/v1/rollouts", json={**WANTED, **wanted}, headers=fleet.auth())
    assert refused.status_code == 409 and "which is the file" in refused.json()["error"]
    assert plan(fleet, **wanted, guard={"evidence": "install"})["blockers"] == []


def test_the_share_of_new_inputs_is_the_last_rollouts(fleet: HubFixture) -> None:
    assert plan(fleet)["traffic"]["distinct"] is None
    for number, repeats in enumerate((0, 30)):
        with fleet.hub.session() as session:
            session.add(
                RolloutRow(
                    id=f"r-{number}",
                    model="digits",
                    channel="stable",
                    release=2,
                    from_release=1,
                    state="aborted",
                    salt="-",
                    created_at=float(number),
                    updated_at=0.0,
                    ended_at=1.0,
                )
            )
            session.flush()
            session.add(
                PairEvidence(
                    rollout=f"r-{number}", attempt=1, device_id="d-0", both=9, only_old=1, claimed=10, repeats=repeats
                )
            )
    assert plan(fleet)["traffic"]["distinct"] == 0.25
    with fleet.hub.session() as session:  # one that brought all that one may tells nothing of what it met later
        session.add(
            PairEvidence(
                rollout="r-1", attempt=1, device_id="d-1", both=MOST_INPUTS, claimed=MOST_INPUTS, repeats=10**6
            )
        )
    assert plan(fleet)["traffic"]["distinct"] == 0.25


def test_a_viewer_may_plan_and_nothing_changes(fleet: HubFixture) -> None:
    viewer = fleet.auth(fleet.token(role="viewer"))
    assert fleet.client.post("/api/v1/rollouts/plan", json=WANTED, headers=viewer).status_code == 200
    assert fleet.client.post("/api/v1/rollouts", json=WANTED, headers=viewer).status_code == 403
    assert live(fleet) == []
