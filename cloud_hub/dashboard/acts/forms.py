"""The parts of an act on the dashboard: the role that may do it, the form that asks for it, and its result. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from msgspec import Struct
from pydantic import BaseModel, ValidationError

from cloud_hub.context import Hub
from cloud_hub.dashboard.views.boxes import Drawing
from cloud_hub.errors import InvalidError
from cloud_hub.identity.callers import Caller
from cloud_hub.samples.series import InputSeries
from fleet.api.types import TEXT_LIMIT

Kind = Literal["text", "number", "area", "select", "check"]
Role = Literal["operator", "admin"]
Request = TypeVar("Request", bound=BaseModel)
SHOWN = 120  # characters of a choice
DIGITS = 30  # characters of a number: what is longer is no number that a database or a clock takes


class Field(Struct, frozen=True, kw_only=True):
    """A field with its value; `options` are (value, words) of a select. `more`: folded away until it is wanted."""

    name: str
    label: str
    kind: Kind = "text"
    value: str = ""
    options: list[tuple[str, str]] = []
    hint: str = ""
    required: bool = False
    least: float | None = None
    most: float | None = None
    longest: int = TEXT_LIMIT
    more: bool = False


class Table(Struct, frozen=True, kw_only=True):
    """Rows below their heads, all text."""

    title: str
    heads: list[str]
    rows: list[list[str]]


class Button(Struct, frozen=True, kw_only=True):
    """The button that sends the form; `step` tells two buttons of one form apart."""

    words: str
    step: str = ""
    danger: bool = False


class ToLabel(Struct, frozen=True, kw_only=True):
    """A sample as somebody labels it: what it was, as a picture, lines, numbers or words, and what the device said.

    `sounds` are (input, words) of what can be played. `options` are (label, words) to choose from; without any, the
    label is written, in `longest` characters at most, and drawn where there is something to draw on. `given` is what
    was chosen so far, `known` the label that it has and who gave it; where it is not `open` there is nothing to choose.
    """

    id: str
    about: str
    picture: bool
    series: list[InputSeries]
    numbers: list[tuple[str, str]]
    words: str
    answer: str
    sounds: list[tuple[str, str]] = []
    drawing: Drawing | None = None
    longest: int = TEXT_LIMIT
    options: list[tuple[str, str]] = []
    given: str = ""
    known: str = ""
    open: bool = True


class Form(Struct, frozen=True, kw_only=True):
    """The questions of an act, and its consequences.

    `says` are the consequences, one sentence each. `seen` is the state that the page shows, as far as the act hangs on
    it: the act is refused when it is another one by the time the form comes. `blocked` says why it cannot be done now;
    such a form has no button. `hidden` are fields of what the page shows, for a use case that checks them under its own
    lock. `warns` are what an operator may accept, `back` is the page that the act began at.
    """

    title: str
    says: list[str]
    buttons: list[Button]
    back: str
    fields: list[Field] = []
    hidden: dict[str, str] = {}
    seen: str = ""
    blocked: str = ""
    warns: list[str] = []
    tables: list[Table] = []
    samples: list[ToLabel] = []


class ActRequest(Struct, frozen=True, kw_only=True):
    """An act that somebody wants: `names` are those in the path, `given` the fields of the form, none of them yet when
    the form is first shown; `step` is the button's."""

    hub: Hub
    caller: Caller
    names: Mapping[str, str]
    given: Mapping[str, str]
    step: str = ""

    def text(self, name: str, default: str = "") -> str:
        """A field's text as it was typed."""
        return self.given.get(name, default)

    def checked(self, name: str, default: bool = False) -> bool:
        """Tell whether a box is ticked; `default` before anything was given."""
        return bool(self.given.get(name)) if self.given else default


class Told(Struct, frozen=True, kw_only=True):
    """A result that is shown once, such as a token: `shown` are (label, text) to be copied."""

    title: str
    says: list[str]
    shown: list[tuple[str, str]]
    back: str
    warns: list[str] = []


class ActDone(Struct, frozen=True, kw_only=True):
    """It is done; the page where that is to be seen."""

    location: str


class Act(Struct, frozen=True, kw_only=True):
    """One thing that people do.

    Args:
        path: of the form, with the names in braces.
        like: the route of the API that does the same, `POST /api/v1/…`; its role is the act's.
        form: makes the form; raises HubError where there is nothing to act on.
        do: does it. A Form is shown instead of an end, such as the plan of a rollout.
        plain: steps that change nothing: they may be sent again, from a page of any age.
    """

    path: str
    like: str
    role: Role
    form: Callable[[ActRequest], Form]
    do: Callable[[ActRequest], ActDone | Told | Form]
    plain: frozenset[str] = frozenset()


def number_of(text: str, label: str, *, whole: bool = False) -> float:
    """The number in a field.

    Raises:
        InvalidError: it is none, or one of more digits than anybody means.
    """
    if len(text.strip()) > DIGITS:
        raise InvalidError(
            f"{label}: {text[:SHOWN]!r} is too long for a number", subject=label, hint="write a shorter one"
        )
    try:
        return int(text.strip()) if whole else float(text.strip().replace(",", "."))
    except ValueError:
        kind = "a whole number" if whole else "a number"
        what = f"{label}: {text[:SHOWN]!r} is not {kind}" if text.strip() else f"{label} is empty"
        raise InvalidError(what, subject=label, hint=f"write {kind}") from None


def request_of(kind: type[Request], labels: Mapping[str, str], /, **values: Any) -> Request:
    """A request of the API made of what was typed; `labels` are what the form calls its fields.

    Raises:
        InvalidError: a value out of the API's bounds, with the field as the form calls it.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = str(first["loc"][0]) if first["loc"] else ""
        label = labels.get(place, place.replace("_", " "))
        why = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "it should", 1)
        raise InvalidError(f"{label}: {why}" if label else why, subject=label) from None


def line(asked: ActRequest, name: str, label: str, usual: str = "", **more: Any) -> Field:
    """A line of text with what was typed, or the usual value; `more` are other fields of `Field`."""
    return Field(name=name, label=label, value=asked.text(name, usual), **more)


def number(asked: ActRequest, name: str, label: str, usual: str = "", **more: Any) -> Field:
    """A number, likewise."""
    return Field(name=name, label=label, kind="number", value=asked.text(name, usual), **more)


def select(
    asked: ActRequest, name: str, label: str, options: list[tuple[str, str]], usual: str = "", **more: Any
) -> Field:
    """One of several, likewise."""
    return Field(name=name, label=label, kind="select", value=asked.text(name, usual), options=options, **more)


def check(asked: ActRequest, name: str, label: str, **more: Any) -> Field:
    """A box to be ticked, likewise."""
    return Field(name=name, label=label, kind="check", value="yes" if asked.checked(name) else "", **more)


def choices(values: Sequence[str], none: str = "") -> list[tuple[str, str]]:
    """The options of a select; `none` is what choosing nothing is called, if it may be."""
    return [*([("", none)] if none else []), *((value, value) for value in values)]
