"""The accuracy of a model's devices and its cloud by people's labels, read from the samples of its releases in use."""

from __future__ import annotations

from msgspec import Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.drift.deferring import Judgment, Labelled, judge
from cloud_hub.store.tables import ChannelRow, SampleRow
from cloud_hub.trust.rows import interface_release
from fleet.api.models import AnswersByLabels, ShareOfRight
from fleet.protocol.channel import decode_channel
from fleet.protocol.manifest import Manifest
from fleet.protocol.task import CLASSIFICATION, NO_CLASS
from fleet.tasks import of_manifest

NEWEST = 5000  # labelled samples of a release that are looked at
RELEASES = 4  # of a model that channels have as their default: the newest ones
REASONS = ("random", "uncertain", "disagreeing")


class ByLabels(Struct, frozen=True, kw_only=True):
    """A release and what its labelled samples say."""

    release: int
    judgment: Judgment


def of_model(hub: Hub, model: str) -> list[AnswersByLabels]:
    """The releases that channels have as their default, newest first, for the API; NotFoundError without the model."""
    return [_described(found) for found in judged(hub, model)]


def judged(hub: Hub, model: str) -> list[ByLabels]:
    """The same as values; empty where the task is no classification, whose answers alone stand beside a sample."""
    with hub.reading() as session:
        current = interface_release(session, model)
        if current is None or of_manifest(current.manifest).name != CLASSIFICATION:
            return []
        defaults = {current.number}
        for row in session.exec(select(ChannelRow)):
            entry = decode_channel(row.document).models.get(model)
            defaults |= {entry.release} if entry is not None else set()
        chosen = sorted(defaults, reverse=True)[:RELEASES]
        return [
            ByLabels(release=number, judgment=judge(_samples(session, model, number, current.manifest)))
            for number in chosen
        ]


def _samples(session: Session, model: str, release: int, manifest: Manifest) -> list[Labelled]:
    task = of_manifest(manifest)
    columns = (
        SampleRow.device_id,
        SampleRow.at,
        SampleRow.reason,
        SampleRow.prediction,
        SampleRow.cloud_prediction,
        SampleRow.label,
    )
    rows = session.exec(
        select(*columns)  # type: ignore[call-overload]
        .where(SampleRow.model == model, SampleRow.release == release, col(SampleRow.deleted_at).is_(None))
        .where(col(SampleRow.label).is_not(None), col(SampleRow.reason).in_(REASONS))
        .where(SampleRow.prediction != NO_CLASS)
        .order_by(col(SampleRow.labelled_at).desc(), col(SampleRow.id))
        .limit(NEWEST)
    )
    return [
        Labelled(
            device_id=device,
            at=at,
            drawn_at_random=reason == "random",
            device_right=task.right(own, label) == 1.0,
            cloud_right=None if cloud is None or cloud == NO_CLASS else task.right(cloud, label) == 1.0,
        )
        for device, at, reason, own, cloud, label in rows
    ]


def _described(found: ByLabels) -> AnswersByLabels:
    said = found.judgment
    device, asked_device, asked_cloud = (
        ShareOfRight.model_validate(part) if part is not None else None
        for part in (said.device, said.asked_device, said.asked_cloud)
    )
    return AnswersByLabels(
        release=found.release,
        device=device,
        asked_device=asked_device,
        asked_cloud=asked_cloud,
        compared=said.compared,
        only_device=said.only_device,
        only_cloud=said.only_cloud,
        verdict=said.verdict,
        reason=said.reason,
    )
