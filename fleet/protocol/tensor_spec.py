"""A model's input or output, as manifests and interfaces describe it."""

from __future__ import annotations

from msgspec import Struct

# The capability of an agent whose answers may have another size for each request, as a detector's that counts boxes.
VARIABLE_OUTPUTS = "variable-outputs"


class Tensor(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An input or output as the Open Inference Protocol names it; -1 is a variable dimension.

    `finite`: NaN and infinity are refused in the input, and are a failure in the output. False for a model that
    means them; agents of 0.1 do not know the field and let both pass.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    finite: bool = True

    @property
    def batched(self) -> bool:
        """True if the first axis counts rows of a batch."""
        return self.shape[:1] == (-1,)

    @property
    def row(self) -> tuple[int, ...]:
        """The shape of one row, where the first axis counts them; else of the whole."""
        return self.shape[1:] if self.batched else self.shape
