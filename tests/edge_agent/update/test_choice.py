"""Which variant a device takes: what it can run, its own preference, then the publisher's order."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edge_agent.errors import RefusedError
from edge_agent.update.look import choose
from fleet.protocol.manifest import decode_manifest
from tests.support.manifests import small_release


def release():
    manifest = decode_manifest(small_release()[0])
    (edge,) = manifest.placed("edge")
    kinds = {"litert-int8": "litert", "litert-fp32": "litert", "onnx-fp32": "onnx"}
    variants = tuple(replace(edge, name=name, runtime=runtime) for name, runtime in kinds.items())
    return replace(manifest, variants=variants)


@pytest.mark.parametrize(
    ("kinds", "preferred", "expected"),
    [
        (("litert", "onnx"), (), "litert-int8"),
        (("litert", "onnx"), ("litert-fp32",), "litert-fp32"),
        (("litert", "onnx"), ("gone", "onnx-fp32", "litert-fp32"), "onnx-fp32"),
        (("onnx",), ("litert-fp32",), "onnx-fp32"),
    ],
)
def test_the_choice(kinds, preferred, expected):
    assert choose(release(), kinds, preferred).name == expected


def test_a_device_without_the_runtime_refuses():
    with pytest.raises(RefusedError, match="here is none"):
        choose(release(), ())
