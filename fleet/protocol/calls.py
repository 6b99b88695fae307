"""The bodies of HTTP between device and hub: enrolment, tokens, renewal, what is a device's own, samples.

JSON, but for samples (MessagePack). `fleet.protocol.messages` has what travels over MQTT, and all of these too.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from fleet.protocol.topics import PREFIX

VERSION = 1
HTTP_LIMIT = 1 << 20  # bytes of an enrolment or `/device/me` body
SAMPLES_LIMIT = 8 << 20  # bytes of one batch of samples
HELD_LIMIT = 8 << 20  # bytes of what a device holds

IN_USE_TWICE = "identity-in-use-twice"  # the reason word on both sides

SampleReason = Literal["uncertain", "disagreeing", "outlying", "random"]


class TrustBundle(Struct, frozen=True, kw_only=True):
    """`GET /enroll/trust`: public; the claim token's pin is sha256(root ‖ ca), both as given here."""

    root: bytes
    ca: bytes


class EnrollRequest(Struct, frozen=True, kw_only=True):
    """`POST /enroll`: `token` is the claim token's id, `secret` its secret. `csr` is PEM; the key
    never leaves the device. `name` asks for a device id; the hub answers 409 when it is taken.
    `capabilities` are what the agent understands beyond 0.1, so that its first look is offered nothing else."""

    token: str
    secret: str
    csr: str
    name: str = ""
    agent: str = ""
    hardware: dict[str, str] = field(default_factory=dict)
    capabilities: tuple[str, ...] = ()


class MqttEndpoint(Struct, frozen=True, kw_only=True):
    """The broker's address. With `tls` the device shows its certificate; without (embedded broker, loopback only) it
    logs in with its id and `password`. `prefix` starts every topic."""

    host: str
    port: int
    tls: bool
    password: str = ""
    prefix: str = PREFIX


class EnrollResponse(Struct, frozen=True, kw_only=True):
    """The facts that a device needs after enrolment; equal for a repeated request with the same token and key."""

    device_id: str
    certificate: str
    ca: str
    channel: str
    mqtt: MqttEndpoint


class NonceRequest(Struct, frozen=True, kw_only=True):
    """`POST /device/nonce`."""

    device_id: str


class NonceResponse(Struct, frozen=True, kw_only=True):
    """Answer to `NonceRequest`."""

    nonce: str
    expires_in_s: int


class TokenRequest(Struct, frozen=True, kw_only=True):
    """`POST /device/token`: ECDSA-SHA256 (DER) by the device key over `"edgeloop-token:" + nonce`."""

    device_id: str
    nonce: str
    signature: bytes


class TokenResponse(Struct, frozen=True, kw_only=True):
    """A bearer token for the device's HTTP calls."""

    token: str
    expires_in_s: int


class RenewRequest(Struct, frozen=True, kw_only=True):
    """`POST /device/renew`: a new certificate for the key of `csr` (PEM), the enrolled one or a fresh one.

    `signature` is ECDSA-SHA256 (DER) by the enrolled key over `renewal_bytes(nonce, csr)`, so that a
    device whose certificate has expired can still ask. The same key gives the same certificate.
    """

    device_id: str
    nonce: str
    csr: str
    signature: bytes


class RenewResponse(Struct, frozen=True, kw_only=True):
    """The certificate (PEM). A fresh key is the device's only once it has bought a token with it; until then
    the old one is good as well, so that nothing is lost however the two are cut off."""

    certificate: str
    expires_at: float


class DeviceMe(Struct, frozen=True, kw_only=True):
    """`GET /device/me`: this device's own opaque group ids and pins (model -> release).

    `renew`: by the hub's clock it is time for a new certificate (half of its life, with jitter).
    `in_use_twice`: two machines connect with this identity, as after a card was copied."""

    device_id: str
    channel: str
    groups: tuple[str, ...] = ()
    pins: dict[str, Annotated[int, Meta(ge=1, le=2**63 - 1)]] = field(default_factory=dict)  # what JSON takes both ways
    mqtt: MqttEndpoint | None = None
    renew: bool = False
    in_use_twice: bool = False


class Held(Struct, frozen=True, kw_only=True):
    """`POST /device/held` (MessagePack): signed bytes that a device keeps, for a hub that serves older ones, as after a
    restore from a backup. `roots` in order; `documents` are targets by their path. `command` is the last command or
    receipt that the device accepted, as it came. The hub believes its own signatures and nothing else."""

    v: int = VERSION
    roots: tuple[bytes, ...] = ()
    timestamp: bytes = b""
    snapshot: bytes = b""
    targets: bytes = b""
    models: bytes = b""
    channels: bytes = b""
    documents: dict[str, bytes] = field(default_factory=dict)
    command: bytes = b""


class HeldAnswer(Struct, frozen=True, kw_only=True):
    """The hub's answer to a device with newer metadata: `lifted` if it has risen above them, else it knew them
    already."""

    lifted: bool


class Array(Struct, frozen=True, kw_only=True):
    """A tensor's bytes: little-endian, row-major; `datatype` is an Open Inference Protocol name."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: bytes


class Sample(Struct, frozen=True, kw_only=True):
    """One recorded input with its outputs. `id` is unique for ever (a ULID-like string)."""

    id: str
    model: str
    release: int
    variant: str
    at: float
    reason: SampleReason
    inputs: tuple[Array, ...]
    outputs: tuple[Array, ...]
    confidence: float
    prediction: int
    cloud_prediction: int | None = None


class SampleBatch(Struct, frozen=True, kw_only=True):
    """`POST /device/samples` (MessagePack); the hub takes each sample id once."""

    v: int = VERSION
    samples: tuple[Sample, ...]


class SampleReceipt(Struct, frozen=True, kw_only=True):
    """The ids that are now in the hub's database, new or known."""

    committed: tuple[str, ...]


def renewal_bytes(nonce: str, csr: str) -> bytes:
    """Return the bytes that the enrolled key signs to renew: they bind the request's key to the nonce."""
    return b"edgeloop-renew:" + nonce.encode() + b":" + hashlib.sha256(csr.encode()).hexdigest().encode()
