"""The document of every refusal."""

from __future__ import annotations

from fleet.api.base import Answer


class ErrorDocument(Answer):
    """What went wrong, a stable word for it, what it is about, and what to do."""

    error: str
    code: str
    subject: str
    hint: str


class OipError(Answer):
    """A refusal in the form of the Open Inference Protocol (`/v2`)."""

    error: str
