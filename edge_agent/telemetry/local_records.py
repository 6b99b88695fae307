"""Receives what applications with in-process inference tell: datagrams on `DIR/local.sock`.

A datagram is an array of records, or a lone record (0.1). One bad record does not take the others along.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from edge_agent.in_process.records import BATCH, DATAGRAM_LIMIT, SOCKET, LocalRecord
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

AT_ONCE = BATCH  # records per turn of the event loop, so that requests come between; a batch is not cut apart


class LocalRecords:
    """Hands every record to `record`; the socket is writable for the agent's group only."""

    def __init__(self, directory: Path, record: Callable[[LocalRecord], None]) -> None:
        self._path = directory / SOCKET
        self._record = record

    async def run(self) -> None:
        """Listen until cancelled."""
        await receive_datagrams(self._path, self._ready)

    def _ready(self, listener: socket.socket) -> None:
        count = 0
        while count < AT_ONCE:
            try:
                data = listener.recv(DATAGRAM_LIMIT + 1)
            except BlockingIOError:
                return
            count += 1
            try:
                for record in records(data):
                    count += 1
                    self._record(record)
            except ProtocolError as error:
                log.info("a datagram of local records is refused: %s", error)


async def receive_datagrams(path: Path, ready: Callable[[socket.socket], None]) -> None:
    """Call `ready` whenever a datagram may be received at `path`, until cancelled; for the agent's group only."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.setblocking(False)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    loop = asyncio.get_running_loop()
    loop.add_reader(listener, ready, listener)
    try:
        await asyncio.Event().wait()
    finally:
        loop.remove_reader(listener)
        listener.close()
        path.unlink(missing_ok=True)


def records(data: bytes) -> Iterator[LocalRecord]:
    """The records in a datagram; one that is none is logged and left out.

    Raises:
        ProtocolError: it is too large, or neither a record nor an array.
    """
    if data[:1] and (data[0] & 0xF0 == 0x90 or data[0] in (0xDC, 0xDD)):
        parts = decode_msgpack(data, list[msgspec.Raw], limit=DATAGRAM_LIMIT, subject="local records")
    else:
        parts = [msgspec.Raw(data)]
    for part in parts[:BATCH]:
        try:
            yield decode_msgpack(bytes(part), LocalRecord, limit=DATAGRAM_LIMIT)
        except ProtocolError as error:
            log.info("a local record is refused: %s", error)
