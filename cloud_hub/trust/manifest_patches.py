"""Patches between the manifests of a model's releases, so that an update costs devices no whole one.

Unsigned hints beside those between blobs: what a device makes of one counts by the hash that the repository signed.
"""

from __future__ import annotations

import hashlib
import logging

from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.objects import delta_key
from cloud_hub.store.tables import Release
from cloud_hub.trust.rows import get_release

FORMER = 4  # published releases before it, the newest ones, that devices may come from

log = logging.getLogger(__name__)


def keep_manifest_patches(hub: Hub, model: str, number: int) -> None:
    """Put patches to a published release's manifest into the store. Without them devices fetch it whole.

    Args:
        hub: the hub.
        model: of the release.
        number: of a release that was published.
    """
    from model_compiler.errors import CompilerError
    from model_compiler.package.delta import build

    with hub.reading() as session:
        new = get_release(session, model, number).manifest
        query = select(Release.manifest).where(
            Release.model == model, Release.number != number, Release.status == "published"
        )
        former = session.exec(query.order_by(col(Release.number).desc()).limit(FORMER)).all()
    try:
        for old in {old for old in former if old not in (b"", new)}:
            patch = build(old, new).patch
            if len(patch) < len(new):
                hub.objects.put_new(delta_key(_sha256(new), _sha256(old)), patch)
    except (HubError, CompilerError, OSError, ValueError, MemoryError) as error:  # it is out, and goes on
        log.warning("no patches to the manifest of %s release %d: %s", model, number, error)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
