"""The request to the compiler, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.interface import Interface
from fleet.protocol.manifest import Gate, Lineage
from fleet.protocol.steps import AnyStep
from fleet.protocol.task import CLASSIFICATION, TaskSpec
from model_compiler.errors import InterfaceError
from model_compiler.inputs.dataset import UNNAMED, Dataset
from model_compiler.inputs.deferral_target import DeferTarget
from model_compiler.inputs.former_release import Former, former_of
from model_compiler.inputs.preprocessing import FrontFile, imputed
from model_compiler.metrics import Metric

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class CompileRequest:
    """The request to build a release. Exactly one of `module` and `onnx` (checked bytes) is the source.

    `cloud` is the teacher as ONNX bytes; it becomes the release's cloud variant. `inputs` and `outputs` are the names
    that the release shall have, in order; empty for the model's own and the data's. `interface` is what the
    applications of an existing model rely on: its names and classes outrank all others, and nothing is built that
    differs. `task` is the kind of answer; None for the model's own, else a classification where there are classes.
    `metric` is by default the task's: accuracy for integer labels, equality for text, else the root mean squared error.
    `non_finite` names the inputs and outputs that may hold NaN and infinity, of a model that means them.
    `front`, a model file, and then `preprocess`, steps with their constants, are between what applications send, which
    the data holds, and what the source takes; what a step imputes may hold NaN.
    `features` are what the numbers of an input are called, by its name, or "" for the only one; alarms name them.
    `watch` names the input that drift is watched on; empty for the first of real numbers.
    `channels_last`: the data is (n, height, width, channels), the module takes channels first. `search` looks for a
    better quantization of a variant that misses the gate; `tuning` is training data for quantization-aware
    fine-tuning, which else has the calibration inputs. `measurements` is a folder that keeps what was measured, by
    content: the same model files on the same machine are not measured again, so that the same inputs give the same
    bytes. `pythons` are interpreters of other environments whose runtimes each variant is tried in, too. `earlier` are
    release directories that devices may come from; `former` is the release whose self-test inputs are kept where they
    still serve, by default the first of these. Its quantization grid is kept
    where that costs no accuracy, with `on_grid` in any case.
    """

    calibration: Dataset
    validation: Dataset
    targets: Sequence[str]
    out: Path
    module: torch.nn.Module | None = None
    onnx: bytes | None = None
    cloud: bytes | None = None
    labels: Sequence[str] = ()
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    interface: Interface | None = None
    metric: Metric | None = None
    task: TaskSpec | None = None
    non_finite: Sequence[str] = ()
    preprocess: Sequence[AnyStep] = ()
    front: FrontFile | None = None
    channels_last: bool = False
    gate: Gate = field(default_factory=Gate)
    search: bool = False
    tuning: Dataset | None = None
    defer: DeferTarget = field(default_factory=DeferTarget)
    encoder: Encoder | None = None
    watch: str = ""
    lineage: Lineage = field(default_factory=Lineage)
    seed: int = 0
    measurements: Path | None = None
    pythons: Sequence[Path] = ()
    earlier: Sequence[Path] = ()
    former: Former | None = None
    on_grid: bool = False
    progress: Callable[[str], None] = lambda step: None

    @property
    def prepares(self) -> bool:
        """True if there is anything between the applications' inputs and the source's."""
        return bool(self.preprocess) or self.front is not None

    def before(self) -> Former | None:
        """The release that devices come from; raises SourceError when its directory is damaged."""
        return self.former or (former_of(self.earlier[0]) if self.earlier else None)

    def numbered(self) -> CompileRequest:
        """The request with class names in the data as their numbers, where its labels name the classes.

        Raises DataError for a name that is none of them.
        """
        kept = self.interface
        labels, task = self.labels or (kept.labels if kept else ()), self.task or (kept.named_task if kept else None)
        others = task is not None and task.name != CLASSIFICATION
        if not labels or others or (self.metric is not None and not self.metric.classes):
            return self
        return replace(self, calibration=self.calibration.numbered(labels), validation=self.validation.numbered(labels))

    def loose(self) -> frozenset[str]:
        """Inputs and outputs that may hold NaN and infinity, by what was asked for or by the model's interface."""
        return frozenset(self.non_finite) | non_finite_of(self.interface) | imputed(self.preprocess)

    def datatypes(self) -> dict[str, str]:
        """The datatypes that applications of an existing model send, by input."""
        return {tensor.name: tensor.datatype for tensor in self.interface.inputs} if self.interface is not None else {}

    def names(self) -> tuple[Sequence[str], Sequence[str]]:
        """The names of the inputs and of the outputs that were asked for; empty where none were.

        Raises InterfaceError when other names were asked for, or the data's lone input has another, than the model has.
        """
        if self.interface is None:
            return self.inputs, self.outputs
        ours = [t.name for t in self.interface.inputs], [t.name for t in self.interface.outputs]
        for kind, asked, have in (("inputs", self.inputs, ours[0]), ("outputs", self.outputs, ours[1])):
            if asked and set(asked) != set(have):
                raise InterfaceError(
                    f"the model's {kind} are {', '.join(have)}; these names were asked for: {', '.join(asked)}",
                    hint="a changed interface is a new model name: fleet model create NAME",
                )
        data = tuple(self.validation.inputs)
        if not self.inputs and len(data) == len(ours[0]) == 1 and data[0] not in (UNNAMED, ours[0][0]):
            raise InterfaceError(
                f"the model's inputs are {ours[0][0]}; the data has {data[0]}",
                hint=f"--input {ours[0][0]} where it is the same; "
                "a changed interface is a new model name: fleet model create NAME",
            )
        return ours


def non_finite_of(interface: Interface | None) -> frozenset[str]:
    """The inputs and outputs of an interface that may hold NaN and infinity."""
    if interface is None:
        return frozenset()
    return frozenset(tensor.name for tensor in (*interface.inputs, *interface.outputs) if not tensor.finite)
