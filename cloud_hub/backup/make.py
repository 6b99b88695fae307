"""`cloud-hub backup`: the hub's state into a folder that has its name only when it is whole."""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from cloud_hub.backup import contents, database, sealed
from cloud_hub.backup.manifest import (
    CONFIG,
    DATABASE,
    FORMAT,
    JOURNAL,
    NAME,
    OBJECTS,
    SEALED,
    Content,
    Manifest,
    encode,
    measured,
    write_content,
)
from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.journal import Journal
from cloud_hub.objects import open_objects
from cloud_hub.ports import Objects
from fleet.durable import sync

log = logging.getLogger(__name__)
Progress = Callable[[str], None]


def make_backup(
    config: HubConfig, target: Path, *, passphrase: bytes | None, now: float, say: Progress = lambda text: None
) -> Manifest:
    """Back the hub up into the new folder `target`, while it runs or not. When it fails, nothing stays behind.

    Args:
        config: the hub's.
        target: a folder that does not exist; outside the hub's directory.
        passphrase: seals the hub's keys into the backup; None leaves them out.
        now: Unix seconds, for the record.
        say: hears what it does, in words.

    Raises:
        ConflictError: `target` exists, or the database is not at this program's migration.
        InvalidError: `target` lies in the hub's directory, or the database is damaged.
        UnreachableError: database or object store does not answer.
    """
    if target.exists():
        hint = "give a folder that is not there yet, such as one named by the day"
        raise ConflictError(f"{target} exists already", subject=str(target), hint=hint)
    if target.resolve().is_relative_to(config.directory):
        hint = "give a folder on another disk"
        raise InvalidError("a backup inside the hub's directory is lost with it", subject=str(target), hint=hint)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    part.mkdir(mode=0o700)
    try:
        manifest = _fill(config, part, passphrase, now, say)
        write_content(part / NAME, iter([encode(manifest)]))
        sync(part / OBJECTS)
        sync(part)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    sync(target.parent)
    return manifest


def _fill(config: HubConfig, part: Path, passphrase: bytes | None, now: float, say: Progress) -> Manifest:
    say("copying the database")
    database.copy_out(config.database_url, part / DATABASE)
    files = {DATABASE: measured(part / DATABASE)}
    files[CONFIG] = write_content(part / CONFIG, iter([(config.directory / CONFIG).read_bytes()]))
    journal = Journal(open_objects(config.journal_url), lambda: now)
    files[JOURNAL] = write_content(part / JOURNAL, journal.copied())
    if passphrase is not None:
        keys = sealed.seal(sealed.read_keys(config.keys_dir), passphrase)
        files[SEALED] = write_content(part / SEALED, iter([keys]))
    (part / OBJECTS).mkdir(mode=0o700)
    objects = open_objects(config.objects_url)
    found, missing = copy_objects(objects, part, say)
    return Manifest(
        format=FORMAT,
        made_at=now,
        version=importlib.metadata.version("edgeloop"),
        revision=database.revision(part / DATABASE),
        database="sqlite" if database.is_sqlite(config.database_url) else "postgresql",
        root=hashlib.sha256(database.first_root(part / DATABASE)).hexdigest(),
        files=files,
        objects=found,
        missing=tuple(missing),
    )


def copy_objects(objects: Objects, part: Path, say: Progress) -> tuple[dict[str, Content], list[str]]:
    """Copy the objects that the database in `part` names; return their content by key, and the keys of required ones
    that are missing."""
    with database.opened(part / DATABASE) as session:
        needed, others = list(contents.wanted(session)), list(contents.welcome(session, objects))
    found: dict[str, Content] = {}
    missing: list[str] = []
    say(f"copying {len(needed)} objects")
    for key in dict.fromkeys([*needed, *others]):
        content = _copy(objects, key, part)
        if content is not None:
            found[key] = content
        elif key in set(needed):
            log.warning("object %s is missing in the hub's store, or damaged", key)
            missing.append(key)
    return found, missing


def _copy(objects: Objects, key: str, part: Path) -> Content | None:
    """Copy one object to the name of its hash; None when it is not there, or a blob that has not its hash."""
    draft = part / OBJECTS / "draft"
    draft.unlink(missing_ok=True)
    try:
        content = write_content(draft, _pieces(objects, key))
    except NotFoundError:
        draft.unlink(missing_ok=True)
        return None
    if key.startswith("blobs/") and key != f"blobs/{content.sha256}":
        draft.unlink()
        return None
    draft.rename(part / OBJECTS / content.sha256)
    return content


def _pieces(objects: Objects, key: str) -> Iterator[bytes]:
    if key.startswith("samples/"):  # it may be written anew meanwhile, so it is read in one step; it is small
        yield objects.get(key).data
    else:
        yield from objects.stream(key)
