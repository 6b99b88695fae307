"""Drift monitors and their alarms."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import Key, ReleaseNumber

AlarmStatus = Literal["open", "acknowledged", "closed"]


class Agreement(ResponseModel):
    """The agreement of a release's answers with the auditor, or with labels of randomly drawn samples, by the model's
    task: shares in [0, 1]. `state`: waiting (none came), baseline (too few for a record, or a margin as wide as the
    record, which hides any change), watching, alarmed. `now` is of the latest of `counted` device-windows or labels;
    `record` is the release's own, of its first ones, and an alarm comes when evidence (log e-value) adds up that it is
    lower by more than `margin`. A lasting drop of 4 points is found after about `delay` audits or labels, which take
    `delay_days` at the present rate; null where the margin hides such a drop, or no record exists yet."""

    state: str
    now: float | None = None
    counted: int = 0
    record: float | None = None
    margin: float | None = None
    evidence: float | None = None
    delay: float | None = None
    delay_days: float | None = None


class MonitorInfo(ResponseModel):
    """The drift monitor of a release that is some channel's `default`, or that `devices` devices serve. `state`:
    waiting, baseline, watching, alarmed; `silent` where no window that counts has come since `silent_since`, which is
    said of an alarmed one, too, and is no health; `no sketch` (answers and data are watched alone), and `ended` or
    `left out` of one that is not watched any more, or not: `unwatched` says why, and nothing is known of its health.
    `leading` is the
    device, group or fleet with most evidence that its inputs have moved; `distance` (root of a squared maximum mean
    discrepancy), `margin`, `baseline_windows`, `evidence` (log e-value) and `limit`, where an alarm comes, are its own.
    Of a move of less than `least_effect`, by the model's policy, nothing is held against any.
    `streams` counts devices by the state of their baseline, `last_window_at` is when the newest window of one ended,
    null without any. `audits` and `labels` say whether the answers are still right, `quality` and `outliers` in words
    how broken data and outliers are watched, or why not; `trouble` why looks at it fail now, empty where none does;
    `uncounted` which windows were put away before they could be counted, empty where none were in 30 days. `left_out`
    says which features no baseline can hold, as counters, and are no part of the judgement; the state is `growing`
    where no other is left, and nothing is known then of where inputs lie.
    Release 0 is a model of which no release is known yet."""

    model: str
    state: str
    release: int = 0
    default: bool = False
    devices: int = 0
    unwatched: str = ""
    last_window_at: float | None = None
    silent_since: float | None = None
    sketch_id: str = ""
    baseline_windows: int = 0
    distance: float | None = None
    margin: float | None = None
    evidence: float | None = None
    limit: float | None = None
    least_effect: float | None = None
    leading: str = ""
    streams: dict[str, int] = {}
    audits: Agreement | None = None
    labels: Agreement | None = None
    quality: str = ""
    outliers: str = ""
    trouble: str = ""
    uncounted: str = ""
    left_out: str = ""
    updated_at: float = 0.0


class MonitorPage(Page[MonitorInfo]):
    """Monitors by model; of each, releases that are defaults come first, the newest of them before the others."""


class StreamInfo(ResponseModel):
    """One stream of a model's inputs that is watched: a device's, a group's (`site=berlin`), or the whole fleet's.

    `state`: waiting (too few windows), provisional (the baseline does not say yet what is usual: only what lies far
    outside counts, and nothing is promised), steady. Of `windows` since `began_at`, `evidence` (log e-value) has added
    up `since` that moment; at `alarm_at` an alarm comes. `distance` is how far it has moved by these, a root of a
    squared maximum mean discrepancy; `margin` what it is held against. `alarm` is the open one that names it, or 0.
    `baseline` says what the baseline is made of, `based_at` since when: provisional, a period, or the hours and days of
    a week (UTC); empty while it is waiting.
    """

    kind: str
    name: str = ""
    release: int = 0
    state: str
    windows: int = 0
    began_at: float = 0.0
    last_at: float = 0.0
    distance: float = 0.0
    margin: float | None = None
    evidence: float = 0.0
    alarm_at: float = 0.0
    since: float | None = None
    alarm: int = 0
    baseline: str = ""
    based_at: float | None = None


class StreamPage(Page[StreamInfo]):
    """Streams, those with most evidence first."""


class Rebaseline(RequestModel):
    """The baselines that begin anew: those of these devices, or with null of all; of this release, or with null of
    every release of the model that is watched."""

    release: ReleaseNumber | None = None
    devices: Annotated[list[Key], Field(min_length=1, max_length=1000)] | None = None


class Rebaselined(ResponseModel):
    """The number of streams that begin anew, and their releases."""

    model: str
    streams: int
    releases: list[int] = []


class ClassShare(ResponseModel):
    """The share (0 to 1) of the answers that were this class, before and now."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    number: int = Field(alias="class")
    before: float
    after: float


class AlarmFinding(ResponseModel):
    """An alarm's finding on one device, in words; `share` in [0, 1] of its inputs or windows, `since` in Unix
    seconds."""

    device: str
    what: str
    share: float = 0.0
    since: float = 0.0
    tensor: str = ""
    place: int = -1
    problem: str = ""


class MovedFeature(ResponseModel):
    """A feature of an input, or a figure such as an image's brightness, over the rows before the alarm's moment and
    after it: means and spreads, and shares of finite values. `size` from 1 on orders them."""

    tensor: str
    place: int
    name: str
    before: float | None = None
    after: float | None = None
    spread_before: float | None = None
    spread_after: float | None = None
    finite_before: float = 1.0
    finite_after: float = 1.0
    size: float = 0.0


class AlarmDetail(ResponseModel):
    """An alarm in words and numbers. `kind`: inputs, meaning, quality or outliers; the last two have `findings`. Of
    inputs: `devices` are those that moved (`device_count` of `of_devices`; a long list is cut), with the `groups`
    and whether the `fleet` as a whole has; `since` when, by how much (`distance`); `provisional` when no baseline
    was steady; `season` where the baseline is weeks old, and not a year: a season may have done it. If the alarm is led
    by one device, it was compared with so many `others`, of which `others_moved` went the same way, at least half as
    far (a season moves all, a sensor that ages moves alone). `windows` is how many were looked at, `confidence` the
    mean before and now, `classes` are those whose share moved most, `closed` why it was closed, `features` those of the
    inputs that moved most."""

    kind: str = "inputs"
    reason: str = ""
    distance: float | None = None
    margin: float | None = None
    devices: list[str] = []
    device_count: int = 0
    of_devices: int = 0
    groups: list[str] = []
    fleet: bool = False
    since: float | None = None
    others: int = 0
    others_moved: int = 0
    season: bool = False
    provisional: bool = False
    windows: int = 0
    evidence: float | None = None
    limit: float | None = None
    confidence: list[float | None] = []
    classes: list[ClassShare] = []
    closed: str = ""
    findings: list[AlarmFinding] = []
    features: list[MovedFeature] = []


class AlarmResponse(ResponseModel):
    """The consequences of an alarm. `asked` of the `of` devices that run the model were asked for `samples` samples
    each, of `max_bytes` bytes at most, until `until`; `collected` samples from after `since` are here, `labelled` of
    them with a label. A retrain starts with `labels` labels, or with few at `deadline` (null: the policy starts none);
    `missing` says what keeps it from starting, or how its `job` ended."""

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


class AlarmInfo(ResponseModel):
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
