"""The child processes: `python -m edge_agent.update.worker.process look|trial|shadow DIR [BUNDLE]`.

`look` reads an `LookRequest` from the first line of stdin and writes JSON lines: one `looked`, one `offer`
or `refusal` per model, then `ready`. After that it does what lines on stdin say, `{"step":
"fetch"|"verify", "model": …, "held": …}`, one at a time, and ends when stdin does: the serving process writes its
state to the disk before it asks for a step. `trial` runs the self-test of one release under resource limits. `shadow`
is longer-lived: `edge_agent.shadow.child`.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec
from msgspec import Struct

from edge_agent.config import AgentConfig, load_config
from edge_agent.errors import AgentError, OlderMetadataError, UsageError, said
from edge_agent.host.child_process import end_with_parent, leave_no_core
from edge_agent.update.disk.store import Store
from edge_agent.update.download.throttle import DownloadPace
from edge_agent.update.messages import Confined, Failed, LookRequest, LookResult, Ready, StepDone, StepRequest
from edge_agent.update.rules.model_state import HeldRelease
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import DeviceMe

if TYPE_CHECKING:
    from edge_agent.identity.upkeep import IdentityTrouble

NICE = 10  # requests go first: an update may take longer, an answer may not


def main(argv: list[str]) -> int:
    """Entry point; exit code 0 when stdin ended, 1 after a `failed`."""
    kind, directory = argv[0], Path(argv[1])
    end_with_parent()
    os.nice(NICE)
    config = load_config(directory)
    leave_no_core()
    if kind == "look":
        bundle = Path(argv[2]) if len(argv) > 2 else None
        return _guarded(lambda: Session(config, sys.stdin.buffer, sys.stdout.buffer, bundle=bundle).run())
    if kind == "trial":
        return _guarded(lambda: trial(config, msgspec.json.decode(sys.stdin.buffer.readline(), type=HeldRelease)))
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


def trial(config: AgentConfig, held: HeldRelease) -> None:
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
    emit(StepDone(), sys.stdout.buffer)


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
        from edge_agent.update.download.release import Download

        self._config, self._lines, self._out, self._clock = config, iter(lines), out, clock
        self._bundle = bundle
        timeout_s, slack_s = config.connect_timeout_s, config.clock_slack_s
        self._hub: HubHttp | FolderHub = (
            FolderHub(bundle)
            if bundle is not None
            else HubHttp(config.dir, connect_timeout_s=timeout_s, clock=clock, clock_slack_s=slack_s)
        )
        self._store = Store(config.dir, reserve=config.disk_reserve_bytes)
        self._download = Download(
            config, self._store, self._hub, lambda progress: emit(progress, out), metered=bundle is None
        )

    def run(self) -> None:
        """Look, offer, then take steps until stdin ends."""
        self._look()
        for line in self._lines:
            step = msgspec.json.decode(line, type=StepRequest)
            try:
                if step.step == "fetch":
                    self._download.fetch(step, self._asked.held)
                else:
                    self._download.verify(step.held)
            except (AgentError, ProtocolError, OSError) as error:
                emit(failed(error), self._out)
            else:
                emit(StepDone(), self._out)

    def _look(self) -> None:
        """Look; a hub that serves older metadata than it has signed is shown that once, and looked at again."""
        config = self._config
        asked = self._asked = msgspec.json.decode(next(self._lines), type=LookRequest)
        if asked.steps_only:
            emit(Ready(), self._out)
            return
        from edge_agent.identity import upkeep
        from edge_agent.identity.enroll import load_enrollment
        from edge_agent.update.worker import evidence, resolve_targets

        if not asked.device_id:  # the agent began to serve without its enrolment: who it is decides what it may run
            known = load_enrollment(config.dir)
            asked = msgspec.structs.replace(asked, device_id=known.device_id, channel=asked.channel or known.channel)
        mine = resolve_targets.me(self._hub, asked)
        # First: whatever is wrong with the metadata, the device stays reachable.
        trouble = upkeep.keep_identity(config, mine, at_hub=self._bundle is None)
        try:
            self._look_at(asked, mine, trouble)
        except OlderMetadataError:
            if self._bundle is not None or not evidence.show(self._hub, config.tuf, config.dir / "spool.db"):
                raise
            self._look_at(asked, mine, trouble)

    def _look_at(self, asked: LookRequest, mine: DeviceMe, trouble: IdentityTrouble) -> None:
        from edge_agent.identity.enroll import first_root
        from edge_agent.update import bundled
        from edge_agent.update.worker import resolve_targets, tuf_client

        config = self._config
        pace = DownloadPace(
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
                found += resolve_targets.offers(trusted, seen.channel, mine, asked, self._store, self._hub)
                found += resolve_targets.beside(trusted, seen.channel, mine, asked, self._store, self._hub)
            seen = resolve_targets.identified(resolve_targets.concluded(seen, trusted), config.identity, trouble)
        for message in (LookResult(looked=seen), *found):
            emit(message, self._out)
        emit(Ready(), self._out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
