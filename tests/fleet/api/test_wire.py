"""Structs as fields: read, written and changed by msgspec, with refusals that name the field."""

from __future__ import annotations

import msgspec
import pytest
from pydantic import ValidationError

from fleet.api.channels import ChannelChanges, EntryChanges
from fleet.api.devices import DeviceEventInfo, DeviceInfo
from fleet.api.rollouts import NewRollout, RolloutInfo
from fleet.api.wire import Changes, partial
from fleet.protocol.channel import Audit, Bench, Fetching, Probation, Routing, Sampling, Telemetry
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import AgentReport, ModelReport
from fleet.rollouts import machine
from fleet.rollouts.guard_policy import GuardPolicy
from fleet.rollouts.stages import Stage

POLICIES = (Routing, Audit, Sampling, Probation, Bench, Telemetry, Fetching)


def sent(request: EntryChanges | ChannelChanges | NewRollout) -> str:
    """As the client sends it."""
    return request.model_dump_json(exclude_unset=True)


def test_changes_hold_what_is_given_and_nothing_else() -> None:
    old = Routing(threshold=0.5, deadline_ms=70)
    assert Changes(Routing, threshold=None).applied(old) == Routing(threshold=None, deadline_ms=70)
    assert Changes(Routing, cloud=False, deadline_ms=9).applied(old) == Routing(
        cloud=False, threshold=0.5, deadline_ms=9
    )
    assert Changes(Routing).applied(old) is not None and not Changes(Routing) and Changes(Routing, cloud=True)


@pytest.mark.parametrize("kind", POLICIES)
def test_every_field_of_a_policy_may_be_changed_alone(kind: type[msgspec.Struct]) -> None:
    for name, value in msgspec.to_builtins(kind()).items():
        changes = Changes(kind, **{name: value})
        assert changes.given.keys() == {name} and changes.applied(kind()) == kind()
    assert set(partial(kind).__struct_fields__) == set(kind.__struct_fields__)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"thresold": 0.5}, "Routing has no field 'thresold'; one of: breaker_failures, breaker_reset_s, calls"),
        ({"deadline_ms": "soon"}, "Expected `int`, got `str` - at `$.deadline_ms`"),
        ({"deadline_ms": 1.5}, "Expected `int`"),
        ({"deadline_ms": 1 << 70}, "does not fit into 64 bits"),
        ([], "it should be an object"),
        (None, "it should be an object"),
    ],
)
def test_a_change_that_is_none_names_its_field(given: object, words: str) -> None:
    body = (
        msgspec.json.encode({"routing": given})
        if given != {"deadline_ms": 1 << 70}
        else (b'{"routing": {"deadline_ms": %d}}' % (1 << 70))
    )
    with pytest.raises(ValidationError) as refused:
        EntryChanges.model_validate_json(body)
    assert refused.value.errors()[0]["loc"] == ("routing",) and words in str(refused.value)


def test_a_program_hears_of_a_misspelt_field_before_anything_is_sent() -> None:
    with pytest.raises(MalformedError, match="has no field 'thresold'"):
        Changes(Routing, thresold=0.5)
    with pytest.raises(ValidationError, match="changes of Audit, not of Routing"):
        EntryChanges(routing=Changes(Audit, share_ppm=1))  # type: ignore[arg-type]


def test_only_what_was_given_is_sent_and_it_is_read_again() -> None:
    wanted = EntryChanges(release=2, audit=Changes(Audit, auditor=None, share_ppm=5))
    assert msgspec.json.decode(sent(wanted)) == {"release": 2, "audit": {"auditor": None, "share_ppm": 5}}
    assert EntryChanges.model_validate_json(sent(wanted)) == wanted
    assert sent(ChannelChanges(telemetry=Changes(Telemetry, window_s=1.0))) == '{"telemetry":{"window_s":1.0}}'


def test_a_guard_is_its_struct_and_sends_what_differs() -> None:
    wanted = NewRollout(model="m", release=2, channel="stable", guard=GuardPolicy(evidence="install", min_pairs=30))
    assert msgspec.json.decode(sent(wanted))["guard"] == {"evidence": "install"}
    assert NewRollout.model_validate_json(sent(wanted)).guard == wanted.guard
    with pytest.raises(ValidationError, match="GuardPolicy has no field 'marginn'"):
        NewRollout.model_validate_json(b'{"model":"m","release":2,"channel":"c","guard":{"marginn":1}}')


def test_a_rollouts_plan_and_progress_are_their_structs() -> None:
    stages = (Stage(share_ppm=1_000_000),)
    plan = machine.checked_plan(
        machine.Plan(id="r", model="m", channel="c", release=2, from_release=1, stages=stages, salt="s")
    )
    known = RolloutInfo(
        id="r",
        model="m",
        channel="c",
        release=2,
        from_release=1,
        state="running",
        plan=plan,
        progress=machine.start(plan, 1.0).progress,
    )
    again = RolloutInfo.model_validate_json(known.model_dump_json())
    assert again.plan == plan and again.progress.stage_times == (1.0,) and again.verdict is None


def test_a_device_that_has_reported_nothing_has_a_blank_report() -> None:
    silent = DeviceInfo.model_validate({"id": "d", "channel": "stable", "state": "offline", "info": {}})
    assert silent.info == AgentReport(agent="", channel="")
    newer = {"agent": "9", "channel": "c", "disk_free": 5, "of_a_newer_version": 1}
    assert DeviceInfo.model_validate({**silent.model_dump(), "info": newer}).info.disk_free == 5


def test_an_event_is_the_message_that_it_holds() -> None:
    def event(kind: str, body: dict[str, object]) -> DeviceEventInfo:
        return DeviceEventInfo.model_validate(
            {"id": 1, "device_id": "d", "spool": "s", "seq": 1, "at": 0, "received_at": 0, "kind": kind, "body": body}
        )

    report = event("model", {"model": "m", "state": "committed", "active": 3, "of_a_newer_version": 1}).report
    assert isinstance(report, ModelReport) and report.active == 3
    assert event("of-a-newer-version", {"x": 1}).report is None and event("model", {"x": 1}).report is None
