"""Events to a real Mosquitto: the same document, acknowledged, tried again, and what a broker refuses is said."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from cloud_hub.errors import InvalidError
from cloud_hub.event_settings import EventTarget
from cloud_hub.events import mqtt, packets
from cloud_hub.events.addresses import Address
from cloud_hub.events.delivery import Delivering, Spreading
from cloud_hub.events.schedule import PAUSES_S, AttemptResult
from cloud_hub.events.targets import LONGEST_PASSWORD, open_targets
from tests.cloud_hub.events.conftest import happens
from tests.cloud_hub.events.test_delivery import way
from tests.support.hub import HubFixture, make_hub
from tests.support.mosquitto import PASSWORD, Broker, Reader, running_broker


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    with running_broker(tmp_path / "theirs") as made:
        yield made


def bus(broker: Broker, **changes: Any) -> dict[str, Any]:
    """Settings of a target that reach a broker."""
    login = {"username": "hub", "password_file": str(broker.password_file)}
    if broker.by_certificate:
        login = {"cert_file": str(broker.certificate), "key_file": str(broker.key)}
    return {"format": "mqtt", "url": broker.url, "ca_file": str(broker.ca), "allow_private": True, **login, **changes}


def hub_with(tmp_path: Path, **target: Any) -> HubFixture:
    return make_hub(tmp_path, events={"targets": {"bus": target}})


def deliver(fixture: HubFixture) -> int:
    """Spread what is new and try what is due; how many deliveries were tried."""
    Spreading(fixture.hub).look()
    (target,) = open_targets(fixture.hub.config.events, {}, fixture.hub.config.broker.prefix)
    return asyncio.run(Delivering(fixture.hub, target, chance=lambda: 0.5, monotonic=fixture.clock).step())


@pytest.mark.parametrize("by_certificate", [False, True])
def test_an_event_arrives_by_login_or_certificate_and_is_not_retained(tmp_path: Path, by_certificate: bool):
    with running_broker(tmp_path / "theirs", by_certificate=by_certificate) as broker:
        fixture = hub_with(tmp_path, **bus(broker))
        event = happens(fixture, message="digits failed")
        with Reader(broker, "edgeloop/v1/events/+") as pager:
            assert deliver(fixture) == 1 and deliver(fixture) == 0
            ((topic, body, retained),) = pager.wait(1)
        document = json.loads(body)
        assert (topic, retained) == ("edgeloop/v1/events/job.failed", False)
        assert (document["type"], document["data"]["id"]) == ("job.failed", event)
        assert document["data"]["message"] == "digits failed"
        found = way(fixture, event, "bus")
        assert (found.state, found.log[-1].status, found.log[-1].error) == ("delivered", 0, "")
        with Reader(broker, "#") as late:  # a retained one would come before what is sent now
            happens(fixture, "job.failed")
            deliver(fixture)
            assert json.loads(late.wait(1)[0][1])["data"]["id"] != event


def test_that_nobody_has_subscribed_is_said(tmp_path: Path, broker: Broker):
    fixture = hub_with(tmp_path, **bus(broker, topic="site/alarms"))
    event = happens(fixture)
    deliver(fixture)
    found = way(fixture, event, "bus")
    assert found.state == "delivered" and "nobody has subscribed" in found.log[-1].error


def test_what_the_broker_throws_away_is_not_delivered(tmp_path: Path, broker: Broker):
    """Its access list lets the hub write nothing there; an older protocol would have acknowledged it."""
    fixture = hub_with(tmp_path, **bus(broker, topic="elsewhere"))
    event = happens(fixture)
    deliver(fixture)
    found = way(fixture, event, "bus")
    assert (found.state, found.log[-1].status) == ("waiting", 0x87) and "not authorized" in found.log[-1].error


def test_a_wrong_password_is_refused_and_never_shown(tmp_path: Path, broker: Broker):
    wrong = broker.folder / "wrong"
    wrong.write_text("Tr0ub4dor&3")
    fixture = hub_with(tmp_path, **bus(broker, password_file=str(wrong)))
    event = happens(fixture)
    deliver(fixture)
    found = way(fixture, event, "bus")
    assert found.state == "waiting" and "the broker refuses the hub" in found.log[-1].error
    (target,) = open_targets(fixture.hub.config.events, {})
    said = fixture.client.get("/api/v1/event-targets", headers=fixture.auth()).text
    assert '"format":"mqtt"' in said and "127.0.0.1" in said
    assert "Tr0ub4dor" not in said + found.model_dump_json() + repr(target) + repr(target.login)


def test_a_broker_that_was_away_gets_it_at_the_next_try(tmp_path: Path, broker: Broker):
    fixture = hub_with(tmp_path, **bus(broker))
    event = happens(fixture)
    broker.stop()
    deliver(fixture)
    assert way(fixture, event, "bus").state == "waiting"
    broker.start()
    with Reader(broker, "edgeloop/v1/events/#") as pager:
        fixture.clock.advance(PAUSES_S[0])
        assert deliver(fixture) == 1 and json.loads(pager.wait(1)[0][1])["data"]["id"] == event
    found = way(fixture, event, "bus")
    assert found.state == "delivered" and [bool(one.error) for one in found.log] == [True, False]


def test_a_broker_inside_of_a_network_is_refused_unless_a_setting_lets_it_pass(tmp_path: Path, broker: Broker):
    fixture = hub_with(tmp_path, **bus(broker, allow_private=False))
    event = happens(fixture)
    deliver(fixture)
    assert "allow_private" in way(fixture, event, "bus").log[-1].error


def test_a_certificate_that_is_not_valid_ends_the_try(tmp_path: Path, broker: Broker):
    fixture = hub_with(tmp_path, **bus(broker, ca_file=""))
    event = happens(fixture)
    deliver(fixture)
    assert "its certificate is not valid" in way(fixture, event, "bus").log[-1].error


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"url": "mqtt://broker.example"}, "mqtts://"),
        ({"url": "mqtts://broker.example/topic"}, "behind the port"),
        ({"username": ""}, "a password needs one"),
        ({"password_file": "/nowhere/password"}, "/nowhere/password"),
        ({"cert_file": "/nowhere/cert.pem"}, "set both or neither"),
        ({"cert_file": "/nowhere/cert.pem", "key_file": "/nowhere/key.pem"}, "/nowhere/cert.pem"),
        ({"secret_file": "/etc/secret"}, "says nothing to a target whose format is mqtt"),
        ({"topic": "edgeloop/v1/down/cam-1"}, "there the hub and devices speak to each other"),
        ({"format": "slack", "url": "https://hooks.example/"}, "says nothing to a target whose format is slack"),
    ],
)
def test_a_broker_that_cannot_be_told_is_said_before_the_hub_starts(tmp_path: Path, changes, says):
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    usual = {"format": "mqtt", "url": "mqtts://broker.example", "username": "hub", "password_file": str(password)}
    fixture = hub_with(tmp_path, **{**usual, **changes})
    with pytest.raises(InvalidError) as refused:
        open_targets(fixture.hub.config.events, {})
    assert says in f"{refused.value} {refused.value.hint}" and PASSWORD not in str(refused.value)


def test_a_login_with_control_characters_is_said_when_the_settings_are_read(tmp_path: Path):
    with pytest.raises(InvalidError, match=r"targets\.bus\.username"):
        hub_with(tmp_path, format="mqtt", url="mqtts://broker.example", username="hub\0")


def test_a_password_that_no_packet_holds_is_said_before_the_hub_starts(tmp_path: Path):
    password = tmp_path / "password"
    password.write_text("p" * (LONGEST_PASSWORD + 1))
    usual = {"format": "mqtt", "url": "mqtts://broker.example", "username": "hub", "password_file": str(password)}
    with pytest.raises(InvalidError, match="longer than 65,535 bytes"):
        open_targets(hub_with(tmp_path, **usual).hub.config.events, {})


@pytest.mark.parametrize("topic", ["a/#", "+/b", "/a", "a/", "$SYS/a", "a/b/c/d/e/f/g/h", "a b", "a\x00"])
def test_a_topic_that_not_every_broker_takes_is_refused(topic: str):
    with pytest.raises(ValidationError):
        EventTarget(format="mqtt", url="mqtts://broker.example", topic=topic)


def test_packets_are_those_of_the_standard():
    assert (
        packets.connect(packets.V311, "el", 10, "u", b"p").hex()
        == "1014" + "00044d515454" + "04c2000a" + "0002656c" + "000175" + "000170"
    )
    assert packets.connect(packets.V5, "el", 10).hex() == "100f" + "00044d515454" + "0502000a" + "00" + "0002656c"
    assert packets.publish(packets.V311, "a/b", b"{}", 1).hex() == "3209" + "0003612f62" + "0001" + "7b7d"
    long = packets.publish(packets.V5, "a", b"x" * 200, 7)
    assert long[1:3] == bytes([0x80 | (len(long) - 3) % 128, (len(long) - 3) // 128])


async def old_broker(script: list[bytes], context: ssl.SSLContext) -> tuple[asyncio.Server, list[int]]:
    """A broker that answers each packet with the next part of a script (empty: hang up); what it was asked for."""
    asked: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while script:
                first, length = await reader.readexactly(2)
                if length & 0x80:
                    length = (length & 0x7F) + 128 * (await reader.readexactly(1))[0]
                content = await reader.readexactly(length)
                if first == 0x10:
                    asked.append(content[6])
                answer = script.pop(0)
                writer.write(answer)
                await writer.drain()
                if not answer or answer == OTHER:
                    break
        writer.transport.abort()

    return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context), asked


OTHER, WELCOME, TAKEN = b"\x20\x02\x00\x01", b"\x20\x02\x00\x00", b"\x40\x02\x00\x01"


@pytest.mark.parametrize(
    ("script", "versions", "error"),
    [
        ([OTHER, WELCOME, TAKEN], [5, 4], ""),
        ([b"", WELCOME, TAKEN], [5, 4], ""),
        ([b"\x20\x03\x00\x84\x00", WELCOME, TAKEN], [5, 4], ""),
        ([OTHER, OTHER], [5, 4], "the broker speaks neither MQTT 5 nor 3.1.1"),
        ([OTHER, b"\x20\x02\x00\x05"], [5, 4], "the broker refuses the hub: not authorized (reason 0x05)"),
        ([WELCOME, b"\x40\x04\x00\x01\xc8\x00"], [5], "the broker refuses the event: reason 0xc8"),
        ([WELCOME, b"\x40\x02\x00\x07"], [5], "the broker acknowledges another message than it was sent"),
        ([b"\x20\xff\xff\xff\x7f"], [5], "the broker's answer is too long"),
        ([b"HTTP/1.1 400 Bad Request\r\n\r\n"], [5], "the broker's answer is none of MQTT"),
        ([WELCOME, b""], [5], "it ended the connection without an answer"),
    ],
)
def test_an_older_broker_is_asked_in_its_version_and_nonsense_is_said(tmp_path: Path, script, versions, error):
    broker = Broker(tmp_path / "old")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(broker.folder / "server.pem", broker.folder / "server.key")

    async def run() -> tuple[AttemptResult, list[int]]:
        server, asked = await old_broker(list(script), context)
        place = Address("127.0.0.1", server.sockets[0].getsockname()[1], "/")
        trust = ssl.create_default_context(cafile=str(broker.ca))
        message = mqtt.Message("a/job.failed", b"{}")
        outcome = await mqtt.publish(place, message, trust, mqtt.BrokerLogin(), allow_private=True, timeout_s=60)
        server.close()
        return outcome, asked

    outcome, asked = asyncio.run(run())
    assert (outcome.error, asked, outcome.arrived) == (error, versions, not error)
