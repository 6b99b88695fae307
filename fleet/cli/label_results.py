"""The results of one annotation of Label Studio as a label of the model's task. Pure.

A task that `fleet sample export` wrote says in `data.task` what it is; of others, choices and numbers are read.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from fleet.api.labels import parse_json, parse_number
from fleet.cli.label_config import ANOMALY, USUAL, number_names
from fleet.protocol.task import ANOMALY_SCORE, CUSTOM, DETECTION, MULTI_LABEL, REGRESSION

MOST = sys.float_info.max  # a number that is none, or more, is within no bounds
SHOWN = 60  # characters of what a file says
PERCENT = 100.0  # Label Studio's unit of a picture's sides
NOTHING = "an annotation says nothing: choose a class or write a number, or skip the task"

Result = Mapping[str, Any]


def read_label(results: Any, data: Mapping[str, Any]) -> Any:
    """Return the label that one annotation says.

    Args:
        results: of the annotation.
        data: of its task.

    Raises:
        ValueError: it says none, or what cannot be meant.
    """
    if not isinstance(results, list):
        raise ValueError(NOTHING)
    task = data.get("task")
    if task == DETECTION:
        return [_box(result, data) for result in map(_result, results)]
    if task == MULTI_LABEL:
        return [name for result in map(_result, results) for name in _names(result)]
    if task == REGRESSION and isinstance(data.get("values"), int):
        return _numbers([_result(result) for result in results], data["values"])
    if not results:
        raise ValueError(NOTHING)
    if len(results) > 1:
        raise ValueError(f"an annotation has {len(results)} results: use one field of choices or one number")
    result = _result(results[0])
    if task == ANOMALY_SCORE and result["type"] == "choices":
        return _anomaly(_names(result))
    if task and result["type"] == "choices":  # written with the model's own names: a class called 7 is no number
        names = _names(result)
        return names[0] if len(names) == 1 else names
    if task and result["type"] == "textarea":
        return _text(result, as_json=task == CUSTOM)
    return _plain(result)


def _result(result: Any) -> Result:
    value = result.get("value") if isinstance(result, Mapping) else None
    if not isinstance(result, Mapping) or not isinstance(value, Mapping):
        raise ValueError(_unread(result.get("type") if isinstance(result, Mapping) else None))
    return result


def _unread(kind: object) -> str:
    boxes = "; draw boxes on the dashboard, or give them as JSON: fleet sample label SAMPLE=@boxes.json"
    what = f"a result of type {str(kind)[:SHOWN]!r} is not read; choices and number are"
    return what + (boxes if isinstance(kind, str) and kind.startswith("rectangle") else "")


def _plain(result: Result) -> Any:
    """A class, a list of classes, or a number, of a task that does not say what it is."""
    if result.get("type") == "choices":
        found = [parse_number(name) for name in _names(result)]
        return found[0] if len(found) == 1 else found
    return _number(result)


def _names(result: Result) -> list[str]:
    if result.get("type") != "choices":
        raise ValueError(f"a result of type {str(result.get('type'))[:SHOWN]!r} is not read here; choices are")
    choices = result["value"].get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(one, str) and one.strip() for one in choices):
        raise ValueError("its choices are no list of texts")
    return [one.strip() for one in choices]


def _anomaly(names: Sequence[str]) -> int:
    known = {ANOMALY: 1, "1": 1, USUAL: 0, "0": 0}
    if len(names) != 1 or names[0] not in known:
        raise ValueError(f"{', '.join(names)[:SHOWN]!r} is neither {USUAL} nor {ANOMALY}")
    return known[names[0]]


def _number(result: Result) -> int | float:
    if result.get("type") != "number":
        raise ValueError(_unread(result.get("type")))
    number = result["value"].get("number")
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not -MOST <= number <= MOST:
        raise ValueError(f"{str(number)[:SHOWN]!r} is no number")
    return number


def _numbers(results: Sequence[Result], values: int) -> list[int | float]:
    """Several numbers, each of the field that the configuration has for it."""
    wanted = number_names(values)
    given = [str(result.get("from_name")) for result in results]
    if sorted(given) != sorted(wanted):
        said = f"{', '.join(wanted)[:SHOWN]}; this has {', '.join(given)[:SHOWN] or 'none'}"
        raise ValueError(f"a label has {values} numbers, {said}")
    by_name = dict(zip(given, results, strict=True))
    return [_number(by_name[name]) for name in wanted]


def _text(result: Result, *, as_json: bool) -> Any:
    texts = result["value"].get("text")
    lines = [texts] if isinstance(texts, str) else texts
    if not isinstance(lines, list) or len(lines) != 1 or not isinstance(lines[0], str) or not lines[0].strip():
        raise ValueError("its text is not one that was submitted")
    return parse_json(lines[0]) if as_json else lines[0].strip()


def _box(result: Result, data: Mapping[str, Any]) -> dict[str, Any]:
    """A rectangle, in percent of the picture, as a box in what the model's boxes count (`data.box`)."""
    if result.get("type") != "rectanglelabels":
        kind = str(result.get("type"))[:SHOWN]
        raise ValueError(f"a result of type {kind!r} is no box with a class: draw rectangles with a label")
    value = result["value"]
    names, sides = value.get("rectanglelabels"), data.get("box")
    if not isinstance(names, list) or len(names) != 1 or not isinstance(names[0], str):
        raise ValueError("a rectangle has one class")
    if not isinstance(sides, list) or len(sides) != 2:
        raise ValueError("its data does not say what its picture counts in boxes: export it anew, and label that")
    x, y, width, height = (_real(value.get(name)) for name in ("x", "y", "width", "height"))
    turned, scale = _real(value.get("rotation", 0)), [_real(side) for side in sides]
    if turned % 360:
        raise ValueError(f"a rectangle is turned by {turned:g} degrees, which no box of a label can be")
    corners = (x * scale[0], y * scale[1], (x + width) * scale[0], (y + height) * scale[1])
    return {"box": [float(f"{corner / PERCENT:.6g}") for corner in corners], "class": names[0]}


def _real(number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not -MOST <= number <= MOST:
        raise ValueError(f"{str(number)[:SHOWN]!r} is no number of a rectangle")
    return float(number)
