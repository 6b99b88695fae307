"""A device is online once the broker has its subscription: what is sent to it before goes nowhere."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.identity.keys import signed_by
from edge_agent.mqtt import broker_client
from edge_agent.mqtt.link import SESSION_S, Link
from edge_agent.mqtt.uplink import Uplink
from edge_agent.status_lines import _broker
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol import topics
from fleet.protocol.codec import encode_json
from fleet.protocol.messages import MqttEndpoint, Notify
from tests.support.uplink import make_uplink

CONNECT, PUBLISH, SUBSCRIBE = 1, 3, 8  # MQTT 3.1.1, table 2.1
CONNACK, SUBACK = b"\x20\x02\x00\x00", b"\x90\x04"
GRANTED, REFUSED = b"\x01", b"\x80"


class SlowBroker:
    """Takes one device, and answers its subscription when it is told to. `seen` are the types of packets in order."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.seen: list[int] = []
        self._subscription = b""
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        with contextlib.suppress(OSError), self._connection.makefile("rb") as packets:
            while first := packets.read(1):
                size, shift = 0, 0
                while True:  # the remaining length, seven bits a byte
                    (byte,) = packets.read(1)
                    size, shift = size | (byte & 127) << shift, shift + 7
                    if byte < 128:
                        break
                body, kind = packets.read(size), first[0] >> 4
                self.seen.append(kind)
                if kind == CONNECT:
                    self._connection.sendall(CONNACK)
                elif kind == SUBSCRIBE:  # which is not answered yet; the standard lets messages come before
                    self._subscription = body[:2]
                    self.say(topics.notify("stable"), encode_json(Notify(channel="stable", version=9)))

    def say(self, topic: str, payload: bytes) -> None:
        name = topic.encode()
        body = len(name).to_bytes(2, "big") + name + payload
        assert len(body) < 128
        self._connection.sendall(bytes([PUBLISH << 4, len(body)]) + body)

    def answer(self, *codes: bytes) -> None:
        """To the subscription: a code for commands, one for notices."""
        self._connection.sendall(SUBACK + self._subscription + b"".join(codes))

    def close(self) -> None:
        for one in (self._connection, self._listener):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(10)


class OldBroker(SlowBroker):
    """Ends the first connection after its login: by the word of MQTT 3.1.1 for another version, or by none."""

    def __init__(self, word: bytes) -> None:
        self._word, self.levels = word, list[int]()
        super().__init__()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            login = connection.recv(1 << 16)
            at = login.index(b"MQTT") + 4
            self.levels.append(login[at])
            self.keeps_session = not login[at + 1] & 0b10 and b"\x11" + SESSION_S.to_bytes(4, "big") in login
            connection.sendall(self._word)
        super()._serve()


@contextlib.asynccontextmanager
async def device(
    folder: Path, broker: SlowBroker, *, traced: bool = False
) -> AsyncIterator[tuple[Uplink, asyncio.Queue[str]]]:
    notified: asyncio.Queue[str] = asyncio.Queue()
    database = Database(folder / "spool.db")
    endpoint = MqttEndpoint(host="127.0.0.1", port=broker.port, tls=False, password="x")
    one = make_uplink(
        Link(device_id="cam-1", channel="stable", endpoint=endpoint, traced=traced),
        database,
        Spool(database),
        verify=signed_by,
        notified=notified.put_nowait,
    )
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(60):
            yield one, notified
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        broker.close()
        database.close()


def test_nothing_is_said_to_be_online_before_the_subscription_stands(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = SlowBroker()
        async with device(tmp_path, broker) as (one, notified):
            # What came behind the answer to the login is here, so the login's own effect would be, too.
            assert await notified.get() == "channel version 9"
            assert not one.online and notified.empty() and broker.seen == [CONNECT, SUBSCRIBE]
            broker.answer(GRANTED, GRANTED)
            assert await notified.get() == "connected"
            found = one.connection.document()
            assert one.online and (found["state"], found["reason"]) == ("connected", "")

    asyncio.run(scenario())


@pytest.mark.parametrize("word", [b"\x20\x02\x00\x01", b""], ids=["refuses", "hangs-up"])
def test_a_broker_without_mqtt_5_has_the_device_by_3_1_1_and_no_traces(tmp_path: Path, word: bytes) -> None:
    async def scenario() -> None:
        broker = OldBroker(word)
        async with device(tmp_path, broker, traced=True) as (_, notified):
            assert await notified.get() == "channel version 9"
            assert broker.levels == [5] and broker.keeps_session  # what is sent while it is away waits, as by 3.1.1
            assert broker.seen == [CONNECT, SUBSCRIBE]  # the second login is 3.1.1's
            broker.answer(GRANTED, GRANTED)
            assert await notified.get() == "connected"

    asyncio.run(scenario())


def test_a_subscription_that_is_refused_is_said_and_reports_go_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        broker = SlowBroker()
        async with device(tmp_path, broker) as (one, notified):
            assert await notified.get() == "channel version 9"
            broker.answer(REFUSED, GRANTED)
            assert await notified.get() == "connected"
            found = one.connection.document()
            assert one.online and (found["state"], found["reason"]) == ("connected", "not-subscribed")
            assert topics.command("cam-1") in found["detail"] and topics.notify("stable") not in found["detail"]
            assert "not-subscribed" in "\n".join(_broker(found))

    asyncio.run(scenario())


def test_a_broker_that_never_answers_the_subscription_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_client, "ANSWER_S", 0.2)

    async def scenario() -> None:
        broker = SlowBroker()
        async with device(tmp_path, broker) as (one, notified):
            assert await notified.get() == "channel version 9"
            while one.connection.document()["state"] != "failed":
                one.wake()
                await asyncio.sleep(0.01)
            found = one.connection.document()
            assert found["reason"] == "timed-out" and "subscription" in found["detail"]

    asyncio.run(scenario())
