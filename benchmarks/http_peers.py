"""Servers that the request path is compared with: each in a virtual environment of its own, made when it is missing.

`benchmarks/peers/` has their code, which says what each leaves out. One that cannot be installed here is left out, with
the reason in the result. Not among them: LitServe, which hands its workers JSON only, and what takes gigabytes to
install.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

CODE = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(os.environ.get("EDGELOOP_PEERS", Path(__file__).resolve().parents[1] / "build" / "peers"))
RUNTIME = ("numpy", "ai-edge-litert", "orjson")
INSTALL_S, START_S = 900, 60


class Peer(NamedTuple):
    """A server. `packages` are installed; `command` is run with `python` before it and {port} and {workers} filled in.

    `complete`: it is a server of models that one would deploy, not a bound for one. `runtime` is installed beside it.
    """

    packages: tuple[str, ...]
    command: tuple[str, ...]
    path: str = "/v2/models/model/infer"
    workers: int = 1
    complete: bool = True
    runtime: tuple[str, ...] = RUNTIME


UVICORN = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning")
PEERS = {
    "echo": Peer(
        ("uvicorn==0.54.0", "httptools==0.9.0"),
        (*UVICORN, "--http", "httptools", "--loop", "asyncio", "echo_app:app"),
        complete=False,
    ),
    "fastapi": Peer(
        ("fastapi==0.165.0", "uvicorn==0.54.0", "httptools==0.9.0", "uvloop"),
        (*UVICORN, "--http", "httptools", "--loop", "uvloop", "--workers", "{workers}", "fastapi_app:app"),
    ),
    "mosec": Peer(("mosec",), ("mosec_app.py", "--address", "127.0.0.1", "--port", "{port}"), path="/inference"),
    "granian": Peer(
        ("granian",),
        (
            "-m",
            "granian",
            "--interface",
            "rsgi",
            "--host",
            "127.0.0.1",
            "--port",
            "{port}",
            "--no-ws",
            "granian_app:app",
        ),
        complete=False,
    ),
}


def free_port() -> int:
    """A port of loopback that nobody has now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def python_of(name: str, packages: tuple[str, ...], runtime: tuple[str, ...] = RUNTIME) -> Path:
    """The peer's interpreter, in an environment that is made when it is missing; raises RuntimeError."""
    folder = ENVIRONMENTS / name
    python, done = folder / "bin" / "python", folder / "installed"
    wanted = "\n".join((*packages, *runtime))
    if done.exists() and done.read_text() == wanted:
        return python
    venv.create(folder, with_pip=True, clear=True)
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        *packages,
        *runtime,
    ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        raise RuntimeError(f"{' '.join(packages)} cannot be installed: {said[-1] if said else error}") from error
    done.write_text(wanted)
    return python


@contextlib.contextmanager
def running(
    name: str, environment: Mapping[str, str], peer: Peer | None = None, port: int = 0
) -> Iterator[tuple[str, int]]:
    """A peer on a port of loopback (0: a free one), which it listens on when this begins; RuntimeError when not.

    `peer` is one that is not among PEERS; {folder} of its command is `PEER_FOLDER` of the environment.
    """
    peer = peer or PEERS[name]
    python = python_of(name, peer.packages, peer.runtime)
    port = port or free_port()
    folder = environment.get("PEER_FOLDER", "")
    command = [part.format(port=port, workers=peer.workers, folder=folder) for part in peer.command]
    with (ENVIRONMENTS / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [python, *command],
            cwd=CODE,
            env={**os.environ, **environment, "PEER_WORKERS": str(peer.workers), "PYTHONPATH": str(CODE)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _await_listening(process, port, ENVIRONMENTS / f"{name}.log")
        yield "127.0.0.1", port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _await_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"it does not listen: {log.read_text()[-300:]}")


if __name__ == "__main__":
    for each in sys.argv[1:] or PEERS:
        print(each, python_of(each, PEERS[each].packages))
