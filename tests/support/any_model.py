"""Model files of any shape, and releases around them: what the three doors to a model are tried with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_agent.ports import InstalledRelease
from fleet.protocol import selftest
from fleet.protocol.manifest import Blob, Manifest, SelfTest, Tensor, Variant
from fleet.protocol.preprocessing import required_by
from fleet.protocol.steps import AnyStep
from tests.support.manifests import verdict
from tests.support.models import put

Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[str, Sequence[Any]]]  # name -> (datatype, shape; a text is a variable dimension)


def onnx_file(nodes: Sequence[Any], inputs: Shapes, outputs: Shapes, constants: Arrays | None = None) -> bytes:
    """An ONNX model of `nodes`, each (operator, inputs, outputs, attributes) as `onnx.helper.make_node` takes them."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    kinds = {
        "BOOL": TensorProto.BOOL,
        "FP16": TensorProto.FLOAT16,
        "FP32": TensorProto.FLOAT,
        "FP64": TensorProto.DOUBLE,
        "BYTES": TensorProto.STRING,
        **{f"{u}INT{n}": getattr(TensorProto, f"{u}INT{n}") for u in ("", "U") for n in (8, 16, 32, 64)},
    }

    def values(shapes: Shapes) -> list[Any]:
        return [helper.make_tensor_value_info(name, kinds[kind], list(s)) for name, (kind, s) in shapes.items()]

    graph = helper.make_graph(
        [helper.make_node(kind, into, out, **more) for kind, into, out, more in nodes],
        "any",
        values(inputs),
        values(outputs),
        [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def logarithm(rows: int | str = "n") -> bytes:
    """y = log x for (n, 2): minus infinity for zero, NaN below."""
    shape = {"y": ("FP32", [rows, 2])}
    return onnx_file([("Log", ["x"], ["y"], {})], {"x": ("FP32", [rows, 2])}, shape)


def tensors(shapes: Shapes, *, finite: bool = True) -> tuple[Tensor, ...]:
    """As a manifest has them; text and None are variable dimensions."""
    return tuple(
        Tensor(name=n, datatype=kind, shape=tuple(d if isinstance(d, int) else -1 for d in shape), finite=finite)
        for n, (kind, shape) in shapes.items()
    )


def release(
    blobs: Path,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    *,
    edge: bytes,
    cloud: bytes | None = None,
    golden: Sequence[tuple[Arrays, Arrays]] = (),
    runtime: str = "onnx",
    steps: tuple[AnyStep, ...] = (),
) -> InstalledRelease:
    """A release of one edge variant and, with `cloud`, a cloud variant; `golden` are its self-test vectors."""
    variants = [_variant(f"{runtime}-fp32", runtime, "edge", put(blobs, edge))]
    if cloud is not None:
        variants.append(_variant("cloud", "onnx", "cloud", put(blobs, cloud)))
    vectors = [
        selftest.Vector(inputs=_arrays(asked), outputs={variants[0].name: _arrays(answered)})
        for asked, answered in golden
    ]
    section = SelfTest(
        blob=put(blobs, selftest.encode_vectors(vectors)),
        vectors=len(vectors),
        tolerance={variants[0].name: 1e-4},
        min_agreement=0.0,
    )
    manifest = Manifest(
        inputs=inputs,
        outputs=outputs,
        variants=tuple(variants),
        selftest=section,
        preprocess=steps or msgspec.UNSET,
        requires=required_by(steps),
    )
    return InstalledRelease(model="any", number=1, manifest=manifest, variant=variants[0], blobs=blobs)


def relaxed(made: InstalledRelease) -> InstalledRelease:
    """The release with inputs and outputs that may hold NaN and infinity."""
    free = {
        side: tuple(msgspec.structs.replace(tensor, finite=False) for tensor in getattr(made.manifest, side))
        for side in ("inputs", "outputs")
    }
    return msgspec.structs.replace(made, manifest=msgspec.structs.replace(made.manifest, **free))


def _arrays(arrays: Arrays) -> tuple[Any, ...]:
    return tuple(selftest.to_array(name, array) for name, array in arrays.items())


def _variant(name: str, runtime: str, placement: str, blob: Blob) -> Variant:
    return Variant(
        name=name,
        runtime=runtime,
        precision="fp32",
        placement=placement,
        blob=blob,
        verdict=verdict(),  # type: ignore[arg-type]
    )
