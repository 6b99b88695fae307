"""The tables of drift: a release's monitor, its streams, how right its answers are, and alarms. See `tables`."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary
from sqlmodel import Field, SQLModel

from cloud_hub.store.types import json_field as _json


class DriftScope(SQLModel, table=True):
    """The releases of a model that are watched, and the number of devices that each serves: `drift.scope.Scope`."""

    __tablename__ = "drift_scope"

    model: str = Field(primary_key=True)
    document: dict[str, Any] = _json(dict)
    updated_at: float


class DriftMonitor(SQLModel, table=True):
    """The common part of the streams of a release.

    `state`: waiting, baseline, watching, alarmed. `document` is the engine's own, `basis` the coordinates of its
    streams (`drift.basis`); `last_window` is the id of the last window that was counted.
    """

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    sketch_id: str
    state: str
    document: dict[str, Any] = _json(dict)
    last_window: int = 0
    updated_at: float
    basis: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False, server_default=""))


class DriftStream(SQLModel, table=True):
    """A device, a group of devices or the fleet, and the test whether a release's inputs have moved there.

    `kind`: device, group, fleet. `state`: waiting, provisional, steady. `evidence` is a log e-value that raises an
    alarm at `alarm_at`; `distance` how far it has moved by what has come `since`; `alarm` the open alarm that names it,
    or 0. `body` is `drift.streams`'; the other columns are shown from it.
    """

    __table_args__ = (Index("ix_driftstream_model_release_evidence", "model", "release", "evidence"),)

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    state: str
    windows: int = 0
    began_at: float
    last_at: float
    evidence: float = 0.0
    alarm_at: float = 0.0
    distance: float = 0.0
    margin: float | None = None
    since: float | None = None
    alarm: int = 0
    updated_at: float
    body: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))


class MeaningMonitor(SQLModel, table=True):
    """The accuracy of a release, by audits and labels, against its own record.

    `document` is `drift.truth.Watched`; `last_window`, `last_label_at` and `last_label` are the last ones that it has
    counted.

    `document` is `drift.truth.Watched`; `last_window`, `last_label_at` and `last_label` say what it has counted.
    """

    __tablename__ = "meaning"

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    document: dict[str, Any] = _json(dict)
    last_window: int = 0
    last_label_at: float = 0.0
    last_label: str = ""
    updated_at: float


class InputMonitor(SQLModel, table=True):
    """The counts of a release's inputs: `document` is a `drift.input_state.InputMonitorState`.

    `last_window` is the last window that counts in it.
    """

    __tablename__ = "input_monitor"

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    document: dict[str, Any] = _json(dict)
    last_window: int = 0
    updated_at: float


class InputWatch(SQLModel, table=True):
    """The evidence against one device's inputs to a release; `document` is `drift.input_state.DeviceInputs`."""

    __tablename__ = "input_watch"

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    device_id: str = Field(primary_key=True)
    document: dict[str, Any] = _json(dict)
    updated_at: float


class DriftTrouble(SQLModel, table=True):
    """A release whose last look at its drift failed, and how many in a row have, `since` when; `words` say why."""

    __tablename__ = "drift_trouble"

    model: str = Field(primary_key=True)
    release: int = Field(primary_key=True)
    since: float
    looks: int
    words: str


class Alarm(SQLModel, table=True):
    """A drift alarm; `detail` explains it. `status`: open, acknowledged, closed."""

    id: int | None = Field(default=None, primary_key=True)
    model: str = Field(index=True)
    release: int
    at: float
    status: str
    detail: dict[str, Any] = _json(dict)


class AlarmResponse(SQLModel, table=True):
    """The response to an alarm; `state` and `document` are those of `drift.response`.

    `since` is the moment after which samples are of the shift, `deadline` when a retrain starts with few labels;
    null where the policy starts none.
    """

    __tablename__ = "alarm_response"

    alarm: int = Field(primary_key=True)
    model: str = Field(index=True)
    state: str = Field(index=True)
    since: float
    deadline: float | None = None
    job: str = ""
    document: dict[str, Any] = _json(dict)
    updated_at: float
