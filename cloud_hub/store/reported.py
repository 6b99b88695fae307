"""The tables that devices' reports fill. See `tables`, which has the others and is where to import these from."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text, UniqueConstraint
from sqlmodel import Field, SQLModel

from cloud_hub.store.types import json_field as _json
from cloud_hub.store.types import some_rows


class DeviceModel(SQLModel, table=True):
    """The latest report of one model on one device (fields of `messages.ModelReport`)."""

    __table_args__ = (
        some_rows("ix_devicemodel_reason", ("reason", "device_id"), "reason != ''"),
        some_rows("ix_devicemodel_empty", ("device_id", "model"), "active IS NULL"),
        some_rows("ix_devicemodel_serving", ("model", "active", "device_id"), "active IS NOT NULL"),
    )

    device_id: str = Field(primary_key=True, foreign_key="device.id")
    model: str = Field(primary_key=True)
    state: str
    target: int | None = None
    active: int | None = None
    active_variant: str = ""
    previous: int | None = None
    rollout: str = ""
    attempt: int = 0
    channel_version: int = 0
    progress: float = 0.0
    reason: str = ""
    detail: str = ""
    hint: str = ""
    untried: bool = False
    seq: int = 0
    at: float = 0.0


class MeasuredRow(SQLModel, table=True):
    """The latest figures that a device measured of a variant (fields of `messages.Benchmark`); `at` is the device's."""

    __tablename__ = "measured"
    __table_args__ = (Index("ix_measured_model_release", "model", "release"),)

    device_id: str = Field(primary_key=True, foreign_key="device.id")
    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    variant: str = Field(primary_key=True)
    runtime: str = Field(primary_key=True)
    runtime_version: str = ""
    agent: str = ""
    rounds: int
    p50_us: float
    p95_us: float
    load_us: float
    memory_bytes: int = Field(sa_type=BigInteger)
    process_bytes: int = Field(sa_type=BigInteger)
    at: float


class DeviceEvent(SQLModel, table=True):
    """Every report that a device sent, in its order; (device, spool, seq) comes once."""

    __table_args__ = (UniqueConstraint("device_id", "spool", "seq"),)

    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(index=True)
    spool: str
    seq: int
    at: float
    received_at: float
    kind: str
    body: dict[str, Any] = _json(dict)


class SpoolCursor(SQLModel, table=True):
    """The end of a device's spool in the database; `lost` counts numbers its full spool gave up.

    `used_at` is the hub's time of the last record: of a device with too many spools, the longest unused goes.
    """

    device_id: str = Field(primary_key=True)
    spool: str = Field(primary_key=True)
    committed: int = 0
    lost: int = 0
    receipted: int = 0
    used_at: float = 0.0


class SetAside(SQLModel, table=True):
    """A message of a device that could not be taken: why, and its first bytes.

    `reason` is a word of `ingest.aside.Reason`, `detail` a sentence. `leaf` is the topic's, `spool` and `seq` the
    record's number where it could be read. Each device keeps its newest ones only.
    """

    __tablename__ = "set_aside"
    __table_args__ = (Index("ix_set_aside_device_reason", "device_id", "reason"),)

    id: int | None = Field(default=None, primary_key=True)
    device_id: str
    received_at: float
    leaf: str
    spool: str = ""
    seq: int | None = None
    reason: str
    detail: str = Field(sa_column=Column(Text, nullable=False))
    payload: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class PairEvidence(SQLModel, table=True):
    """One device's evidence about a rollout's release, summed over the attempt.

    Paired counts (`telemetry.PairCounts`) are of inputs that are its own, beside how often inputs came again and how
    many pairs told no input. Its word is kept of `claimed` inputs; `own_old` and `own_new` of these are right by one
    release only, as it says, others have met the `checked` ones, too, and say otherwise (`outvoted`) or dispute it
    (`fleet.rollouts.claims`). Of its
    requests it has how many the release itself answered, failed on, and refused though the release before would have
    taken them. `silent_at` is when it first was silent beyond its habit, `reason` why it rolled the release back: both
    stay, whatever it reports later. A device of the control has a row when it was silent.
    """

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    both: int = 0
    only_old: int = 0
    only_new: int = 0
    neither: int = 0
    repeats: int = 0
    unnamed: int = 0
    answered: int = 0
    local_failed: int = 0
    newly_refused: int = 0
    claimed: int = 0
    own_old: int = 0
    own_new: int = 0
    checked: int = 0
    outvoted: int = 0
    disputed: int = 0
    silent_at: float | None = None
    reason: str = ""


class ShadowEvidence(SQLModel, table=True):
    """One device's evidence in a rollout's shadow stage, summed over the attempt (`messages.ShadowCounts`); `agree`
    and `differ` count inputs that are its own, `own_differ` those that differ by its own word; `claimed`, `checked`,
    `outvoted` and `disputed` are as in `PairEvidence`. `reason` is the first one why it compares nothing, and stays."""

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    agree: int = 0
    differ: int = 0
    repeats: int = 0
    non_finite: int = 0
    failed: int = 0
    crashed: int = 0
    dropped: int = 0
    old_us: int = 0
    new_us: int = 0
    claimed: int = 0
    own_differ: int = 0
    checked: int = 0
    outvoted: int = 0
    disputed: int = 0
    reason: str = ""


class RolloutSignals(SQLModel, table=True):
    """The position up to which a rollout's attempt has counted. Of windows, `document` is
    `fleet.rollouts.signals.State`; of labels, the place of the last one, as `rollouts.labelled.LabelPosition`."""

    __tablename__ = "rollout_signals"

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    document: dict[str, Any] = _json(dict)
    updated_at: float


class RolloutLabel(SQLModel, table=True):
    """A labelled sample that a rollout's attempt has drawn: of the `new` release or of the old one, right (`good`) or
    not. It stays so when the sample is labelled again or deleted; `number` counts the draws of the attempt from 0."""

    __tablename__ = "rollout_label"
    __table_args__ = (Index("ix_rollout_label_number", "rollout", "attempt", "number", unique=True),)

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    sample: str = Field(primary_key=True)
    number: int
    new: bool
    device_id: str
    good: bool


class PairInput(SQLModel, table=True):
    """An input that counts in a live rollout's attempt; `key` is `fleet.protocol.pairing`'s as a signed number.

    `claims` are the outcomes that devices claim of it, by device, a few of each outcome at most; none of one that
    was counted before they were kept.
    """

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    key: int = Field(primary_key=True)
    claims: dict[str, str] = _json(dict)


class PairShared(SQLModel, table=True):
    """Inputs of an attempt that several devices have met, by what became of them; see `fleet.rollouts.claims`."""

    __tablename__ = "pair_shared"

    rollout: str = Field(primary_key=True)
    attempt: int = Field(primary_key=True)
    settled: int = 0
    disputed: int = 0
    maybe_old: int = 0
    maybe_new: int = 0


class DeviceChange(SQLModel, table=True):
    """A device of which something changed that rollouts rest on, or which only was `heard` again after a while.

    Triggers of the database write it, `feed` takes it.
    """

    __tablename__ = "device_change"

    id: int | None = Field(default=None, primary_key=True)
    device_id: str
    heard: bool


class WindowRow(SQLModel, table=True):
    """One telemetry window; `body` is the window without its sketch."""

    __tablename__ = "window"
    __table_args__ = (
        UniqueConstraint("device_id", "spool", "seq"),
        Index("ix_window_model_ended", "model", "ended_at"),
        Index("ix_window_model_id", "model", "id"),  # those that came since a monitor has looked
    )

    id: int | None = Field(default=None, primary_key=True)
    device_id: str = Field(index=True)
    spool: str
    seq: int
    model: str
    release: int
    started_at: float
    ended_at: float
    body: dict[str, Any] = _json(dict)
    sketch_id: str = ""
    sketch_count: int = 0
    sketch: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class WindowSum(SQLModel, table=True):
    """The sums of the windows of one device, model and release over an hour or a day (`ingest.summing`).

    `span_s` is 3600 or 86400, `begins` the hour's or day's first second (Unix), `windows` how many are in it; `body` is
    of a window's shape. Windows are in here or in `window`, and never in both.
    """

    __tablename__ = "window_sum"
    __table_args__ = (
        Index("ix_window_sum_model_ended", "model", "ended_at"),
        Index("ix_window_sum_span_begins", "span_s", "begins"),
    )

    device_id: str = Field(primary_key=True)
    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    span_s: int = Field(primary_key=True)
    begins: int = Field(primary_key=True)
    started_at: float
    ended_at: float
    windows: int
    body: dict[str, Any] = _json(dict)
    sketch_id: str = ""
    sketch_count: int = 0
    sketch: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class VitalsHourRow(SQLModel, table=True):
    """The vital signs of a device's machine in an hour that is over (`ingest.vitals.VitalsSum`)."""

    __tablename__ = "vitals_hour"
    __table_args__ = (Index("ix_vitals_hour_begins", "begins"),)  # those that are kept long enough

    device_id: str = Field(primary_key=True)
    begins: int = Field(primary_key=True)
    heartbeats: int
    cpu: float | None = None
    cpu_most: float | None = None
    memory: int | None = None
    memory_free: int | None = None
    disk: int | None = None
    disk_free: int | None = None
    celsius: float | None = None


class Traffic(SQLModel, table=True):
    """The counts of the fleet's windows of one release in an hour, which `begins` at that second (`ingest.traffic`).

    `failed` are the requests that nobody answered, the `refused` ones among them.
    """

    begins: int = Field(primary_key=True)
    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    windows: int = 0
    requests: int = 0
    edge: int = 0
    cloud: int = 0
    audited: int = 0
    failed: int = 0
    refused: int = 0
