"""The promises of both brokers: everybody reaches their own topics and nobody reaches another's."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives import serialization
from paho.mqtt.enums import CallbackAPIVersion

from cloud_hub.broker import embedded
from cloud_hub.broker.choose import open_link
from cloud_hub.broker.mosquitto import Mosquitto
from cloud_hub.errors import UnreachableError
from cloud_hub.identity.ca import HUB_IDENTITY, Authority, create_authority, read_public
from cloud_hub.identity.enroll import enroll
from cloud_hub.store.tables import Device
from fleet.protocol import topics
from fleet.protocol.messages import EnrollRequest, EnrollResponse
from tests.support.device import claim
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub
from tests.support.require import require

WAIT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Ear:
    """Keeps what arrives and waits for it."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, bytes]] = []
        self._changed = threading.Condition()

    def __call__(self, topic: str, payload: bytes, _carried: object = None) -> None:
        with self._changed:
            self.heard.append((topic, payload))
            self._changed.notify_all()

    def wait(self, topic: str, payload: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: (topic, payload) in self.heard, WAIT_S), self.heard

    def wait_while(self, send: Callable[[], None], topic: str, payload: bytes) -> None:
        """Send again and again until it arrives, as everything that must arrive is sent."""
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            send()
            with self._changed:
                if self._changed.wait_for(lambda: (topic, payload) in self.heard, 0.5):
                    return
        raise AssertionError(self.heard)


class Client:
    """paho as the agent's uplink sets it up; `events` has `connected`, `refused` and `ended`, in order."""

    def __init__(
        self,
        site: Site,
        name: str,
        *,
        client_id: str = "",
        password: str = "",
        trust: str = "",
        will: str = "",
        retain: bool = False,
    ) -> None:
        self.ear, self.name = Ear(), name
        self.events: list[str] = []
        self._changed = threading.Condition()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=client_id or name, protocol=mqtt.MQTTv311, clean_session=False
        )
        endpoint = site.mqtt
        if endpoint.tls:
            client.tls_set_context(site.context(trust or name))
        else:
            client.username_pw_set(trust or name, password or site.devices[trust or name].mqtt.password)
        client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]  # seconds, whole or not
        client.will_set(will or topics.uplink(name, "status"), b"forged" if will else b"lost", qos=1, retain=retain)
        client.on_connect = self._connected
        client.on_connect_fail = lambda *_: self._event("refused")
        client.on_disconnect = lambda *_: self._event("ended")
        client.on_subscribe = lambda *_: self._event("subscribed")
        client.on_message = lambda _c, _d, message: self.ear(message.topic, bytes(message.payload))
        self.paho = client
        client.connect_async(endpoint.host, endpoint.port, keepalive=30)
        client.loop_start()

    def _connected(self, client: mqtt.Client, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        if code.is_failure:
            self._event("refused")
            return
        client.subscribe([(topics.command(self.name), 1), (topics.notify("stable"), 1)])
        self._event("connected")

    def _event(self, name: str) -> None:
        with self._changed:
            self.events.append(name)
            self._changed.notify_all()

    def wait(self, check: Callable[[list[str]], object], seconds: float = WAIT_S) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(check(self.events)), seconds), self.events

    def up(self, leaf: str, payload: bytes, device: str = "") -> None:
        self.paho.publish(topics.uplink(device or self.name, leaf), payload, qos=1)  # type: ignore[arg-type]

    def close(self) -> None:
        self.paho.disconnect()
        self.paho.loop_stop()

    def cut(self) -> None:
        """Lose the connection without a goodbye, as a pulled plug does."""
        with contextlib.suppress(OSError):  # the broker may have hung up already
            self.paho.socket().shutdown(socket.SHUT_RDWR)  # also wakes the loop, which else looks once a second
        self.paho.loop_stop()


class Site:
    """A hub with an open broker and enrolled devices."""

    def __init__(self, folder: Path, kind: str, **document: Any) -> None:
        self.folder, self.kind = folder, kind
        broker = {"kind": kind, "port": free_port()}
        self.fixture: HubFixture = make_hub(folder, start=time.time(), broker=broker, **document)
        self.hub = self.fixture.hub
        self.mqtt = self.hub.mqtt_endpoint()
        self.devices: dict[str, EnrollResponse] = {}
        self.clients: list[Client] = []
        self.ear = Ear()

    def enrol(self, name: str) -> None:
        _, token, secret, _ = claim(self.fixture).split(".")
        key = DeviceKey()
        answer = enroll(self.hub, EnrollRequest(token=token, secret=secret, csr=key.csr(), name=name))
        self.devices[name] = answer
        self._files(name, key, answer.certificate)

    def _files(self, name: str, key: DeviceKey, certificate: str) -> None:
        private = key.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        (self.folder / f"{name}.pem").write_bytes(private + certificate.encode())

    def stranger(self, name: str) -> None:
        """Credentials for the name from somebody else's authority."""
        key, now = DeviceKey(), self.fixture.clock()
        public = key.key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        issued = Authority(create_authority(now)).device(name, read_public(public.decode()), now, 1)
        self._files("stranger", key, issued.certificate)

    def context(self, trust: str) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.hub.config.ca_file))
        if trust != "nothing":
            context.load_cert_chain(self.folder / f"{trust}.pem")
        return context

    def client(self, name: str, **options: Any) -> Client:
        client = Client(self, name, **options)
        self.clients.append(client)
        return client

    def revoke(self, name: str) -> None:
        with self.hub.session() as session:
            row = session.get(Device, name)
            assert row is not None
            row.revoked_at = self.fixture.clock()
            session.add(row)

    def let_back_in(self, name: str) -> None:
        with self.hub.session() as session:
            row = session.get(Device, name)
            assert row is not None
            row.revoked_at = None
            session.add(row)

    def online(self, name: str, **options: Any) -> Client:
        """A client that is connected and subscribed."""
        client = self.client(name, **options)
        client.wait(lambda events: "subscribed" in events)
        return client

    def clear(self) -> None:
        for client in self.clients:
            client.close()
        self.clients.clear()


@pytest.fixture(scope="module", params=["mosquitto", "embedded"])
def opened(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Any]]:
    if request.param == "mosquitto":
        require("mosquitto", "mosquitto")
    site = Site(tmp_path_factory.mktemp(request.param), request.param)
    for name in ("cam-1", "cam-2", "cam-3"):
        site.enrol(name)
    with open_link(site.hub, site.ear) as link:
        yield site, link


@pytest.fixture
def site(opened: tuple[Site, Any]) -> Iterator[Site]:
    opened[0].ear.heard.clear()
    yield opened[0]
    opened[0].clear()


@pytest.fixture
def link(opened: tuple[Site, Any]) -> Any:
    return opened[1]


@pytest.fixture(params=["mosquitto", "embedded"])
def each(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    """A hub of its own for each broker."""
    if request.param == "mosquitto":
        require("mosquitto", "mosquitto")
    site = Site(tmp_path, request.param)
    yield site
    site.clear()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Site]:
    """A hub for a Mosquitto that the test breaks."""
    require("mosquitto", "mosquitto")
    site = Site(tmp_path, "mosquitto")
    yield site
    site.clear()


def test_uplinks_commands_and_notices_arrive(site: Site, link: Any) -> None:
    one, two = site.online("cam-1"), site.online("cam-2")
    for leaf in ("status", "report", "telemetry"):
        one.up(leaf, b"of cam-1")
        site.ear.wait(topics.uplink("cam-1", leaf), b"of cam-1")
    link.publish(topics.command("cam-1"), b"for cam-1")
    link.publish(topics.notify("stable"), b"for all")
    one.ear.wait(topics.command("cam-1"), b"for cam-1")
    for client in (one, two):
        client.ear.wait(topics.notify("stable"), b"for all")
    assert [topic for topic, _ in two.ear.heard] == [topics.notify("stable")]
    link.check()


def test_a_device_reaches_no_topic_of_another(site: Site, link: Any) -> None:
    one, two = site.online("cam-1"), site.online("cam-2")
    for leaf in ("status", "report", "telemetry"):
        two.up(leaf, b"forged", device="cam-1")
    two.paho.publish(topics.command("cam-1"), b"forged", qos=1)
    two.paho.publish(topics.notify("stable"), b"forged", qos=1)
    greedy = (topics.command("cam-1"), topics.uplink("cam-1", "report"), "#", "+/+/down/+/cmd", "edgeloop/v1/down/#")
    for wish in (*greedy, topics.uplink_filter()):
        before = len(two.events)
        two.paho.subscribe(wish, qos=1)
        two.wait(lambda events, before=before: len(events) > before)
    two.wait(lambda events: events[-1] == "subscribed")
    link.publish(topics.command("cam-1"), b"secret")
    one.up("report", b"secret")
    one.ear.wait(topics.command("cam-1"), b"secret")
    site.ear.wait(topics.uplink("cam-1", "report"), b"secret")
    # What comes last has overtaken nothing: each connection and topic keeps its order.
    two.up("report", b"last")
    site.ear.wait(topics.uplink("cam-2", "report"), b"last")
    link.publish(topics.command("cam-2"), b"last")
    two.ear.wait(topics.command("cam-2"), b"last")
    link.publish(topics.command("cam-1"), b"last")
    one.ear.wait(topics.command("cam-1"), b"last")
    assert all(payload != b"forged" for _, payload in site.ear.heard + one.ear.heard + two.ear.heard)
    assert {topic for topic, _ in two.ear.heard} == {topics.command("cam-2")}


def test_a_shard_that_is_not_the_devices_own_is_not_heard(site: Site, link: Any) -> None:
    one = site.online("cam-1")
    for digit in (*topics.DIGITS, "x", "00"):
        if digit != topics.shard("cam-1"):
            one.paho.publish(f"{topics.PREFIX}/up/{digit}/cam-1/report", b"astray", qos=1)
    one.up("report", b"last")
    site.ear.wait(topics.uplink("cam-1", "report"), b"last")
    assert site.ear.heard == [(topics.uplink("cam-1", "report"), b"last")]


def test_a_lost_connection_leaves_the_last_will(site: Site) -> None:
    site.online("cam-1").cut()
    site.ear.wait(topics.uplink("cam-1", "status"), b"lost")


@pytest.mark.parametrize("retain", [False, True], ids=["sent", "retained"])
@pytest.mark.parametrize("leaf", ["status", "report", "telemetry"])
def test_a_last_will_reaches_no_topic_of_another(site: Site, link: Any, leaf: Any, retain: bool) -> None:
    forger = site.client("cam-2", will=topics.uplink("cam-1", leaf), retain=retain)
    forger.wait(lambda events: {"subscribed", "refused", "ended"} & set(events))
    if "subscribed" in forger.events:
        forger.cut()
    else:
        forger.close()
    # What comes after it on both sides has overtaken nothing: an honest will, and a message of the victim's.
    site.online("cam-3").cut()
    site.ear.wait(topics.uplink("cam-3", "status"), b"lost")
    site.online("cam-1").up(leaf, b"last")
    site.ear.wait(topics.uplink("cam-1", leaf), b"last")
    assert all(payload != b"forged" for _, payload in site.ear.heard)


@pytest.mark.parametrize("will", [topics.command("cam-1"), topics.notify("stable"), topics.command("cam-2")])
def test_a_last_will_speaks_for_no_hub(site: Site, link: Any, will: str) -> None:
    one, forger = site.online("cam-1"), site.client("cam-2", will=will, retain=True)
    forger.wait(lambda events: {"subscribed", "refused", "ended"} & set(events))
    if "subscribed" in forger.events:
        forger.cut()
    else:
        forger.close()
    site.online("cam-3").cut()
    site.ear.wait(topics.uplink("cam-3", "status"), b"lost")
    two = site.online("cam-2")
    for client, topic in ((one, topics.command("cam-1")), (two, topics.command("cam-2"))):
        link.publish(topic, b"last")
        client.ear.wait(topic, b"last")
    assert all(payload != b"forged" for _, payload in one.ear.heard + two.ear.heard)


def test_what_an_older_hub_let_mosquitto_retain_is_no_sign_of_life(own: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cam-1", "cam-2"):
        own.enrol(name)
    with monkeypatch.context() as older:
        written = Mosquitto._configuration
        older.setattr(Mosquitto, "_configuration", lambda self: written(self).replace("retain_available false", ""))
        with open_link(own.hub, own.ear):
            one = own.online("cam-1", will=topics.uplink("cam-1", "status"), retain=True)
            one.paho.publish(topics.uplink("cam-1", "report"), b"kept", qos=1, retain=True)
            own.ear.wait(topics.uplink("cam-1", "report"), b"kept")
            one.cut()
            own.ear.wait(topics.uplink("cam-1", "status"), b"forged")  # its own: nothing forbids it, once
    own.ear.heard.clear()
    with open_link(own.hub, own.ear):  # subscribes anew, and is sent what is retained
        two = own.online("cam-2")
        own.ear.wait_while(lambda: two.up("report", b"barrier"), topics.uplink("cam-2", "report"), b"barrier")
        assert {topic for topic, _ in own.ear.heard} == {topics.uplink("cam-2", "report")}


def test_a_device_that_takes_its_own_session_over_is_reached(site: Site, link: Any) -> None:
    old = site.online("cam-1")
    old.paho.reconnect_delay_set(600, 600)
    new = site.online("cam-1")
    old.wait(lambda events: "ended" in events)
    link.publish(topics.command("cam-1"), b"for the new one")
    new.ear.wait(topics.command("cam-1"), b"for the new one")
    new.up("report", b"from the new one")
    site.ear.wait(topics.uplink("cam-1", "report"), b"from the new one")
    assert "ended" not in new.events and old.ear.heard == []


@pytest.mark.parametrize("wrong", ["nothing", "stranger"])
def test_wrong_credentials_are_refused(site: Site, wrong: str) -> None:
    site.stranger("cam-1")
    if site.kind == "mosquitto":
        client = site.client("cam-1", trust=wrong)
    else:
        client = site.client("cam-1", password="" if wrong == "nothing" else "wrong", trust="cam-1")
        if wrong == "nothing":
            client.close()
            client.paho.username_pw_set(None)
            client.events.clear()
            client.paho.connect_async(site.mqtt.host, site.mqtt.port)
            client.paho.loop_start()
    client.wait(lambda events: "refused" in events or "ended" in events)
    assert "connected" not in client.events


def test_noise_in_place_of_a_login_uses_up_no_connection(site: Site) -> None:
    name = b"\x10\x12\x00\x04MQTT\x04\xc6\x00\x1e\x00\x02\xed\xa0\x00\x50xx"  # CONNECT: not UTF-8, and cut off
    for noise in (name, b"\x10\x00", b"\x10\xff\xff\xff\xff\x7f", b"\xff" * 20, b"GET / HTTP/1.1\r\n\r\n") * 50:
        with (
            socket.create_connection((site.mqtt.host, site.mqtt.port), WAIT_S) as peer,
            contextlib.suppress(OSError),  # it may have hung up already
        ):
            peer.sendall(noise)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
    site.online("cam-1").up("report", b"still served")
    site.ear.wait(topics.uplink("cam-1", "report"), b"still served")


def test_a_peer_that_resets_its_connection_uses_up_none(site: Site) -> None:
    for _ in range(400):  # the embedded broker takes 200 at once
        with socket.create_connection((site.mqtt.host, site.mqtt.port), WAIT_S) as peer:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closing is a reset
            peer.sendall(b"\x16\x03\x01\x02\x00\x01\x00\x01")
    site.online("cam-1").up("report", b"still served")
    site.ear.wait(topics.uplink("cam-1", "report"), b"still served")


def test_a_peer_that_says_nothing_uses_up_no_connection(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "LOGIN_S", 5.0)  # a login takes a second where others compute
    with contextlib.ExitStack() as silent:
        for _ in range(210):
            silent.enter_context(socket.create_connection((site.mqtt.host, site.mqtt.port), WAIT_S))
        site.online("cam-1").up("report", b"still served")
        site.ear.wait(topics.uplink("cam-1", "report"), b"still served")


@pytest.mark.parametrize("opened", ["embedded"], indirect=True)  # for Mosquitto the name is the certificate's
def test_the_name_of_the_hub_is_not_to_be_had(site: Site) -> None:
    client = site.client("cam-1", client_id=HUB_IDENTITY, password="wrong")
    client.paho.username_pw_set(HUB_IDENTITY, "wrong")
    client.wait(lambda events: "refused" in events or "ended" in events)
    assert "connected" not in client.events


def test_the_client_id_of_another_device_evicts_nobody(site: Site, link: Any) -> None:
    one = site.online("cam-1")
    thief = site.client("cam-1", client_id="cam-1", trust="cam-3")
    thief.wait(bool)
    link.publish(topics.command("cam-1"), b"still here")
    one.ear.wait(topics.command("cam-1"), b"still here")
    assert "ended" not in one.events
    if "connected" in thief.events:  # as who its certificate says it is
        link.publish(topics.notify("stable"), b"barrier")
        thief.ear.wait(topics.notify("stable"), b"barrier")
    assert topics.command("cam-1") not in {topic for topic, _ in thief.ear.heard}


def child_of(site: Site) -> int:
    """The process id of the hub's Mosquitto."""
    wanted = str(site.hub.config.directory / "broker" / "mosquitto.conf").encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in words:
            found.append(int(entry.name))
    assert len(found) == 1, found
    return found[0]


def test_a_mosquitto_that_was_killed_is_told_and_comes_back(own: Site) -> None:
    own.enrol("cam-1")
    with open_link(own.hub, own.ear) as link:
        one = own.online("cam-1")
        link.check()
        assert link.hears
        os.kill(child_of(own), signal.SIGKILL)
        one.wait(lambda events: "ended" in events)
        with pytest.raises(UnreachableError, match=r"mosquitto ended: .+"):
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:
                link.check()
        while link.hears:
            assert time.monotonic() < deadline
    with open_link(own.hub, own.ear) as link:
        assert link.hears
        one.wait(lambda events: events.count("subscribed") >= 2)
        one.up("report", b"again")
        own.ear.wait(topics.uplink("cam-1", "report"), b"again")


def test_what_mosquitto_writes_to_disk_is_not_its_whole_state_for_each_message(own: Site) -> None:
    for name in ("cam-1", "cam-2"):
        own.enrol(name)
    with open_link(own.hub, own.ear) as link:
        own.online("cam-1").close()  # its session waits for what comes
        there = own.online("cam-2")
        io = Path(f"/proc/{child_of(own)}/io")
        before = int(io.read_text().split("wchar: ")[1].split()[0])
        for _ in range(200):
            link.publish(topics.command("cam-1"), bytes(4096))
        link.publish(topics.command("cam-2"), b"last")
        there.ear.wait(topics.command("cam-2"), b"last")
        written = int(io.read_text().split("wchar: ")[1].split()[0]) - before
    assert written < 3 * 200 * 4096, "once in full, should the minute end just then"
