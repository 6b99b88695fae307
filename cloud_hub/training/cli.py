"""`cloud-hub train`: run a recipe by hand; `model-compiler compile` takes it from there."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from cloud_hub.errors import InvalidError, UsageError
from cloud_hub.training.recipe import load_recipe
from fleet.console.arguments import Parser

if TYPE_CHECKING:
    from cloud_hub.samples.dataset import Dataset
    from cloud_hub.training.checking import Contract
    from cloud_hub.training.run_request import RunRequest


def main(arguments: Sequence[str]) -> None:
    """Parse, train, say what came of it. Errors are HubErrors."""
    from cloud_hub.training.run import run_training, write_data

    options = _parser().parse_args(list(arguments))
    if options.check and options.data_only:
        raise UsageError(
            "--check and --data-only exclude each other",
            subject="--check",
            hint="give one of them; a check writes nothing",
        )
    if options.check:
        _check(options.recipe, as_json=options.json)
        return
    if options.out is None:
        raise UsageError("--out is missing", subject="--out", hint="--out DIR, or --check to try the recipe only")
    request = _request(options)
    if options.data_only:
        rows = write_data(request)
        if not rows:  # not the first process of torchrun's
            return
        counts = " and ".join(f"{count} rows for {name}" for name, count in rows.items())
        print(json.dumps({"out": str(options.out), "rows": rows}) if options.json else f"{counts}; in {options.out}")
        return
    metrics = run_training(request)
    if not metrics:  # not the first process of torchrun's
        return
    if options.json:
        print(json.dumps({"out": str(options.out), "metrics": metrics}))
    else:
        said = ", ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        print(f"on the exam: {said}; in {options.out}")


def _request(options: argparse.Namespace) -> RunRequest:
    """The run that the command line asks for."""
    from cloud_hub.training.run_request import RunRequest

    model, snapshot = _snapshot(options.snapshot, options.hub)
    return RunRequest(
        loaded=load_recipe(options.recipe),
        out=options.out,
        seed=options.seed,
        snapshot=snapshot,
        contract=_contract(options.like, options.hub, options.model or model, options.snapshot),
        swap=_pair(options.swap_labels),
        progress=_show if sys.stderr.isatty() else lambda step, share: None,
    )


def _check(recipe: str, *, as_json: bool) -> None:
    """Rehearse the recipe and say what came of each step; raises InvalidError at the first that fails."""
    from cloud_hub.training.rehearsal import rehearse

    cached, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a check leaves nothing beside the recipe
    try:
        # The output of the recipe and of the exporters is no answer of this command.
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            steps = list(rehearse(load_recipe(recipe), Path(folder)))
    finally:
        sys.dont_write_bytecode = cached
    for step in steps if not as_json else ():
        if step.passed:
            print(f"{step.name}: {step.words}")
    if as_json:
        print(json.dumps({"recipe": recipe, "steps": [asdict(step) for step in steps]}))
    if not steps[-1].passed:
        raise InvalidError(f"{steps[-1].name}: {steps[-1].words}", subject=recipe, hint=steps[-1].hint)
    if not as_json:
        print(f"{recipe} is ready: cloud-hub train {recipe} --out DIR")


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="cloud-hub train",
        description="Train a recipe's teacher and distil its student.",
        epilog="Example: cloud-hub train examples.digits.recipe --out trained --seed 1",
    )
    parser.add_argument("recipe", help="a module's name or a .py file")
    parser.add_argument("--out", type=Path, help="directory to write; checkpoints in it are resumed")
    parser.add_argument("--check", action="store_true", help="try the recipe on a handful of rows; writes nothing")
    parser.add_argument(
        "--data-only", action="store_true", help="train nothing; write the rows of calibration and of the verdict"
    )
    parser.add_argument("--snapshot", default="", help="train on a snapshot as well: its id with --hub, else its file")
    parser.add_argument("--hub", type=Path, help="directory of the hub that keeps the snapshot, or the model")
    parser.add_argument("--model", default="", help="with --hub: train for this model, keep its interface")
    parser.add_argument(
        "--extends",
        "--like",
        dest="like",
        type=Path,
        help="an earlier release directory of the model: keep its interface",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--swap-labels", default="", help="A,B: exchange two classes' labels (makes a bad release)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser


def _snapshot(name: str, hub: Path | None) -> tuple[str, Dataset | None]:
    """The model and the content of a snapshot by id from a hub's directory; from its file, the model is not known."""
    from cloud_hub.samples.dataset import read_dataset

    if hub is None or not name:
        return "", read_dataset(Path(name)) if name else None
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.bootstrap import open_hub
    from cloud_hub.samples import snapshots
    from cloud_hub.store.tables import Model, Snapshot

    opened = open_hub(HubConfig.load(hub))
    dataset = snapshots.load(opened, name)
    with opened.reading() as session:
        row = session.get(Snapshot, name)
        known = row is not None and session.get(Model, row.model) is not None
    return row.model if row is not None and known else "", dataset


def _contract(like: Path | None, hub: Path | None, model: str, snapshot: str) -> Contract | None:
    """Return the contract that the run must keep, from a release directory or from a model of a hub."""
    if like is not None:
        return _contract_of_release(like)
    if hub is None:
        if model:
            raise InvalidError(
                "--model needs --hub", subject="--model", hint="add --hub DIR, or give --extends RELEASE_DIR"
            )
        return None
    if not model and snapshot:
        return None
    if not model:
        raise InvalidError(
            "--hub needs a snapshot or a model", subject="--hub", hint="add --snapshot ID or --model NAME"
        )
    from cloud_hub.config import HubConfig
    from cloud_hub.opening.bootstrap import open_hub
    from cloud_hub.training.handing import contract_of
    from cloud_hub.trust.rows import interface_release

    opened = open_hub(HubConfig.load(hub))
    with opened.reading() as session:
        current = interface_release(session, model)
    return contract_of(opened, model, current)


def _contract_of_release(folder: Path) -> Contract:
    from cloud_hub.training.checking import Contract
    from fleet.protocol.interface import interface_of
    from model_compiler.errors import CompilerError
    from model_compiler.inputs.release_folder import encoder_of, read_release

    try:
        manifest = read_release(folder)
        encoder = encoder_of(folder) if manifest.sketch is not None else None
    except CompilerError as error:
        raise InvalidError(str(error), subject=str(folder), hint=error.hint) from error
    return Contract(str(folder), f"the model's interface is that of {folder}", interface_of(manifest), encoder)


def _pair(text: str) -> tuple[int, int] | None:
    if not text:
        return None
    try:
        first, second = (int(part) for part in text.split(","))
    except ValueError:
        raise InvalidError(f"--swap-labels takes two classes, not {text!r}", subject="--swap-labels") from None
    return first, second


def _show(step: str, share: float) -> None:
    print(f"\r{step}: {share:4.0%}", end="" if share < 1 else "\n", file=sys.stderr, flush=True)
