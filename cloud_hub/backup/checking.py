"""The checks of a restore before it changes anything: the backup, its configuration, the place, and the keys."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from alembic.script import ScriptDirectory

from cloud_hub.backup import database
from cloud_hub.backup import manifest as backups
from cloud_hub.backup.manifest import CONFIG, DATABASE, Manifest
from cloud_hub.config import HubConfig
from cloud_hub.errors import ConflictError, InvalidError, NotFoundError
from cloud_hub.opening.bootstrap import REPOSITORY
from cloud_hub.ports import Objects
from cloud_hub.store.migrate import alembic_config
from cloud_hub.trust import keys as key_files
from cloud_hub.trust import repository
from cloud_hub.trust.published import proven
from cloud_hub.trust.rows import latest_metadata


def check_backup(folder: Path) -> Manifest:
    """Read the whole backup.

    Raises:
        NotFoundError: it is none. InvalidError: a file is missing or damaged, or it is of a newer version.
    """
    found = backups.read(folder)
    backups.check(folder, found)
    known = {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}
    if found.revision not in known:
        hint = f"restore it with Edgeloop {found.version} or newer"
        raise InvalidError(f"its database has version {found.revision}, which is newer", subject="database", hint=hint)
    if database.revision(folder / DATABASE) != found.revision:
        raise InvalidError("its database has another version than it says", subject="database")
    if hashlib.sha256(database.first_root(folder / DATABASE)).hexdigest() != found.root:
        raise InvalidError("its database belongs to another hub than it says", subject="database")
    return found


def configuration(folder: Path, directory: Path, chosen: Mapping[str, str]) -> tuple[HubConfig, str]:
    """Return the restored hub's configuration and its `hub.toml`: the backup's, where `chosen` changes nothing.

    Raises:
        InvalidError: it is not valid.
    """
    text = (folder / CONFIG).read_text()
    if chosen:
        text = _with_chosen(text, chosen)
    try:
        return HubConfig.build(directory, tomllib.loads(text)), text
    except tomllib.TOMLDecodeError as error:
        raise InvalidError(f"the backup's {CONFIG} is not valid TOML: {error}", subject=CONFIG) from error


def _with_chosen(text: str, chosen: Mapping[str, str]) -> str:
    """`hub.toml` with other values at its top, and everything else as it was written."""
    lines = text.splitlines()
    tables = next((number for number, line in enumerate(lines) if line.lstrip().startswith("[")), len(lines))
    kept = [line for line in lines[:tables] if line.partition("=")[0].strip() not in chosen]
    said = [f"{key} = {json.dumps(value)}" for key, value in chosen.items()]
    return "\n".join([*kept, *said, *lines[tables:]]) + "\n"


def check_store(config: HubConfig, objects: Objects, found: Manifest, *, replace: bool) -> None:
    if next(iter(objects.list(REPOSITORY)), None) is None:
        return
    if not replace:
        hint = "give an unused place (--objects), or say --replace where it is this hub's own store"
        raise ConflictError(
            f"the object store {config.objects_url} holds a hub's repository already", subject="objects", hint=hint
        )
    with contextlib.suppress(NotFoundError):
        root = objects.get(f"{REPOSITORY}/metadata/1.root.json").data
        if hashlib.sha256(root).hexdigest() != found.root:
            hint = "give an unused place: --objects s3://bucket/prefix"
            raise ConflictError("the object store belongs to another hub", subject="objects", hint=hint)


def check_keys(staged: Path, config: HubConfig, file: Path, objects: Objects) -> None:
    """Check that every key is the one that the newest signed metadata names, in the backup or in the store.

    Raises:
        InvalidError: one is another.
    """
    folder = staged if any(staged.iterdir()) else config.keys_dir
    held = key_files.signers_by_role(key_files.load_online(folder))
    key_files.read_secret(folder)
    command = key_files.CommandKey(key_files.load_held(folder, "command")).target()
    with database.opened(file) as session:
        bodies = latest_metadata(session)
    newer = proven(lambda name: _get(objects, f"{REPOSITORY}/metadata/{name}"), bodies)
    root = repository.read([bodies["root"], *newer.roots][-1]).signed
    targets = repository.read(newer.bodies.get("targets", bodies["targets"])).signed
    hint = "give the hub's newest keys (--keys): those of the backup, or where keys were rotated since, DIR/keys"
    for role, signer in held.items():
        if signer.public_key.keyid not in repository.key_ids(root, targets, role):
            raise InvalidError(f"the key of role {role!r} is not this hub's", subject=role, hint=hint)
    path = repository.COMMAND_TARGET
    if targets.targets[path].hashes != repository.target_file(path, command).hashes:
        raise InvalidError("the command key is not this hub's", subject="command", hint=hint)


def _get(objects: Objects, key: str) -> bytes | None:
    try:
        return objects.get(key).data
    except NotFoundError:
        return None
