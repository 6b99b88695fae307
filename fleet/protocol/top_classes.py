"""The best classes of an answer by name: Triton's classification extension, which KServe's clients know as well.

A request asks for it with `{"name": OUTPUT, "parameters": {"classification": 3}}`; the output is then BYTES, the three
best classes of each row, each as `score:number:name`, or `score:number` where the class has no name.

Source: https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_classification.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fleet.protocol.errors import MalformedError, TooLargeError
from fleet.protocol.tensors import MAX_TEXTS, AnyArray

PARAMETER = "classification"


def class_count(parameters: Mapping[str, Any], output: str) -> int:
    """Return the number of classes that the parameters of an output ask for; 0 for none.

    Raises:
        MalformedError: the parameter is no number of classes.
    """
    count = parameters.get(PARAMETER, 0)
    if type(count) is not int or count < 0:
        raise MalformedError(
            f"output {output!r}: classification {count!r} is not a number of classes", subject="inference"
        )
    return count


def top_class_words(scores: AnyArray, count: int, labels: Mapping[str, Sequence[str]], output: str) -> AnyArray:
    """Return the `top_classes` of an output; the output itself where `count` is 0.

    Args:
        scores: the output (n, …).
        count: classes to name.
        labels: class names by output.
        output: its name.
    """
    return top_classes(scores, count, labels.get(output, ()), output) if count else scores


def top_classes(scores: AnyArray, count: int, labels: Sequence[str], output: str) -> AnyArray:
    """The `count` best classes along the last axis, best first, of equal ones the lower number first.

    Args:
        scores: (…, classes) of numbers, NaN last.
        count: at least 1; more than there are classes is all of them.
        labels: the class names; one that is missing is left out.
        output: for the message.

    Returns:
        (…, count) of UTF-8 bytes.

    Raises:
        MalformedError: the output holds no scores. TooLargeError: more than MAX_TEXTS texts.
    """
    if scores.dtype.kind not in "iuf" or scores.ndim == 0:
        raise MalformedError(
            f"output {output!r} has no scores to rank", subject="inference", hint="ask for it without classification"
        )
    count = min(count, scores.shape[-1])
    shape = (*scores.shape[:-1], count)
    total = int(np.prod(shape))
    if total > MAX_TEXTS:
        raise TooLargeError(f"{total} classes are asked for, at most {MAX_TEXTS} are written", subject="inference")
    values = scores.astype(np.float64)
    best = np.argsort(-values, axis=-1, kind="stable")[..., :count]
    found = np.empty(total, object)
    pairs = zip(np.take_along_axis(values, best, -1).ravel().tolist(), best.ravel().tolist(), strict=True)
    found[:] = [_text(score, number, labels) for score, number in pairs]
    return found.reshape(shape)


def _text(score: float, number: int, labels: Sequence[str]) -> bytes:
    name = f":{labels[number]}" if number < len(labels) else ""
    return f"{score:f}:{number}{name}".encode()
