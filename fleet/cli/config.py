"""The hub's address and the token to use: environment first, then `~/.config/edgeloop/config.toml` (0600).

EDGELOOP_HUB, EDGELOOP_TOKEN and EDGELOOP_CA outrank the file; EDGELOOP_CONFIG moves it.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from fleet.console import cleaned, read_text
from fleet.errors import FailedError, NotAllowedError

LOGIN_HINT = "fleet login URL --token T   (or set EDGELOOP_HUB and EDGELOOP_TOKEN)"


class HubLogin(Struct, frozen=True, kw_only=True):
    """A hub's address, an operator token, and the file of the hub's CA (empty: the system's CAs)."""

    url: str
    token: str
    ca: str = ""


def config_path(environment: Mapping[str, str]) -> Path:
    """The file that `fleet login` writes."""
    if environment.get("EDGELOOP_CONFIG"):
        return Path(environment["EDGELOOP_CONFIG"])
    base = environment.get("XDG_CONFIG_HOME") or str(Path(environment.get("HOME", "~")).expanduser() / ".config")
    return Path(base) / "edgeloop" / "config.toml"


def load_login(environment: Mapping[str, str]) -> HubLogin:
    """The login in force.

    Raises:
        NotAllowedError: no address or no token is known.
        FailedError: the file is not readable or not TOML.
    """
    saved = _read(config_path(environment))
    given = {name: cleaned(environment.get(f"EDGELOOP_{name}", "")) for name in ("HUB", "TOKEN", "CA")}
    url, token = given["HUB"] or saved.get("url", ""), given["TOKEN"] or saved.get("token", "")
    if not url or not token:
        raise NotAllowedError("not logged in to a hub", subject="login", hint=LOGIN_HINT)
    if not (token.isascii() and token.isprintable()):
        raise NotAllowedError("the token holds what no token holds", subject="login", hint="copy it whole, in one line")
    return HubLogin(url=url, token=token, ca=given["CA"] or saved.get("ca", ""))


def save_login(path: Path, login: HubLogin) -> None:
    """Write the file with mode 0600, never for a moment with another."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    # A JSON string is a TOML basic string.
    lines = [
        f"{key} = {json.dumps(value)}\n" for key, value in zip(login.__struct_fields__, _values(login), strict=True)
    ]
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.writelines(lines)
    temporary.replace(path)


def _values(login: HubLogin) -> tuple[str, ...]:
    return tuple(getattr(login, name) for name in login.__struct_fields__)


def _read(path: Path) -> dict[str, str]:
    try:
        document = tomllib.loads(read_text(path))
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise FailedError(f"cannot read {path}: {error}", subject=str(path), hint=LOGIN_HINT) from error
    return {key: value for key, value in document.items() if isinstance(value, str)}
