"""The table of inference requests whose answers are fetched later."""

from __future__ import annotations

from typing import Any

from sqlmodel import Field, SQLModel

from cloud_hub.store.types import json_field


class AsyncRequest(SQLModel, table=True):
    """A request that an instance answers when it has time, under a lease; its bytes lie in the object store.

    `state`: arriving (its body is being stored), queued, running, succeeded, failed. `headers` are those of the
    request that say how its body is read, then those of its answer.
    """

    __tablename__ = "async_request"

    id: str = Field(primary_key=True)
    owner: str = Field(index=True)
    model: str
    release: int
    state: str = Field(index=True)
    headers: dict[str, Any] = json_field(dict)
    size_bytes: int
    code: str = ""
    error: str = ""
    runner: str = ""
    attempt: int = 0
    ready_at: float = 0.0
    lease_until: float = 0.0
    created_at: float
    ended_at: float | None = None
    expires_at: float = Field(index=True)
