"""Making a hub (`init`) and opening one (`serve`, `worker`, …): the wiring that all processes share."""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine
from sqlmodel import Session

from cloud_hub import ports
from cloud_hub.addresses import check_hostname
from cloud_hub.clock import clock_of
from cloud_hub.config import HubConfig
from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, ForbiddenError, InvalidError, NotFoundError
from cloud_hub.identity.ca import Authority, create_authority
from cloud_hub.identity.device_tokens import DeviceTokens
from cloud_hub.identity.keyless import NoAuthority, NoCommandKey
from cloud_hub.identity.own import read_authority
from cloud_hub.identity.tokens import Grant, create_token
from cloud_hub.journal import Journal
from cloud_hub.monitoring.board import StatusBoard
from cloud_hub.objects import open_objects
from cloud_hub.opening.cleanup import all_or_nothing, emptied_again
from cloud_hub.opening.lock import hub_lock
from cloud_hub.ports import Clock, Objects
from cloud_hub.store.engine import make_engine
from cloud_hub.store.migrate import behind, strange, upgrade
from cloud_hub.store.words import check_is_there, spoken
from cloud_hub.trust import ceremony, keys
from cloud_hub.trust.publisher import TufPublisher
from cloud_hub.trust.rows import latest_metadata
from cloud_hub.trust.transaction import Signers

REPOSITORY = "tuf"  # where METADATA and TARGETS lie in the object store


@dataclass(frozen=True)
class Initialised:
    """The results of `init`; `admin_token` is shown once and stored nowhere."""

    hub: Hub
    admin_token: str


def initialise(config: HubConfig, offline: Path, passphrase: bytes, *, clock: Clock = time.time) -> Initialised:
    """Make a hub in `config.directory` with its offline keys in `offline`; when it fails, nothing stays behind.

    Raises:
        UsageError: a name in `config.hostnames` cannot be one.
        ConflictError: there is a hub in the directory, the database or the object store already.
        ForbiddenError: the offline keys would lie inside the hub's directory.
        UnreachableError: database or object store does not answer.
        OSError: a directory cannot be written.
    """
    for name in config.hostnames:
        check_hostname(name)
    check_offline(config.directory, offline)
    _check_unused(config, offline)
    with all_or_nothing(config.directory, offline), hub_lock(config.directory, "init"):
        return _make(config, offline, passphrase, clock)


def _check_unused(config: HubConfig, offline: Path) -> None:
    directory = config.directory
    if (directory / "hub.toml").exists():
        raise ConflictError(f"{directory} holds a hub already", subject=str(directory), hint="choose another directory")
    if config.keys_dir.exists():  # hub.toml is written last
        raise ConflictError(
            f"{directory} holds half a hub: an `init` was broken off there",
            subject=str(directory),
            hint=f"remove {config.keys_dir} and the offline keys that it made, or choose another directory",
        )
    if any((offline / f"{name}.pem").exists() for name in keys.OFFLINE):
        raise ConflictError(f"{offline} holds keys already", subject=str(offline), hint="choose an empty directory")


def _make(config: HubConfig, offline: Path, passphrase: bytes, clock: Clock) -> Initialised:
    config.directory.chmod(0o750)
    engine = _empty_database(config)  # first, since it fails most often; keys are made when it is there
    objects = _empty_objects(config)
    with emptied_again(objects, REPOSITORY):
        config.keys_dir.mkdir(mode=0o700)
        made = ceremony.make_keys(config.keys_dir, offline, passphrase, release_held=config.release_key == "held")
        _write_identity(config, clock())
        publisher = _publisher(config, engine, objects, _signers(config), clock, _journal(config, clock))
        ceremony.create_repository(publisher.transactions, made)
        engine.dispose()
        hub = open_hub(config, clock=clock)
        with hub.session() as session:
            token = create_token(session, Grant(kind="operator", role="admin", note="first admin"), now=clock())
            hub.audit(session, "init", "hub.init", "hub")
        keys.write_private(config.directory / "hub.toml", _toml(config).encode())
    return Initialised(hub, token.text)


def open_hub(config: HubConfig, *, clock: Clock | None = None) -> Hub:
    """The hub of an initialised directory. The database must be at the newest migration, and gives the time.

    Raises:
        NotFoundError: a file of the hub's keys is missing.
        InvalidError: one is damaged.
    """
    _check_made(config)
    signers, command_key = _signers(config), keys.CommandKey(keys.load_held(config.keys_dir, "command"))
    return _opened(config, clock, signers, read_authority(config), command_key)


def open_instance(config: HubConfig) -> Hub:
    """The hub as an instance for inference opens it: it reads no key that signs or certifies.

    Of the files in `keys/` it needs `token-secret`, by which it knows devices, and the authority's certificate.

    Raises:
        NotFoundError: one of them is missing.
        InvalidError: the secret is damaged.
    """
    _check_made(config)
    certificate = keys.read_held(config.keys_dir, config.ca_file.name)
    return _opened(config, None, {}, NoAuthority(certificate), NoCommandKey())


def _check_made(config: HubConfig) -> None:
    if not config.keys_dir.is_dir():
        raise NotFoundError(f"no hub in {config.directory}", subject=str(config.directory), hint="run: cloud-hub init")
    config.temporary_dir.mkdir(exist_ok=True, mode=0o700)


def _opened(
    config: HubConfig, clock: Clock | None, signers: Signers, authority: ports.Authority, command_key: ports.CommandKey
) -> Hub:
    engine = make_engine(config.database_url)
    clock = clock or clock_of(engine)
    objects = open_objects(config.objects_url)
    journal = _journal(config, clock)
    return Hub(
        config=config,
        engine=engine,
        objects=objects,
        publisher=_publisher(config, engine, objects, signers, clock, journal),
        authority=authority,
        device_tokens=DeviceTokens(keys.read_secret(config.keys_dir)),
        command_key=command_key,
        clock=clock,
        board=StatusBoard(),
        journal=journal,
    )


def open_publisher(config: HubConfig, *, clock: Clock | None = None) -> TufPublisher:
    """The publisher alone, for ceremonies."""
    engine = make_engine(config.database_url)
    clock = clock or clock_of(engine)
    journal = _journal(config, clock)
    return _publisher(config, engine, open_objects(config.objects_url), _signers(config), clock, journal)


def _journal(config: HubConfig, clock: Clock) -> Journal:
    return Journal(open_objects(config.journal_url), clock)


def _publisher(
    config: HubConfig, engine: Engine, objects: Objects, signers: Signers, clock: Clock, journal: Journal
) -> TufPublisher:
    return TufPublisher(engine, objects, signers, clock=clock, expiry=config.expiry, journal=journal)


def open_database(config: HubConfig) -> None:
    """Bring the hub's database to the newest migration, and see that a hub was made in it.

    Raises:
        NotFoundError: its file is missing or empty. InvalidError: it is damaged, of a newer version, or no hub's.
        UnreachableError: it does not answer.
    """
    check_is_there(config.database_url)
    engine = make_engine(config.database_url)
    try:
        with spoken():
            upgrade(engine)
            with Session(engine) as session:
                roles = latest_metadata(session)
    finally:
        engine.dispose()
    if "root" not in roles:
        hint = "does `database` in hub.toml name the right one? otherwise restore it from a backup"
        raise InvalidError("the database has no hub in it", subject="database", hint=hint)


def check_database(config: HubConfig) -> None:
    """See that the hub's database is at the newest migration, and change nothing.

    Raises:
        ConflictError: it is not, or was never made one of a hub. InvalidError: it is damaged, or of a newer version.
        UnreachableError: it does not answer.
    """
    check_is_there(config.database_url)
    engine = make_engine(config.database_url)
    try:
        with spoken():
            missing = behind(engine)
            newer = strange(engine) if missing else ""
    finally:
        engine.dispose()
    if newer:
        what = f"the database is of a newer version: this program knows no migration {newer}"
        raise InvalidError(what, subject="database", hint="run the version of Edgeloop that the hubs run")
    if missing:
        hint = "start or upgrade the hub first: cloud-hub serve, which migrates it"
        raise ConflictError("the database is not at the version of this program", subject="database", hint=hint)


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


def _empty_database(config: HubConfig) -> Engine:
    engine = make_engine(config.database_url)
    with spoken():
        upgrade(engine)
        with Session(engine) as session:
            roles = latest_metadata(session)
    if not config.database:
        (config.directory / "hub.db").chmod(0o600)
    if roles:
        hint = "give an empty one: --database URL"
        raise ConflictError("the database belongs to another hub", subject="database", hint=hint)
    return engine


def _empty_objects(config: HubConfig) -> Objects:
    objects = open_objects(config.objects_url)
    if next(iter(objects.list(REPOSITORY)), None) is not None:
        raise ConflictError(
            f"the object store {config.objects_url} holds another hub's repository",
            subject="objects",
            hint="give an unused place: --objects s3://bucket/prefix",
        )
    return objects


def _signers(config: HubConfig) -> Signers:
    return {role: [one] for role, one in keys.signers_by_role(keys.load_online(config.keys_dir)).items()}


def _write_identity(config: HubConfig, now: float) -> None:
    ca = create_authority(now)
    authority = Authority(ca)
    server, client = authority.server(config.addresses.names, now), authority.hub_client(now)
    files = {
        "ca.key": ca.key,
        "ca.pem": ca.certificate,
        config.server_key.name: server.key,
        config.server_certificate.name: server.certificate,
        config.client_key.name: client.key,
        config.client_certificate.name: client.certificate,
        keys.TOKEN_SECRET: secrets.token_bytes(keys.SECRET_BYTES),
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
    # A basic string of TOML is one of JSON, whose escapes TOML has, too, but for DEL, which JSON leaves as it is.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
