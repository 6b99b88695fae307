"""`fleet retrain`: train, gate, compile, gate, publish, roll out."""

from __future__ import annotations

from typing import Annotated

import typer

from fleet.cli.job import COLUMNS, watch_job
from fleet.cli.output import print_document
from fleet.cli.session import JsonFlag, TimeoutOption, body_of, client_of, session_of


def retrain(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the model.")],
    snapshot: Annotated[str, typer.Option("--snapshot", help="The dataset; a new one when left out.")] = "",
    channel: Annotated[str, typer.Option("--channel", help="Roll out on this channel.")] = "",
    stages: Annotated[str, typer.Option("--stages", help="Stages of the rollout in per cent.")] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Follow the job until it ends.")] = False,
    timeout: TimeoutOption = 3600.0,
    json: JsonFlag = False,
) -> None:
    """Start a retrain job: train on a snapshot, gate, compile, publish, and roll out on a channel.

    Example: fleet retrain digits --channel stable --stages 10,50,100
    """
    from fleet.api.jobs import RetrainOptions
    from fleet.api.rollouts import RolloutOptions
    from fleet.cli.planning import parse_stages

    rollout = body_of(RolloutOptions, stages=parse_stages(stages)) if stages else None
    options = body_of(RetrainOptions, snapshot=snapshot or None, channel=channel or None, rollout=rollout)
    job = client_of(context).retrain(name, options)
    if wait:
        watch_job(session_of(context), job.id, timeout_s=timeout, json=json)
    else:
        print_document(job, COLUMNS, json=json)
