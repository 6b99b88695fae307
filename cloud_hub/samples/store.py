"""Samples: an index row each in the database, the arrays in Parquet partitions of the object store."""

from __future__ import annotations

import hashlib
import logging
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import update
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, func, select

from cloud_hub.clock import SLACK_S
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, HubError, InvalidError, NotFoundError
from cloud_hub.samples import owners_check, parquet
from cloud_hub.store.engine import lock_name
from cloud_hub.store.tables import ChannelRow, Device, Model, SampleRow
from cloud_hub.trust.rows import class_count, label_task
from fleet.api.types import check_value
from fleet.protocol.channel import Sampling, decode_channel
from fleet.protocol.durations import DAY_S
from fleet.protocol.errors import MalformedError
from fleet.protocol.messages import Sample
from fleet.protocol.task import CUSTOM
from fleet.tasks import Task

log = logging.getLogger(__name__)
TRIES = 8
MOST_CLASSES = 1 << 31  # where no release says how many there are
OTHERS = "for other labels publish a release that names its task: model-compiler compile --task"
AT_ONCE = 500  # samples that one query asks for
LABEL_BYTES = 256 << 10  # of one label as JSON: 10,000 values, or 300 boxes with room to spare


def commit(hub: Hub, device_id: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    """Take samples that `intake` has checked, each id once; returns the ids that are now in the database."""
    unique = {sample.id: sample for sample in samples}
    with hub.reading() as session:
        known = set(session.exec(select(SampleRow.id).where(col(SampleRow.id).in_(list(unique)))))
    parts: dict[tuple[str, str], list[Sample]] = defaultdict(list)
    for sample in unique.values():
        if sample.id not in known:
            parts[sample.model, _day(sample.at)].append(sample)
    rows: list[dict[str, Any]] = []
    for (model, day), part in parts.items():
        name = hashlib.sha256("\n".join([device_id, *sorted(s.id for s in part)]).encode()).hexdigest()
        path = f"samples/model={model}/day={day}/{name}.parquet"
        hub.objects.put_new(path, parquet.write(device_id, part))
        rows += [_row(device_id, sample, path, hub.clock()) for sample in part]
    if rows:
        _insert(hub, rows)
    return tuple(unique)


def arrays(hub: Hub, row: SampleRow) -> parquet.Arrays:
    """Load a sample's inputs and outputs.

    Raises:
        NotFoundError: it has lost its data.
    """
    found = parquet.arrays_of([hub.objects.get(row.path).data], [row.id]).get(row.id)
    if found is None:
        raise NotFoundError(f"sample {row.id} has lost its data", subject=row.id)
    return found


def arrays_of(hub: Hub, rows: Sequence[SampleRow]) -> dict[str, parquet.Arrays]:
    """The arrays of samples, by their ids; without those whose data is gone meanwhile."""
    return parquet.arrays_of(_parts(hub, rows), [row.id for row in rows])


def _parts(hub: Hub, rows: Iterable[SampleRow]) -> Iterator[bytes]:
    for path in sorted({row.path for row in rows}):  # one file at a time: a device decides how large they are
        try:
            yield hub.objects.get(path).data
        except HubError as error:  # deleted in this moment; the others are shown
            log.info("samples in %s are shown without their data: %s", path, error)


def get(hub: Hub, sample: str) -> SampleRow:
    """A sample's row; NotFoundError when there is none, or it was deleted."""
    with hub.reading() as session:
        row = session.get(SampleRow, sample)
    if row is None or row.deleted_at is not None:
        raise NotFoundError(f"no sample {sample}", subject=sample, hint="see: fleet sample list --model NAME")
    return row


def of_model(hub: Hub, model: str) -> list[SampleRow]:
    """Every sample of a model that was not deleted, oldest first."""
    with hub.reading() as session:
        query = select(SampleRow).where(SampleRow.model == model, col(SampleRow.deleted_at).is_(None))
        return list(session.exec(query.order_by(col(SampleRow.at), col(SampleRow.id))))


def label(hub: Hub, labels: Mapping[str, Any], *, by: str, actor: str, again: bool = True) -> int:
    """Write down what is true of samples, by the tasks of their models; all or nothing. Returns how many.

    Args:
        labels: plain JSON by the sample's id, as `fleet.api.samples.SampleLabel` has it.
        by: the person or tool that says so.
        actor: who writes it down.
        again: whether samples that have a label may get another one.

    Raises:
        NotFoundError: no such sample.
        ConflictError: one has a label, and `again` is not set.
        InvalidError: no label of the task, such as a class that the model does not have; or a very long one.
    """
    ranges: dict[str, Task[Any] | int] = {}
    judged = {**labels, **_judged_by_owners(hub, labels)}  # before the transaction: it may take seconds
    with hub.session() as session:
        at = _label_time(session, hub.clock())
        for key, value in sorted(judged.items()):  # in one order, so that two who label the same wait for each other
            row = session.get(SampleRow, key, with_for_update=True)
            if row is None or row.deleted_at is not None:
                raise NotFoundError(f"no sample {key}; nothing was labelled", subject=key)
            if row.label is not None and not again:
                what = f"sample {key} was labelled by {row.labelled_by} meanwhile; nothing was labelled"
                raise ConflictError(what, subject=key, hint="look at its label first")
            if row.model not in ranges:
                known = label_task(session, row.model)
                ranges[row.model] = known if known is not None else class_count(session, row.model) or MOST_CLASSES
            said = _checked(row, value, ranges[row.model])
            if row.labelled_at is None or said != row.label:  # said again, it is no new evidence
                row.labelled_at = at
            row.label, row.labelled_by = said, by
            session.add(row)
        hub.audit(session, actor, "sample.label", by, {"labels": len(labels)})
    return len(labels)


def _label_time(session: Session, now: float) -> float:
    """A time after that of every label before: who counts labels goes on from the last one that he has seen."""
    lock_name(session, "labels")
    labelled = select(func.max(SampleRow.labelled_at)).where(col(SampleRow.labelled_at).is_not(None))
    last = session.exec(labelled).one()
    return now if last is None else max(now, math.nextafter(last, math.inf))


def _judged_by_owners(hub: Hub, labels: Mapping[str, Any]) -> dict[str, Any]:
    """The labels of custom tasks whose owners brought a check along, as the check keeps them; raises InvalidError."""
    by_check: dict[str, list[str]] = defaultdict(list)
    with hub.reading() as session:
        checks = {row.name: owners_check.check_of(row.policy) for row in session.exec(select(Model))}
        checks = {name: check for name, check in checks.items() if check and _is_custom(label_task(session, name))}
        if not checks:
            return {}
        asked = list(labels)
        for start in range(0, len(asked), AT_ONCE):
            these = col(SampleRow.id).in_(asked[start : start + AT_ONCE])
            for key, model in session.exec(select(SampleRow.id, SampleRow.model).where(these)):
                if model in checks:
                    by_check[checks[model]].append(key)
    kept = {}
    for check, keys in by_check.items():
        found = owners_check.ask(hub.config.directory / "recipes", check, [labels[key] for key in keys])
        for key, one in zip(keys, found, strict=True):
            try:
                kept[key] = check_value(one.kept)
            except ValueError as error:
                one = owners_check.LabelCheck(wrong=f"{check} keeps what no database can: {error}")
            if one.wrong:
                raise InvalidError(f"sample {key}: {one.wrong}; nothing was labelled", subject=key, hint=f"see {check}")
    return kept


def _is_custom(task: Task[Any] | None) -> bool:
    return task is not None and task.name == CUSTOM


def delete(hub: Hub, rows: Iterable[SampleRow], *, actor: str) -> int:
    """Remove samples' data for good; their ids stay known, so that no device brings them back."""
    parts: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        parts[row.path].append(row.id)
    for path, ids in parts.items():
        _rewrite(hub, path, ids)
        with hub.session() as session:
            for key in ids:
                found = session.get(SampleRow, key)
                if found is not None:
                    found.deleted_at = hub.clock()
                    session.add(found)
            hub.audit(session, actor, "sample.delete", path, {"samples": len(ids)})
    return sum(map(len, parts.values()))


def export(hub: Hub, model: str, device: str = "") -> bytes:
    """Export every sample of a model (from one device, if given) with its label, as one Parquet file."""
    rows = [row for row in of_model(hub, model) if device in ("", row.device_id)]  # a partition is of one device
    labels = {row.id: (row.label, row.labelled_by) for row in rows if row.label is not None}
    paths = sorted({row.path for row in rows})
    return parquet.join((hub.objects.get(path).data for path in paths), labels)


def sweep(hub: Hub) -> int:
    """Delete what is older than its channel's retention (the longest that covers the device's model).

    What came in the future, by a clock that ran ahead, came now at the latest.
    """
    now = hub.clock()
    with hub.session() as session:
        ahead = update(SampleRow).where(col(SampleRow.received_at) > now + SLACK_S)
        session.connection().execute(ahead.values(received_at=now))
    with hub.reading() as session:
        channels = {row.name: decode_channel(row.document) for row in session.exec(select(ChannelRow))}
        places = {row.id: row.channel for row in session.exec(select(Device))}
        rows = list(session.exec(select(SampleRow).where(col(SampleRow.deleted_at).is_(None))))

    def old(row: SampleRow) -> bool:
        channel = channels.get(places.get(row.device_id, ""))
        entry = channel.models.get(row.model) if channel is not None else None
        days = (entry.sampling if entry is not None else Sampling()).retention_days
        return row.received_at < now - days * DAY_S

    return delete(hub, [row for row in rows if old(row)], actor="retention")


def _rewrite(hub: Hub, path: str, gone: list[str]) -> None:
    for _ in range(TRIES):
        if not hub.objects.exists(path):
            return
        stored = hub.objects.get(path)
        left = parquet.without(stored.data, gone)
        if left is None:
            hub.objects.delete(path)
            return
        try:
            hub.objects.put_if_match(path, left, stored.tag)
        except ConflictError:
            continue
        return
    raise ConflictError(f"{path} is changed by too many at once", subject=path, hint="try again")


def _checked(row: SampleRow, value: object, known: Task[Any] | int) -> Any:
    """A label as the database keeps it. `known`: the model's task; where none is named, how many classes it has."""
    if isinstance(known, int):
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < known:
            return value
        why, hint = f"{value!r} is no class of {row.model!r}", f"a class is a number from 0 to {known - 1}; {OTHERS}"
    else:
        try:
            kept = known.label(value)
        except MalformedError as error:
            why, hint = str(error), error.hint
        else:
            size = len(msgspec.json.encode(kept))
            if size <= LABEL_BYTES:
                return kept
            why, hint = f"its label has {size} bytes as JSON", f"a label has at most {LABEL_BYTES}"
    raise InvalidError(f"sample {row.id}: {why}; nothing was labelled", subject=row.id, hint=hint)


def _insert(hub: Hub, rows: list[dict[str, Any]]) -> None:
    with hub.session() as session:
        insert = postgresql.insert if session.get_bind().dialect.name == "postgresql" else sqlite.insert
        # two uploads of the same sample may meet here; the first one's row stays
        session.connection().execute(insert(SampleRow).on_conflict_do_nothing(index_elements=["id"]), rows)


def _row(device_id: str, sample: Sample, path: str, now: float) -> dict[str, Any]:
    return SampleRow(
        id=sample.id,
        model=sample.model,
        device_id=device_id,
        release=sample.release,
        variant=sample.variant,
        reason=sample.reason,
        at=sample.at,
        received_at=now,
        confidence=sample.confidence,
        prediction=sample.prediction,
        cloud_prediction=sample.cloud_prediction,
        path=path,
    ).model_dump()


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")
