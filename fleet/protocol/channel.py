"""The channel document: the signed desired state that a set of devices follows.

It is the TUF target `channels/<channel>.json`, at most 64 rules and 64 KiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import inf

import msgspec
from msgspec import Struct, field

from fleet.protocol.codec import check_numbers, decode_json, encode_json
from fleet.protocol.errors import MalformedError, VersionError
from fleet.protocol.manifest import check_required
from fleet.protocol.names import check_name
from fleet.protocol.shadow import Shadow, check_shadow
from fleet.protocol.window import parse_window

CHANNEL_LIMIT = 64 << 10  # bytes
MAX_RULES = 64
MAX_BENCH_ROUNDS = 100_000
SCHEMA = 1
MILLION = 1_000_000
WHEN = ("never", "on-failure", "low-confidence", "always", "speculative")
NEVER, ON_FAILURE, LOW_CONFIDENCE, ALWAYS, SPECULATIVE = WHEN
ROUTING = ("routing-when", "routing-budget", "routing-remote", "routing-grpc")  # capabilities
ROUTING_WHEN, ROUTING_BUDGET, ROUTING_REMOTE, ROUTING_GRPC = ROUTING
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")  # of another server's model or version
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]{1,255}(/[A-Za-z0-9._~/-]{0,255})?|grpcs?://[A-Za-z0-9.\-\[\]:]{1,255}")


class Rule(Struct, frozen=True, kw_only=True):
    """Devices in any of `groups` (opaque ids) run `release` instead of the default."""

    groups: tuple[str, ...]
    release: int


class RolloutRef(Struct, frozen=True, kw_only=True):
    """A rollout in progress: the cohort below `share_ppm` runs `release`, all others `from`.

    With `groups`, only devices in one of them can belong to the cohort. With `measure`, a device
    that has committed `release` measures it once (see `Bench`): the rollout's guard waits for that. With `shadow`,
    every device that the rollout could take in runs `release` beside what it serves (see `resolve.shadows`).
    """

    id: str
    attempt: int
    release: int
    from_release: int = field(name="from")
    share_ppm: int
    salt: str
    groups: tuple[str, ...] = ()
    measure: bool = False
    shadow: Shadow | None = None


class Remote(Struct, frozen=True, kw_only=True):
    """A server that answers in the hub's place: any that speaks the Open Inference Protocol v2, over HTTP, or over gRPC
    where `url` is `grpc://host:port` or, with TLS, `grpcs://host:port`.

    `model` and `version` are its names (empty: the model's own, and whatever version it holds current). `credential`
    names an entry of the device's own `agent.toml`, which is bound to one origin: no secret is in a channel, and no
    channel can have one sent elsewhere. With `binary` off requests are JSON (over gRPC in typed fields) from the first;
    else they become so when the server refuses binary tensors.
    """

    url: str
    model: str = ""
    version: str = ""
    credential: str = ""
    binary: bool = True

    @property
    def rpc(self) -> bool:
        """True if it is asked over gRPC."""
        return self.url.startswith(("grpc://", "grpcs://"))


class Routing(Struct, frozen=True, kw_only=True):
    """The way in which requests are answered. `deadline_ms` bounds the whole request, cloud call included.

    `when` the cloud is asked, one of `WHEN`: `never`; `on-failure` (the local model failed, or there is none);
    `low-confidence` (then, too); `always`; `speculative` (as `low-confidence`, but the call begins with the local run).
    `cloud` off is `never`. At most `calls_per_s` calls are made and `calls_bytes_per_day` bytes of requests and answers
    spent by each device and model; 0: no limit. `remote` answers in the hub's place.
    """

    cloud: bool = True
    when: str = LOW_CONFIDENCE
    calls_per_s: float = 0.0
    calls_bytes_per_day: int = 0
    remote: Remote | None = None
    deadline_ms: int = 1000
    threshold: float | None = None  # overrides the manifest's deferral threshold
    breaker_failures: int = 3
    breaker_reset_s: float = 5.0


class Audit(Struct, frozen=True, kw_only=True):
    """The auditor (a numbered cloud release) and the share of all requests it also answers."""

    auditor: int | None = None
    share_ppm: int = 10_000


class Sampling(Struct, frozen=True, kw_only=True):
    """The recording of samples; off until the channel enables it. Shares are per million requests."""

    enabled: bool = False
    random_ppm: int = 10_000
    uncertain_ppm: int = 100_000
    max_spool_bytes: int = 16 << 20
    retention_days: int = 30


class Telemetry(Struct, frozen=True, kw_only=True):
    """A window closes after `window_s` seconds or `window_requests` requests, whichever is first."""

    window_s: float = 60.0
    window_requests: int = 1000


class Probation(Struct, frozen=True, kw_only=True):
    """A new release is committed after `requests` good answers or `seconds`, whichever is first.

    More than `max_failures` failed inferences, or `max_starts` agent starts during probation
    (a crash loop), roll it back. So does a 95th percentile of the model's own run time above
    `max_p95_us` (microseconds), or above `max_p95_ratio` times what the release before it took on this
    device; 0 leaves that limit off.
    """

    seconds: float = 60.0
    requests: int = 50
    max_failures: int = 0
    max_starts: int = 3
    max_p95_us: float = 0.0
    max_p95_ratio: float = 0.0


class Bench(Struct, frozen=True, kw_only=True):
    """With `on_commit`, a device measures each release once after it has committed it, in a child
    process and with `rounds` calls at batch 1, and reports the figures. Off until the channel enables it."""

    on_commit: bool = False
    rounds: int = 200


class ModelEntry(Struct, frozen=True, kw_only=True):
    """One model's desired state on a channel."""

    release: int
    rules: tuple[Rule, ...] = ()
    rollout: RolloutRef | None = None
    routing: Routing = Routing()
    audit: Audit = Audit()
    sampling: Sampling = Sampling()
    probation: Probation = Probation()
    bench: Bench = Bench()


class Fetching(Struct, frozen=True, kw_only=True):
    """The limits of devices' downloads; `max_bytes_per_s` 0 means no limit. The daily budget is in bytes.

    `window`, such as "22:30-05:00" in UTC: installs begin only then; see `fleet.protocol.window`.
    """

    max_bytes_per_s: int = 0
    bytes_per_day: int = 0  # 0: no budget
    window: str = ""


class Channel(Struct, frozen=True, kw_only=True):
    """A channel document. `version` rises by at least one with every change."""

    schema: int = SCHEMA
    channel: str
    version: int
    requires: tuple[str, ...] = ()
    models: dict[str, ModelEntry] = field(default_factory=dict)
    fetching: Fetching = Fetching()
    telemetry: Telemetry = Telemetry()


def decode_channel(data: bytes, capabilities: frozenset[str] | None = None) -> Channel:
    """Decode and check a channel document.

    Args:
        data: JSON.
        capabilities: what the reader understands; None reads a document whatever it requires.

    Raises:
        TooLargeError, MalformedError: not valid, or over the bounds.
        UnsupportedError: it requires what is missing here.
        VersionError: an unknown schema.
    """
    if capabilities is not None:
        check_required(data, capabilities, limit=CHANNEL_LIMIT, subject="channel")
    channel = decode_json(data, Channel, limit=CHANNEL_LIMIT, subject="channel")
    check_channel(channel)
    return channel


def encode_channel(channel: Channel) -> bytes:
    """Canonical bytes; raises MalformedError when the document is over its bounds."""
    check_channel(channel)
    data = encode_json(channel)
    if len(data) > CHANNEL_LIMIT:
        raise MalformedError(f"channel document has {len(data)} bytes, at most {CHANNEL_LIMIT} are allowed")
    return data


def with_requirements(channel: Channel) -> Channel:
    """The channel with `requires` naming what its routing needs of an agent, so that an older one keeps what it has
    and says so, in place of reading less than is meant. What else is required stays."""
    needed = {name for entry in channel.models.values() for name in _needed(entry.routing)}
    others = [name for name in channel.requires if name not in ROUTING]
    return msgspec.structs.replace(channel, requires=(*others, *sorted(needed)))


def _needed(routing: Routing) -> Iterator[str]:
    if routing.when != LOW_CONFIDENCE:
        yield ROUTING_WHEN
    if routing.calls_per_s or routing.calls_bytes_per_day:
        yield ROUTING_BUDGET
    if routing.remote is not None:
        yield ROUTING_REMOTE
        if routing.remote.rpc:
            yield ROUTING_GRPC


def check_routing(routing: Routing, model: str) -> None:
    """Raise MalformedError unless the policy, the budget and the remote server are what they may be."""
    if routing.when not in WHEN:
        what = f"model {model!r}: routing.when is {routing.when!r}"
        raise MalformedError(what, subject="channel", hint=f"one of: {', '.join(WHEN)}")
    if not (0 <= routing.calls_per_s < inf and routing.calls_bytes_per_day >= 0):
        what = f"model {model!r}: routing.calls_per_s and routing.calls_bytes_per_day are 0 or more"
        raise MalformedError(what, subject="channel", hint="0 is no limit")
    remote = routing.remote
    if remote is None:
        return
    if not _URL.fullmatch(remote.url):
        hint = "such as https://kserve.example:8080 or grpcs://kserve.example:8081, without user and query"
        raise MalformedError(f"model {model!r}: routing.remote.url is no such address", subject="channel", hint=hint)
    for name in (remote.model, remote.version):
        if name and not _NAME.fullmatch(name):
            raise MalformedError(f"model {model!r}: {name[:64]!r} is no name of a model or version", subject="channel")
    if remote.credential:
        check_name(remote.credential, "credential")


def check_channel(channel: Channel) -> None:
    """Check that names, numbers, shares and the number of rules are within their bounds.

    Raises:
        VersionError: the schema is unknown here.
        MalformedError: a value is out of its bounds.
    """
    if channel.schema != SCHEMA:
        raise VersionError(f"channel schema {channel.schema} is unknown here", subject="channel")
    check_numbers(channel, "channel")
    check_name(channel.channel, "channel")
    parse_window(channel.fetching.window)
    if sum(len(entry.rules) for entry in channel.models.values()) > MAX_RULES:
        raise MalformedError(f"a channel holds at most {MAX_RULES} rules", subject="channel")
    for model, entry in channel.models.items():
        check_name(model, "model")
        check_routing(entry.routing, model)
        shares = [entry.audit.share_ppm, entry.sampling.random_ppm, entry.sampling.uncertain_ppm]
        if entry.rollout is not None:
            shares.append(entry.rollout.share_ppm)
            if entry.rollout.shadow is not None:
                check_shadow(entry.rollout.shadow, model)
        if any(not 0 <= share <= MILLION for share in shares):
            raise MalformedError(f"model {model!r}: a share lies outside 0 to {MILLION} ppm", subject="channel")
        if not (0 <= entry.probation.max_p95_us < inf and 0 <= entry.probation.max_p95_ratio < inf):
            raise MalformedError(f"model {model!r}: a latency limit of probation is negative", subject="channel")
        if not 1 <= entry.bench.rounds <= MAX_BENCH_ROUNDS:
            raise MalformedError(
                f"model {model!r}: bench.rounds lies outside 1 to {MAX_BENCH_ROUNDS}", subject="channel"
            )
