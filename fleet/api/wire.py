"""Structs of `fleet.protocol` as fields of API models, so that nothing is defined twice.

`Annotated[Channel, Wire(Channel)]` holds the struct itself: read from JSON by msgspec, written by msgspec.
`Annotated[Document, Described("Plan")]` is a plain document whose schema is that of a struct elsewhere.
In a JSON schema both leave the mark `{"x-wire": NAME}`; the hub puts a reference to the struct's own schema there.
"""

from __future__ import annotations

from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fleet.protocol.codec import from_document, to_document
from fleet.protocol.errors import MalformedError

MARK = "x-wire"


class Described:
    """A field's JSON schema is that of the struct called `name`; its value stays what it is."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {MARK: self.name}


class Wire(Described):
    """A field holds a struct of `kind`."""

    def __init__(self, kind: type) -> None:
        super().__init__(kind.__name__)
        self.kind = kind

    def _read(self, value: object) -> object:
        try:
            return value if isinstance(value, self.kind) else from_document(value, self.kind, subject=self.name)
        except MalformedError as error:
            raise ValueError(str(error)) from error

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(to_document)
        return core_schema.no_info_plain_validator_function(self._read, serialization=written)
