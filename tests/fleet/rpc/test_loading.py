"""Messages of grpc's core by itself do not go into the log."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.hub import make_hub

QUIET = """
import asyncio, socket, sys
from pathlib import Path
from fleet.rpc import Certificate
from fleet.rpc.loading import load_server

async def main():
    pair = Certificate(*(Path(name).read_bytes() for name in sys.argv[1:3]))
    bound, port = load_server()(None, "127.0.0.1:0", message_limit=1, certificate=pair).bind()
    await bound.start()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port), 60) as plain:
            plain.sendall(b"GET / HTTP/1.1\\r\\n\\r\\n")
            await asyncio.to_thread(plain.recv, 100)
    await bound.stop(None)
    print("asked")

asyncio.run(main())
"""


def test_who_speaks_no_tls_writes_no_line_into_the_log(tmp_path: Path) -> None:
    config = make_hub(tmp_path).hub.config
    command = [sys.executable, "-c", QUIET, config.server_certificate, config.server_key]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("asked\n", "", 0)
