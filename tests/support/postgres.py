"""A private PostgreSQL cluster for tests: its own directory, its own free port, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.support.require import require

_FAST = "-c fsync=off -c synchronous_commit=off -c full_page_writes=off"


@contextmanager
def cluster() -> Iterator[str]:
    """A running cluster; yields `host=… port=… user=…` for psycopg. Runs as `postgres` when we are root."""
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    initdb = require("initdb", "postgresql", *binaries)
    control = initdb.with_name("pg_ctl")
    base = Path(tempfile.mkdtemp(prefix="edgeloop-pg-", dir="/tmp"))
    user = None
    if os.geteuid() == 0:
        user = "postgres"
        account = pwd.getpwnam(user)
        os.chown(base, account.pw_uid, account.pw_gid)
    data = base / "data"

    def run(*command: str) -> None:
        done = subprocess.run(
            command,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            cwd=base,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        log = base / "log"
        assert done.returncode == 0, f"{command[0]}: {done.stderr}{log.read_text() if log.exists() else ''}"

    try:
        run(str(initdb), "-D", str(data), "-U", "edgeloop", "-A", "trust", "-E", "UTF8", "--no-sync")
        port = _start(run, control, base)
        try:
            yield f"host=127.0.0.1 port={port} user=edgeloop"
        finally:
            run(str(control), "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(base, ignore_errors=True)


def _start(run: Callable[..., None], control: Path, base: Path) -> int:
    """Start on a free port; a port may be taken between our look and the start, so look again."""
    for attempt in range(3):
        port = _free_port()
        options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={base} {_FAST}"
        try:
            run(str(control), "-D", str(base / "data"), "-o", options, "-l", str(base / "log"), "-w", "start")
        except AssertionError:
            if attempt == 2:
                raise
            continue
        return port
    raise AssertionError("unreachable")


def create_database(connection: str, name: str, template: str = "template1") -> str:
    """A fresh copy of the database `template`, empty when it is not named; returns its SQLAlchemy URL."""
    with psycopg.connect(f"{connection} dbname=postgres", autocommit=True) as session:
        session.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
        session.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        host, port = session.info.host, session.info.port
    return f"postgresql+psycopg://edgeloop@{host}:{port}/{name}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
