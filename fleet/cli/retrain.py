"""`fleet retrain`: train, gate, compile, gate, publish, roll out."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.job import COLUMNS, watch_job
from fleet.cli.output import print_document
from fleet.cli.session import JsonFlag, TimeoutOption, body_of, client_of, session_of
from fleet.cli.tune import HyperOption, hyper_of
from fleet.errors import UsageError

UNITS = {"k": 1_000, "m": 1_000_000}


def retrain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    snapshot: Annotated[str, typer.Option("--snapshot", help="The dataset; a new one when left out.")] = "",
    channel: Annotated[str, typer.Option("--channel", help="Roll out on this channel.")] = "",
    stages: Annotated[str, typer.Option("--stages", help="Stages of the rollout in per cent.")] = "",
    guard: Annotated[str, typer.Option("--guard", help="JSON: settings of the rollout's guard.")] = "",
    max_bytes: Annotated[
        str, typer.Option("--max-bytes", help="What a device may fetch for the new release, such as 8k or 1M.")
    ] = "",
    hyper: HyperOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    timeout: TimeoutOption = 3600.0,
    json: JsonFlag = False,
) -> None:
    """Start a retrain job: train on a snapshot, gate, compile, publish, and roll out on a channel.

    With --max-bytes, only as many weights change as fit into the patch; the job is refused where nothing does.

    Example: fleet retrain digits --channel stable --stages 10,50,100 --max-bytes 8k
    """
    from fleet.api.jobs import RetrainOptions
    from fleet.api.rollouts import RolloutOptions
    from fleet.cli.planning import guard_of, parse_stages

    if (stages or guard) and not channel:
        raise UsageError("a rollout needs a channel", subject="--channel", hint="add --channel NAME")
    rollout = None
    if stages or guard:
        wanted = parse_stages(stages) if stages else None
        rollout = body_of(RolloutOptions, stages=wanted, guard=guard_of(guard) or None)
    options = body_of(
        RetrainOptions,
        snapshot=snapshot or None,
        channel=channel or None,
        rollout=rollout,
        max_bytes=_bytes_of(max_bytes) if max_bytes else None,
        hyper=hyper_of(hyper),
    )
    job = client_of(context).retrain(name, options)
    if wait:
        watch_job(session_of(context), job.id, timeout_s=timeout, json=json)
    else:
        print_document(job, COLUMNS, json=json)


def _bytes_of(text: str) -> int:
    """Bytes of a size such as 8k, 1.5M or 900 (k is 1,000)."""
    number, unit = (text[:-1], text[-1].lower()) if text[-1].lower() in UNITS else (text, "")
    try:
        found = float(number) * UNITS.get(unit, 1)
    except ValueError:
        found = 0.0
    if not 1 <= found < 2**31:
        raise UsageError(f"{text!r} is no size", subject="--max-bytes", hint="such as 8k (8,000 bytes) or 1M")
    return int(found)
