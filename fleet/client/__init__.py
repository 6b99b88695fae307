"""Typed client of the hub's operator API (`/api/v1`), and of its models (`/v2`).

    hub = Hub("https://hub.example:8080", token)
    hub.create_rollout(NewRollout(model="digits", release=2, channel="stable"))

`Hub` is a `Client` with an `HttpTransport`; `docs/how-to/use-python.md` has examples.

Methods take and return the models of `fleet.api`. Every failure is a `fleet.errors.FleetError`.

| module | what |
|---|---|
| `devices`, `releases`, `rollouts`, `samples`, `inference` | the calls by what they are about; `client` joins them |
| `calls` | how a call is made |
| `transport` | one port to a hub, and its adapter over urllib3 |
| `signing` | a publisher's own release key |
| `bundle` | a channel's signed state as a folder for devices without a network |
"""

from __future__ import annotations

from fleet.client.client import Client
from fleet.client.hub import Hub
from fleet.client.transport import HttpResponse, HttpTransport, Transport

__all__ = ["Client", "HttpResponse", "HttpTransport", "Hub", "Transport"]
