"""Every table of the hub. Times are Unix seconds (float, UTC); JSON columns hold plain documents.

Rows are validated by the code that writes them, not by these classes: SQLModel tables do not check. Reports of devices
have their tables in `reported`, drift in `drift`, events out in `events`; whole numbers have 64 bits in every table.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, LargeBinary, Text
from sqlmodel import Field, SQLModel

from cloud_hub.store.async_requests import AsyncRequest as AsyncRequest
from cloud_hub.store.drift import Alarm as Alarm
from cloud_hub.store.drift import AlarmResponse as AlarmResponse
from cloud_hub.store.drift import DriftMonitor as DriftMonitor
from cloud_hub.store.drift import DriftScope as DriftScope
from cloud_hub.store.drift import DriftStream as DriftStream
from cloud_hub.store.drift import DriftTrouble as DriftTrouble
from cloud_hub.store.drift import InputMonitor as InputMonitor
from cloud_hub.store.drift import InputWatch as InputWatch
from cloud_hub.store.drift import MeaningMonitor as MeaningMonitor
from cloud_hub.store.events import EventDelivery as EventDelivery
from cloud_hub.store.events import EventRow as EventRow
from cloud_hub.store.hubs import CallerUse as CallerUse
from cloud_hub.store.hubs import Lease as Lease
from cloud_hub.store.reported import DeviceChange as DeviceChange
from cloud_hub.store.reported import DeviceEvent as DeviceEvent
from cloud_hub.store.reported import DeviceModel as DeviceModel
from cloud_hub.store.reported import MeasuredRow as MeasuredRow
from cloud_hub.store.reported import PairEvidence as PairEvidence
from cloud_hub.store.reported import PairInput as PairInput
from cloud_hub.store.reported import PairShared as PairShared
from cloud_hub.store.reported import RolloutLabel as RolloutLabel
from cloud_hub.store.reported import RolloutSignals as RolloutSignals
from cloud_hub.store.reported import SetAside as SetAside
from cloud_hub.store.reported import ShadowEvidence as ShadowEvidence
from cloud_hub.store.reported import SpoolCursor as SpoolCursor
from cloud_hub.store.reported import Traffic as Traffic
from cloud_hub.store.reported import VitalsHourRow as VitalsHourRow
from cloud_hub.store.reported import WindowRow as WindowRow
from cloud_hub.store.reported import WindowSum as WindowSum
from cloud_hub.store.sent_forms import SentForm as SentForm
from cloud_hub.store.types import Json, some_rows, widen
from cloud_hub.store.types import json_field as _json

SEEN = ("cloned_at", "slowed_at")  # what the hub itself has seen of a device's connections
_WAS = "instr(sessions, '\"%s\"') > 0", "sessions ~ '\"%s\"'"  # of which PostgreSQL knows how few they are
# A sample's label that says something of a release: drawn at random, and there.
DRAWN_LABEL = "reason = 'random' AND label IS NOT NULL AND deleted_at IS NULL"


class Setting(SQLModel, table=True):
    """One value that the hub itself keeps, such as its id or a counter."""

    key: str = Field(primary_key=True)
    value: str


class Token(SQLModel, table=True):
    """A credential; only its hash is kept. `kind`: claim, operator, application or mirror.

    `role` (operator): viewer, operator, admin. `scope` (application): `infer:NAME` or `infer:*`.
    A claim token is used once: `device_id` and `key_fingerprint` bind it.
    """

    id: str = Field(primary_key=True)
    kind: str
    secret_hash: str
    note: str = ""
    role: str = ""
    scope: str = ""
    rate_per_s: float = 0.0
    channel: str = ""
    labels: dict[str, str] = _json(dict)
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    device_id: str = ""
    key_fingerprint: str = ""


class AuditEntry(SQLModel, table=True):
    """One action, with its actor and its subject. `actor` is `operator:<token id>`, `device:<id>`, `guard`,
    `job:<id>`, …"""

    __table_args__ = (
        Index("ix_auditentry_subject_id", "subject", "id"),
        Index("ix_auditentry_actor_id", "actor", "id"),
        Index("ix_auditentry_action_id", "action", "id"),
    )

    id: int | None = Field(default=None, primary_key=True)
    at: float = Field(index=True)
    actor: str
    action: str
    subject: str
    detail: dict[str, Any] = _json(dict)


class Device(SQLModel, table=True):
    """One agent installation. `pins` maps model to release; `set_aside` counts the messages of it that were;
    `sessions` is what `ingest.clones` remembers of its connections, `quiet_…` what `store.quiet` does of its silences.
    `problem` is the word that `info` has for what is wrong, by which ill devices are found; `vitals` are those of its
    last heartbeat with the moment `at` which the hub received it, empty without any, and `vitals_hour` those of its
    hour so far (`ingest.vitals`).
    """

    __table_args__ = (
        Index("ix_device_channel_id", "channel", "id"),
        Index("ix_device_certificate", "certificate_expires_at"),
        some_rows("ix_device_problem", ("problem", "id"), "problem != ''"),
        some_rows("ix_device_set_aside", ("id",), "set_aside > 0"),
        *(some_rows(f"ix_device_{word}", ("id",), _WAS[0] % word, postgres=_WAS[1] % word) for word in SEEN),
    )

    id: str = Field(primary_key=True)
    public_key: str = Field(sa_column=Column(Text, nullable=False))
    key_fingerprint: str = Field(index=True)
    certificate: str = Field(sa_column=Column(Text, nullable=False))
    certificate_serial: str
    certificate_expires_at: float
    mqtt_password: str = ""
    channel: str
    labels: dict[str, str] = _json(dict)
    pins: dict[str, int] = _json(dict)
    info: dict[str, Any] = _json(dict)
    problem: str = Field(default="", sa_column_kwargs={"server_default": ""})
    enrolled_at: float
    revoked_at: float | None = None
    online: bool = False
    session: str = ""
    last_seen_at: float | None = None
    command_counter: int = 0
    set_aside: int = 0
    sessions: dict[str, Any] = _json(dict)
    quiet_s: float = 0.0
    quiet_before_s: float = 0.0
    quiet_since: float = 0.0
    vitals: dict[str, Any] = Field(default_factory=dict, sa_column=Column(Json, nullable=False, server_default="{}"))
    vitals_hour: dict[str, Any] = Field(
        default_factory=dict, sa_column=Column(Json, nullable=False, server_default="{}")
    )


class CertificateRow(SQLModel, table=True):
    """Every certificate that a device got: revoking the device revokes all of them that have not expired.

    `state`: current, pending (its key has not been used yet) or replaced. `serial` is hexadecimal.
    """

    __tablename__ = "certificate"

    serial: str = Field(primary_key=True)
    device_id: str = Field(index=True, foreign_key="device.id")
    state: str
    public_key: str = Field(sa_column=Column(Text, nullable=False))
    certificate: str = Field(sa_column=Column(Text, nullable=False))
    issued_at: float
    expires_at: float


class OutboxCommand(SQLModel, table=True):
    """A command on its way to a device: written by any process, sent by the one that holds the broker."""

    id: str = Field(primary_key=True)
    device_id: str = Field(index=True, foreign_key="device.id")
    kind: str
    args: dict[str, Any] = _json(dict)
    created_at: float
    created_by: str = ""
    expires_at: float
    sent_at: float | None = Field(default=None, index=True)


class Model(SQLModel, table=True):
    """A name that applications ask for. `policy` holds retrain, gate and drift settings.

    `interface_from` is the release whose interface the operator has chosen, where releases of a hub of 0.1 disagreed.
    """

    name: str = Field(primary_key=True)
    recipe: str = ""
    next_release: int = 1
    min_release: int = 1
    interface_from: int | None = None
    sketch_id: str = ""
    policy: dict[str, Any] = _json(dict)
    created_at: float


class Release(SQLModel, table=True):
    """One immutable release. `status`: reserved, awaiting-signature, published, withdrawn."""

    model: str = Field(primary_key=True, foreign_key="model.name")
    number: int = Field(primary_key=True)
    status: str
    manifest: bytes = Field(default=b"", sa_column=Column(LargeBinary, nullable=False))
    note: str = ""
    created_at: float
    published_at: float | None = None
    created_by: str = ""


class Metadata(SQLModel, table=True):
    """The signed bytes of every TUF metadata version, for ever. No version has two bodies."""

    role: str = Field(primary_key=True)
    version: int = Field(primary_key=True)
    body: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    created_at: float


class ChannelRow(SQLModel, table=True):
    """A channel's current document (canonical JSON of `channel.Channel`).

    `usual_schedule` is a document of `fleet.rollouts.usual`, which devices have no use for; None: nothing is usual.
    """

    __tablename__ = "channel"

    name: str = Field(primary_key=True)
    version: int
    document: bytes = Field(sa_column=Column(LargeBinary, nullable=False))
    spread_s: int = 0
    notified_version: int = 0
    updated_at: float
    usual_schedule: dict[str, Any] | None = Field(default=None, sa_column=Column(Json, nullable=True))


class RolloutRow(SQLModel, table=True):
    """A staged rollout: the plan, where it stands, and (once it ended) why; `ended_at` is set when it has.

    `plan` and `progress` are documents of `fleet.rollouts`; `state` is its machine's state.
    """

    __tablename__ = "rollout"
    __table_args__ = (
        # The database's own word on it, whatever process or release of the hub writes: one live rollout per channel
        # and model.
        some_rows("ux_rollout_live", ("channel", "model"), "ended_at IS NULL", unique=True),
    )

    id: str = Field(primary_key=True)
    model: str = Field(index=True)
    channel: str
    release: int
    from_release: int
    state: str = Field(index=True)
    attempt: int = 1
    salt: str
    plan: dict[str, Any] = _json(dict)
    progress: dict[str, Any] = _json(dict)
    reason: str = ""
    created_at: float
    created_by: str = ""
    updated_at: float
    ended_at: float | None = None


class UsedSalt(SQLModel, table=True):
    """Salts are never used twice."""

    salt: str = Field(primary_key=True)


class RolloutEvent(SQLModel, table=True):
    """One step in a rollout's life, in words."""

    id: int | None = Field(default=None, primary_key=True)
    rollout: str = Field(index=True)
    at: float
    event: str
    detail: dict[str, Any] = _json(dict)


class SampleRow(SQLModel, table=True):
    """The index of a sample; its arrays are in the Parquet partition `path`. Labels outrank the auditor.

    `label` is what the model's task keeps of a label, such as a class number, as canonical JSON; null without one.
    """

    __tablename__ = "sample"
    __table_args__ = (
        # Those that count as evidence, in the order of their labels; and the time of the last label.
        some_rows("ix_sample_drawn_label", ("model", "labelled_at", "id"), DRAWN_LABEL),
        some_rows("ix_sample_labelled_at", ("labelled_at",), "labelled_at IS NOT NULL"),
    )

    id: str = Field(primary_key=True)
    model: str = Field(index=True)
    device_id: str = Field(index=True)
    release: int
    variant: str
    reason: str
    at: float
    received_at: float = Field(index=True)
    confidence: float
    prediction: int
    cloud_prediction: int | None = None
    label: Any = Field(default=None, sa_column=Column(Json, nullable=True))
    labelled_by: str = ""
    labelled_at: float | None = None
    path: str
    deleted_at: float | None = None


class Snapshot(SQLModel, table=True):
    """An immutable dataset, named by the hash of its content."""

    id: str = Field(primary_key=True)
    model: str = Field(index=True)
    path: str
    samples: int
    labelled: int
    size_bytes: int
    created_at: float
    created_by: str = ""


class Job(SQLModel, table=True):
    """A persistent piece of long work, claimed by a worker under a lease.

    `state`: queued, running, succeeded, failed, cancelled. `step` and `progress` say where it is.
    """

    __table_args__ = (Index("ix_job_model_id", "model", "id"),)

    id: str = Field(primary_key=True)
    kind: str
    model: str = ""
    payload: dict[str, Any] = _json(dict)
    state: str = Field(index=True)
    step: str = ""
    progress: float = 0.0
    result: dict[str, Any] = _json(dict)
    error: str = ""
    attempt: int = 0
    max_attempts: int = 3
    owner: str = ""
    lease_until: float = 0.0
    cancel_requested: bool = False
    created_at: float
    created_by: str = ""
    started_at: float | None = None
    ended_at: float | None = None


widen(SQLModel.metadata)
