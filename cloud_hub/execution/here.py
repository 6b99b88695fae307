"""Work in the caller's own process: for a person at a terminal, who can end it, and for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud_hub.execution.messages import failure_of
from cloud_hub.execution.port import Progress, Work, WorkFailedError, entry_of


class InlineExecutor:
    """Implements `Executor` without limits; what the code prints goes where the caller prints.

    Cancelling takes effect at the work's next step.
    """

    def run(self, work: Work, *, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        """See Executor."""
        stopping: list[BaseException] = []

        def say(step: str, share: float) -> None:
            try:
                check()
                progress(step, share)
            except BaseException as error:
                stopping.append(error)
                raise

        try:
            return entry_of(work)(work.folder, work.given, say)
        except (Exception, SystemExit) as error:  # users' code raises what it likes
            if stopping:
                raise stopping[0] from error
            said = failure_of(error)
            raise WorkFailedError(said.message, subject=said.subject, hint=said.hint) from error
