"""Inference in the application's own process: no hop at all, same releases, same verification.

    with open_model(Path("/var/lib/edge-agent"), "digits") as model:
        answer = model.infer({"input": x})        # x (n, …) as the manifest says
        answer.outputs, answer.release, answer.confidence

The application reads the agent's store (group `edgeloop`): it opens a blob once, hashes what it read and loads those
bytes. Swaps are followed by a look at `state.json`'s inode and time, at most every `LOOK_S` seconds and always after a
pause. What happened goes one way to the agent, in batches (`in_process.records`), marked `source=local`; so do requests
that are drawn for sketches, samples and audits (`in_process.draws`). Without a running agent both are dropped.

A model may be used from several threads, and goes on in a process that was forked with it: a fork waits for the
request under way, and the child tells of its own requests only. Close it, or leave the `with` block, where a process
ends by `os._exit`, as multiprocessing's children do: else what happened within the last `FLUSH_S` is not told.
"""

from __future__ import annotations

import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edge_agent import runtimes
from edge_agent.errors import AgentError, NotFoundError
from edge_agent.in_process.draws import SUPPORTED, Draws
from edge_agent.in_process.records import Entry, Outbox
from edge_agent.ports import Arrays, InstalledRelease, LoadedModel, load_variant
from edge_agent.serving.scores import PendingScores, score_later
from edge_agent.update.disk.state import AgentState, read_state
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol import oip
from fleet.protocol.asking import ready_arrays, specs_of
from fleet.protocol.errors import ProtocolError, RefusalError
from fleet.protocol.inputs import check_arrays
from fleet.protocol.interface import takes
from fleet.runtimes import InputError
from fleet.runtimes.models import unfair
from fleet.runtimes.prepared import Before

__all__ = ["LOOK_S", "Answer", "LocalModel", "open_model"]

log = logging.getLogger(__name__)

LOOK_S = 0.1  # a swap is followed by the first request that is at least this much later than the last look


class Answer:
    """Outputs by name, and per row the calibrated confidence and class (empty without classes).

    Confidence and classes are computed when they are first read; they are of the outputs as the model gave them,
    whatever the caller has done to the arrays since. Unpacks as `(outputs, release, confidence, classes)`.
    """

    __slots__ = ("_scores", "outputs", "release")

    def __init__(self, outputs: Arrays, release: int, scores: PendingScores) -> None:
        self.outputs = outputs
        self.release = release
        self._scores = scores

    @property
    def confidence(self) -> tuple[float, ...]:
        """Per row, between 0 and 1."""
        return self._scores.get().confidence

    @property
    def classes(self) -> tuple[int, ...]:
        """The class numbers in the answers: per row of a classification the most probable class."""
        return self._scores.get().classes

    @property
    def names(self) -> tuple[str, ...]:
        """The names of `classes`; the numbers as text where the release has no names."""
        return self._scores.names()

    def __iter__(self) -> Iterator[Any]:
        return iter((self.outputs, self.release, self.confidence, self.classes))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, place: int | slice) -> Any:
        return tuple(self)[place]

    def __repr__(self) -> str:
        outputs, release, confidence, classes = self
        return f"Answer({outputs=}, {release=}, {confidence=}, {classes=})"


_opened: weakref.WeakSet[LocalModel] = weakref.WeakSet()
_forking = threading.Lock()
_paused: list[LocalModel] = []  # while a fork is under way


class LocalModel:
    """The active release of one model; may be used from several threads. `now` is monotonic, seconds."""

    def __init__(self, directory: Path, name: str, *, now: Callable[[], float] = time.perf_counter) -> None:
        self._directory = directory
        self._name = name
        self._now = now
        self._state = directory / "state.json"
        self._lock = threading.RLock()
        self._mark: tuple[int, int] | None = None
        self._held: HeldRelease | None = None
        self._loaded: tuple[InstalledRelease, LoadedModel] | None = None
        self._look_at = 0.0
        self._drawing = False
        self._follow()
        self._draws = Draws(directory)
        self._outbox = Outbox(directory, self._draws)
        # When the process ends, or nobody holds the model any more.
        self._close_outbox = weakref.finalize(self, self._outbox.close)
        with _forking:  # which goes through all of them
            _opened.add(self)

    @property
    def release(self) -> int:
        """The number of the release that the next request is answered by; looks at the state file now."""
        with self._lock:
            self._current()
            self._follow()
            return self._current()[0].number

    @property
    def steps(self) -> Before | None:
        """The steps that the release applies to raw tensors, with its front, `digest` and `ready`; None for none."""
        with self._lock:
            self._current()
            self._follow()
            return getattr(self._current()[1], "before", None)

    def infer(self, inputs: Arrays, *, ready: str = "") -> Answer:
        """Answer one request.

        Args:
            ready: the digest of the release's preprocessing steps (`steps`), when the inputs are what these make.

        Raises:
            RefusalError: inputs that are not what the model takes (NaN and infinity are not, unless its manifest
                says so), or a batch that it failed on and need not take.
            InferenceError: it answered NaN or infinity.
            ValueError, RuntimeError and whatever else the runtime raises: it failed.
        """
        started = self._now()
        if not isinstance(inputs, dict | Mapping):
            raise RefusalError(
                f"inputs are a {type(inputs).__name__}, not arrays by name", word="name", hint="{'NAME': array}"
            )
        with self._lock:
            release, model = self._current()
            if started >= self._look_at:
                self._follow()
                release, model = self._current()
            try:
                if ready:
                    before = getattr(model, "before", None)
                    inputs = ready_arrays(inputs, ready, before.pipeline if before is not None else None)
                else:
                    check_arrays(inputs, release.manifest.inputs)
            except RefusalError as error:
                asked = oip.InferRequest(inputs=tuple(map(oip.TensorValue, inputs, inputs.values())))
                self._tell_failed(release, started, error, newly=takes(release.former, asked))
                raise
            try:
                outputs = model.run(inputs)
                scores = score_later(release, outputs)
            except Exception as error:
                refusal = _refusal(release, inputs, error)
                self._tell_failed(release, started, refusal, newly=False)
                if refusal is None:
                    raise
                raise refusal from error
            if self._drawing and not ready:  # of ready inputs nobody knows the raw ones
                self._draws.offer(release, inputs, outputs)
        self._outbox.put(Entry(release, self._now() - started, scores))
        return Answer(outputs, release.number, scores)

    def close(self) -> None:
        """Give the model back, and tell the agent what it has not heard yet."""
        with self._lock:
            if self._loaded is not None:
                self._loaded[1].close()
                self._loaded = None
        self._close_outbox()

    def __enter__(self) -> LocalModel:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _tell_failed(self, release: InstalledRelease, started: float, why: RefusalError | None, *, newly: bool) -> None:
        """Tell of a request without an answer; `why` is None where the model failed."""
        self._outbox.put(Entry(release, self._now() - started, None, why is None, why, newly), soon=True)

    def _current(self) -> tuple[InstalledRelease, LoadedModel]:
        if self._loaded is None:
            raise NotFoundError(f"model {self._name!r} is closed", subject=self._name)
        return self._loaded

    def _follow(self) -> None:
        """Load the active release when the state file changed; a failure keeps what is loaded."""
        self._look_at = self._now() + LOOK_S
        try:
            found = self._state.stat()
            mark = (found.st_ino, found.st_mtime_ns)
            if mark == self._mark:
                return
            state = read_state(self._directory)
            held, former = self._active(state)
            if held != self._held:
                fresh = self._load(held, former)
                old, self._loaded, self._held = self._loaded, fresh, held
                if old is not None:
                    old[1].close()
            self._drawing = self._loaded is not None and SUPPORTED
            self._mark = mark
        except (AgentError, ProtocolError, OSError) as error:
            if self._loaded is None:
                raise NotFoundError(
                    f"model {self._name!r} cannot be opened from {self._directory}: {error}",
                    subject=self._name,
                    hint=f"edge-agent status --dir {self._directory}",
                ) from error
            log.warning("model %s stays at release %d: %s", self._name, self._loaded[0].number, error)

    def _active(self, state: AgentState) -> tuple[HeldRelease, HeldRelease | None]:
        """Return the release that serves, and the one that served before it."""
        model = state.models.get(self._name)
        if model is None or model.active is None:
            raise NotFoundError(f"model {self._name!r} is not installed", subject=self._name)
        return model.active, model.previous

    def _load(self, held: HeldRelease, former: HeldRelease | None) -> tuple[InstalledRelease, LoadedModel]:
        release = Store(self._directory).open(self._name, held, former)
        runtime = runtimes.for_variant(release.variant)
        return release, load_variant(runtime, release.open_blob, release.manifest, release.variant)


def _refusal(release: InstalledRelease, inputs: Arrays, error: Exception) -> RefusalError | None:
    """The error as the caller's mistake, which must not count against the release; None where it is the model's."""
    if isinstance(error, InputError):
        return RefusalError(str(error), word="value", hint=error.hint)
    reason = unfair(inputs, specs_of(inputs, release.manifest))
    return RefusalError(reason, word="batch") if reason else None


def open_model(directory: Path | str, name: str) -> LocalModel:
    """Open the active release of `name` from an agent's directory.

    Raises:
        NotFoundError: nothing installed there, or it cannot be loaded; the message says why.
    """
    return LocalModel(Path(directory), name)


def _before_fork() -> None:
    """Let no request be under way: its locks, the runtime's too, would stay shut in the child for ever."""
    _forking.acquire()
    _paused.extend(_opened)
    for model in _paused:
        model._lock.acquire()


def _after_fork_in_parent() -> None:
    try:
        for model in _paused:
            model._lock.release()
    finally:
        _paused.clear()
        _forking.release()


def _after_fork_in_child() -> None:
    for model in _paused:
        model._outbox.after_fork()
    _after_fork_in_parent()


os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
