"""The table `[tracing]` of `hub.toml`; `cloud_hub.config` reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TracingConfig(BaseModel):
    """Traces of inference requests (extra `[otel]`): OTLP over HTTP to `endpoint`. `ratio` is the share of traces that
    begin here; those of a caller that sends its own follow the caller's word."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = ""  # such as http://127.0.0.1:4318/v1/traces; empty: none
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.1
