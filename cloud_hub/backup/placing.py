"""Puts restored objects, database and keys into place, each whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from cloud_hub.backup import database
from cloud_hub.backup.manifest import CONFIG, OBJECTS, Content
from cloud_hub.config import HubConfig
from cloud_hub.ports import Objects
from fleet.durable import sync


def put(objects: Objects, key: str, content: Content, folder: Path) -> None:
    """Put an object unless the store has these very bytes."""
    there = objects.info(key)
    if there is not None:
        digest = hashlib.sha256()
        for piece in objects.stream(key) if there.size == content.size else ():
            digest.update(piece)
        if there.size == content.size and digest.hexdigest() == content.sha256:
            return
        objects.delete(key)
    objects.put_file(key, folder / OBJECTS / content.sha256)


def place_database(file: Path, config: HubConfig) -> None:
    if not database.is_sqlite(config.database_url):
        database.copy_in(file, config.database_url)
        return
    target = database.file_of(config.database_url)
    for suffix in ("-wal", "-shm"):  # they belong to the file that is replaced
        target.with_name(target.name + suffix).unlink(missing_ok=True)
    if target.parent != config.directory:  # another disk, perhaps: copied beside first
        draft = target.with_name(target.name + ".restored")
        draft.unlink(missing_ok=True)
        opener = lambda path, flags: os.open(path, flags, 0o600)  # noqa: E731
        with file.open("rb") as source, open(draft, "xb", opener=opener) as copy:  # nobody else reads it meanwhile
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        file = draft
    file.replace(target)
    sync(target.parent)


def place_keys(stage: Path, config: HubConfig) -> None:
    """Keys that were there before are kept beside, since nobody can make them again."""
    if not any(stage.iterdir()):
        return
    if config.keys_dir.exists():
        config.keys_dir.rename(config.keys_dir.with_name(f"keys.replaced-{secrets.token_hex(4)}"))
    stage.rename(config.keys_dir)
    sync(config.directory)


@contextlib.contextmanager
def staging(directory: Path) -> Iterator[Path]:
    stage = directory / f"restore-{secrets.token_hex(4)}.tmp"
    stage.mkdir(mode=0o700)
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


@contextlib.contextmanager
def closed(directory: Path) -> Iterator[None]:
    """Take `hub.toml` away, so that nobody starts what is half restored; it is back when the block fails."""
    path, aside = directory / CONFIG, directory / f"{CONFIG}.before"
    if path.exists():
        path.replace(aside)
        sync(directory)
    try:
        yield
    except BaseException:
        if aside.exists():
            aside.replace(path)
        raise
