"""The cases of `test_models` in LiteRT files, through the doors that run them: the agent, an application, the compiler.

The hub serves ONNX files only. What LiteRT cannot express, or does otherwise, is said by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edge_agent.ports import InstalledRelease
from edge_agent.runtimes import selftest
from fleet import runtimes
from fleet.protocol.manifest import Ports, decode_manifest, encode_manifest
from model_compiler.running import runner_process
from model_compiler.running.runner import Wanted
from tests.contract.test_models import CASES, NO_ROWS, Case, Door, Failed, Refused, agent_door, process_door
from tests.support import any_model
from tests.support.any_model import tensors
from tests.support.litert_file import Names, Node, litert_file

TEXT = "BYTES"  # a LiteRT file may hold text, and the runtime has no way to ask it by views of its memory
DOORS = {"agent": agent_door, "process": process_door}
N2 = ("FP32", ["n", 2])


class File(NamedTuple):
    """A file, and where it is recorded that its inputs and outputs are the release's."""

    data: bytes
    ports: Ports | None = None


def options(kind: str, **fields: Any) -> Any:
    made = getattr(schema, f"{kind}OptionsT")()
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def difference(
    rows: int | str,
    inputs: str = "ab",
    outputs: Sequence[str] = ("minus", "plus"),
    *,
    names: Names | None = None,
    called: Mapping[str, str] | None = None,
) -> bytes:
    """minus = a - b, plus = a + b, in a file whose tensors come in this order; `called` are their names in it."""
    own = {name: name for name in (*"ab", "minus", "plus")} | dict(called or {})
    shape = ("FP32", [rows, 2])
    nodes = [
        Node("SUB", [own["a"], own["b"]], [own["minus"]], options("Sub")),
        Node("ADD", [own["a"], own["b"]], [own["plus"]], options("Add")),
    ]
    return litert_file(nodes, {own[n]: shape for n in inputs}, {own[n]: shape for n in outputs}, names=names)


def identity(kind: str, shape: list[Any]) -> bytes:
    turn = {"turn": np.arange(len(shape), dtype=np.int32)}
    return litert_file(
        [Node("TRANSPOSE", ["x", "turn"], ["y"])], {"x": (kind, shape)}, {"y": (kind, shape)}, constants=turn
    )


def product(rows: int | str) -> bytes:
    shape = ("FP32", [rows, 2])
    node = Node("MUL", ["x", "factor"], ["y"], options("Mul"))
    return litert_file([node], {"x": shape, "factor": ("FP32", [])}, {"y": shape})


def reduced(kind: str, shape: list[Any], axes: list[int], out: list[Any]) -> bytes:
    node = Node(kind, ["x", "axes"], ["y"], options("Reducer", keepDims=False))
    axis = {"axes": np.array(axes, np.int32)}
    return litert_file([node], {"x": ("FP32", shape)}, {"y": ("FP32", out)}, constants=axis)


def scalar() -> bytes:
    node = Node("MUL", ["x", "one"], ["y"], options("Mul"))
    return litert_file([node], {"x": ("FP32", [])}, {"y": ("FP32", [])}, constants={"one": np.array(1, np.float32)})


def masked() -> bytes:
    node = Node("SELECT_V2", ["keep", "x", "zero"], ["y"], options("SelectV2"))
    inputs = {"x": ("FP16", ["n", 2]), "keep": ("BOOL", ["n", 2])}
    zero = {"zero": np.zeros(1, np.float16)}
    return litert_file([node], inputs, {"y": ("FP16", ["n", 2])}, constants=zero)


def beside() -> bytes:
    node = Node("CONCATENATION", ["a", "b"], ["y"], options("Concatenation", axis=1))
    return litert_file([node], {"a": N2, "b": N2}, {"y": ("FP32", ["n", 4])})


def wider() -> bytes:
    cast = options("Cast")
    nodes = [
        Node("CAST", ["x"], ["x4"], cast),
        Node("CAST", ["ids"], ["i4"], cast),
        Node("EXPAND_DIMS", ["i4", "last"], ["column"], options("ExpandDims")),
        Node("MUL", ["x4", "column"], ["y4"], options("Mul")),
        Node("CAST", ["y4"], ["y"], cast),
    ]
    between = {"x4": N2, "i4": ("FP32", ["n"]), "column": ("FP32", ["n", 1]), "y4": N2}
    return litert_file(
        nodes,
        {"x": ("FP64", ["n", 2]), "ids": ("INT32", ["n"])},
        {"y": ("FP64", ["n", 2])},
        between=between,
        constants={"last": np.array(1, np.int32)},
    )


# Numbered by a converter, in another order than the release's: only the record says which is which.
NUMBERED = {"b": "args_0", "a": "args_1", "plus": "output_0", "minus": "output_1"}
RECORD = Ports(inputs={"a": 1, "b": 0}, outputs={"minus": 1, "plus": 0})
# Its tensors are called as the other input's is in the signature, which is what counts.
CROSSED = Names(inputs={"b": "a", "a": "b"}, outputs={"minus": "minus", "plus": "plus"})
SWAP = {"a": "b", "b": "a"}

FILES = {
    "names in the manifest's order": File(difference("n")),
    "names in another order": File(difference("n", "ba", ("plus", "minus"))),
    "inputs side by side": File(beside()),
    "no rows": File(difference("n", "ba")),
    "a batch of one": File(difference(1, "ba")),
    "a batch of three": File(difference(3, "ba")),
    "a scalar": File(scalar()),
    "a fixed shape": File(identity("INT64", [2, 2])),
    "FP16": File(identity("FP16", ["n", 2])),
    "FP64": File(identity("FP64", ["n"])),
    "BOOL": File(identity("BOOL", ["n"])),
    "FP16 and BOOL": File(masked()),
    "an input without a batch": File(product("n")),
    "an input without a batch, row by row": File(product(1)),
    "an output without a batch": File(reduced("SUM", ["n", 2], [0, 1], [])),
    "any length": File(reduced("MEAN", ["n", "time"], [1], ["n"])),
    "other widths in the file": File(wider()),
}
# Requests without rows: ONNX Runtime answers them, LiteRT has no tensor without elements.
OTHERWISE = {"no rows": CASES["no rows"]._replace(asked=(), refused=(NO_ROWS,))}
OF_LITERT = {
    "numbered, with a record": (
        CASES["names in another order"],
        File(difference("n", "ba", ("plus", "minus"), called=NUMBERED), RECORD),
    ),
    "named by the signature": (
        CASES["names in another order"],
        File(difference("n", "ab", names=CROSSED, called=SWAP)),
    ),
}
ALL = {name: (OTHERWISE.get(name, CASES[name]), file) for name, file in FILES.items()} | OF_LITERT


def test_every_case_is_here_or_named() -> None:
    steps = {name for name, case in CASES.items() if case.steps}  # of any runtime: they run before the file does
    assert CASES.keys() - FILES.keys() - steps == {TEXT}


@pytest.fixture(params=ALL)
def both(request: pytest.FixtureRequest) -> tuple[Case, File]:
    return ALL[request.param]


def release(both: tuple[Case, File], blobs: Path) -> InstalledRelease:
    case, file = both
    made = any_model.release(
        blobs, tensors(case.inputs), tensors(case.outputs), edge=file.data, golden=case.asked, runtime="litert"
    )
    if file.ports is None:
        return made
    variant = msgspec.structs.replace(made.variant, ports=file.ports)
    manifest = msgspec.structs.replace(made.manifest, variants=(variant,))
    return msgspec.structs.replace(made, manifest=decode_manifest(encode_manifest(manifest)), variant=variant)


@pytest.mark.parametrize("name", DOORS)
def test_every_door_gives_the_models_own_answer_or_the_same_refusal(
    name: str, both: tuple[Case, File], tmp_path: Path
) -> None:
    case, made = both[0], release(both, tmp_path / "blobs")
    door: Door = DOORS[name](tmp_path)
    for inputs, wanted in case.asked:
        found = door(made, inputs)
        assert list(found) == list(case.outputs)
        for output, array in wanted.items():
            np.testing.assert_array_equal(found[output], array, strict=True)
    for kind, asked in ((Refused, case.refused), (Failed, case.failed)):
        for inputs, words in asked:
            with pytest.raises(kind) as refused:
                door(made, inputs)
            assert words in str(refused.value)


def test_the_self_test_asks_alike(both: tuple[Case, File], tmp_path: Path) -> None:
    if both[0].asked:
        made = release(both, tmp_path / "blobs")
        outcome = selftest.run(made.manifest, made.variant.name, made.blobs)
        assert outcome.passed, outcome.reason


NO_SAMPLES = ("no rows", "a fixed shape", "a batch of three")  # a data set has samples, each of one row


@pytest.mark.parametrize("name", [name for name in FILES if name not in NO_SAMPLES])
def test_the_compiler_measures_the_same_answers(name: str) -> None:
    """It asks row by row, and says the file's own datatypes."""
    case, file = ALL[name]
    opened = runtimes.named("ai-edge-litert").open(file.data)
    many = all(tensor.shape and tensor.shape[0] in (1, -1) for tensor in (*opened.inputs, *opened.outputs))
    for inputs, wanted in case.asked:
        if not many and any(len(array) > 1 for array in inputs.values() if array.ndim):
            continue  # a file without a batch takes one sample
        arrays = [array if many else array[None] for array in inputs.values()]
        loaded = runner_process.Loaded(opened, list(inputs), arrays, Wanted(precise=True))
        order = [tensor.name for tensor in opened.outputs]
        answers = [values for values, _ in loaded.answers(range(len(order)))]
        found = dict(zip(order, answers, strict=True))
        for output, array in wanted.items():
            own = next(tensor.dtype for tensor in opened.outputs if tensor.name == output)
            values = found[output] if many else found[output][0]
            np.testing.assert_array_equal(values, np.asarray(array).astype(own), strict=True)


WRONG = (
    Ports(inputs={"a": 1}, outputs=RECORD.outputs),
    Ports(inputs={"a": 0, "b": 2}, outputs=RECORD.outputs),
    Ports(inputs={"a": 0, "b": 0}, outputs=RECORD.outputs),
    Ports(inputs=RECORD.inputs, outputs={"minus": -1, "plus": 0}),
)


@pytest.mark.parametrize("wrong", WRONG)
def test_a_record_that_does_not_fit_loads_nothing(wrong: Ports) -> None:
    case, file = OF_LITERT["numbered, with a record"]
    with pytest.raises(runtimes.ModelLoadError, match=r"recorded places|are one of the model file's"):
        runtimes.load(
            runtimes.named("ai-edge-litert"), file.data, tensors(case.inputs), tensors(case.outputs), ports=wrong
        )


def test_a_release_of_0_1_without_a_record_is_paired_in_the_files_order() -> None:
    """Its self-test has proved that; nothing else says which numbered input is which."""
    case = CASES["names in the manifest's order"]
    numbered = {"a": "args_0", "b": "args_1", "minus": "output_0", "plus": "output_1"}
    file = difference("n", called=numbered)
    model = runtimes.load(runtimes.named("ai-edge-litert"), file, tensors(case.inputs), tensors(case.outputs))
    inputs, wanted = case.asked[0]
    np.testing.assert_array_equal(model.run(dict(inputs))["minus"], wanted["minus"])


def test_text_is_refused_by_name() -> None:
    shapes = {"x": ("BYTES", ["n"])}, {"y": ("BYTES", ["n"])}
    file = litert_file([Node("TRANSPOSE", ["x", "p"], ["y"])], *shapes, constants={"p": np.array([0], np.int32)})
    with pytest.raises(runtimes.ModelLoadError, match=r"holds text|no tensor of numbers or text"):
        runtimes.load(runtimes.named("ai-edge-litert"), file, *(tensors(side) for side in shapes))
