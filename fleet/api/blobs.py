"""Blobs and patches by SHA-256."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from fleet.api.base import ResponseModel


class StoredBlob(ResponseModel):
    """A blob that is in the store; `created` is false when it was there before."""

    sha256: str
    size: int
    created: bool


class StoredDelta(ResponseModel):
    """A patch that makes blob `sha256` of blob `from`."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    sha256: str
    from_sha256: str = Field(alias="from")
    size: int
    created: bool
