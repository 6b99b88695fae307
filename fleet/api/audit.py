"""The audit log."""

from __future__ import annotations

from fleet.api.base import Answer, Page
from fleet.api.types import Document


class AuditRecord(Answer):
    """Who did what to what. `actor` is `operator:<token id>`, `device:<id>`, `guard`, `job:<id>`, …

    `detail` is plain JSON that depends on the action: what was asked, and what it was before.
    """

    id: int
    at: float
    actor: str
    action: str
    subject: str
    detail: Document = {}


class AuditPage(Page[AuditRecord]):
    """Records in their order."""
