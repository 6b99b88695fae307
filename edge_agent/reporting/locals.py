"""Receives what applications with in-process inference tell: datagrams on `DIR/local.sock`."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path

from edge_agent.local import RECORD_LIMIT, SOCKET, LocalRecord
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

AT_ONCE = 64  # datagrams per turn of the event loop, so that requests come between


class LocalRecords:
    """Hands every record to `record`; the socket is writable for the agent's group only."""

    def __init__(self, directory: Path, record: Callable[[LocalRecord], None]) -> None:
        self._path = directory / SOCKET
        self._record = record

    async def run(self) -> None:
        """Listen until cancelled."""
        self._path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.setblocking(False)
        before = os.umask(0o117)
        try:
            listener.bind(str(self._path))
        finally:
            os.umask(before)
        loop = asyncio.get_running_loop()
        loop.add_reader(listener, self._ready, listener)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(listener)
            listener.close()
            self._path.unlink(missing_ok=True)

    def _ready(self, listener: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                data = listener.recv(RECORD_LIMIT + 1)
            except BlockingIOError:
                return
            try:
                self._record(decode_msgpack(data, LocalRecord, limit=RECORD_LIMIT))
            except ProtocolError as error:
                log.info("a local record is refused: %s", error)
