"""A clock that runs a year ahead and comes back: everything periodic goes on within one of its periods.

Each test lets the hub work at the right time, a year ahead, and at the right time again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography import x509
from sqlmodel import select

from cloud_hub.clock import MEASURE_S, SLACK_S, DatabaseClock, clock_of
from cloud_hub.drift import epochs
from cloud_hub.drift.engine import DriftEngine
from cloud_hub.drift.policy import DriftPolicy
from cloud_hub.drift.scope import CheckedRelease, Scope, ServedRelease
from cloud_hub.errors import RateError, UnauthenticatedError
from cloud_hub.identity import ca
from cloud_hub.identity.own import renew_own
from cloud_hub.identity.rates import RateLimiter
from cloud_hub.identity.renewal import certify, is_due, past_half
from cloud_hub.ingest.commands import send_command, waiting
from cloud_hub.ingest.service import Ingest
from cloud_hub.jobs import queue
from cloud_hub.jobs.running import Running
from cloud_hub.monitoring.health import judge_clock
from cloud_hub.opening.bootstrap import open_hub
from cloud_hub.rollouts import create_rollout
from cloud_hub.rollouts.engine import RolloutEngine
from cloud_hub.samples import store
from cloud_hub.samples.retention import Retention
from cloud_hub.services.leases import hold_lease
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.store.engine import make_engine
from cloud_hub.store.tables import Device, DriftMonitor, Metadata, OutboxCommand, SampleRow
from cloud_hub.trust import repository
from cloud_hub.trust.rows import latest_metadata
from fleet.protocol.manifest import decode_manifest
from fleet.protocol.messages import Command, Sample, Signed
from fleet.protocol.tensors import to_array
from fleet.rollouts.schedule import Schedule
from tests.support.databases import migrated_postgres
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub
from tests.support.manifests import small_release
from tests.support.rollouts import GUARD, evidence, make_fleet, row_of, start

YEAR_S = 365 * 86_400.0
DAY_S = 86_400.0


@pytest.fixture
def both(tmp_path: Path, hub_database: str) -> Iterator[HubFixture]:
    """A hub on each database."""
    made = make_hub(tmp_path, database=hub_database)
    yield made
    made.hub.engine.dispose()


class Counting(PeriodicService):
    """An engine that counts its looks."""

    name = "counting"
    looks = 0

    def look(self) -> None:
        self.looks += 1


def test_an_engine_leads_again_though_a_replica_took_the_lease_a_year_ahead(both: HubFixture) -> None:
    here, other = Counting(both.hub, 1.0), Counting(both.hub, 1.0)
    both.clock.advance(YEAR_S)
    other.step()
    both.clock.advance(-YEAR_S)
    here.step()
    other.step()
    assert (other.looks, here.looks) == (1, 1)  # and now the lease is an honest one, which holds the other back


def test_a_small_step_back_takes_no_lease_away(both: HubFixture) -> None:
    with both.hub.session() as session:
        assert hold_lease(session, "x", "one", both.clock(), 30.0)
    with both.hub.session() as session:
        assert not hold_lease(session, "x", "two", both.clock() - SLACK_S, 30.0)
        assert hold_lease(session, "x", "two", both.clock() - SLACK_S - 1, 30.0)


def test_a_job_that_was_claimed_a_year_ahead_is_claimed_again(both: HubFixture) -> None:
    job = queue.submit(both.hub, "k", actor="t").id
    both.clock.advance(YEAR_S)
    assert queue.claim(both.hub, "dead") is not None
    both.clock.advance(-YEAR_S)
    taken = queue.claim(both.hub, "alive")
    assert taken is not None and (taken.id, taken.attempt) == (job, 2)
    assert queue.claim(both.hub, "other") is None  # this lease holds


def test_a_job_that_was_tried_out_a_year_ahead_is_given_up(both: HubFixture) -> None:
    job = queue.submit(both.hub, "k", actor="t").id
    both.clock.advance(YEAR_S)
    for _ in range(3):
        assert queue.claim(both.hub, "dead") is not None
        both.clock.advance(queue.LEASE_S + 1)
    both.clock.advance(-YEAR_S)
    assert queue.claim(both.hub, "alive") is None
    assert queue.get(both.hub, job).state == "failed"


def test_a_job_that_was_queued_a_year_ahead_does_not_come_last_for_ever(both: HubFixture) -> None:
    both.clock.advance(YEAR_S)
    late = queue.submit(both.hub, "k", actor="t").id
    both.clock.advance(-YEAR_S)
    queue.submit(both.hub, "k", actor="t")
    taken = queue.claim(both.hub, "w")
    assert taken is not None and taken.id == late


def test_a_job_goes_on_telling_its_progress(hub: HubFixture) -> None:
    queue.submit(hub.hub, "k", actor="t")
    hub.clock.advance(YEAR_S)
    job = queue.claim(hub.hub, "w")
    assert job is not None
    running = Running(hub.hub, job, "w")
    running.step("half", 0.5)
    hub.clock.advance(-YEAR_S)
    running._last -= 1.0  # a second later, by the monotonic clock
    running.step("half", 0.6)
    assert queue.get(hub.hub, job.id).progress == 0.6


def test_a_rollout_meets_its_deadline_though_its_stage_began_a_year_ahead(both: HubFixture) -> None:
    fleet = make_fleet(both)
    fleet.clock.advance(YEAR_S)
    rollout = start(fleet)
    fleet.clock.advance(-YEAR_S)
    engine = RolloutEngine(fleet.hub)
    engine.step()
    assert row_of(fleet, rollout).progress["deadline_from"] == fleet.clock()
    fleet.clock.advance(3601)
    heard(fleet)
    engine.step()
    assert row_of(fleet, rollout).state == "holding"


def heard(fleet: HubFixture) -> None:
    """Every device says something now."""
    with fleet.hub.session() as session:
        for device in session.exec(select(Device)):
            device.last_seen_at = fleet.clock()


def test_a_rollout_soaks_though_it_settled_a_year_ahead(hub: HubFixture) -> None:
    fleet = make_fleet(hub)
    rollout = create_rollout(
        fleet.hub, model="digits", release=2, channel="stable", stages=[34, 100], soak_s=10, guard=GUARD, actor="test"
    ).id
    engine = RolloutEngine(hub.hub)
    evidence(fleet, rollout)
    for moved in (YEAR_S, -YEAR_S):
        fleet.clock.advance(moved)
        heard(fleet)
        engine.step()
    assert row_of(fleet, rollout).progress["settled_at"] == fleet.clock()
    assert row_of(fleet, rollout).progress["stage"] == 0
    fleet.clock.advance(11)
    engine.step()
    assert row_of(fleet, rollout).progress["stage"] == 1


def test_devices_that_were_heard_a_year_ahead_become_silent(both: HubFixture) -> None:
    fleet = make_fleet(both)
    with fleet.hub.session() as session:
        for device in session.exec(select(Device)):
            device.online, device.last_seen_at = True, fleet.clock() + YEAR_S
    ingest = Ingest(fleet.hub)
    ingest._sweep()
    with fleet.hub.reading() as session:
        found = session.exec(select(Device)).all()
    assert {(device.online, device.last_seen_at) for device in found} == {(True, fleet.clock())}
    fleet.clock.advance(fleet.hub.config.offline_after_s + 1)
    ingest._sweep()
    with fleet.hub.reading() as session:
        assert not any(device.online for device in session.exec(select(Device)))


def test_a_drift_baseline_that_begins_a_year_ahead_begins_now(both: HubFixture) -> None:
    both.model()
    sketch = decode_manifest(small_release(sketch_id="s" * 64)[0]).sketch
    assert sketch is not None

    def stepped(since: float) -> DriftMonitor:
        served = ServedRelease(release=1, default=True, since=since)
        target = CheckedRelease(model="digits", served=served, scope=Scope(watched=(served,)), upto=0)
        with both.hub.session() as session:
            monitor = epochs.current(both.hub, session, target, sketch, DriftPolicy())
            session.add(monitor)
        return monitor

    stepped(0.0)
    both.clock.advance(YEAR_S)
    ahead = both.clock()
    stepped(ahead)  # it became a default
    both.clock.advance(-YEAR_S)
    assert stepped(ahead).document["since"] == both.clock()


def test_the_drift_engine_scans_again(both: HubFixture) -> None:
    here, other = DriftEngine(both.hub), DriftEngine(both.hub)
    looks: list[str] = []
    here.look = lambda: looks.append("here")  # type: ignore[method-assign]
    both.clock.advance(YEAR_S)
    other.step()
    both.clock.advance(-YEAR_S)
    here.step()
    assert looks == ["here"]


def sample(number: int, at: float) -> Sample:
    x = to_array("x", np.zeros((1, 4), np.float32))
    return Sample(
        id=f"s{number}",
        model="digits",
        release=1,
        variant="v",
        at=at,
        reason="random",
        inputs=(x,),
        outputs=(),
        confidence=0.5,
        prediction=1,
    )


def test_samples_that_came_a_year_ahead_are_kept_for_their_retention_from_now(both: HubFixture) -> None:
    both.model()
    both.clock.advance(YEAR_S)
    store.commit(both.hub, "kiosk", [sample(1, both.clock())])
    both.clock.advance(-YEAR_S)
    assert store.sweep(both.hub) == 0
    both.clock.advance(29 * DAY_S)
    assert store.sweep(both.hub) == 0
    both.clock.advance(2 * DAY_S)
    assert store.sweep(both.hub) == 1
    with both.hub.reading() as session:
        assert session.get_one(SampleRow, "s1").deleted_at == both.clock()


def test_a_clock_that_jumps_ahead_deletes_no_sample_for_an_hour(hub: HubFixture) -> None:
    hub.model()
    store.commit(hub.hub, "kiosk", [sample(1, hub.clock())])
    retention = Retention(hub.hub, monotonic=lambda: 0.0)
    assert retention.look() == 0
    hub.clock.advance(YEAR_S)
    assert retention.look() == 0  # set back within the hour, and nothing is lost
    hub.clock.advance(-YEAR_S)
    assert retention.look() == 0
    hub.clock.advance(YEAR_S)
    assert [retention.look(), retention.look()] == [0, 1]  # it stays: that is the time


def ends(hub: HubFixture) -> dict[str, float]:
    with hub.hub.reading() as session:
        return {role: repository.expires_at(body) for role, body in latest_metadata(session).items()}


def versions(hub: HubFixture) -> dict[str, int]:
    with hub.hub.reading() as session:
        return {role: repository.version_of(body) for role, body in latest_metadata(session).items()}


def test_what_was_signed_a_year_ahead_is_signed_again(both: HubFixture) -> None:
    both.clock.advance(YEAR_S)
    assert "timestamp" in both.hub.publisher.refresh()
    ahead = versions(both)
    both.clock.advance(-YEAR_S)
    assert set(both.hub.publisher.refresh()) == {"models", "channels", "snapshot", "timestamp"}
    after, life = versions(both), both.hub.config.expiry
    for role in ("models", "channels", "snapshot", "timestamp"):
        assert after[role] > ahead[role], role
        assert ends(both)[role] == pytest.approx(both.clock() + getattr(life, role) * DAY_S, abs=1), role
    assert both.hub.publisher.refresh() == ()
    published = both.hub.objects.get("tuf/metadata/timestamp.json").data
    assert repository.version_of(published) == after["timestamp"]
    with both.hub.reading() as session:
        row = session.get_one(Metadata, ("timestamp", after["timestamp"]))
    assert judge_clock(both.clock(), row.created_at, None).state == "ok"


def test_a_life_that_is_configured_shorter_is_signed_once(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, expiry={"channels": 60.0})
    shorter = open_hub(
        hub.hub.config.model_copy(update={"expiry": hub.hub.config.expiry.model_copy(update={"channels": 10.0})}),
        clock=hub.clock,
    )
    assert shorter.publisher.refresh() == ("channels",)
    assert shorter.publisher.refresh() == ()


def test_certificates_that_were_issued_a_year_ahead_are_due(hub: HubFixture) -> None:
    key = DeviceKey()
    device = Device(
        id="k",
        public_key=ca.public_pem(key.key.public_key()),
        key_fingerprint="f",
        certificate="",
        certificate_serial="",
        certificate_expires_at=0.0,
        channel="stable",
        enrolled_at=0.0,
    )
    hub.clock.advance(YEAR_S)
    with hub.hub.session() as session:
        certify(hub.hub, session, device)
    assert not past_half(hub.hub, device)
    hub.clock.advance(-YEAR_S)
    assert past_half(hub.hub, device) and is_due(hub.hub, device)
    with hub.hub.session() as session:
        certify(hub.hub, session, device)
    assert not past_half(hub.hub, device) and not is_due(hub.hub, device)


def test_the_hubs_own_certificates_of_a_year_ahead_are_renewed(hub: HubFixture) -> None:
    renewed = renew_own(hub.hub.config, hub.clock() + 10 * YEAR_S)
    assert len(renewed) == 2
    assert renew_own(hub.hub.config, hub.clock()) == renewed
    found = x509.load_pem_x509_certificate(hub.hub.config.server_certificate.read_bytes())
    assert found.not_valid_before_utc.timestamp() <= hub.clock()
    assert renew_own(hub.hub.config, hub.clock()) == ()


def test_a_devices_token_of_a_year_ahead_does_not_last_a_year(hub: HubFixture) -> None:
    tokens = hub.hub.device_tokens
    ahead = tokens.token("k", now=hub.clock() + YEAR_S)
    nonce = tokens.nonce("k", now=hub.clock() + YEAR_S)
    with pytest.raises(UnauthenticatedError):
        tokens.verify_token(ahead, now=hub.clock())
    with pytest.raises(UnauthenticatedError):
        tokens.check_nonce("k", nonce, now=hub.clock())
    assert tokens.verify_token(tokens.token("k", now=hub.clock() + SLACK_S - 1), now=hub.clock()) == "k"


def test_a_rate_is_not_used_up_for_a_year() -> None:
    limiter = RateLimiter()
    limiter.take("a", 1.0, YEAR_S)
    with pytest.raises(RateError):
        limiter.take("a", 1.0, 0.0)
    limiter.take("a", 1.0, 1.1)


def test_a_command_of_a_year_ahead_is_sent_with_an_honest_end(both: HubFixture) -> None:
    fleet = make_fleet(both)
    fleet.clock.advance(YEAR_S)
    send_command(fleet.hub, "d-0", "diagnose", {})
    fleet.clock.advance(-YEAR_S)
    ((_, _, payload),) = waiting(fleet.hub)
    command = msgspec.json.decode(msgspec.json.decode(payload, type=Signed).payload, type=Command)
    assert command.expires_at == fleet.clock() + DAY_S
    with fleet.hub.reading() as session:
        assert session.exec(select(OutboxCommand)).one().expires_at > fleet.clock() + YEAR_S


def test_a_revocation_list_is_valid_at_once(hub: HubFixture) -> None:
    listed = x509.load_pem_x509_crl(hub.hub.authority.revocation_list((), hub.clock()))
    assert listed.last_update_utc.timestamp() < hub.clock() - 600  # for a broker whose machine is a little behind


class Times:
    """A machine's wall and monotonic clock, turned by hand."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 0.0, 0.0


def test_replicas_whose_clocks_differ_by_years_agree_on_the_databases(postgres: str) -> None:
    engine, times = make_engine(migrated_postgres(postgres, "edgeloop_clock")), Times()
    clock = DatabaseClock(engine, wall=lambda: times.wall, monotonic=lambda: times.monotonic)
    times.wall = 4e9
    assert clock() == 4e9  # not asked yet: this machine's own
    true = now_of(engine)
    assert clock() == pytest.approx(true, abs=5)
    times.wall = 1.0  # set by somebody: nothing changes
    times.monotonic += 3.0
    assert clock() == pytest.approx(true + 3, abs=5)
    times.monotonic += 1000.0  # a machine that slept; its next connection measures anew
    assert clock() == pytest.approx(true + 1003, abs=5)
    assert now_of(engine) == pytest.approx(clock(), abs=30)
    engine.dispose()


def test_a_hub_whose_machine_is_a_year_ahead_neither_begins_nor_expires_a_rollout(
    tmp_path: Path, postgres: str
) -> None:
    import time

    begins, url = time.time() + DAY_S, migrated_postgres(postgres, "edgeloop_test")
    fleet = make_fleet(make_hub(tmp_path, start=time.time(), database=url))
    rollout = create_rollout(
        fleet.hub,
        model="digits",
        release=2,
        channel="stable",
        stages=[100],
        guard=GUARD,
        actor="test",
        schedule=Schedule(start_at=begins, expires_at=begins + DAY_S),
    ).id
    ahead = DatabaseClock(fleet.hub.engine, wall=lambda: time.time() + YEAR_S)
    assert ahead() > begins + DAY_S, "as long as it has not asked the database"
    RolloutEngine(replace(fleet.hub, clock=ahead)).step()
    assert row_of(fleet, rollout).state == "scheduled"
    fleet.hub.engine.dispose()


def now_of(engine: object) -> float:
    from sqlalchemy import text

    with engine.connect() as connection:  # type: ignore[attr-defined]
        return float(connection.execute(text("SELECT extract(epoch FROM clock_timestamp())::float8")).scalar_one())


def test_the_distance_is_measured_now_and_then(postgres: str) -> None:
    engine, times = make_engine(migrated_postgres(postgres, "edgeloop_clock")), Times()
    clock = DatabaseClock(engine, wall=lambda: times.wall, monotonic=lambda: times.monotonic)
    now_of(engine)
    first = clock._offset
    now_of(engine)
    assert clock._offset == first
    times.monotonic += MEASURE_S
    now_of(engine)
    assert clock._offset != first
    engine.dispose()


def test_sqlite_has_the_machines_clock(tmp_path: Path) -> None:
    import time

    engine = make_engine(f"sqlite:///{tmp_path / 'x.db'}")
    assert clock_of(engine) is time.time
    engine.dispose()


def test_a_hub_on_postgresql_has_the_databases_clock(tmp_path: Path, postgres: str) -> None:
    made = make_hub(tmp_path, database=migrated_postgres(postgres, "edgeloop_test"))
    made.hub.engine.dispose()
    hub = open_hub(made.hub.config)
    assert isinstance(hub.clock, DatabaseClock)
    with hub.session() as session:
        session.connection()
    assert hub.clock._offset is not None
    hub.engine.dispose()
