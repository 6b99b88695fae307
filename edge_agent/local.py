"""Inference in the application's own process: no hop at all, same releases, same verification.

    model = open_model(Path("/var/lib/edge-agent"), "digits")
    answer = model.infer({"input": x})        # x (n, …) as the manifest says
    answer.outputs, answer.release, answer.confidence

The application reads the agent's store (group `edgeloop`): it opens a blob once, hashes what it read
and loads those bytes. Swaps are followed by a look at `state.json`'s inode and time at each call.
What happened goes one way to the agent through a datagram socket that never blocks, marked
`source=local`; without a running agent it is dropped.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from pathlib import Path
from typing import Literal, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from edge_agent import runtimes
from edge_agent.errors import AgentError, NotFoundError
from edge_agent.ports import Arrays, InstalledRelease, LoadedModel
from edge_agent.serving.scores import Scores, score
from edge_agent.update.machine import Held
from edge_agent.update.state import read_state
from edge_agent.update.store import Store
from fleet.protocol import oip
from fleet.protocol.codec import encode_msgpack
from fleet.protocol.errors import ProtocolError, RefusalError
from fleet.protocol.interface import takes
from fleet.runtimes import InputError
from fleet.runtimes.models import unfair

__all__ = ["Answer", "LocalModel", "LocalRecord", "open_model"]

log = logging.getLogger(__name__)

SOCKET = "local.sock"
RECORD_LIMIT = 16 << 10  # bytes of one datagram
DETAIL_LIMIT = 200  # characters


class LocalRecord(Struct, frozen=True, kw_only=True):
    """One in-process request, for the agent's windows.

    `refused` is why the release did not take it (`errors.REFUSALS`), `detail` that in words; `newly`: the release
    before it would have.
    """

    source: Literal["local"] = "local"
    model: str
    release: int
    variant: str
    latency_s: float
    failed: bool = False
    confidence: tuple[float, ...] = ()
    classes: tuple[int, ...] = ()
    refused: str = ""
    newly: bool = False
    detail: str = ""


class Answer(NamedTuple):
    """Outputs by name, and per row the calibrated confidence and class (empty without classes)."""

    outputs: Arrays
    release: int
    confidence: tuple[float, ...]
    classes: tuple[int, ...]


class LocalModel:
    """The active release of one model; may be used from several threads."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._state = directory / "state.json"
        self._lock = threading.Lock()
        self._mark: tuple[int, int] | None = None
        self._held: Held | None = None
        self._loaded: tuple[InstalledRelease, LoadedModel] | None = None
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._follow()

    @property
    def release(self) -> int:
        """The number of the release in memory."""
        return self._current()[0].number

    def infer(self, inputs: Arrays) -> Answer:
        """Answer one request.

        Raises:
            RefusalError: inputs that are not what the model takes (NaN and infinity are not, unless its manifest
                says so), or a batch that it failed on and need not take.
            InferenceError: it answered NaN or infinity.
            ValueError, RuntimeError and whatever else the runtime raises: it failed.
        """
        started = time.perf_counter()
        with self._lock:
            self._follow()
            release, model = self._current()
            request = oip.InferRequest(inputs=tuple(oip.TensorValue(*item) for item in inputs.items()))
            try:
                checked = oip.check_request(request, release.manifest.inputs, release.manifest.outputs)
            except RefusalError as error:
                self._tell_refused(release, time.perf_counter() - started, error, newly=takes(release.former, request))
                raise
            try:
                outputs = model.run(checked)
                scores = score(release, outputs)
            except InputError as error:
                refusal = RefusalError(str(error), word="value", hint=error.hint)
                self._tell_refused(release, time.perf_counter() - started, refusal, newly=False)
                raise refusal from error
            except Exception as error:
                reason = unfair(checked, release.manifest.inputs)
                if reason:  # the caller's mistake must not count against the release
                    refusal = RefusalError(reason, word="batch")
                    self._tell_refused(release, time.perf_counter() - started, refusal, newly=False)
                    raise refusal from error
                self._tell(release, time.perf_counter() - started, Scores(), failed=True)
                raise
        self._tell(release, time.perf_counter() - started, scores, failed=False)
        return Answer(outputs, release.number, scores.confidence, scores.classes)

    def close(self) -> None:
        """Give model and socket back."""
        with self._lock:
            if self._loaded is not None:
                self._loaded[1].close()
                self._loaded = None
            self._socket.close()

    def _current(self) -> tuple[InstalledRelease, LoadedModel]:
        if self._loaded is None:
            raise NotFoundError(f"model {self._name!r} is closed", subject=self._name)
        return self._loaded

    def _follow(self) -> None:
        """Load the active release when the state file changed; a failure keeps what is loaded."""
        try:
            found = self._state.stat()
            mark = (found.st_ino, found.st_mtime_ns)
            if mark == self._mark:
                return
            held, former = self._active()
            if held != self._held:
                fresh = self._load(held, former)
                old, self._loaded, self._held = self._loaded, fresh, held
                if old is not None:
                    old[1].close()
            self._mark = mark
        except (AgentError, ProtocolError, OSError) as error:
            if self._loaded is None:
                raise NotFoundError(
                    f"model {self._name!r} cannot be opened from {self._directory}: {error}",
                    subject=self._name,
                    hint=f"edge-agent status --dir {self._directory}",
                ) from error
            log.warning("model %s stays at release %d: %s", self._name, self._loaded[0].number, error)

    def _active(self) -> tuple[Held, Held | None]:
        """What serves, and what served before it."""
        state = read_state(self._directory).models.get(self._name)
        if state is None or state.active is None:
            raise NotFoundError(f"model {self._name!r} is not installed", subject=self._name)
        return state.active, state.previous

    def _load(self, held: Held, former: Held | None) -> tuple[InstalledRelease, LoadedModel]:
        release = Store(self._directory).open(self._name, held, former)
        runtime = runtimes.for_variant(release.variant)
        data = release.open_blob(release.variant.blob.sha256)
        return release, runtime.load(data, release.manifest, release.variant)

    def _tell(self, release: InstalledRelease, latency_s: float, scores: Scores, *, failed: bool) -> None:
        record = LocalRecord(
            model=release.model,
            release=release.number,
            variant=release.variant.name,
            latency_s=latency_s,
            failed=failed,
            confidence=scores.confidence,
            classes=scores.classes,
        )
        self._send(record)

    def _tell_refused(self, release: InstalledRelease, latency_s: float, why: RefusalError, *, newly: bool) -> None:
        self._send(
            LocalRecord(
                model=release.model,
                release=release.number,
                variant=release.variant.name,
                latency_s=latency_s,
                refused=why.word,
                newly=newly,
                detail=str(why)[:DETAIL_LIMIT],
            )
        )

    def _send(self, record: LocalRecord) -> None:
        data = encode_msgpack(record)
        if len(data) > RECORD_LIMIT:  # a very large batch: its scores stay out
            data = encode_msgpack(replace(record, confidence=(), classes=()))
        try:
            self._socket.sendto(data, str(self._directory / SOCKET))
        except OSError as error:  # no agent, or one that is busy: the answer matters, the record does not
            log.debug("a local record is dropped: %s", error)


def open_model(directory: Path | str, name: str) -> LocalModel:
    """Open the active release of `name` from an agent's directory.

    Raises:
        NotFoundError: nothing installed there, or it cannot be loaded; the message says why.
    """
    return LocalModel(Path(directory), name)
