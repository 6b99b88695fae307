"""The targets of `hub.toml`, opened: their addresses checked and their secrets read. None of it is ever shown."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from cloud_hub.errors import InvalidError
from cloud_hub.event_settings import EventsConfig, EventTarget
from cloud_hub.events.addresses import Address, read_broker, read_url
from cloud_hub.events.kinds import check_pattern
from cloud_hub.events.mqtt import BrokerLogin
from cloud_hub.events.signing import read_secret
from fleet.console import cleaned, read_text
from fleet.protocol import topics

LONGEST_PASSWORD = 0xFFFF  # bytes, of which MQTT writes the number in two
_OF_BROKERS = ("topic", "username", "password_file", "password_env", "cert_file", "key_file")


class Target(Struct, frozen=True, kw_only=True):
    """A target that can be sent to; `key` is empty where the format has no signatures, `topic` and `login` where it is
    no broker's."""

    name: str
    settings: EventTarget
    place: Address
    key: bytes
    context: ssl.SSLContext
    topic: str = ""
    login: BrokerLogin = BrokerLogin()

    def __repr__(self) -> str:
        return f"Target({self.name!r}, {self.place.host!r})"  # the path and the key are secrets


def open_targets(config: EventsConfig, environment: Mapping[str, str], prefix: str = topics.PREFIX) -> list[Target]:
    """Every target.

    Args:
        prefix: of the hub's own topics.

    Raises:
        InvalidError: an address or secret of one is missing, cannot be read, or is not one, or a kind is unknown.
    """
    return [open_target(name, settings, environment, prefix) for name, settings in config.targets.items()]


def open_target(
    name: str, settings: EventTarget, environment: Mapping[str, str], prefix: str = topics.PREFIX
) -> Target:
    """Open one target.

    Args:
        name: in `hub.toml`.
        settings: its table.
        environment: variables that may hold its secrets.
        prefix: of the hub's own topics; events go under it where the target names no topic.

    Raises:
        InvalidError: a setting is missing, wrong, or cannot be read.
    """
    subject = f"events.targets.{name}"
    _check_format(subject, settings)
    url = settings.url or _read("url", settings.url_file, settings.url_env, environment, subject)
    try:
        place = read_broker(url) if settings.format == "mqtt" else read_url(url)
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
    target = Target(name=name, settings=settings, place=place, key=key, context=_context(settings, subject))
    if settings.format != "mqtt":
        return target
    topic = settings.topic or topics.events(prefix)
    if topics.is_of_devices(topic, prefix):
        raise _wrong(subject, f"topic {topic}", ValueError("there the hub and devices speak to each other"))
    return replace(target, topic=topic, login=_login(settings, environment, subject))


def _check_format(subject: str, settings: EventTarget) -> None:
    """InvalidError for a setting that the target's format has no use for: somebody counts on it."""
    broker = settings.format == "mqtt"
    useless = ("secret_file", "secret_env") if broker else _OF_BROKERS
    found = next((name for name in useless if getattr(settings, name)), "")
    if found:
        raise _wrong(subject, found, ValueError(f"it says nothing to a target whose format is {settings.format}"))
    if bool(settings.cert_file) != bool(settings.key_file):
        raise _wrong(subject, "cert_file and key_file", ValueError("set both or neither"))


def _context(settings: EventTarget, subject: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise _wrong(subject, f"ca_file {settings.ca_file}", error) from None
    if settings.cert_file:
        try:
            context.load_cert_chain(settings.cert_file, settings.key_file, password=lambda: b"")
        except (OSError, ssl.SSLError, ValueError) as error:
            raise _wrong(subject, f"cert_file {settings.cert_file} with key_file {settings.key_file}", error) from None
    return context


def _login(settings: EventTarget, environment: Mapping[str, str], subject: str) -> BrokerLogin:
    if not settings.username:
        if settings.password_file or settings.password_env:
            raise _wrong(subject, "username", ValueError("a password needs one"))
        return BrokerLogin()
    password = ""
    if settings.password_file or settings.password_env:
        password = _read("password", settings.password_file, settings.password_env, environment, subject)
    secret = password.encode()
    if len(secret) > LONGEST_PASSWORD:
        raise _wrong(subject, "the password", ValueError(f"it is longer than {LONGEST_PASSWORD:,} bytes"))
    return BrokerLogin(settings.username, secret)


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
