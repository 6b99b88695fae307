"""A caller that connects and says nothing keeps nobody out, takes no file that others need, and fills no log."""

from __future__ import annotations

import asyncio
import datetime as dt
import errno
import logging
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fleet.serving import acceptor
from fleet.serving.acceptor import Acceptor
from tests.fleet.serving.listener import Client, listening, post, run, until


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    folder: Path = tmp_path_factory.mktemp("tls")
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hub")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    (folder / "both.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        + made.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "both.pem")
    return context


async def trusting(listener) -> Client:
    """A client with TLS."""
    return Client(*await asyncio.open_connection(*listener._where, ssl=ssl._create_unverified_context()))


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_handshakes_that_are_not_made_keep_nobody_out_and_take_few_files(tls: ssl.SSLContext) -> None:
    async def scenario(listener) -> None:
        before = open_files()
        for _ in range(60):
            held.append(await listener.client())
        for _ in range(3):
            client = await trusting(listener)
            await client.send(post("/hot"))
            assert await client.text() == "200 /hot "
        assert (
            open_files() - before - len(held) - 3 <= acceptor.LEAST + 3
        )  # handshakes under way, and the connections at work
        assert await held[0].ended()

    held: list[Client] = []
    run(scenario, connections=16, tls=tls)


def test_a_handshake_has_a_limit_of_time(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceptor, "HANDSHAKE_S", 0.01)

    async def scenario(listener) -> None:
        silent = await listener.client()
        assert await silent.ended()
        rubbish = await listener.client()
        await rubbish.send(b"GET / HTTP/1.0\r\n\r\n")
        assert await rubbish.reader.read() is not None  # perhaps an alert, and the end
        monkeypatch.setattr(acceptor, "HANDSHAKE_S", 60.0)
        client = await trusting(listener)
        await client.send(post("/hot"))
        assert await client.text() == "200 /hot "

    run(scenario, tls=tls)


class Full(socket.socket):
    """A listening socket of a process that has no file left, for the first `times`."""

    times = 3

    def accept(self):
        if self.times:
            self.times -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


def test_where_no_file_is_left_the_listener_rests_and_says_so_once_each_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceptor, "REST_S", 0.0)
    made: list[asyncio.Protocol] = []

    def protocol() -> asyncio.Protocol:
        made.append(asyncio.Protocol())
        return made[-1]

    async def scenario() -> None:
        with Full(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.bind(("127.0.0.1", 0))
            one = Acceptor(
                listener, lambda: made.append(asyncio.Protocol()) or made[-1], tls=None, waiting=4, backlog=9
            )
            with caplog.at_level(logging.WARNING):
                clients = [await asyncio.open_connection(*listener.getsockname()) for _ in range(5)]
                await until(lambda: len(made) == 5)
            one.close()
            await one.wait_closed()
            for _, writer in clients:
                writer.transport.abort()

    asyncio.run(asyncio.wait_for(scenario(), 60))
    assert [record.getMessage() for record in caplog.records] == [
        "no connection is accepted for 0.0 s: [Errno 24] Too many open files"
    ] * 3


def test_handshakes_under_way_end_with_the_server(tls: ssl.SSLContext) -> None:
    async def scenario() -> Client:
        async with listening(tls=tls) as listener:
            silent = await listener.client()
            client = await trusting(listener)
            await client.send(post("/hot"))
            assert await client.text() == "200 /hot "
        assert await silent.ended()
        return silent

    asyncio.run(asyncio.wait_for(scenario(), 60))
