"""The objects that a database names. The signed repository is not among them: its bytes are rows, and are put again
from them; nor are requests that are answered later, which end within the hour."""

from __future__ import annotations

from collections.abc import Iterator

from sqlmodel import Session, col, select

from cloud_hub.jobs.logs import log_key
from cloud_hub.ports import Objects
from cloud_hub.store.tables import Job, Release, SampleRow, Snapshot
from cloud_hub.trust.collecting import manifest_hashes, named_blobs


def wanted(session: Session) -> Iterator[str]:
    """The keys that the database names and the store must have: blobs, samples, snapshots."""
    yield from sorted(f"blobs/{sha256}" for sha256 in named_blobs(session))
    yield from session.exec(select(SampleRow.path).where(col(SampleRow.deleted_at).is_(None)).distinct())
    yield from session.exec(select(Snapshot.path))


def welcome(session: Session, objects: Objects) -> Iterator[str]:
    """The keys of what may be there as well: patches, logs of jobs, weights that training starts from."""
    ends = named_blobs(session) | manifest_hashes(session)
    for found in objects.list("deltas"):
        if set(found.key.split("/")[1:]) <= ends:
            yield found.key
    yield from (log_key(job) for job in session.exec(select(Job.id)))
    releases = {(row.model, str(row.number)) for row in session.exec(select(Release))}
    for found in objects.list("weights"):
        _, model, number, *_ = found.key.split("/")
        if (model, number) in releases:
            yield found.key
