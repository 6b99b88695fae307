"""A device that was away for weeks or months, and what it comes back to.

A real hub application over TLS, the agent's real update session, identity and runtime; the clocks of
both are turned by the test. In every case the device goes on answering, and either recovers by
itself or says what an operator must do.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlmodel import select

from cloud_hub.opening.bootstrap import open_publisher
from cloud_hub.store.tables import AuditEntry, CertificateRow
from cloud_hub.trust import ceremony
from edge_agent.errors import AgentError
from edge_agent.identity.certificates import expires_at
from edge_agent.identity.http import ENROL_ANEW
from edge_agent.serving.slots import Slots
from tests.support import models
from tests.support.device import LOOP, Device, FakeActivator, claim, follow, listening, publish
from tests.support.hub import PASSPHRASE, HubFixture, make_hub
from tests.support.in_process import InProcessChildren

pytestmark = pytest.mark.fault

DAY = 86_400.0
X = models.inputs(3)


class Answering(FakeActivator):
    """Real slots and a real runtime; `ever` remembers every release that served."""

    def __init__(self) -> None:
        super().__init__()
        self.slots, self.ever = Slots(), []

    async def activate(self, release, previous, pairing) -> None:
        await self.slots.activate(release, previous, pairing)
        await super().activate(release, previous, pairing)
        self.ever.append(release.number)

    async def deactivate(self, model: str) -> None:
        raise AssertionError(f"{model} was taken out of service")


class Absent:
    """A device with release 1 committed, and its hub; `now` is the device's clock, which may be wrong."""

    def __init__(self, hub: HubFixture, url: str, directory: Path) -> None:
        self.hub, self.now, self.folder = hub, hub.clock.now, directory
        follow(hub, publish(hub, directory))
        self.device = Device(url, claim(hub), directory / "agent")
        self.restart()
        assert self.look() == ""
        self.device.commit()

    def restart(self) -> None:
        """The agent starts anew, as after a power cut."""
        children = InProcessChildren(self.device.config, lambda: self.now)
        self.device.restart(children=children, activator=Answering(), clock=lambda: self.now)
        self.device.start()

    def away(self, seconds: float, *, clock: bool = True) -> None:
        """Time passes without contact; the hub signs anew what is due, as `serve` does."""
        self.hub.clock.advance(seconds)
        self.hub.hub.publisher.refresh()
        if clock:
            self.now += seconds

    def look(self) -> str:
        """One look; the problem that is reported, or the failure's reason."""
        try:
            while self.device.look():
                pass
        except AgentError as error:
            return error.reason
        finally:
            self.answers()
        return self.looked.problem

    def answers(self) -> int:
        """Ask the model in service; the number of the release that answered."""
        with self.device.activator.slots.lease("tiny") as served:
            if served is None:
                assert self.device.state().active is None
                return 0
            np.testing.assert_allclose(served.run({"input": X})["logits"], models.answer(X), atol=1e-4)
            return served.release.number

    @property
    def looked(self):
        return self.device.updater.file.state.looked

    @property
    def identity(self) -> Path:
        return self.device.config.identity

    def offer(self, seed: int = 2) -> int:
        """Publish another release and make it the channel's."""
        number = publish(self.hub, self.folder, seed=seed)
        follow(self.hub, number)
        return number

    def reopen(self) -> None:
        """The hub starts anew, with the keys that lie on its disk now."""
        publisher = open_publisher(self.hub.hub.config, clock=self.hub.clock)
        self.hub.hub = dataclasses.replace(self.hub.hub, publisher=publisher)

    def audited(self) -> list[str]:
        with self.hub.hub.reading() as session:
            return [row.action for row in session.exec(select(AuditEntry)) if row.action.startswith("device.")]


@pytest.fixture
def absent(tmp_path: Path) -> Iterator[Absent]:
    hub = make_hub(tmp_path, start=time.time())
    with listening(hub, tls=True) as url:
        yield Absent(hub, url, tmp_path)


@pytest.mark.parametrize("days", [8, 45, 200])
def test_after_weeks_it_catches_up_by_itself(absent: Absent, days: int) -> None:
    absent.away(days * DAY)
    number = absent.offer()
    absent.restart()
    assert absent.look() == ""
    assert absent.answers() == number


def test_a_hub_that_stood_still_too_is_named_and_new_releases_wait(absent: Absent) -> None:
    number = absent.offer()
    absent.hub.clock.advance(40 * DAY)  # nobody signs anew
    absent.now += 40 * DAY
    assert absent.look() == "expired-metadata" and absent.answers() == 1
    assert "timestamp.json is expired" in absent.looked.hint and "`cloud-hub serve DIR`" in absent.looked.hint
    state = absent.device.state()
    assert state.reason == "expired-metadata" and "cloud-hub serve" in state.detail
    absent.hub.hub.publisher.refresh()
    assert absent.look() == "" and absent.answers() == number


def test_metadata_that_is_signed_by_hand_names_the_ceremony(absent: Absent) -> None:
    absent.away(370 * DAY)
    assert absent.look() == "expired-metadata" and absent.answers() == 1
    assert "`cloud-hub keys renew DIR --offline-keys DIR2`" in absent.looked.hint
    ceremony.renew(absent.hub.hub.publisher.transactions, absent.hub.offline, PASSPHRASE)
    absent.hub.hub.publisher.refresh(force=True)
    assert absent.look() == "" and absent.looked.hint == ""


def test_a_certificate_is_renewed_in_time(absent: Absent) -> None:
    first = expires_at(absent.identity)
    absent.away(40 * DAY)
    assert absent.look() == "" and expires_at(absent.identity) == first
    absent.away(15 * DAY)
    assert absent.look() == "" and expires_at(absent.identity) > first
    assert absent.looked.certificate_expires == expires_at(absent.identity)
    renewed = expires_at(absent.identity)
    assert absent.look() == "" and expires_at(absent.identity) == renewed
    assert absent.audited() == ["device.enroll", "device.renew", "device.new-key"]


def test_a_certificate_that_has_expired_is_replaced_with_the_old_key(absent: Absent) -> None:
    absent.away(200 * DAY)
    assert expires_at(absent.identity) < absent.now
    absent.restart()
    assert absent.look() == "" and expires_at(absent.identity) > absent.now + 80 * DAY
    assert absent.audited() == ["device.enroll", "device.re-enrol", "device.new-key"]


def test_a_device_that_was_revoked_meanwhile_is_told_what_to_do_and_serves_on(absent: Absent) -> None:
    absent.away(200 * DAY)
    answer = absent.hub.client.post("/api/v1/devices/dev-1/revoke", headers=absent.hub.auth())
    assert answer.status_code == 200

    async def look_until_something_is_wrong() -> None:
        running = asyncio.create_task(absent.device.updater.run())
        async with asyncio.timeout(30):
            while not absent.looked.problem:
                await asyncio.sleep(0.01)
        running.cancel()

    LOOP.run(look_until_something_is_wrong())
    assert absent.looked.problem == "denied"
    assert absent.looked.hint == f"the hub refuses this device; {ENROL_ANEW}"
    assert absent.answers() == 1
    with absent.hub.hub.reading() as session:
        assert len(session.exec(select(CertificateRow)).all()) == 1


def test_a_root_that_was_rotated_several_times_is_followed(absent: Absent) -> None:
    keys = absent.hub.hub.config.keys_dir
    for name in ("root", "targets", "root", "timestamp", "root"):
        absent.away(20 * DAY)
        ceremony.rotate(absent.hub.hub.publisher.transactions, name, keys, absent.hub.offline, PASSPHRASE)
        absent.reopen()
    number = absent.offer()
    absent.restart()
    assert absent.look() == "" and absent.answers() == number
    assert absent.looked.tuf["root"] >= 5


def test_a_channel_many_versions_ahead_is_reached_in_one_step(absent: Absent) -> None:
    for seed in range(2, 27):
        number = absent.offer(seed)
        absent.away(DAY)
    absent.restart()
    assert absent.look() == "" and absent.answers() == number == 26
    assert absent.device.activator.ever == [1, 26]
    moves = [report.state for report in absent.device.reporter.models if report.target or report.active == number]
    assert moves == ["fetching", "verifying", "trying", "probation"]
    assert absent.looked.channel.version >= 26


def test_a_clock_at_1970_reaches_the_hub_installs_nothing_new_and_obeys_a_halt(absent: Absent) -> None:
    second = absent.offer()
    assert absent.look() == ""
    absent.device.commit()
    third = absent.offer(3)
    absent.away(30 * DAY, clock=False)
    right, absent.now = absent.hub.clock.now, 0.0
    absent.restart()
    assert absent.look() == "clock-untrusted" and absent.answers() == second
    assert "the clock says 1970-01-01" in absent.looked.hint and "set this device's clock" in absent.looked.hint
    assert absent.looked.clock == "untrusted" and absent.device.state().reason == "clock-untrusted"
    follow(absent.hub, 1)  # back to a release that the device holds
    assert absent.look() == "clock-untrusted" and absent.answers() == 1
    follow(absent.hub, third)
    absent.now = right
    assert absent.look() == "" and absent.answers() == third


def test_a_clock_sixty_days_ahead_installs_nothing_new_and_does_no_lasting_harm(absent: Absent) -> None:
    number = absent.offer()
    first = expires_at(absent.identity)
    absent.now += 60 * DAY
    assert absent.look() == "expired-metadata" and absent.answers() == 1
    assert "this device's clock says" in absent.looked.hint
    assert expires_at(absent.identity) == first, "the hub says when to renew, not this clock"
    absent.now -= 60 * DAY
    assert absent.look() == "" and absent.answers() == number


def test_a_clock_that_goes_back_an_hour_changes_nothing(absent: Absent) -> None:
    number = absent.offer()
    absent.now -= 3600.0
    assert absent.look() == "" and absent.answers() == number
    assert absent.looked.clock == "trusted"


def test_everything_at_once(absent: Absent) -> None:
    """Away for 200 days: a new root, an expired certificate, many versions, another broker, and a clock at 1970."""
    publisher, keys = absent.hub.hub.publisher, absent.hub.hub.config.keys_dir
    for seed in range(2, 8):
        absent.away(33 * DAY, clock=False)
        number = absent.offer(seed)
    ceremony.rotate(publisher.transactions, "root", keys, absent.hub.offline, PASSPHRASE)
    absent.reopen()
    absent.now = 0.0
    absent.restart()
    assert absent.look() == "clock-untrusted" and absent.answers() == 1
    assert expires_at(absent.identity) > absent.hub.clock.now, "a wrong clock does not keep a device from its identity"
    absent.now = absent.hub.clock.now  # a time server answered
    assert absent.look() == "" and absent.answers() == number
