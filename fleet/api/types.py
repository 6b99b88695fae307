"""Numbers, text and names within bounds: whatever passes here fits into every database, message and signed document."""

from __future__ import annotations

import math
import sys
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue

from fleet.protocol.bounds import LARGEST

INT64 = LARGEST
INT32 = 2**31 - 1
LATEST_S = 253_402_300_799.0  # the last second of the year 9999
LONGEST_S = 10 * 365 * 86_400.0  # ten years; no duration that an operator gives is longer
TEXT_LIMIT = 1000  # characters of a note, a reason, a name of a person
KEY_LIMIT = 255  # characters of an id
JSON_VALUES = 10_000  # values of a free document, counted at every depth
JSON_DEPTH = 32

NO_NUL = r"^[^\x00]*$"
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
SHA256 = r"^[0-9a-f]{64}$"
HEX = r"^([0-9a-fA-F]{2})*$"
LABEL_CHECK = r"^([A-Za-z0-9_][A-Za-z0-9_.-]*\.py:[A-Za-z_][A-Za-z0-9_]*)?$"
# The meaning of each pattern, for somebody who broke it.
PATTERNS = {
    NO_NUL: "it holds a NUL character",
    NAME: "use 1 to 63 lower-case letters, digits and dashes, starting with a letter or digit",
    SHA256: "it is not a SHA-256 in lower-case hexadecimal",
    HEX: "it is not hexadecimal",
    LABEL_CHECK: "use FILE.py:FUNCTION, the bare name of a file in DIR/recipes and a function in it",
}

Int64 = Annotated[int, Field(ge=-INT64 - 1, le=INT64)]
Count = Annotated[int, Field(ge=0, le=INT64)]
ReleaseNumber = Annotated[int, Field(ge=1, le=INT32)]
Moment = Annotated[float, Field(ge=0, le=LATEST_S, allow_inf_nan=False)]  # Unix seconds
Seconds = Annotated[float, Field(ge=0, le=LONGEST_S, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-sys.float_info.max, le=sys.float_info.max, allow_inf_nan=False)]

Text = Annotated[str, Field(max_length=TEXT_LIMIT, pattern=NO_NUL)]
Key = Annotated[str, Field(max_length=KEY_LIMIT, pattern=NO_NUL)]  # an id that somebody else made up
Name = Annotated[str, Field(max_length=63, pattern=NAME)]
Hex = Annotated[str, Field(max_length=KEY_LIMIT, pattern=HEX)]


def as_json(value: object) -> object:
    """The value with lists for tuples: a row that was just written still holds what it will be read as."""
    if isinstance(value, dict):
        return {key: as_json(item) for key, item in value.items()}
    return [as_json(item) for item in value] if isinstance(value, list | tuple) else value


# A document of the hub's own, in an answer.
Document = Annotated[dict[str, JsonValue], BeforeValidator(as_json)]


def check_document(document: Document) -> Document:
    """Return a free JSON document that `check_value` takes; ValueError otherwise."""
    check_value(document)
    return document


def check_value(whole: JsonValue) -> JsonValue:
    """Return any JSON whose numbers, text, size and depth are within bounds.

    Raises:
        ValueError: a number that does not fit into 64 bits, NaN or infinity, a NUL character, or too much of it.
    """
    waiting: list[tuple[JsonValue, int]] = [(whole, 0)]
    seen = 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if seen > JSON_VALUES or depth > JSON_DEPTH:
            raise ValueError(f"it holds more than {JSON_VALUES} values, or is nested deeper than {JSON_DEPTH}")
        if isinstance(value, dict):
            waiting += [(part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list):
            waiting += [(part, depth + 1) for part in value]
        else:
            _check_scalar(value)
    return whole


def _check_scalar(value: str | bool | int | float | None) -> None:
    if isinstance(value, str) and "\x00" in value:
        raise ValueError("a text in it holds a NUL character")
    if isinstance(value, str) and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise ValueError("a text in it holds half of a character (a lone surrogate)")
    if isinstance(value, int) and not -INT64 - 1 <= value <= INT64:
        raise ValueError("a number in it does not fit into 64 bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("a number in it is not finite")


# A document that a caller gives.
Settings = Annotated[dict[str, JsonValue], AfterValidator(check_document), Field(json_schema_extra={"x-free": True})]
