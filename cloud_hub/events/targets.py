"""The targets of `hub.toml`, opened: their addresses checked and their secrets read. None of it is ever shown."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from cloud_hub.errors import InvalidError
from cloud_hub.event_settings import EventsConfig, EventTarget
from cloud_hub.events.addresses import Place, read_url
from cloud_hub.events.kinds import check_pattern
from cloud_hub.events.signing import read_secret
from fleet.console import cleaned, read_text


class Target(Struct, frozen=True, kw_only=True):
    """A target that can be sent to; `key` is empty where the format has no signatures."""

    name: str
    settings: EventTarget
    place: Place
    key: bytes
    context: ssl.SSLContext

    def __repr__(self) -> str:
        return f"Target({self.name!r}, {self.place.host!r})"  # the path and the key are secrets


def open_targets(config: EventsConfig, environment: Mapping[str, str]) -> list[Target]:
    """Every target.

    Raises:
        InvalidError: an address or secret of one is missing, cannot be read, or is not one, or a kind is unknown.
    """
    return [open_target(name, settings, environment) for name, settings in config.targets.items()]


def open_target(name: str, settings: EventTarget, environment: Mapping[str, str]) -> Target:
    """One target; raises InvalidError."""
    subject = f"events.targets.{name}"
    url = settings.url or _read("url", settings.url_file, settings.url_env, environment, subject)
    try:
        place = read_url(url)
    except ValueError as error:
        raise _wrong(subject, "the address", error) from None
    try:
        for pattern in settings.kinds:
            check_pattern(pattern)
    except ValueError as error:
        raise _wrong(subject, "kinds", error) from None
    key = b""
    if settings.format == "standard":
        text = _read("secret", settings.secret_file, settings.secret_env, environment, subject)
        try:
            key = read_secret(text)
        except ValueError as error:
            raise _wrong(subject, "the secret", error) from None
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise _wrong(subject, f"ca_file {settings.ca_file}", error) from None
    return Target(name=name, settings=settings, place=place, key=key, context=context)


def _read(what: str, file: str, variable: str, environment: Mapping[str, str], subject: str) -> str:
    text = ""
    if file:
        try:
            text = read_text(Path(file))
        except (OSError, UnicodeDecodeError) as error:
            raise _wrong(subject, f"{what}_file {file}", error) from None
    elif variable:
        text = cleaned(environment.get(variable, ""))
    if not text.strip():
        from_where = f"{what}_file {file}" if file else f"the variable {variable}" if variable else "the settings"
        hint = f"set {what}_file or {what}_env at [{subject}] of hub.toml, and what it names"
        raise InvalidError(f"{subject}: {from_where} holds no {what}", subject=subject, hint=hint)
    return text.strip()


def _wrong(subject: str, what: str, error: Exception) -> InvalidError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return InvalidError(f"{subject}: {what}: {reason}", subject=subject, hint="correct it, and start the hub again")
