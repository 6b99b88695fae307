"""Removing blobs and patches that no release names any more, a day after they were stored.

The day is for who uploads now and publishes then. Deletion runs under the publishing lock, under which a publication
looks for its blobs once more: it is either named before, or refused.
"""

from __future__ import annotations

import hashlib
import logging

from sqlmodel import Session, select

from cloud_hub.context import Hub
from cloud_hub.services.periodic import PeriodicService
from cloud_hub.store.engine import lock_publishing
from cloud_hub.store.tables import Release
from fleet.protocol.manifest import decode_manifest

log = logging.getLogger(__name__)
EVERY_S = 6 * 3600.0
GRACE_S = 86_400.0
BATCH = 200  # deletions under one lock: a publication waits for no more


class Collector(PeriodicService):
    """Looks four times a day, on one replica."""

    name = "blob-collector"

    def __init__(self, hub: Hub) -> None:
        super().__init__(hub, EVERY_S)

    def look(self) -> None:
        """See `collect`."""
        gone = collect(self._hub)
        if gone:
            log.info("removed %d blobs and patches that no release names", gone)


def collect(hub: Hub) -> int:
    """Delete what no release names and is older than `GRACE_S`; returns how many objects went."""
    before = hub.clock() - GRACE_S
    old = [
        found.key for prefix in ("blobs", "deltas") for found in hub.objects.list(prefix) if found.modified_at < before
    ]
    gone = 0
    for start in range(0, len(old), BATCH):
        with Session(hub.engine) as session, session.begin():
            lock_publishing(session)
            named = named_blobs(session) | manifest_hashes(session)
            for key in old[start : start + BATCH]:
                if not set(key.split("/")[1:]) <= named:  # blobs/HASH, and deltas/TO/FROM
                    hub.objects.delete(key)
                    gone += 1
    return gone


def named_blobs(session: Session) -> set[str]:
    """The hashes of all blobs that releases name, published or not."""
    manifests = session.exec(select(Release.manifest))
    return {blob.sha256 for manifest in manifests if manifest for blob in decode_manifest(manifest).blobs()}


def manifest_hashes(session: Session) -> set[str]:
    """The hashes of all releases' manifests: patches lie between these, too; they are rows, and no blobs."""
    return {hashlib.sha256(manifest).hexdigest() for manifest in session.exec(select(Release.manifest)) if manifest}
