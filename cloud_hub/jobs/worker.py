"""The worker loop: claim, run, heartbeat, finish."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from cloud_hub.context import Hub
from cloud_hub.errors import HubError
from cloud_hub.jobs import queue
from cloud_hub.jobs.folders import WorkFolders
from cloud_hub.jobs.running import Running as Running
from cloud_hub.store.tables import Job
from fleet.protocol.errors import ProtocolError
from fleet.tracing import OFF, Tracer

log = logging.getLogger(__name__)
POLL_S = 1.0


Kind = Callable[[Running], dict[str, Any]]


def run_worker(
    hub: Hub, table: Mapping[str, Kind], *, once: bool = False, parent: int | None = None, tracer: Tracer = OFF
) -> None:
    """Do jobs until SIGTERM or SIGINT, or with `once` until none is waiting.

    Args:
        hub: the hub whose jobs are done.
        table: kinds of jobs and what does them.
        once: end when no job is waiting.
        parent: process whose child this is, and with whose end it ends; None: whoever it is now.
        tracer: makes spans of jobs and their steps.
    """
    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
    owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
    parent = os.getppid() if parent is None else parent
    folders = WorkFolders(hub)
    while not stop.is_set() and os.getppid() == parent:
        folders.look()
        job = queue.claim(hub, owner)
        if job is not None:
            run_job(hub, job, owner, table, tracer)
        elif once:
            return
        else:
            stop.wait(POLL_S)


def run_job(hub: Hub, job: Job, owner: str, table: Mapping[str, Kind], tracer: Tracer = OFF) -> None:
    """Run one claimed job to its end; every failure is written down in it."""
    running = Running(hub, job, owner, tracer)
    state, why = "lost", ""
    beats = threading.Thread(target=running.keep_alive, name=f"job-{job.id}", daemon=True)
    beats.start()
    try:
        work = table.get(job.kind)
        if work is None:
            raise HubError(f"no worker knows the kind {job.kind!r}", subject=job.kind)
        result = work(running)
        state = "succeeded"
        queue.finish(hub, job.id, owner, state, result=result)
    except queue.LeaseLostError as error:
        state, why = "lost", str(error)
        log.warning("%s", error)
    except queue.CancelledError as error:
        state, why = "cancelled", str(error)
        queue.finish(hub, job.id, owner, state, error=why)
    except (HubError, ProtocolError) as error:
        log.warning("job %s failed: %s", job.id, error)
        state, why = "failed", f"{error}; {error.hint}" if error.hint else str(error)
        queue.finish(hub, job.id, owner, state, error=why)
    except Exception as error:  # the boundary of a job: logged and written into it
        log.exception("job %s failed", job.id)
        state, why = "failed", f"{type(error).__name__}: {error}"
        queue.finish(hub, job.id, owner, state, error=why)
    finally:
        running.trace.end(state, why)
        running.ended.set()
        beats.join()
