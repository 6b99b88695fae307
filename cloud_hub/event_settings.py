"""The table `[events]` of `hub.toml`; `cloud_hub.config` reads it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Format = Literal["standard", "slack", "mqtt"]
Variable = Annotated[str, Field(pattern=r"^(EDGELOOP_SECRET_[A-Z0-9_]{1,64})?$")]  # recipes' processes do not get these

Topic = Annotated[str, Field(max_length=200, pattern=r"^([A-Za-z0-9._-]+(/[A-Za-z0-9._-]+){0,6})?$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EventTarget(_Table):
    """A receiver of events, at an address of https or at a broker of MQTT. `format`: `standard` signs as Standard
    Webhooks do, with the secret in `secret_file` or in the variable that `secret_env` names; `slack` is for Slack's
    incoming webhooks, whose address is the secret: `url_file` or `url_env`; `mqtt` publishes to a broker of your own at
    `mqtts://HOST:8883`. `kinds`: `*`, a noun such as `rollout.*`, or kinds.

    A broker gets an event under `topic`, a slash and the event's kind, at quality of service 1 and not retained. The
    hub shows the login of `username` and `password_file` or `password_env`, or the certificate in `cert_file` whose key
    is in `key_file` (PEM), or both.

    Addresses inside of networks are refused unless `allow_private` is set. `ca_file`: authorities in place of the
    system's (PEM). A try ends after `timeout_s` seconds; `parallel` run at a time; after `tries` it is given up.
    """

    format: Format = "standard"  # or slack, or mqtt
    url: str = ""  # https://… (mqtt: mqtts://HOST:8883), unless it is a secret
    url_file: str = ""  # a file that holds the address
    url_env: Variable = ""  # the name of a variable that does: EDGELOOP_SECRET_…
    secret_file: str = ""  # a file that holds the secret: whsec_ and base64
    secret_env: Variable = ""  # the name of a variable that does: EDGELOOP_SECRET_…
    kinds: Annotated[tuple[str, ...], Field(min_length=1)] = ("*",)
    topic: Topic = ""  # of mqtt; empty: events under the prefix of the hub's own topics
    username: Annotated[str, Field(max_length=1024, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""  # of mqtt
    password_file: str = ""  # a file that holds the password
    password_env: Variable = ""  # the name of a variable that does: EDGELOOP_SECRET_…
    cert_file: str = ""  # of mqtt: the hub's certificate at that broker
    key_file: str = ""  # and its key
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
