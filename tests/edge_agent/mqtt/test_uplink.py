"""The uplink against a real Mosquitto; the test plays the hub."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import socket
import subprocess
import threading
import time

import paho.mqtt.client as mqtt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion

from edge_agent.errors import DeniedError
from edge_agent.identity.keys import signed_by
from edge_agent.mqtt import reconnecting
from edge_agent.mqtt.command_verification import COUNTER, counter_of, verified_command
from edge_agent.mqtt.link import Link
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.messages import (
    Command,
    CommandKeys,
    ModelReport,
    MqttEndpoint,
    Notify,
    Signed,
    Status,
    decode_body,
    decode_control,
    decode_envelope,
)
from tests.support.require import require
from tests.support.uplink import make_uplink

DEVICE = "cam-1"
PRIVATE = Ed25519PrivateKey.generate()
KEY = CommandKeys(keys={"ab12": PRIVATE.public_key().public_bytes_raw().hex()})


def signed(counter, kind="diagnose", *, device=DEVICE, expires_at=2e9, args=None, key=PRIVATE, key_id="ab12"):
    command = Command(
        id=f"c{counter}", device=device, counter=counter, expires_at=expires_at, kind=kind, args=args or {}
    )
    payload = encode_json(command)
    return encode_json(Signed(key_id=key_id, payload=payload, signature=key.sign(payload)))


def check(data, counter=0, key=KEY, **more):
    return verified_command(data, key, verify=signed_by, device=DEVICE, counter=counter, now=1e9, **more)


def test_a_good_command_is_accepted():
    assert check(signed(1)).kind == "diagnose"


@pytest.mark.parametrize(
    ("data", "more", "why"),
    [
        (signed(1), {"key": None}, "not here yet"),
        (signed(1, key=Ed25519PrivateKey.generate()), {}, "signature is wrong"),
        (signed(1, key_id="ff"), {}, "unknown key"),
        (signed(1, device="cam-2"), {}, "for device 'cam-2'"),
        (signed(3), {"counter": 3}, "not above 3"),
        (signed(1, expires_at=5e8), {}, "expired"),
        (b"{}", {}, "does not decode"),
        (b"\xff" * 70_000, {}, "does not decode"),
    ],
)
def test_a_bad_command_is_refused(data, more, why):
    with pytest.raises(DeniedError, match=why):
        check(data, **more)


def test_an_untrusted_clock_cannot_expire_a_command():
    assert check(signed(1, expires_at=5e8), clock_trusted=False).id == "c1"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextlib.contextmanager
def broker(port, folder):
    binary = require("mosquitto", "mosquitto")
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nautosave_interval 0\n")
    process = subprocess.Popen([binary, "-c", config], stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield process
    finally:
        process.kill()
        process.wait()


class Hub:
    """A subscriber to everything of the device, and a voice to it."""

    def __init__(self, port, prefix=topics.PREFIX):
        self.messages = queue.Queue()
        ready = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="hub")
        self.client.on_connect = lambda c, *_: c.subscribe(topics.uplink_filter(prefix=prefix), 1)
        self.client.on_subscribe = lambda *_: ready.put(True)
        self.client.on_message = lambda _c, _d, m: self.messages.put(
            (topics.parse_uplink(m.topic, prefix).leaf, m.payload)
        )
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        ready.get(timeout=60)

    async def next(self, leaf):
        """The payload of the next message on a leaf."""
        while True:
            found, payload = await asyncio.to_thread(self.messages.get, timeout=60)
            if found == leaf:
                return payload

    async def numbers(self, count):
        return [decode_envelope(await self.next("report")).seq for _ in range(count)]

    def command(self, *arguments, **more):
        self.client.publish(topics.command(DEVICE), signed(*arguments, **more), qos=1)

    def receipt(self, counter, spool, committed):
        self.command(counter, "receipt", args={"spool": spool, "committed": committed})

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Device:
    def __init__(self, folder, port, **more):
        self.database = Database(folder / "spool.db")
        self.spool = Spool(self.database)
        self.commands, self.notified = asyncio.Queue(), asyncio.Queue()
        endpoint = MqttEndpoint(host="127.0.0.1", port=port, tls=False, password="x")
        self.uplink = make_uplink(
            Link(device_id=DEVICE, channel="stable", endpoint=endpoint, heartbeat_s=more.pop("heartbeat_s", 30.0)),
            self.database,
            self.spool,
            key=lambda: KEY,
            verify=signed_by,
            handle=self.commands.put_nowait,
            notified=self.notified.put_nowait,
            clock=lambda: 1e9,
            **more,
        )

    def report(self, text="idle"):
        self.spool.append("model", encode_msgpack(ModelReport(model="tiny", state="idle", detail=text)), 1.0)
        self.uplink.wake()

    @contextlib.asynccontextmanager
    async def running(self):
        task = asyncio.create_task(self.uplink.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)


@pytest.fixture
def line(tmp_path):
    """(port, hub) on a running broker."""
    port = free_port()
    with broker(port, tmp_path):
        hub = Hub(port)
        yield port, hub
        hub.close()


def test_records_stay_until_the_receipt_and_are_sent_again_without_one(tmp_path, line):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port, first_timeout_s=0.3)
        for index in range(3):
            device.report(str(index))
        async with device.running():
            assert await device.notified.get() == "connected"
            assert decode_control(await hub.next("status"), Status).state == "online"
            assert await hub.numbers(3) == [1, 2, 3]
            assert await hub.numbers(2) == [1, 1]  # no receipt: the first one alone asks again, and again (ADR 0037)
            hub.receipt(1, "another-spool", 3)
            hub.receipt(2, device.spool.id, 2)
            await device.until(lambda: device.spool.base == 3)
            envelope = decode_envelope(await hub.next("report"))
            while envelope.base != 3:
                envelope = decode_envelope(await hub.next("report"))
            assert (envelope.seq, decode_body(envelope).detail) == (3, "2")
            hub.receipt(3, device.spool.id, 3)
            await device.until(lambda: len(device.spool) == 0)
        assert decode_control(await hub.next("status"), Status).state == "lost"

    asyncio.run(scenario())


def test_what_the_last_process_left_goes_first_and_under_its_own_numbers(tmp_path, line):
    port, hub = line

    async def scenario():
        before = Device(tmp_path, port)
        for index in range(3):
            before.report(str(index))
        before.spool.commit(1)
        before.database.close()
        device = Device(tmp_path, port)
        device.report("fresh")
        async with device.running():
            envelopes = [decode_envelope(await hub.next("report")) for _ in range(2)]
            assert [(one.spool, one.seq, one.base) for one in envelopes] == [
                (before.spool.id, 2, 2),
                (before.spool.id, 3, 2),
            ]
            hub.receipt(1, device.spool.id, 1)  # too early to be true
            hub.receipt(2, before.spool.id, 100)  # the original went on: what both had is there
            envelope = decode_envelope(await hub.next("report"))
            assert (envelope.spool, envelope.seq, envelope.base) == (device.spool.id, 1, 1)
            assert decode_body(envelope).detail == "fresh"
            hub.receipt(3, device.spool.id, 1)
            await device.until(lambda: len(device.spool) == 0)

    asyncio.run(scenario())


def test_a_receipt_for_numbers_that_were_never_sent_deletes_nothing(tmp_path, line, caplog):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port)
        device.report("kept")
        async with device.running():
            envelope = decode_envelope(await hub.next("report"))
            hub.receipt(1, envelope.spool, 5)  # as after a machine was set back while it ran
            again = decode_envelope(await hub.next("report"))
            assert (again.seq, again.body) == (envelope.seq, envelope.body) and again.spool != envelope.spool
            assert len(device.spool) == 1
            hub.receipt(2, again.spool, 1)
            await device.until(lambda: len(device.spool) == 0)

    asyncio.run(scenario())
    assert "is it running twice?" in caplog.text


def test_no_more_than_a_window_is_in_flight(tmp_path, line):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port)
        for _ in range(50):
            device.report()
        async with device.running():
            assert await hub.numbers(20) == list(range(1, 21))
            hub.receipt(1, device.spool.id, 5)
            assert await hub.numbers(5) == list(range(21, 26))

    asyncio.run(scenario())


def test_commands_are_obeyed_once_and_the_counter_survives_a_restart(tmp_path, line):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port)
        async with device.running():
            await device.notified.get()
            hub.command(7, key=Ed25519PrivateKey.generate())
            hub.command(5)
            assert (await device.commands.get()).counter == 5
        device.database.close()
        again = Device(tmp_path, port)
        async with again.running():
            await again.notified.get()
            hub.command(5)
            hub.command(6)
            assert (await again.commands.get()).counter == 6

    asyncio.run(scenario())


def test_a_device_that_was_enrolled_anew_obeys_from_the_first_command_on(tmp_path):
    database = Database(tmp_path / "spool.db")
    spool = Spool(database)
    spool.keep({COUNTER: "7"})  # as 0.1 kept it
    assert [counter_of(name, database, spool) for name in ("cam-1", "cam-1", "cam-2")] == [7, 7, 0]
    spool.keep({COUNTER: "3"})
    assert [counter_of(name, database, spool) for name in ("cam-2", "cam-1")] == [3, 0]


def test_a_notify_reaches_the_updater(tmp_path, line):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port)
        async with device.running():
            assert await device.notified.get() == "connected"
            said = encode_json(Notify(channel="stable", version=9))
            hub.client.publish(topics.notify("stable"), said, qos=1)
            assert await device.notified.get() == "channel version 9"

    asyncio.run(scenario())


def test_it_follows_to_another_broker_prefix_and_channel_and_loses_nothing(tmp_path, line):
    port, hub = line
    elsewhere = free_port()
    (tmp_path / "second").mkdir()

    async def scenario():
        device = Device(tmp_path, port)
        with broker(elsewhere, tmp_path / "second"):
            second = Hub(elsewhere, "acme/fleet")
            async with device.running():
                assert await device.notified.get() == "connected"
                device.report("before")
                assert await hub.numbers(1) == [1]
                endpoint = MqttEndpoint(host="127.0.0.1", port=elsewhere, tls=False, password="x", prefix="acme/fleet")
                device.uplink.follow(Link(device_id=DEVICE, channel="beta", endpoint=endpoint))
                device.report("after")
                assert decode_control(await second.next("status"), Status).state == "online"
                first = decode_envelope(await second.next("report"))  # it was never receipted
                receipt = signed(3, "receipt", args={"spool": first.spool, "committed": first.seq})
                second.client.publish(topics.command(DEVICE, "acme/fleet"), receipt, qos=1)
                after = decode_envelope(await second.next("report"))
                assert (first.seq, after.seq, decode_body(after).detail) == (1, 1, "after")
                second.client.publish(
                    topics.notify("beta", "acme/fleet"), encode_json(Notify(channel="beta", version=3)), qos=1
                )
                while await device.notified.get() != "channel version 3":
                    pass
                second.client.publish(topics.command(DEVICE, "acme/fleet"), signed(4), qos=1)
                assert (await device.commands.get()).counter == 4
            second.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("host", "port", "tls", "device"),
    [("", 8883, False, DEVICE), ("broker", 0, False, DEVICE), ("broker", 8883, True, DEVICE), ("", 0, False, "")],
    ids=["no host", "no port", "no certificate", "no identity"],
)
def test_after_a_link_that_cannot_be_one_a_better_one_is_followed(tmp_path, line, host, port, tls, device):
    good, hub = line

    async def scenario():
        ours = Device(tmp_path, good)
        bad = Link(device_id=device, channel="stable", endpoint=MqttEndpoint(host=host, port=port, tls=tls))
        ours.uplink._link, link = bad, ours.uplink._link
        ours.report("kept")
        async with ours.running():
            ours.uplink.follow(bad)
            await ours.until(lambda: ours.uplink._next is None)
            assert not ours.uplink.online
            ours.uplink.follow(link)
            assert await ours.notified.get() == "connected"
            assert await hub.numbers(1) == [1]

    asyncio.run(scenario())


def test_a_broker_that_dies_loses_nothing(tmp_path):
    port = free_port()

    async def scenario():
        device = Device(tmp_path, port)
        with broker(port, tmp_path):
            async with device.running():
                await device.notified.get()
        device.report()  # nobody there
        with broker(port, tmp_path):
            hub = Hub(port)
            async with device.running():
                assert await hub.numbers(1) == [1]
            hub.close()

    asyncio.run(scenario())


def test_a_client_that_is_given_up_slowly_does_not_hold_up_the_serving_loop(tmp_path):
    """A broker that is away makes the watchdog build a new client; the old one's thread takes its time."""

    async def scenario():
        device = Device(tmp_path, free_port())
        let_go = threading.Event()
        async with device.running():
            await device.until(lambda: device.uplink._broker._client is not None)
            first = device.uplink._broker._client
            stop, entered = first.loop_stop, asyncio.Event()
            loop = asyncio.get_running_loop()

            def slowly():
                loop.call_soon_threadsafe(entered.set)
                let_go.wait(10)
                return stop()

            first.loop_stop = slowly
            device.uplink._broker._heard = -1e9
            device.uplink.wake()
            async with asyncio.timeout(5):
                await entered.wait()  # reached only by a loop that runs while the client is being stopped
            assert device.uplink.rebuilt == 1 and device.uplink._broker._client is None
            let_go.set()
            await device.until(lambda: device.uplink._broker._client not in (None, first))

    asyncio.run(scenario())


def test_two_with_one_identity_give_way_to_each_other_and_name_it(tmp_path, line, monkeypatch):
    """A card that was copied: without pauses they took the connection over from each other every second."""
    port, hub = line
    monkeypatch.setattr(reconnecting, "FREE", 1)
    monkeypatch.setattr(reconnecting, "FIRST_S", 100.0)

    async def scenario():
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
        one, two = Device(tmp_path / "one", port), Device(tmp_path / "two", port)
        async with one.running():
            assert await one.notified.get() == "connected"
            async with two.running():
                assert await two.notified.get() == "connected"
                pausing = lambda device: device.uplink._broker._reconnecting.until > time.monotonic() + 10  # noqa: E731
                async with asyncio.timeout(20):
                    while not (pausing(one) or pausing(two)):
                        await asyncio.sleep(0.01)
                yielding, staying = (one, two) if pausing(one) else (two, one)
                await yielding.until(lambda: yielding.uplink.connection.document()["reason"] == "does-not-last")
                await staying.until(lambda: staying.uplink.online)
                yielding.uplink._broker._heard = -1e9
                yielding.uplink.wake()  # the watchdog takes a pause for what it is
                staying.report()
                assert await hub.numbers(1) == [1]
                assert yielding.uplink.rebuilt == 0 and not yielding.uplink.online

    asyncio.run(scenario())


def test_every_session_of_a_process_names_the_process(tmp_path, line):
    port, hub = line

    async def scenario():
        device = Device(tmp_path, port)
        async with device.running():
            first = decode_control(await hub.next("status"), Status)
            device.uplink.follow(device.uplink._link)
            second = first
            while second.session == first.session:
                second = decode_control(await hub.next("status"), Status)
        assert first.instance == second.instance != ""

    asyncio.run(scenario())
