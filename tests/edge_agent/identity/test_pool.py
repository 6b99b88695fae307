"""Answers that come a byte every two seconds: in the head, between heads, around a chunk. The clock is injected."""

from __future__ import annotations

import contextlib
import io
import socket
import threading

import pytest

from edge_agent.errors import UnreachableError
from edge_agent.identity import pool
from edge_agent.update.download.sources import HttpMirror

BODY = b"the bytes of a model, slowly"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(BODY)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
EVERY_S, TIMEOUT_S = 2.0, 30.0


class Drip(io.RawIOBase):
    """A connection on which `said` comes: each of `pieces` at once, and `EVERY_S` after the one before."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces, self.now = pieces, 0.0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        self.now += EVERY_S
        piece = self.pieces.pop(0) if self.pieces else b""
        assert len(piece) <= len(buffer)
        buffer[: len(piece)] = piece
        return len(piece)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(self)

    def gettimeout(self) -> float:
        return TIMEOUT_S


@pytest.fixture
def answering(monkeypatch):
    def answer(*pieces: bytes) -> pool._Answer:
        drip = Drip(list(pieces))
        monkeypatch.setattr(pool, "monotonic", lambda: drip.now)
        return pool._Answer(drip)

    return answer


def bytewise(data: bytes) -> list[bytes]:
    return [bytes([byte]) for byte in data]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\nX: " + b"x" * 50 + HEAD[15:], b"HTTP/1.1 100 Continue\r\n\r\n" * 2 + HEAD]
)
def test_a_head_that_drips_is_given_up(answering, head):
    with pytest.raises(TimeoutError, match="drips"):
        answering(*bytewise(head), BODY).begin()


def test_a_chunk_whose_frame_drips_is_given_up(answering):
    answer = answering(CHUNKED, *bytewise(b"%x;" % len(BODY) + b"x" * 50), b"\r\n" + BODY + b"\r\n0\r\n\r\n")
    answer.begin()
    with pytest.raises(TimeoutError, match="drips"):
        answer.read1(1 << 16)


@pytest.mark.parametrize(
    "pieces",
    [
        [HEAD, BODY],
        [*bytewise(HEAD[:10]), HEAD[10:] + BODY],
        [CHUNKED + b"%x;a=b\r\n" % len(BODY) + BODY + b"\r\n0\r\n\r\n"],
    ],
    ids=["whole", "slow at first", "chunked"],
)
def test_an_honest_answer_is_read(answering, pieces):
    answer = answering(*pieces)
    answer.begin()
    assert answer.status == 200
    assert b"".join(iter(lambda: answer.read1(1 << 16), b"")) == BODY


def test_a_body_may_take_longer_than_the_timeout_as_long_as_pieces_come(answering):
    answer = answering(HEAD, *bytewise(BODY))  # whether that is too slow is for `paced` to judge
    answer.begin()
    assert b"".join(iter(lambda: answer.read1(1 << 16), b"")) == BODY
    assert pool.monotonic() > TIMEOUT_S


def test_a_mirror_that_drips_its_head_is_left():
    """Over a real socket; a head that is whole in the end, for who waits."""
    over = threading.Event()
    drip = b"HTTP/1.1 200 OK\r\nX: " + b"x" * 200

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            client, _ = listener.accept()
            with client:
                client.recv(1 << 16)
                for byte in bytewise(drip):
                    client.sendall(byte)
                    over.wait(0.01)
                client.sendall(HEAD[15:] + BODY)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        mirror = HttpMirror(f"http://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(UnreachableError, match="does not answer"), mirror.stream("GET", "/x", timeout=0.1):
            pass
        over.set()
        thread.join(10)
