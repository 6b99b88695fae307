"""The datatypes of a compiled model's inputs: those of the data, where the model takes them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Tensor
from fleet.protocol.steps import Scale
from model_compiler.build.adapting import adapt
from model_compiler.build.prepared import prepare
from model_compiler.errors import DataError, InterfaceError
from model_compiler.inputs.dataset import Dataset, check_pair, make_dataset
from model_compiler.inputs.request import CompileRequest
from model_compiler.metrics import parse
from tests.support.any_model import onnx_file

X = np.linspace(-1, 1, 32).reshape(8, 4)
KEEP = np.arange(32).reshape(8, 4) % 3 > 0
BYTES = KEEP.astype(np.uint8)


class Dense(nn.Module):
    """Takes its own precision only."""

    def __init__(self, precision: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.dense = nn.Linear(4, 2).to(precision)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense(x)


class Twice(nn.Module):
    """Has no weights, and so no precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Masked(Dense):
    """Takes truth values only, beside its numbers."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return self.dense(x.masked_fill(~keep, 0.0))


class Counted(Dense):
    """Takes bytes only, beside its numbers."""

    def forward(self, x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        assert keep.dtype == torch.uint8
        return self.dense(x * keep)


def data(x: np.ndarray, keep: np.ndarray | None = None) -> Dataset:
    inputs = {"x": x} | ({} if keep is None else {"keep": keep})
    return make_dataset(inputs, np.zeros((len(x), 2)), "set", precise=True)


@pytest.mark.parametrize(
    ("module", "given", "found"),
    [
        (Dense(), [X.astype(np.float32)], ["f4"]),
        (Dense(), [X], ["f4"]),
        (Dense(), [X.astype(np.float16)], ["f4"]),
        (Dense(), [(9 * X).astype(np.int32)], ["f4"]),
        (Dense(torch.float16), [X.astype(np.float16)], ["f2"]),
        (Dense(torch.float16), [X.astype(np.float32)], ["f2"]),
        (Dense(torch.float64), [X], ["f8"]),
        (Twice(), [X.astype(np.float16)], ["f2"]),
        (Twice(), [X], ["f4"]),  # double precision is numpy's habit
        (Masked(), [X.astype(np.float32), KEEP], ["f4", "?"]),
        (Masked(torch.float64), [X, KEEP], ["f8", "?"]),
        (Counted(), [X.astype(np.float32), KEEP], ["f4", "u1"]),
        (Counted(), [X, BYTES], ["f4", "u1"]),
    ],
)
def test_what_the_model_takes_of_the_data(module, given, found) -> None:
    adapted = adapt(module, data(*given))
    assert [array.dtype for array in adapted.data.inputs.values()] == [np.dtype(kind) for kind in found]


def interface(*kinds: str) -> Interface:
    names = ("x", "keep")[: len(kinds)]
    inputs = tuple(Tensor(name=n, datatype=kind, shape=(-1, 4)) for n, kind in zip(names, kinds, strict=True))
    return Interface(inputs=inputs, outputs=(Tensor(name="y", datatype="FP32", shape=(-1, 2)),), labels=())


@pytest.mark.parametrize(
    ("module", "given", "kinds"),
    [
        (Twice(), [X], ["FP64"]),
        (Twice(), [X.astype(np.float32)], ["FP16"]),
        (Masked(), [X, BYTES], ["FP32", "BOOL"]),  # a training set keeps truth values as bytes
        (Counted(), [X, KEEP], ["FP32", "UINT8"]),
    ],
)
def test_what_applications_send_already_comes_first(module, given, kinds) -> None:
    known = dict(zip(("x", "keep"), kinds, strict=False))
    adapted = adapt(module, data(*given), known=known)
    assert [tensor.dtype for tensor in adapted.data.inputs.values()] == [
        {"FP64": np.float64, "FP32": np.float32, "FP16": np.float16, "BOOL": bool, "UINT8": np.uint8}[k] for k in kinds
    ]


def request(tmp_path, source, given, **more) -> CompileRequest:
    kind = "onnx" if isinstance(source, bytes) else "module"
    return CompileRequest(
        **{kind: source},
        calibration=data(*given),
        validation=data(*(array[::-1] for array in given)),
        targets=("onnx-fp32",),
        out=tmp_path / "r",
        **more,
    )


def test_what_the_release_takes_instead_of_the_datas_is_said(tmp_path) -> None:
    made = prepare(request(tmp_path, Counted(), [X, KEEP]), parse("rmse"))
    assert made.notes == (
        "input 'x' is FP32, which the model takes, and FP64 in the data",
        "input 'keep' is UINT8, which the model takes, and BOOL in the data",
    )
    assert prepare(request(tmp_path, Masked(), [X.astype(np.float32), KEEP]), parse("rmse")).notes == ()


def test_another_datatype_than_the_models_interface_has_is_refused_in_words(tmp_path) -> None:
    asked = request(tmp_path, Dense(), [X], outputs=("y",), interface=interface("FP64"))
    with pytest.raises(InterfaceError, match=r"x.*FP64.*FP32"):
        prepare(asked, parse("rmse"))


@pytest.mark.parametrize("kind", ["FP16", "FP32", "FP64"])
def test_an_onnx_source_keeps_its_own(tmp_path, kind) -> None:
    sides = {"x": (kind, ["n", 4]), "keep": ("BOOL", ["n", 4])}, {"y": (kind, ["n", 4])}
    file = onnx_file([("Where", ["keep", "x", "x"], ["y"], {})], *sides)
    for keep in (KEEP, BYTES):
        made = prepare(request(tmp_path, file, [X, keep]), parse("rmse"))
        assert {n: a.dtype for n, a in made.validation.inputs.items()} == {
            "x": {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64}[kind],
            "keep": bool,
        }


def test_steps_take_most_models_datatypes_or_what_applications_send(tmp_path) -> None:
    steps = (Scale(input="x", factor=(2,), offset=(0,)),)
    asked = request(tmp_path, Dense(), [X], preprocess=steps)
    assert prepare(asked, parse("rmse")).asked.validation.x.dtype == np.float32


@pytest.mark.parametrize(("keep", "words"), [(2 * BYTES, "BOOL cannot hold|BOOL"), (BYTES, "")])
def test_bytes_are_truth_values_when_they_are_zero_and_one(keep, words) -> None:
    known = {"x": "FP32", "keep": "BOOL"}
    if words:
        with pytest.raises(DataError, match=words):
            adapt(Masked(), data(X, keep), known=known)
    else:
        assert adapt(Masked(), data(X, keep), known=known).data.inputs["keep"].dtype == bool


def test_a_number_that_single_precision_cannot_hold_is_refused() -> None:
    x = X.astype(np.float64)
    x[0, 1] = 1e300
    with pytest.raises(
        DataError,
        match=r"input 'x' has values that FP32 cannot hold in 1 of 1 rows, the first in row 0: 1e\+300 at \[0, 1\]",
    ) as told:
        adapt(Dense(), data(x))
    assert "leave these rows out" in told.value.hint


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        ([[1.0], [7e4]], "f2"),
        ([[1], [70_000]], "f2"),
        ([[1], [300]], "u1"),
        ([[1.0], [1.5]], "i8"),
        ([[1.0], [np.nan]], "i8"),
        ([[1], [2]], "?"),
    ],
)
def test_whatever_a_datatype_cannot_hold_is_told_by_its_row(given, dtype) -> None:
    with pytest.raises(DataError, match=r"in 1 of 2 rows, the first in row 1: .* at \[1, 0\]"):
        Dataset({"v": np.array(given)}).cast({"v": dtype})


@pytest.mark.parametrize(
    ("given", "dtype"),
    [([[0.1], [np.inf]], "f2"), ([[np.nan]], "f4"), ([[1], [0]], "?"), ([[True]], "u1"), ([[3.0]], "i8")],
)
def test_what_it_holds_is_taken(given, dtype) -> None:
    assert Dataset({"v": np.array(given)}).cast({"v": dtype}).inputs["v"].dtype == dtype


def test_the_same_sample_in_two_precisions_is_the_same_sample() -> None:
    x = X.astype(np.float32)
    with pytest.raises(DataError, match="8 validation inputs are also calibration inputs"):
        check_pair(data(x), data(x.astype(np.float64)))
