"""Every message of every released version stays readable.

The files under `v1/` were written by the release that introduced them. A test decodes them with
today's code; a change that breaks one breaks devices in the field. New messages are written with
`pytest tests/golden --update-goldens`, which never overwrites a file.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from fleet.protocol import calls, channel, codec, manifest, messages, telemetry
from fleet.protocol.errors import MalformedError, TooLargeError, VersionError
from tests.golden import examples

HERE = Path(__file__).parent / "v1"
CASES = [*((n, v, "json") for n, v in examples.JSON.items()), *((n, v, "msgpack") for n, v in examples.MSGPACK.items())]
by_case = pytest.mark.parametrize(("name", "value", "form"), CASES, ids=[f"{n}.{f}" for n, _, f in CASES])


def encode(value: object, form: str) -> bytes:
    return codec.encode_json(value) if form == "json" else codec.encode_msgpack(value)


def decode(data: bytes, kind: type, form: str) -> Any:
    read = codec.decode_json if form == "json" else codec.decode_msgpack
    return read(data, kind, limit=1 << 20)


@pytest.fixture
def stored(request: pytest.FixtureRequest, name: str, value: Struct, form: str) -> bytes:
    path = HERE / f"{name}.{form}"
    if request.config.getoption("--update-goldens") and not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode(value, form))
    assert path.exists(), f"{path} is missing; write it with: pytest tests/golden --update-goldens"
    return path.read_bytes()


@by_case
def test_stored_bytes_decode_to_the_same_value(stored: bytes, value: Struct, form: str) -> None:
    assert plain(decode(stored, type(value), form)) == plain(value)


@by_case
def test_reading_and_writing_changes_nothing(stored: bytes, value: Struct, form: str) -> None:
    again = encode(decode(stored, type(value), form), form)
    assert decode(again, type(value), form) == decode(stored, type(value), form)
    assert encode(decode(again, type(value), form), form) == again


@by_case
def test_unknown_fields_are_ignored_at_every_level(stored: bytes, value: Struct, form: str) -> None:
    raw = msgspec.json.decode(stored) if form == "json" else msgspec.msgpack.decode(stored)
    grown = encode(grow(raw, type(value)), form)
    assert len(grown) > len(stored)
    assert plain(decode(grown, type(value), form)) == plain(value)


@by_case
def test_cut_or_oversized_bytes_are_refused(stored: bytes, value: Struct, form: str) -> None:
    with pytest.raises(MalformedError):
        decode(stored[:-1], type(value), form)
    read = codec.decode_json if form == "json" else codec.decode_msgpack
    with pytest.raises(TooLargeError, match="at most"):
        read(stored, type(value), limit=len(stored) - 1)


def plain(value: Any) -> Any:
    """A value that compares by content: `Raw` compares by identity."""
    if isinstance(value, messages.Envelope):
        return msgspec.structs.asdict(value) | {"body": messages.decode_body(value)}
    return value


def grow(raw: Any, kind: Any) -> Any:
    """Add an unknown field to every object that stands for a struct."""
    if isinstance(kind, type) and issubclass(kind, Struct) and isinstance(raw, dict):
        info = {f.encode_name: f.type for f in msgspec.structs.fields(kind)}
        return {k: grow(v, info[k]) for k, v in raw.items()} | {"field_of_the_future": {"x": [1]}}
    args = [a for a in getattr(kind, "__args__", ()) if a not in (type(None), ...)]
    if isinstance(raw, list) and args:
        return [grow(item, args[0]) for item in raw]
    if isinstance(raw, dict) and len(args) == 2:
        return {k: grow(v, args[1]) for k, v in raw.items()}
    if args:
        return grow(raw, args[0])
    return raw


OURS = (messages.__name__, calls.__name__, telemetry.__name__)


def test_every_message_has_an_example() -> None:
    examples_of = {type(v) for v in [*examples.JSON.values(), *examples.MSGPACK.values()]}
    nested = {
        telemetry.PairCounts,
        telemetry.QuantileData,
        telemetry.InputSummary,
        messages.Array,
        messages.Sample,
        messages.MqttEndpoint,
    }
    declared = {
        kind
        for _, kind in inspect.getmembers(messages, inspect.isclass)
        if issubclass(kind, Struct) and kind is not Struct and kind.__module__ in OURS
    }
    assert declared - examples_of - nested == set()


def test_no_golden_file_is_without_an_example() -> None:
    assert {p.name for p in HERE.iterdir()} == {f"{n}.{f}" for n, _, f in CASES}


@pytest.mark.parametrize("kind", sorted(messages.BODIES))
def test_envelopes_hold_the_body_of_their_kind(kind: str) -> None:
    stored = (HERE / f"envelope-{kind}.msgpack").read_bytes()
    assert messages.decode_body(messages.decode_envelope(stored)) == examples.BODIES[kind]


@pytest.mark.parametrize("name", ["notify", "signed", "command", "status"])
def test_an_unknown_major_version_is_refused(name: str) -> None:
    value = examples.JSON[name]
    later = codec.encode_json(msgspec.structs.replace(value, v=2))
    with pytest.raises(VersionError, match="major version 2, this build speaks 1"):
        messages.decode_control(later, type(value))
    assert messages.decode_control(codec.encode_json(value), type(value)) == value


def test_an_unknown_envelope_manifest_or_channel_version_is_refused() -> None:
    later = codec.encode_msgpack(msgspec.structs.replace(examples.envelope("model", examples.REPORT), v=2))
    with pytest.raises(VersionError):
        messages.decode_envelope(later)
    with pytest.raises(VersionError):
        manifest.decode_manifest(codec.encode_json(msgspec.structs.replace(examples.MANIFEST, schema=2)))
    with pytest.raises(VersionError):
        channel.decode_channel(codec.encode_json(msgspec.structs.replace(examples.CHANNEL, schema=2)))


def test_limits_are_checked_before_decoding() -> None:
    with pytest.raises(TooLargeError):
        messages.decode_control(b"x" * (messages.CONTROL_LIMIT + 1), messages.Notify)
    with pytest.raises(TooLargeError):
        messages.decode_envelope(b"x" * (messages.TELEMETRY_LIMIT + 1))
    with pytest.raises(TooLargeError):
        manifest.decode_manifest(b"x" * (manifest.MANIFEST_LIMIT + 1))
    with pytest.raises(TooLargeError):
        channel.decode_channel(b"x" * (channel.CHANNEL_LIMIT + 1))


@pytest.mark.parametrize(("seq", "base"), [(0, 0), (3, 4), (3, 0), (-1, -1)])
def test_envelope_numbers_are_checked(seq: int, base: int) -> None:
    bad = msgspec.structs.replace(examples.envelope("model", examples.REPORT), seq=seq, base=base)
    with pytest.raises(MalformedError, match="envelope number"):
        messages.decode_envelope(codec.encode_msgpack(bad))
