"""What training made: a torch module or an ONNX file, asked and kept alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloud_hub.errors import InvalidError
from cloud_hub.training.steps import NO_FITTED_STEPS, FittedSteps
from model_compiler import runners
from model_compiler.data import Array, Dataset
from model_compiler.errors import CompilerError

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Made:
    """A model with the release's names; exactly one of `module`, which takes its inputs by place, and `onnx`.

    `steps` are between what applications send and what it takes.
    """

    outputs: tuple[str, ...]
    module: nn.Module | None = None
    onnx: bytes | None = None
    steps: FittedSteps = NO_FITTED_STEPS

    def answers(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every output (n, …) to raw inputs (n, …); raises InvalidError when an ONNX file does not take them."""
        inputs = self.steps.inputs(inputs)
        if self.module is not None:
            from cloud_hub.training.fitting import answers_of

            return dict(zip(self.outputs, answers_of(self.module, inputs), strict=True))
        assert self.onnx is not None  # one of the two is given
        try:
            found = runners.run("the recipe's model", "onnx", self.onnx, Dataset(inputs))
        except CompilerError as error:
            raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
        return dict(zip(self.outputs, found.outputs, strict=True))


def source_of(fitted: Any, example: Mapping[str, Array]) -> nn.Module | bytes:
    """What a recipe's `fit` returned as a torch module or the bytes of an ONNX model.

    Args:
        fitted: either of them, or an estimator of scikit-learn.
        example: rows of the inputs (n, …), for the estimator's.

    Raises:
        InvalidError: it is none of them, or scikit-learn's converter refuses it.
    """
    import torch

    if isinstance(fitted, torch.nn.Module | bytes):
        return fitted
    if hasattr(fitted, "predict") and hasattr(fitted, "get_params"):
        return _of_estimator(fitted, example)
    raise InvalidError(
        f"the recipe: fit returned {type(fitted).__name__}",
        subject="recipe",
        hint="return a torch module, the bytes of an ONNX model, or a fitted estimator of scikit-learn",
    )


def _of_estimator(fitted: Any, example: Mapping[str, Array]) -> bytes:
    """By skl2onnx; probabilities come out as one table (n, classes), without the labels beside them."""
    try:
        from skl2onnx import to_onnx
    except ImportError as error:
        raise InvalidError(
            "the recipe: an estimator of scikit-learn needs skl2onnx",
            subject="recipe",
            hint="pip install 'edgeloop[sklearn]', or return a torch module or the bytes of an ONNX model",
        ) from error
    if len(example) != 1:
        raise InvalidError(
            f"the recipe: an estimator of scikit-learn takes one input, the data has {', '.join(example)}",
            subject="recipe",
            hint="join the inputs to one, or return a torch module",
        )
    (rows,) = example.values()
    options = {"zipmap": False, "output_class_labels": False} if hasattr(fitted, "predict_proba") else None
    try:  # its converters raise what they like
        model = to_onnx(fitted, rows[:1], options={id(fitted): options} if options else None, target_opset=17)
    except Exception as error:
        raise InvalidError(
            f"the recipe: skl2onnx cannot convert {type(fitted).__name__}: {error}", subject="recipe"
        ) from error
    if options:  # of label and probabilities, what a task scores
        kept = next(output for output in model.graph.output if "prob" in output.name.lower())
        del model.graph.output[:]
        model.graph.output.append(kept)
    made: bytes = model.SerializeToString()
    return made
