"""Monitors and alarms as the API shows them, and the closing of an alarm."""

from __future__ import annotations

from collections.abc import Mapping

from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.drift import engine, input_alarms, records, truth
from cloud_hub.drift.basis import decode_basis
from cloud_hub.drift.meaning import Track
from cloud_hub.drift.policy import policy_of
from cloud_hub.drift.response import described
from cloud_hub.drift.streams import watch_again
from cloud_hub.errors import NotFoundError
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, DriftMonitor, DriftStream, InputMonitor, MeaningMonitor, Model
from fleet.api.drift import Agreement, AlarmInfo, MonitorInfo, StreamInfo

NO_SKETCH = "no sketch"  # the state of a model whose inputs nobody watches


def list_monitors(hub: Hub, model: str) -> list[MonitorInfo]:
    """Every monitor by model, or one model's; a model without a sketch is watched by its audits and labels alone."""
    with hub.reading() as session:
        inputs = {row.model: row for row in session.exec(select(DriftMonitor))}
        answers = {row.model: row for row in session.exec(select(MeaningMonitor))}
        quality = {name: input_alarms.watched(session, name) for name in session.exec(select(InputMonitor.model))}
        streams = {name: row for name in inputs if (row := _leading(session, name)) is not None}
        counts = _counts(session)
    names = sorted(inputs.keys() | answers.keys() | quality.keys())
    found = [
        describe(name, inputs.get(name), answers.get(name), streams, counts)
        for name in names
        if not model or name == model
    ]
    return [_with_quality(info, quality.get(info.model)) for info in found]


def _with_quality(info: MonitorInfo, words: tuple[str, str] | None) -> MonitorInfo:
    return info if words is None else info.model_copy(update={"quality": words[0], "outliers": words[1]})


def list_alarms(hub: Hub) -> list[AlarmInfo]:
    """All alarms, newest first."""
    rows = select(Alarm).order_by(col(Alarm.id).desc())
    with hub.reading() as session:
        return described(session, list(session.exec(rows)))


def close_alarm(hub: Hub, alarm: int, *, actor: str) -> AlarmInfo:
    """Close an alarm. What it names goes on being watched against the same baseline, from nothing. NotFoundError."""
    with hub.session() as session:
        model = session.exec(select(Alarm.model).where(Alarm.id == alarm)).first()
        if model is None:
            raise NotFoundError(f"no alarm {alarm}", subject=str(alarm), hint="see: fleet drift status")
        lock_name(session, f"drift:{model}")  # the engine, which counts windows into the same monitor, waits
        row = session.get_one(Alarm, alarm)
        if row.status != "closed":
            row.status = "closed"
            if row.detail.get("kind") == truth.KIND:
                truth.watch_again(session, row.model)
            elif row.detail.get("kind") in input_alarms.KINDS:
                input_alarms.accept(session, row)
            else:
                _watch_again(hub, session, session.get(DriftMonitor, row.model))
            hub.audit(session, actor, "alarm.close", str(alarm), {"model": row.model})
        session.add(row)
        return described(session, [row])[0]


def list_streams(hub: Hub, model: str, kind: str, limit: int) -> list[StreamInfo]:
    """A model's streams, those with most evidence first."""
    rows = select(DriftStream).where(DriftStream.model == model)
    if kind:
        rows = rows.where(DriftStream.kind == kind)
    rows = rows.order_by(col(DriftStream.evidence).desc(), col(DriftStream.kind), col(DriftStream.name)).limit(limit)
    with hub.reading() as session:
        return [StreamInfo.model_validate(vars(row)) for row in session.exec(rows)]


def rebaseline(hub: Hub, model: str, devices: list[str] | None, *, actor: str) -> int:
    """Begin the baselines of a model anew, or of some devices; returns how many streams there were.

    Raises:
        NotFoundError: nothing is watched of the model, or of a device.
    """
    with hub.session() as session:
        lock_name(session, f"drift:{model}")
        monitor = session.get(DriftMonitor, model)
        if monitor is None:
            hint = "see: fleet drift status"
            raise NotFoundError(f"no inputs of {model!r} are watched", subject=model, hint=hint)
        for name in devices or ():
            if session.get(DriftStream, (model, "device", name)) is None:
                hint = f"see: fleet drift show {model}"
                raise NotFoundError(f"no inputs of {model!r} on {name!r} are watched", subject=name, hint=hint)
        return engine.begin_anew(hub, session, monitor, actor=actor, why="asked for", devices=devices)


def describe(
    model: str,
    inputs: DriftMonitor | None,
    answers: MeaningMonitor | None,
    streams: Mapping[str, DriftStream],
    counts: Mapping[str, dict[str, int]],
) -> MonitorInfo:
    """A model's monitors as the API shows them, without their sketches."""
    rows = [row for row in (inputs, answers) if row is not None]
    leading = streams.get(model)
    watched = truth.read(answers) if answers is not None else None
    return MonitorInfo(
        model=model,
        state=inputs.state if inputs is not None else NO_SKETCH,
        release=rows[0].release if rows else 0,
        sketch_id=inputs.sketch_id if inputs is not None else "",
        baseline_windows=leading.windows if leading is not None else 0,
        distance=leading.distance if leading is not None else None,
        margin=leading.margin if leading is not None else None,
        evidence=leading.evidence if leading is not None else None,
        limit=leading.alarm_at if leading is not None else None,
        leading=f"{leading.kind} {leading.name}".strip() if leading is not None else "",
        streams=counts.get(model, {}),
        audits=_agreement(watched.audits, watched.alarmed == "audits") if watched is not None else None,
        labels=_agreement(watched.labels, watched.alarmed == "labels") if watched is not None else None,
        updated_at=max((row.updated_at for row in rows), default=0.0),
    )


def _agreement(track: Track, alarmed: bool) -> Agreement:
    record = track.record
    state = "alarmed" if alarmed else "watching" if record is not None else "baseline" if track.first else "waiting"
    return Agreement(
        state=state,
        now=track.now,
        counted=track.counted,
        record=record.mean if record is not None else None,
        margin=record.margin if record is not None else None,
        evidence=track.log_e if record is not None else None,
    )


def _leading(session: Session, model: str) -> DriftStream | None:
    """The stream with most evidence."""
    rows = select(DriftStream).where(DriftStream.model == model).order_by(col(DriftStream.evidence).desc())
    return session.exec(rows.limit(1)).first()


def _counts(session: Session) -> dict[str, dict[str, int]]:
    """How many devices of each model are in which state."""
    rows = select(DriftStream.model, DriftStream.state, func.count()).where(DriftStream.kind == "device")
    found: dict[str, dict[str, int]] = {}
    for model, state, count in session.exec(rows.group_by(DriftStream.model, DriftStream.state)):
        found.setdefault(model, {})[state] = count
    return found


def _watch_again(hub: Hub, session: Session, monitor: DriftMonitor | None) -> None:
    """All evidence is nothing again, of every stream: what was open belongs to the alarm that is closed."""
    if monitor is None or monitor.state != "alarmed":
        return
    owner = session.get(Model, monitor.model)
    policy = policy_of(owner.policy if owner is not None else {})
    settings = engine.settings_of(policy, decode_basis(monitor.basis).weights)
    streams = records.with_evidence(session, monitor.model)
    for stream in streams:
        watch_again(stream)
    records.save(session, monitor.model, streams, settings, hub.clock())
    monitor.state = "watching"
    session.add(monitor)
