"""The composition root: names the concrete adapters and runs them on one event loop.

Serving starts first and needs no network; the hub may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import logging
import random
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent import VERSION
from edge_agent import cli as commands
from edge_agent.errors import UsageError
from edge_agent.host.lock import is_running, only_one
from edge_agent.telemetry.recent_log import RecentLog

if TYPE_CHECKING:
    import uvicorn

    from edge_agent.config import AgentConfig
    from edge_agent.serving.engine import Engine
    from edge_agent.shadow.runner import Shadows
    from edge_agent.telemetry.recorder import Recorder
    from edge_agent.telemetry.samples import Redact
    from edge_agent.update.disk.state import Looked
    from edge_agent.update.install import Outcome
    from fleet.protocol.messages import AgentReport, CommandKeys

log = logging.getLogger(__name__)

RESTART_S = 5.0


def main(argv: list[str] | None = None) -> int:
    """The `edge-agent` command."""
    return commands.main(argv, run_agent, install_bundle)


def run_agent(config: AgentConfig, redact: str) -> int:
    """Run until SIGTERM or SIGINT."""
    faulthandler.enable(2)  # a model may end the process by a signal: the log then says where
    with only_one(config.dir):
        asyncio.run(Agent(config, load_redaction(redact)).run())
    return 0


def install_bundle(config: AgentConfig, folder: Path) -> Outcome:
    """Install from a bundle: in this process, or by the agent that runs already. ConflictError: one just started."""
    from edge_agent.update.install import ask

    if is_running(config.dir):
        return ask(config.dir, folder)
    with only_one(config.dir):
        return asyncio.run(Agent(config).install(folder))


class Agent:
    """Everything that runs in the serving process."""

    def __init__(self, config: AgentConfig, redact: Redact | None = None) -> None:
        from edge_agent import runtimes
        from edge_agent.host.durable import sweep_drafts
        from edge_agent.identity.connection import Links
        from edge_agent.identity.signer import SignerProcess
        from edge_agent.mqtt.command_handler import Actions
        from edge_agent.serving.app import App
        from edge_agent.serving.metrics import Metrics
        from edge_agent.serving.policy import Policies
        from edge_agent.serving.slots import Slots
        from edge_agent.telemetry.benchmarks import Measurer
        from edge_agent.telemetry.local_draws import DrawnRequests, LocalDraws
        from edge_agent.telemetry.local_records import LocalRecords
        from edge_agent.telemetry.uploader import Uploader
        from edge_agent.update.install import REQUEST, Installer
        from edge_agent.update.updater import Updater

        self.config = config
        self.started, self._started = time.time(), False  # when this began, and whether what is installed serves
        self.runtimes, self.capabilities = runtimes.available(), runtimes.capabilities()
        sweep_drafts(config.dir, config.identity, spare=REQUEST)  # which another process writes
        self.signer = SignerProcess(config.identity)
        self.links = Links(config, self.signer)
        self.slots, self.policies, self.metrics = Slots(load_wall_s=config.load_wall_s), Policies(), Metrics()
        self.recorder = self._recorder(redact)
        self.engine = self._engine()
        self.uploader = Uploader(self.links.hub, self.samples, self.budget)
        self.log = RecentLog(time.time)
        self.actions = Actions(self.recorder, self.uploader, self.slots, self.status, logs=self.log.answer)
        self.locals = LocalRecords(config.dir, self.recorder.local)
        drawn = DrawnRequests(self.slots, self.policies, self.recorder, random.random)
        self.draws = LocalDraws(config.dir, drawn.take, self.metrics)
        self.installer, self.shadows = Installer(config.dir), self._beside()
        self.updater = Updater(
            config, self.links.enrollment.device_id, self.links.enrollment.channel, self.slots, self.recorder,
            self.installer, kinds=tuple(sorted(runtimes.kinds())), runtimes=self.runtimes,
            capabilities=self.capabilities, shadows=self.shadows,
            on_look=self._looked, count_bytes=lambda received: self.budget.count(down=received), budget=self.budget,
        )  # fmt: skip
        self.measurer = Measurer(
            self.database, lambda: self.updater.file.state.models, lambda: self.updater.current_channel,
            self.actions.measure,
        )  # fmt: skip
        self._described: AgentReport | None = None
        self.uplink = self._uplink()
        self.recorder.spooled = self._spooled
        self.recorder.sampled = self.uploader.wake
        self.app = App(self.engine, self.metrics, self.status)
        self.addresses: list[str] = []

    def status(self) -> dict[str, Any]:
        """The `/status` document."""
        from edge_agent.running_status import document

        return document(self)

    async def run(self) -> None:
        """Serve, and keep the background tasks going, until a signal or the server's end."""
        from edge_agent.host import memory
        from edge_agent.host.announcement import announce, announce_later
        from edge_agent.host.notify import ServiceManager
        from edge_agent.host.watchdog import Watchdog
        from edge_agent.serving.rpc import open_rpc
        from edge_agent.serving.server import address, listen, make_server, share
        from fleet.protocol.described import describe_all

        logging.getLogger().addHandler(self.log)
        memory.bound()
        describe_all()  # before there are threads
        manager = ServiceManager(self.config.notify_socket)
        shared = share(self.engine)
        server, listeners = make_server(self.app, shared), listen(self.config)
        self.addresses = [address(listener) for listener in listeners]
        rpc = open_rpc(self.config, self.engine, self.app.about, shared.budget)
        self.addresses += [where for where, _ in rpc]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server)
        watchdog = loop.create_task(
            _guarded("watchdog", Watchdog(self.config.watchdog_s, self.engine.runs, manager).run)
        )
        await self.updater.start()
        self._started = True
        self._prepare_calls()
        memory.freeze()
        await asyncio.to_thread(memory.give_back)  # what the start needed
        beside = self._tasks() | {f"grpc {where}": run for where, run in rpc}
        if not announce(self.config.dir, self.addresses[0]):
            beside["address"] = partial(announce_later, self.config.dir, self.addresses[0])
        log.info("agent %s serves on %s", self.links.enrollment.device_id, " and ".join(self.addresses))
        manager.ready()
        tasks = [watchdog, *(loop.create_task(_guarded(name, run)) for name, run in beside.items())]
        try:
            await server.serve(listeners)
        finally:
            manager.stopping()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._close()
            announce(self.config.dir, "")
            log.info("agent stopped")

    def _tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """What runs beside serving."""
        return {
            "updater": self.updater.run,
            "bundles": lambda: self.installer.run(self.updater),
            "recorder": self.recorder.run,
            "auditor": self.auditor.run,
            "shadows": self.shadows.run,
            "uplink": self.uplink.run,
            "uploader": self.uploader.run,
            "actions": self.actions.run,
            "measurer": self.measurer.run,
            "local records": self.locals.run,
            "local draws": self.draws.run,
        }

    def _close(self) -> None:
        logging.getLogger().removeHandler(self.log)
        for one in (self.cloud, self.remotes, self.audits, self.signer, self.database):
            one.close()

    async def install(self, folder: Path) -> Outcome:
        """Serve what is installed, take one look at the bundle, and end; the running agent decides the probation."""
        try:
            await self.updater.start(to_serve=False)
            return await self.installer.install(self.updater, folder)
        finally:
            self._close()

    def _recorder(self, redact: Redact | None) -> Recorder:
        """What is kept of requests until the hub has it: the spool, samples and the day's bytes in one database."""
        from edge_agent.telemetry.budget import Budget
        from edge_agent.telemetry.recorder import Recorder
        from edge_agent.telemetry.samples import SampleStore
        from edge_agent.telemetry.spool import Database, Spool

        self.database = Database(self.config.dir / "spool.db")
        self.spool = Spool(self.database)
        self.samples = SampleStore(self.database, redact)
        self.budget = Budget(self.database, time.time)
        return Recorder(
            self.slots, self.policies, self.spool, self.samples, self.budget, self.metrics,
            clock=time.time, rng=random.random,
        )  # fmt: skip

    def _beside(self) -> Shadows:
        """What tries releases beside those that serve."""
        from edge_agent.shadow.process import ChildProcesses
        from edge_agent.shadow.runner import Shadows

        return Shadows(ChildProcesses(self.config.dir), self.recorder.copies, self.recorder)

    def _engine(self) -> Engine:
        """What answers requests, and the auditor beside it: each has calls of its own to the cloud."""
        from edge_agent.serving.audit import WORKERS, Auditor
        from edge_agent.serving.cloud import HubCloud
        from edge_agent.serving.endpoint import Endpoint
        from edge_agent.serving.engine import Engine
        from edge_agent.serving.outcomes import Afterwards
        from edge_agent.serving.remote import RemoteServers

        self.remotes = RemoteServers(self.config.credentials, lambda up, down: self.budget.count(up=up, down=down))
        self.cloud, self.audits = HubCloud(self.links.hub), HubCloud(self.links.hub, calls=WORKERS)
        self.auditor = self.recorder.auditor = Auditor(self.audits, self.recorder)
        return Engine(self.slots, self.policies, Endpoint(self.cloud, self.remotes.server), Afterwards(self.recorder))

    def _uplink(self) -> Any:
        from edge_agent.mqtt.uplink import Uplink
        from fleet.protocol.messages import IN_USE_TWICE

        return Uplink(
            self.links.first(self.updater.file.state.looked),
            self.database,
            self.spool,
            self.budget,
            key=self._command_key,
            verify=self.signer.verify,
            handle=self.actions.handle,
            notified=self._notified,
            clock_trusted=lambda: self.updater.file.state.looked.clock == "trusted",
            twice=lambda: self.updater.file.state.looked.problem == IN_USE_TWICE,
        )

    def _prepare_calls(self) -> None:
        """Import in a thread what the first call to the cloud would wait for, where one may be made."""
        if self.engine.may_ask():
            asyncio.get_running_loop().run_in_executor(None, importlib.import_module, "edge_agent.identity.pool")

    def _relink(self) -> None:
        """Connect anew when the hub named another broker or channel, or the certificate is a new one."""
        link = self.links.changed(self.updater.file.state.looked)
        if link is not None:
            self.uplink.follow(link)

    def _command_key(self) -> CommandKeys | None:
        from edge_agent.mqtt.command_verification import decode_keys

        data = self.updater.file.state.looked.command_key
        return decode_keys(data) if data else None

    def _looked(self, looked: Looked) -> None:
        """A look at the hub ended, or what the last one gave was read from the disk."""
        self.policies.apply(looked.channel)
        if looked.channel is not None:  # here and now: the fetches that this look begins are bound by it
            self.budget.limit = looked.channel.fetching.bytes_per_day
        self.measurer.wake()
        self._relink()
        if self._started:
            self._prepare_calls()
        report = _describe(looked.follows(self.links.enrollment.channel), looked, self.runtimes, self.capabilities)
        if report != self._described:
            self._described = report
            free = shutil.disk_usage(self.config.dir).free
            self.recorder.agent(
                msgspec.structs.replace(report, disk_free=free, bytes_up=self.budget.up, bytes_down=self.budget.down)
            )

    def _spooled(self) -> None:
        self.uplink.wake()
        self.measurer.wake()  # a transition may have been spooled

    def _notified(self, reason: str) -> None:
        self.updater.notice(reason)
        self.uploader.wake()


def _describe(channel: str, looked: Looked, runtimes: dict[str, str], capabilities: tuple[str, ...]) -> AgentReport:
    import platform

    from fleet.protocol.messages import AgentReport

    return AgentReport(
        agent=VERSION,
        channel=channel,
        capabilities=capabilities,
        hardware={"machine": platform.machine(), "system": platform.system(), "python": platform.python_version()},
        runtimes=runtimes,
        channel_version=looked.channel.version if looked.channel is not None else 0,
        tuf=looked.tuf,
        tuf_expires=looked.tuf_expires,
        clock="trusted" if looked.clock == "trusted" else "untrusted",
        problem=looked.problem,
        hint=looked.hint,
    )


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


async def _guarded(name: str, run: Callable[[], Awaitable[None]]) -> None:
    """Keep a task going: serving must not end because something beside it failed."""
    while True:
        try:
            await run()
            return
        except Exception:  # the task boundary: logged with its trace, then started again
            log.exception("%s failed; it starts again in %.0f s", name, RESTART_S)
            await asyncio.sleep(RESTART_S)


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True


if __name__ == "__main__":
    sys.exit(main())
