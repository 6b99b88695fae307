"""The base of all kinds of steps, and their bounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple, NoReturn

from msgspec import Struct

from fleet.protocol.errors import MalformedError
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import AnyArray

MAX_CONSTANTS = 16_384  # numbers and words of all steps of a release
MAX_WORD = 256  # bytes of a word in a vocabulary
MAX_ROW_VALUES = 1 << 22  # values of one row of what a step makes
MAX_VALUES = 1 << 24  # values of what a step makes that makes more than it takes: 64 MiB

Apply = Callable[[Sequence[AnyArray]], AnyArray]


class Bound(NamedTuple):
    """A step that is bound to its tensors: the tensor it makes, and how, of arrays as `takes` describes them."""

    takes: tuple[Tensor, ...]
    gives: Tensor
    apply: Apply


class Step(Struct, frozen=True, kw_only=True, tag_field="kind"):
    """The base of all kinds of steps: the names of the tensors that they take, and how much they carry."""

    fitted: ClassVar[tuple[str, ...]] = ()  # the fields that fitting fills

    @property
    def kind(self) -> str:
        """As interfaces and `requires` name it: `one-hot`."""
        return str(self.__struct_config__.tag)

    @property
    def takes(self) -> tuple[str, ...]:
        """The names of the tensors that it takes; they are gone afterwards."""
        raise AssertionError("every kind of step says it")

    @property
    def constants(self) -> int:
        """The number of numbers and words that it carries."""
        return sum(len(getattr(self, name)) for name in self.fitted)

    @property
    def needs_fitting(self) -> bool:
        """True while its constants are yet to be fitted to training data."""
        return any(not getattr(self, name) for name in self.fitted)

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """Return the tensors made of `tensors`, those of `takes` in that order; nothing of their size is allocated.

        Raises:
            MalformedError: it cannot work on them, or a constant is missing or out of bounds.
        """
        raise AssertionError("every kind of step says it")


class Unary(Step, frozen=True, kw_only=True):
    """A step that takes one tensor and puts what it makes into its place."""

    input: str

    @property
    def takes(self) -> tuple[str, ...]:
        """See Step."""
        return (self.input,)


def check_size(step: Step, values: int) -> None:
    """Raise MalformedError where a step would make too many values of one request; before they are allocated."""
    if values > MAX_VALUES:
        bad(step, f"it would make {values} values, at most {MAX_VALUES} are allowed", hint="send fewer rows")


def shown(tensor: Tensor) -> str:
    """A tensor as messages show it."""
    return f"{tensor.name} {tensor.datatype} {list(tensor.shape)}"


def bad(step: Step, message: str, *, hint: str = "") -> NoReturn:
    """Raise MalformedError that names the step.

    Args:
        step: the one that is at fault.
        message: the fault.
        hint: a remedy; empty for none.
    """
    raise MalformedError(f"step {step.kind} of {', '.join(step.takes)}: {message}", subject=step.kind, hint=hint)
