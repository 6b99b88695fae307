"""`state.json`: every model's machine, the followed channel, and what the hub last told this device."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from edge_agent.errors import AgentError
from edge_agent.host.durable import write_durably
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.channel import Channel
from fleet.protocol.codec import decode_json, encode_json
from fleet.protocol.errors import ProtocolError

log = logging.getLogger(__name__)

LIMIT = 4 << 20  # bytes


class Looked(Struct, frozen=True, kw_only=True):
    """The verified result of one look at the hub. `command_key` is the TUF target `hub/command-key.json`."""

    channel: Channel | None = None
    channel_name: str = ""  # what the hub last put this device on, also while nobody has signed that channel
    groups: tuple[str, ...] = ()
    pins: dict[str, int] = field(default_factory=dict)
    command_key: bytes = b""
    tuf: dict[str, int] = field(default_factory=dict)
    tuf_expires: dict[str, float] = field(default_factory=dict)
    clock: str = "trusted"
    problem: str = ""
    hint: str = ""
    certificate_expires: float = 0.0  # of this device's own certificate, Unix seconds; 0: not known

    def follows(self, enrolled: str) -> str:
        """The followed channel's name: `enrolled` holds only until the hub has named another one."""
        return self.channel_name or (self.channel.channel if self.channel is not None else enrolled)

    def shown(self, own_channel: str) -> dict[str, Any]:
        """Its part of the device's status document; `own_channel` is followed where the hub names no other."""
        return {
            "channel": self.follows(own_channel),
            "channel_version": self.channel.version if self.channel else 0,
            "clock": self.clock,
            "problem": self.problem,
            "hint": self.hint,
            "tuf": self.tuf,
            "tuf_expires": self.tuf_expires,
            "certificate_expires": self.certificate_expires,
        }


class AgentState(Struct, frozen=True, kw_only=True):
    """The state that survives a restart."""

    models: dict[str, ModelState] = field(default_factory=dict)
    looked: Looked = Looked()
    sandbox: tuple[str, ...] = ()  # what confined the latest self-test


class StateFile:
    """The state in memory and on disk; the serving process is its only writer.

    `refusal` is why the disk does not hold what memory does, None while it does.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "state.json"
        self.refusal: OSError | None = None
        try:
            self.state = read_state(directory)
        except AgentError as error:
            self.state = self._anew(error)

    def _anew(self, error: AgentError) -> AgentState:
        """An empty state instead of a damaged one: the next look finds every file that is still good."""
        aside = self._path.with_name(f"{self._path.name}.damaged")
        log.error("%s; set aside as %s, everything is looked for anew", error, aside.name)
        try:
            self._path.replace(aside)
        except OSError as refused:
            log.error("%s cannot be set aside: %s", self._path, refused)
        return AgentState(looked=Looked(problem="state-damaged", hint=f"the damaged file is kept as {aside.name}"))

    def model(self, name: str) -> ModelState:
        """The machine of a model; a fresh one when it is new."""
        return self.state.models.get(name, ModelState())

    def put_model(self, name: str, model: ModelState) -> None:
        """Write a model's new state; on return it is on the disk. Raises OSError, and then nothing has changed."""
        self._put(self._with(name, model))

    def keep_model(self, name: str, model: ModelState) -> None:
        """Like `put_model`, but a disk that refuses only makes it wait: memory holds it, `save` tries again."""
        self._keep(self._with(name, model))

    def keep_looked(self, looked: Looked) -> None:
        """Keep what the last look gave."""
        if looked != self.state.looked:
            self._keep(replace(self.state, looked=looked))

    def keep_sandbox(self, sandbox: tuple[str, ...]) -> None:
        """Keep what confined the latest self-test; it changes with the kernel, not with the release."""
        if sandbox != self.state.sandbox:
            self._keep(replace(self.state, sandbox=sandbox))

    def save(self) -> None:
        """Write what the disk has refused so far."""
        if self.refusal is not None:
            self._keep(self.state)

    def _with(self, name: str, model: ModelState) -> AgentState:
        return replace(self.state, models={**self.state.models, name: model})

    def _put(self, state: AgentState) -> None:
        write_durably(self._path, encode_json(state))
        self.state, self.refusal = state, None

    def _keep(self, state: AgentState) -> None:
        try:
            self._put(state)
        except OSError as error:
            if self.refusal is None:
                log.error("%s cannot be written: %s; memory holds what is new", self._path, error)
            self.state, self.refusal = state, error


def read_state(directory: Path) -> AgentState:
    """The state in `directory`, an empty one before the first write; AgentError when it is damaged."""
    path = directory / "state.json"
    try:
        return decode_json(path.read_bytes(), AgentState, limit=LIMIT, subject=str(path))
    except FileNotFoundError:
        return AgentState()
    except (ProtocolError, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EIO:  # permissions, say: the file may be good
            raise
        raise AgentError(str(error), subject=str(path), hint="remove the file to fetch everything again") from error
