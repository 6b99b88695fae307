"""The limits that a process of the agent asks of the system at its beginning, read back from the system."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import threading
from collections.abc import Callable

import pytest

from edge_agent.host.child_process import (
    MODEL_FILES,
    MODEL_WRITES,
    end_with_parent,
    kill,
    leave_no_core,
    limit,
    limit_model,
)

GIB = 1 << 30


def in_fork(work: Callable[[], bool]) -> bool:
    """The result of `work` in a process of its own, whose limits die with it."""
    pid = os.fork()
    if pid == 0:
        found = False
        try:
            found = work()
        finally:
            os._exit(0 if found else 1)
    return os.waitpid(pid, 0)[1] == 0


def test_a_process_that_runs_a_model_is_bounded_for_good() -> None:
    def bounded() -> bool:
        limit_model(64 * GIB, {resource.RLIMIT_CPU: (100, 5)})
        kinds = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
        wanted = [(64 * GIB,) * 2, (MODEL_FILES,) * 2, (MODEL_WRITES,) * 2, (100, 105)]
        return [resource.getrlimit(kind) for kind in kinds] == wanted

    assert in_fork(bounded)


def test_further_limits_win_over_the_usual_ones() -> None:
    def bounded() -> bool:
        limit_model(64 * GIB, {resource.RLIMIT_NOFILE: (64, 0)})
        return resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)

    assert in_fork(bounded)


def test_no_core_file_is_written() -> None:
    def bounded() -> bool:
        leave_no_core()
        return resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)

    assert in_fork(bounded)


def test_the_parents_death_ends_a_process() -> None:
    """The middle process ends at once; its own child, which waits for ever, writes nothing and closes the pipe."""
    reader, writer = os.pipe()
    middle = os.fork()
    if middle == 0:
        ready, told = os.pipe()
        if os.fork() == 0:
            end_with_parent()
            os.write(told, b"1")
            while True:
                signal.pause()
        os.read(ready, 1)
        os._exit(0)
    os.close(writer)
    os.waitpid(middle, 0)
    assert os.read(reader, 1) == b""  # the last holder of the writing end is gone
    os.close(reader)


def test_a_limit_that_is_above_the_hard_one_is_an_error() -> None:
    def refused() -> bool:
        limit({resource.RLIMIT_NOFILE: (32, 0)})
        try:
            limit({resource.RLIMIT_NOFILE: (32, 32)})
        except (ValueError, PermissionError):
            return True
        return os.geteuid() == 0  # root may raise it

    assert in_fork(refused)


def test_who_kills_what_has_just_ended_leaves_its_status_to_asyncio(monkeypatch: pytest.MonkeyPatch) -> None:
    """The race is forced: asyncio's thread asks for the status only after the killing."""
    killed, wait_for = threading.Event(), os.waitpid

    def waitpid(pid: int, options: int) -> tuple[int, int]:
        killed.wait()
        return wait_for(pid, options)

    async def scenario() -> int:
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", "exit 7")
        try:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            kill(process)
        finally:
            killed.set()
        return await process.wait()

    monkeypatch.setattr(os, "waitpid", waitpid)
    assert asyncio.run(scenario()) == 7
