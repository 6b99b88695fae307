"""Models: the names that applications ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, field_validator

from fleet.api.base import Page, RequestModel, ResponseModel
from fleet.api.types import INT32, LABEL_CHECK, Document, Key, Name, ReleaseNumber
from fleet.api.wire import Wire
from fleet.protocol.manifest import Tensor

DURATION = r"^[1-9][0-9]{0,6}[smhd]$"
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


BASELINES = 30  # periods that a refresh has at least


def seconds_of(duration: str) -> float:
    """Seconds of `90s`, `15m`, `12h` or `30d`."""
    return float(duration[:-1]) * UNITS_S[duration[-1]]


class DriftPolicy(RequestModel):
    """The settings by which a model's drift is watched.

    `baseline`: the period whose windows say what is usual on a device, such as `1h`, `1d` or `7d`; it grows until it
    covers 30 blocks of time that do not depend on one another. Before that, from `baseline_windows` windows on, a
    provisional test answers only to what lies far outside. (So many windows also make the record of right answers.)
    `least_effect`: how far inputs may move, as a distance (root of a squared maximum mean discrepancy; 0.005 is hardly
    to be seen, 0.2 another kind of input), before anything is held against them. `margin`: by how much of the agreement
    with auditor or labels, 0.01 for a point, answers may become worse before anything is; what the record itself may be
    off comes on top only where it is more. Larger ones miss what is smaller, for ever.
    `refresh`: after how long a new baseline replaces the last, as `90d` for seasons, 30 times `baseline` at least and
    not while an alarm is open; never when empty.
    `silent_after`: how long a monitor may hear nothing before its state is `silent`, as `6h`; when empty, a baseline's
    period, at most a day, and ten times what lies between two windows of a device at least.
    `budget_days`: at most one false alarm in so many days. A window with fewer than `min_count` sketched inputs is not
    counted. After an alarm `sample_devices` devices at most, those that it names first, are asked for `samples` samples
    each, within `sample_bytes` bytes and `sample_hours` hours, also where their channel samples nothing. `left_out`:
    features, by name or as `x[2]`, that nothing is held against, as counters that no baseline can hold. `retrain`:
    whether an alarm starts a retrain by itself: when `retrain_labels` samples from after the shift are labelled, or
    after `retrain_days` with what there is.
    """

    baseline: Annotated[str, Field(max_length=16, pattern=DURATION)] = "1d"
    refresh: Annotated[str, Field(max_length=16, pattern=r"^([1-9][0-9]{0,6}[smhd])?$")] = ""
    silent_after: Annotated[str, Field(max_length=16, pattern=r"^([1-9][0-9]{0,6}[smhd])?$")] = ""
    baseline_windows: Annotated[int, Field(ge=3, le=INT32)] = 30
    least_effect: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] = 0.005
    margin: Annotated[float, Field(ge=0.01, le=0.5, allow_inf_nan=False)] = 0.01
    min_count: Annotated[int, Field(ge=2, le=INT32)] = 20
    budget_days: Annotated[float, Field(ge=0.001, le=1e9, allow_inf_nan=False)] = 1000.0
    samples: Annotated[int, Field(ge=0, le=INT32)] = 200
    sample_bytes: Annotated[int, Field(ge=0, le=1 << 30)] = 4 << 20
    sample_hours: Annotated[float, Field(ge=0.01, le=720, allow_inf_nan=False)] = 6.0
    sample_devices: Annotated[int, Field(ge=0, le=INT32)] = 100
    left_out: Annotated[list[Key], Field(max_length=64)] = []
    retrain: Literal["off", "on-alarm"] = "off"
    retrain_labels: Annotated[int, Field(ge=4, le=INT32)] = 100
    retrain_days: Annotated[float, Field(ge=0, le=3650, allow_inf_nan=False)] = 7.0

    @property
    def baseline_s(self) -> float:
        """`baseline` in seconds."""
        return seconds_of(self.baseline)

    @property
    def refresh_s(self) -> float:
        """`refresh` in seconds, 0 for never. One of earlier versions that is shorter than a baseline can take is longer
        than it says."""
        return max(seconds_of(self.refresh), self.least_refresh_s) if self.refresh else 0.0

    @property
    def silent_after_s(self) -> float:
        """`silent_after` in seconds, 0 for as long as the baseline says."""
        return seconds_of(self.silent_after) if self.silent_after else 0.0

    @property
    def least_refresh_s(self) -> float:
        """The shortest `refresh`, in seconds: a baseline takes up to 30 blocks of time as long as its period."""
        return BASELINES * self.baseline_s


class LabelPolicy(RequestModel):
    """The judging of labels: `check` is a function of the owner's own, `FILE.py:FUNCTION` in DIR/recipes; when empty,
    the task alone judges."""

    check: Annotated[str, Field(max_length=255, pattern=LABEL_CHECK)] = ""


class SamplePolicy(RequestModel):
    """The settings by which samples are shown to the people who label them: no interface holds them, and only the
    labelling page reads them.

    `sound`: the inputs that are sound, each with its values per second, so that they can be played. `boxes`: what the
    numbers of a detection's boxes are, `pixels` of the picture or `share` of its width and height; when empty, what
    devices have answered tells.
    """

    sound: Annotated[dict[Key, Annotated[int, Field(ge=3000, le=192_000)]], Field(max_length=8)] = {}
    boxes: Literal["", "pixels", "share"] = ""


class ModelPolicy(RequestModel):
    """The work that the hub does for a model by itself."""

    drift: DriftPolicy = DriftPolicy()
    labels: LabelPolicy = LabelPolicy()
    samples: SamplePolicy = SamplePolicy()

    @field_validator("drift")
    @classmethod
    def _refresh_is_longer_than_a_baseline(cls, drift: DriftPolicy) -> DriftPolicy:
        if drift.refresh and seconds_of(drift.refresh) < drift.least_refresh_s:
            least = f"{BASELINES} times baseline ({drift.baseline}) at least: {drift.least_refresh_s:.0f}s"
            raise ValueError(f"refresh is {drift.refresh}, must be {least}, or empty for never")
        return drift

    def document(self) -> dict[str, JsonValue]:
        """Return the fields that were given, as they are stored."""
        return self.model_dump(mode="json", exclude_unset=True)


class PolicyInfo(ResponseModel):
    """A model's policy as it holds, defaults included. What earlier versions took in beside it is shown as it was."""

    model_config = ConfigDict(extra="allow", frozen=True)

    drift: Annotated[DriftPolicy | Document, Field(union_mode="left_to_right")] = DriftPolicy()
    labels: Annotated[LabelPolicy | Document, Field(union_mode="left_to_right")] = LabelPolicy()
    samples: Annotated[SamplePolicy | Document, Field(union_mode="left_to_right")] = SamplePolicy()


class NewModel(RequestModel):
    """A model; `recipe` trains it."""

    name: Name
    recipe: Key = ""
    policy: ModelPolicy = ModelPolicy()


class ModelChanges(RequestModel):
    """The fields that `PATCH` may change; one that is null or left out stays, an empty `recipe` removes it.

    `min_release` raises the floor, `policy` is merged by its first level. `interface_from`: the release whose interface
    holds from now on, where releases disagree.
    """

    recipe: Key | None = None
    policy: ModelPolicy = ModelPolicy()
    min_release: ReleaseNumber | None = None
    interface_from: ReleaseNumber | None = None


class ModelInfo(ResponseModel):
    """A model. `releases` maps a status to the numbers of the releases that have it.

    `disputed` are releases that disagree on the interface: nothing is published before one is chosen. `interface_from`
    is the one that was.
    """

    name: str
    recipe: str = ""
    next_release: int = 1
    min_release: int = 1
    sketch_id: str = ""
    policy: PolicyInfo = PolicyInfo()
    created_at: float
    releases: dict[str, list[int]] = {}
    disputed: list[int] = []
    interface_from: int | None = None


class ModelInterface(ResponseModel):
    """The interface that every release of a model keeps, and the release that fixes it; `task` is in words.

    `preprocess` are the kinds of steps before the model, each with the tensors it takes; their fitted constants belong
    to the release.
    """

    release: int
    inputs: list[Annotated[Tensor, Wire(Tensor)]]
    outputs: list[Annotated[Tensor, Wire(Tensor)]]
    labels: list[str] = []
    sketch_id: str = ""
    task: str = ""
    preprocess: list[str] = []


class ShareOfRight(ResponseModel):
    """A share of right answers with its 95 % interval, in [0, 1]: of `samples` labelled ones from `hours` hours, each
    of one device."""

    share: float
    low: float
    high: float
    samples: int
    hours: int


class AnswersByLabels(ResponseModel):
    """The accuracy of a release's answers by people's labels, and the benefit of deferring to the cloud.

    `device` is of randomly drawn samples. `asked_device` and `asked_cloud` are of those that the cloud answered, too:
    `compared` ones, of which `only_device` and `only_cloud` were answered right by one alone. Null where there are too
    few. `verdict` is of the cloud's answers against the device's, `reason` says it in words.
    """

    release: int
    device: ShareOfRight | None = None
    asked_device: ShareOfRight | None = None
    asked_cloud: ShareOfRight | None = None
    compared: int = 0
    only_device: int = 0
    only_cloud: int = 0
    verdict: Literal["better", "worse", "not enough evidence"] = "not enough evidence"
    reason: str = ""


class ModelDetail(ModelInfo):
    """A model with its interface, null until a release fixes it, and how right its default releases' answers are by
    labels; empty where the task is no classification."""

    interface: ModelInterface | None = None
    answers: list[AnswersByLabels] = []


class ModelPage(Page[ModelInfo]):
    """All models by name."""
