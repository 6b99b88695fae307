"""The document of every refusal."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fleet.api.base import ResponseModel
from fleet.protocol.refusals import CODES

# Text, so that a client reads the words that a newer hub has added; the document names those of this one.
CodeWord = Annotated[str, Field(json_schema_extra={"enum": list(CODES)})]


class ErrorDocument(ResponseModel):
    """The error in a sentence, its stable code, its subject, and a hint at the remedy."""

    error: str
    code: CodeWord
    subject: str
    hint: str


class OipError(ResponseModel):
    """A refusal in the form of the Open Inference Protocol (`/v2`), with the same stable word beside it."""

    error: str
    code: CodeWord
