"""A device's choice of a variant: what it can run, its own preference, then the publisher's order."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from edge_agent.errors import RefusedError
from edge_agent.update.worker.resolve_targets import choose_variant
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
    assert choose_variant(release(), kinds, preferred).name == expected


def test_a_device_without_the_runtime_refuses():
    with pytest.raises(RefusedError, match="here is none"):
        choose_variant(release(), ())


def test_a_variant_is_passed_over_where_no_runtime_that_it_was_proven_on_is_installed():
    manifest = release()
    proven = {"litert-int8": ("ai-edge-litert",), "litert-fp32": ("tflite-runtime", "ai-edge-litert")}
    manifest = replace(
        manifest, variants=tuple(replace(v, runtimes=proven.get(v.name, ("onnxruntime",))) for v in manifest.variants)
    )
    old = ("tflite-runtime",)
    assert choose_variant(manifest, ("litert",), (), old).name == "litert-fp32"
    assert choose_variant(manifest, ("litert",), ("litert-int8",), old).name == "litert-fp32"
    assert choose_variant(manifest, ("litert",), ("litert-int8",), ("ai-edge-litert",)).name == "litert-int8"
    with pytest.raises(RefusedError, match=r"needs a runtime for ai-edge-litert or onnxruntime or tflite-runtime"):
        choose_variant(manifest, ("litert", "onnx"), (), ("another",))
