"""Files of arrays as the inputs of a model, for `edge-agent infer`."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.errors import UsageError
from edge_agent.given_arrays import fitted, read


def spec(name: str, datatype: str, *shape: int) -> dict[str, object]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


RENT = [spec("area", "FP32", -1, 1), spec("region", "BYTES", -1, 1), spec("rooms", "INT64", -1, 1)]
AREA, REGION, ROOMS = np.array([[52.5]]), np.array([["Süd"]]), np.array([[3]], np.int32)


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("all.npz", rooms=ROOMS, y=np.zeros(1), area=AREA, region=REGION)
    for name, array in {"area": AREA, "region": REGION, "rooms": ROOMS, "a=b": AREA}.items():
        np.save(f"{name}.npy", array)
    (tmp_path / "words.npy").write_text("words")


@pytest.mark.parametrize(
    "given", [["all.npz"], ["rooms=rooms.npy", "area=area.npy", "region=region.npy"], ["all.npz", "b=a=b.npy"]]
)
def test_several_inputs_in_any_order_are_found_by_name(files, given):
    found = fitted("rent", read(given), RENT)
    assert {name: array.dtype.str for name, array in found.items()} == {"area": "<f4", "region": "|O", "rooms": "<i8"}
    assert found["region"].tolist() == [["Süd".encode()]]
    assert (found["area"].tolist(), found["rooms"].tolist()) == ([[52.5]], [[3]])


@pytest.mark.parametrize("given", [["area.npy"], ["x=area.npy"], ["a=b.npy"]])
def test_a_lone_input_needs_no_name(files, given):
    assert fitted("lone", read(given), [spec("reading", "FP32", -1, 1)])["reading"].tolist() == [[52.5]]


@pytest.mark.parametrize("given", [["area.npy"], ["area=area.npy"], ["area.npy", "region=region.npy"]])
def test_what_is_missing_is_named_with_what_to_write(files, given):
    with pytest.raises(UsageError, match="takes area FP32") as raised:
        fitted("rent", read(given), RENT)
    assert "--input region=region.npy" in raised.value.hint


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["none.npy"], "none.npy cannot be read: No such file"),
        (["."], "cannot be read: Is a directory"),
        (["words.npy"], "words.npy is no array .* that numpy saved"),
        (["area.npy", "rooms.npy"], "without a name"),
        (["area=area.npy", "all.npz"], "'area' is given twice"),
        (["area=all.npz"], "name themselves"),
    ],
)
def test_files_that_say_too_little_or_too_much_are_refused(files, given, words):
    with pytest.raises(UsageError, match=words):
        read(given)


@pytest.mark.parametrize(
    ("datatype", "array", "words"),
    [
        ("INT64", np.array([[3.0], [3.7]]), r"holds 3.7 at \[1, 0\], which INT64 cannot hold"),
        ("UINT8", np.array([[300]]), "300"),
        ("INT64", np.array([[np.nan]]), "nan"),
        ("FP16", np.array([[1e6]]), r"1000000.0 at \[0, 0\], which FP16"),
        ("BOOL", np.array([[2]]), "BOOL"),
        ("BYTES", np.array([[2]]), "is INT64, the model takes BYTES"),
        ("FP32", np.array([["2"]]), "is text, the model takes FP32"),
    ],
)
def test_values_that_a_datatype_cannot_hold_are_refused_with_their_place(datatype, array, words):
    with pytest.raises(UsageError, match=words):
        fitted("m", {"v": array}, [spec("v", datatype, -1, 1)])


@pytest.mark.parametrize(
    ("datatype", "array"), [("FP16", [[np.nan], [-np.inf]]), ("BOOL", [[1], [0]]), ("FP32", [[0.1]])]
)
def test_values_that_it_holds_are_taken(datatype, array):
    found = fitted("m", {"v": np.array(array)}, [spec("v", datatype, -1, 1)])["v"]
    np.testing.assert_allclose(found.astype(float), np.array(array, float), rtol=1e-6)
