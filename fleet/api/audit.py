"""The audit log."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from fleet.api.base import Page, ResponseModel
from fleet.api.types import Document, Key, Moment


class AuditFilter(BaseModel):
    """A filter of audit records; a field that is not given excludes nothing.

    `since` and `until` are Unix seconds: records from `since` on and before `until`. `actor`, `action` and `subject`
    are compared whole: `operator:<token id>`, `rollout.abort`, the name of a device, rollout, model, …
    """

    model_config = ConfigDict(frozen=True)

    since: Moment = 0.0
    until: Moment | None = None
    actor: Key = ""
    action: Key = ""
    subject: Key = ""


class AuditRecord(ResponseModel):
    """One action, with its actor and its subject. `actor` is `operator:<token id>`, `device:<id>`, `guard`, `job:<id>`,
    …

    `detail` is plain JSON that depends on the action: the change that was asked for, and the state before it.
    """

    id: int
    at: float
    actor: str
    action: str
    subject: str
    detail: Document = {}


class AuditPage(Page[AuditRecord]):
    """Records in their order."""
