"""The five packets of MQTT that tell a broker of one event: written and read, for version 5 and version 3.1.1. Pure.

Version 5 is asked for first, since only its answers say whether a publication was let through: an older broker
acknowledges what its access list throws away.
"""

from __future__ import annotations

from msgspec import Struct

V311, V5 = 4, 5
CONNACK, PUBACK = 2, 4  # kinds of packets, in the upper half of their first byte
DISCONNECT = b"\xe0\x00"
LONGEST = 4096  # bytes of an answer, which has at most a reason in words
FAILED = 0x80  # of version 5; below it, other than 0, are remarks
NO_SUBSCRIBER = 0x10
OTHER_VERSION = {V5: (0x84, 0x01), V311: (0x01,)}  # old brokers refuse version 5 in their own words
_OLD = {2: "it does not take the client id", 3: "it is unavailable", 4: "a wrong login", 5: "not authorized"}
_REASONS = {
    0x81: "a malformed packet",
    0x82: "a protocol error",
    0x83: "a refusal of its own",
    0x85: "it does not take the client id",
    0x86: "a wrong login",
    0x87: "not authorized",
    0x88: "it is unavailable",
    0x89: "it is busy",
    0x8A: "banned",
    0x90: "it does not take the topic",
    0x95: "too large a packet",
    0x97: "a quota is exceeded",
    0x99: "it wants another form of payload",
    0x9B: "it has no quality of service 1",
    0x9F: "too many connections",
}
_JSON = b"\x01\x01" + b"\x03" + len(b"application/json").to_bytes(2, "big") + b"application/json"


class Acknowledgement(Struct, frozen=True):
    """A broker's answer: `code` 0 for yes; of a publication also which one it means."""

    code: int
    number: int = 0


def connect(version: int, client_id: str, keepalive_s: int, username: str = "", password: bytes = b"") -> bytes:
    """Write CONNECT with a clean session and no will.

    Args:
        version: of MQTT, 4 (3.1.1) or 5.
        client_id: the name of the session.
        keepalive_s: seconds of silence after which the broker gives the connection up.
        username: empty for none.
        password: empty for none.
    """
    flags = 0x02 | (0x80 if username else 0) | (0x40 if password else 0)
    properties = b"\x00" if version == V5 else b""
    head = _text("MQTT") + bytes((version, flags)) + keepalive_s.to_bytes(2, "big") + properties
    login = (_text(username) if username else b"") + (_data(password) if password else b"")
    return _packet(0x10, head + _text(client_id) + login)


def publish(version: int, topic: str, payload: bytes, number: int) -> bytes:
    """Write PUBLISH at quality of service 1, not retained; version 5 says that it is JSON.

    Args:
        version: of MQTT, 4 (3.1.1) or 5.
        topic: where to.
        payload: JSON.
        number: of the packet, from 1 to 65,535.
    """
    properties = _length(len(_JSON)) + _JSON if version == V5 else b""
    return _packet(0x32, _text(topic) + number.to_bytes(2, "big") + properties + payload)


def read(version: int, kind: int, content: bytes) -> Acknowledgement:
    """Read the answer in a packet without its fixed head.

    Args:
        version: of MQTT, 4 (3.1.1) or 5.
        kind: of the packet, CONNACK or PUBACK.
        content: the bytes behind its fixed head.

    Raises:
        ValueError: there is none in it.
    """
    if kind not in (CONNACK, PUBACK) or len(content) < 2:
        raise ValueError("its answer is no answer of MQTT")
    if kind == CONNACK:
        return Acknowledgement(content[1])
    code = content[2] if version == V5 and len(content) > 2 else 0
    return Acknowledgement(code, int.from_bytes(content[:2], "big"))


def refused(version: int, answer: Acknowledgement) -> bool:
    """Tell whether an acknowledgement is a refusal."""
    return answer.code >= FAILED if version == V5 and answer.code not in OTHER_VERSION[V5] else answer.code != 0


def reason(code: int) -> str:
    """A refusal in words."""
    words = _REASONS.get(code) or _OLD.get(code)
    return f"{words} (reason {code:#04x})" if words else f"reason {code:#04x}"


def _packet(first: int, content: bytes) -> bytes:
    return bytes((first,)) + _length(len(content)) + content


def _length(number: int) -> bytes:
    """A number in groups of seven bits, the lowest first."""
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


def _text(text: str) -> bytes:
    return _data(text.encode())


def _data(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data
