"""Label Studio's export: each task by itself, and what cannot be meant is refused with its name."""

from __future__ import annotations

from typing import Any

import pytest
import typer

from fleet.cli.label_studio import labels_in, read_studio


def task(key: int, result: list[Any] | None, sample: str = "", **more: Any) -> dict[str, Any]:
    annotations = [] if result is None else [{"id": 1, "was_cancelled": False, "result": result, **more}]
    return {"id": key, "data": {"sample": sample or f"s{key}"}, "annotations": annotations}


def choices(*names: str) -> list[Any]:
    return [{"from_name": "c", "to_name": "image", "type": "choices", "value": {"choices": list(names)}}]


def number(value: Any) -> list[Any]:
    return [{"type": "number", "value": {"number": value}}]


def test_choices_and_numbers_are_labels_and_skipped_tasks_have_none() -> None:
    read = labels_in(
        [
            task(1, choices("dog")),
            task(2, choices("7")),
            task(3, choices("cat", "dog")),
            task(4, number(-2.5)),
            task(5, None),
            task(6, choices("dog"), was_cancelled=True),
        ]
    )
    assert read.labels == {"s1": "dog", "s2": 7, "s3": ["cat", "dog"], "s4": -2.5}
    assert (read.without, read.refused) == (2, ())


BOX = [{"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["dog"]}}]
WRONG: list[tuple[Any, str]] = [
    (
        task(9, BOX),
        "task 9: a result of type 'rectanglelabels' is not read; choices and number are; draw boxes on the dashboard",
    ),
    (
        task(9, [{**BOX[0], "type": "rectangle"}]),
        "task 9: a result of type 'rectangle' is not read; choices and number are; draw boxes on the dashboard",
    ),
    (task(9, [{**BOX[0], "type": 4}]), "task 9: a result of type '4' is not read; choices and number are"),
    (task(9, []), "task 9: an annotation says nothing"),
    (task(9, choices("a") + choices("b")), "task 9: an annotation has 2 results"),
    (task(9, number("x")), "task 9: 'x' is no number"),
    (task(9, number(True)), "task 9: 'True' is no number"),
    (task(9, number(10**400)), "task 9: '1000"),
    (task(9, number(float("nan"))), "task 9: 'nan' is no number"),
    (task(9, choices("")), "task 9: its choices are no list of texts"),
    (task(9, [None]), "task 9: a result of type 'None'"),
    ({"id": 9, "data": {"image": "http://x/y.png"}}, "task 9: its data names no sample"),
    ({"id": 9, "sample": "s9", "choice": "dog"}, "task 9: its data names no sample"),
    ({"id": 9, "data": {"sample": "s9"}, "annotations": [3]}, "task 9: its annotations are no list of objects"),
    (7, "task number 2 of the file: its data names no sample"),
]


@pytest.mark.parametrize(("wrong", "why"), WRONG)
def test_one_that_cannot_be_meant_is_named_and_takes_no_other_along(wrong: Any, why: str) -> None:
    read = labels_in([task(1, choices("dog")), wrong, task(3, choices("cat"))])
    assert read.labels == {"s1": "dog", "s3": "cat"}
    (said,) = read.refused
    assert said.startswith(why)


def test_people_who_differ_are_no_label() -> None:
    both = task(1, choices("dog"))
    both["annotations"] += task(1, choices("cat"))["annotations"]
    again = [task(2, choices("dog")), task(3, choices("cat"), sample="s2"), task(4, choices("cat"))]
    read = labels_in([both, *again])
    assert read.labels == {"s4": "cat"}
    assert "task 1: its 2 annotations differ" in read.refused[0]
    assert "task 3: sample s2 has another label before" in read.refused[1]


@pytest.mark.parametrize("text", ['{"a": 1}', "[1,", "[NaN]", ""])
def test_what_is_no_list_of_tasks_is_refused(tmp_path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(typer.BadParameter):
        read_studio(tmp_path / "p.json")
