"""A process that has imported the agent once and forks one agent per case: `python -m tests.support.faults.zygote`.

Reads one `Case` per line of stdin and answers one `Ended` line when every process of the case is gone.
The agent in a case is the product's own composition (`edge_agent.agent.Agent`) on a real directory: real
spool, real engine, real LiteRT, real children (forked from here instead of started anew: same code).
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import gc
import importlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from msgspec import Struct

from edge_agent import agent as composition
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.update.worker import client, process
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import AgentReport, ModelReport
from tests.support.forked import forked
from tests.support.models import inputs

MODEL = "tiny"
T = TypeVar("T")
PRELOADED = (
    "ai_edge_litert.interpreter",
    "onnxruntime",
    "edge_agent.identity.http",
    "fleet.runtimes.litert",
    "fleet.runtimes.onnx",
    "edge_agent.serving.app",
    "edge_agent.update.worker.resolve_targets",
    "edge_agent.update.worker.tuf_client",
)
REQUESTS = 4  # one more than the probation of the faults' releases asks for
_PR_SET_CHILD_SUBREAPER, _PR_SET_PTRACER = 36, 0x59616D61


class Strace(Struct, frozen=True, kw_only=True):
    """Attach strace to the processes of `role` (`agent`, `look` or `trial`) before they begin.

    `options` go to strace as they are; `follow` traces what the process forks, too. `inject` is a fault
    for the first process of that role; later ones are only watched, into `log`.2, `log`.3, …
    """

    role: str
    options: tuple[str, ...]
    inject: str = ""
    log: str = ""
    follow: bool = False


class Mutants(Struct, frozen=True, kw_only=True):
    """Seeds of hostile files, made from `folder`/model for the release of `folder`/manifest.json."""

    folder: str
    first: int
    count: int


class Case(Struct, frozen=True, kw_only=True):
    """One life of an agent: start, up to `looks` looks, requests, judgement; `enough`, when committed, ends it."""

    directory: str
    looks: int = 1
    enough: int = 0  # a release
    hangs_s: float = 120.0  # a life takes a second, fifty hostile files a few, a bad network more
    failing: tuple[int, ...] = ()  # releases whose requests count as failed
    strace: Strace | None = None
    mutants: Mutants | None = None


class Probe(Struct, frozen=True, kw_only=True):
    """The agent's answer: the release that says it answered, and its logits; release 0: nobody."""

    release: int = 0
    logits: list[list[float]] = []


class Seen(Struct, frozen=True, kw_only=True):
    """A life of an agent from outside; `steps` are state and active release after each look."""

    to_serving_s: float
    at_start: Probe
    at_end: Probe
    state: str
    active: int
    reports: list[ModelReport]
    errors: list[str]  # type, reason and text of what looks raised
    problem: str
    clock: str
    tuf: dict[str, int]
    steps: list[tuple[str, int]] = []
    problems: list[str] = []  # that were reported of the agent
    outcomes: dict[str, int] = {}  # of hostile files
    clean: bool = True  # False when a background task would have had to be started again

    @property
    def told(self) -> set[str]:
        """The reasons that the hub or an operator learned: of reports of the model and the agent, and of the status.

        A look that failed and was followed by a good one is in the reports of the agent alone.
        """
        return {*(report.reason for report in self.reports), *self.problems, self.problem} - {""}


class Ended(Struct, frozen=True, kw_only=True):
    """The end of the agent's process (`os.waitstatus_to_exitcode`), and what it saw when it got that far."""

    code: int
    seen: Seen | None = None
    trace: str = ""


def attach(strace: Strace, nth: int = 1) -> None:
    """Put this very process, the `nth` of its role, under strace, and return when it is."""
    ctypes.CDLL(None).prctl(_PR_SET_PTRACER, ctypes.c_ulong(-1), 0, 0, 0)
    log = strace.log + (f".{nth}" if nth > 1 else "")
    options = [*(("-f",) if strace.follow else ()), *strace.options]
    options += ["-e", f"inject={strace.inject}"] if strace.inject and nth == 1 else []
    command = ["strace", "-q", "-o", log, *options, "-p", str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while b"TracerPid:\t0\n" in Path("/proc/self/status").read_bytes():
        if process.poll() is not None:
            raise RuntimeError(f"strace ended with {process.returncode}: {command}")
        os.sched_yield()


class ForkedChildren(client.ProcessChildren):
    """The agent's children, but for the start of the interpreter."""

    def __init__(self, directory: Path, strace: Strace | None) -> None:
        super().__init__(directory)
        self._strace = strace
        self._started: Counter[str] = Counter()

    async def _spawn(self, kind: str, *arguments: Any, **options: Any) -> Any:
        self._started[kind] += 1
        (theirs_in, ours_in), (ours_out, theirs_out) = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            self._become(kind, theirs_in, theirs_out)
        os.close(theirs_in)
        os.close(theirs_out)
        return await forked(pid, ours_in, ours_out)

    def _become(self, kind: str, stdin: int, stdout: int) -> None:
        code = 70
        try:
            os.dup2(stdin, 0)
            os.dup2(stdout, 1)
            os.closerange(3, 1024)
            asyncio.events._set_running_loop(None)
            sys.stdin, sys.stdout = os.fdopen(0, "r"), os.fdopen(1, "w")
            if self._strace is not None and self._strace.role == kind:
                attach(self._strace, self._started[kind])
            code = process.main([kind, str(self._directory)])
        finally:
            os._exit(code)


class Life:
    """One agent, from its start to its end."""

    def __init__(self, case: Case) -> None:
        self._case, self._errors, self._clean = case, [], True
        directory = Path(case.directory)
        config = AgentConfig(dir=directory, disk_reserve_bytes=0)
        self._agent = composition.Agent(config)
        self._start_by(ForkedChildren(directory, case.strace))

    def _start_by(self, made: ForkedChildren) -> None:
        """Let looks and self-tests be forks of this process."""
        self._agent.updater._looks.children = self._agent.updater._offers._children = made

    async def run(self) -> Seen:
        agent, started = self._agent, time.perf_counter()
        with self._task():
            await agent.updater.start()
        at_start = await self._probe()
        to_serving = time.perf_counter() - started
        steps = []
        for _ in range(self._case.looks):
            with self._task():
                await self._look()
            with self._task():
                await self._settle()
            steps.append(self._stands())
            if agent.updater.file.model(MODEL).committed == self._case.enough:
                break
        state, active = self._stands()
        looked = agent.updater.file.state.looked
        return Seen(
            to_serving_s=to_serving,
            at_start=at_start,
            at_end=await self._probe(),
            state=state,
            active=active,
            reports=self._spooled("model", ModelReport),
            errors=self._errors,
            problem=looked.problem,
            clock=looked.clock,
            tuf=looked.tuf,
            clean=self._clean,
            steps=steps,
            problems=[report.problem for report in self._spooled("agent", AgentReport) if report.problem],
        )

    @contextlib.contextmanager
    def _task(self):
        """The boundary that `main._guarded` is: what fails there is logged and started again."""
        try:
            yield
        except Exception as error:
            self._clean = False
            self._errors.append(_named(error))

    async def _look(self) -> None:
        """Look once as `Updater.run` does."""
        try:
            while await self._agent.updater.look():
                pass
        except (AgentError, ProtocolError, OSError) as error:
            self._errors.append(_named(error))
            self._agent.updater.note_problem(error)

    async def _settle(self) -> None:
        """Requests, and then the judgement that ends a probation."""
        for _ in range(REQUESTS):
            await self._probe()
        slot = self._agent.slots.slot(MODEL)
        if slot is not None and slot.active.release.number in self._case.failing:
            slot.active.failures += 1
        await self._agent.updater.judge(MODEL)

    async def _probe(self) -> Probe:
        x = oip.TensorValue("input", inputs(1))
        request = oip.InferRequest(inputs=(x,), parameters={"route": "edge"})
        try:
            answer = await self._agent.engine.infer(MODEL, "", request)
        except AgentError as error:
            if self._agent.slots.slot(MODEL) is not None:
                self._errors.append(_named(error))
            return Probe()
        logits = np.asarray(answer.outputs[0].array)
        return Probe(release=int(answer.model_version), logits=logits.tolist())

    def _stands(self) -> tuple[str, int]:
        state = self._agent.updater.file.model(MODEL)
        return state.state, state.active.release if state.active else 0

    def _spooled(self, kind: str, of: type[T]) -> list[T]:
        rows = self._agent.spool.after(0, 10_000)
        return [msgspec.msgpack.decode(row.body, type=of) for row in rows if row.kind == kind]


def _named(error: Exception) -> str:
    word = getattr(error, "reason", "") or errno.errorcode.get(getattr(error, "errno", 0) or 0, "")
    return f"{type(error).__name__} {word}: {error}"


def live(case: Case, tell: socket.socket) -> None:
    """Be the agent of a case; never returns. What it saw goes through a socket: no fault here is aimed at `sendto`."""
    code, said = 1, b""
    try:
        if case.strace is not None and case.strace.role == "agent":
            attach(case.strace)
        said = msgspec.json.encode(asyncio.run(_kind_of_life(case)(case).run()))
        code = 0
    except BaseException:
        said = traceback.format_exc().encode()
    finally:
        tell.sendall(said)
        os._exit(code)


def _said(stream: socket.socket, pid: int, hangs_s: float) -> bytes:
    """The agent's last words; one that hangs is killed, and has said so."""
    said = b""
    stream.settimeout(hangs_s)
    with stream:
        try:
            while piece := stream.recv(1 << 16):
                said += piece
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            said = b"it hangs"
    return said


def _kind_of_life(case: Case) -> type[Life]:
    if case.mutants is None:
        return Life
    from tests.support.faults.hostile import HostileLife

    return HostileLife


def run(case: Case) -> Ended:
    """Fork an agent and wait until it and everything that it started is gone."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        live(case, theirs)
    theirs.close()
    said = _said(ours, pid, case.hangs_s)
    code = -1
    with contextlib.suppress(ChildProcessError):
        while True:
            ended, status = os.waitpid(-1, 0)
            if ended == pid:
                code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return Ended(code=code, seen=msgspec.json.decode(said, type=Seen))
    return Ended(code=code, trace=said.decode())


def main() -> None:
    """Serve cases until stdin ends."""
    for name in PRELOADED:
        importlib.import_module(name)
    logging.getLogger().addHandler(logging.NullHandler())
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    gc.freeze()
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin.buffer:
        ended = run(msgspec.json.decode(line, type=Case))
        print(msgspec.json.encode(ended).decode(), flush=True)


if __name__ == "__main__":
    from tests.support.faults.zygote import main as start  # one module, not two: others import it by its name

    start()
