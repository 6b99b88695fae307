"""A revoked device is cut within seconds and stays out; no other connection notices."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from concurrent.futures import wait

import pytest
from sqlalchemy import event

from cloud_hub.broker.choose import open_link
from cloud_hub.broker.mosquitto import access_list
from cloud_hub.broker.revocation import LOOK_AGAIN_S, Evictor, Revocations
from fleet.protocol import topics
from tests.cloud_hub.broker.test_brokers import WAIT_S, Client, Site
from tests.cloud_hub.broker.test_brokers import each as each  # a hub of its own for each broker
from tests.cloud_hub.broker.test_brokers import own as own  # a hub of its own with Mosquitto
from tests.support.hub import HubFixture

REVOKED_S = 5.0


class Flow:
    """Messages of quality of service 1 that a device and the hub send each other without a pause."""

    def __init__(self, site: Site, link: object, device: Client) -> None:
        self._site, self._link, self._device = site, link, device
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def __enter__(self) -> Flow:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._device.up("report", b"up %d" % self.sent)
            self._link.publish(topics.command(self._device.name), b"down %d" % self.sent)  # type: ignore[attr-defined]
            self.sent += 1

    def check(self) -> None:
        """Each came once, in order."""
        last = self.sent - 1
        up, down = topics.uplink(self._device.name, "report"), topics.command(self._device.name)
        self._site.ear.wait(up, b"up %d" % last)
        self._device.ear.wait(down, b"down %d" % last)
        heard = [payload for topic, payload in self._site.ear.heard if topic == up]
        assert heard == [b"up %d" % number for number in range(self.sent)]
        heard = [payload for topic, payload in self._device.ear.heard if topic == down]
        assert heard == [b"down %d" % number for number in range(self.sent)]


def test_a_revoked_device_is_cut_and_the_others_do_not_notice(each: Site) -> None:
    for name in ("cam-1", "cam-2"):
        each.enrol(name)
    with open_link(each.hub, each.ear) as link:
        bad, good = each.online("cam-1"), each.online("cam-2")
        with Flow(each, link, good) as flow:
            each.revoke("cam-1")
            began, before = time.monotonic(), len(bad.events)
            link.revoke()
            bad.wait(lambda events: "ended" in events[before:], REVOKED_S)
            assert time.monotonic() - began < REVOKED_S
            bad.wait(lambda events: len(events) > events.index("ended") + 2)  # it tried again
        flow.check()
        assert bad.events.count("connected") == 1
        fresh = each.client("cam-1")
        fresh.wait(lambda events: "refused" in events or "ended" in events)
        assert "connected" not in fresh.events
        assert (good.events.count("connected"), good.events.count("ended")) == (1, 0)
        assert each.hub.board.read()["broker"].state == "ok"
        link.check()


def test_a_device_that_is_let_back_in_goes_on(each: Site) -> None:
    for name in ("cam-1", "cam-2"):
        each.enrol(name)
    with open_link(each.hub, each.ear) as link:
        back, good = each.online("cam-1"), each.online("cam-2")
        for times in (1, 2):
            each.revoke("cam-1")
            link.revoke()
            back.wait(lambda events, times=times: events.count("ended") >= times)
            each.let_back_in("cam-1")
            link.revoke()
            back.wait(lambda events, times=times: events.count("subscribed") >= times + 1)
            each.ear.wait_while(lambda: back.up("report", b"again"), topics.uplink("cam-1", "report"), b"again")
            back.ear.wait_while(lambda: link.publish(topics.command("cam-1"), b"on"), topics.command("cam-1"), b"on")
        assert (good.events.count("connected"), good.events.count("ended")) == (1, 0)


def login(name: str) -> bytes:
    """CONNECT of MQTT 3.1.1 with a persistent session."""
    text = name.encode()
    return bytes([0x10, 12 + len(text)]) + b"\x00\x04MQTT\x04\x00\x00\x3c" + bytes([0, len(text)]) + text


def report(name: str) -> bytes:
    """PUBLISH of quality of service 1."""
    topic = topics.uplink(name, "report").encode()
    rest = bytes([0, len(topic)]) + topic + b"\x00\x01forged"
    return bytes([0x32, len(rest)]) + rest


def connected(site: Site, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
    plain = socket.create_connection((site.mqtt.host, site.mqtt.port), WAIT_S)
    return context.wrap_socket(plain, server_hostname=site.mqtt.host, session=session)


def test_who_was_on_the_way_in_can_do_nothing_and_does_not_stay(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Evictor.__init__, "__defaults__", ((0.0, 0.5),))
    for name in ("cam-1", "cam-2"):
        own.enrol(name)
    with open_link(own.hub, own.ear) as link:
        good, bad = own.online("cam-2"), own.online("cam-1")
        late = connected(own, own.context("cam-1"))  # says nothing yet
        own.revoke("cam-1")
        link.revoke()
        bad.wait(lambda events: "ended" in events, REVOKED_S)
        with late:
            late.sendall(login("cam-1"))
            assert late.recv(4) == b" \x02\x00\x00"  # or the test would show nothing
            link.publish(topics.command("cam-1"), b"secret")
            link.publish(topics.notify("stable"), b"news")
            good.ear.wait(topics.notify("stable"), b"news")
            late.sendall(report("cam-1"))
            assert late.recv(64) == b"@\x02\x00\x01"  # acknowledged, and nothing else has come
            late.settimeout(0.05)
            deadline, rest = time.monotonic() + REVOKED_S, b"?"
            while rest and time.monotonic() < deadline:
                link.revoke()  # as the ingest does every second
                with contextlib.suppress(TimeoutError):
                    rest = late.recv(64)
            assert rest == b""
        good.up("report", b"last")
        own.ear.wait(topics.uplink("cam-2", "report"), b"last")
        assert b"forged" not in {payload for _, payload in own.ear.heard}


def test_a_tls_session_from_before_opens_nothing(own: Site) -> None:
    own.enrol("cam-1")
    with open_link(own.hub, own.ear) as link:
        context = own.context("cam-1")
        with connected(own, context) as first:
            first.sendall(login("cam-1"))
            assert first.recv(4) == b" \x02\x00\x00"
            session = first.session
        with connected(own, context, session) as second:
            assert second.session_reused  # or the test would show nothing
        bad = own.online("cam-1")
        own.revoke("cam-1")
        link.revoke()
        bad.wait(lambda events: "ended" in events, REVOKED_S)
        with (
            pytest.raises(OSError, match=r"(?i)certificate.revoked|reset|eof"),
            connected(own, context, session) as third,
        ):
            assert not third.session_reused
            third.sendall(login("cam-1"))
            raise OSError("eof") if third.recv(4) == b"" else AssertionError("it was let in")


class Ends:
    """Connections that end, or that cannot be ended; `tries` names them in order. Time is the test's."""

    def __init__(self) -> None:
        self.tries: list[str] = []
        self.now = 0.0
        self.evictor = Evictor(self._end, (0.0, 2.0, 120.0))

    def _end(self, name: str) -> None:
        self.tries.append(name)
        if name.startswith("stubborn"):
            raise OSError("no broker")

    def look(self, *revoked: str, fresh: tuple[str, ...] = (), after: float = 0.0) -> list[str]:
        """The attempts of one look, which has ended."""
        self.now += after
        before = len(self.tries)
        self.evictor.look(fresh, revoked, self.now)
        wait(self.evictor._running.values())
        return sorted(self.tries[before:])


@pytest.fixture
def ends() -> Iterator[Ends]:
    found = Ends()
    yield found
    found.evictor.close()


def test_one_that_could_not_be_ended_is_tried_again_until_it_is_let_back_in(ends: Ends) -> None:
    names = ("stubborn", "weak")
    assert ends.look(*names, fresh=names) == ["stubborn", "weak"]
    for _ in range(3):
        assert ends.look(*names) == ["stubborn"]
    assert ends.look("weak") == []


def test_a_connection_is_ended_again_for_those_who_come_late(ends: Ends) -> None:
    assert ends.look("cam-1", fresh=("cam-1",)) == ["cam-1"]
    assert ends.look("cam-1", after=1.0) == []
    assert ends.look("cam-1", after=1.0) == ["cam-1"]
    assert ends.look("cam-1", after=100.0) == []
    assert ends.look("cam-1", after=20.0) == ["cam-1"]
    assert ends.look("cam-1", after=1000.0) == [] and not ends.evictor._due
    assert ends.look("cam-1", fresh=("cam-1",)) == ["cam-1"]  # revoked once more
    assert ends.look(after=2.0) == []  # and let back in


def test_the_database_is_asked_who_is_revoked_only_after_a_change(hub: HubFixture) -> None:
    hub.channel()
    revocations = Revocations(hub.hub)
    said: list[str] = []
    event.listen(hub.hub.engine, "before_cursor_execute", lambda _c, _cursor, statement, *_: said.append(statement))
    looks = []
    for pause in (0.0, 0.0, LOOK_AGAIN_S):
        hub.clock.advance(pause)
        said.clear()
        assert revocations.read().devices == ()
        looks.append(sum(statement.startswith("SELECT") for statement in said))
    assert looks == [3, 1, 3]


def test_a_denial_stands_before_every_pattern() -> None:
    lines = access_list("p", ["cam-1"]).splitlines()
    assert lines.index("topic deny #") == lines.index("user cam-1") + 1
    assert not any("+" in line.split("/%u")[0] for line in lines if line.startswith("pattern write"))
