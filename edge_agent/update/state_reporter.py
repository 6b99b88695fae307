"""Keeps the state of every model's machine: on the disk first, then in the reports.

What begins something new must be on the disk before it begins (`enter`). What goes back to a proven release,
or only says what happened, must not depend on a disk that is full or broken (`settle`): memory holds it then,
and the file is written as soon as the disk takes it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from msgspec.structs import replace

from edge_agent.errors import said
from edge_agent.ports import Reporter
from edge_agent.update.disk.state import Looked, StateFile
from edge_agent.update.rules import machine
from edge_agent.update.rules.model_state import ModelState
from fleet.protocol.messages import ModelReport

log = logging.getLogger(__name__)


class StateReporter:
    """The state file, and who hears of every change: `reporter` of the models', `on_look` of what a look gave.

    `progress` is the share fetched, by model.
    """

    def __init__(
        self, file: StateFile, reporter: Reporter, on_look: Callable[[Looked], None] = lambda looked: None
    ) -> None:
        self.file, self._reporter, self._on_look = file, reporter, on_look
        self.progress: dict[str, float] = {}

    def enter(self, model: str, new: ModelState) -> None:
        """Write, then report; raises OSError, and then nothing has changed."""
        old = self.file.model(model)
        if new != old:
            self.file.put_model(model, new)
            self._tell(model, old, new)

    def settle(self, model: str, new: ModelState) -> None:
        """Write when the disk takes it, and report in any case."""
        old = self.file.model(model)
        if new != old:
            self.file.keep_model(model, new)
            self._tell(model, old, new)

    def tell(self, model: str) -> None:
        """Report where a model stands; the last report may have been lost with the process."""
        self._reporter.model(self.report(model))

    def report(self, model: str) -> ModelReport:
        """Make the report of where one model stands."""
        channel = self.file.state.looked.channel
        version = channel.version if channel else 0
        return machine.reported(model, self.file.model(model), version, progress=self.progress.get(model, 0.0))

    def looked(self) -> Looked:
        """Return the last look's result; where all else is well, with what keeps the state off the disk."""
        looked, refusal = self.file.state.looked, self.file.refusal
        if looked.problem or refusal is None:
            return looked
        word, hint = said(refusal)
        return replace(looked, problem=word, hint=f"state.json cannot be written: {refusal}; {hint}")

    def tell_look(self) -> None:
        """Say what the last look gave."""
        self._on_look(self.looked())

    def _tell(self, model: str, old: ModelState, new: ModelState) -> None:
        if new.state != "fetching":
            self.progress.pop(model, None)
        log.info("model %s: %s → %s %s", model, old.state, new.state, new.reason)
        self.tell(model)
