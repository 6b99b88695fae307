"""One model, asked through the doors that applications have: the agent's engine, their own process, the hub.

All run model files by `fleet.runtimes`. The same request gets the same bits at each, or the same refusal.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from msgspec.structs import replace

from edge_agent import runtimes
from edge_agent.errors import InferenceError
from edge_agent.local import open_model
from edge_agent.ports import InstalledRelease
from edge_agent.update.disk.state import StateFile
from edge_agent.update.disk.store import Store
from edge_agent.update.rules.model_state import HeldRelease, ModelState
from fleet import runtimes as fleet_runtimes
from fleet.protocol import oip
from fleet.protocol.errors import ProtocolError
from fleet.protocol.manifest import encode_manifest
from fleet.protocol.steps import AnyStep, Concat, Impute, Normalise, OneHot, Scale, Window
from fleet.runtimes.models import ModelFile
from model_compiler.inputs.preprocessing import Preparation
from model_compiler.running import runner, runner_process
from tests.support import any_model
from tests.support.agent import Agent
from tests.support.any_model import Arrays, Shapes, onnx_file, tensors
from tests.support.hub import HubFixture, make_hub

COUNT = itertools.count()
Door = Callable[[InstalledRelease, Arrays], Arrays]


class Refused(Exception):
    """The request is the caller's mistake; the message says why."""


class Failed(Exception):
    """The model failed on the request."""


class Case(NamedTuple):
    """A file, its manifest's inputs and outputs, and requests: those it takes with their answers, those that are
    refused as the caller's mistake, and those on which the file fails though the manifest allows them.

    `steps` lie before the file; `loose` inputs may hold NaN."""

    file: bytes
    inputs: Shapes
    outputs: Shapes
    asked: tuple[tuple[Arrays, Arrays], ...]
    refused: tuple[tuple[Arrays, str], ...] = ()
    failed: tuple[tuple[Arrays, str], ...] = ()
    steps: tuple[AnyStep, ...] = ()
    loose: tuple[str, ...] = ()


def f4(*rows: Any) -> np.ndarray:
    return np.array(rows, np.float32)


def text(*items: Any) -> np.ndarray:
    array = np.empty(len(items), object)
    array[:] = items
    return array


def difference(rows: int | str, *, turned: bool) -> bytes:
    """minus = a - b and plus = a + b for (n, 2); `turned`: the file names b and plus first."""
    inputs = {name: ("FP32", [rows, 2]) for name in ("ba" if turned else "ab")}
    outputs = {name: ("FP32", [rows, 2]) for name in (["plus", "minus"] if turned else ["minus", "plus"])}
    nodes = [("Sub", ["a", "b"], ["minus"], {}), ("Add", ["a", "b"], ["plus"], {})]
    return onnx_file(nodes, inputs, outputs)


A, B = f4([1, 2], [3, 4], [5, 6]), f4([10, 20], [30, 40], [50, 60])
AB = {"a": ("FP32", ["n", 2]), "b": ("FP32", ["n", 2])}
MINUS_PLUS = {"minus": ("FP32", ["n", 2]), "plus": ("FP32", ["n", 2])}


def pairs(*counts: int) -> tuple[tuple[Arrays, Arrays], ...]:
    return tuple(({"a": A[:n], "b": B[:n]}, {"minus": A[:n] - B[:n], "plus": A[:n] + B[:n]}) for n in counts)


def identity(kind: str, shape: list[Any], values: np.ndarray) -> Case:
    sides: Mapping[str, Any] = {"x": (kind, shape)}, {"y": (kind, shape)}
    file = onnx_file([("Identity", ["x"], ["y"], {})], *sides)
    return Case(file, *sides, asked=(({"x": values}, {"y": values}),))


def masked() -> Case:
    """BOOL picks FP16: y = x where keep, else 0."""
    inputs = {"x": ("FP16", ["n", 2]), "keep": ("BOOL", ["n", 2])}
    outputs = {"y": ("FP16", ["n", 2])}
    file = onnx_file([("Where", ["keep", "x", "zero"], ["y"], {})], inputs, outputs, {"zero": np.zeros(1, np.float16)})
    x, keep = np.array([[1, 2], [3, 4]], np.float16), np.array([[True, False], [False, True]])
    return Case(file, inputs, outputs, asked=(({"x": x, "keep": keep}, {"y": np.where(keep, x, np.float16(0))}),))


def scaled() -> Case:
    """y = x * factor, where the factor has no batch."""
    inputs, outputs = {"x": ("FP32", ["n", 2]), "factor": ("FP32", [])}, {"y": ("FP32", ["n", 2])}
    file = onnx_file([("Mul", ["x", "factor"], ["y"], {})], inputs, outputs)
    three = np.array(3, np.float32)
    return Case(file, inputs, outputs, asked=tuple(({"x": x, "factor": three}, {"y": x * 3}) for x in (A, A[:1])))


def scaled_by_row() -> Case:
    """As `scaled`, in a file that takes one row."""
    whole = scaled()
    file = onnx_file(
        [("Mul", ["x", "factor"], ["y"], {})], {"x": ("FP32", [1, 2]), "factor": ("FP32", [])}, {"y": ("FP32", [1, 2])}
    )
    return whole._replace(file=file)


def beside() -> bytes:
    """y = a and b next to each other: what ONNX Runtime reads of an input without rows is not its own."""
    return onnx_file([("Concat", ["a", "b"], ["y"], {"axis": 1})], AB, {"y": ("FP32", ["n", 4])})


def total() -> Case:
    """The sum of all rows: no batch in the output."""
    inputs, outputs = {"x": ("FP32", ["n", 2])}, {"y": ("FP32", [])}
    file = onnx_file([("ReduceSum", ["x"], ["y"], {"keepdims": 0})], inputs, outputs)
    return Case(file, inputs, outputs, asked=(({"x": A}, {"y": np.float32(21)}), ({"x": A[:1]}, {"y": np.float32(3)})))


def lengths() -> Case:
    """The mean over a second dimension that may be of any length."""
    inputs, outputs = {"x": ("FP32", ["n", "time"])}, {"y": ("FP32", ["n"])}
    file = onnx_file([("ReduceMean", ["x"], ["y"], {"axes": [1], "keepdims": 0})], inputs, outputs)
    asked = [np.arange(rows * time, dtype=np.float32).reshape(rows, time) for rows, time in ((1, 3), (2, 5), (3, 1))]
    return Case(file, inputs, outputs, asked=tuple(({"x": x}, {"y": x.mean(axis=1)}) for x in asked))


def words() -> Case:
    """y = text & text, as text: what the model is given is what the application sent."""
    inputs, outputs = {"x": ("BYTES", ["n"])}, {"y": ("BYTES", ["n"]), "same": ("BOOL", ["n"])}
    nodes = [("Identity", ["x"], ["y"], {}), ("Equal", ["x", "wanted"], ["same"], {})]
    file = equal_text(nodes, inputs, outputs)
    return Case(
        file,
        inputs,
        outputs,
        asked=(
            (
                {"x": text(b"a", "Grüße 你好".encode(), b"")},
                {"y": text(b"a", "Grüße 你好".encode(), b""), "same": np.array([True, False, False])},
            ),
        ),
        refused=(({"x": text(b"a", b"\xff\xfe")}, "input 'x': element 1 is not UTF-8 text"),),
    )


def equal_text(nodes: list[Any], inputs: Shapes, outputs: Shapes) -> bytes:
    """Comparing text needs a newer operator set than the other cases."""
    import onnx

    model = onnx.load_from_string(onnx_file([nodes[0]], inputs, {"y": outputs["y"]}))
    model.opset_import[0].version = 19
    model.graph.initializer.append(onnx.helper.make_tensor("wanted", onnx.TensorProto.STRING, [1], [b"a"]))
    model.graph.node.append(onnx.helper.make_node(*nodes[1][:3]))
    model.graph.output.append(onnx.helper.make_tensor_value_info("same", onnx.TensorProto.BOOL, ["n"]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def wider() -> Case:
    """A file in double precision and 32-bit integers behind a manifest in single precision and 64 bits."""
    inputs, outputs = {"x": ("FP32", ["n", 2]), "ids": ("INT64", ["n"])}, {"y": ("FP32", ["n", 2])}
    nodes = [
        ("Unsqueeze", ["ids", "one"], ["column"], {}),
        ("Cast", ["column"], ["real"], {"to": 11}),
        ("Mul", ["x", "real"], ["y"], {}),
    ]
    file = onnx_file(
        nodes, {"x": ("FP64", ["n", 2]), "ids": ("INT32", ["n"])}, {"y": ("FP64", ["n", 2])}, {"one": np.array([1])}
    )
    ids = np.array([1, 2, 3])
    large = np.array([1, 2, 1 << 40])
    return Case(
        file,
        inputs,
        outputs,
        asked=(({"x": A, "ids": ids}, {"y": A * f4([1], [2], [3])}),),
        refused=(({"x": A, "ids": large}, "input 'ids' has values that INT32 cannot hold"),),
    )


def table() -> Case:
    """Sensors with gaps and a kind in words, made into one table of four columns, which the file gives back."""
    steps = (
        Impute(input="sensors", value=(1, 2)),
        Normalise(input="sensors", mean=(1, 0), std=(2,)),
        OneHot(input="type", vocabulary=("H", "L")),
        Concat(inputs=("sensors", "type"), output="features"),
    )
    inputs = {"sensors": ("FP32", ["n", 2]), "type": ("BYTES", ["n"])}
    outputs = {"y": ("FP32", ["n", 4])}
    file = onnx_file([("Identity", ["features"], ["y"], {})], {"features": ("FP32", ["n", 4])}, outputs)
    sensors, kinds = f4([3, np.nan], [np.nan, 4], [5, 0.1]), text(b"H", b"L", b"L")
    answers = f4([1, 1, 1, 0], [0, 2, 0, 1], [2, np.float32(0.1) / 2, 0, 1])
    return Case(
        file,
        inputs,
        outputs,
        asked=tuple(({"sensors": sensors[:n], "type": kinds[:n]}, {"y": answers[:n]}) for n in (1, 3)),
        refused=(
            (
                {"sensors": sensors, "type": text(b"H", b"L", b"M")},
                "input 'type' is 'M' at [2], which the release's vocabulary does not have",
            ),
            ({"sensors": f4([np.inf, 1]), "type": kinds[:1]}, "input 'features' is infinite at [0, 0]"),
            ({"sensors": sensors[:1], "type": kinds}, "the inputs disagree about the batch: [1, 3]"),
        ),
        steps=steps,
        loose=("sensors",),
    )


def framed() -> Case:
    """A series in overlapping pieces, to a file that takes one row at a time."""
    inputs, outputs = {"x": ("INT16", ["n", "time"])}, {"y": ("FP32", ["n", "pieces", 2])}
    steps = (Window(input="x", size=2, hop=1), Scale(input="x", factor=(0.5,), offset=(0,)))
    one = {"y": ("FP32", [1, "pieces", 2])}
    file = onnx_file([("Identity", ["x"], ["y"], {})], {"x": ("FP32", [1, "pieces", 2])}, one)
    x = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int16)
    y = np.stack([x[:, place : place + 2] for place in range(3)], axis=1).astype(np.float32) / 2
    return Case(
        file,
        inputs,
        outputs,
        asked=tuple(({"x": x[:n]}, {"y": y[:n]}) for n in (1, 2)),
        refused=(({"x": x[:, :1]}, "input 'x' has 1 elements, a piece has 2"),),
        steps=steps,
    )


NO_ROWS = ({"a": A[:0], "b": B[:0]}, "a batch of 0 rows; a model takes 1 to 1024")
UNEVEN = ({"a": A[:2], "b": B[:3]}, r"the inputs disagree about the batch: [2, 3]")
STRETCHED = ({"a": A[:1], "b": B[:3]}, r"the inputs disagree about the batch: [1, 3]")
HALF_EMPTY = ({"a": A[:0], "b": B[:1]}, r"the inputs disagree about the batch: [0, 1]")
EMPTY: Arrays = {"minus": A[:0], "plus": A[:0]}
CASES = {
    "names in the manifest's order": Case(difference("n", turned=False), AB, MINUS_PLUS, pairs(1, 3)),
    "names in another order": Case(
        difference("n", turned=True), AB, MINUS_PLUS, pairs(1, 3), (UNEVEN, STRETCHED, HALF_EMPTY)
    ),
    "inputs side by side": Case(
        beside(),
        AB,
        {"y": ("FP32", ["n", 4])},
        (({"a": A, "b": B}, {"y": np.hstack([A, B])}),),
        (UNEVEN, STRETCHED, HALF_EMPTY),
    ),
    "no rows": Case(difference("n", turned=True), AB, MINUS_PLUS, ((NO_ROWS[0], EMPTY),)),
    "a batch of one": Case(difference(1, turned=True), AB, MINUS_PLUS, pairs(1, 2, 3), (NO_ROWS, UNEVEN)),
    "a batch of three": Case(
        difference(3, turned=True),
        AB,
        MINUS_PLUS,
        pairs(3),
        failed=(({"a": A[:2], "b": B[:2]}, "a batch of 2 rows; this model file takes exactly 3"),),
    ),
    "a scalar": identity("FP32", [], np.array(7.5, np.float32)),
    "a fixed shape": identity("INT64", [2, 2], np.array([[1, 2], [3, 1 << 60]])),
    "FP16": identity("FP16", ["n", 2], np.array([[1, 65504]], np.float16)),
    "FP64": identity("FP64", ["n"], np.array([1 / 3, 1e30])),
    "BOOL": identity("BOOL", ["n"], np.array([True, False])),
    "FP16 and BOOL": masked(),
    "an input without a batch": scaled(),
    "an input without a batch, row by row": scaled_by_row(),
    "an output without a batch": total(),
    "any length": lengths(),
    "BYTES": words(),
    "other widths in the file": wider(),
    "steps before it": table(),
    "pieces of a series": framed(),
}


def agent_door(directory: Path) -> Door:
    def ask(made: InstalledRelease, inputs: Arrays) -> Arrays:
        agent = Agent(directory / "agent", runtime=runtimes.for_variant(made.variant))  # type: ignore[arg-type]
        agent.cloud.cut()

        async def scenario() -> oip.InferResponse:
            await agent.slots.activate(made, None, None)
            return await agent.engine.infer("any", "", request_of(inputs))

        try:
            return {value.name: value.array for value in asyncio.run(scenario()).outputs}
        except ProtocolError as error:
            raise Refused(str(error)) from error
        except InferenceError as error:
            raise Failed(str(error)) from error
        finally:
            agent.database.close()

    return ask


def process_door(directory: Path) -> Door:
    """An application that opens the model in its own process."""

    def ask(made: InstalledRelease, inputs: Arrays) -> Arrays:
        digest = Store(directory).put_manifest(encode_manifest(made.manifest))
        held = HeldRelease(release=1, variant=made.variant.name, manifest=digest)
        StateFile(directory).put_model("any", ModelState(state="committed", active=held))
        model = open_model(directory, "any")
        try:
            return dict(model.infer(dict(inputs)).outputs)
        except ProtocolError as error:
            raise Refused(str(error)) from error
        except (ValueError, RuntimeError) as error:
            raise Failed(str(error)) from error
        finally:
            model.close()

    return ask


def hub_door(directory: Path) -> Door:
    hub = _hub(directory)
    model = hub.model(f"any-{next(COUNT)}")
    headers = hub.auth(hub.token("application", scope=f"infer:{model}"))

    def ask(made: InstalledRelease, inputs: Arrays) -> Arrays:
        for blob in made.blobs.iterdir():
            hub.hub.objects.put_new(f"blobs/{blob.name}", blob.read_bytes())
        number = hub.hub.publisher.publish_release(model, encode_manifest(made.manifest), actor="test").number
        body, length = oip.encode_request(request_of(inputs))
        path = f"/v2/models/{model}/versions/{number}/infer"
        answer = hub.client.post(path, content=body, headers={**headers, oip.HEADER: str(length)})
        if answer.status_code == 400:
            raise Refused(answer.json()["error"])
        if answer.status_code == 422:
            raise Failed(answer.json()["error"])
        assert answer.status_code == 200, answer.text
        said = oip.decode_response(answer.content, oip.parse_header(answer.headers[oip.HEADER]))
        return {value.name: value.array for value in said.outputs}

    return ask


@cache
def _hub(directory: Path) -> HubFixture:
    return make_hub(directory)


def request_of(inputs: Arrays) -> oip.InferRequest:
    return oip.InferRequest(inputs=tuple(oip.TensorValue(*item) for item in inputs.items()), binary_outputs=oip.ALL)


DOORS = {"agent": agent_door, "process": process_door, "hub": hub_door}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the hub that all cases share."""
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest, tmp_path: Path, shared: Path) -> Door:
    return DOORS[request.param](shared if request.param == "hub" else tmp_path)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def made(case: Case, tmp_path: Path) -> InstalledRelease:
    inputs = tuple(replace(tensor, finite=tensor.name not in case.loose) for tensor in tensors(case.inputs))
    return any_model.release(
        tmp_path / "blobs",
        inputs,
        tensors(case.outputs),
        edge=case.file,
        cloud=case.file,
        golden=case.asked,
        steps=case.steps,
    )


def test_every_door_gives_the_models_own_answer(door: Door, case: Case, made: InstalledRelease) -> None:
    for inputs, wanted in case.asked:
        found = door(made, inputs)
        assert list(found) == list(case.outputs)
        for name, array in wanted.items():
            assert found[name].dtype == np.asarray(array).dtype
            np.testing.assert_array_equal(found[name], array, strict=True)


def test_every_door_refuses_what_no_model_could_take_in_the_same_words(
    door: Door, case: Case, made: InstalledRelease
) -> None:
    for kind, asked in ((Refused, case.refused), (Failed, case.failed)):
        for inputs, words in asked:
            with pytest.raises(kind) as refused:
                door(made, inputs)
            assert words in str(refused.value)


def test_the_self_test_asks_alike(case: Case, made: InstalledRelease) -> None:
    from edge_agent.runtimes import selftest

    outcome = selftest.run(made.manifest, made.variant.name, made.blobs)
    assert outcome.passed, outcome.reason


# Cases of which the compiler, whose data sets have samples, asks fewer requests than the others do.
NO_DATA_SET = {"no rows": 1, "an input without a batch, row by row": 1}


def is_no_data_set(case: Case, file: ModelFile, inputs: Arrays, many: bool) -> bool:
    """Tell whether a request is none of a data set: it has no rows, or rows for a file without a batch."""
    sizes = [] if case.steps else [(tensor.shape, inputs[tensor.name]) for tensor in file.inputs]
    return any(
        array.ndim and (not len(array) or (not many and shape is not None and shape[0] == 1 < len(array)))
        for shape, array in sizes
    )


def test_the_compiler_measures_the_same_answers(case: Case) -> None:
    """It says single precision of all real values, as its manifests do."""
    left_out = 0
    for inputs, wanted in case.asked:
        file = fleet_runtimes.named("onnxruntime").open(case.file)
        many = all(tensor.shape and tensor.shape[0] in (1, -1) for tensor in (*file.inputs, *file.outputs))
        if is_no_data_set(case, file, inputs, many):
            left_out += 1
            continue
        arrays = [array if many else array[None] for array in inputs.values()]
        preparation = Preparation(steps=case.steps, loose=case.loose)
        loaded = runner_process.Loaded(file, list(inputs), arrays, runner.ALL, preparation)
        found = dict(
            zip(
                [tensor.name for tensor in file.outputs],
                [one for one, _ in loaded.answers(range(len(wanted)))],
                strict=True,
            )
        )
        for name, array in wanted.items():
            array = np.asarray(array)
            array = array.astype(np.float32) if array.dtype.kind == "f" else array
            np.testing.assert_array_equal(found[name] if many else found[name][0], array, strict=True)
    name = next(name for name, one in CASES.items() if one is case)
    assert left_out == NO_DATA_SET.get(name, 0)
