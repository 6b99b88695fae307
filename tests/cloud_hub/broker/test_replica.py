"""Hubs on one database have a name each at the broker: neither ends the other's connection."""

from __future__ import annotations

import dataclasses
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from paho.mqtt.enums import CallbackAPIVersion
from sqlalchemy.exc import OperationalError

from cloud_hub.broker import replica
from cloud_hub.broker.choose import open_link
from cloud_hub.broker.replica import LEASE_S, NAMES, Name
from cloud_hub.context import Hub
from cloud_hub.errors import UnreachableError
from cloud_hub.monitoring.board import StatusBoard
from fleet.protocol import topics
from tests.support.device_key import DeviceKey
from tests.support.hub import HubFixture, make_hub
from tests.support.hub_process import free_port
from tests.support.require import require

WAIT_S = 60.0


class Times:
    """Monotonic seconds that a test moves together with the hub's clock."""

    def __init__(self, hub: HubFixture) -> None:
        self._hub = hub

    def __call__(self) -> float:
        return self._hub.clock()


def test_a_lone_hub_has_the_name_that_it_had_in_0_1(hub: HubFixture) -> None:
    with Name(hub.hub) as name:
        assert name.text == "_hub"
        assert name.certificate() == (hub.hub.config.client_certificate, hub.hub.config.client_key)
    with Name(hub.hub) as again:
        assert again.text == "_hub"


def test_further_ones_have_others_which_their_certificates_bear(hub: HubFixture) -> None:
    with Name(hub.hub), Name(hub.hub) as second:
        assert second.text == "_hub-1"
        certificate, key = second.certificate()
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        assert found.subject.rfc4514_string() == "CN=_hub-1" and key.stat().st_mode & 0o077 == 0
        private = serialization.load_pem_private_key(key.read_bytes(), None)
        assert private.public_key() == found.public_key()


def test_there_are_only_so_many(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "NAMES", NAMES[:2])
    with Name(hub.hub), Name(hub.hub), pytest.raises(UnreachableError, match="hubs use this database"), Name(hub.hub):
        pass


def test_a_hub_that_was_killed_gives_its_name_back_in_time(hub: HubFixture) -> None:
    killed = Name(hub.hub, Times(hub))
    killed.__enter__()
    with Name(hub.hub, Times(hub)) as other:
        assert other.text == "_hub-1"
        for _ in range(10):  # one that lives keeps its own
            hub.clock.advance(LEASE_S / 3)
            other.keep()
        with Name(hub.hub, Times(hub)) as third:
            assert third.text == "_hub"
            hub.clock.advance(LEASE_S / 3)
            with pytest.raises(UnreachableError, match="another hub has taken the name _hub "):
                killed.keep()


def test_a_database_that_is_away_costs_no_connection(hub: HubFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> Any:
        raise OperationalError("SELECT", {}, Exception("gone"))

    with Name(hub.hub, Times(hub)) as name:
        monkeypatch.setattr(replica, "hold_lease", away)
        for _ in range(5):
            hub.clock.advance(LEASE_S)
            name.keep()


def second_hub(first: Hub) -> Hub:
    """A replica on the same database and keys, which takes the first one's broker for an external one."""
    broker = first.config.broker.model_copy(update={"kind": "external"})
    config = first.config.model_copy(update={"broker": broker, "directory": first.config.directory})
    return dataclasses.replace(first, config=config, board=StatusBoard())


class Heard:
    """The payloads that came."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._changed = threading.Condition()

    def __call__(self, _topic: str, payload: bytes, _carried: object = None) -> None:
        with self._changed:
            self.payloads.append(payload)
            self._changed.notify_all()

    def wait(self, payload: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: payload in self.payloads, WAIT_S), self.payloads


@pytest.fixture
def mosquitto(tmp_path: Path) -> HubFixture:
    require("mosquitto", "mosquitto")
    return make_hub(tmp_path, start=time.time(), broker={"kind": "mosquitto", "port": free_port()})


@pytest.fixture
def device(mosquitto: HubFixture, tmp_path: Path) -> Iterator[mqtt.Client]:
    """A device's connection, made when the test starts it."""
    key, hub = DeviceKey(), mosquitto.hub
    issued = hub.authority.device("cam-1", key.key.public_key(), hub.clock(), 1)
    private = key.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "cam-1.pem").write_bytes(private + issued.certificate.encode())
    context = ssl.create_default_context(cafile=str(hub.config.ca_file))
    context.load_cert_chain(tmp_path / "cam-1.pem")
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="cam-1", protocol=mqtt.MQTTv311)
    client.tls_set_context(context)
    yield client
    client.disconnect()
    client.loop_stop()


def test_two_hubs_at_one_broker_both_hear_everything_and_stay(mosquitto: HubFixture, device: mqtt.Client) -> None:
    hub = mosquitto.hub
    other, one, two = second_hub(hub), Heard(), Heard()
    with open_link(hub, one) as first, open_link(other, two) as second:
        device.connect_async("127.0.0.1", hub.config.broker.port)
        device.loop_start()
        for number in range(20):
            payload = b"report %d" % number
            device.publish(topics.uplink("cam-1", "report"), payload, qos=1)
            for heard in (one, two):
                heard.wait(payload)
        for link in (first, second):
            link.check()
            link.publish(topics.command("cam-1"), b"both may write")
        assert hub.board.read()["broker"].state == other.board.read()["broker"].state == "ok"
    said = (hub.config.directory / "broker" / "mosquitto.log").read_text()
    assert said.count(" as _hub (") == 1 and said.count(" as _hub-1 (") == 1, said
    assert "already connected" not in said and "session taken over" not in said


def test_each_hub_hears_the_shards_that_it_follows(mosquitto: HubFixture, device: mqtt.Client) -> None:
    hub, own = mosquitto.hub, topics.shard("cam-1")
    one, two, told = Heard(), Heard(), Heard()
    device.on_connect = lambda *_: device.subscribe(topics.command("cam-1"), 1)
    device.on_subscribe = lambda *_: told("", b"subscribed")
    device.on_message = lambda _c, _d, message: told("", message.payload)
    send = lambda payload: device.publish(topics.uplink("cam-1", "report"), payload, qos=1)  # noqa: E731
    with open_link(hub, one, set(topics.DIGITS) - {own}) as first, open_link(second_hub(hub), two, {own}) as second:
        device.connect_async("127.0.0.1", hub.config.broker.port)
        device.loop_start()
        told.wait(b"subscribed")
        send(b"for the second")
        two.wait(b"for the second")
        for link, digits in ((first, topics.DIGITS), (second, "")):
            link.follow(digits)
            link.publish(topics.command("cam-1"), b"follows %s" % digits.encode())
            told.wait(b"follows %s" % digits.encode())  # a connection's words are heard in their order
        send(b"for the first")
        one.wait(b"for the first")
        first.follow.__self__._client.socket().shutdown(socket.SHUT_RDWR)  # it is heard after a reconnect, too
        deadline, number = time.monotonic() + WAIT_S, 0
        while not any(payload.startswith(b"again") for payload in one.payloads):
            assert time.monotonic() < deadline
            send(b"again %d" % (number := number + 1))
            time.sleep(0.05)
    assert two.payloads == [b"for the second"] and b"for the second" not in one.payloads
