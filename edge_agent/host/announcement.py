"""`run.json`: where the agent answers, for this machine's commands. It serves also when the disk refuses the file."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

from edge_agent.host.durable import write_durably
from fleet.protocol.codec import encode_json

log = logging.getLogger(__name__)

AGAIN_S = 5.0


def announce(directory: Path, address: str) -> bool:
    """Write it, or remove it for no address; False where the disk refuses."""
    path = directory / "run.json"
    try:
        if address:
            write_durably(path, encode_json({"address": address, "pid": os.getpid()}))
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("%s is not written: %s; name the address %s to commands yourself", path, error, address)
        return False
    return True


async def announce_later(directory: Path, address: str, *, every_s: float = AGAIN_S) -> None:
    """Try again on a disk that refused, until it takes it.

    Args:
        directory: of the agent.
        address: to announce.
        every_s: seconds between tries.
    """
    while True:
        await asyncio.sleep(every_s)
        if announce(directory, address):
            return
