"""The hub's configuration: `DIR/hub.toml`, overridden by `EDGELOOP_HUB_…` variables. Read here and nowhere else.

Nested values use two underscores: `EDGELOOP_HUB_BROKER__PORT=1883`. An unknown key is refused by name.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from cloud_hub.addresses import Addresses, resolve
from cloud_hub.config_tables import (
    BrokerConfig,
    EnginesConfig,
    ExpiryConfig,
    InferenceConfig,
    LimitsConfig,
    Port,
    PricesConfig,
    TelemetryConfig,
    WorkerConfig,
    _host,
)
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.event_settings import EventsConfig
from cloud_hub.tracing_settings import TracingConfig
from fleet.console import cleaned, read_text


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
    tracing: TracingConfig = TracingConfig()

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
        """The folder in which uploads are gathered before they are verified."""
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
        """The addresses on which HTTP and the broker listen, to which the hub connects, and which devices are told."""
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
