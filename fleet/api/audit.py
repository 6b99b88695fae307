"""The audit log."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fleet.api.base import Page, ResponseModel
from fleet.api.types import Document, Key, Moment


class AuditFilter(BaseModel):
    """Which records are wanted; a field that is not given leaves nothing out.

    `since` and `until` are Unix seconds: records of `since` or later, and of before `until`. `actor`, `action` and
    `subject` are whole: `operator:<token id>`, `rollout.abort`, the name of a device, rollout, model, …
    """

    model_config = ConfigDict(frozen=True)

    since: Moment = 0.0
    until: Moment | None = None
    actor: Key = ""
    action: Key = ""
    subject: Key = ""


class AuditRecord(ResponseModel):
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
