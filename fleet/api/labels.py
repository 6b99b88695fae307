"""A label as a person writes it in one line, on the command line, in a cell or in a form, as the JSON it stands for."""

from __future__ import annotations

import json
import math
import re
from typing import NoReturn

from pydantic import JsonValue

CLASS = re.compile(r"[0-9]{1,9}")  # ² and ٣ are digits, too, but no numbers that int() or the hub would take
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")  # as JSON has it, which knows no +1, .5, 1_000 or nan
NUMBER_LIMIT = 64  # characters
LARGEST = (1 << 63) - 1  # of a whole number; a value beyond is one with a point


def parse_label(text: str) -> JsonValue:
    """`7` → 7, `3.25` → 3.25, `dog` → "dog", `"7"` → "7", `["a", 2]` → a list, `{"a": 1}` → an object.

    Raises:
        ValueError: it is empty, or begins like JSON and is none.
    """
    text = text.strip()
    if not text:
        raise ValueError("a label is empty: write a class by its number or name, such as 7")
    return parse_json(text) if text[0] in '[{"' else parse_number(text)


def parse_number(text: str) -> int | float | str:
    """A number where the text is one as JSON has it, else the text."""
    if CLASS.fullmatch(text):
        return int(text)
    if len(text) > NUMBER_LIMIT or not NUMBER.fullmatch(text):
        return text
    number = int(text) if text.lstrip("-").isdecimal() else float(text)
    if isinstance(number, int) and abs(number) > LARGEST:
        return float(number)
    return number if math.isfinite(number) else text


def parse_json(text: str) -> JsonValue:
    """Any JSON without NaN and infinity; ValueError otherwise."""
    try:
        found: JsonValue = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON: {error}") from None
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
