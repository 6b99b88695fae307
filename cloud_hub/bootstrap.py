"""Making a hub (`init`) and opening one (`serve`, `worker`, …): the wiring that all processes share."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session

from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, ForbiddenError, NotFoundError
from cloud_hub.identity.ca import Authority, KeyAndCertificate, create_authority, pin
from cloud_hub.identity.device_tokens import DeviceTokens
from cloud_hub.identity.tokens import create_token
from cloud_hub.objects import open_objects
from cloud_hub.ports import Clock
from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import upgrade
from cloud_hub.trust import ceremony, keys
from cloud_hub.trust.publisher import TufPublisher
from cloud_hub.trust.rows import latest_metadata
from cloud_hub.trust.transaction import METADATA, Signers

FIRST_ROOT = METADATA + "1.root.json"


@dataclass(frozen=True)
class Initialised:
    """What `init` made; `admin_token` is shown once and stored nowhere."""

    hub: Hub
    admin_token: str


def initialise(config: HubConfig, offline: Path, passphrase: bytes, *, clock: Clock = time.time) -> Initialised:
    """Make a hub in `config.directory` with its offline keys in `offline`.

    Raises:
        ConflictError: there is a hub in the directory already.
        ForbiddenError: the offline keys would lie inside the hub's directory.
    """
    check_offline(config.directory, offline)
    if (config.directory / "hub.toml").exists() or config.keys_dir.exists():
        raise ConflictError(
            f"{config.directory} holds a hub already", subject=str(config.directory), hint="choose another directory"
        )
    if any((offline / f"{name}.pem").exists() for name in keys.OFFLINE):
        raise ConflictError(f"{offline} holds keys already", subject=str(offline), hint="choose an empty directory")
    config.directory.mkdir(parents=True, exist_ok=True)
    config.directory.chmod(0o750)
    engine = _empty_database(config)  # first, since it fails most often; keys are made when it is there
    config.keys_dir.mkdir(mode=0o700)
    made = ceremony.make_keys(config.keys_dir, offline, passphrase, release_held=config.release_key == "held")
    _write_identity(config, clock())
    objects = open_objects(config.objects_url)
    publisher = TufPublisher(engine, objects, _signers(config), clock=clock, expiry=config.expiry)
    ceremony.create_repository(publisher.transactions, made)
    engine.dispose()
    hub = open_hub(config, clock=clock)
    with hub.session() as session:
        token = create_token(session, "operator", role="admin", note="first admin", now=clock())
        hub.audit(session, "init", "hub.init", "hub")
    keys.write_private(config.directory / "hub.toml", _toml(config).encode())
    return Initialised(hub, token.text)


def open_hub(config: HubConfig, *, clock: Clock = time.time) -> Hub:
    """The hub of an initialised directory. The database must be at the newest migration."""
    if not config.keys_dir.is_dir():
        raise NotFoundError(f"no hub in {config.directory}", subject=str(config.directory), hint="run: cloud-hub init")
    config.temporary_dir.mkdir(exist_ok=True, mode=0o700)
    engine = make_engine(config.database_url)
    objects = open_objects(config.objects_url)
    ca = KeyAndCertificate((config.keys_dir / "ca.key").read_bytes(), config.ca_file.read_bytes())
    return Hub(
        config=config,
        engine=engine,
        objects=objects,
        publisher=TufPublisher(engine, objects, _signers(config), clock=clock, expiry=config.expiry),
        authority=Authority(ca),
        device_tokens=DeviceTokens((config.keys_dir / "token-secret").read_bytes()),
        command_key=keys.CommandKey(keys.load_key(config.keys_dir / "command.pem")),
        clock=clock,
    )


def open_publisher(config: HubConfig, *, clock: Clock = time.time) -> TufPublisher:
    """The publisher alone, for ceremonies."""
    engine = make_engine(config.database_url)
    return TufPublisher(engine, open_objects(config.objects_url), _signers(config), clock=clock, expiry=config.expiry)


def check_offline(directory: Path, offline: Path) -> None:
    """Raise ForbiddenError when the offline keys lie inside the hub's directory."""
    if offline.resolve().is_relative_to(directory.resolve()):
        raise ForbiddenError(
            f"the offline keys ({offline}) must not lie inside the hub's directory {directory}",
            subject=str(offline),
            hint="keep them on another disk, and take that disk away",
        )


def offline_keys_inside(directory: Path) -> Path | None:
    """A root or targets key that lies below `directory`, if there is one."""
    wanted = {f"{name}.pem" for name in keys.OFFLINE}
    for folder in (
        directory,
        *(path for path in directory.glob("*") if path.is_dir() and path.name not in ("objects", "tmp")),
    ):
        for path in folder.glob("*.pem"):
            if path.name in wanted:
                return path
    return None


def claim_pin(hub: Hub) -> str:
    """What claim tokens of this hub pin."""
    return pin(hub.objects.get(FIRST_ROOT).data, hub.authority.ca_pem)


def _empty_database(config: HubConfig) -> Engine:
    engine = make_engine(config.database_url)
    upgrade(engine)
    if not config.database:
        (config.directory / "hub.db").chmod(0o600)
    with Session(engine) as session:
        if latest_metadata(session):
            raise ConflictError(
                "the database belongs to another hub", subject="database", hint="give an empty one: --database URL"
            )
    return engine


def _signers(config: HubConfig) -> Signers:
    return {role: [one] for role, one in keys.signers_by_role(keys.load_online(config.keys_dir)).items()}


def _write_identity(config: HubConfig, now: float) -> None:
    ca = create_authority(now)
    authority = Authority(ca)
    server, client = authority.server(config.hostnames, now), authority.hub_client(now)
    files = {
        "ca.key": ca.key,
        "ca.pem": ca.certificate,
        config.server_key.name: server.key,
        config.server_certificate.name: server.certificate,
        config.client_key.name: client.key,
        config.client_certificate.name: client.certificate,
        "token-secret": secrets.token_bytes(32),
    }
    for name, data in files.items():
        keys.write_private(config.keys_dir / name, data)


def _toml(config: HubConfig) -> str:
    """`hub.toml` with what was chosen at `init`; everything else has its default."""
    chosen = config.model_dump(exclude_defaults=True, exclude={"directory"}, mode="json")
    tables = {key: value for key, value in chosen.items() if isinstance(value, dict)}
    lines = ["# Edgeloop hub. EDGELOOP_HUB_… variables and the command line win over this file."]
    lines += [f"{key} = {_value(value)}" for key, value in chosen.items() if key not in tables]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{key} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
