"""Drift monitors and their alarms."""

from __future__ import annotations

from typing import Literal

from fleet.api.base import Answer, Page
from fleet.api.types import Document

AlarmStatus = Literal["open", "acknowledged", "closed"]


class MonitorInfo(Answer):
    """A model's drift monitor. `distance` and `margin` are of the last window; an alarm comes when the evidence (log
    e-value) reaches `limit`."""

    model: str
    state: str
    release: int = 0
    sketch_id: str = ""
    baseline_windows: int = 0
    distance: float | None = None
    margin: float | None = None
    evidence: float | None = None
    limit: float | None = None
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
