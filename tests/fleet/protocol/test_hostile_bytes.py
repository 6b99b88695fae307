"""A decoder meets whatever the other end sends with a value or with the room's own error."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol import channel, codec, drift_encoder, manifest, messages, oip, selftest, sketch
from fleet.protocol.errors import MalformedError, ProtocolError
from tests.support.size import examples

GOLDEN = Path(__file__).parents[2] / "golden" / "v1"

DECODERS: dict[str, Callable[[bytes], object]] = {
    "notify.json": lambda data: messages.decode_control(data, messages.Notify),
    "command.json": lambda data: messages.decode_control(data, messages.Command),
    "signed.json": lambda data: messages.decode_control(data, messages.Signed),
    "status.json": lambda data: messages.decode_control(data, messages.Status),
    "envelope-model.msgpack": lambda data: messages.decode_body(messages.decode_envelope(data)),
    "envelope-window.msgpack": lambda data: messages.decode_body(messages.decode_envelope(data)),
    "manifest.json": manifest.decode_manifest,
    "channel.json": channel.decode_channel,
    "encoder.msgpack": drift_encoder.decode_encoder,
    "sketch.msgpack": sketch.decode_sketch,
    "vector.msgpack": selftest.decode_vectors,
    "sample-batch.msgpack": lambda data: oip.decode_response(data, None),
}


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A golden file with some bytes replaced, inserted or cut."""
    name = draw(st.sampled_from(sorted(DECODERS)))
    data = (GOLDEN / name).read_bytes()
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(data)))
        end = start + draw(st.integers(0, 6))
        data = data[:start] + draw(st.binary(max_size=6)) + data[end:]
    return name, data


@given(damaged())
@settings(max_examples=examples(600))
def test_damaged_messages_are_refused_or_read(case: tuple[str, bytes]) -> None:
    name, data = case
    try:
        DECODERS[name](data)
    except ProtocolError as error:
        assert str(error)


@given(st.sampled_from(sorted(DECODERS)), st.binary(max_size=300))
@settings(max_examples=examples(300))
def test_noise_is_refused(name: str, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        DECODERS[name](data)


@pytest.mark.parametrize("name", sorted(DECODERS))
@pytest.mark.parametrize("opening", [b"[", b'{"a":', b"\x91", b"\x81\xa1a"], ids=["list", "object", "array", "map"])
def test_deep_nesting_is_refused(name: str, opening: bytes) -> None:
    with pytest.raises(MalformedError):
        DECODERS[name](opening * 10_000)


@pytest.mark.parametrize("name", sorted(n for n in DECODERS if n.endswith(".json")))
def test_text_that_is_not_utf8_is_refused(name: str) -> None:
    with pytest.raises(MalformedError):
        DECODERS[name](b'{"channel":"\xff\xfe","payload":"\xff"}')


@pytest.mark.parametrize("field", ["version", "attempt"])
def test_a_channel_with_a_number_that_no_report_can_hold_is_refused(field: str) -> None:
    rollout = channel.RolloutRef(id="r", attempt=1, release=2, from_release=1, share_ppm=1, salt="s")
    good = channel.Channel(
        channel="stable", version=1, models={"digits": channel.ModelEntry(release=1, rollout=rollout)}
    )
    data = channel.encode_channel(good)
    assert channel.decode_channel(data) == good
    with pytest.raises(MalformedError, match="64 bits"):
        channel.decode_channel(data.replace(f'"{field}":1'.encode(), f'"{field}":{2**64}'.encode()))


@pytest.mark.parametrize("number", [0, -1, 2**63, 2**65])
def test_a_pin_to_a_number_that_no_look_could_pass_on_is_refused(number: int) -> None:
    """JSON is read with integers of any size, and written with 64 bits."""
    told = b'{"device_id":"d","channel":"stable","pins":{"digits":%d}}'
    assert codec.decode_json(told % 1, messages.DeviceMe, limit=messages.HTTP_LIMIT).pins == {"digits": 1}
    with pytest.raises(MalformedError, match="pins"):
        codec.decode_json(told % number, messages.DeviceMe, limit=messages.HTTP_LIMIT)
