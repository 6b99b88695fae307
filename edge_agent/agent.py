"""Everything that runs in the serving process: the concrete parts, wired, and run on one event loop.

Serving starts first and needs no network; the hub may be away for as long as it likes.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edge_agent import runtimes, status
from edge_agent.config import AgentConfig
from edge_agent.host import memory
from edge_agent.host.announcement import announce, announce_later
from edge_agent.host.durable import sweep_drafts
from edge_agent.host.guarding import guarded
from edge_agent.host.notify import ServiceManager
from edge_agent.host.vitals import VitalSigns
from edge_agent.host.watchdog import Watchdog
from edge_agent.identity.connection import Links
from edge_agent.identity.signer import SignerProcess
from edge_agent.mqtt.command_handler import Actions
from edge_agent.mqtt.command_receiver import CommandReceiver
from edge_agent.mqtt.command_verification import Verifier, counter_of, decode_keys
from edge_agent.mqtt.spool_sender import SpoolSender
from edge_agent.mqtt.status_messages import StatusMessages
from edge_agent.mqtt.trails import Trails
from edge_agent.mqtt.uplink import Uplink
from edge_agent.serving.app import App
from edge_agent.serving.audit import WORKERS, Auditor, Job
from edge_agent.serving.cloud import HubCloud
from edge_agent.serving.endpoint import Endpoint
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.outcomes import Afterwards
from edge_agent.serving.policy import Policies
from edge_agent.serving.remote import RemoteServers
from edge_agent.serving.rpc import open_rpc
from edge_agent.serving.server import address, bind_local_api, make_server, make_shared
from edge_agent.serving.slots import Slots
from edge_agent.serving.tracing import carried_to_others, make_engine, make_tracer
from edge_agent.shadow.process import ChildProcesses
from edge_agent.shadow.runner import Shadows
from edge_agent.telemetry.benchmarks import Measurer
from edge_agent.telemetry.budget import Budget
from edge_agent.telemetry.comparisons import Comparisons
from edge_agent.telemetry.database import Database
from edge_agent.telemetry.local_draws import DrawnRequests, LocalDraws
from edge_agent.telemetry.local_records import LocalRecords
from edge_agent.telemetry.open_windows import OpenWindows
from edge_agent.telemetry.recent_log import RecentLog
from edge_agent.telemetry.recorder import Recorder
from edge_agent.telemetry.report_log import ReportLog
from edge_agent.telemetry.request_metrics import RequestMetrics, show_audits, show_releases, show_spool, show_vitals
from edge_agent.telemetry.sampler import Sampler
from edge_agent.telemetry.samples import Redact, SampleStore
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.uploader import Uploader
from edge_agent.telemetry.window_writer import WindowWriter
from edge_agent.update.disk.state import Looked, StateFile
from edge_agent.update.install import REQUEST, Installer, InstallResult
from edge_agent.update.looks import DeviceFacts, Looks
from edge_agent.update.state_reporter import StateReporter
from edge_agent.update.updater import Updater
from fleet.protocol.described import describe_all
from fleet.protocol.messages import IN_USE_TWICE, AgentReport, CommandKeys

if TYPE_CHECKING:
    import uvicorn

    from fleet.tracing import Tracer

log = logging.getLogger(__name__)


class Agent:
    """Everything that runs in the serving process.

    The parts hear of each other by what their constructors are given; where two need each other, one is given a
    method of this class, which knows both.
    """

    def __init__(self, config: AgentConfig, redact: Redact | None = None, tracer: Tracer | None = None) -> None:
        self.config = config
        self.started, self._started = time.time(), False  # when this began, and whether what is installed serves
        self.runtimes, self.capabilities = runtimes.available(), runtimes.capabilities()
        sweep_drafts(config.dir, config.identity, spare=REQUEST)  # which another process writes
        self.signer = SignerProcess(config.identity)
        self.links = Links(config, self.signer)
        self.slots = Slots(load_wall_s=config.load_wall_s, before_swap=self._settle, tidy=self._tidy)
        self.policies, self.metrics = Policies(), Metrics(self._settle)
        self.log = RecentLog(time.time)
        self.tracer = tracer or make_tracer(config, self.links.enrollment.device_id)
        self._keep(redact)
        self._answer()
        self._update()
        self._connect()
        self.app = App(self.engine, self.metrics, self.status)
        self.addresses: list[str] = []
        self._described: AgentReport | None = None

    def _keep(self, redact: Redact | None) -> None:
        """Open the stores that keep requests until the hub has them: spool, samples and the day's bytes in one
        database."""
        self.database = Database(self.config.dir / "spool.db")
        self.spool = Spool(self.database)
        self.samples = SampleStore(self.database, redact)
        self.budget = Budget(self.database, time.time)
        self.uploader = Uploader(self.links.hub, self.samples, self.budget)
        self.trails = Trails(self.tracer.carried)
        self.reports = ReportLog(self.spool, time.time, self._spooled, self.trails.note)
        windows = OpenWindows(self.slots, self.policies, clock=time.time, rng=random.random)
        self.sampler = Sampler(self.slots, self.policies, self.samples, self.spool, clock=time.time, rng=random.random)
        self.recorder = Recorder(
            self.slots, self.policies, windows, self.sampler, RequestMetrics(self.metrics), audit=self._audit
        )
        self.comparisons = Comparisons(self.slots, windows)
        self.writer = WindowWriter(
            windows, self.sampler, self.spool, self.budget, settle=self._settle, written=self._written
        )
        show_releases(self.metrics, self.slots)
        show_spool(self.metrics, self.spool)
        self.locals = LocalRecords(self.config.dir, self.recorder.local)
        drawn = DrawnRequests(self.slots, self.policies, self.recorder, random.random)
        self.draws = LocalDraws(self.config.dir, drawn.take, self.metrics)

    def _answer(self) -> None:
        """Make the parts that answer requests, and the auditor beside them: each has calls of its own to the cloud."""
        carried = self.tracer.carried
        self.remotes = RemoteServers(
            self.config.credentials,
            lambda up, down: self.budget.count(up=up, down=down),
            carried=carried_to_others(self.config, self.tracer),
        )
        self.cloud = HubCloud(self.links.hub, carried=carried)
        self.audits = HubCloud(self.links.hub, calls=WORKERS)
        self.auditor = Auditor(self.audits, self.comparisons)
        show_audits(self.metrics, lambda: self.auditor.dropped)
        endpoint = Endpoint(self.cloud, self.remotes.server)
        self.afterwards = Afterwards(self.recorder)
        self.engine = make_engine(self.slots, self.policies, endpoint, self.afterwards, self.tracer)

    def _update(self) -> None:
        """Make the parts that pull releases, and those that try them beside the ones that serve."""
        enrolled = self.links.enrollment
        self.installer = Installer(self.config.dir)
        self.shadows = Shadows(ChildProcesses(self.config.dir), self.recorder.copies, self.comparisons)
        device = DeviceFacts(
            enrolled.device_id,
            enrolled.channel,
            kinds=tuple(sorted(runtimes.kinds())),
            runtimes=self.runtimes,
            capabilities=self.capabilities,
            variants=self.config.variants,
        )
        self.updater = Updater(
            self.config,
            StateReporter(StateFile(self.config.dir), self.reports, self._looked),
            self.slots,
            Looks(self.installer, device),
            budget=self.budget,
            shadows=self.shadows,
        )

    def _connect(self) -> None:
        """The connection to the broker, and what its commands do."""
        self.actions = Actions(
            self.reports, self._want_samples, self.slots, self.status, logs=self.log.answer, tracer=self.tracer
        )
        self.measurer = Measurer(
            self.database,
            lambda: self.updater.file.state.models,
            lambda: self.updater.current_channel,
            self.actions.measure,
        )
        self.vitals = VitalSigns(self.config.dir)
        show_vitals(self.metrics, self.vitals)
        link, sender = self.links.first(self.updater.file.state.looked), SpoolSender(self.spool, self.trails)
        verifier = Verifier(self._command_key, self.signer.verify, clock_trusted=self._clock_trusted)
        counter = counter_of(link.device_id, self.database, self.spool)
        self.uplink = Uplink(
            link,
            sender,
            CommandReceiver(self.spool, sender, verifier, self.actions.handle, counter=counter, tracer=self.tracer),
            budget=self.budget,
            statuses=StatusMessages(vitals=self.vitals.read),
            notified=self._notified,
            twice=lambda: self.updater.file.state.looked.problem == IN_USE_TWICE,
        )

    def status(self) -> dict[str, Any]:
        """The `/status` document."""
        return status.of_agent(self)

    async def run(self) -> None:
        """Serve, and keep the background tasks going, until a signal or the server's end."""
        logging.getLogger().addHandler(self.log)
        memory.bound()
        describe_all()  # before there are threads
        manager = ServiceManager(self.config.notify_socket)
        shared = make_shared(self.engine, self.tracer)
        server, listeners = make_server(self.app, shared), bind_local_api(self.config)
        self.addresses = [address(listener) for listener in listeners]
        rpc = open_rpc(self.config, self.engine, self.app.about, shared.budget, self.tracer)
        self.addresses += [where for where, _ in rpc]
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, _stop, server)
        watchdog = Watchdog(self.config.watchdog_s, self.engine.runs, manager)
        tasks = [loop.create_task(guarded("watchdog", watchdog.run))]
        await self._start()
        beside = self._tasks() | {f"grpc {where}": run for where, run in rpc}
        log.info("agent %s serves on %s", self.links.enrollment.device_id, " and ".join(self.addresses))
        manager.ready()
        tasks += [loop.create_task(guarded(name, run)) for name, run in beside.items()]
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

    async def _start(self) -> None:
        """Serve what is installed, and let the process be as small as it can be from then on."""
        await self.updater.start()
        self._prepare_calls()
        memory.freeze()
        self._started = True
        await asyncio.to_thread(memory.give_back)  # what the start needed

    def _tasks(self) -> dict[str, Callable[[], Awaitable[None]]]:
        """Return the tasks that run beside serving."""
        tasks: dict[str, Callable[[], Awaitable[None]]] = {
            "updater": self.updater.run,
            "bundles": lambda: self.installer.run(self.updater),
            "windows": self.writer.run,
            "auditor": self.auditor.run,
            "shadows": self.shadows.run,
            "uplink": self.uplink.run,
            "uploader": self.uploader.run,
            "actions": self.actions.run,
            "measurer": self.measurer.run,
            "local records": self.locals.run,
            "local draws": self.draws.run,
        }
        if not announce(self.config.dir, self.addresses[0]):
            tasks["address"] = partial(announce_later, self.config.dir, self.addresses[0])
        return tasks

    def _close(self) -> None:
        logging.getLogger().removeHandler(self.log)
        for one in (self.cloud, self.remotes, self.audits, self.signer, self.database, self.tracer):
            one.close()

    async def install(self, folder: Path) -> InstallResult:
        """Serve what is installed, take one look at the bundle, and end; the running agent decides the probation."""
        try:
            await self.updater.start(to_serve=False)
            return await self.installer.install(self.updater, folder)
        finally:
            self._close()

    def _audit(self, job: Job) -> None:
        self.auditor.offer(job)

    def _settle(self) -> None:
        """Count the requests that have ended so far."""
        self.afterwards.tell()

    def _tidy(self) -> None:
        """Keep the process small after a swap; those of the start are followed by one at its end."""
        if self._started:
            memory.give_back()

    def _want_samples(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Draw the samples that the hub asks for, and send at once what is here already."""
        answer = self.sampler.want(arguments)
        self.uploader.wake()
        return answer

    def _written(self, windows: bool, samples: bool) -> None:
        if windows:
            self._spooled()
        if samples:
            self.uploader.wake()

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
        data = self.updater.file.state.looked.command_key
        return decode_keys(data) if data else None

    def _clock_trusted(self) -> bool:
        return self.updater.file.state.looked.clock == "trusted"

    def _looked(self, looked: Looked) -> None:
        """A look at the hub ended, or what the last one gave was read from the disk."""
        self._settle()  # the requests that the channel before this one had
        self.policies.apply(looked.channel)
        if looked.channel is not None:  # here and now: the fetches that this look begins are bound by it
            self.budget.limit = looked.channel.fetching.bytes_per_day
        self.measurer.wake()
        self._relink()
        if self._started:
            self._prepare_calls()
        channel = looked.follows(self.links.enrollment.channel)
        report = status.described(channel, looked, self.runtimes, self.capabilities)
        if report != self._described:
            self._described = report
            free = shutil.disk_usage(self.config.dir).free
            self.reports.agent(
                msgspec.structs.replace(report, disk_free=free, bytes_up=self.budget.up, bytes_down=self.budget.down)
            )

    def _spooled(self) -> None:
        self.uplink.wake()
        self.measurer.wake()  # a transition may have been spooled

    def _notified(self, reason: str) -> None:
        self.updater.notice(reason)
        self.uploader.wake()


def _stop(server: uvicorn.Server) -> None:
    server.should_exit = True
