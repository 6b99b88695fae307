"""`python -m tests.support.stream URL MODEL RATE OUT`: a steady stream of requests, until stdin ends.

An open loop: every request has its moment, whether or not the ones before it were answered, so that a
stall is seen by all the requests that it hits. OUT gets a JSON list of [moment, seconds, ok, release];
a moment is CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path

import numpy as np

from fleet.protocol import oip

MODEL_INPUTS = 4
IDLE_S = 30.0  # a connection idle for longer is left: the server closes it some day, maybe under a request
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Row = tuple[float, float, bool, str]  # moment, seconds, answered, release or why not


class Stream:
    """Requests at `rate` per second over connections that are kept open."""

    def __init__(self, url: str, model: str, rate: float) -> None:
        self._host, _, port = url.removeprefix("http://").partition(":")
        self._port, self._rate = int(port), rate
        values = oip.TensorValue("input", np.full((1, MODEL_INPUTS), 0.5, np.float32))
        body, length = oip.encode_request(oip.InferRequest(inputs=(values,)), binary=False)
        assert length is None
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n"
        self._request = head.encode() + body
        self._free: list[tuple[float, Connection]] = []
        self.rows: list[Row] = []

    async def run(self, stop: asyncio.Event) -> None:
        """Send until `stop`, then wait for the last answers."""
        start, sent = time.monotonic(), 0
        async with asyncio.TaskGroup() as group:
            while not stop.is_set():
                moment = start + sent / self._rate
                await asyncio.sleep(moment - time.monotonic())
                group.create_task(self._one(moment))
                sent += 1

    async def _one(self, moment: float) -> None:
        """A request that was due at this moment, from which its time counts."""
        connection = None
        try:
            connection = self._take() or await asyncio.open_connection(self._host, self._port)
            status, answer = await asyncio.wait_for(self._exchange(*connection), 30)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self.rows.append((moment, time.monotonic() - moment, False, repr(error)))
            if connection is not None:
                connection[1].close()
            return
        took = time.monotonic() - moment
        self._free.append((time.monotonic(), connection))
        release = str(json.loads(answer).get("model_version", "")) if status == 200 else answer.decode()
        self.rows.append((moment, took, status == 200, release))

    def _take(self) -> Connection | None:
        """The connection that was used last, so that those not needed grow old."""
        while self._free and time.monotonic() - self._free[0][0] > IDLE_S:
            self._free.pop(0)[1][1].close()
        return self._free.pop()[1] if self._free else None

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[int, bytes]:
        writer.write(self._request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        return int(head.split(b" ", 2)[1]), await reader.readexactly(length)


async def main(url: str, model: str, rate: str, out: str) -> None:
    """Stream until stdin ends."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(sys.stdin, stop.set)
    stream = Stream(url, model, float(rate))
    await stream.run(stop)
    loop.remove_reader(sys.stdin)
    Path(out).write_text(json.dumps(stream.rows))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
