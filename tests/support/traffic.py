"""Messages of devices: batches of every kind of message, as the inbox gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from cloud_hub.ingest.inbox import Message
from cloud_hub.store.tables import Device, RolloutRow
from fleet.protocol import topics
from fleet.protocol.codec import encode_json, encode_msgpack
from fleet.protocol.messages import AgentReport, CommandResult, Envelope, ModelReport, Status
from fleet.protocol.pairing import KEY_BYTES
from fleet.protocol.telemetry import InputSummary, PairCounts, SketchData, Window
from tests.support.hub import HubFixture

Build = Callable[[np.random.Generator, int], Any]


def _model(_rng: np.random.Generator, seq: int) -> ModelReport:
    state = ("fetching", "verifying", "trying", "probation", "committed")[seq % 5]
    return ModelReport(model="digits", state=state, target=2, active=1, active_variant="litert-int8", previous=1)  # type: ignore[arg-type]


def _agent(_rng: np.random.Generator, _seq: int) -> AgentReport:
    return AgentReport(
        agent="0.2.0",
        channel="stable",
        capabilities=("litert", "preprocessing", "pairs", "shadow"),
        hardware={"machine": "aarch64", "model": "Raspberry Pi 4 Model B", "memory": "4096 MiB"},
        runtimes={"litert": "2.3.0"},
        channel_version=17,
        tuf={"root": 1, "targets": 9, "snapshot": 40},
        tuf_expires={"root": 1.9e9, "snapshot": 1.8e9},
        disk_free=1 << 34,
        bytes_down=1 << 28,
        bytes_up=1 << 24,
    )


def _result(_rng: np.random.Generator, seq: int) -> CommandResult:
    return CommandResult(id=f"c-{seq:016x}", ok=True, kind="set-log-level", data={"level": "info"})


def _benchmark(_rng: np.random.Generator, seq: int) -> CommandResult:
    figures = {
        "model": "digits",
        "release": 1 + seq % 3,
        "variant": "litert-int8",
        "runtime": "litert",
        "rounds": 200,
        "runtime_version": "2.3.0",
        "agent": "0.2.0",
        "p50_us": 170.0 + seq,
        "p95_us": 260.0 + seq,
        "load_us": 9000.0,
        "memory_bytes": 3 << 20,
        "process_bytes": 60 << 20,
    }
    return CommandResult(id="", ok=True, kind="benchmark", data=figures)


def _window(rng: np.random.Generator, seq: int) -> Window:
    """A minute of a classifier with ten classes: drawn rows in a sketch of 512 features, one image among its inputs."""
    counters = {
        "requests": 600,
        "edge": 580,
        "cloud": 20,
        "deferred": 20,
        "audited": 12,
        "audit_agree": 11,
        "latency_us_sum": 120_000,
    }
    figures = np.sort(rng.random((3, 8), np.float32))
    figures[:, :3] = 1.0, 0.5, 0.2
    return Window(
        model="digits",
        release=2,
        variant="litert-int8",
        auditor=1,
        counters=counters,
        started_at=1.8e9 + 60 * seq,
        ended_at=1.8e9 + 60 * seq + 60,
        latency_us=tuple(rng.integers(0, 200, 12).tolist()),
        confidence=tuple(rng.integers(0, 60, 20).tolist()),
        classes=tuple(rng.integers(0, 60, 10).tolist()),
        sketch=SketchData(sketch_id="5" * 64, count=256, sums=rng.normal(size=512).astype("<f4").tobytes()),
        outlying=3,
        inputs=(InputSummary(name="image", rows=64, figures=figures.tobytes()),),
    )


def _paired(rng: np.random.Generator, seq: int) -> Window:
    """The same in a rollout, with a dozen audited inputs that both releases answered."""
    pairs = PairCounts(rollout="r-1", attempt=1, old=1, new=2, both=10, only_new=2, keys=rng.bytes(12 * KEY_BYTES))
    return msgspec.structs.replace(_window(rng, seq), pairs=pairs, rollout="r-1", attempt=1)


BUILD: dict[str, Build] = {
    "model": _model,
    "agent": _agent,
    "result": _result,
    "benchmark": _benchmark,
    "window": _window,
    "paired": _paired,
}
KINDS = (*BUILD, "status", "malformed")


class Traffic:
    """Messages of one kind from a number of devices, in turn."""

    def __init__(self, kind: str, devices: Sequence[str], spool: str = "a" * 16) -> None:
        self._kind, self._devices, self._spool = kind, devices, spool
        self._rng, self._seq, self._at = np.random.default_rng(0), dict.fromkeys(devices, 0), 0

    def batch(self, count: int) -> list[Message]:
        """The next messages."""
        found = []
        for _ in range(count):
            device = self._devices[self._at % len(self._devices)]
            self._at += 1
            found.append(self._message(device))
        return found

    def _message(self, device: str) -> Message:
        if self._kind == "status":
            return Message(topics.uplink(device, "status"), encode_json(Status(state="online", session="s")))
        self._seq[device] += 1
        seq, kind = self._seq[device], self._kind
        body = b"\x93\x01\x02\x03" if kind == "malformed" else encode_msgpack(BUILD[kind](self._rng, seq))
        said = {"benchmark": "result", "paired": "window", "malformed": "model"}.get(kind, kind)
        sent = Envelope(device=device, spool=self._spool, seq=seq, base=1, at=1.8e9, kind=said, body=msgspec.Raw(body))
        return Message(topics.uplink(device, "telemetry" if said == "window" else "report"), encode_msgpack(sent))


def prepare(hub: HubFixture, count: int) -> list[str]:
    """Devices of one channel, and a rollout that goes on there."""
    names = [f"cam-{number}" for number in range(count)]
    hub.model()
    with hub.hub.session() as session:
        session.add_all(
            Device(
                id=name,
                public_key="-" * 120,
                key_fingerprint=name,
                certificate="-" * 800,
                certificate_serial="1",
                certificate_expires_at=0.0,
                channel="stable",
                enrolled_at=0.0,
            )
            for name in names
        )
        session.add(
            RolloutRow(
                id="r-1",
                model="digits",
                channel="stable",
                release=2,
                from_release=1,
                state="running",
                salt="s",
                created_at=0.0,
                updated_at=0.0,
            )
        )
    return names
