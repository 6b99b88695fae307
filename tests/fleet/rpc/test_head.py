"""A request's cost, seen in its bytes: whatever they are, and as protobuf means them."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleet.protocol.errors import MalformedError, ProtocolError, TooLargeError
from fleet.rpc import head, messages
from fleet.rpc.codec import decode_request
from fleet.rpc.head import head_of

NAMES = st.text(st.characters(codec="utf-8"), max_size=20)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_head_or_refused(data: bytes) -> None:
    for read in (head_of, decode_request):
        with contextlib.suppress(ProtocolError):
            read(data)


@given(NAMES, NAMES, st.lists(st.binary(max_size=50), max_size=5), st.integers(-1, 2**62))
@settings(max_examples=100, deadline=None)
def test_what_protobuf_writes_is_read_alike(model: str, version: str, raw: list[bytes], size: int) -> None:
    message = messages.InferRequest(model_name=model, model_version=version, raw_input_contents=raw)
    message.inputs.add(name="x", datatype="FP32", shape=[size])
    message.parameters["p"].double_param = 0.5
    assert head_of(message.SerializeToString()) == (model, version)


def test_the_last_of_two_names_counts_as_it_does_for_protobuf() -> None:
    data = messages.InferRequest(model_name="a").SerializeToString()
    data += messages.InferRequest(model_name="b").SerializeToString()
    assert head_of(data).model == messages.InferRequest.FromString(data).model_name == "b"


def test_raw_tensors_are_free_and_all_else_is_bounded() -> None:
    large = messages.InferRequest(model_name="m", raw_input_contents=[bytes(8 << 20)] * 3)
    assert head_of(large.SerializeToString()).model == "m"
    beside = messages.InferRequest(id="x" * (head.LIMIT + 1))
    many = messages.InferRequest(raw_input_contents=[b""] * (head.FIELDS + 1))
    for message in (beside, many):
        with pytest.raises(TooLargeError, match="more than"):
            head_of(message.SerializeToString())


@pytest.mark.parametrize(
    "data", [b"\x3a", b"\x3a\x05abc", b"\x0b", b"\x0c", b"\x09abc", b"\xff" * 11, b"\x0a\x02\xff\xff"]
)
def test_what_ends_early_or_is_no_field_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        head_of(data)
