"""Structs of the protocol and of the rollout rules as fields of API models, so that nothing is defined twice.

| field | holds | in JSON |
|---|---|---|
| `Annotated[Channel, Wire(Channel)]` | the struct | all its fields |
| `Annotated[GuardPolicy, Given(GuardPolicy)]` | the struct | the fields that differ from their defaults |
| `Annotated[Changes[Routing], Changing(Routing)]` | new values for some fields | those fields |

All are read and written by msgspec. In a JSON schema they leave the mark `{"x-wire": NAME}`; the hub puts a reference
to the struct's own schema there.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Generic, TypeVar, get_type_hints

import msgspec
from msgspec import UNSET, Struct, UnsetType
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from fleet.api.types import check_document
from fleet.protocol.codec import from_document, to_document
from fleet.protocol.errors import MalformedError

MARK = "x-wire"
S = TypeVar("S", bound=Struct)


class Wire:
    """A field holds a struct of `kind`, which an answer names `name`; `blank` are values of fields that it may lack."""

    def __init__(self, kind: type[Struct], *, name: str = "", blank: Mapping[str, object] | None = None) -> None:
        self.kind, self.name, self._blank = kind, name or kind.__name__, dict(blank or {})

    def read(self, value: object) -> object:
        """The struct of a document; ValueError says which field is wrong."""
        if isinstance(value, self.kind):
            return value
        document = {**self._blank, **value} if isinstance(value, Mapping) else value
        try:
            return from_document(document, self.kind, subject=self.name)
        except MalformedError as error:
            raise ValueError(str(error)) from error

    def write(self, value: Any) -> Any:
        """The document of a struct."""
        return to_document(value)

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.write)
        return core_schema.no_info_plain_validator_function(self.read, serialization=written)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {MARK: self.name}


class Given(Wire):
    """A struct that a caller gives, all of whose fields have defaults; an unknown one is refused.

    Only what differs from the defaults goes out, so that an older hub does not stumble over a field that it lacks.
    """

    def read(self, value: object) -> object:
        """See `Wire`."""
        if isinstance(value, self.kind):
            return value
        changes = Changing(self.kind, name=self.name).read(value)
        return changes.applied(self.kind())

    def write(self, value: Any) -> Any:
        """See `Wire`."""
        usual = to_document(self.kind())
        return {name: part for name, part in to_document(value).items() if part != usual[name]}


class Changes(Generic[S]):
    """New values for some fields of a struct; the other fields stay as they are.

        Changes(Routing, cloud=False, threshold=0.8)

    Raises:
        MalformedError: the struct has no such field, or a value is of the wrong type.
    """

    def __init__(self, kind: type[S], /, **given: object) -> None:
        known = kind.__struct_fields__
        for name in given:
            if name not in known:
                hint = f"one of: {', '.join(sorted(known))}"
                raise MalformedError(f"{kind.__name__} has no field {name!r}", subject=name, hint=hint)
        checked = from_document(given, partial(kind), subject=kind.__name__)
        self.kind = kind
        self.given = {name: getattr(checked, name) for name in given}

    def applied(self, old: S) -> S:
        """`old` with these values."""
        return msgspec.structs.replace(old, **self.given)

    def __bool__(self) -> bool:
        return bool(self.given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Changes) and (self.kind, self.given) == (other.kind, other.given)

    def __hash__(self) -> int:
        return hash((self.kind, tuple(self.given.items())))

    def __repr__(self) -> str:
        return f"Changes({', '.join([self.kind.__name__, *(f'{k}={v!r}' for k, v in self.given.items())])})"


class Changing(Wire):
    """A field holds `Changes` of a struct of `kind`."""

    def __init__(self, kind: type[Struct], *, name: str = "") -> None:
        super().__init__(kind, name=name or partial(kind).__name__)

    def read(self, value: object) -> Changes[Any]:
        """See `Wire`."""
        if isinstance(value, Changes):
            if value.kind is not self.kind:
                raise ValueError(f"these are changes of {value.kind.__name__}, not of {self.kind.__name__}")
            return value
        if not isinstance(value, Mapping):
            raise ValueError("it should be an object")
        check_document(dict(value))
        try:
            return Changes(self.kind, **value)
        except MalformedError as error:
            raise ValueError("; ".join(filter(None, (str(error), error.hint)))) from error

    def write(self, value: Changes[Any]) -> Any:
        """See `Wire`."""
        return to_document(value.given)


def unchanged(kind: type[Struct]) -> Any:
    """The default of a field that holds changes: none."""
    return Field(default_factory=lambda: Changes(kind))


@cache
def partial(kind: type[Struct]) -> type[Struct]:
    """The struct with every field optional and without a default, named `<kind>Changes`."""
    fields = [(name, hint | UnsetType, UNSET) for name, hint in get_type_hints(kind, include_extras=True).items()]
    known = [field for field in fields if field[0] in kind.__struct_fields__]
    made: type[Struct] = msgspec.defstruct(
        f"{kind.__name__}Changes",
        known,
        namespace={"__doc__": f"New values for some fields of `{kind.__name__}`."},
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    return made
