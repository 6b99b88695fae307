"""The device's key and certificate on the disk, and how a new pair takes the place of the old one.

    device.key device.crt                    the pair in use
    next.key                                 a renewal was begun
    next.key next.crt                        the hub has answered; the pair has not been used yet
             next.crt                        the new pair works, and replacing the old one was cut off

Both pairs are kept until the hub has taken the new one. Every step is one synced rename, so that any
process can find out after a crash what was under way and finish it; doing so twice changes nothing.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from fleet.durable import sync

KEY, CERTIFICATE = "device.key", "device.crt"
NEXT_KEY, NEXT_CERTIFICATE = "next.key", "next.crt"


def finish_replacement(folder: Path) -> None:
    """Finish a replacement that was cut off."""
    if (folder / NEXT_CERTIFICATE).exists() and not (folder / NEXT_KEY).exists():
        _rename(folder, NEXT_CERTIFICATE, CERTIFICATE)


def promote(folder: Path) -> None:
    """The hub has taken the next key: its pair replaces the one in use."""
    _rename(folder, NEXT_KEY, KEY)
    _rename(folder, NEXT_CERTIFICATE, CERTIFICATE)


def discard_next(folder: Path) -> None:
    """Forget a pair that the hub does not take; the certificate first, since alone it would mean something else."""
    (folder / NEXT_CERTIFICATE).unlink(missing_ok=True)
    sync(folder)  # else a power cut may keep the certificate and lose the key
    (folder / NEXT_KEY).unlink(missing_ok=True)
    sync(folder)


def candidates(folder: Path) -> tuple[str, ...]:
    """The files of the keys to log in with, the next one first when the hub has certified it."""
    finish_replacement(folder)
    certified = (folder / NEXT_CERTIFICATE).exists() and (folder / NEXT_KEY).exists()
    return (NEXT_KEY, KEY) if certified else (KEY,)


def _rename(folder: Path, old: str, new: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process of this agent was faster
        (folder / old).replace(folder / new)
        sync(folder)
