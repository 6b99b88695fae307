"""The hub's facts about a release: its manifest with the compiler's detail, its snapshot, its rollouts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import UNSET, Struct
from sqlmodel import Session, col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, NotFoundError
from cloud_hub.objects import blob_key
from cloud_hub.store.tables import Model, Release, RolloutRow, Snapshot
from cloud_hub.trust import models
from fleet.api.releases import ReleaseDetail
from fleet.protocol.blob import Blob
from fleet.protocol.errors import ProtocolError
from fleet.protocol.figures import decode_profile
from fleet.protocol.manifest import MANIFEST_LIMIT, Manifest, decode_manifest
from fleet.protocol.manifest_detail import Detail, decode_detail, with_detail

ROLLOUTS = 10  # the newest that are told
BACK = 8  # releases before this one that are asked for words


class PublisherWords(Struct, frozen=True, kw_only=True):
    """A publisher's words, and of which release they were said."""

    text: str
    release: int


class Rolled(Struct, frozen=True, kw_only=True):
    """A rollout of the release."""

    id: str
    channel: str
    from_release: int
    state: str
    reason: str
    at: float


class CardFacts(Struct, frozen=True, kw_only=True):
    """Everything that a card says.

    `snapshot` is the row of the manifest's snapshot, None where there is none or it was deleted; `rows` are those of
    the training inputs that the compiler summed up; `missing` are parts of the release that could not be read, and why.
    """

    release: ReleaseDetail
    manifest: Manifest
    below_floor: bool
    intended_use: PublisherWords | None
    limits: PublisherWords | None
    target: str
    snapshot: Snapshot | None
    rows: int | None
    rollouts: list[Rolled]
    missing: list[str]


def gather(hub: Hub, model: str, number: int) -> CardFacts:
    """Gather the facts about a release.

    Raises:
        NotFoundError: it does not exist.
        ConflictError: it has no manifest yet.
    """
    release = models.show_release(hub, model, number)
    if release.manifest is None:
        what = f"release {number} of {model!r} is {release.status}: it has no manifest yet"
        raise ConflictError(what, subject=f"{model}/{number}", hint="publish it first")
    missing: list[str] = []
    detail = _detail(hub, release.manifest, missing)
    rows = _rows(hub, release.manifest, missing)
    said = [(number, detail), *_earlier(hub, model, number)]
    with hub.reading() as session:
        owner = session.get(Model, model)
        lineage = release.manifest.lineage
        return CardFacts(
            release=release,
            manifest=with_detail(release.manifest, detail),
            below_floor=owner is not None and number < owner.min_release,
            intended_use=_first(said, "intended_use"),
            limits=_first(said, "limits"),
            target=detail.target,
            snapshot=session.get(Snapshot, lineage.snapshot) if lineage.snapshot else None,
            rows=rows,
            rollouts=_rollouts(session, model, number),
            missing=missing,
        )


def _first(said: list[tuple[int, Detail]], name: str) -> PublisherWords | None:
    found = ((number, getattr(detail, name)) for number, detail in said)
    return next(
        (PublisherWords(text=text, release=number) for number, text in found if isinstance(text, str) and text), None
    )


def _earlier(hub: Hub, model: str, number: int) -> list[tuple[int, Detail]]:
    """The details of the releases before, the newest first: a retrain says nothing of its own."""
    query = select(Release).where(Release.model == model, Release.number < number, Release.status == "published")
    with hub.reading() as session:
        rows = list(session.exec(query.order_by(col(Release.number).desc()).limit(BACK)))
    found = [(row.number, decode_manifest(row.manifest)) for row in rows if row.manifest]
    return [(one, _detail(hub, manifest, [])) for one, manifest in found]


def _detail(hub: Hub, manifest: Manifest, missing: list[str]) -> Detail:
    data = _blob(hub, manifest.detail, "the compiler's notes", missing)
    try:
        return decode_detail(data) if data is not None else Detail()
    except ProtocolError as error:
        missing.append(f"the compiler's notes: {error}")
        return Detail()


def _rows(hub: Hub, manifest: Manifest, missing: list[str]) -> int | None:
    data = _blob(hub, manifest.profile, "the summary of the training inputs", missing)
    try:
        profile = decode_profile(data) if data is not None else None
    except ProtocolError as error:
        missing.append(f"the summary of the training inputs: {error}")
        return None
    return max((one.rows for one in profile.inputs), default=None) if profile is not None else None


def _blob(hub: Hub, blob: Any, what: str, missing: list[str]) -> bytes | None:
    """A blob that people read; None where the release names none, or it is not to be had: then `missing` says so."""
    if blob is UNSET or not isinstance(blob, Blob):
        return None
    if blob.size > MANIFEST_LIMIT:
        missing.append(f"{what}: {blob.size:,} bytes are more than are read")
        return None
    try:
        return hub.objects.get(blob_key(blob.sha256)).data
    except NotFoundError:
        missing.append(f"{what}: the hub's object store does not have it")
        return None


def _rollouts(session: Session, model: str, number: int) -> list[Rolled]:
    query = select(RolloutRow).where(RolloutRow.model == model, RolloutRow.release == number)
    return list(_told(session.exec(query.order_by(col(RolloutRow.created_at).desc()).limit(ROLLOUTS))))


def _told(rows: Any) -> Iterator[Rolled]:
    for row in rows:
        yield Rolled(
            id=row.id,
            channel=row.channel,
            from_release=row.from_release,
            state=row.state,
            reason=row.reason,
            at=row.created_at,
        )
