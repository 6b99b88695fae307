"""The composition root: names the concrete adapters and runs them on one event loop.

Serving starts first and needs no network; the hub may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import random
import signal
import socket
import ssl
import stat
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent import VERSION
from edge_agent import cli as commands
from edge_agent.errors import AgentError, ConflictError, UsageError

if TYPE_CHECKING:
    import uvicorn

    from edge_agent.config import AgentConfig
    from edge_agent.reporting.commands import CommandKey
    from edge_agent.reporting.samples import Redact

log = logging.getLogger(__name__)

RESTART_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """The `edge-agent` command."""
    return commands.main(argv, run_agent)


def run_agent(config: AgentConfig, redact: str) -> int:
    """Run until SIGTERM or SIGINT."""
    with _only_one(config.dir):
        asyncio.run(Agent(config, load_redaction(redact)).run())
    return 0


class Agent:
    """Everything that runs in the serving process."""

    def __init__(self, config: AgentConfig, redact: Redact | None = None) -> None:
        from edge_agent.identity.enroll import load_enrollment
        from edge_agent.identity.http import HubHttp
        from edge_agent.reporting.actions import Actions
        from edge_agent.reporting.budget import Budget
        from edge_agent.reporting.locals import LocalRecords
        from edge_agent.reporting.recorder import Recorder
        from edge_agent.reporting.samples import SampleStore
        from edge_agent.reporting.spool import Database, Spool
        from edge_agent.reporting.uploader import Uploader
        from edge_agent.serving.app import App
        from edge_agent.serving.audit import Auditor
        from edge_agent.serving.cloud import HubCloud
        from edge_agent.serving.engine import Engine
        from edge_agent.serving.metrics import Metrics
        from edge_agent.serving.policy import Policies
        from edge_agent.serving.slots import Slots
        from edge_agent.update.driver import Updater

        self.config = config
        self.started = time.time()
        self.enrollment = load_enrollment(config.dir)
        self.hub = HubHttp(config.dir, connect_timeout_s=config.connect_timeout_s)
        self.database = Database(config.dir / "spool.db")
        self.spool = Spool(self.database)
        self.slots, self.policies, self.metrics = Slots(), Policies(), Metrics()
        self.samples = SampleStore(self.database, redact)
        self.budget = Budget(self.database, time.time)
        self.recorder = Recorder(
            self.slots, self.policies, self.spool, self.samples, self.budget, self.metrics,
            clock=time.time, rng=random.random,
        )  # fmt: skip
        self.cloud = HubCloud(self.hub)
        self.auditor = self.recorder.auditor = Auditor(self.cloud, self.recorder)
        self.engine = Engine(self.slots, self.policies, self.cloud, self.recorder)
        self.uploader = Uploader(self.hub, self.samples, self.budget)
        self.actions = Actions(self.recorder, self.uploader, self.slots, self.status)
        self.locals = LocalRecords(config.dir, self.recorder.local)
        self.updater = Updater(config, self.enrollment, self.slots, self.recorder)
        self.updater.on_channel(self.policies.apply)
        self.uplink = self._uplink()
        self.recorder.spooled = self.uplink.wake
        self.recorder.sampled = self.uploader.wake
        self.app = App(self.engine, self.metrics, self.status, unix=bool(config.uds))
        self.address = ""

    async def run(self) -> None:
        """Serve, and keep the background tasks going, until a signal or the server's end."""
        server, listener = _server(self.config, self.app)
        self.address = _address(self.config, listener)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server)
        _announce(self.config.dir, self.address)
        log.info("agent %s serves on %s", self.enrollment.device_id, self.address)
        tasks = [
            loop.create_task(_guarded(name, run))
            for name, run in (
                ("updater", self.updater.run),
                ("recorder", self.recorder.run),
                ("auditor", self.auditor.run),
                ("uplink", self.uplink.run),
                ("uploader", self.uploader.run),
                ("actions", self.actions.run),
                ("local records", self.locals.run),
            )
        ]
        try:
            await server.serve([listener])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.cloud.close()
            self.database.close()
            (self.config.dir / "run.json").unlink(missing_ok=True)
            log.info("agent stopped")

    def status(self) -> dict[str, Any]:
        """The `/status` document: who, what serves, what is under way, and why not."""
        channel = self.policies.channel
        return {
            "device": self.enrollment.device_id,
            "agent": VERSION,
            "channel": self.enrollment.channel,
            "channel_version": channel.version if channel is not None else 0,
            "hub": self.enrollment.hub,
            "address": self.address,
            "online": self.uplink.online,
            "started": self.started,
            "outbox": {"spool": self.spool.id, "waiting": len(self.spool), "lost": self.spool.lost},
            "samples": {"waiting": len(self.samples), "dropped": self.samples.dropped},
            "audits_dropped": self.auditor.dropped,
            "bytes": {"up": self.budget.up, "down": self.budget.down},
            "models": self._models(),
        }

    def _models(self) -> dict[str, Any]:
        models: dict[str, Any] = self.updater.status()
        for name in self.slots.names():
            slot = self.slots.slot(name)
            if slot is None or slot.active is None:
                continue
            served = slot.active
            models.setdefault(name, {}).update(
                serving=served.release.number,
                variant=served.release.variant.name,
                runtime=served.runtime,
                requests=served.requests,
                failures=served.failures,
                shadow=slot.previous.release.number if slot.previous is not None else None,
            )
        return models

    def _uplink(self) -> Any:
        from edge_agent.reporting.uplink import Link, Uplink

        link = Link(
            device_id=self.enrollment.device_id,
            channel=self.enrollment.channel,
            endpoint=self.enrollment.mqtt,
            context=_tls(self.config) if self.enrollment.mqtt.tls else None,
            agent=VERSION,
            heartbeat_s=self.config.heartbeat_s,
        )
        return Uplink(
            link,
            self.database,
            self.spool,
            self.budget,
            key=KeyFile(self.config.dir / "command-key.json").read,
            handle=self.actions.handle,
            notified=self._notified,
        )

    def _notified(self, reason: str) -> None:
        self.updater.wake(reason)
        self.uploader.wake()


class KeyFile:
    """The command key that the update child verified and stored; read again when the file changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mark: tuple[int, int] | None = None
        self._key: CommandKey | None = None

    def read(self) -> CommandKey | None:
        """The key, or None while it has not been fetched."""
        from edge_agent.reporting.commands import decode_key

        try:
            found = self._path.stat()
        except FileNotFoundError:
            return None
        mark = (found.st_mtime_ns, found.st_ino)
        if mark != self._mark:
            self._key, self._mark = decode_key(self._path.read_bytes()), mark
        return self._key


def load_redaction(name: str) -> Redact | None:
    """The hook `module:function`; raises UsageError when it cannot be imported."""
    if not name:
        return None
    module, _, function = name.partition(":")
    try:
        found: Redact = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"the redaction hook {name!r} cannot be loaded: {error}", hint="--redact MODULE:FUNCTION"
        ) from error
    return found


@contextlib.contextmanager
def _only_one(directory: Path) -> Any:
    import fcntl

    if not directory.is_dir():
        raise UsageError(
            f"{directory} is not an agent's directory", hint=f"edge-agent enroll URL --token T --dir {directory}"
        )
    with (directory / "run.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConflictError(f"another agent runs in {directory}", subject=str(directory)) from error
        yield


async def _guarded(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Keep a task going: serving must not end because something beside it failed."""
    while True:
        try:
            await run()
            return
        except Exception:  # the task boundary: logged with its trace, then started again
            log.exception("%s failed; it starts again in %.0f s", name, RESTART_S)
            await asyncio.sleep(RESTART_S)


def _server(config: AgentConfig, app: Any) -> tuple[uvicorn.Server, socket.socket]:
    import uvicorn

    class Server(uvicorn.Server):
        """uvicorn without its own signal handling, which would end the process before the spool is closed."""

        @contextlib.contextmanager
        def capture_signals(self) -> Any:
            yield

    listener = _listen(config)
    settings = uvicorn.Config(
        app, loop="asyncio", lifespan="off", access_log=False, log_config=None, server_header=False, date_header=False,
        timeout_keep_alive=75, timeout_graceful_shutdown=5,
    )  # fmt: skip
    return Server(settings), listener


def _listen(config: AgentConfig) -> socket.socket:
    from edge_agent.identity.enroll import is_loopback

    try:
        if config.uds:
            return _listen_unix(Path(config.uds))
        if not is_loopback(config.host):
            raise UsageError(f"the local API listens on loopback only, not on {config.host}", hint="host = 127.0.0.1")
        family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
        return socket.create_server((config.host, config.port), family=family, backlog=256)
    except OSError as error:
        where = config.uds or f"{config.host}:{config.port}"
        raise AgentError(f"cannot listen on {where}: {error}", hint="choose another with --port or --uds") from error


def _listen_unix(path: Path) -> socket.socket:
    # The lock on the directory says that no other agent serves here: a socket that lies there is a leftover.
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(256)
    return listener


def _address(config: AgentConfig, listener: socket.socket) -> str:
    if config.uds:
        return f"unix:{Path(config.uds).absolute()}"
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _announce(directory: Path, address: str) -> None:
    from edge_agent.durable import write_durably
    from fleet.protocol.codec import encode_json

    write_durably(directory / "run.json", encode_json({"address": address, "pid": os.getpid()}))


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


def _tls(config: AgentConfig) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(config.identity / "ca.pem"))
    context.load_cert_chain(config.identity / "device.crt", config.identity / "device.key")
    return context


if __name__ == "__main__":
    sys.exit(main())
