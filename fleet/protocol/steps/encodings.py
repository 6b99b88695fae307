"""Steps from words and whole numbers to numbers, by a vocabulary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal

import numpy as np

from fleet.protocol.errors import MalformedError
from fleet.protocol.steps.base import MAX_WORD, Bound, Unary, bad, check_size
from fleet.protocol.tensor_spec import Tensor
from fleet.protocol.tensors import DTYPES, AnyArray, dtype_of


class _Encoding(Unary, frozen=True, kw_only=True):
    """By a vocabulary of words (BYTES) or whole numbers; fitted to the training data's values in order."""

    fitted: ClassVar = ("vocabulary",)
    vocabulary: tuple[str | int, ...] = ()

    def _places(self, tensor: Tensor) -> Callable[[AnyArray], AnyArray]:
        """From values to their places in the vocabulary, -1 for one that is not in it."""
        words, text = self.vocabulary, tensor.datatype == "BYTES"
        if dtype_of(tensor.datatype).kind not in "Oiub":
            bad(self, f"input {tensor.name!r} is {tensor.datatype}", hint="it takes BYTES, whole numbers or BOOL")
        if not words or len(set(words)) != len(words) or not all(isinstance(w, str if text else int) for w in words):
            bad(self, f"the vocabulary of {tensor.name!r} is no list of different {'words' if text else 'numbers'}")
        if text:
            known = {str(word).encode(): place for place, word in enumerate(words)}
            if max(map(len, known)) > MAX_WORD:
                bad(self, f"a word has more than {MAX_WORD} bytes")
            return lambda values: _looked_up(values, known)
        if not all(-(1 << 63) <= int(word) < 1 << 63 for word in words):
            bad(self, "a number of the vocabulary does not fit into 64 bits")
        numbers = np.array(words, np.int64)
        order = np.argsort(numbers)
        return lambda values: _searched(values, numbers[order], order)

    def _known(self, places: AnyArray, values: AnyArray) -> None:
        """Raise MalformedError for the first value that is not in the vocabulary."""
        if (places < 0).any():
            place = tuple(int(axis) for axis in np.argwhere(places < 0)[0])
            value = values[place]
            said = value.decode("utf-8", "replace")[:60] if isinstance(value, bytes) else int(value)
            raise MalformedError(
                f"input {self.input!r} is {said!r} at {list(place)}, which the release's vocabulary does not have",
                subject=self.input,
            )


class OneHot(_Encoding, frozen=True, kw_only=True, tag="one-hot"):
    """1 at a value's place in the vocabulary and 0 elsewhere: (n, k) becomes (n, k · words), (n,) becomes (n, words).

    `unknown`: a value that is not in the vocabulary is refused, or is 0 everywhere.
    """

    unknown: Literal["refuse", "zeros"] = "refuse"

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        places, words = self._places(tensor), len(self.vocabulary)
        last = tensor.row[-1] * words if tensor.row and tensor.row[-1] != -1 else -1 if tensor.row else words
        shape = (*tensor.shape[: len(tensor.shape) - bool(tensor.row)], last)
        identity = np.arange(words)

        def apply(arrays: Sequence[AnyArray]) -> AnyArray:
            values = arrays[0]
            check_size(self, values.size * words)
            found = places(values)
            if self.unknown == "refuse":
                self._known(found, values)
            hot: AnyArray = (found[..., None] == identity).astype(np.float32)
            return hot.reshape(*values.shape[:-1], -1) if tensor.row else hot

        return Bound((tensor,), Tensor(name=tensor.name, datatype="FP32", shape=shape), apply)


class Ordinal(_Encoding, frozen=True, kw_only=True, tag="ordinal"):
    """A value's place in the vocabulary. `unknown`: a value that is not in it is refused, or is the number of words."""

    unknown: Literal["refuse", "last"] = "refuse"
    datatype: Literal["FP32", "INT64"] = "FP32"

    def bind(self, tensors: Sequence[Tensor]) -> Bound:
        """See Step."""
        (tensor,) = tensors
        places = self._places(tensor)

        def apply(arrays: Sequence[AnyArray]) -> AnyArray:
            found = places(arrays[0])
            if self.unknown == "refuse":
                self._known(found, arrays[0])
            return np.where(found < 0, len(self.vocabulary), found).astype(DTYPES[self.datatype])

        return Bound((tensor,), Tensor(name=tensor.name, datatype=self.datatype, shape=tensor.shape), apply)


def _looked_up(values: AnyArray, known: dict[bytes, int]) -> AnyArray:
    found = [known.get(v if isinstance(v, bytes) else str(v).encode(), -1) for v in values.ravel().tolist()]
    return np.array(found, np.int64).reshape(values.shape)


def _searched(values: AnyArray, ordered: AnyArray, order: AnyArray) -> AnyArray:
    at: AnyArray = np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)
    found: AnyArray = np.where(ordered[at] == values, order[at], -1)
    return found
