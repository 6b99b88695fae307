"""Monitors and alarms as the API shows them, and the closing of an alarm."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from functools import partial
from typing import TypeVar

from msgspec import Struct
from sqlmodel import Session, col, func, select

from cloud_hub.context import Hub
from cloud_hub.drift import alarms, engine, epochs, input_alarms, left_out, records, scope, silence, trouble, truth
from cloud_hub.drift.basis import decode_basis
from cloud_hub.drift.meaning import Track, delay
from cloud_hub.drift.policy import DriftPolicy, policy_of
from cloud_hub.drift.response import described
from cloud_hub.drift.scope import when
from cloud_hub.drift.streams import watch_again
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.store import uncounted
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import Alarm, DriftMonitor, DriftStream, InputMonitor, MeaningMonitor, Model
from fleet.api.drift import Agreement, AlarmInfo, MonitorInfo, Rebaseline, Rebaselined, StreamInfo

NO_SKETCH = "no sketch"  # the state of a release whose inputs nobody watches
UNWATCHED = ("left out", "ended")
Key = tuple[str, int]  # model and release
Row = TypeVar("Row", DriftMonitor, MeaningMonitor, InputMonitor)


def list_monitors(hub: Hub, model: str) -> list[MonitorInfo]:
    """Every monitor by model and release, or one model's; a release without a sketch is watched by its audits and
    labels alone. What is not watched is listed, too."""
    with hub.reading() as session:
        inputs, answers = _rows(session, DriftMonitor, model), _rows(session, MeaningMonitor, model)
        quality = _rows(session, InputMonitor, model)
        troubles = {key: words for key, words in trouble.words_of(session).items() if not model or key[0] == model}
        scopes = scope.read_all(session, model)
        unwatched = {(name, number): words for name, one in scopes.items() for number, words in one.unwatched().items()}
        in_use = {(name, served.release) for name, one in scopes.items() for served in one.watched}
        keys = inputs.keys() | answers.keys() | quality.keys() | unwatched.keys() | troubles.keys() | in_use
        keys -= {(name, 0) for name, number in keys if number}  # of the model as a whole: said of each release
        leading = {key: row for key in inputs if (row := _leading(session, *key)) is not None}
        counts, latest = _counts(session, model)
        lost = {(name, one.release): one.words for name, some in uncounted.lost(session).items() for one in some}
        policies = _policies(session, {name for name, _ in keys | answers.keys()})
        budgets = {key: _budget(row, policies[row.model], scopes.get(row.model)) for key, row in answers.items()}
        quiet = {key: silence.since(row.document, policies[row.model], hub.clock()) for key, row in inputs.items()}
    found = []
    for key in keys:
        served = next((one for one in scopes.get(key[0], scope.Scope()).watched if one.release == key[1]), None)
        rows = inputs.get(key), answers.get(key), leading.get(key)
        info = describe(key, *rows, policies[key[0]], budgets.get(key, 1.0))
        words = input_alarms.watched(quality[key]) if key in quality else ("", "")
        failed = [troubles[one] for one in sorted({key, (key[0], 0)}) if one in troubles]
        changes = {
            "streams": counts.get(key, {}),
            "last_window_at": latest.get(key),
            "trouble": "; ".join(failed),
            "unwatched": unwatched.get(key, ""),
            "quality": words[0],
            "outliers": words[1],
            "uncounted": lost.get(key, ""),
            "default": served is not None and served.default,
            "devices": served.devices if served is not None else 0,
        }
        state = {"state": silence.state_of(info.state, quiet.get(key)), "silent_since": quiet.get(key)}
        state = {"state": _unwatched(scopes[key[0]], key[1])} if key in unwatched else state
        found.append(info.model_copy(update=changes | state))
    return sorted(found, key=lambda info: (info.model, bool(info.unwatched), not info.default, -info.release))


class State(Struct, frozen=True, kw_only=True):
    """The state of a release in one line: `words` name the devices that it serves, or why it is not watched."""

    model: str
    release: int
    state: str
    words: str


def states_of(session: Session, now: float) -> list[State]:
    """The state, now (Unix seconds), of every release that is watched, or not any more, by model; defaults first, the
    newest before others. It reads a few rows of each, whatever the fleet's size."""
    rows, found = _rows(session, DriftMonitor, ""), list[State]()
    policies = _policies(session, {name for name, _ in rows})
    for model, known in sorted(scope.read_all(session).items()):
        for one in known.watched:
            row = rows.get((model, one.release))
            devices = "1 device" if one.devices == 1 else f"{one.devices:,} devices"
            words = f"default, on {devices}" if one.default else f"on {devices}"
            quiet = silence.since(row.document, policies[model], now) if row is not None else None
            state = silence.state_of(row.state, quiet) if row is not None else NO_SKETCH
            words += f"; nothing heard since {when(quiet)}" if quiet is not None else ""
            words += f"; no device serves it since {when(one.unused)}" if one.unused else ""
            left = left_out.read(row) if row is not None else None
            words += f"; {left.words}" if left is not None else ""
            found.append(State(model=model, release=one.release, state=state, words=words))
        for release, words in sorted(known.unwatched().items(), reverse=True):
            found.append(State(model=model, release=release, state=_unwatched(known, release), words=words))
    return found


def _rows(session: Session, kind: type[Row], model: str) -> dict[Key, Row]:
    rows = select(kind).where(col(kind.model) == model) if model else select(kind)
    return {(row.model, row.release): row for row in session.exec(rows)}


def _unwatched(found: scope.Scope, release: int) -> str:
    return UNWATCHED[release not in found.left_out]


def list_alarms(hub: Hub, *, unclosed: bool = False, most: int | None = None) -> list[AlarmInfo]:
    """List alarms, newest first.

    Args:
        unclosed: leaves out closed ones.
        most: at most so many; None for all.
    """
    rows = select(Alarm).order_by(col(Alarm.id).desc()).limit(most)
    rows = rows.where(Alarm.status != "closed") if unclosed else rows
    with hub.reading() as session:
        return described(session, list(session.exec(rows)))


def show_alarm(hub: Hub, alarm: int) -> AlarmInfo:
    """One alarm; NotFoundError when there is none."""
    with hub.reading() as session:
        row = session.get(Alarm, alarm)
        if row is None:
            raise NotFoundError(f"no alarm {alarm}", subject=str(alarm), hint="see: fleet drift status")
        return described(session, [row])[0]


def close_alarm(hub: Hub, alarm: int, *, actor: str, usual: bool = False) -> AlarmInfo:
    """Close an alarm. What it names goes on being watched against the same baseline, from nothing.

    Args:
        usual: windows that came while it was open are usual at their hours: streams may learn their week from them.

    Raises:
        NotFoundError: no such alarm. InvalidError: `usual` of an alarm that is not about where inputs lie.
    """
    with hub.session() as session:
        model = session.exec(select(Alarm.model).where(Alarm.id == alarm)).first()
        if model is None:
            raise NotFoundError(f"no alarm {alarm}", subject=str(alarm), hint="see: fleet drift status")
        lock_name(session, f"drift:{model}")  # the engine, which counts windows into the same monitor, waits
        row = session.get_one(Alarm, alarm)
        if usual and row.detail.get("kind", alarms.KIND) != alarms.KIND:
            hint = "close it without --usual"
            raise InvalidError(f"alarm {alarm} is about no baseline that knows hours", subject=str(alarm), hint=hint)
        if row.status != "closed":
            row.status = "closed"
            if row.detail.get("kind") == truth.KIND:
                truth.watch_again(session, row.model, row.release)
            elif row.detail.get("kind") in input_alarms.KINDS:
                input_alarms.accept(session, row)
            else:
                _watch_again(hub, session, row, usual=usual)
            told = {"model": row.model, "release": row.release, "usual": usual}
            hub.audit(session, actor, "alarm.close", str(alarm), told)
        session.add(row)
        return described(session, [row])[0]


def list_streams(hub: Hub, model: str, release: int, kind: str, limit: int) -> list[StreamInfo]:
    """List a model's streams, those with most evidence first.

    Args:
        model: the model's name.
        release: 0 for every release that is watched.
        kind: `device`, `group` or `fleet`; empty for any.
        limit: at most so many.
    """
    found: list[DriftStream] = []
    evidence, names = col(DriftStream.evidence).desc(), (col(DriftStream.kind), col(DriftStream.name))
    with hub.reading() as session:
        known = session.exec(select(DriftMonitor.release).where(DriftMonitor.model == model)).all()
        for number in (release,) if release else known:  # each release's are found in an index
            rows = select(DriftStream).where(DriftStream.model == model, DriftStream.release == number)
            rows = rows.where(DriftStream.kind == kind) if kind else rows
            found += session.exec(rows.order_by(evidence, *names).limit(limit))
    found.sort(key=lambda row: (-row.evidence, -row.release, row.kind, row.name))
    return [_stream(row) for row in found[:limit]]


def _stream(row: DriftStream) -> StreamInfo:
    stream = records.read(row)
    made = {} if stream is None else {"baseline": stream.made, "based_at": stream.based}
    return StreamInfo.model_validate({**vars(row), **made})


def rebaseline(hub: Hub, model: str, body: Rebaseline, *, actor: str) -> Rebaselined:
    """Begin baselines anew: of a model or of one release of it, of all devices or of some.

    Raises:
        NotFoundError: nothing is watched of the model, the release, or a device.
    """
    with hub.session() as session:
        lock_name(session, f"drift:{model}")
        rows = _rows(session, DriftMonitor, model)
        chosen = [row for row in rows.values() if body.release in (None, row.release)]
        if not chosen:
            what = model if body.release is None else f"{model}/{body.release}"
            hint = "see: fleet drift status"
            raise NotFoundError(f"no inputs of {what!r} are watched", subject=what, hint=hint)
        for name in body.devices or ():
            keys = ((model, row.release, "device", name) for row in chosen)
            if all(session.get(DriftStream, key) is None for key in keys):
                hint = f"see: fleet drift show {model}"
                raise NotFoundError(f"no inputs of {model!r} on {name!r} are watched", subject=name, hint=hint)
        count = sum(
            epochs.begin_anew(hub, session, row, actor=actor, why="asked for", devices=body.devices) for row in chosen
        )
        return Rebaselined(model=model, streams=count, releases=sorted(row.release for row in chosen))


def describe(
    key: Key,
    inputs: DriftMonitor | None,
    answers: MeaningMonitor | None,
    leading: DriftStream | None,
    policy: DriftPolicy,
    budget_days: float,
) -> MonitorInfo:
    """Describe a release's monitors as the API shows them, without their sketches.

    Args:
        key: model and release.
        inputs: the monitor of its streams, if it has one.
        answers: the monitor of its accuracy, likewise.
        leading: the stream with most evidence.
        policy: the model's.
        budget_days: of each track of answers.
    """
    rows = [row for row in (inputs, answers) if row is not None]
    told = partial(_agreement, budget_days=budget_days, margin=policy.margin)
    watched = truth.read(answers) if answers is not None else None
    return MonitorInfo(
        model=key[0],
        state=inputs.state if inputs is not None else NO_SKETCH if key[1] else "unknown",
        release=key[1],
        sketch_id=inputs.sketch_id if inputs is not None else "",
        baseline_windows=leading.windows if leading is not None else 0,
        distance=leading.distance if leading is not None else None,
        margin=leading.margin if leading is not None else None,
        evidence=leading.evidence if leading is not None else None,
        limit=leading.alarm_at if leading is not None else None,
        least_effect=policy.least_effect if inputs is not None else None,
        leading=f"{leading.kind} {leading.name}".strip() if leading is not None else "",
        audits=told(watched.audits, watched.alarmed == "audits") if watched is not None else None,
        labels=told(watched.labels, watched.alarmed == "labels") if watched is not None else None,
        left_out=left.words if inputs is not None and (left := left_out.read(inputs)) is not None else "",
        updated_at=max((row.updated_at for row in rows), default=0.0),
    )


def _policies(session: Session, models: Collection[str]) -> dict[str, DriftPolicy]:
    """The policies of some models."""
    known = dict(session.exec(select(Model.name, Model.policy).where(col(Model.name).in_(sorted(models)))).all())
    found = {}
    for name in models:
        try:
            found[name] = policy_of(known.get(name, {}))
        except InvalidError:  # of an earlier version; the engine says so
            found[name] = policy_of({})
    return found


def _budget(monitor: MeaningMonitor, policy: DriftPolicy, known: scope.Scope | None) -> float:
    return truth.budget_of(truth.read(monitor), policy, len(known.watched) if known is not None else 1)


def _agreement(track: Track, alarmed: bool, budget_days: float, margin: float) -> Agreement:
    record, found = track.record and track.record.held(margin), delay(track, budget_days, margin=margin)
    if alarmed:
        state = "alarmed"
    elif record is None:
        state = "baseline" if track.first else "waiting"
    else:  # a margin as wide as the record hides any change: no evidence is never health
        state = "watching" if record.least > 0 else "baseline"
    return Agreement(
        state=state,
        now=track.now,
        counted=track.counted,
        record=record.mean if record is not None else None,
        margin=record.margin if record is not None else None,
        evidence=track.log_e if record is not None else None,
        delay=found[0] if found is not None else None,
        delay_days=found[1] if found is not None else None,
    )


def _leading(session: Session, model: str, release: int) -> DriftStream | None:
    """The stream with most evidence."""
    rows = select(DriftStream).where(DriftStream.model == model, DriftStream.release == release)
    return session.exec(rows.order_by(col(DriftStream.evidence).desc()).limit(1)).first()


def _counts(session: Session, model: str) -> tuple[dict[Key, dict[str, int]], dict[Key, float]]:
    """Count the devices of each release in each state, and return when the newest window of each release ended."""
    row, last_at = DriftStream, func.max(DriftStream.last_at)
    rows = select(row.model, row.release, row.state, func.count(), last_at)  # type: ignore[call-overload]
    rows = rows.where(row.kind == "device", *((row.model == model,) if model else ()))
    counts: defaultdict[Key, dict[str, int]] = defaultdict(dict)
    latest: dict[Key, float] = {}
    for name, release, state, count, last in session.exec(rows.group_by(row.model, row.release, row.state)):
        counts[name, release][state] = count
        latest[name, release] = max(last, latest.get((name, release), 0.0))
    return counts, latest


def _watch_again(hub: Hub, session: Session, alarm: Alarm, *, usual: bool) -> None:
    """All evidence is nothing again, of every stream: what was open belongs to the alarm that is closed."""
    monitor = session.get(DriftMonitor, (alarm.model, alarm.release))
    if monitor is None or monitor.state != "alarmed":
        return
    owner = session.get(Model, monitor.model)
    policy = policy_of(owner.policy if owner is not None else {})
    settings = engine.settings_of(policy, decode_basis(monitor.basis).weights)
    streams = records.with_evidence(session, monitor.model, monitor.release, alarm.id or 0)
    for stream in streams:
        watch_again(stream, usual=usual)
    records.save(session, monitor.model, streams, settings, hub.clock())
    monitor.state = "watching"
    session.add(monitor)
