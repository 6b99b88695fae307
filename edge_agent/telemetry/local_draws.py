"""Takes in the requests that applications with in-process inference drew (`edge_agent.in_process.draws`).

They come in a memory file whose descriptor a datagram on `DIR/draws.sock` carries. It is copied, emptied, and only
then read, so that a sender that writes on changes nothing. One bad request does not take the others along.
"""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from edge_agent.errors import AgentError
from edge_agent.in_process.draws import LIMIT, MOST, SOCKET, DrawnBatch, DrawnRequest
from edge_agent.serving.metrics import Metrics
from edge_agent.serving.outcomes import Outcome
from edge_agent.serving.policy import Policies
from edge_agent.serving.router import RoutingResult
from edge_agent.serving.scores import score
from edge_agent.serving.slots import Arrays, Served, Slots
from edge_agent.telemetry.local_records import receive_datagrams
from fleet.protocol.channel import MILLION
from fleet.protocol.codec import decode_msgpack
from fleet.protocol.errors import MalformedError, ProtocolError, TooLargeError
from fleet.protocol.inputs import check_arrays
from fleet.protocol.tensors import from_array

log = logging.getLogger(__name__)

DESCRIPTORS = 1  # of a datagram; the kernel closes what a sender adds to them


class Listener(Protocol):
    """The port that hears of drawn requests: the recorder."""

    def offered(self, outcome: Outcome, requests: float, rows: float) -> None:
        """One to sketch and perhaps to keep; it has been counted by its record."""

    def audit(self, served: Served, inputs: Arrays, answers: tuple[Any, ...]) -> None:
        """One that was drawn for audit."""


class DrawnRequests:
    """Sketches, samples and audits drawn requests like those that the agent answered itself.

    Sampling and audit keep the channel's shares of all requests, as far as what was drawn suffices: of a request that
    stands for hundred, the audit's draw is hundred times as likely. `rng` is uniform in [0, 1).
    """

    def __init__(self, slots: Slots, policies: Policies, listener: Listener, rng: Callable[[], float]) -> None:
        self._slots = slots
        self._policies = policies
        self._listener = listener
        self._rng = rng

    def take(self, found: DrawnRequest) -> bool:
        """Return whether the request's release is in service here; otherwise it is left out.

        Raises:
            ProtocolError, InferenceError: its tensors are not those of the release.
        """
        slot = self._slots.slot(found.model)
        served = slot.active if slot is not None else None
        if served is None or (served.release.number, served.release.variant.name) != (found.release, found.variant):
            return False
        manifest, audit = served.release.manifest, self._policies.entry(found.model).audit
        inputs = {array.name: from_array(array) for array in found.inputs}
        check_arrays(inputs, manifest.inputs)
        outputs = {array.name: from_array(array) for array in found.outputs}
        check_arrays(outputs, manifest.outputs, kind="output")
        scores = score(served.release, outputs, served.task)
        self._listener.offered(
            Outcome(
                model=found.model,
                release=found.release,
                variant=found.variant,
                verdict=RoutingResult(served_by="edge"),
                latency_s=0.0,  # its record has it
                inputs=inputs,
                outputs=outputs,
                scores=scores,
                task=served.task,
            ),
            found.requests,
            found.rows,
        )
        if scores.answers and self._rng() * MILLION < audit.share_ppm * found.requests * found.rows:
            self._listener.audit(served, inputs, scores.answers)
        return True


class LocalDraws:
    """Hands every drawn request to `take`, which says whether its release is in service here.

    `counts`: what was `taken`, what was `refused` (malformed, or of a release that is gone), and what senders say that
    they had `lost` (this agent was busy) or found `too-large`.
    """

    def __init__(self, directory: Path, take: Callable[[DrawnRequest], bool], metrics: Metrics) -> None:
        self._path = directory / SOCKET
        self._take = take
        self.counts = {"taken": 0, "refused": 0, "lost": 0, "too-large": 0}
        metrics.gauge(
            "edge_local_draws",
            "Requests that applications drew from those they answered in process, by what became of them.",
            ("outcome",),
            lambda: [((name,), count) for name, count in self.counts.items()],
        )

    async def run(self) -> None:
        """Listen until cancelled."""
        await receive_datagrams(self._path, self._ready)

    def _ready(self, listener: socket.socket) -> None:
        """Take in one batch; the event loop comes back for the next, and others' requests come between."""
        try:
            _, descriptors, _, _ = socket.recv_fds(listener, 1, DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        try:
            for descriptor in descriptors:
                self._batch(_emptied(descriptor))
        except (ProtocolError, OSError) as error:
            log.info("a batch of drawn requests is refused: %s", error)
            self.counts["refused"] += 1
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _batch(self, data: bytes) -> None:
        if not data:
            return  # its sender took it back, and has sent another one since
        batch = decode_msgpack(data, DrawnBatch, limit=LIMIT)
        self.counts["lost"] += max(batch.lost, 0)
        self.counts["too-large"] += max(batch.too_large, 0)
        for drawn in _requests(batch, self._refused):
            try:
                taken = self._take(drawn)
            except (ProtocolError, AgentError) as error:
                self._refused(error)
            else:
                self.counts["taken" if taken else "refused"] += 1

    def _refused(self, error: Exception) -> None:
        log.info("a drawn request is refused: %s", error)
        self.counts["refused"] += 1


def _requests(batch: DrawnBatch, refused: Callable[[Exception], None]) -> Iterator[DrawnRequest]:
    for part in batch.drawn[:MOST]:
        try:
            drawn = decode_msgpack(bytes(part), DrawnRequest, limit=LIMIT)
            if not (1.0 <= drawn.requests <= 1e15 and 1 <= drawn.rows <= 1e9):
                raise MalformedError(f"a drawn request that stands for {drawn.requests} × {drawn.rows}")
        except ProtocolError as error:
            refused(error)
        else:
            yield drawn


def _emptied(descriptor: int) -> bytes:
    """Take the content of a sender's file, and leave it empty, which tells the sender to go on.

    Raises:
        OSError: it is no file in memory; another one might block the reader. TooLargeError: it is beyond `LIMIT`.
    """
    fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)  # only files in memory have seals
    size = os.fstat(descriptor).st_size
    data = os.pread(descriptor, LIMIT, 0) if size <= LIMIT else b""
    os.ftruncate(descriptor, 0)
    if size > LIMIT:
        raise TooLargeError(f"a batch of {size} bytes, at most {LIMIT} are read")
    return data
