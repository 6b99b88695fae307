"""The agent's configuration: `DIR/agent.toml`, then `EDGELOOP_<FIELD>` in the environment, then the command line.

The only place of the agent that reads the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from edge_agent.errors import UsageError
from edge_agent.ports import Credential
from fleet.console import cleaned, read_text

PREFIX = "EDGELOOP_"
PORT = 8200


class TracingConfig(Struct, frozen=True, kw_only=True):
    """Traces of requests (extra otel): OTLP over HTTP to `endpoint`. `ratio` is the share of traces that begin here."""

    endpoint: str = ""  # such as http://127.0.0.1:4318/v1/traces; empty: none
    ratio: float = 0.1  # of requests whose caller sends no trace; others follow the caller's word
    state_to_others: bool = False  # hand on `tracestate` to a server in the hub's place, too; `traceparent` always is


class AgentConfig(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Times are seconds (`_s`), sizes bytes (`_bytes`)."""

    dir: Path
    hub: str = ""
    host: str = "127.0.0.1"
    port: int | None = None  # of the local API on loopback: PORT by default, none where there is a Unix socket only
    grpc_port: int | None = None  # of gRPC on the same host; none by default (needs the extra grpc)
    uds: str = ""  # a Unix socket, beside the port where that is set
    credentials: dict[str, Credential] = {}  # [credentials.NAME]: for servers that a channel names in the hub's place
    variants: tuple[str, ...] = ()  # preferred variants by name, such as ["litert-fp32"]; else the publisher's order
    mirrors: tuple[str, ...] = ()  # asked for blobs in this order, the hub last: https://…, file:///media/usb/…
    poll_s: float = 900.0  # between two looks at the channel, when nobody says "look now"
    poll_jitter: float = 0.2  # share of poll_s by which a look moves, both ways
    retry_first_s: float = 2.0
    retry_max_s: float = 900.0
    heartbeat_s: float = 60.0
    health_tick_s: float = 0.5
    connect_timeout_s: float = 10.0
    gap_timeout_s: float = 30.0  # between two pieces of a body
    metadata_deadline_s: float = 60.0  # for one metadata file
    look_wall_s: float = 900.0  # by the clock, for a whole look; what came of it is kept for the next one
    min_bytes_per_s: float = 100.0  # slower, after grace_s, is given up and resumed later
    grace_s: float = 15.0
    clock_slack_s: float = 3600.0  # how far the clock may lie behind the latest trusted time
    disk_reserve_bytes: int = 16 << 20
    selftest_memory_bytes: int = 4 << 30  # address space, of which runtimes reserve far more than they use
    selftest_cpu_s: int = 120
    selftest_wall_s: float = 600.0  # by the clock: a busy device gives a self-test little of its processor
    selftest_sandbox: bool = True  # Landlock and seccomp; off only where a runtime needs what they refuse
    start_wait_s: float = 10.0  # for each model to be loaded, before the agent starts without it
    load_wall_s: float = 300.0  # for a model to be loaded; then what it was to replace serves
    watchdog_s: float = 60.0  # the agent ends when nothing has moved for as long: a model's run that hangs; 0: never
    log_level: str = "INFO"
    log_format: Literal["text", "json"] = "text"  # json: each line of the log is a JSON document
    tracing: TracingConfig = TracingConfig()  # [tracing]; none without an endpoint
    notify_socket: str = ""  # where a service manager listens; systemd sets NOTIFY_SOCKET (`Type=notify`)

    @property
    def identity(self) -> Path:
        """Key, certificates and what enrolment told."""
        return self.dir / "identity"

    @property
    def tuf(self) -> Path:
        """Trusted metadata."""
        return self.dir / "tuf"

    @property
    def blobs(self) -> Path:
        """Content-addressed files."""
        return self.dir / "blobs"


def load_config(
    directory: Path, *, overrides: Mapping[str, Any] | None = None, environ: Mapping[str, str] | None = None
) -> AgentConfig:
    """Read the configuration of the agent in `directory`.

    Raises:
        UsageError: agent.toml or a value is not understood; the message names it. OSError: the file cannot be read.
    """
    values: dict[str, Any] = {}
    path = directory / "agent.toml"
    if path.exists():
        import tomllib  # most devices have no such file

        try:
            values.update(tomllib.loads(read_text(path)))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} cannot be read: {error}", subject=str(path), hint="correct the file") from error
    environ = os.environ if environ is None else environ
    for name in AgentConfig.__struct_fields__:
        if name != "dir" and PREFIX + name.upper() in environ:
            values[name] = cleaned(environ[PREFIX + name.upper()])
    values.update({key: value for key, value in (overrides or {}).items() if value is not None})
    values.setdefault("notify_socket", environ.get("NOTIFY_SOCKET", ""))
    unknown = set(values) - set(AgentConfig.__struct_fields__)
    if unknown:
        known = ", ".join(sorted(set(AgentConfig.__struct_fields__) - {"dir"}))
        text = f"unknown setting {', '.join(sorted(unknown))} in {path}"
        raise UsageError(text, subject=str(path), hint=f"one of {known}")
    if isinstance(values.get("mirrors"), str):  # from the environment, in one line
        values["mirrors"] = values["mirrors"].split()
    try:
        config = msgspec.convert({**values, "dir": str(directory)}, AgentConfig, strict=False, dec_hook=_decode)
    except msgspec.ValidationError as error:
        raise UsageError(f"configuration of {directory}: {error}", subject=str(path)) from error
    for url in config.mirrors:
        check_mirror(url)
    if not 0 <= config.tracing.ratio <= 1:
        raise UsageError(f"tracing: ratio is {config.tracing.ratio:g}", subject=str(path), hint="a share from 0 to 1")
    return config


def check_mirror(url: str) -> None:
    """Raise UsageError unless `url` can be a mirror."""
    hint = 'such as "https://cdn.example/edgeloop/" or "file:///media/usb/edgeloop"'
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise UsageError(f"mirror {url!r}: {error}", subject="mirrors", hint=hint) from error
    folder = parts.scheme == "file" and parts.netloc in ("", "localhost") and parts.path.startswith("/")
    server = parts.scheme in ("https", "http") and bool(parts.hostname)
    if not (folder or server) or "@" in parts.netloc or parts.query or parts.fragment:
        why = "it must be an https, http or file address, without user, query and fragment"
        raise UsageError(f"mirror {url!r}: {why}", subject="mirrors", hint=hint)


def _decode(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise TypeError(f"no such kind of setting: {kind}")
