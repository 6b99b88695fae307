"""Takes over from a release before it what a release keeps: names, classes, task and drift encoder.

That is a release directory, or the release that fixes the model's interface at the hub. The hub is asked by the `fleet`
command in a child process, with the operator's login: this room knows no network.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from fleet.console.exits import Exit
from fleet.protocol.drift_encoder import Encoder
from fleet.protocol.interface import Interface, interface_of, steps_in_words, tensors
from fleet.protocol.manifest import Manifest
from fleet.protocol.steps import AnyStep
from fleet.protocol.task import task_in_words
from model_compiler.errors import CompilerError, SourceError
from model_compiler.inputs.preprocessing import FrontFile
from model_compiler.inputs.release_folder import encoder_of, read_blob, read_release

TIMEOUT_S = 600.0
FLEET = [sys.executable, "-m", "fleet.cli"]


@dataclass(frozen=True)
class Kept:
    """An interface and an encoder, None where nothing is kept; `said` tells people what was taken, and from where.

    `steps` are the release's preprocessing steps with their constants, `front` is the model file in front of them.
    """

    interface: Interface | None = None
    encoder: Encoder | None = None
    said: str = ""
    steps: tuple[AnyStep, ...] = ()
    front: FrontFile | None = None


def found(release: Path | None, model: str, encoder_from: Path | None) -> Kept:
    """Find what the request asks to keep.

    Args:
        release: an earlier release directory of the same model.
        model: its name at the hub.
        encoder_from: a release directory of which only the encoder is taken; it outranks the others.

    Raises:
        SourceError: both a directory and a name, or a directory that is no release or has no encoder.
        CompilerError: the hub's refusal, in its own words.
    """
    if release is not None and model:
        raise SourceError("--extends and --model both say what is kept", hint="give one of them")
    kept = _of_hub(model) if model else _of_release(release, str(release)) if release is not None else Kept()
    if encoder_from is None:
        return kept
    return replace(kept, encoder=encoder_of(encoder_from))


def _of_release(folder: Path, words: str) -> Kept:
    manifest = read_release(folder)
    interface = interface_of(manifest)
    classes = f"classes {', '.join(interface.labels)}; " if interface.labels else ""
    watched = f"sketch {interface.sketch_id[:12]}" if interface.sketch_id else "no sketch, its drift is not watched"
    said = (
        f"kept from {words}: inputs {tensors(interface.inputs)}; outputs {tensors(interface.outputs)}; {classes}"
        f"task {task_in_words(interface.named_task)}; {watched}"
    )
    if interface.preprocess:
        said += f"; preprocessing {steps_in_words(interface.preprocess)}"
    encoder = encoder_of(folder) if manifest.sketch is not None else None
    return Kept(interface, encoder, said, manifest.steps, _front(folder, manifest))


def _front(folder: Path, manifest: Manifest) -> FrontFile | None:
    front = manifest.in_front
    if front is None:
        return None
    data = read_blob(folder, front.blob)
    return FrontFile(runtime=front.runtime, data=data, inputs=front.inputs, names=tuple(t.name for t in front.outputs))


def _of_hub(model: str) -> Kept:
    shown = _fleet("model", "show", "--json", "--", model)
    fixed = shown.get("interface")
    if fixed is None:
        return Kept(said=f"model {model} has no release yet: there is nothing to keep")
    number = int(fixed["release"])
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "release"
        _fleet("release", "download", "--out", str(out), "--json", "--", model, str(number))
        return _of_release(out, f"release {number} of {model}")


def _fleet(*arguments: str) -> dict[str, Any]:
    """The document that a `fleet` command prints; raises CompilerError with its words, hint and exit code."""
    try:
        done = subprocess.run([*FLEET, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        late = CompilerError(f"the hub gave no answer within {TIMEOUT_S:.0f} s", subject="--model")
        late.exit_code = Exit.LATE
        raise late from error
    if done.returncode:
        lines = dict(line.split(": ", 1) for line in done.stderr.splitlines() if line.startswith(("error: ", "try: ")))
        refused = CompilerError(
            f"the hub: {lines.get('error') or done.stderr.strip()[-300:]}", subject="--model", hint=lines.get("try", "")
        )
        refused.exit_code = done.returncode
        raise refused
    document: dict[str, Any] = msgspec.json.decode(done.stdout)
    return document
