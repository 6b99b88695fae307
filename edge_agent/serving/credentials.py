"""A device's own credential for the origin of a server that a channel names: it goes there, and nowhere else."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from edge_agent.ports import Credential
from edge_agent.serving.cloud import CloudError
from fleet.protocol.channel import Remote

SECRET_LIMIT = 8 << 10
PORTS = {"https": 443, "http": 80, "grpcs": 443, "grpc": 80}


def authorization(remote: Remote, credential: Credential | None) -> dict[str, str]:
    """The header of the credential that the channel names; CloudError where this device may not use it there."""
    name = remote.credential
    if not name:
        return {}
    if credential is None:
        raise CloudError(f"this device has no credential {name!r} (agent.toml, [credentials.{name}])", status=401)
    if origin(credential.origin) != origin(remote.url):
        raise CloudError(f"credential {name!r} is for {credential.origin}, not {remote.url}", status=401)
    try:
        secret = Path(credential.file).read_bytes()[:SECRET_LIMIT].decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CloudError(f"credential {name!r} cannot be read: {error}", status=401) from error
    return {credential.header: f"{credential.scheme} {secret}".strip()}


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of an address."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or PORTS.get(parts.scheme, 0)
