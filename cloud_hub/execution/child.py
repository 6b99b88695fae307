"""Work in a child process of its own, ended by the worker when it takes too much; see `execution`.

Limits hold for the child with all that it starts: the system ends what one process takes at once (`child_main`), this
side looks at the sum a few times a second.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec

from cloud_hub.config_tables import WorkerConfig
from cloud_hub.execution.log import append_log
from cloud_hub.execution.messages import Failed, Message, Spec, WorkDone, WorkProgress
from cloud_hub.execution.port import (
    LOG,
    Limits,
    OverLimitError,
    Progress,
    Work,
    WorkDiedError,
    WorkFailedError,
)
from cloud_hub.execution.processes import ProcessTree, bytes_of

LOOK_S = 0.25  # how often limits are looked at
CLOSING_S = 3.0  # from the end of a process's messages to its own
CHUNK = 1 << 16
LINE_LIMIT = 4 << 20  # bytes of a message; the end of a longer one is not waited for
# Of the environment: the code needs no key of the hub or its bucket, and no secret of those whom it tells of events or
# sends traces. A recipe that reads a bucket of its own finds its credentials in a file.
PRIVATE = ("EDGELOOP_HUB_", "EDGELOOP_PASSPHRASE", "EDGELOOP_SECRET_", "OTEL_EXPORTER_", "AWS_")
# Torch's threads wait for each other after every operator, by default in a loop. On a machine that is busy with other
# work, such waiting takes the cores from those that are waited for: a small network trained four times as long. What is
# computed is the same.
QUIET = {"OMP_WAIT_POLICY": "PASSIVE"}


class ChildExecutor:
    """Implements `Executor` by one process of this interpreter for each piece of work.

    `polite_s`: how long the process may take to end by SIGTERM, before it is ended with all that it has started; only
    for code of ours, which has something to put away elsewhere.
    """

    def __init__(
        self, limits: Limits | None = None, *, polite_s: float = 0.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limits, self._polite_s, self._clock = limits or Limits(), polite_s, clock

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        """See Executor."""
        work.folder.mkdir(parents=True, exist_ok=True)
        watch = _Watch(self._limits, work.folder, self._clock)
        watch.disk()
        with _started(work, self._limits, self._polite_s) as (process, tree, heard):
            last: Message | None = None
            while last is None and heard.open:
                for message in heard.listen(LOOK_S):
                    if isinstance(message, WorkProgress):
                        progress(message.step, message.share)
                    else:
                        last = message
                check()
                watch.look(tree)
            if last is None:
                _await_end(process)
        if isinstance(last, WorkDone):
            return last.result
        raise self._ended(last, process.returncode, heard.tail())

    def _ended(self, last: Message | None, code: int, tail: str) -> Exception:
        if isinstance(last, Failed):
            if last.memory:
                return OverLimitError(last.message, hint=self._more_memory())
            return WorkFailedError(last.message, subject=last.subject, hint=last.hint)
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {_signal(code)}"
        said = f"; its last words: {tail}" if tail else ""
        hint = self._more_memory() if code == -signal.SIGKILL else "the job's log has more"
        return WorkDiedError(f"the code's process {how} before the work was done{said}", hint=hint)

    def _more_memory(self) -> str:
        limit = self._limits.memory_bytes
        known = f"worker.memory_bytes is {limit}; " if limit else ""
        return f"{known}use smaller batches or less data, or a machine with more memory"


class _Watch:
    """Looks at what the work takes, and raises OverLimitError."""

    def __init__(self, limits: Limits, folder: Path, clock: Callable[[], float]) -> None:
        self._limits, self._folder, self._clock = limits, folder, clock
        self._began = clock()

    def look(self, tree: ProcessTree) -> None:
        """Time, memory and disk."""
        limits, taken = self._limits, self._clock() - self._began
        if limits.wall_s is not None and taken > limits.wall_s:
            raise OverLimitError(
                f"the code was ended after {limits.wall_s:g} s, its limit of time",
                hint="look in the job's log for what it waits for, or raise worker.wall_s",
            )
        used = tree.memory()
        if limits.memory_bytes is not None and used > limits.memory_bytes:
            raise OverLimitError(
                f"the code was ended: its processes used {_mb(used)} of memory; "
                f"{_mb(limits.memory_bytes)} is the limit",
                hint="use smaller batches or less data, or raise worker.memory_bytes",
            )
        self.disk()

    def disk(self) -> None:
        """The folder's size, and what is free beside it."""
        limits, used = self._limits, bytes_of(self._folder)
        if limits.disk_bytes is not None and used > limits.disk_bytes:
            raise OverLimitError(
                f"the code was ended: its folder holds {_mb(used)}, {_mb(limits.disk_bytes)} is the limit",
                hint="write less, or raise worker.disk_bytes",
            )
        free = shutil.disk_usage(self._folder).free
        if free < limits.spare_disk_bytes:
            raise OverLimitError(
                f"only {_mb(free)} are free on the disk of {self._folder}; {_mb(limits.spare_disk_bytes)} must stay so",
                hint="make room there, or lower worker.spare_disk_bytes",
            )


class _Heard:
    """The child's two pipes: one brings messages, the other its printed output, which goes to the log."""

    def __init__(self, messages: int, printed: IO[bytes], folder: Path) -> None:
        self._selector = selectors.DefaultSelector()
        self._messages, self._printed = messages, printed.fileno()
        self._log = folder / LOG
        self._line = bytearray()
        for descriptor in (self._messages, self._printed):
            os.set_blocking(descriptor, False)
            self._selector.register(descriptor, selectors.EVENT_READ)

    @property
    def open(self) -> bool:
        """True while more messages can come."""
        return self._messages in self._selector.get_map()

    def listen(self, wait_s: float) -> Iterator[Message]:
        """Yield the messages that have come so far, after waiting for something at most so long."""
        for key, _ in self._selector.select(wait_s):
            data = self._read(key.fd)
            if key.fd == self._printed:
                self._keep(data)
                continue
            self._line += data
            *whole, rest = bytes(self._line).split(b"\n")
            self._line = bytearray(rest[:LINE_LIMIT])
            for line in whole:
                with contextlib.suppress(msgspec.DecodeError):  # users' code may have found the pipe
                    yield msgspec.json.decode(line, type=Message)

    def drain(self) -> None:
        """Keep what is still in the pipe of prints; nobody is left to write more."""
        while self._printed in self._selector.get_map() and (data := self._read(self._printed)):
            self._keep(data)

    def close(self) -> None:
        """Forget both pipes."""
        self._selector.close()
        os.close(self._messages)

    def tail(self) -> str:
        """The last line that was printed, shortened."""
        with contextlib.suppress(OSError):
            lines = self._log.read_bytes()[-CHUNK:].decode("utf-8", "replace").split("\n")
            return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
        return ""

    def _read(self, descriptor: int) -> bytes:
        try:
            data = os.read(descriptor, CHUNK)
        except BlockingIOError:
            return b""
        if not data:
            self._selector.unregister(descriptor)
        return data

    def _keep(self, data: bytes) -> None:
        append_log(self._log, data)


@contextmanager
def _started(
    work: Work, limits: Limits, polite_s: float
) -> Iterator[tuple[subprocess.Popen[bytes], ProcessTree, _Heard]]:
    """The child; at the end of the block it and all that it has started is ended, and its log whole."""
    temporary = work.folder / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(PRIVATE)}
    reading, writing = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "cloud_hub.execution.child_main", str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
            env={**QUIET, **environment, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
        )
    finally:
        os.close(writing)
    assert process.stdin is not None and process.stdout is not None
    heard, tree = _Heard(reading, process.stdout, work.folder), ProcessTree(process.pid)
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(msgspec.json.encode(_spec(work, limits)))
        yield process, tree, heard
    finally:
        if polite_s and process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(polite_s)
        tree.kill()
        process.wait()
        heard.drain()
        heard.close()
        process.stdout.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _spec(work: Work, limits: Limits) -> Spec:
    return Spec(
        entry=work.entry,
        folder=str(work.folder),
        arguments=work.given,
        paths=sys.path,
        parent=os.getpid(),
        memory_bytes=limits.memory_bytes,
        disk_bytes=limits.disk_bytes,
    )


def _await_end(process: subprocess.Popen[bytes]) -> None:
    """Let a process end whose messages have; raises WorkDiedError when it goes on without saying anything more."""
    try:
        process.wait(CLOSING_S)
    except subprocess.TimeoutExpired as error:
        raise WorkDiedError(
            "the code closed its line to the worker, and went on",
            hint="it must leave file descriptors alone that it has not opened",
        ) from error


def limits_of(config: WorkerConfig) -> Limits:
    """The limits of one job's work, as `hub.toml` says them."""
    memory = config.memory_bytes if config.memory_bytes is not None else usual_memory()
    return Limits(config.wall_s, memory, config.disk_bytes, config.spare_disk_bytes)


def usual_memory() -> int:
    """Bytes that one job's work may take where nobody says it: four fifths of this machine's."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 4 // 5


def _signal(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB"
