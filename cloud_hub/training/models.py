"""The results of training: a torch module or an ONNX file, asked and kept alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloud_hub.errors import InvalidError
from cloud_hub.training.steps import NO_FITTED_STEPS, FittedSteps
from model_compiler.errors import CompilerError
from model_compiler.inputs.dataset import Array, Dataset
from model_compiler.running import runner

if TYPE_CHECKING:
    from torch import nn

    from model_compiler.build.adapting import Adapted


OPSETS = {"": 17, "ai.onnx.ml": 3}  # the second by itself is later than what its converters of forests know
ANOMALY = "anomaly"
TRIED = 256  # rows that are asked whose score is whose


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
            found = runner.run("the recipe's model", "onnx", self.onnx, Dataset(inputs))
        except CompilerError as error:
            raise InvalidError(f"the recipe: {error}", subject="recipe", hint=error.hint) from error
        return dict(zip(self.outputs, found.outputs, strict=True))


def weights_in_file(released: bytes, adapted: Adapted) -> dict[str, Array]:
    """A network's weights and buffers by name, the weights as a file of the release before holds them; none where it
    does not."""
    from model_compiler.build.adapting import original
    from model_compiler.build.weights import weights_of
    from model_compiler.inputs.sources import example_of

    own, example = original(adapted.module), tuple(map(example_of, adapted.data.inputs.values()))
    found = weights_of(released, own, adapted.module, example)
    return {**{name: value.numpy() for name, value in own.named_buffers()}, **found} if found else {}


def source_of(fitted: Any, example: Mapping[str, Array]) -> nn.Module | bytes:
    """Return the result of a recipe's `fit` as a torch module or the bytes of an ONNX model.

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
    """By skl2onnx. Of a classifier its probabilities or scores come out as one table (n, classes), of an outlier
    detector its decision function turned round, so that more is stranger; both without the labels beside them."""
    try:
        from skl2onnx import to_onnx
        from sklearn.base import is_classifier, is_outlier_detector
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
    classes, strange = is_classifier(fitted), is_outlier_detector(fitted)
    try:  # its converters raise what they like
        model = to_onnx(fitted, rows[:1], options=_options(fitted, classes) or None, target_opset=OPSETS)
    except Exception as error:
        raise InvalidError(
            f"the recipe: skl2onnx cannot convert {type(fitted).__name__}: {error}", subject="recipe"
        ) from error
    if classes or strange:
        _keep_scores(model, turned=strange)
    if classes and not hasattr(fitted, "predict_proba") and len(getattr(fitted, "classes_", ())) == 2:
        _score_both(model, fitted, rows[:TRIED])
    made: bytes = model.SerializeToString()
    return made


def _options(fitted: Any, classes: bool) -> dict[int, dict[str, bool]]:
    """Return the options of skl2onnx, by the id of the estimator that they are about."""
    from sklearn.svm import LinearSVC

    last = fitted.steps[-1][1] if hasattr(fitted, "steps") else fitted
    if isinstance(last, LinearSVC):  # its converter knows no other, and in a pipeline it gets others unless it has one
        return {id(last): {"raw_scores": True}}
    told = {"zipmap": False} if classes else {}
    if hasattr(fitted, "predict_proba"):
        told["output_class_labels"] = False
    return {id(fitted): told} if told else {}


def _keep_scores(model: Any, *, turned: bool) -> None:
    """Of a model's label and scores, leave what a task scores; `turned`: with the other sign."""
    from onnx import helper

    words = ("prob", "score")
    kept = next((out for out in model.graph.output if any(word in out.name.lower() for word in words)), None)
    if kept is None:
        return
    if turned:
        model.graph.node.append(helper.make_node("Neg", [kept.name], [ANOMALY]))
        kept = helper.make_tensor_value_info(ANOMALY, kept.type.tensor_type.elem_type, ["n", 1])
    del model.graph.output[:]
    model.graph.output.append(kept)


def _score_both(model: Any, fitted: Any, rows: Array) -> None:
    """Of two classes converters write the second one's score alone, or both, in either order: write both in theirs.

    An estimator's decision function is the second one's score.
    """
    from onnx import helper

    if len(model.graph.output) != 1 or not hasattr(fitted, "decision_function"):
        return
    (kept,) = model.graph.output
    asked = {model.graph.input[0].name: rows}
    scores = Made((kept.name,), onnx=model.SerializeToString()).answers(asked)[kept.name].reshape(len(rows), -1)
    in_order = float(scores[:, -1] @ fitted.decision_function(rows)) >= 0
    if scores.shape[1] == 2 and in_order:
        return
    other, both = f"{kept.name}_other", f"{kept.name}_both"
    if scores.shape[1] == 2:
        model.graph.node.append(helper.make_node("Neg", [kept.name], [both]))  # one is the other's with its sign turned
    else:
        names = [other, kept.name] if in_order else [kept.name, other]
        model.graph.node.append(helper.make_node("Neg", [kept.name], [other]))
        model.graph.node.append(helper.make_node("Concat", names, [both], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(both, kept.type.tensor_type.elem_type, ["n", 2]))
