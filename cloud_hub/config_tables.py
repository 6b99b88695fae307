"""The tables of `hub.toml`: what may be set, in which bounds, and what it is when nobody says."""

from __future__ import annotations

import shutil
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from cloud_hub.addresses import check_hostname
from cloud_hub.errors import UsageError
from fleet.protocol.durations import DAY_S

Port = Annotated[int, Field(ge=1, le=65_535)]
Count = Annotated[int, Field(ge=1)]
Devices = Annotated[tuple[Annotated[str, Field(pattern=r"^(cpu|cuda:[0-9]{1,3})$")], ...], Field(min_length=1)]


class Section(BaseModel):
    """A table of `hub.toml`."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class BrokerConfig(Section):
    """The MQTT broker. `auto` is Mosquitto when it is installed, else the embedded broker.

    `tls` None means: on for Mosquitto, off for the embedded broker (which is for loopback only).
    `host` and `port` are where it listens (empty: Mosquitto beside HTTP, the embedded broker on loopback) or where
    an external one is; `connect_…` where the hub connects, `advertise_…` what devices are told. What is empty
    follows from the others as `addresses` says. The files and the login are for an external broker; a broker that
    the hub starts uses the hub's own certificates.
    """

    kind: Literal["auto", "mosquitto", "embedded", "external"] = "auto"
    host: str = ""
    port: Port = 8883
    connect_host: str = ""
    connect_port: Port | None = None
    advertise_host: str = ""
    advertise_port: Port | None = None
    public_host: str = ""  # the name that 0.1 had for `advertise_host`
    tls: bool | None = None
    prefix: str = "edgeloop/v1"
    mosquitto: str = ""  # path of the binary; empty: looked up
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    username: str = ""
    password: str = ""

    @field_validator("connect_host", "advertise_host")
    @classmethod
    def _is_a_host(cls, host: str) -> str:
        return _host(host)

    def binary(self) -> str | None:
        """Mosquitto's path, or None when it is not installed."""
        found = self.mosquitto or shutil.which("mosquitto")
        return found or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

    def resolved(self) -> BrokerConfig:
        """The same with `kind` and `tls` decided."""
        kind = self.kind
        if kind == "auto":
            kind = "mosquitto" if self.binary() else "embedded"
        tls = self.tls if self.tls is not None else kind != "embedded"
        return self.model_copy(update={"kind": kind, "tls": tls})


class LimitsConfig(Section):
    """Sizes in bytes, refused above."""

    body: int = 1 << 20
    samples_body: int = 8 << 20
    infer_body: int = 32 << 20
    blob: int = 2 << 30


class ExpiryConfig(Section):
    """The validity of signed metadata, in days, and the seconds between two signatures of the timestamp.

    A timestamp lasts seven days at most: from its end devices know the time that must have passed.
    """

    timestamp: float = 7
    snapshot: float = 30
    channels: float = 30
    models: float = 365
    targets: float = 365
    root: float = 365
    refresh_s: float = float(DAY_S)
    warn_days: float = 60

    @field_validator("timestamp")
    @classmethod
    def _at_most_a_week(cls, days: float) -> float:
        if not 0 < days <= 7:
            raise ValueError(
                "more than 0 and at most 7 days: devices take it for signed 7 days before its end or later"
            )
        return days


class EnginesConfig(Section):
    """The intervals at which the engines look, in seconds."""

    rollout_tick_s: float = 1.0
    drift_tick_s: float = 5.0


class TelemetryConfig(Section):
    """The number of days that telemetry is kept: windows as devices sent them, then their sums by hour, then by day;
    reports, and from a rollout's end on the windows and labels that it has drawn.

    A window that a drift monitor has not counted yet waits, `uncounted_days` at most.
    """

    windows_days: Annotated[float, Field(ge=1)] = 3
    uncounted_days: Annotated[float, Field(ge=1)] = 14
    hours_days: Annotated[float, Field(ge=1)] = 30
    days_days: Annotated[float, Field(ge=1)] = 400
    reports_days: Annotated[float, Field(ge=1)] = 90
    every_s: Annotated[float, Field(gt=0)] = 60.0


class AsyncConfig(Section):
    """Requests whose answers are fetched later. An instance runs `running` of them at a time, none for longer than
    `deadline_s`; a token may have `pending` without an answer, and `kept` in all; answers are kept for `keep_s`. All of
    them together hold up to `bytes` bytes, those of one token `token_bytes`."""

    running: Count = 4
    pending: Count = 100
    kept: Count = 100_000
    deadline_s: Annotated[float, Field(gt=0)] = 900.0
    keep_s: Annotated[float, Field(ge=60)] = 3600.0
    bytes: Count = 1 << 30
    token_bytes: Count = 256 << 20


class InferenceConfig(Section):
    """Inference in the cloud. `models` stay in memory at a time; a batch joins up to `batch_rows` rows; `queue`
    requests may wait for one model; none waits longer than `deadline_s`.

    `devices` run the models: `cpu`, or `cuda:0` and so on, which need `onnxruntime-gpu`. Up to `callers` verified
    tokens and `releases` are kept in memory. All bodies together hold up to `in_flight` bytes.

    With `grpc_port` the same is answered over gRPC (extra `[grpc]`), up to `grpc_calls` calls at a time; where as many
    messages of `[limits] infer_body` would be more than an eighth of the machine's memory, fewer, at least 8."""

    models: int = 8
    batch_rows: int = 64
    queue: int = 256
    deadline_s: float = 30.0
    devices: Devices = ("cpu",)
    callers: Count = 10_000
    releases: Count = 1_000
    in_flight: Count = 256 << 20
    grpc_port: Port | None = None
    grpc_calls: Count = 1024
    asynchronous: AsyncConfig = AsyncConfig()


class WorkerConfig(Section):
    """`local`: `serve` keeps one job worker beside it; off where `cloud-hub worker` runs elsewhere.

    The others limit what one job's recipe may take, with all the processes that it starts: seconds, bytes of memory
    (by default four fifths of the machine's), bytes in its folder under `DIR/work`; `spare_disk_bytes` stay free there.
    The folder of a job that failed or was cancelled is removed after `keep_s` seconds; its log stays at the hub.

    `ray`: HOST:PORT of a Ray cluster that jobs run on (extra `[ray]`), one of whose nodes this machine is; empty: here.
    There a job reserves `ray_cpus`, `ray_gpus` and, where it is set, `memory_bytes`, and waits up to `ray_wait_s`
    seconds for a node that has them.
    """

    local: bool = True
    wall_s: Annotated[float, Field(gt=0)] = float(DAY_S)
    memory_bytes: Annotated[int, Field(ge=1 << 28)] | None = None
    disk_bytes: Annotated[int, Field(ge=1 << 20)] = 20 << 30
    spare_disk_bytes: Annotated[int, Field(ge=0)] = 256 << 20
    keep_s: Annotated[float, Field(ge=0)] = 7.0 * DAY_S
    ray: str = ""
    ray_cpus: Annotated[float, Field(ge=0)] = 1.0
    ray_gpus: Annotated[float, Field(ge=0)] = 0.0
    ray_wait_s: Annotated[float, Field(ge=0)] = 3600.0


class PricesConfig(Section):
    """The prices by which the dashboard reckons the cloud's part, in `currency`; a part without one is not shown."""

    currency: Annotated[str, Field(max_length=8)] = ""
    per_1000_calls: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    per_gigabyte: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None


def _host(host: str) -> str:
    """An empty text, or the name of a host as certificates have it; ValueError with the reason."""
    try:
        return check_hostname(host) if host else ""
    except UsageError as error:
        raise ValueError(f"{error}; {error.hint}") from error
