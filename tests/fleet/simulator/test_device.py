"""A simulated device follows the channel by the agent's own rules, and does what its profile says."""

from __future__ import annotations

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given, settings

from fleet.protocol import topics
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import DeviceMe, Notify
from fleet.protocol.shadow import Shadow
from fleet.simulator.device import Enrolled, SimulatedDevice
from fleet.simulator.outbox import Counts
from fleet.simulator.profiles import PROFILES, DeviceProfile
from tests.fleet.simulator.hub_side import START, HubSide, rollout, view
from tests.support.size import examples


def device(profile: str | DeviceProfile = "healthy", name: str = "sim-1", seed: int = 0) -> HubSide:
    chosen = PROFILES[profile] if isinstance(profile, str) else profile
    made = SimulatedDevice(Enrolled(name, "stable", topics.PREFIX), chosen, Counts(), seed=seed, started=START)
    return HubSide(made)


def test_it_installs_the_default_and_tells_every_step() -> None:
    hub = device()
    hub.run(view(1), 60.0)
    assert [state for state, _, _ in hub.states()] == ["fetching", "verifying", "trying", "probation", "committed"]
    assert hub.device.active("m") == 1 and hub.device.waiting == 0
    assert len(hub.windows()) >= 2 and all(window.release == 1 for window in hub.windows())
    assert len(hub.statuses) >= 2


def test_it_enters_a_rollout_only_from_the_committed_default() -> None:
    hub = device()
    hub.run(view(1, 2, rollout=rollout()), 60.0)
    actives = [active for state, active, _ in hub.states() if state == "committed"]
    assert actives == [1, 2]
    assert any(window.pairs is not None and window.rollout == "r1" for window in hub.windows())


def test_outside_the_cohort_it_stays() -> None:
    hub = device()
    hub.run(view(1, 2, rollout=rollout(share_ppm=0)), 60.0)
    assert hub.device.active("m") == 1


def test_an_abort_brings_it_back_at_once() -> None:
    hub = device()
    hub.run(view(1, 2, rollout=rollout()), 60.0)
    assert hub.device.active("m") == 2
    notify = encode_json(Notify(channel="stable", version=2))
    hub.take(hub.device.heard(topics.notify("stable"), notify, 60.5), 60.5)
    hub.run(view(1, 2, version=2), 62.0, begin=60.5)
    assert hub.device.active("m") == 1


def test_a_view_that_is_older_than_the_notice_is_not_the_last_word() -> None:
    """All devices of a process share a view for a second, and a notice may come in that second."""
    hub = device()
    hub.run(view(1), 60.0)
    notice = encode_json(Notify(channel="stable", version=2))
    hub.take(hub.device.heard(topics.notify("stable"), notice, 60.4), 60.4)
    assert hub.device.begins_look(60.5)
    hub.take(hub.device.heard(topics.notify("stable"), notice, 60.5), 60.5)
    hub.take(hub.device.looked(view(1), DeviceMe(device_id="sim-1", channel="stable"), 60.6), 60.6)
    assert not hub.device.begins_look(61.6), "the shared view is the same for a second"
    hub.run(view(2, default=2, version=2), 70.0, begin=60.6)
    assert hub.device.active("m") == 2
    hub.take(hub.device.heard(topics.notify("stable"), encode_json(Notify(channel="stable", version=99)), 71.0), 71.0)
    looks = hub.device.counts.looks
    hub.run(view(2, default=2, version=2), 100.0, begin=71.0)
    assert hub.device.counts.looks <= looks + 2, "a forged notice costs two looks, not one for every second"


@pytest.mark.parametrize(("profile", "reason"), [("failing", "failures"), ("crash-loop", "crash-loop")])
def test_a_bad_release_is_rolled_back_and_not_tried_again(profile: str, reason: str) -> None:
    hub = device(DeviceProfile(failing=0.5) if profile == "failing" else profile)
    hub.run(view(1, 2, rollout=rollout()), 120.0)
    assert ("rolled_back", 1, reason) in hub.states()
    assert sum(state == "fetching" for state, _, _ in hub.states()) == 2
    assert hub.device.active("m") == 1


def test_a_pin_and_a_release_that_cannot_be_had() -> None:
    me = DeviceMe(device_id="sim-1", channel="stable", pins={"m": 3})
    pinned = device()
    pinned.run(view(1, 3), 60.0, me=me)
    assert pinned.device.active("m") == 3
    missing = device()
    missing.run(view(1), 60.0, me=me)
    assert missing.device.active("m") is None
    assert missing.states()[0] == ("idle", None, "unsigned")


def test_it_compares_the_release_of_a_shadow_stage_and_serves_its_own() -> None:
    stage = msgspec.structs.replace(rollout(share_ppm=0), shadow=Shadow())
    hub = device("busy")
    hub.run(view(1, 2, rollout=stage), 60.0)
    assert hub.device.active("m") == 1
    told = [window.shadow for window in hub.windows() if window.shadow is not None]
    assert told and all((said.old, said.new, said.rollout, said.attempt) == (1, 2, "r1", 1) for said in told)
    agree, differ = sum(said.agree for said in told), sum(said.differ for said in told)
    assert 0.9 < agree / (agree + differ) < 1.0 and agree + differ > 300
    hub.run(view(1, 2, version=2), 4000.0, begin=60.25)
    assert hub.windows()[-1].shadow is None, "the stage is over"


def test_an_agent_that_cannot_shadow_says_so_and_compares_nothing() -> None:
    stage = msgspec.structs.replace(rollout(share_ppm=0), shadow=Shadow())
    seen = msgspec.structs.replace(view(1, 2, rollout=stage), capabilities=("shadow", "task:custom"))
    made = SimulatedDevice(
        Enrolled("d", "stable", topics.PREFIX), PROFILES["busy"], Counts(), seed=0, started=START, shadows=False
    )
    hub = HubSide(made)
    hub.run(seen, 60.0)
    (about,) = [body for body in hub.bodies if hasattr(body, "capabilities")]
    assert about.capabilities == ("task:custom",) and all(window.shadow is None for window in hub.windows())
    able = device()
    able.run(seen, 5.0)
    assert next(body for body in able.bodies if hasattr(body, "capabilities")).capabilities == seen.capabilities


def test_a_slow_link_takes_its_time() -> None:
    hub = device(DeviceProfile(bytes_per_s=1000.0))
    hub.run(view(1), 15.0)
    assert hub.device.active("m") is None
    hub.run(view(1), 60.0, begin=15.25)
    assert hub.device.active("m") == 1


def test_a_silent_device_stays_connected_and_tells_nothing_more() -> None:
    hub = device("silent")
    hub.run(view(1), 30.0)
    told = len(hub.bodies), len(hub.statuses)
    hub.run(view(1), 200.0, begin=30.25)
    hub.command(200.0, "diagnose", {})
    assert (len(hub.bodies), len(hub.statuses)) == told and hub.device.online


def test_it_says_what_it_understands() -> None:
    hub = device()
    hub.run(msgspec.structs.replace(view(1), capabilities=("a", "b")), 10.0)
    assert [body.capabilities for body in hub.bodies if hasattr(body, "capabilities")] == [("a", "b")]


def test_a_wrong_clock_stands_in_its_records_and_obeys_all_the_same() -> None:
    hub = device("wrong-clock")
    hub.run(view(1), 60.0)
    assert hub.device.active("m") == 1 and hub.device.waiting == 0
    assert all(envelope.at > START + 300 * 86_400 for envelope in hub.seen)


def test_duplicates_are_the_same_bytes() -> None:
    hub = device("duplicating")
    hub.run(view(1), 200.0)
    numbers = [envelope.seq for envelope in hub.seen]
    assert len(set(numbers)) < len(numbers) and hub.device.waiting == 0
    bodies: dict[int, bytes] = {}
    assert all(bodies.setdefault(envelope.seq, bytes(envelope.body)) == bytes(envelope.body) for envelope in hub.seen)


def test_what_is_not_the_hubs_is_refused() -> None:
    hub = device()
    hub.run(view(1), 5.0)
    before = hub.device.counts.refused
    for payload in (b"", b"{}", b"\xff" * 50):
        hub.take(hub.device.heard(topics.command("sim-1"), payload, 5.0), 5.0)
    hub.command(5.0, "receipt", {"spool": hub.spool, "committed": 10**9}, device="other")
    hub.command(5.0, "receipt", {"spool": 7})
    assert hub.device.counts.refused == before + 5


def test_an_unknown_command_is_answered() -> None:
    hub = device()
    hub.run(view(1), 5.0)
    hub.command(5.0, "benchmark", {})
    hub.command(5.0, "diagnose", {})
    answers = [(body.kind, body.ok) for body in hub.bodies if hasattr(body, "ok")]
    assert answers == [("benchmark", False), ("diagnose", True)]


def test_the_same_seed_does_the_same() -> None:
    runs = []
    for seed in (0, 0, 1):
        hub = device(seed=seed)
        hub.run(view(1, 2, rollout=rollout()), 100.0)
        runs.append([(envelope.seq, envelope.at, bytes(envelope.body)) for envelope in hub.seen])
    assert runs[0] == runs[1] != runs[2]


@given(
    steps=st.lists(st.tuples(st.sampled_from(["wait", "cut", "lose"]), st.floats(0.1, 30.0)), min_size=1, max_size=25),
    duplicates=st.sampled_from([0.0, 0.5]),
)
@settings(max_examples=examples(30), deadline=None)
def test_nothing_is_lost_or_taken_twice_whatever_the_connection_does(
    steps: list[tuple[str, float]], duplicates: float
) -> None:
    hub, now = device(DeviceProfile(duplicates=duplicates)), 0.0
    seen, me = view(1, 2, rollout=rollout()), DeviceMe(device_id="sim-1", channel="stable")
    for what, pause in [*steps, ("wait", 400.0), ("wait", 400.0)]:
        if not hub.device.online:
            hub.take(hub.device.connected(now), now, lose_receipt=what == "lose")
        if hub.device.begins_look(now):
            hub.take(hub.device.looked(seen, me, now), now, lose_receipt=what == "lose")
        hub.take(hub.device.wake(now), now, lose_receipt=what == "lose")
        if what == "cut":
            hub.device.disconnected()
        now += pause
    for _ in range(200):
        hub.take(hub.device.wake(now), now)
        now += 5.0
        if not hub.device.waiting:
            break
    assert hub.device.waiting <= 1
    assert hub.committed == len(hub.bodies) == hub.device.counts.records - hub.device.waiting
