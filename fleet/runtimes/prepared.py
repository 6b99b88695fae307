"""A release's model as applications ask it: its preprocessing steps, then its model file."""

from __future__ import annotations

from fleet.protocol.errors import MalformedError
from fleet.protocol.preprocessing import Pipeline, Ready
from fleet.runtimes.errors import InputError
from fleet.runtimes.models import Arrays, LoadedModel


class Prepared:
    """A model behind its release's steps; a LoadedModel. Inputs that are `Ready` go past the steps."""

    def __init__(self, model: LoadedModel, pipeline: Pipeline) -> None:
        self._model = model
        self.pipeline = pipeline

    @property
    def joins(self) -> bool:
        """See LoadedModel; the steps work row by row."""
        return self._model.joins

    def run(self, inputs: Arrays) -> Arrays:
        """See LoadedModel; InputError is also what the steps refuse."""
        if isinstance(inputs, Ready):
            return self._model.run(inputs)
        try:
            ready = self.pipeline.run(inputs)
        except MalformedError as error:
            raise InputError(str(error), subject=error.subject, hint=error.hint) from error
        return self._model.run(ready)

    def close(self) -> None:
        """See LoadedModel."""
        self._model.close()
