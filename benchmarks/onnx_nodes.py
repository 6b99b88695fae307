"""ONNX's own node tests through the agent's door: what the bare runtime passes, the agent answers as the runtime does.

`python benchmarks/onnx_nodes.py` asks every case that `onnx.backend.test` has, that ONNX Runtime itself passes, and
whose tensors the Open Inference Protocol can carry: once in JSON, once with binary tensors, over HTTP. It writes the
counts to `benchmarks/results/onnx_nodes.json`. JSON has no infinity, so a case that has one is to be refused there, in
words. A case without inputs is left out, since a release has some.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import onnx
from msgspec.structs import replace

from benchmarks.machine import machine
from edge_agent import runtimes
from fleet.protocol import oip
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Tensor
from fleet.protocol.tensors import AnyArray
from tests.support import any_model
from tests.support.agent import Agent
from tests.support.server import serving

KINDS = {
    onnx.TensorProto.BOOL: "BOOL",
    onnx.TensorProto.FLOAT16: "FP16",
    onnx.TensorProto.FLOAT: "FP32",
    onnx.TensorProto.DOUBLE: "FP64",
    onnx.TensorProto.STRING: "BYTES",
    **{getattr(onnx.TensorProto, f"{u}INT{n}"): f"{u}INT{n}" for u in ("", "U") for n in (8, 16, 32, 64)},
}
FORMS = {"json": False, "binary": True}
NO_INFINITY = "holds infinity"  # in the words of whoever refuses it
RESULTS = Path(__file__).parent / "results" / "onnx_nodes.json"


class Case(NamedTuple):
    """One node test that the runtime passes: its file, its tensors as a manifest has them, and their values."""

    name: str
    data: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    asked: dict[str, AnyArray]
    answered: dict[str, AnyArray]
    rtol: float
    atol: float


def cases(every: int = 1, always: Sequence[str] = ()) -> tuple[list[Case], Counter[str]]:
    """Each `every`-th case that can be asked, those that are `always` asked, and how many cannot be, by the reason."""
    from onnx.backend.test.case.node import collect_testcases

    found, left_out = [], Counter[str]()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        collected = sorted(collect_testcases(None), key=lambda case: case.name)
    for case in [case for n, case in enumerate(collected) if n % every == 0 or case.name in always]:
        made = _case(case)
        if isinstance(made, Case):
            found.append(made)
        else:
            left_out[made] += 1
    return found, left_out


def ask(made: Sequence[Case], folder: Path) -> tuple[Counter[str], list[str]]:
    """Install and ask each case: how many were answered or refused in each form, and what was wrong."""
    agent, counts, wrong = Agent(folder), Counter[str](), []
    agent.slots._runtime_for = runtimes.for_variant
    with serving(**agent.listener) as (address, loop):
        connection = http.client.HTTPConnection(address, timeout=60)
        for case in made:
            release = any_model.release(folder / "blobs", case.inputs, case.outputs, edge=case.data)
            activation = agent.slots.activate(replace(release, model="node"), None, None)
            try:
                asyncio.run_coroutine_threadsafe(activation, loop).result(60)
            except Exception as error:  # noqa: BLE001 (told of its case, the others go on)
                wrong.append(f"{case.name}: it does not load: {error!r}")
                continue
            for form, binary in FORMS.items():
                told = _asked(connection, case, binary=binary)
                counts[f"{form}: {told}" if told in ("as the runtime", "refused in words") else f"{form}: wrong"] += 1
                if told not in ("as the runtime", "refused in words"):
                    wrong.append(f"{case.name}, {form}: {told}")
    return counts, wrong


def _case(case: Any) -> Case | str:
    """The case, or why it cannot be asked."""
    import onnxruntime

    if case.model is None:
        return "no model"
    graph = case.model.graph
    if not graph.input:
        return "no inputs"
    values = [*graph.input, *graph.output]
    if any(not v.type.HasField("tensor_type") or v.type.tensor_type.elem_type not in KINDS for v in values):
        return "a tensor that the protocol does not carry"
    try:
        session = onnxruntime.InferenceSession(case.model.SerializeToString(), providers=["CPUExecutionProvider"])
        asked, wanted = case.data_sets[0]
        given = {v.name: _array(a) for v, a in zip(graph.input, asked, strict=True)}
        got = session.run(None, {name: a.astype(str) if a.dtype == object else a for name, a in given.items()})
    except Exception:  # noqa: BLE001 (the runtime's own affair)
        return "the runtime does not run it"
    answered = {v.name: _array(a) for v, a in zip(graph.output, got, strict=True)}
    if not all(same(a, _array(b), case.rtol, case.atol) for a, b in zip(answered.values(), wanted, strict=True)):
        return "the runtime answers otherwise"
    inputs, outputs = tuple(map(_tensor, graph.input)), tuple(map(_tensor, graph.output))
    data = case.model.SerializeToString()
    return Case(case.name, data, inputs, outputs, given, answered, case.rtol, case.atol)


def _tensor(value: Any) -> Tensor:
    kind = value.type.tensor_type
    shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
    return Tensor(name=value.name, datatype=KINDS[kind.elem_type], shape=shape, finite=False)


def _array(value: Any) -> AnyArray:
    """Text as the protocol's arrays have it: objects of bytes."""
    array = np.asarray(value)
    if array.dtype.kind not in "OUS":
        return array
    texts = np.empty(array.size, object)
    texts[:] = [one if isinstance(one, bytes) else str(one).encode() for one in array.ravel().tolist()]
    return texts.reshape(array.shape)


def same(found: AnyArray, wanted: AnyArray, rtol: float, atol: float) -> bool:
    """Tell whether two arrays agree in datatype, shape and, within ONNX's own tolerance for the case, in values."""
    if found.dtype != wanted.dtype or found.shape != wanted.shape:
        return False
    if wanted.dtype.kind not in "f":
        return bool(np.array_equal(found, wanted))
    return bool(np.allclose(found.astype("f8"), wanted.astype("f8"), max(rtol, 1e-3), max(atol, 1e-6), equal_nan=True))


def _asked(connection: http.client.HTTPConnection, case: Case, *, binary: bool) -> str:
    """Ask once: `as the runtime`, `refused in words` (infinity in JSON), or what is wrong."""
    infinite = not binary and any(a.dtype.kind == "f" and np.isinf(a).any() for a in _all(case))
    values = tuple(oip.TensorValue(*item) for item in case.asked.items())
    request = oip.InferRequest(inputs=values, binary_outputs=oip.ALL if binary else frozenset())
    try:
        body, length = oip.encode_request(request, binary=binary)
    except MalformedError as error:
        return "refused in words" if infinite and NO_INFINITY in str(error) else repr(error)
    headers = {} if length is None else {oip.HEADER: str(length)}
    connection.request("POST", "/v2/models/node/infer", body, headers)
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        words = data.decode("utf-8", "replace")
        return "refused in words" if infinite and NO_INFINITY in words else f"{answer.status} {words[:200]}"
    found = oip.decode_response(data, oip.parse_header(answer.headers.get(oip.HEADER)))
    arrays = {value.name: value.array for value in found.outputs}
    wrong = [n for n, a in case.answered.items() if n not in arrays or not same(arrays[n], a, case.rtol, case.atol)]
    return f"{wrong[0]} is another" if wrong else "as the runtime"


def _all(case: Case) -> Iterator[AnyArray]:
    yield from case.asked.values()
    yield from case.answered.values()


def main() -> None:
    """Ask them all, and write down how many there were."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parsed = parser.parse_args()
    made, left_out = cases()
    with tempfile.TemporaryDirectory() as folder:
        counts, wrong = ask(made, Path(folder))
    found = {
        "asked": len(made),
        "left_out": dict(sorted(left_out.items())),
        **dict(sorted(counts.items())),
        "wrong": wrong,
    }
    text = json.dumps({"machine": machine("onnx", "onnxruntime"), "cases": found}, indent=2)
    parsed.out.write_text(text + "\n")
    print(text)
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
