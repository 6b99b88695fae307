"""Whether the hub is well."""

from __future__ import annotations

from fleet.api.base import Answer


class Health(Answer):
    """`status` is `ok`."""

    status: str
