"""The descriptors are those of the .proto file, and the protocol's own, as another implementation has them."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from tritonclient.grpc import model_config_pb2, service_pb2

from fleet.rpc import messages

ROOT = Path(__file__).parents[3]
THEIRS = {
    **dict(service_pb2.DESCRIPTOR.message_types_by_name.items()),
    **dict(model_config_pb2.DESCRIPTOR.message_types_by_name.items()),
}


def test_the_descriptors_are_made_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of inference.proto: scripts/write-grpc."""
    target = tmp_path / "made.pb"
    monkeypatch.setattr(sys, "argv", ["write-grpc", str(target)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "scripts" / "write-grpc"), run_name="__main__")
    assert ended.value.code == 0
    kept = (ROOT / "fleet" / "rpc" / messages.DESCRIPTORS).read_bytes()
    read = descriptor_pb2.FileDescriptorSet.FromString
    assert read(kept) == read(target.read_bytes())


def same(ours: object, theirs: object) -> None:
    """Every field that we know has the number, the kind and the repetition that Triton's client knows it by."""
    for field in ours.fields:  # type: ignore[attr-defined]
        other = theirs.fields_by_name[field.name]  # type: ignore[attr-defined]
        assert (field.number, field.type, field.is_repeated) == (other.number, other.type, other.is_repeated)
        if field.message_type is not None:
            same(field.message_type, other.message_type)
        if field.enum_type is not None:
            ours_values = {value.name: value.number for value in field.enum_type.values}
            assert ours_values.items() <= {value.name: value.number for value in other.enum_type.values}.items()


def test_every_field_is_the_protocols() -> None:
    calls = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    for name, kinds in messages.calls().items():
        assert (calls[name].client_streaming, calls[name].server_streaming) == ((name == "ModelStreamInfer",) * 2)
        for kind, other in zip(kinds, (calls[name].input_type, calls[name].output_type), strict=True):
            assert kind.DESCRIPTOR.full_name == other.full_name
            same(kind.DESCRIPTOR, THEIRS[other.name])
