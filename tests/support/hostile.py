"""Hostile values for every parameter of every route: seeded, so that a failure comes again."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, NamedTuple
from urllib.parse import quote

# As they stand in a URL, quoted already: numbers of every size, NUL, broken UTF-8, other digits, long and odd text.
URL_VALUES = (
    "",
    "0",
    "-1",
    "2147483648",
    "9223372036854775807",
    "9223372036854775808",
    "99999999999",
    "99999999999999999999",
    "1" + "0" * 400,
    "9" * 5000,
    "1e308",
    "1e999",
    "NaN",
    "Infinity",
    "-Infinity",
    "1.5",
    "0x10",
    "1_000",
    "true",
    "null",
    "%00",
    "a%00b",
    "%ff%fe",
    "%ed%a0%80",
    "%C2%B2",
    "%D9%A3",
    "%F0%9F%98%80",
    "%20",
    "%0a",
    "..",
    "%2e%2e",
    "..%2f..%2fetc",
    "%25",
    "a" * 3000,
    "%27%3B--",
    "latest",
    "%E2%80%AE",
)
NUMBERS = (
    0,
    -1,
    1,
    2**31 - 1,
    2**31,
    -(2**31) - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**20,
    10**400,
    1e308,
    -1e308,
    5e-324,
    float("nan"),
    float("inf"),
    -float("inf"),
    0.5,
)
TEXTS = (
    "",
    "\0",
    "a\0b",
    "\ud800",
    "\udfff\ud800",
    "x" * 70,
    "x" * 5000,
    "x" * 200_000,
    "..",
    "../../etc/passwd",
    "²",
    "😀",
    "\u202e",
    "null",
    "1",
    "99999999999999999999",
    "NaN",
    "9" * 5000,
    "%00",
    "'; --",
    "{}",
)
HEADERS = ("", "x" * 5000, "\x00", "a\x00b", "ÿ", "99999999999999999999", "-1", "NaN", "bytes=0-99999999999999999999")


class Case(NamedTuple):
    """One request. `url` is quoted; `content` None sends no body."""

    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None


def deep(depth: int, inner: Any = 0) -> Any:
    """`inner` inside of so many lists and objects."""
    for number in range(depth):
        inner = [inner] if number % 2 else {"a": inner}
    return inner


def scalar(random: Random) -> Any:
    """A value of some type that is seldom meant."""
    kinds = (NUMBERS, TEXTS, (None, True, False, [], {}, [[]], {"": ""}), (deep(20), deep(200), [0] * 2000))
    return random.choice(random.choice(kinds))


def places(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of every value in a document, the whole of it first."""
    yield path
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        yield from places(value, (*path, key))


def changed(random: Random, document: Any) -> Any:
    """The document with one to three values replaced, removed or added."""
    found = copy.deepcopy(document)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        path = random.choice(list(places(found)))
        if not path:
            if isinstance(found, dict) and random.random() < 0.8:
                found[random.choice(TEXTS)] = scalar(random)
            elif random.random() < 0.2:
                return scalar(random)
            continue
        parent = found
        for key in path[:-1]:
            parent = parent[key]
        if isinstance(parent, dict) and random.random() < 0.15:
            del parent[path[-1]]
        else:
            parent[path[-1]] = scalar(random)
    return found


def body(random: Random, template: Any) -> bytes:
    """JSON near the template, or bytes that are none."""
    kind = random.random()
    if kind < 0.08:
        return random.choice(
            (
                b"",
                b"\x00",
                b"\xff\xfe",
                b"[",
                b'{"a":',
                b"null",
                b"[" * 5000,
                b'{"a":' * 5000,
                b'"\\ud800"',
                b"\x81\xa1a",
            )
        )
    text = json.dumps(changed(random, template) if template is not None else scalar(random))
    if kind < 0.14 and text.startswith("{") and len(text) > 2:
        text = text[:-1] + "," + text[1:]  # every key twice
    if kind < 0.17:
        text = text.replace(": ", ": 1e99999", 1) if random.random() < 0.5 else text.replace('"', "", 1)
    return text.encode("utf-8", "surrogatepass")


def form(random: Random, template: Mapping[str, Any]) -> bytes:
    """A form near the template."""
    fields = {key: random.choice((quote(str(value)), random.choice(URL_VALUES))) for key, value in template.items()}
    return "&".join(f"{key}={value}" for key, value in fields.items()).encode()
