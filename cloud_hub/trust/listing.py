"""Lists, and writes down, what a publication needs beside the rows that it changes."""

from __future__ import annotations

from cloud_hub.store.tables import AuditEntry, Release
from cloud_hub.trust import repository
from cloud_hub.trust.rows import floor_document
from cloud_hub.trust.transaction import Draft


def list_release(draft: Draft, row: Release) -> None:
    """List a release's manifest, and its model's floor as it is now."""
    draft.set_target("models", repository.release_target(row.model, row.number), row.manifest)
    draft.set_target("models", repository.floor_target(row.model), floor_document(draft.session, row.model))


def published(row: Release, now: float) -> None:
    """Note that a release is out."""
    row.status, row.published_at = "published", now


def audit(draft: Draft, actor: str, action: str, subject: str, detail: dict[str, object]) -> None:
    """Record an action, its actor and its subject in the publication's transaction.

    Args:
        draft: the publication.
        actor: its name in the audit log.
        action: such as `release.publish`.
        subject: of the action, such as `digits/3`.
        detail: what else is worth knowing, as JSON.
    """
    draft.session.add(AuditEntry(at=draft.now, actor=actor, action=action, subject=subject, detail=detail))
