"""Documents from outside: what may be kept as it is, what is mended, what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.protocol import bounds
from fleet.protocol.bounds import DEPTH, LARGEST, TEXT, VALUES, check_counts, storable
from fleet.protocol.errors import MalformedError

SCALAR = (
    st.none()
    | st.booleans()
    | st.floats()
    | st.text(max_size=8)
    | st.integers(-(1 << 64), 1 << 64)
    | st.sampled_from(["a\0b", "ü", "x" * (TEXT + 1), LARGEST, -LARGEST, -LARGEST - 1, 1.0, b"bytes"])
)
DOCUMENT = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(st.integers(0, LARGEST), max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=4) | st.just("a\0"), inner, max_size=4)
    ),
    max_leaves=12,
)


def outcome(function: Any, document: object) -> tuple[str, bytes]:
    """The value that it returns, as it is kept, or the words of its refusal."""
    try:
        return "kept", msgspec.json.encode(function(document))
    except MalformedError as error:
        return str(error), b""


@given(DOCUMENT)
def test_most_documents_are_seen_to_be_fine_at_once_and_come_out_the_same(document: object) -> None:
    slowly = bounds._Reader("x")
    assert outcome(lambda value: storable(value, "x"), document) == outcome(lambda v: slowly.read(v, "", 0), document)


def nested(depth: int) -> Any:
    """A list in a list, and so on."""
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    ("document", "kept"),
    [
        (nested(DEPTH), True),
        (nested(DEPTH + 1), False),
        ([1] * (VALUES - 1), True),
        ([1] * VALUES, False),
        ([[1] * 1000] * 70, False),
        ({"a": [LARGEST + 1, 2]}, False),
        ({"a": [True, 2.5, float("nan")]}, False),
    ],
    ids=["deep", "too deep", "many", "too many", "too many in all", "large", "nan"],
)
def test_the_bounds_are_the_same_on_both_ways(document: Any, kept: bool) -> None:
    if kept:
        assert storable(document, "x") == document
    else:
        with pytest.raises(MalformedError):
            storable(document, "x")


@pytest.mark.parametrize("counts", [(-1, 5), (5, 11)])
def test_counts_are_bounded_at_both_ends(counts: tuple[int, ...]) -> None:
    assert check_counts((), "n", 10) == () and check_counts((0, 10), "n", 10) == (0, 10)
    with pytest.raises(MalformedError):
        check_counts(counts, "n", 10)
