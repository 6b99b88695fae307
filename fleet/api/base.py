"""The bases that every request and every answer share."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class RequestModel(BaseModel):
    """A body that a caller sends. A field that is not known is refused: it may be a misspelt one that matters."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ResponseModel(BaseModel):
    """A body that the hub sends. Readers ignore fields that a newer hub has added."""

    model_config = ConfigDict(extra="ignore", frozen=True, from_attributes=True)


class Page(ResponseModel, Generic[T]):
    """A part of a list. `next` is the `after` of the next part; null at the end."""

    items: list[T]
    next: int | str | None = None
