from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from msgspec import to_builtins
from msgspec.structs import replace

from cloud_hub.store.tables import (
    Alarm,
    Device,
    DeviceModel,
    Release,
    RolloutEvent,
    RolloutRow,
    WindowRow,
)
from fleet.protocol import drift_encoder, sketch
from fleet.protocol.manifest import Blob, SketchRef, decode_manifest, encode_manifest
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.guard import CohortHealth, GuardVerdict
from fleet.rollouts.machine import ENDED, Plan, Progress
from fleet.rollouts.stages import Stage
from tests.support.hub import HubFixture, make_hub


@pytest.fixture
def hub(tmp_path: Path) -> HubFixture:
    return make_hub(tmp_path)


@pytest.fixture
def busy_hub(hub: HubFixture) -> HubFixture:
    """A hub in the middle of its work: devices, a rollout with evidence, drifting windows, an alarm."""
    fill(hub)
    return hub


@pytest.fixture(scope="module")
def shared_hub(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    """The same for all tests of a file that act on different things."""
    hub = make_hub(tmp_path_factory.mktemp("shared"))
    fill(hub)
    return hub


def fill(hub: HubFixture) -> None:
    hub.model("digits")
    for _ in range(3):
        hub.release("digits")
    hub.hub.publisher.change_channel(
        "stable", lambda channel: _with_model(channel, release=2), actor="test", create=True
    )
    hub.clock.advance(3000)
    _devices(hub)
    _rollouts(hub)
    _windows(hub)


def _with_model(channel, *, release: int):
    from fleet.protocol.channel import Audit, ModelEntry

    return replace(channel, models={"digits": ModelEntry(release=release, audit=Audit(auditor=1))})


def _devices(hub: HubFixture) -> None:
    now = hub.clock()
    with hub.hub.session() as session:
        for index, (state, active, target) in enumerate(
            [("committed", 2, 2), ("fetching", 2, 3), ("rolled_back", 2, 3)]
        ):
            device = f"kiosk-{index}"
            session.add(
                Device(
                    id=device,
                    public_key="k",
                    key_fingerprint=f"f{index}",
                    certificate="c",
                    certificate_serial=str(index),
                    certificate_expires_at=now + 1e6,
                    channel="stable",
                    labels={"site": ["berlin", "rome", "<b>oslo"][index]},
                    enrolled_at=now - 100,
                    online=index < 2,
                    last_seen_at=now - 5 * 60 * index,
                )
            )
            session.flush()
            session.add(
                DeviceModel(
                    device_id=device,
                    model="digits",
                    state=state,
                    target=target,
                    active=active,
                    active_variant="litert-int8",
                    progress=0.4,
                    reason="selftest-failed" if state == "rolled_back" else "",
                    detail="3 of 20 vectors",
                    at=now,
                )
            )


def _rollouts(hub: HubFixture) -> None:
    now = hub.clock()
    plan = Plan(
        id="r-1",
        model="digits",
        channel="stable",
        release=3,
        from_release=2,
        salt="s",
        stages=(Stage(share_ppm=100_000), Stage(share_ppm=500_000), Stage(share_ppm=1_000_000)),
    )
    verdict = GuardVerdict(
        judgement="not-enough-evidence",
        reason="41 audited pairs, at least 60 are needed",
        paired=PairedEvidence(pairs=41, both=38, only_old=1, only_new=2, devices=1, harm_e=0.42, health_e=7.3),
        cohort=CohortHealth(present=1, committed=1),
    )
    running = Progress(stage=1, started_at=now - 60, stage_times=(now - 60, now - 20), verdict=verdict)
    halted = Progress(
        state="halted", stage=0, started_at=now - 600, reason="only the old release was right on 14 of 15 pairs"
    )
    with hub.hub.session() as session:
        for number, progress in ((1, halted), (2, running)):
            session.add(
                RolloutRow(
                    id=f"r-{number}",
                    model="digits",
                    channel="stable",
                    release=3,
                    from_release=2,
                    state=progress.state,
                    salt=str(number),
                    plan=to_builtins(replace(plan, id=f"r-{number}")),
                    progress=to_builtins(progress),
                    reason=progress.reason,
                    created_at=now - 600 + number,
                    updated_at=now,
                    ended_at=now if progress.state in ENDED else None,
                )
            )
        session.add(RolloutEvent(rollout="r-2", at=now - 20, event="stage", detail={"reason": "to 50 per cent"}))
        session.add(
            Alarm(model="digits", release=2, at=now - 30, status="open", detail={"distance": 0.31, "windows": 6})
        )


def _windows(hub: HubFixture) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 16)).astype(np.float32)
    encoder = drift_encoder.fit_encoder(x, tensor="x", dims=4, features=64)
    blobs = {}
    for name, data in (
        ("encoder", drift_encoder.encode_encoder(encoder)),
        ("reference", sketch.encode_sketch(sketch.sketch(encoder, x))),
    ):
        blobs[name] = Blob(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
        hub.hub.objects.put_new(f"blobs/{blobs[name].sha256}", data)
    ref = SketchRef(sketch_id=drift_encoder.sketch_id(encoder), margin=0.02, **blobs)
    with hub.hub.session() as session:
        row = session.get(Release, ("digits", 3))
        row.manifest = encode_manifest(replace(decode_manifest(row.manifest), sketch=ref))
        session.add(row)
        for index in range(40):
            shift = max(0, index - 25) * 0.12
            data = sketch.sketch(encoder, rng.normal(size=(60, 16)).astype(np.float32) + np.float32(shift))
            at = hub.clock() - 40 * 60 + index * 60
            counters = {"requests": 60, "edge": 52, "cloud": 8, "audited": 10, "audit_agree": 9, "failed": 0}
            session.add(
                WindowRow(
                    device_id=f"kiosk-{index % 3}",
                    spool="s",
                    seq=index,
                    model="digits",
                    release=2,
                    started_at=at - 60,
                    ended_at=at,
                    body={"counters": counters},
                    sketch_id=data.sketch_id,
                    sketch_count=data.count,
                    sketch=data.sums,
                )
            )
