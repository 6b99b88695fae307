"""The hub's configuration: `DIR/hub.toml`, overridden by `EDGELOOP_HUB_…` variables. Read here and nowhere else.

Nested values use two underscores: `EDGELOOP_HUB_BROKER__PORT=1883`. An unknown key is refused by name.
"""

from __future__ import annotations

import os
import shutil
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cloud_hub.addresses import Addresses, check_hostname, resolve
from cloud_hub.addresses import is_loopback as is_loopback
from cloud_hub.errors import InvalidError, NotFoundError, UsageError
from cloud_hub.event_settings import EventsConfig
from fleet.console import cleaned, read_text
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
        return self.mosquitto or shutil.which(
            "mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
        )

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
    """How long signed metadata holds, in days, and how often the timestamp is signed anew.

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
    """How often the engines look, in seconds."""

    rollout_tick_s: float = 1.0
    drift_tick_s: float = 5.0


class TelemetryConfig(Section):
    """How many days telemetry is kept: windows as devices sent them, then their sums by hour, then by day; reports, and
    from a rollout's end on what it has drawn of windows and labels.

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
    """What the dashboard reckons the cloud's part with, in `currency`; what has no price is not shown."""

    currency: Annotated[str, Field(max_length=8)] = ""
    per_1000_calls: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None
    per_gigabyte: Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)] | None = None


class HubConfig(BaseSettings):
    """Everything that can be set. `directory` is the hub's DIR; empty URLs mean files inside it."""

    model_config = SettingsConfigDict(
        env_prefix="EDGELOOP_HUB_", env_nested_delimiter="__", extra="forbid", frozen=True, env_ignore_empty=True
    )

    directory: Path
    database: str = ""
    objects: str = ""
    journal: str = ""  # where the journal of what was forbidden lies: a directory or an s3:// URL
    host: str = "127.0.0.1"  # HTTP listens here
    port: Port = 8080
    connect_url: str = ""  # how programs on this machine reach the hub
    advertise_url: str = ""  # how everybody else does
    public_url: str = ""  # the name that 0.1 had for `advertise_url`
    tls: bool = True
    hostnames: tuple[str, ...] = ()  # names and addresses of this hub; the first is told to devices
    release_key: Literal["held", "external"] = "held"
    device_certificate_days: float = 90
    offline_after_s: float = 150.0  # 2.5 heartbeats
    log_format: Literal["text", "json"] = "text"  # json: each line of the log is a JSON document
    broker: BrokerConfig = BrokerConfig()
    limits: LimitsConfig = LimitsConfig()
    expiry: ExpiryConfig = ExpiryConfig()
    engines: EnginesConfig = EnginesConfig()
    telemetry: TelemetryConfig = TelemetryConfig()
    inference: InferenceConfig = InferenceConfig()
    worker: WorkerConfig = WorkerConfig()
    events: EventsConfig = EventsConfig()
    prices: PricesConfig = PricesConfig()

    @field_validator("connect_url", "advertise_url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        if not url:
            return url
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("an address such as https://hub.example:8080")
        _host(parts.hostname)
        _ = parts.port  # ValueError: none, or out of range
        return url.rstrip("/")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Command line over environment over file; `build` hands the first in as `overrides`."""
        assert isinstance(init_settings, InitSettingsSource)
        document = dict(init_settings.init_kwargs)
        command_line = document.pop("overrides", {})
        if isinstance(env_settings, EnvSettingsSource):
            found = env_settings.env_vars
            env_settings.env_vars = {name: value and cleaned(value) for name, value in found.items()}
        return (
            InitSettingsSource(settings_cls, command_line),
            env_settings,
            InitSettingsSource(settings_cls, document),
        )

    @property
    def database_url(self) -> str:
        """SQLAlchemy URL of the database."""
        return self.database or f"sqlite:///{self.directory / 'hub.db'}"

    @property
    def objects_url(self) -> str:
        """A directory, or an `s3://` URL."""
        return self.objects or str(self.directory / "objects")

    @property
    def journal_url(self) -> str:
        """A directory, or an `s3://` URL: by default beside the objects in S3, and in the hub's directory else."""
        return self.journal or (self.objects if "://" in self.objects else str(self.directory))

    @property
    def keys_dir(self) -> Path:
        """Online keys and certificates (0700)."""
        return self.directory / "keys"

    @property
    def temporary_dir(self) -> Path:
        """Where uploads are gathered before they are verified."""
        return self.directory / "tmp"

    @property
    def ca_file(self) -> Path:
        """The hub CA's certificate, PEM."""
        return self.keys_dir / "ca.pem"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the HTTP server and of a broker that the hub starts, PEM."""
        return self.keys_dir / "server.pem"

    @property
    def server_key(self) -> Path:
        """Key of `server_certificate`, PEM."""
        return self.keys_dir / "server.key"

    @property
    def client_certificate(self) -> Path:
        """The hub's own MQTT client certificate (common name `identity.ca.HUB_IDENTITY`), PEM."""
        return self.keys_dir / "hub-client.pem"

    @property
    def client_key(self) -> Path:
        """Key of `client_certificate`, PEM."""
        return self.keys_dir / "hub-client.key"

    @property
    def addresses(self) -> Addresses:
        """Where HTTP and the broker listen, where the hub connects, and what devices are told."""
        return resolve(self)

    @classmethod
    def load(cls, directory: Path, **overrides: Any) -> HubConfig:
        """Read `directory/hub.toml` and the environment; `overrides` (command line) win over both.

        Raises:
            NotFoundError: there is no hub in `directory`.
            InvalidError: an unknown key or a wrong value, with its name.
        """
        path = directory / "hub.toml"
        try:
            document = tomllib.loads(read_text(path))
        except FileNotFoundError:
            raise NotFoundError(
                f"no hub in {directory}", subject=str(path), hint=f"run: cloud-hub init {directory} --offline-keys DIR2"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            why = f"{path} is not valid TOML: {error}"
            raise InvalidError(why, subject=str(path), hint="correct the file, or restore it from a backup") from error
        return cls.build(directory, document, **overrides)

    @classmethod
    def build(cls, directory: Path, document: dict[str, Any], **overrides: Any) -> HubConfig:
        """A configuration from a document of `hub.toml`, without reading the file."""
        try:
            config = cls(**{**document, "overrides": {**overrides, "directory": directory.resolve()}})
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InvalidError(
                f"configuration: {where}: {first['msg']}", subject=where, hint=f"see {directory / 'hub.toml'}"
            ) from error
        return config


def _host(host: str) -> str:
    """An empty text, or the name of a host as certificates have it; ValueError with the reason."""
    try:
        return check_hostname(host) if host else ""
    except UsageError as error:
        raise ValueError(f"{error}; {error.hint}") from error


def read_passphrase(file: Path | None) -> bytes | None:
    """The offline keys' passphrase: first line of `file`, else EDGELOOP_PASSPHRASE, else None.

    Raises:
        InvalidError: the file cannot be read, is not text in UTF-8, or its first line is empty.
    """
    if file is not None:
        try:
            text = file.read_bytes().decode().splitlines()
        except OSError as error:
            raise InvalidError(f"cannot read the passphrase: {error}", subject=str(file)) from error
        except UnicodeDecodeError as error:
            hint = "write the passphrase into its first line, in UTF-8; a key file is no passphrase"
            raise InvalidError(f"the passphrase file {file} is not text", subject=str(file), hint=hint) from error
        if not text or not text[0]:
            raise InvalidError("the passphrase file is empty", subject=str(file))
        return text[0].encode()
    value = os.environ.get("EDGELOOP_PASSPHRASE")
    return value.encode() if value else None
