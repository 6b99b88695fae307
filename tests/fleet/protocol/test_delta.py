"""Patches: whatever was built is what comes out, and a changed patch gives an error or the exact bytes."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import delta as protocol
from fleet.protocol.errors import ProtocolError
from model_compiler.errors import CompilerError
from model_compiler.package import delta

FILES = st.binary(max_size=3000)


@settings(deadline=None)
@given(FILES, FILES)
def test_a_patch_makes_the_exact_bytes(old: bytes, new: bytes) -> None:
    built = delta.build(old, new)
    assert delta.apply(old, built.patch) == new
    assert len(built.patch) == min(built.sizes.values())


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.data())
def test_a_changed_patch_gives_the_exact_bytes_or_an_error(seed: int, data: st.DataObject) -> None:
    random = np.random.default_rng(seed)
    old = random.integers(0, 256, 4000, dtype=np.uint8)
    new = old.copy()
    new[random.integers(0, 4000, 50)] += 1
    moved = np.concatenate([new[2000:], old[:1500], random.integers(0, 256, 300, dtype=np.uint8)])
    target = data.draw(st.sampled_from([new.tobytes(), moved.tobytes()]))
    patch = bytearray(delta.build(old.tobytes(), target).patch)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(patch) - 1))
        patch[place] ^= data.draw(st.integers(1, 255))
    cut = bytes(patch[: data.draw(st.integers(0, len(patch)))])
    for broken in (bytes(patch), cut):
        with contextlib.suppress(CompilerError):
            assert delta.apply(old.tobytes(), broken) == target


def test_the_methods_compare_as_they_are_known_to() -> None:
    random = np.random.default_rng(0)
    weights = random.normal(0, 20, 60_000).astype(np.int8)
    nudged = np.clip(weights + random.integers(-1, 2, len(weights)) * (random.random(len(weights)) < 0.1), -128, 127)
    trained = delta.build(weights.tobytes(), nudged.astype(np.int8).tobytes())
    assert trained.method == "subtract" and len(trained.patch) < 0.3 * trained.sizes["whole"]
    head = random.integers(0, 256, 500, dtype=np.uint8).tobytes()
    shifted = delta.build(weights.tobytes(), head + weights.tobytes())
    assert shifted.method == "bsdiff" and len(shifted.patch) < 2000
    other = delta.build(weights.tobytes(), random.integers(0, 256, 500, dtype=np.uint8).tobytes())
    assert other.method == "whole"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"method": "subtract"}, "one length"),
        ({"sections": (9, 9, 9)}, "do not fill"),
        ({"new_size": protocol.MAX_SIZE + 1}, "more than"),
    ],
)
def test_a_header_that_makes_no_sense_is_refused(change: dict, words: str) -> None:
    fields = {
        "method": "whole",
        "old": "00" * 32,
        "new": "11" * 32,
        "old_size": 3,
        "new_size": 4,
        "sections": (0, 0, 8),
    }
    header = protocol.Header(**{**fields, **change})
    with pytest.raises(ProtocolError, match=words):
        protocol.decode_header(protocol.encode_header(header), total=protocol.HEADER_SIZE + 8)


def test_a_header_survives_the_wire_and_its_layout_is_fixed() -> None:
    header = protocol.Header(method="bsdiff", old="ab" * 32, new="cd" * 32, old_size=1, new_size=2, sections=(3, 4, 5))
    data = protocol.encode_header(header)
    assert protocol.decode_header(data, total=len(data) + 12) == header
    assert data[:8] == b"ELD1\2\0\0\0" and len(data) == protocol.HEADER_SIZE == 112


def test_what_is_made_is_bounded_by_what_the_header_says() -> None:
    header = protocol.Header(
        method="bsdiff", old="00" * 32, new="11" * 32, old_size=10, new_size=10, sections=(0, 0, 0)
    )
    endless = iter(lambda: b"x", None)

    def forever(count: int) -> bytes:
        return next(endless) * count

    for triple in ((0, 11, 0), (5, -1, 0), (2**40, 0, 0), (0, 0, 0)):
        control = np.array(triple, "<i8").tobytes()
        with pytest.raises(ProtocolError):
            list(protocol.apply(header, lambda at, count: b"o" * count, lambda count, c=control: c, forever, forever))
