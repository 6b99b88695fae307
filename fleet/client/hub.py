"""A hub in one line, for scripts and notebooks."""

from __future__ import annotations

from pathlib import Path

from fleet.client.client import Client
from fleet.client.transport import HttpTransport


class Hub(Client):
    """All calls of the hub at `url`, over HTTP.

        hub = Hub("https://hub.example:8080", token, ca="hub-ca.pem")
        ill = [device.id for device in hub.devices(channel="stable") if device.problem]

    Args:
        url: where the hub is, without a path.
        token: an operator's, or an application's for `infer_later`.
        ca: a PEM file with the authority of the hub's certificate; None for the system's.

    Raises:
        UsageError: that is no address. NotFoundError: there is no such file. Calls raise other `fleet.errors`.
    """

    def __init__(self, url: str, token: str, *, ca: str | Path | None = None) -> None:
        super().__init__(HttpTransport(url, ca=Path(ca) if ca is not None else None), token)
