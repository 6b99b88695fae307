"""Names that appear in topics, signed paths and URLs. Names never become file paths."""

from __future__ import annotations

import re

from fleet.protocol.errors import MalformedError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_name(value: str, kind: str) -> str:
    """Return `value` when it is a valid name (lower case letters, digits, dashes; at most 63).

    Raises:
        MalformedError: otherwise; `kind` ("model", "device", "channel", …) is in the message.
    """
    if NAME.fullmatch(value) is None:
        raise MalformedError(
            f"{kind} name {value!r} is not valid",
            subject=kind,
            hint="use 1 to 63 lower-case letters, digits and dashes, starting with a letter or digit",
        )
    return value
