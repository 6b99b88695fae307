"""Documents of a later version say what they require; an agent reads that before anything that it may not know."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleet.protocol.channel import decode_channel
from fleet.protocol.errors import MalformedError, UnsupportedError
from fleet.protocol.manifest import decode_manifest
from tests.support.manifests import small_release

HERE = frozenset({"old"})


def later_manifest(requires: list[str]) -> bytes:
    """A release whose variant has a precision that nobody here knows."""
    document: Any = msgspec.json.decode(small_release()[0])
    document["variants"][0]["precision"] = "int4"
    return msgspec.json.encode({**document, "requires": requires})


def test_an_unknown_word_is_unsupported_where_the_release_says_so() -> None:
    with pytest.raises(UnsupportedError, match="unsupported:int4"):
        decode_manifest(later_manifest(["old", "int4"]), HERE)


def test_an_unknown_word_is_malformed_where_it_does_not() -> None:
    with pytest.raises(MalformedError, match="precision"):
        decode_manifest(later_manifest([]), HERE)


def test_what_is_understood_is_read() -> None:
    data = msgspec.json.encode({**msgspec.json.decode(small_release()[0]), "requires": ["old"]})
    assert decode_manifest(data, HERE).requires == ("old",)
    assert decode_manifest(data).requires == ("old",), "a hub reads a release whatever it requires"


@pytest.mark.parametrize("damaged", [{"requires": "old"}, {"requires": [1]}, {"requires": None}])
def test_a_damaged_list_is_malformed(damaged: dict[str, Any]) -> None:
    with pytest.raises(MalformedError):
        decode_manifest(msgspec.json.encode({**msgspec.json.decode(small_release()[0]), **damaged}), HERE)


def test_a_channel_is_read_alike() -> None:
    document = {"channel": "stable", "version": 1, "requires": ["new"], "fetching": {"window": {"of": "a later day"}}}
    with pytest.raises(UnsupportedError, match="unsupported:new"):
        decode_channel(msgspec.json.encode(document), HERE)
