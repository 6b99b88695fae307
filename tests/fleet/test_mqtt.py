"""The client of MQTT, with a real Mosquitto over TLS."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode

from fleet.mqtt import Client
from tests.support.descriptors import many_descriptors
from tests.support.mosquitto import PASSWORD, WAIT_S, Broker


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    made = Broker(tmp_path_factory.mktemp("broker"))
    made.start()
    yield made
    made.stop()


def client(broker: Broker, name: str) -> Client:
    made = Client(CallbackAPIVersion.VERSION2, client_id=name)
    made.tls_set(ca_certs=str(broker.ca))
    made.username_pw_set(name, PASSWORD)
    return made


def exchange(broker: Broker, messages: int, size: int) -> list[bytes]:
    """The messages of one client that another hears, from this thread while its own one waits."""
    heard, ready, whole = list[bytes](), threading.Event(), threading.Event()

    def hear(_client: object, _data: object, message: object) -> None:
        heard.append(message.payload)  # type: ignore[attr-defined]
        if len(heard) == messages:
            whole.set()

    ear, mouth = client(broker, "pager"), client(broker, "hub")
    ear.on_message = hear
    ear.on_connect = lambda one, *_: one.subscribe("site/#", 1)
    ear.on_subscribe = lambda *_: ready.set()
    for one in (ear, mouth):
        one.connect("127.0.0.1", broker.port)
        one.loop_start()
    assert ready.wait(WAIT_S), "it is connected"
    for number in range(messages):
        mouth.publish("site/a", b"%d" % number + b"." * size, qos=1).wait_for_publish(WAIT_S)
    assert whole.wait(WAIT_S), f"{len(heard)} of {messages} messages have come"
    for one in (ear, mouth):
        one.disconnect()
        one.loop_stop()
    return heard


@pytest.mark.parametrize("size", [0, 200_000], ids=["short", "of many records of TLS"])
def test_messages_come_whole_and_in_order(broker: Broker, size: int) -> None:
    assert exchange(broker, 20, size) == [b"%d" % number + b"." * size for number in range(20)]


def test_a_process_with_more_descriptors_than_select_takes_reaches_its_broker(broker: Broker) -> None:
    with many_descriptors():
        assert exchange(broker, 3, 10) == [b"%d" % number + b"." * 10 for number in range(3)]


def test_one_step_at_a_time_works_without_a_thread(broker: Broker) -> None:
    answers = list[object]()
    with many_descriptors():
        one = client(broker, "pager")
        one.on_connect = lambda _client, _data, _flags, code, _properties: answers.append(code)
        one.connect("127.0.0.1", broker.port)
        while not answers:
            assert one.loop(0.1) == MQTTErrorCode.MQTT_ERR_SUCCESS
        one.disconnect()
    assert answers == ["Success"]


def test_a_client_without_a_connection_says_so(broker: Broker) -> None:
    one = client(broker, "pager")
    assert one.loop(0.0) == MQTTErrorCode.MQTT_ERR_NO_CONN
    one.connect("127.0.0.1", broker.port)
    sock = one.socket()
    assert isinstance(sock, socket.socket)
    sock.close()
    assert one.loop(0.0) == MQTTErrorCode.MQTT_ERR_CONN_LOST
