"""Showing the hub what it has signed before: for one that serves older metadata, as after a restore from a backup.

The device believes its own newest metadata and refuses older, so it would wait until the hub has caught up by itself.
Everything that is sent was signed by the hub and is read by the whole fleet; nothing of this device is in it but its
last command.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from edge_agent.errors import AgentError
from edge_agent.identity.http import read_answer
from edge_agent.ports import HubCalls
from edge_agent.telemetry.database import LAST_COMMAND
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.messages import HELD_LIMIT, Held, HeldAnswer

ROOTS = 64
DOCUMENT_LIMIT = 1 << 20

log = logging.getLogger(__name__)


def show(hub: HubCalls, tuf: Path, spool: Path | None = None) -> bool:
    """Send the signed files in `tuf`, and the last command of `spool`, to the hub.

    Args:
        hub: takes them.
        tuf: the folder of the metadata that this device has accepted.
        spool: holds the last command; None for none.

    Returns:
        True if the hub has read it, so that a second look is worth it: it has risen now, or had risen before by another
            device's.
    """
    try:
        body = encode_msgpack(gather(tuf, spool))
        if len(body) > HELD_LIMIT:
            log.warning("what this device holds has %d bytes, more than the hub takes", len(body))
            return False
        headers = {"content-type": "application/msgpack"}
        answer = hub.request("POST", "/device/held", body, headers, timeout=60.0)
        if answer.status != 200:  # an older hub, or one that reads another device's now
            log.info("the hub answers %d to newer metadata than it serves", answer.status)
            return False
        lifted = read_answer(answer.data, HeldAnswer, "/device/held").lifted
        log.info("the hub was shown what it has signed before, and %s", "rises above it" if lifted else "knows it")
        return True
    except (AgentError, OSError) as error:
        log.info("the hub was not shown what it has signed before: %s", error)
        return False


def gather(tuf: Path, spool: Path | None = None) -> Held:
    """The signed files in the folder of the TUF client, those documents that a look reads, and the last command."""
    return Held(
        roots=tuple(_roots(tuf / "root_history")),
        timestamp=_file(tuf, "timestamp"),
        snapshot=_file(tuf, "snapshot"),
        targets=_file(tuf, "targets"),
        models=_file(tuf, "models"),
        channels=_file(tuf, "channels"),
        documents=dict(_documents(tuf / "targets")),
        command=_last_command(spool) if spool is not None else b"",
    )


def _file(tuf: Path, role: str) -> bytes:
    try:
        return (tuf / f"{role}.json").read_bytes()
    except FileNotFoundError:
        return b""


def _roots(history: Path) -> Iterator[bytes]:
    """The newest roots, oldest first."""
    found = (path for path in history.glob("*.root.json") if path.name.partition(".")[0].isdigit())
    for path in sorted(found, key=lambda path: int(path.name.partition(".")[0]))[-ROOTS:]:
        yield path.read_bytes()


def _documents(targets: Path) -> Iterator[tuple[str, bytes]]:
    """The channel and the floors; their names are their quoted paths."""
    for pattern in (quote("channels/", "") + "*.json", quote("models/", "") + "*" + quote("/floor.json", "")):
        for path in sorted(targets.glob(pattern)):
            if path.stat().st_size <= DOCUMENT_LIMIT:
                yield unquote(path.name), path.read_bytes()


def _last_command(spool: Path) -> bytes:
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(spool))}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT value FROM facts WHERE name = ?", (LAST_COMMAND,)).fetchone()
    except sqlite3.Error:
        return b""  # a damaged spool is another part's business
    return str(row[0]).encode() if row else b""
