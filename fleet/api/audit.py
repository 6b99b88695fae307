"""The audit log."""

from __future__ import annotations

from fleet.api.base import Answer, Page
from fleet.api.types import Document


class AuditRecord(Answer):
    """Who did what to what. `actor` is `operator:<token id>`, `device:<id>`, `guard`, `job:<id>`, …"""

    id: int
    at: float
    actor: str
    action: str
    subject: str
    detail: Document = {}


class AuditPage(Page[AuditRecord]):
    """Records in their order."""
