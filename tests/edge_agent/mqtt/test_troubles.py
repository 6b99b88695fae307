"""The reason why a device is not online: told at the first failure, in its log and its status, with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cloud_hub.identity.ca import Authority, create_authority
from edge_agent import status_lines
from edge_agent.errors import AgentError
from edge_agent.identity.keys import signed_by
from edge_agent.identity.tls import Dates, client_context
from edge_agent.mqtt import broker_client, troubles
from edge_agent.mqtt.connection import AGAIN_S, Connection
from edge_agent.mqtt.link import Link
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.spool import Spool
from fleet.protocol.messages import MqttEndpoint
from tests.support.require import require
from tests.support.uplink import make_uplink

FAR = MqttEndpoint(host="hub.example", port=8883, tls=True)
NEAR = MqttEndpoint(host="127.0.0.1", port=8883, tls=True)
DAY = 86_400.0


def mismatch(number: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = number, "as OpenSSL says it"
    return error


@pytest.mark.parametrize(
    ("error", "endpoint", "reason", "hint"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), FAR, "refused", "beyond 127.0.0.1"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), NEAR, "refused", "is the device itself"),
        (socket.gaierror(-2, "Name or service not known"), FAR, "unknown-host", "DNS know hub.example"),
        (TimeoutError("timed out"), FAR, "timed-out", "port 8883 open"),
        (TimeoutError("_ssl.c:989: The handshake operation timed out"), FAR, "timed-out", "the hub's broker?"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), FAR, "unreachable", "network up"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), FAR, "unreachable", "route"),
        (OSError(errno.EMFILE, "Too many open files"), FAR, "failed", ""),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), FAR, "closed", "revoked"),
        (mismatch(62), FAR, "wrong-name", "'hub.example' in `hostnames`"),
        (mismatch(64), NEAR, "wrong-name", "'127.0.0.1' in `hostnames`"),
        (mismatch(19), FAR, "wrong-hub", "enrolled with"),
        (ssl.SSLCertVerificationError("it expired: set the clock"), FAR, "bad-dates", ""),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), FAR, "wrong-hub", "with TLS"),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), FAR, "closed", "revoked"),
        (UnicodeError("label empty or too long"), FAR, "bad-address", "broker.advertise_host"),
        (AgentError("no certificate", hint="enrol again", reason="bad-certificate"), FAR, "bad-certificate", "enrol"),
    ],
)
def test_errors(error: Exception, endpoint: MqttEndpoint, reason: str, hint: str) -> None:
    found = troubles.of_error(error, endpoint)
    assert found.reason == reason and found.detail and hint in found.hint


def test_alerts_of_a_broker_that_does_not_want_this_device() -> None:
    error = ssl.SSLError(1, "[SSL: SSLV3_ALERT_CERTIFICATE_REVOKED] sslv3 alert certificate revoked")
    error.reason = "SSLV3_ALERT_CERTIFICATE_REVOKED"
    assert troubles.of_error(error, FAR).reason == "not-authorised"


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (troubles.of_refusal("Not authorized"), "not-authorised"),
        (troubles.of_refusal("Bad user name or password"), "not-authorised"),
        (troubles.of_refusal("Server unavailable"), "refused"),
        (troubles.closed("Unspecified error"), "closed"),
        (troubles.closed("Keep alive timeout"), "timed-out"),
        (troubles.silent(FAR, 10.0), "timed-out"),
    ],
)
def test_answers_of_a_broker(found: troubles.Trouble, reason: str) -> None:
    assert found.reason == reason and found.hint


def test_a_reason_is_logged_when_it_comes_up_and_then_every_hour(caplog: pytest.LogCaptureFixture) -> None:
    now = [1000.0]
    connection = Connection(lambda: now[0])
    connection.begin(FAR)
    refused, late = troubles.Trouble("refused", "nobody"), troubles.Trouble("timed-out", "late", "look")

    def said() -> list[str]:
        words = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return words

    connection.failed(refused)
    assert said() == ["no connection to the broker at hub.example:8883: refused: nobody"]
    now[0] += 60
    connection.failed(refused)
    assert said() == []
    connection.failed(late)
    assert said() == ["no connection to the broker at hub.example:8883: timed-out: late; look"]
    now[0] += AGAIN_S
    connection.failed(late)
    assert len(said()) == 1
    now[0] -= 10 * AGAIN_S  # a clock that went back holds nothing up
    connection.failed(late)
    assert len(said()) == 1
    document = connection.document()
    assert (document["state"], document["failures"], document["since"]) == ("failed", 5, 1000.0)
    assert (document["reason"], document["detail"], document["hint"]) == ("timed-out", "late", "look")
    connection.made()
    assert connection.document()["state"] == "connected" and connection.document()["reason"] == ""
    connection.failed(refused)
    connection.begin(NEAR)
    assert connection.document() == {
        "address": "127.0.0.1:8883",
        "state": "connecting",
        "since": now[0],
        "failures": 0,
        "reason": "",
        "detail": "",
        "hint": "",
    }


def test_people_see_reason_and_hint(tmp_path: Path) -> None:
    connection = Connection(lambda: 0.0)
    connection.begin(MqttEndpoint(host="2001:db8::7", port=8883, tls=True))
    for _ in range(2):
        connection.failed(troubles.Trouble("refused", "nobody", "start it"))
    said = status_lines.lines({"running": True, "broker": connection.document()}, tmp_path)
    assert "  broker: [2001:db8::7]:8883, refused (2 times since 1970-01-01 00:00 UTC): nobody" in said
    assert "    try: start it" in said
    connection.made()
    said = status_lines.lines({"running": True, "broker": connection.document()}, tmp_path)
    assert "  broker: [2001:db8::7]:8883, connected since 1970-01-01 00:00 UTC" in said


# ---- a real uplink against what listens there ---------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def context_for(folder: Path, ca: bytes) -> ssl.SSLContext:
    (folder / "ca.pem").write_bytes(ca)
    return client_context(folder / "ca.pem", Dates(folder))


async def first_trouble(folder: Path, endpoint: MqttEndpoint, context: ssl.SSLContext | None = None) -> dict:
    """The status of an uplink at its first failure."""
    database = Database(folder / "spool.db")
    link = Link(device_id="cam-1", channel="stable", endpoint=endpoint, context=context, heartbeat_s=2.0)
    one = make_uplink(
        link,
        database,
        Spool(database),
        verify=signed_by,
    )
    task = asyncio.create_task(one.run())
    try:
        async with asyncio.timeout(20):
            while one.connection.document()["state"] != "failed":
                await asyncio.sleep(0.01)
        return one.connection.document()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        database.close()


def trouble(folder: Path, port: int, *, host: str = "127.0.0.1", context: ssl.SSLContext | None = None) -> dict:
    endpoint = MqttEndpoint(host=host, port=port, tls=context is not None, password="x")
    return asyncio.run(first_trouble(folder, endpoint, context))


@contextlib.contextmanager
def listening(answer: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[int]:
    """Something that does `answer` with every connection; its port."""
    listener = socket.create_server((host, 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10)


def test_nobody_listens(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = trouble(tmp_path, port := free_port())
    assert (found["reason"], found["address"]) == ("refused", f"127.0.0.1:{port}")
    assert "the device itself" in found["hint"] and found["failures"] == 1
    assert f"no connection to the broker at 127.0.0.1:{port}: refused: Connection refused" in caplog.text


@pytest.mark.parametrize(
    ("host", "error", "reason"),
    [
        ("hub.example", socket.gaierror(-2, "Name or service not known"), "unknown-host"),
        ("hub.example", TimeoutError("timed out"), "timed-out"),
        ("hub.example", OSError(errno.ENETUNREACH, os.strerror(errno.ENETUNREACH)), "unreachable"),
        ("a" * 64 + ".example", None, "bad-address"),  # Python's own codec refuses to look that up
    ],
)
def test_no_way_leads_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str, error: OSError | None, reason: str
) -> None:
    if error is not None:

        def fails(*_: object, **__: object) -> socket.socket:
            raise error

        monkeypatch.setattr(socket, "create_connection", fails)
    assert trouble(tmp_path, 8883, host=host)["reason"] == reason


@pytest.mark.parametrize(("names", "reason"), [(("hub.example",), "wrong-name"), (None, "wrong-hub")])
def test_a_certificate_of_another_name_or_hub(tmp_path: Path, names: tuple[str, ...] | None, reason: str) -> None:
    ca = create_authority(time.time())
    pair = Authority(ca if names else create_authority(time.time())).server(("hub.example",), time.time())
    (tmp_path / "pair.pem").write_bytes(pair.key + pair.certificate)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "pair.pem")

    def answer(connection: socket.socket) -> None:
        with served.wrap_socket(connection, server_side=True) as secured:
            secured.recv(1)

    with listening(answer, "127.0.0.2") as port:  # which no certificate of ours names
        found = trouble(tmp_path, port, host="127.0.0.2", context=context_for(tmp_path, ca.certificate))
    assert found["reason"] == reason


def test_a_certificate_whose_dates_do_not_hold(tmp_path: Path) -> None:
    ca = create_authority(time.time() - 5 * 365 * DAY)
    pair = Authority(ca).server((), time.time() - 4 * 365 * DAY)
    (tmp_path / "pair.pem").write_bytes(pair.key + pair.certificate)
    served = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    served.load_cert_chain(tmp_path / "pair.pem")
    with listening(lambda connection: served.wrap_socket(connection, server_side=True).close()) as port:
        (tmp_path / "ca.pem").write_bytes(ca.certificate)
        context = client_context(tmp_path / "ca.pem", Dates(tmp_path, synchronised=lambda: True))
        found = trouble(tmp_path, port, context=context)
    assert found["reason"] == "bad-dates" and "expired on" in found["detail"]


def test_no_tls_there(tmp_path: Path) -> None:
    context = context_for(tmp_path, create_authority(time.time()).certificate)
    with listening(lambda connection: connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as port:
        assert trouble(tmp_path, port, context=context)["reason"] == "wrong-hub"


def test_one_that_hangs_up(tmp_path: Path) -> None:
    with listening(lambda connection: connection.recv(1)) as port:
        assert trouble(tmp_path, port)["reason"] == "closed"


def test_one_that_never_answers_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_client, "ANSWER_S", 0.5)
    done = threading.Event()
    with listening(lambda _: done.wait(20) and None) as port:
        found = trouble(tmp_path, port)
        done.set()
    assert found["reason"] == "timed-out" and "no answer to login" in found["detail"]


def test_a_broker_that_refuses_this_device(tmp_path: Path) -> None:
    binary = require("mosquitto", "mosquitto")
    port = free_port()
    (tmp_path / "conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous false\n")
    process = subprocess.Popen([binary, "-c", tmp_path / "conf"], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert time.monotonic() < deadline
        found = trouble(tmp_path, port)
    finally:
        process.kill()
        process.wait()
    assert (found["reason"], found["detail"]) == ("not-authorised", "Not authorized") and "revoked" in found["hint"]
