"""A release's model as applications ask it: its front and its preprocessing steps, then its model file."""

from __future__ import annotations

import numpy as np

from fleet.protocol.errors import MalformedError
from fleet.protocol.front import Front
from fleet.protocol.preprocessing import Pipeline, Ready
from fleet.runtimes.errors import InputError
from fleet.runtimes.models import Arrays, LoadedModel, batch_size, check_rows


class FrontModel:
    """A front in memory. It is asked row by row, so that the bits of a row do not depend on its batch."""

    def __init__(self, model: LoadedModel, front: Front) -> None:
        self._model, self._takes = model, front.inputs

    def run(self, inputs: Arrays) -> Arrays:
        """Transform the inputs that it takes, and return the others as they are; raises as a LoadedModel."""
        rows = batch_size(inputs, self._takes)
        check_rows(rows)
        taken = {name: inputs[name] for name in self._takes}
        made = [self._model.run({name: a[row : row + 1] for name, a in taken.items()}) for row in range(rows)]
        others = {name: array for name, array in inputs.items() if name not in taken}
        return others | {name: np.concatenate([answer[name] for answer in made]) for name in made[0]}

    def close(self) -> None:
        """See LoadedModel."""
        self._model.close()


class Before:
    """The steps that raw tensors go through before a release's model file sees them.

    `ready` are the tensors that come out, and `digest` names what made them.
    """

    def __init__(self, pipeline: Pipeline, front: FrontModel | None) -> None:
        self.pipeline, self._front = pipeline, front
        self.digest, self.ready = pipeline.digest, pipeline.ready

    def run(self, inputs: Arrays) -> Arrays:
        """The ready tensors. Raises InputError for what the steps refuse, else as a model that the front is."""
        found = inputs if self._front is None else self._front.run(inputs)
        try:
            return self.pipeline.run(found)
        except MalformedError as error:
            raise InputError(str(error), subject=error.subject, hint=error.hint) from error

    def close(self) -> None:
        """See LoadedModel."""
        if self._front is not None:
            self._front.close()


class Prepared:
    """A model behind its release's front and steps; a LoadedModel. Inputs that are `Ready` go past both."""

    def __init__(self, model: LoadedModel, before: Before) -> None:
        self._model, self.before = model, before

    @property
    def joins(self) -> bool:
        """See LoadedModel; front and steps work row by row."""
        return self._model.joins

    def run(self, inputs: Arrays) -> Arrays:
        """See LoadedModel; InputError is also what the steps refuse."""
        return self._model.run(inputs if isinstance(inputs, Ready) else self.before.run(inputs))

    def close(self) -> None:
        """See LoadedModel."""
        self._model.close()
        self.before.close()
