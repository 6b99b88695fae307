"""The options of the command line, each said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

Source = Annotated[str, Argument(help="A .pt2, an .onnx, or file.py:factory.")]
ModelFile = Annotated[Path, Argument(help="A .tflite or .onnx file.")]
Release = Annotated[Path, Argument(help="A release directory.")]

Json = Annotated[bool, Option("--json", help="Print one JSON document.")]
Out = Annotated[Path, Option("--out", help="The release directory to write.")]
Calibration = Annotated[Path, Option("--calibration", help=".npz of inputs; calibrates quantization.")]
Validation = Annotated[Path, Option("--validation", help=".npz of inputs and y, disjoint; gives the verdict.")]
Targets = Annotated[list[str] | None, Option("--target", help="A variant; repeat. Preferred first.")]
Weights = Annotated[Path | None, Option("--weights", help="safetensors for file.py:factory.")]
Cloud = Annotated[Path | None, Option("--cloud", help="The teacher as .onnx: the cloud variant.")]
Labels = Annotated[str, Option("--labels", help="Class names in output order, separated by commas.")]
Features = Annotated[
    list[str] | None,
    Option("--features", help="What an input's numbers are called, in order: [INPUT=]temperature,humidity; repeat."),
]
MetricName = Annotated[
    str,
    Option(
        "--metric",
        help="accuracy, top-K, auc, f1, mae, rmse, r2, cosine, recall-at-K, map, exact, or file.py:function.",
    ),
]
TaskName = Annotated[
    str,
    Option(
        "--task",
        help="The kind of answer: classification, multi-label, regression, detection, anomaly-score, embedding "
        "or custom; settings follow: regression:tolerance=0.5.",
    ),
]
ChannelsLast = Annotated[
    bool, Option("--channels-last", help="The data is (n, height, width, channels), the model channels first.")
]
Reference = Annotated[
    Path | None, Option("--reference", help="The float model it was made from: drop and agreement are against it.")
]
Raw = Annotated[bool, Option("--raw-outputs", help="Leave a quantized file's integer outputs as they are.")]

NonFinite = Annotated[
    list[str] | None, Option("--non-finite", help="An input or output that may hold NaN and infinity; repeat.")
]

Preprocess = Annotated[
    Path | None,
    Option("--preprocess", help="JSON list of steps, with constants, between what applications send and the model."),
]
FrontModel = Annotated[
    str,
    Option("--front", help="FILE[:INPUTS[=OUTPUTS]], an .onnx or .tflite in front of steps and model: a spectrogram."),
]

MaxDrop = Annotated[float | None, Option("--max-drop", help="Gate: percentage points below fp32.")]
MinMetric = Annotated[float | None, Option("--min-metric", help="Gate: least value (largest, of an error).")]
MinAgreement = Annotated[float | None, Option("--min-agreement", help="Gate: with fp32, 0 to 1.")]
MaxClassDrop = Annotated[float | None, Option("--max-class-drop", help="Gate: in one class, 0 to 1.")]
MaxLatencyRatio = Annotated[float | None, Option("--max-latency-ratio", help="Gate: p50 over fp32's.")]
GateBound = Annotated[
    bool, Option("--gate-bound", help="Gate: metric and drop keep their terms with 95 % confidence, not just here.")
]
Search = Annotated[bool, Option("--search", help="Where int8 misses the gate, look for operators to keep in float.")]

DeferError = Annotated[float | None, Option("--defer-error", help="Deferral: at most x % error.")]
DeferCloud = Annotated[float, Option("--defer-cloud", help="Deferral: at most y % cloud calls.")]
Inputs = Annotated[
    list[str] | None, Option("--input", help="How applications call an input; repeat. Else the model's and the data's.")
]
Outputs = Annotated[list[str] | None, Option("--output", help="How applications call an output; repeat, in order.")]
Chosen = Annotated[
    list[str] | None,
    Option("--output", help="Which outputs of the file, the scored one first; repeat. A lone one may be renamed."),
]
Extends = Annotated[
    Path | None,
    Option("--extends", "--like", help="An earlier release directory of the model: keep its interface and encoder."),
]
OfHub = Annotated[
    str, Option("--model", help="The same model at the hub (fleet login): keep its interface and encoder from there.")
]
EncoderFrom = Annotated[Path | None, Option("--encoder-from", help="Keep an earlier release's encoder.")]
DeltaFrom = Annotated[
    list[Path] | None, Option("--delta-from", help="An earlier release directory; carry patches from it; repeat.")
]
LineageFile = Annotated[Path | None, Option("--lineage", help="JSON that training wrote.")]
Pythons = Annotated[
    list[Path] | None, Option("--python", help="Another environment's python whose runtimes are tried, too; repeat.")
]
Measurements = Annotated[
    Path | None, Option("--measurements", help="Folder that keeps what was measured, by content (default: the cache).")
]
Again = Annotated[bool, Option("--measure-again", help="Measure anew, whatever was kept.")]
Watch = Annotated[str, Option("--watch", help="Which input drift is watched on; by default the first of real numbers.")]
Seed = Annotated[int, Option("--seed", help="Seeds the drift encoder.")]

Old = Annotated[Path, Argument(help="What devices have: a model file or a release directory.")]
New = Annotated[Path, Argument(help="What they shall have.")]
Patch = Annotated[Path | None, Option("--out", help="The patch to write.")]
Name = Annotated[str, Option("--variant", help="Which variant of release directories.")]
