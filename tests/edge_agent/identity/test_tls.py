"""Certificates' dates on a device whose clock may be wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time

import pytest

from cloud_hub.identity.ca import Authority, create_authority
from edge_agent.host.clock import synchronised
from edge_agent.identity.tls import Dates, client_context, refusal

DAY = 86_400.0
NOW = 1_800_000_000.0
VALID = (NOW - 10 * DAY, NOW + 10 * DAY)


@pytest.mark.parametrize(
    ("now", "floor", "trusted", "word"),
    [
        (NOW, NOW - DAY, True, ""),
        (NOW + 11 * DAY, NOW, True, "set this device's clock, or restart the hub"),
        (NOW - 11 * DAY, NOW - 12 * DAY, True, "is valid from"),
        (NOW - 3600, NOW, True, ""),  # an hour behind: within the slack, so the floor is what counts
        (0.0, NOW, False, ""),  # 1970
        (0.0, NOW - 30 * DAY, False, ""),  # the hub got a newer certificate since: nothing to be said against it
        (0.0, NOW + 11 * DAY, False, "has passed: restart the hub"),
        (0.0, 0.0, True, "set the clock"),  # nothing was ever seen: the clock is all there is
    ],
)
def test_dates(now, floor, trusted, word):
    why = refusal(*VALID, now=now, floor=floor, trusted=trusted)
    assert word in why if word else why == ""


@pytest.mark.parametrize(
    ("now", "floor", "word"),
    [
        (NOW + 1000 * DAY, NOW - DAY, ""),  # far ahead: what has certainly passed is all there is
        (NOW + 1000 * DAY, NOW + 11 * DAY, "has passed: restart the hub"),
        (NOW, NOW - DAY, ""),
        (NOW - 11 * DAY, NOW - 12 * DAY, "is valid from"),  # behind: nothing is known that would bear it out
    ],
)
def test_dates_by_a_clock_that_nobody_sets(now, floor, word):
    why = refusal(*VALID, now=now, floor=floor, trusted=True, synchronised=False)
    assert word in why if word else why == ""


def test_the_kernel_says_whether_a_time_server_sets_its_clock():
    def fails(request) -> int:
        raise OSError(1, "Operation not permitted")

    assert synchronised() in (True, False)
    assert synchronised(lambda request: 0) and not synchronised(lambda request: 5)
    assert synchronised(lambda request: -1) and synchronised(fails)  # a sandbox may forbid the question
    asked = []
    synchronised(lambda request: asked.append(bytes(request)) or 0)
    assert len(asked[0]) >= 208 and not any(asked[0])  # a request that changes nothing


@contextlib.contextmanager
def server(folder, *, made_at: float, ca_made_at: float | None = None):
    """A TLS server whose certificate was made at `made_at`; gives its port and the CA's file."""
    folder.mkdir(exist_ok=True)
    ca = create_authority(made_at if ca_made_at is None else ca_made_at)
    pair = Authority(ca).server(("localhost",), made_at)
    for name, data in (("ca.pem", ca.certificate), ("s.pem", pair.certificate), ("s.key", pair.key)):
        (folder / name).write_bytes(data)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "s.pem", folder / "s.key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as wrapped:
                    wrapped.sendall(wrapped.recv(10))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield listener.getsockname()[1], folder / "ca.pem"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def echo(context: ssl.SSLContext, port: int, *, later: bool = False) -> bytes:
    """One exchange; with `later` the handshake is a call of its own, as in paho."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost", do_handshake_on_connect=not later) as wrapped,
    ):
        if later:
            wrapped.do_handshake()
        wrapped.sendall(b"hello")
        return wrapped.recv(10)


@pytest.mark.parametrize("later", [False, True])
def test_a_certificate_is_judged_by_the_agents_time_and_not_by_openssls(tmp_path, later):
    """The certificate is not valid yet by this machine's clock, and by the device's it has been for a day."""
    soon = time.time() + 30 * DAY
    with server(tmp_path / "server", made_at=soon) as (port, ca):
        with pytest.raises(ssl.SSLCertVerificationError, match="not yet valid"):
            echo(ssl.create_default_context(cafile=str(ca)), port, later=later)
        right = client_context(ca, Dates(tmp_path, clock=lambda: soon + DAY))
        assert echo(right, port, later=later) == b"hello"
        with pytest.raises(ssl.SSLCertVerificationError, match=r"localhost is valid from .* set the clock"):
            echo(client_context(ca, Dates(tmp_path)), port, later=later)
        late = client_context(ca, Dates(tmp_path, clock=lambda: soon + 900 * DAY))
        with pytest.raises(ssl.SSLCertVerificationError, match="expired on"):
            echo(late, port, later=later)
        ahead = Dates(tmp_path, clock=lambda: soon + 900 * DAY, synchronised=lambda: False)
        assert echo(client_context(ca, ahead), port, later=later) == b"hello"


def test_a_clock_at_1970_connects_once_a_floor_is_known_and_never_to_what_has_certainly_expired(tmp_path):
    now = time.time()
    with server(tmp_path / "server", made_at=now - 1000 * DAY) as (port, ca):  # the server's has expired
        at_1970 = client_context(ca, Dates(tmp_path, clock=lambda: 0.0))
        with pytest.raises(ssl.SSLCertVerificationError, match="set the clock"):
            echo(at_1970, port)
        (tmp_path / "time-floor").write_text(f"{now - 500 * DAY:.0f}")
        assert echo(at_1970, port) == b"hello"
        (tmp_path / "time-floor").write_text(f"{now:.0f}")
        with pytest.raises(ssl.SSLCertVerificationError, match="restart the hub, which renews it"):
            echo(at_1970, port)


def test_the_dates_of_the_ca_count_as_well(tmp_path):
    now = time.time()
    dates = Dates(tmp_path, clock=lambda: now + 20 * DAY)
    with (
        server(tmp_path / "server", made_at=now, ca_made_at=now - 3640 * DAY) as (port, ca),
        pytest.raises(ssl.SSLCertVerificationError, match="Edgeloop hub CA expired on"),
    ):
        echo(client_context(ca, dates), port)


def test_another_ca_or_name_is_refused_as_ever(tmp_path):
    with (
        server(tmp_path / "one", made_at=time.time()) as (port, ca),
        server(tmp_path / "two", made_at=time.time()) as (
            _,
            other,
        ),
    ):
        with pytest.raises(ssl.SSLCertVerificationError, match="verify failed"):
            echo(client_context(other, Dates(tmp_path)), port)
        context = client_context(ca, Dates(tmp_path))
        with (
            socket.create_connection(("127.0.0.1", port), 10) as plain,
            pytest.raises(ssl.SSLCertVerificationError, match="mismatch"),
        ):
            context.wrap_socket(plain, server_hostname="elsewhere.example")
