"""Files of labels as spreadsheets and data tools write them: read as they are meant, or refused with their line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer

from fleet.cli.label_files import label_of, read_labels
from fleet.errors import NotFoundError

READ: list[tuple[str, str, dict[str, Any]]] = [
    ("plain", "s1,7\n\ns2,dog\n", {"s1": 7, "s2": "dog"}),
    ("heading", "sample,label\ns1,7\n", {"s1": 7}),
    ("heading of an export", "id,device,label\ns1,cam,2.5\n", {"s1": 2.5}),
    ("quotes", 's1,"a dog, ""big"""\n"s2","7"\n', {"s1": 'a dog, "big"', "s2": 7}),
    ("a name that looks like a number", 's1,"""7"""\n', {"s1": "7"}),
    ("semicolons", "s1;7\ns2;a,b\n", {"s1": 7, "s2": "a,b"}),
    ("tabs", "sample\tlabel\ns1\t-3\n", {"s1": -3}),
    ("carriage returns", "s1,7\r\ns2,8\r\n", {"s1": 7, "s2": 8}),
    ("values", "s1,-1\ns2,1.5\ns3,1e-3\ns4,1e999\n", {"s1": -1, "s2": 1.5, "s3": 0.001, "s4": "1e999"}),
    ("boxes", 's1,"[{""box"": [0, 0, 1, 2.5], ""class"": 1}]"\n', {"s1": [{"box": [0, 0, 1, 2.5], "class": 1}]}),
    ("a column for each class", "sample,cat,dog\ns1,0,1\ns2,1.0,0.0\n", {"s1": "dog", "s2": "cat"}),
    ("several classes", "id,a,b\ns1,1,1\ns2,0,0\ns3,True,False\n", {"s1": ["a", "b"], "s2": [], "s3": "a"}),
    ("a column for each value", "sample,kw,degrees\ns1,1,20.5\n", {"s1": [1, 20.5]}),
    ("the same twice", "s1,7\ns1,7\n", {"s1": 7}),
    ("lines within quotes", 's1,"two\nlines"\ns2,3\n', {"s1": "two\nlines", "s2": 3}),
    ("no file is read for another's sake", "s1,@/etc/hostname\n", {"s1": "@/etc/hostname"}),
    ("nothing", "", {}),
]
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be-with-mark")


def written(path: Path, text: str, encoding: str) -> Path:
    data = b"\xfe\xff" + text.encode("utf-16-be") if encoding == "utf-16-be-with-mark" else text.encode(encoding)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("text", "labels"), [row[1:] for row in READ], ids=[row[0] for row in READ])
def test_a_file_is_read_as_it_is_meant(tmp_path: Path, text: str, labels: dict[str, Any], encoding: str) -> None:
    assert read_labels(written(tmp_path / "labels.csv", text, encoding)) == labels


REFUSED = [
    ("s1,7\ns2\n", "line 2: it has 1 cells"),
    ("s1,7,8\n", "line 1: it has 3 cells"),
    ("s1,[0, 1]\n", "quote a label that has commas"),
    ("s1,\n", "line 1: a label is empty"),
    (",7\n", "line 1: it names no sample"),
    ("s1,7\ns2,1\ns1,8\n", "line 3: sample s1 has another label in line 1"),
    ('s1,"7\n', "line 1: "),
    ('s1,"7"8\n', "line 1: "),
    ("sample,cat,dog\ns1,1\n", "line 2: it has 2 cells, the heading has 3"),
    ("sample,cat,cat\ns1,1,0\n", "a name for each column, each once"),
    ("sample,cat,dog\ns1,1,maybe\n", "line 2: 'maybe' is neither 0 or 1 of a class, nor a number"),
    ("sample,kw,degrees\ns1,1.5,\n", "line 2: '' is neither"),
    ('s1,"[1, NaN]"\n', "NaN is no number of JSON"),
]


@pytest.mark.parametrize(("text", "why"), REFUSED, ids=[row[1][:40] for row in REFUSED])
def test_what_could_mean_two_things_is_refused_with_its_line(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        read_labels(written(tmp_path / "labels.csv", text, "utf-8"))
    assert why in str(caught.value)


@pytest.mark.parametrize("data", ["s1,ä".encode("latin-1"), "s1,7".encode("utf-16-le"), b"\xff\xfes"])
def test_other_encodings_are_refused_in_words(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "labels.csv").write_bytes(data)
    with pytest.raises(typer.BadParameter, match="save it as UTF-8"):
        read_labels(tmp_path / "labels.csv")


def test_a_json_file_holds_labels_by_sample(tmp_path: Path) -> None:
    path = written(tmp_path / "labels.json", '{"s1": [{"box": [0, 0, 1, 1], "class": 0}], "s2": []}', "utf-8-sig")
    assert read_labels(path) == {"s1": [{"box": [0, 0, 1, 1], "class": 0}], "s2": []}
    with pytest.raises(typer.BadParameter, match="holds no object"):
        read_labels(written(tmp_path / "list.json", "[1]", "utf-8"))
    with pytest.raises(NotFoundError):
        read_labels(tmp_path / "absent.csv")


WORDS = [
    ("7", 7),
    ("007", 7),
    ("-1", -1),
    ("1.5", 1.5),
    ("²", "²"),
    ("٣", "٣"),
    ("dog", "dog"),
    (" dog ", "dog"),
    ('"7"', "7"),
    ("[0, 2]", [0, 2]),
    ('{"a": 1}', {"a": 1}),
    ("true", "true"),
    ("NaN", "NaN"),
    ("null", "null"),
    ("+1", "+1"),
    ("1_000", "1_000"),
    ("9" * 20, 1e20),
    ("9" * 5000, "9" * 5000),
    ("1e999", "1e999"),
    ("-00.5", -0.5),
]


@pytest.mark.parametrize(("text", "label"), WORDS)
def test_a_number_is_one_and_everything_else_a_name_for_the_hub_to_judge(text: str, label: Any) -> None:
    assert label_of(text) == label and type(label_of(text)) is type(label)
