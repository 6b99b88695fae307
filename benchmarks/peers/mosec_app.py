"""mosec, raw bytes. It shows a worker no headers, so this one is told where the JSON ends, and says it to nobody."""

from __future__ import annotations

import os
from typing import Any

from mosec import Server, Worker
from work import Work

HEAD = int(os.environ["PEER_HEAD"])
WORKERS = int(os.environ.get("PEER_WORKERS", "1"))


class Infer(Worker):
    """The worker's process."""

    def __init__(self) -> None:
        self.work = Work()

    def deserialize(self, data: bytes) -> Any:
        """The body as it is."""
        return data

    def serialize(self, data: Any) -> bytes:
        """The answer as it is."""
        return bytes(data)

    def forward(self, data: Any) -> Any:
        """One request."""
        return self.work.answer(data, HEAD)[0]


if __name__ == "__main__":
    server = Server()
    server.append_worker(Infer, num=WORKERS)
    server.run()
