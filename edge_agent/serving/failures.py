"""Puts into words, and sorts for the log, the errors that a runtime, the cloud or a model file has raised."""

from __future__ import annotations

from edge_agent.errors import AgentError
from fleet.protocol.errors import ProtocolError


def unforeseen(error: Exception) -> bool:
    """Tell whether an error is of no expected kind: perhaps a mistake of ours, so its trace belongs into the log."""
    return not isinstance(error, AgentError | ProtocolError | OSError | ValueError | RuntimeError | MemoryError)


def error_in_words(error: Exception) -> str:
    """Say what happened, with the error's type where only that says it (`KeyError: 'logits'`, an empty MemoryError)."""
    return str(error) if isinstance(error, AgentError | ProtocolError) else f"{type(error).__name__}: {error}"
