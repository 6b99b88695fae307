"""Installing from a bundle: one look at a folder in the place of the hub, by whichever process holds the agent's lock.

A running agent is asked by a file, `install.json` in its directory: whoever may write there may steer the agent
anyway, while its local API is open to every user of the machine. The answer lies beside it in `installed.json`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from edge_agent.errors import AgentError, LateError, UpdateError, said
from edge_agent.host.durable import write_durably
from edge_agent.update.bundled import Bundle
from edge_agent.update.download.folder import check_bundle
from edge_agent.update.messages import LookRequest, Message, Offer, Refusal, StepRequest
from edge_agent.update.worker.client import LookChild, ProcessChildren
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError
from fleet.protocol.messages import ModelReport

if TYPE_CHECKING:
    from edge_agent.update.updater import Updater

log = logging.getLogger(__name__)

REQUEST, ANSWER = "install.json", "installed.json"
LIMIT = 1 << 20  # bytes of either file
TICK_S = 0.5  # between two looks for a request, which cost one stat each
PATIENCE_S = 600.0


class InstallRequest(Struct, frozen=True, kw_only=True):
    """The request of `edge-agent install` to a running agent."""

    id: str
    folder: str


class Installed(Struct, frozen=True, kw_only=True):
    """The outcome for one model; `reason` is empty when the release that the bundle names is in service."""

    model: str
    wanted: int
    active: int | None
    state: str
    reason: str = ""
    detail: str = ""
    hint: str = ""


class InstallResult(Struct, frozen=True, kw_only=True):
    """The result of an install. `reason` says why the bundle as a whole was refused; then nothing changed.

    `by` says which process installed: the command's own, or the agent that ran already.
    """

    id: str = ""
    folder: str = ""
    by: Literal["command", "agent"] = "command"
    models: tuple[Installed, ...] = ()
    left_out: tuple[str, ...] = ()  # models of the channel for which the bundle was not made: they stay as they are
    reason: str = ""
    detail: str = ""
    hint: str = ""

    @property
    def done(self) -> bool:
        """Everything for which the bundle was made is in service."""
        return not self.reason and all(not model.reason for model in self.models)


def last(directory: Path) -> dict[str, Any] | None:
    """Read the result of the last bundle, in the words of `edge-agent status`; None where there is nothing to read."""
    try:
        with (directory / ANSWER).open("rb") as file:
            found = decode_json(file.read(LIMIT + 1), InstallResult, limit=LIMIT, subject=ANSWER)
            at = os.fstat(file.fileno()).st_mtime
    except (OSError, ProtocolError):
        return None
    blamed: InstallResult | Installed = next((model for model in found.models if model.reason), found)
    return {
        "folder": found.folder,
        "at": at,
        "done": found.done,
        "reason": found.reason or blamed.reason,
        "detail": found.detail or blamed.detail,
        "hint": found.hint or blamed.hint,
    }


class Installer:
    """Implements `Children`: starts the updater's children, at the bundle while one is being installed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ordinary = ProcessChildren(directory)
        self.trial = self._ordinary.trial
        self._bundle: Bundle | None = None

    async def start(self) -> LookChild:
        """See `Children`."""
        if self._bundle is None:
            return await self._ordinary.start()
        return _Listening(await ProcessChildren(self._directory, self._bundle.folder).start(), self._bundle)

    async def install(self, updater: Updater, folder: Path, name: str = "") -> InstallResult:
        """Run one update cycle from `folder`; a fetch from the hub that is under way ends first and is resumed later.

        The result stays on the disk for the one who asked, and for `edge-agent status`.

        Args:
            updater: runs the cycle.
            folder: a bundle.
            name: of the result on the disk; empty for one that nobody waits for.
        """
        outcome = replace(await self._install(updater, folder, name), folder=str(folder.absolute()))
        self._answer(outcome)
        return outcome

    async def _install(self, updater: Updater, folder: Path, name: str) -> InstallResult:
        trouble: Exception | None = None
        bundle = Bundle(folder)
        updater.wake("a bundle is installed")
        async with updater.looking:
            self._bundle, updater.by_hand = bundle, True
            try:
                check_bundle(folder)
                await updater.look_now()
            except (AgentError, ProtocolError, OSError) as error:
                log.warning("install from %s: %s", folder, error)
                trouble = error
                _note(updater, folder, error)
            finally:
                self._bundle, updater.by_hand = None, False
        return _outcome(name, bundle, updater, trouble)

    async def run(self, updater: Updater) -> None:
        """Do what request files ask for, for ever."""
        while True:
            await asyncio.sleep(TICK_S)
            path = self._directory / REQUEST
            if not path.exists():
                continue
            try:
                request = decode_json(path.read_bytes(), InstallRequest, limit=LIMIT, subject=REQUEST)
            except (ProtocolError, OSError) as error:
                log.warning("a request to install is not understood: %s", error)
                self._answer(_not_understood(error))
            else:
                await self.install(updater, Path(request.folder), request.id)
            path.unlink(missing_ok=True)  # last: a request that a power loss interrupts is taken up again

    def _answer(self, outcome: InstallResult) -> None:
        try:
            write_durably(self._directory / ANSWER, encode_json(outcome))
        except OSError as error:  # who asked sees that the request has gone, and is told so
            log.error("what became of the bundle cannot be written: %s", error)


class _Listening:
    """A `LookChild` at a bundle, which hears everything first."""

    def __init__(self, child: LookChild, bundle: Bundle) -> None:
        self._child, self._bundle = child, bundle

    async def look(self, asked: LookRequest) -> list[Message]:
        self._bundle.channel = asked.channel
        try:
            messages = await self._child.look(asked)
        except AgentError as error:
            raise self._bundle.refused(error) from error
        return self._bundle.heard(asked, messages)

    async def step(self, step: StepRequest) -> AsyncIterator[Message]:
        async for message in self._child.step(step):
            yield self._bundle.advised(message)

    async def close(self) -> None:
        await self._child.close()


def _note(updater: Updater, folder: Path, error: Exception) -> None:
    """Have `status` and the hub told, as after a look at the hub that failed."""
    reason, hint = said(error)
    updater.note_problem(UpdateError(f"bundle {folder}: {error}", subject=str(folder), reason=reason, hint=hint))


def _not_understood(error: Exception) -> InstallResult:
    """The answer to a request whose id nobody can read."""
    return InstallResult(
        reason="bad-request",
        detail=f"the agent cannot read the request: {error}",
        hint="run edge-agent install as the agent's user, of the same version",
    )


def ask_agent_to_install(
    directory: Path, folder: Path, *, patience_s: float = PATIENCE_S, pause: float = TICK_S / 2
) -> InstallResult:
    """Have the running agent install from a folder, and wait for the result.

    Args:
        directory: the agent's.
        folder: a bundle.
        patience_s: seconds to wait.
        pause: seconds between two looks.

    Raises:
        LateError: no answer in `patience_s`; the agent may still be at it.
        AgentError: it has done with the request, but could not write its answer.
    """
    request = InstallRequest(id=uuid.uuid4().hex, folder=str(folder.resolve()))
    until = time.monotonic() + patience_s
    while True:
        before = _mark(directory / ANSWER)
        if _told(directory, request) or time.monotonic() >= until:
            break
        time.sleep(pause)
    while time.monotonic() < until:
        time.sleep(pause)
        gone = not (directory / REQUEST).exists()  # asked first: the answer is written before
        if _mark(directory / ANSWER) != before:
            outcome = decode_json((directory / ANSWER).read_bytes(), InstallResult, limit=LIMIT, subject=ANSWER)
            if outcome.id in (request.id, ""):
                return replace(outcome, by="agent")
        if gone:
            raise AgentError(
                "the running agent took the request, but its answer is missing",
                subject=str(directory),
                hint=f"edge-agent status --dir {directory} says what became of it, the agent's log why",
            )
    raise LateError(
        f"the running agent has not answered after {patience_s:g} s",
        subject=str(directory),
        hint=f"it may still be at it: edge-agent status --dir {directory}",
    )


def _told(directory: Path, request: InstallRequest) -> bool:
    """Put the request there, whole; false while the agent is still busy with another one."""
    if (directory / REQUEST).exists():
        return False
    draft = directory / f".{REQUEST}.{request.id}"
    write_durably(draft, encode_json(request))
    try:
        os.link(draft, directory / REQUEST)  # never in the place of a request that somebody else waits for
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    log.info("an agent runs in %s: it is asked to install %s", directory, request.folder)
    return True


def _mark(path: Path) -> tuple[int, int] | None:
    """Differs when the file was written anew."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def _outcome(name: str, bundle: Bundle, updater: Updater, trouble: Exception | None) -> InstallResult:
    last = {m.model: m for m in bundle.said if isinstance(m, Offer | Refusal)}
    models = tuple(_installed(updater.report(model), m) for model, m in last.items())
    looked = updater.file.state.looked
    outcome = InstallResult(id=name, models=models, left_out=tuple(bundle.left_out))
    if trouble is not None and not any(model.reason for model in models):
        reason, hint = said(trouble)
        return replace(outcome, reason=reason, detail=str(trouble), hint=hint)
    if looked.channel is None:
        return replace(
            outcome,
            reason=looked.problem or "no-channel",
            detail=f"nobody has signed channel {bundle.channel!r}, which this device follows",
            hint=looked.hint or "fleet channel list names those that there are",
        )
    if not models:
        return replace(
            outcome,
            reason="no-model",
            detail=f"the bundle was made for no model of channel {bundle.channel!r}",
            hint=f"fleet channel show {bundle.channel}",
        )
    return outcome


def _installed(report: ModelReport, said: Offer | Refusal) -> Installed:
    """Compare the look's offer for a model with where the model stands now."""
    if isinstance(said, Refusal):
        return Installed(
            model=said.model,
            wanted=said.release,
            active=report.active,
            state=report.state,
            reason=said.reason,
            detail=said.detail,
            hint=said.hint,
        )
    wanted = said.target.held.release
    if report.active == wanted:
        return Installed(model=said.model, wanted=wanted, active=wanted, state=report.state)
    return Installed(
        model=said.model,
        wanted=wanted,
        active=report.active,
        state=report.state,
        reason=report.reason or "not-now",
        detail=report.detail or f"release {report.active} is still in {report.state}",
        hint=report.hint or "install again when that has ended",
    )
