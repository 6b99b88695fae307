"""A fleet to look at, written straight into the database: some devices ill, a rollout halted, one under way, an alarm,
jobs that failed, a month of traffic."""

from __future__ import annotations

import math
import random
from typing import Any

from msgspec import to_builtins
from msgspec.structs import replace

from cloud_hub.store.benchmarks import keep, row
from cloud_hub.store.tables import (
    Alarm,
    AlarmResponse,
    Device,
    DeviceEvent,
    DeviceModel,
    DriftTrouble,
    EventDelivery,
    EventRow,
    Job,
    Release,
    RolloutEvent,
    RolloutRow,
    Traffic,
    VitalsHourRow,
    WindowSum,
)
from fleet.protocol.channel import Audit, Channel, ModelEntry
from fleet.protocol.manifest import Lineage, decode_manifest, encode_manifest
from fleet.protocol.messages import Benchmark
from fleet.rollouts.evidence import PairedEvidence
from fleet.rollouts.guard import CohortHealth, Failures, GuardVerdict
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.stages import Stage
from tests.support import large_fleet
from tests.support.hub import HubFixture

MODEL, OTHER = "belt-defects", "speech-intents"
SITES = ("berlin", "rome", "oslo")
DAY_S, HOUR_S = 86_400, 3600
ILL = {
    3: ("selftest-failed", "3 of 20 vectors differ by more than the tolerance", "look at the runtime's version"),
    8: ("selftest-failed", "7 of 20 vectors differ by more than the tolerance", "look at the runtime's version"),
    13: ("disk-full", "12,201 bytes are free, 5,000,000 have to stay so", "free space on the device"),
}
HALTED, RUNNING = "r-7f3a", "r-81c2"
EVENT = "evt_000000000000000000000007"
REASON = "only the old release was right on 14 of 15 pairs that differ (412 pairs on 6 devices)"


def name_of(number: int) -> str:
    """A device's id, such as `line-0007`."""
    return f"line-{number:04d}"


def lay(hub: HubFixture, devices: int = 60) -> None:
    """Put everything there; the hub is empty before."""
    for model, count in ((MODEL, 4), (OTHER, 2)):
        hub.model(model)
        for seed in range(count):
            hub.release(model, seed=seed)
    for channel in ("stable", "beta"):
        hub.hub.publisher.change_channel(channel, lambda found: _filled(found), actor="operator:ada", create=True)
    hub.clock.advance(40 * DAY_S)
    _lineage(hub)
    _devices(hub, devices)
    _rollouts(hub)
    _drift(hub)
    _jobs(hub)
    _traffic(hub)
    _events(hub)
    with hub.hub.session() as session:
        for action, subject in (("rollout.create", HALTED), ("device.change", name_of(3)), ("rollout.pause", HALTED)):
            hub.hub.audit(session, "operator:ada", action, subject, {"reason": "from the fleet's plan"})


def _events(hub: HubFixture) -> None:
    now = hub.clock()
    tried = [{"at": now - 60 * n, "status": 503, "error": "try again later", "took_s": 0.3} for n in (3, 2, 1)]
    with hub.hub.session() as session:
        session.add(
            EventRow(
                id=EVENT,
                at=now - 7200,
                kind="rollout.halted",
                subject=HALTED,
                spread_at=now,
                message=f"rollout {HALTED} halted: {REASON}",
                data={"model": MODEL, "release": 3},
            )
        )
        session.flush()
        for target, state, log in (("ops", "dead", tried), ("chat", "delivered", [])):
            session.add(
                EventDelivery(
                    event=EVENT,
                    target=target,
                    state=state,
                    tries=len(log) or 1,
                    next_at=now,
                    expires_at=now,
                    log=log,
                    updated_at=now,
                )
            )


def _filled(channel: Channel) -> Channel:
    entries = {MODEL: ModelEntry(release=2, audit=Audit(auditor=1)), OTHER: ModelEntry(release=2)}
    return replace(channel, models=entries)


def _lineage(hub: HubFixture) -> None:
    with hub.hub.session() as session:
        for number in range(1, 5):
            found = session.get_one(Release, (MODEL, number))
            snapshot = f"{'ab' if number < 3 else 'c4'}{'91d2' * 5}"
            parents = (f"{MODEL}/{number - 1}",) if number > 1 else ()
            lineage = Lineage(snapshot=snapshot, recipe="recipes.belt", parents=parents)
            found.manifest = encode_manifest(replace(decode_manifest(found.manifest), lineage=lineage))
            session.add(found)


def _devices(hub: HubFixture, count: int) -> None:
    now, rng = hub.clock(), random.Random(1)
    devices, models = [], []
    for number in range(count):
        offline, name = number % 17 == 5, name_of(number)
        fields: dict[str, Any] = large_fleet.a_device(number, now - (9 * HOUR_S if offline else rng.random() * 60))
        labels = {"site": SITES[number % 3], "hw": ("rpi4", "jetson")[number % 2]}
        problem = "clock-untrusted" if number in (20, 21) else ""
        info = {**fields["info"], "problem": problem, "hint": "set <the> clock" if problem else ""}
        fields |= {"id": name, "key_fingerprint": name, "labels": labels, "online": not offline, "info": info}
        fields |= {
            "problem": problem,
            "set_aside": 4 if number == 30 else 0,
            "channel": ("stable", "beta")[number % 5 == 0],
        }
        fields["certificate_expires_at"] = now + (3 if number == 33 else 60) * DAY_S
        devices.append(fields)
        reason, detail, hint = ILL.get(number, ("", "", ""))
        active = 3 if number % 5 == 0 and not reason else 2
        state = "rolled_back" if reason else "committed"
        report = {"device_id": name, "state": state, "at": now - 300, "active_variant": "litert-int8", "seq": number}
        models.append(
            {
                **report,
                "model": MODEL,
                "active": active,
                "target": 3 if reason else active,
                "reason": reason,
                "detail": detail,
                "hint": hint,
                "rollout": HALTED if reason else "",
            }
        )
        models.append({**report, "model": OTHER, "state": "committed", "active": 2, "target": 2})
    large_fleet.write(hub, Device, iter(devices))
    large_fleet.write(hub, DeviceModel, (DeviceModel(**fields).model_dump() for fields in models))
    with hub.hub.session() as session:
        for number in range(6):
            body = {
                "model": MODEL,
                "state": ("fetching", "verifying", "trying")[number % 3],
                "target": 3,
                "active": 2,
                "active_variant": "litert-int8",
                "previous": 1,
                "rollout": HALTED,
                "attempt": 1,
                "channel_version": 4,
                "progress": 0.5,
            }
            session.add(
                DeviceEvent(
                    device_id=name_of(3),
                    spool="s",
                    seq=number + 1,
                    at=now - 900 + number * 60,
                    received_at=now,
                    kind="model",
                    body=body,
                )
            )
        for number in range(min(12, count)):
            figures = Benchmark(
                model=MODEL,
                release=2,
                variant="litert-int8",
                runtime="LiteRT",
                rounds=50,
                p50_us=(5100.0, 1900.0)[number % 2],
                p95_us=(6800.0, 2400.0)[number % 2],
                load_us=9e4,
                memory_bytes=14_000_000,
            )
            keep(session, [row(name_of(number), figures, now)])
        hour = int(now) // 3600 * 3600
        for back in (back for back in range(1, 30 * 24) if back % 200 > 12):
            warm = 48.0 + 9.0 * (back % 24 > 12) + back % 5
            vitals = {"cpu": 0.2 + 0.01 * (back % 24), "cpu_most": 0.5 + 0.01 * (back % 40), "celsius": warm}
            vitals |= {"memory": 4 << 30, "memory_free": (1 << 30) + (back << 20), "disk": 32 << 30}
            free = (1 << 30) + back * (40 << 20)
            session.add(
                VitalsHourRow(device_id=name_of(3), begins=hour - 3600 * back, heartbeats=60, disk_free=free, **vitals)
            )
        for day in range(30):
            requests = 400 + 40 * (day % 7)
            counters = {"requests": requests, "edge": requests - 30, "cloud": 25}
            begins = (int(now) // DAY_S - 29 + day) * DAY_S
            session.add(
                WindowSum(
                    device_id=name_of(3),
                    model=MODEL,
                    release=2,
                    span_s=DAY_S,
                    begins=begins,
                    windows=9,
                    started_at=begins,
                    ended_at=begins + 9,
                    body={"counters": counters},
                )
            )


def _rollouts(hub: HubFixture) -> None:
    now = hub.clock()
    stages = tuple(Stage(share_ppm=share) for share in (100_000, 500_000, 1_000_000))
    plan = Plan(id=HALTED, model=MODEL, channel="stable", release=3, from_release=2, salt="s", stages=stages)
    failures = (Failures(reason="selftest-failed", devices=2, example=name_of(3)),)
    failures += (Failures(reason="disk-full", devices=1, example=name_of(13)),)
    paired = PairedEvidence(
        pairs=412,
        both=380,
        only_old=14,
        only_new=1,
        neither=17,
        devices=6,
        seen_on=6,
        harm_e=121.4,
        health_e=0.02,
        loss_at_most=0.064,
    )
    cohort = CohortHealth(present=9, committed=6, failed=3, failures=failures)
    harmful = GuardVerdict(
        judgement="harmful",
        reason=REASON,
        goal="not worse by more than 5 points, at 95 %",
        paired=paired,
        cohort=cohort,
    )
    halted = Progress(
        state="halted",
        stage=0,
        started_at=now - 9 * HOUR_S,
        stage_times=(now - 9 * HOUR_S,),
        reason=REASON,
        verdict=harmful,
        exposed=9,
    )
    waiting = GuardVerdict(
        judgement="not-enough-evidence",
        reason="141 audited pairs, at least 600 are needed",
        goal="not worse by more than 5 points, at 95 %",
        paired=PairedEvidence(
            pairs=141,
            both=131,
            only_old=3,
            only_new=4,
            neither=3,
            devices=4,
            seen_on=4,
            harm_e=0.4,
            health_e=7.3,
            loss_at_most=0.061,
        ),
        cohort=CohortHealth(present=7, committed=7),
    )
    running = Progress(
        stage=1, started_at=now - 2 * HOUR_S, stage_times=(now - 2 * HOUR_S, now - HOUR_S), verdict=waiting, exposed=7
    )
    with hub.hub.session() as session:
        for name, channel, progress, began in ((HALTED, "stable", halted, 9), (RUNNING, "beta", running, 2)):
            made = replace(plan, id=name, channel=channel)
            session.add(
                RolloutRow(
                    id=name,
                    model=MODEL,
                    channel=channel,
                    release=3,
                    from_release=2,
                    state=progress.state,
                    salt=name,
                    plan=to_builtins(made),
                    progress=to_builtins(progress),
                    reason=progress.reason,
                    updated_at=now,
                    created_at=now - began * HOUR_S,
                    created_by="operator:ada",
                    ended_at=now - 7 * HOUR_S if progress.state == "halted" else None,
                )
            )
        for at, event, reason in (
            (9, "started", "stage 1 of 3: 10 % of stable"),
            (8, "device-harmed", f"{name_of(3)} loses on its own inputs"),
            (7, "halted", REASON),
        ):
            session.add(RolloutEvent(rollout=HALTED, at=now - at * HOUR_S, event=event, detail={"reason": reason}))


def _drift(hub: HubFixture) -> None:
    now = hub.clock()
    detail = {
        "kind": "inputs",
        "reason": "inputs lie 0.31 from the baseline, its margin is 0.12",
        "distance": 0.31,
        "margin": 0.12,
        "devices": [name_of(n) for n in range(0, 30, 3)],
        "device_count": 10,
        "of_devices": 60,
        "groups": ["site=berlin"],
        "since": now - 5 * HOUR_S,
        "windows": 240,
        "features": [
            {
                "tensor": "image",
                "place": 0,
                "name": "brightness",
                "before": 0.52,
                "after": 0.31,
                "spread_before": 0.04,
                "spread_after": 0.05,
                "size": 5.2,
            }
        ],
        "classes": [{"class": 2, "before": 0.04, "after": 0.19}],
    }
    with hub.hub.session() as session:
        session.add(Alarm(id=1, model=MODEL, release=2, at=now - 4 * HOUR_S, status="open", detail=detail))
        closed = {"kind": "quality", "reason": "NaN in 4 % of the rows", "closed": "the camera was replaced"}
        session.add(Alarm(id=2, model=OTHER, release=2, at=now - 9 * DAY_S, status="closed", detail=closed))
        document = {"asked": 10, "of": 60, "samples": 50, "labels": 60, "collected": 212, "labelled": 18}
        session.add(
            AlarmResponse(
                alarm=1, model=MODEL, state="collecting", since=now - 5 * HOUR_S, document=document, updated_at=now
            )
        )
        words = "inputs: the encoder of release 2 cannot be read"
        session.add(DriftTrouble(model=OTHER, release=2, since=now - 2 * DAY_S, looks=31, words=words))


def _jobs(hub: HubFixture) -> None:
    now = hub.clock()
    error = "the gate refuses it: class 4 loses 6.1 points (bound 2.0)"
    with hub.hub.session() as session:
        for number, (state, step, told) in enumerate(
            (("succeeded", "released", ""), ("failed", "judging", error), ("running", "training", ""))
        ):
            began = now - (30 - 10 * number) * HOUR_S
            session.add(
                Job(
                    id=f"{int(began * 1000):012x}{number:010x}",
                    kind="retrain",
                    model=MODEL,
                    state=state,
                    step=step,
                    error=told,
                    created_at=began,
                    created_by="operator:ada",
                    attempt=1,
                    progress=0.4,
                    started_at=began + 5,
                    ended_at=None if state == "running" else began + HOUR_S,
                )
            )


def _traffic(hub: HubFixture) -> None:
    now = int(hub.clock()) // HOUR_S * HOUR_S
    with hub.hub.session() as session:
        for hour in range(8 * 24):
            begins = now - hour * HOUR_S
            requests = int(900 * (1.4 + math.sin((begins % DAY_S) / DAY_S * 2 * math.pi)))
            failed = requests // 9 if hour < 5 else requests // 400
            session.add(
                Traffic(
                    begins=begins,
                    model=MODEL,
                    release=2,
                    windows=60,
                    requests=requests,
                    failed=failed,
                    edge=requests - requests // 12 - failed,
                    cloud=requests // 12,
                    audited=requests // 50,
                    refused=failed // 2,
                )
            )
            session.add(
                Traffic(
                    begins=begins,
                    model=OTHER,
                    release=2,
                    windows=60,
                    requests=requests // 3,
                    edge=requests // 3,
                    audited=requests // 150,
                )
            )
