"""Bounds of numbers and text that hold for every field of the API."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

import fleet.api
from fleet.api.base import RequestModel, ResponseModel
from fleet.api.types import JSON_DEPTH, JSON_VALUES, Settings
from fleet.api.wire import MARK

SETTINGS: TypeAdapter[Any] = TypeAdapter(Settings)


def models(base: type) -> list[type[Any]]:
    for module in pkgutil.iter_modules(fleet.api.__path__):
        importlib.import_module(f"fleet.api.{module.name}")
    found, waiting = [], [base]
    while waiting:
        below = waiting.pop().__subclasses__()
        waiting += below
        found += [kind for kind in below if kind.__module__.startswith("fleet.api.") and "[" not in kind.__name__]
    return found


def leaves(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a JSON schema that describes a value."""
    if isinstance(schema, dict):
        if MARK in schema or schema.get("additionalProperties") is True:
            return
        if isinstance(schema.get("type"), str) and "enum" not in schema and "const" not in schema:
            yield path, schema
        for key, value in schema.items():
            if key not in ("default", "examples"):
                yield from leaves(value, f"{path}.{key}")
    elif isinstance(schema, list):
        for value in schema:
            yield from leaves(value, path)


@pytest.mark.parametrize("kind", models(RequestModel), ids=lambda kind: kind.__name__)
def test_every_number_text_and_list_of_a_request_is_bounded(kind: type[Any]) -> None:
    for path, leaf in leaves(kind.model_json_schema()):
        wanted = {
            "integer": {"minimum", "maximum"},
            "number": {"minimum", "maximum"},
            "string": {"maxLength", "pattern"},
            "array": {"maxItems"},
        }.get(leaf["type"], set())
        assert wanted <= leaf.keys(), f"{kind.__name__}{path}"
        if leaf["type"] == "object" and "properties" not in leaf and "x-free" not in leaf:
            assert "maxProperties" in leaf, f"{kind.__name__}{path}"


@pytest.mark.parametrize("kind", models(ResponseModel), ids=lambda kind: kind.__name__)
def test_every_answer_has_a_schema_and_a_text(kind: type[Any]) -> None:
    assert kind.model_json_schema(mode="serialization") and kind.__doc__


@pytest.mark.parametrize(
    "wrong",
    [
        {"a": 2**63},
        {"a": [-(2**63) - 1]},
        {"a": float("nan")},
        {"a": {"b": "\x00"}},
        {"\x00": 1},
        {"a": [0] * JSON_VALUES},
    ],
)
def test_a_free_document_is_bounded(wrong: Any) -> None:
    with pytest.raises(ValidationError):
        SETTINGS.validate_python(wrong)


def test_a_free_document_is_bounded_in_depth() -> None:
    deep: Any = 1
    for _ in range(JSON_DEPTH + 1):
        deep = {"a": deep}
    with pytest.raises(ValidationError, match="nested"):
        SETTINGS.validate_python(deep)
    assert SETTINGS.validate_python({"a": [1, 2.5, "x", None, True, {"b": 2**63 - 1}]})
