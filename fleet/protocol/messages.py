"""Everything that hub and device say to each other, as typed structs; the bodies of HTTP are in `calls`.

JSON for control, MessagePack for telemetry and samples. Receivers ignore unknown fields, refuse an
unknown major version `v`, and bound the size before decoding. Times are Unix seconds (float).

What must not be lost travels in an `Envelope` and stays in the device's spool until the hub's signed
`Receipt` says "committed up to number N of spool S". A broker's acknowledgement is not delivery.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Raw, Struct, field

from fleet.protocol.calls import HELD_LIMIT as HELD_LIMIT
from fleet.protocol.calls import HTTP_LIMIT as HTTP_LIMIT
from fleet.protocol.calls import IN_USE_TWICE as IN_USE_TWICE
from fleet.protocol.calls import SAMPLES_LIMIT as SAMPLES_LIMIT
from fleet.protocol.calls import VERSION as VERSION
from fleet.protocol.calls import Array as Array
from fleet.protocol.calls import DeviceMe as DeviceMe
from fleet.protocol.calls import EnrollRequest as EnrollRequest
from fleet.protocol.calls import EnrollResponse as EnrollResponse
from fleet.protocol.calls import Held as Held
from fleet.protocol.calls import HeldAnswer as HeldAnswer
from fleet.protocol.calls import MqttEndpoint as MqttEndpoint
from fleet.protocol.calls import NonceRequest as NonceRequest
from fleet.protocol.calls import NonceResponse as NonceResponse
from fleet.protocol.calls import RenewRequest as RenewRequest
from fleet.protocol.calls import RenewResponse as RenewResponse
from fleet.protocol.calls import Sample as Sample
from fleet.protocol.calls import SampleBatch as SampleBatch
from fleet.protocol.calls import SampleReason as SampleReason
from fleet.protocol.calls import SampleReceipt as SampleReceipt
from fleet.protocol.calls import TokenRequest as TokenRequest
from fleet.protocol.calls import TokenResponse as TokenResponse
from fleet.protocol.calls import TrustBundle as TrustBundle
from fleet.protocol.calls import renewal_bytes as renewal_bytes
from fleet.protocol.codec import decode_json, decode_msgpack
from fleet.protocol.errors import MalformedError, UnsupportedError, VersionError
from fleet.protocol.shadow import ShadowCounts as ShadowCounts
from fleet.protocol.telemetry import InputSummary as InputSummary
from fleet.protocol.telemetry import PairCounts as PairCounts
from fleet.protocol.telemetry import QuantileData as QuantileData
from fleet.protocol.telemetry import SketchData as SketchData
from fleet.protocol.telemetry import Window as Window
from fleet.protocol.vitals import Vitals as Vitals

CONTROL_LIMIT = 64 << 10  # bytes of one control message
TELEMETRY_LIMIT = 64 << 10  # bytes of one telemetry message

UpdateState = Literal["idle", "fetching", "verifying", "trying", "probation", "committed", "rolled_back"]


# ---- hub -> device over MQTT -------------------------------------------------------------------


class Notify(Struct, frozen=True, kw_only=True):
    """Look now: the channel has this version. Wait `resolve.spread_delay(version, id, spread_s)` first."""

    v: int = VERSION
    channel: str
    version: int
    spread_s: int = 0


class Signed(Struct, frozen=True, kw_only=True):
    """A signed payload: Ed25519 over `payload` by the hub's command key (hex id `key_id`)."""

    v: int = VERSION
    key_id: str
    payload: bytes
    signature: bytes


class CommandKeys(Struct, frozen=True, kw_only=True):
    """The TUF target `hub/command-key.json`: hex SHA-256 of a raw Ed25519 public key -> that key in hex."""

    v: int = VERSION
    keys: dict[str, str] = field(default_factory=dict)


class Command(Struct, frozen=True, kw_only=True):
    """The payload of a `Signed` message to one device.

    Refused unless `device` is the receiver and `counter` is above the last one it accepted; an
    expired command is refused while the device's clock is trusted. Kinds: `receipt` (args `Receipt`), `diagnose`
    (answered with the agent's status), `logs` (args `{"lines", "seconds"}`, answered with `left_out` and with `lines`
    of `{"at", "level", "name", "text"}`), `send-samples` (args `{"model", "count"}` and, beside what agents of 0.1
    know, `{"max_bytes", "seconds"}`; answered with what will be kept, until when, and whether the channel samples as
    well), `benchmark` (args `{"model", "rounds"}`, answered with a `Benchmark`), `set-log-level` (args `{"level"}`). A
    kind that the receiver does not know is answered with a result that says so.
    """

    v: int = VERSION
    id: str
    device: str
    counter: int
    expires_at: float
    kind: str
    args: dict[str, Any] = field(default_factory=dict)


class Receipt(Struct, frozen=True, kw_only=True):
    """Everything in `spool` up to and including number `committed` is in the hub's database."""

    spool: str
    committed: int


# ---- device -> hub over MQTT -------------------------------------------------------------------


class Status(Struct, frozen=True, kw_only=True):
    """Online, or (as the connection's last will) lost. A `lost` of another session is ignored.

    `instance` names the agent's process, whose sessions change (empty from agents before it was added). `vitals` are
    the machine's, of a heartbeat alone (none from agents before they were added).
    """

    v: int = VERSION
    state: Literal["online", "lost"]
    session: str
    at: float = 0.0
    agent: str = ""
    instance: str = ""
    vitals: Vitals | None = None


class Envelope(Struct, frozen=True, kw_only=True):
    """One spooled record. `base` is the lowest number the spool still holds, so that the hub can
    tell a record that will come again from one that a full spool gave up.

    The hub accepts number `committed + 1`, answers a lower one with a receipt, and drops a higher
    one (the device sends it again) unless `base` shows that the numbers between are gone. A `kind` that a
    receiver does not know (all it knows are in `BODIES`) is numbered off like any other.
    """

    v: int = VERSION
    device: str
    spool: str
    seq: int
    base: int
    at: float
    kind: str
    body: Raw


class ModelReport(Struct, frozen=True, kw_only=True):
    """`kind="model"`: where one model stands; sent on every transition and every failure.

    `reason` is a stable word (`hash-mismatch`, `selftest-failed`, `expired-metadata`,
    `unsupported:<name>`, `disk-full`, `crash-loop`, …), `detail` a sentence, `hint` what to do.
    `untried`: `active` was committed by its self-test alone, and no request has been answered yet.
    """

    model: str
    state: UpdateState
    target: int | None = None
    active: int | None = None
    active_variant: str = ""
    previous: int | None = None
    rollout: str = ""
    attempt: int = 0
    channel_version: int = 0
    progress: float = 0.0
    reason: str = ""
    detail: str = ""
    hint: str = ""
    untried: bool = False


class AgentReport(Struct, frozen=True, kw_only=True):
    """`kind="agent"`: what the device is; sent on every start and when something changes."""

    agent: str
    channel: str
    capabilities: tuple[str, ...] = ()
    hardware: dict[str, str] = field(default_factory=dict)
    runtimes: dict[str, str] = field(default_factory=dict)
    channel_version: int = 0
    tuf: dict[str, int] = field(default_factory=dict)
    tuf_expires: dict[str, float] = field(default_factory=dict)
    clock: Literal["trusted", "untrusted"] = "trusted"
    disk_free: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    problem: str = ""
    hint: str = ""


class CommandResult(Struct, frozen=True, kw_only=True):
    """`kind="result"`: the answer to a command, or a measurement that the channel asked for (empty `id`).

    `kind` is the command's (empty from agents before it was added); the data of `benchmark` is a `Benchmark`.
    """

    id: str
    ok: bool
    detail: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    kind: str = ""


class Benchmark(Struct, frozen=True, kw_only=True):
    """The cost of one variant of a release on one device and runtime.

    `p50_us` and `p95_us` are microseconds per call at batch 1 over `rounds` calls; `load_us` is from
    bytes in memory to a model that can answer; `memory_bytes` is what the model adds to the resident
    memory at its peak, `process_bytes` that peak with interpreter and runtime.
    """

    model: str
    release: int
    variant: str
    runtime: str
    runtime_version: str = ""
    agent: str = ""
    rounds: int
    p50_us: float
    p95_us: float
    load_us: float = 0.0
    memory_bytes: int = 0
    process_bytes: int = 0


def decode_control(data: bytes, kind: type[Any]) -> Any:
    """Decode a JSON control message and check its major version.

    Raises:
        TooLargeError, MalformedError, VersionError.
    """
    message = decode_json(data, kind, limit=CONTROL_LIMIT)
    _check_version(message)
    return message


def decode_envelope(data: bytes) -> Envelope:
    """Decode an envelope (MessagePack) from a report or telemetry topic.

    Raises:
        MalformedError: it does not decode, or its numbers contradict each other.
        VersionError: its major version is unknown here.
    """
    envelope = decode_msgpack(data, Envelope, limit=TELEMETRY_LIMIT)
    _check_version(envelope)
    if envelope.seq < 1 or not 1 <= envelope.base <= envelope.seq:
        raise MalformedError(f"envelope number {envelope.seq} with base {envelope.base}", subject="envelope")
    return envelope


BODIES: dict[str, type[Struct]] = {
    "model": ModelReport,
    "agent": AgentReport,
    "result": CommandResult,
    "window": Window,
}


def decode_body(envelope: Envelope) -> ModelReport | AgentReport | CommandResult | Window:
    """The typed body of an envelope.

    Raises:
        MalformedError: it does not decode.
        UnsupportedError: a kind that is not in `BODIES`.
    """
    if envelope.kind not in BODIES:
        raise UnsupportedError(f"records of kind {envelope.kind[:64]!r} are unknown here", subject="kind")
    return decode_msgpack(bytes(envelope.body), BODIES[envelope.kind], limit=TELEMETRY_LIMIT)  # type: ignore[return-value]


def _check_version(message: Any) -> None:
    if message.v != VERSION:
        raise VersionError(f"{type(message).__name__} has major version {message.v}, this build speaks {VERSION}")
