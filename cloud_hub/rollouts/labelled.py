"""Labels as evidence of a rollout: samples drawn at random from both releases at the same time, judged by people.

Only samples that came since the attempt began count, by the hub's clock, of devices in the rollout's scope: the
release's own, and those of the release before from whoever still served it. Which samples get a label is the
operators' choice; they are to choose of both releases alike, and what is drawn by value says nothing of the whole.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from sqlmodel import Session, col, func, select

from cloud_hub.store.tables import Device, Release, SampleRow
from fleet import tasks
from fleet.protocol.manifest import decode_manifest
from fleet.rollouts.machine import Plan, Progress
from fleet.rollouts.matching import Matched, Outcome, match

MOST = 50_000  # labels of a release that are read
WEEK_S, DAYS = 7 * 86_400.0, 7
RANDOM = (SampleRow.reason == "random", col(SampleRow.label).is_not(None), col(SampleRow.deleted_at).is_(None))


def tells(session: Session, model: str, release: int) -> bool:
    """Whether a label and the answer that a sample's row holds tell if it was right: of classes they do."""
    row = session.get(Release, (model, release))
    if row is None or not row.manifest:
        return False
    return tasks.of_manifest(decode_manifest(row.manifest)).name == "classification"


def per_day(session: Session, channel: str, model: str, now: float) -> float:
    """How many randomly drawn samples of a channel's devices got a label in a day of the last week."""
    query = select(func.count()).select_from(SampleRow).join(Device, col(Device.id) == col(SampleRow.device_id))
    found = session.exec(
        query.where(SampleRow.model == model, Device.channel == channel, *RANDOM).where(
            col(SampleRow.labelled_at) > now - WEEK_S, col(SampleRow.labelled_at) <= now
        )
    )
    return float(found.one()) / DAYS


def matched(session: Session, plan: Plan, progress: Progress, devices: Collection[str]) -> Matched:
    """The outcomes of both releases in an attempt, matched in the order of their labels.

    Args:
        devices: those of the cohort, of the control, and those that have left the cohort.
    """
    if not tells(session, plan.model, plan.release):
        return Matched()
    since = progress.stage_times[0] if progress.stage_times else progress.started_at
    new, old = (_outcomes(session, plan.model, number, since, devices) for number in (plan.release, plan.from_release))
    return match(new, old)


def _outcomes(session: Session, model: str, release: int, since: float, devices: Collection[str]) -> Iterator[Outcome]:
    row = session.get(Release, (model, release))
    if row is None or not row.manifest:
        return
    task = tasks.of_manifest(decode_manifest(row.manifest))
    rows = session.exec(
        select(SampleRow.device_id, SampleRow.prediction, SampleRow.label)
        .where(SampleRow.model == model, SampleRow.release == release, *RANDOM)
        .where(SampleRow.received_at >= since)
        .order_by(col(SampleRow.labelled_at), col(SampleRow.id))
        .limit(MOST)
    )
    for device, prediction, label in rows:
        if device in devices and (right := task.right(prediction, label)) is not None:
            yield Outcome(device, right >= 0.5)
