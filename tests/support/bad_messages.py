"""Messages that a device with valid credentials can send, and over which no hub may fall."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fleet.protocol.messages import AgentReport, CommandResult, ModelReport
from fleet.protocol.telemetry import PairCounts, SketchData, Window

REPORT = ModelReport(model="digits", state="fetching")
WINDOW = Window(
    model="digits", release=2, variant="litert-int8", auditor=1, started_at=1.0, ended_at=2.0, counters={"requests": 5}
)
PAIRS = PairCounts(rollout="r-1", attempt=1, old=1, new=2)
NAN, INFINITE, NUL = float("nan"), float("inf"), "a\0b"


def envelope(device: str, seq: Any, body: Any = REPORT, kind: Any = "model", **changes: Any) -> bytes:
    """An envelope whose fields need not be right."""
    fields = {"v": 1, "device": device, "spool": "s1", "seq": seq, "base": 1, "at": 1.0, "kind": kind, "body": body}
    return msgspec.msgpack.encode({key: value for key, value in {**fields, **changes}.items() if value is not ...})


def replaced(body: Any, **changes: Any) -> dict[str, Any]:
    """A body's fields with some that are not right."""
    return {**msgspec.structs.asdict(body), **changes}


def numbered(device: str) -> Iterator[tuple[str, Callable[[int], bytes]]]:
    """Bad records whose number can be read: they are numbered off. A name, and the envelope by its number."""
    for name, fields in {
        "at-nan": {"at": NAN},
        "at-infinite": {"at": INFINITE},
        "at-negative": {"at": -1.0},
        "at-text": {"at": "now"},
        "at-missing": {"at": ...},
        "kind-number": {"kind": 7},
        "kind-nul": {"kind": NUL},
        "kind-long": {"kind": "k" * 9000},
        "body-missing": {"body": ...},
        "body-nil": {"body": None},
        "body-list": {"body": [1, 2, 3]},
    }.items():
        yield name, lambda seq, fields=fields: envelope(device, seq, **fields)
    bodies: dict[str, tuple[str, Any]] = {
        "state-unknown": ("model", replaced(REPORT, state="dreaming")),
        "model-name": ("model", replaced(REPORT, model="../x")),
        "model-nul": ("model", replaced(REPORT, model=NUL)),
        "target-2^64-1": ("model", replaced(REPORT, target=(1 << 64) - 1)),
        "target-negative": ("model", replaced(REPORT, target=-1)),
        "attempt-2^63": ("model", replaced(REPORT, attempt=1 << 63)),
        "progress-nan": ("model", replaced(REPORT, progress=NAN)),
        "progress-infinite": ("model", replaced(REPORT, progress=INFINITE)),
        "expires-nan": ("agent", replaced(AgentReport(agent="1", channel="stable"), tuf_expires={"root": NAN})),
        "disk-2^64-1": ("agent", replaced(AgentReport(agent="1", channel="stable"), disk_free=(1 << 64) - 1)),
        "data-infinite": ("result", replaced(CommandResult(id="c", ok=True), data={"x": [{"y": INFINITE}]})),
        "data-2^64-1": ("result", replaced(CommandResult(id="c", ok=True), data={"x": (1 << 64) - 1})),
        "data-deep": ("result", replaced(CommandResult(id="c", ok=True), data=nested(200))),
        "data-extension": ("result", replaced(CommandResult(id="c", ok=True), data={"x": msgspec.msgpack.Ext(5, b"")})),
        "data-nil-key": ("result", replaced(CommandResult(id="c", ok=True), data={"x": {None: 1}})),
        "benchmark-nan": ("result", replaced(CommandResult(id="", ok=True, kind="benchmark"), data={"p50_us": NAN})),
        "window-time-nan": ("window", replaced(WINDOW, ended_at=NAN)),
        "window-release-2^63": ("window", replaced(WINDOW, release=1 << 63)),
        "window-model": ("window", replaced(WINDOW, model=NUL)),
        "counter-negative": ("window", replaced(WINDOW, counters={"requests": -5})),
        "counter-2^64-1": ("window", replaced(WINDOW, counters={"requests": (1 << 64) - 1})),
        "counters-many": ("window", replaced(WINDOW, counters={f"c{n}": 1 for n in range(1000)})),
        "classes-2^63": ("window", replaced(WINDOW, classes=[1 << 63])),
        "pairs-2^62": ("window", replaced(WINDOW, pairs=replaced(PAIRS, both=1 << 62))),
        "pairs-rollout": ("window", replaced(WINDOW, pairs=replaced(PAIRS, rollout=NUL))),
        "sketch-nan": ("window", replaced(WINDOW, sketch=SketchData(sketch_id="s", count=4, sums=b"\xff" * 8))),
        "sketch-odd": ("window", replaced(WINDOW, sketch=SketchData(sketch_id="s", count=4, sums=b"\0" * 7))),
        "sketch-count": ("window", replaced(WINDOW, sketch=SketchData(sketch_id="s", count=1 << 62, sums=b"\0" * 8))),
        "sketch-id": ("window", replaced(WINDOW, sketch=SketchData(sketch_id=NUL, count=4, sums=b"\0" * 8))),
    }
    for name, (kind, body) in bodies.items():
        yield name, lambda seq, kind=kind, body=body: envelope(device, seq, body, kind)


def unnumbered(device: str) -> Iterator[tuple[str, bytes]]:
    """Bad messages on the report topic that have no number to go by."""
    for name, seq in (("seq-2^63", 1 << 63), ("seq-2^64-1", (1 << 64) - 1), ("seq-zero", 0), ("seq-negative", -5)):
        yield name, envelope(device, seq, base=min(seq, 1))
        yield f"{name}-base", envelope(device, seq, base=seq)
    yield "seq-text", envelope(device, "1")
    for name, spool in (("spool-nul", NUL), ("spool-empty", ""), ("spool-long", "s" * 5000), ("spool-number", 5)):
        yield name, envelope(device, 1, spool=spool)
    yield "another-device", envelope("cam-2", 1)
    yield "version", envelope(device, 1, v=2)
    yield "surrogate", envelope(device, 1).replace(b"\xa2s1", b"\xa3\xed\xa0\x80")
    for name, data in (("empty", b""), ("noise", b"\xff" * 10), ("nested", b"\x91" * 5000), ("large", b"x" * 70_000)):
        yield name, data


def statuses() -> Iterator[tuple[str, bytes]]:
    """Bad messages on the status topic."""
    for name, session in (("nul", "a\\u0000b"), ("surrogate", "\\ud800"), ("empty", ""), ("long", "s" * 5000)):
        yield f"session-{name}", b'{"state":"online","session":"%s"}' % session.encode()
    for at in ("1e400", "-1", "1e300", "NaN"):
        yield f"status-at-{at}", b'{"state":"online","session":"s","at":%s}' % at.encode()
    for vitals in ('"cpu":"hot"', '"memory":1.5', '"disk":[]'):  # a number out of bounds is left out, see `Vitals`
        yield f"vitals-{vitals}", b'{"state":"online","session":"s","vitals":{%s}}' % vitals.encode()
    yield "state", b'{"state":"asleep","session":"s"}'
    yield "status-noise", b"\0\xff"


def nested(depth: int) -> dict[str, Any]:
    """A mapping in a mapping, and so on."""
    return {"x": nested(depth - 1)} if depth else {}
