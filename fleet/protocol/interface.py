"""The interface of a model: what applications may rely on from one release to the next.

Names, datatypes and shapes of inputs and outputs, the task, class names, the kinds of preprocessing steps (their fitted
constants belong to the release), and the encoder of the drift sketch. An
application sends and reads tensors by name, so a release that changes any of this is another model.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from msgspec import Struct

from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.errors import MalformedError
from fleet.protocol.manifest import Manifest, Tensor
from fleet.protocol.oip import InferRequest, check_request
from fleet.protocol.preprocessing import kinds_of
from fleet.protocol.task import TaskSpec, implied, task_in_words
from fleet.protocol.texts import NUMBERS

NAME_LIMIT = 255  # characters of an input's or output's name
SHOWN_CLASSES = 12
# The warning where a release without a sketch is made, and where it is published.
UNWATCHED = (
    "drift: the release has no sketch, so nobody will watch whether its inputs move or are outlying; its answers are "
    "watched by audits and labels (fleet drift status). A sketch needs an input with 8 rows for calibration and 8 for "
    "validation that are not all the same, and may hold NaN only where the model means it (--non-finite)"
)


class Interface(Struct, frozen=True, kw_only=True):
    """`labels` are the class names in output order; `sketch_id` is empty where no drift is watched. `task` None is a
    classification where there are class names, else nobody scores the answers. `preprocess` are the kinds of steps
    before the model, in order, each with what it takes: `normalise sensors`; a front is the first: `front audio`.

    The order of inputs means nothing, since requests name them; the first output is the one that is scored.
    """

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    labels: tuple[str, ...] = ()
    sketch_id: str = ""
    task: TaskSpec | None = None
    preprocess: tuple[str, ...] = ()

    @property
    def named_task(self) -> TaskSpec | None:
        """The task; None where nobody scores the answers."""
        return self.task or implied(self.labels)


def interface_of(manifest: Manifest) -> Interface:
    """The interface that a release has."""
    return Interface(
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        labels=manifest.labels,
        sketch_id=manifest.sketch.sketch_id if manifest.sketch is not None else "",
        task=manifest.named_task,
        preprocess=kinds_of(manifest.steps, manifest.in_front.inputs if manifest.in_front is not None else ()),
    )


def takes(interface: Interface | None, request: InferRequest) -> bool:
    """Tell whether a model with this interface takes a request; a model without one takes nothing."""
    if interface is None:
        return False
    try:
        check_request(request, interface.inputs, interface.outputs)
    except MalformedError:
        return False
    return True


def differences(current: Interface, new: Interface) -> list[str]:
    """Each way in which `new` breaks what applications of `current` rely on, both sides in words.

    A sketch or a task that is new breaks nothing; see `lost_sketch` for a sketch that is missing.
    """
    found = []
    if _sorted(current.inputs) != _sorted(new.inputs):
        found.append(f"the model's inputs are {tensors(current.inputs)}; this has {tensors(new.inputs)}")
    if current.outputs != new.outputs:
        found.append(f"the model's outputs are {tensors(current.outputs)}; this has {tensors(new.outputs)}")
    if current.labels != new.labels:
        found.append(f"the model's classes are {_classes(current.labels)}; this has {_classes(new.labels)}")
    if current.named_task is not None and current.named_task != new.named_task:
        found.append(
            f"the model's task is {task_in_words(current.named_task)}; this has {task_in_words(new.named_task)}"
        )
    if current.preprocess != new.preprocess:
        found.append(
            f"the model's preprocessing is {steps_in_words(current.preprocess)}; "
            f"this has {steps_in_words(new.preprocess)}"
        )
    if current.sketch_id and new.sketch_id and current.sketch_id != new.sketch_id:
        found.append(
            f"the model's sketch encoder is {current.sketch_id[:12]}; this has {new.sketch_id[:12]}, "
            "so drift could not be compared"
        )
    return found


def lost_sketch(current: Interface, new: Interface) -> str:
    """That `new` has no drift sketch where `current` has one, in words; else empty."""
    if not current.sketch_id or new.sketch_id:
        return ""
    return f"the model's drift is watched by sketch {current.sketch_id[:12]}; this has no sketch"


def unfit(encoder: Encoder, inputs: Sequence[Tensor]) -> str:
    """Return why an encoder cannot watch any of these inputs, in words; empty where it can."""
    watched = next((tensor for tensor in inputs if tensor.name == encoder.tensor or not encoder.tensor), None)
    if watched is None:
        return f"the sketch encoder watches input {encoder.tensor!r}; this has {tensors(inputs)}"
    if watched.datatype == "BYTES":
        told = f"the sketch encoder takes {encoder.inputs} numbers; input {watched.name!r} is text"
        return "" if encoder.inputs == NUMBERS else told
    sample = watched.shape[1:] if watched.shape[:1] == (-1,) else watched.shape
    if min(sample, default=1) >= 0 and prod(sample) != encoder.inputs:
        return f"the sketch encoder takes {encoder.inputs} values of input {watched.name!r}; this has {prod(sample)}"
    return ""


def check_names(names: Sequence[str], kind: str) -> None:
    """Raise MalformedError unless every name is one that a request can carry, and no two are alike.

    Args:
        kind: "input" or "output", for the message.
    """
    for name in names:
        if not 0 < len(name) <= NAME_LIMIT or not name.isprintable():
            raise MalformedError(
                f"{kind} name {name[:60]!r} is not valid",
                subject=kind,
                hint=f"use 1 to {NAME_LIMIT} printable characters",
            )
    if len(set(names)) != len(names):
        raise MalformedError(f"two {kind}s have the same name: {', '.join(names)}", subject=kind)


def tensors(found: Sequence[Tensor]) -> str:
    """Tensors as messages show them: `sensors FP32 [-1, 8]`."""
    return ", ".join(map(_shown, found)) or "none"


def steps_in_words(kinds: Sequence[str]) -> str:
    """The kinds of steps as messages show them: `impute sensors; normalise sensors`."""
    return "; ".join(kinds) or "none"


def _shown(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.datatype} {list(tensor.shape)}{'' if tensor.finite else ' or NaN'}"


def _sorted(found: Sequence[Tensor]) -> list[Tensor]:
    return sorted(found, key=lambda tensor: tensor.name)


def _classes(labels: Sequence[str]) -> str:
    shown = ", ".join(labels[:SHOWN_CLASSES])
    return f"{shown}, … ({len(labels)})" if len(labels) > SHOWN_CLASSES else shown or "none"
