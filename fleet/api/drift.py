"""Drift monitors and their alarms."""

from __future__ import annotations

from typing import Literal

from fleet.api.base import Answer, Page
from fleet.api.types import Document

AlarmStatus = Literal["open", "acknowledged", "closed"]


class Agreement(Answer):
    """How far a release's answers agree with the auditor, or with labels of randomly drawn samples, by the model's
    task: shares in [0, 1]. `now` is of the latest of `counted` device-windows or labels; `record` is the release's own,
    of its first ones, and an alarm comes when evidence (log e-value) adds up that it is lower by more than `margin`."""

    state: str
    now: float | None = None
    counted: int = 0
    record: float | None = None
    margin: float | None = None
    evidence: float | None = None


class MonitorInfo(Answer):
    """A model's drift monitor. `distance` and `margin` are of the last window; an alarm comes when the evidence (log
    e-value) reaches `limit`. `audits` and `labels` say whether the answers are still right."""

    model: str
    state: str
    release: int = 0
    sketch_id: str = ""
    baseline_windows: int = 0
    distance: float | None = None
    margin: float | None = None
    evidence: float | None = None
    limit: float | None = None
    audits: Agreement | None = None
    labels: Agreement | None = None
    updated_at: float = 0.0


class MonitorPage(Page[MonitorInfo]):
    """Monitors by model."""


class AlarmInfo(Answer):
    """A drift alarm; `detail` explains it."""

    id: int
    model: str
    release: int = 0
    at: float = 0.0
    status: AlarmStatus
    detail: Document = {}


class AlarmPage(Page[AlarmInfo]):
    """Alarms, newest first."""
