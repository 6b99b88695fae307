"""Drift monitors and their alarms."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from fleet.api.base import Answer, Page

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


class ClassShare(Answer):
    """The share (0 to 1) of the answers that were this class, before and now."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    number: int = Field(alias="class")
    before: float
    after: float


class AlarmDetail(Answer):
    """An alarm in words and numbers. `devices` are those beyond their margin, `windows` how many were looked at last;
    `confidence` is the mean before and now, `classes` are those whose share moved most, `closed` why it was closed."""

    reason: str = ""
    distance: float | None = None
    margin: float | None = None
    devices: list[str] = []
    windows: int = 0
    evidence: float | None = None
    limit: float | None = None
    confidence: list[float | None] = []
    classes: list[ClassShare] = []
    closed: str = ""


class AlarmResponse(Answer):
    """What follows an alarm. `asked` of the `of` devices that run the model were asked for `samples` samples each, of
    `max_bytes` bytes at most, until `until`; `collected` samples from after `since` are here, `labelled` of them with a
    label. A retrain starts with `labels` labels, or with few at `deadline` (null: the policy starts none); `missing`
    says what keeps it from starting, or how its `job` ended."""

    state: str
    since: float = 0.0
    asked: int = 0
    of: int = 0
    samples: int = 0
    max_bytes: int = 0
    until: float = 0.0
    collected: int = 0
    labelled: int = 0
    labels: int = 0
    deadline: float | None = None
    missing: str = ""
    job: str = ""

    @property
    def sentence(self) -> str:
        """All of it for people."""
        words = f"{self.asked} of {self.of} devices were asked for {self.samples} samples each; "
        words += f"{self.collected} from after the shift are here, {self.labelled} with a label; {self.state}"
        return words + (f" as {self.job}" if self.job else "") + (f": {self.missing}" if self.missing else "")


class AlarmInfo(Answer):
    """A drift alarm; `detail` explains it, `response` says what follows (null before the hub has looked at it, and of
    alarms of earlier versions)."""

    id: int
    model: str
    release: int = 0
    at: float = 0.0
    status: AlarmStatus
    detail: AlarmDetail = AlarmDetail()
    response: AlarmResponse | None = None


class AlarmPage(Page[AlarmInfo]):
    """Alarms, newest first."""
