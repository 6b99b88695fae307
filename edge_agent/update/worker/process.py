"""The child processes: `python -m edge_agent.update.worker.process look|trial|shadow DIR [BUNDLE]`.

`look` reads an `LookRequest` from the first line of stdin and writes JSON lines: one `looked`, one `offer`
or `refusal` per model, then `ready`. After that it does what lines on stdin say, `{"step":
"fetch"|"verify", "model": …, "held": …}`, one at a time, and ends when stdin does: the serving process writes its
state to the disk before it asks for a step. `trial` runs the self-test of one release under resource limits. `shadow`
is longer-lived: `edge_agent.shadow.child`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from edge_agent.config import AgentConfig, load
from edge_agent.errors import (
    AgentError,
    CorruptBlobError,
    DeltaError,
    OlderMetadataError,
    UnreadableError,
    UsageError,
    said,
)
from edge_agent.update.disk.store import Store
from edge_agent.update.download.throttle import Pace
from edge_agent.update.rules.hints import USED_TWICE
from edge_agent.update.rules.machine import Held
from edge_agent.update.worker.messages import Confined, Done, Failed, LookRequest, LookResult, Progress, Ready, Step
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import Blob, Manifest
from fleet.protocol.messages import IN_USE_TWICE, DeviceMe

if TYPE_CHECKING:
    from edge_agent.update.download.sources import Budgeted

_PR_SET_PDEATHSIG = 1
NICE = 10  # requests go first: an update may take longer, an answer may not
MOST_PATCHES = 4  # held files for which the hub is asked for a patch

log = logging.getLogger(__name__)


def main(argv: list[str]) -> int:
    """Entry point; exit code 0 when stdin ended, 1 after a `failed`."""
    kind, directory = argv[0], Path(argv[1])
    # The parent's death ends this process: nobody else may drive an update.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(NICE)
    config = load(directory)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if kind == "look":
        bundle = Path(argv[2]) if len(argv) > 2 else None
        return _guarded(lambda: Session(config, sys.stdin.buffer, sys.stdout.buffer, bundle=bundle).run())
    if kind == "trial":
        return _guarded(lambda: trial(config, msgspec.json.decode(sys.stdin.buffer.readline(), type=Held)))
    if kind == "shadow":
        from edge_agent.shadow import child

        return _guarded(lambda: child.run(config, sys.stdin.buffer, sys.stdout.buffer))
    raise UsageError(f"unknown kind of child {kind!r}")


def _guarded(work: Any) -> int:
    try:
        work()
    except (AgentError, ProtocolError, OSError, MemoryError) as error:
        emit(failed(error), sys.stdout.buffer)
        return 1
    return 0


def failed(error: Exception) -> Failed:
    """An error as a message; `reason` is its stable word."""
    reason, hint = said(error)
    return Failed(reason=reason, detail=str(error), hint=hint)


def emit(message: Struct, out: IO[bytes]) -> None:
    """One JSON line."""
    out.write(msgspec.json.encode(message) + b"\n")
    out.flush()


def trial(config: AgentConfig, held: Held) -> None:
    """The self-test under limits on memory, processor time, open files and written bytes, in a sandbox.

    The runtime is imported between the sandbox's two parts: its own threads are confined like any other,
    and what only its import needs (looking at the system, say) is not refused.

    Raises:
        AgentError: it did not pass; TrialError's word is `selftest-failed`.
    """
    from edge_agent.errors import TrialError
    from edge_agent.runtimes import selftest
    from edge_agent.update.worker.confining import confined

    store = Store(config.dir)
    limits = {resource.RLIMIT_CPU: (config.selftest_cpu_s, 5)}  # SIGXCPU comes first: SIGKILL might be anybody's
    manifest, in_force = confined(config, store, held, limits)
    emit(Confined(sandbox=in_force), sys.stdout.buffer)  # said first, since what comes may be the end of this process
    outcome = selftest.run(manifest, held.variant, store.blobs)
    if not outcome.passed:
        raise TrialError(outcome.reason or "the self-test failed", subject=held.variant)
    emit(Done(), sys.stdout.buffer)


def nearest(wanted: Step, held: Mapping[str, Iterable[Held]]) -> list[Held]:
    """The releases that are here: the same model's first, then those of the same variant."""
    here = [(model, release) for model, releases in held.items() for release in releases]
    here.sort(key=lambda pair: (pair[0] != wanted.model, pair[1].variant != wanted.held.variant))
    return [release for _, release in here]


def _uses(manifest: Manifest, variant: str) -> tuple[Blob | None, ...]:
    """What a release's blobs are used for, by place: model file, self-test, front, encoder; None where it has none."""
    front, sketch = manifest.in_front, manifest.sketch
    return (
        manifest.variant(variant).blob,
        manifest.selftest.blob,
        front.blob if front is not None else None,
        sketch.encoder if sketch is not None else None,
    )


class Session:
    """One look and the steps after it: at the hub, or at the folder `bundle` and nowhere else."""

    def __init__(
        self,
        config: AgentConfig,
        lines: Iterable[bytes],
        out: IO[bytes],
        *,
        clock: Callable[[], float] = time.time,
        bundle: Path | None = None,
    ) -> None:
        from edge_agent.identity.http import HubHttp
        from edge_agent.update.download.folder import FolderHub
        from edge_agent.update.download.sources import Sources, mirrors

        self._config, self._lines, self._out, self._clock = config, iter(lines), out, clock
        self._bundle = bundle
        self._hub: HubHttp | FolderHub = FolderHub(bundle) if bundle is not None else HubHttp(
            config.dir, connect_timeout_s=config.connect_timeout_s, clock=clock, clock_slack_s=config.clock_slack_s
        )  # fmt: skip
        self._store = Store(config.dir, reserve=config.disk_reserve_bytes)
        asked = config.mirrors if bundle is None else ()
        self._from = Sources(mirrors(asked, connect_timeout_s=config.connect_timeout_s), self._hub)

    def run(self) -> None:
        """Look, offer, then take steps until stdin ends."""
        self._look()
        for line in self._lines:
            step = msgspec.json.decode(line, type=Step)
            try:
                self._fetch(step) if step.step == "fetch" else self._verify(step)
            except (AgentError, ProtocolError, OSError) as error:
                emit(failed(error), self._out)
            else:
                emit(Done(), self._out)

    def _look(self) -> None:
        """Look; a hub that serves older metadata than it has signed is shown that once, and looked at again."""
        from edge_agent.identity.enroll import load_enrollment
        from edge_agent.update.worker import evidence, resolve_targets

        config = self._config
        asked = self._asked = msgspec.json.decode(next(self._lines), type=LookRequest)
        if asked.steps_only:
            emit(Ready(), self._out)
            return
        if not asked.device_id:  # the agent began to serve without its enrolment: who it is decides what it may run
            known = load_enrollment(config.dir)
            asked = msgspec.structs.replace(asked, device_id=known.device_id, channel=asked.channel or known.channel)
        mine = resolve_targets.me(self._hub, asked)
        trouble = self._keep_identity(mine)  # first: whatever is wrong with the metadata, the device stays reachable
        try:
            self._look_at(asked, mine, trouble)
        except OlderMetadataError:
            if self._bundle is not None or not evidence.show(self._hub, config.tuf, config.dir / "spool.db"):
                raise
            self._look_at(asked, mine, trouble)

    def _look_at(self, asked: LookRequest, mine: DeviceMe, trouble: tuple[str, str]) -> None:
        from edge_agent.identity.enroll import first_root
        from edge_agent.update import bundled
        from edge_agent.update.worker import resolve_targets, tuf_client

        config = self._config
        pace = Pace(
            deadline_s=config.metadata_deadline_s, min_bytes_per_s=config.min_bytes_per_s, grace_s=config.grace_s
        )
        fetcher = tuf_client.Fetcher(self._hub, pace, gap_timeout_s=config.gap_timeout_s)
        root = first_root(config.dir)
        floor = tuf_client.TimeFloor(config.dir / "time-floor", slack_s=config.clock_slack_s)
        remedy = bundled.REMEDY if self._bundle is not None else ""
        with tuf_client.opened(config.tuf, root, fetcher, floor, clock=self._clock, remedy=remedy) as trusted:
            seen = resolve_targets.looked(trusted, mine, asked)
            found: list[Struct] = []
            if seen.channel is not None:
                found += resolve_targets.offers(trusted, seen.channel, mine, asked, self._store)
                found += resolve_targets.beside(trusted, seen.channel, mine, asked, self._store)
            seen = resolve_targets.identified(resolve_targets.concluded(seen, trusted), config.identity, trouble)
        for message in (LookResult(looked=seen), *found):
            emit(message, self._out)
        emit(Ready(), self._out)

    def _keep_identity(self, mine: DeviceMe) -> tuple[str, str]:
        """Follow the broker and renew the certificate as the hub says; the first problem in a word and in detail."""
        from edge_agent.identity.renew import follow

        trouble = (IN_USE_TWICE, USED_TWICE) if mine.in_use_twice else ("", "")
        for word, work in (
            ("broker-not-followed", lambda: follow(self._config.dir, mine)),
            ("certificate-not-renewed", lambda: self._renew(mine)),
        ):
            try:
                work()
            except (AgentError, ProtocolError, OSError) as error:
                trouble = trouble if trouble[0] else (word, str(error))
        return trouble

    def _renew(self, mine: DeviceMe) -> None:
        """Also without being told to where the disk damaged the certificate: the key proves who this is."""
        from edge_agent.identity.certificates import fits
        from edge_agent.identity.renew import renew

        if mine.renew or (self._bundle is None and not fits(self._config.identity)):
            renew(self._hub, self._config.identity)

    def _fetch(self, step: Step) -> None:
        from edge_agent.update.download.sources import Budgeted

        blobs = self._blobs(step.held)
        self._store.check_space(blobs)
        total = sum(blob.size for blob in blobs) or 1
        here = total - sum(blob.size for blob in blobs if not self._store.has(blob))
        received, shown = 0, time.monotonic()
        network = int(self._bundle is None)  # a folder's bytes cost the day's budget nothing
        pace = Pace(
            min_bytes_per_s=self._config.min_bytes_per_s, grace_s=self._config.grace_s,
            max_bytes_per_s=step.max_bytes_per_s,
        )  # fmt: skip

        def progress(count: int) -> None:
            nonlocal received, shown
            received += count
            if time.monotonic() - shown >= 0.5:
                shown = time.monotonic()
                emit(Progress(share=min(1.0, (here + received) / total), received=network * received), self._out)

        budget = Budgeted(None if self._bundle is not None else step.allowance)
        try:
            for blob in blobs:
                with self._store.alone(blob):
                    self._try_delta(step, blob, pace, progress, budget)
                    self._from.fetch(
                        self._store, blob, pace=pace, progress=progress, budget=budget,
                        gap_timeout_s=self._config.gap_timeout_s,
                    )  # fmt: skip
        except OSError as error:
            if error.errno == errno.ENOSPC:
                self._store.check_space(blobs)  # somebody took the reserve, too: this says how much is missing
            raise
        finally:  # what came counts, whatever became of it
            emit(Progress(share=min(1.0, (here + received) / total), received=network * received), self._out)
        emit(Progress(share=1.0, received=network * received), self._out)

    def _try_delta(self, step: Step, blob: Blob, pace: Pace, progress: Callable[[int], None], budget: Budgeted) -> None:
        """Make a file from one of the same use that is here, where the hub offers a patch that saves bytes.

        Raises:
            UnreachableError, FetchError: the patch broke off; the rest of it is less than the whole file.
        """
        from edge_agent.update.download.delta import fetch_delta

        if self._store.has(blob) or self._from.free(blob):
            return
        left_s = step.patch_s
        for old in self._held_files(step, blob):
            if left_s <= 0:
                return
            begun = time.monotonic()
            try:
                fetch_delta(
                    self._hub, self._store, blob, old, pace=pace, progress=progress, budget=budget,
                    beside=step.beside, apply_s=left_s, gap_timeout_s=self._config.gap_timeout_s,
                )  # fmt: skip
                return
            except DeltaError as error:
                log.info("%s", error)
                left_s -= time.monotonic() - begun

    def _held_files(self, wanted: Step, blob: Blob) -> list[str]:
        """The files here that `blob` might be made from: those of the nearest releases that serve as it does."""
        use = _uses(self._store.manifest(wanted.held.manifest), wanted.held.variant).index(blob)
        found: dict[str, None] = {}
        for held in nearest(wanted, self._asked.held)[:MOST_PATCHES]:
            with contextlib.suppress(CorruptBlobError, UnreadableError, ProtocolError):
                old = _uses(self._store.manifest(held.manifest), held.variant)[use]
                if old is not None and self._store.has(old):
                    found[old.sha256] = None
        found.pop(blob.sha256, None)
        return list(found)

    def _verify(self, step: Step) -> None:
        for blob in self._blobs(step.held):
            with self._store.alone(blob):
                self._store.verify(blob) if self._store.has(blob) else self._store.accept(blob)

    def _blobs(self, held: Held) -> tuple[Blob, ...]:
        manifest = self._store.manifest(held.manifest)
        return manifest.needed_for(manifest.variant(held.variant))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
