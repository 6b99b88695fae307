"""The table `[events]` of `hub.toml`; `cloud_hub.config` reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["standard", "slack"]
Variable = Annotated[str, Field(pattern=r"^(EDGELOOP_SECRET_[A-Z0-9_]{1,64})?$")]  # recipes' processes do not get these


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventTarget(_Table):
    """Who is told of events, at an address of https. `format`: `standard` signs as Standard Webhooks do, with the
    secret in `secret_file` or in the variable that `secret_env` names; `slack` is for Slack's incoming webhooks, whose
    address is the secret: `url_file` or `url_env`. `kinds`: `*`, a noun such as `rollout.*`, or kinds.

    Addresses inside of networks are refused unless `allow_private` is set. `ca_file`: authorities in place of the
    system's (PEM). A try ends after `timeout_s` seconds; `parallel` run at a time; after `tries` it is given up.
    """

    format: Format = "standard"  # or slack
    url: str = ""  # https://…, unless it is a secret
    url_file: str = ""  # a file that holds the address
    url_env: Variable = ""  # the name of a variable that does: EDGELOOP_SECRET_…
    secret_file: str = ""  # a file that holds the secret: whsec_ and base64
    secret_env: Variable = ""  # the name of a variable that does: EDGELOOP_SECRET_…
    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    allow_private: bool = False
    ca_file: str = ""
    timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    parallel: Annotated[int, Field(ge=1, le=32)] = 4
    tries: Annotated[int, Field(ge=1, le=20)] = 8


TargetName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class EventsConfig(_Table):
    """Events out: `[events.targets.NAME]` for each target. Events are kept for `keep_days` days, `keep` at most;
    targets are looked after every `every_s` seconds."""

    targets: Annotated[dict[TargetName, EventTarget], Field(max_length=32)] = {}
    keep_days: Annotated[float, Field(ge=1)] = 30
    keep: Annotated[int, Field(ge=100, le=1_000_000)] = 10_000
    every_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
