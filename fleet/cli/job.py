"""`fleet job`: persistent long work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.output import JsonLines, print_document, print_items, print_note
from fleet.cli.session import JsonFlag, Session, SinceOption, TimeoutOption, client_of, session_of
from fleet.errors import FailedError

if TYPE_CHECKING:
    from fleet.api.jobs import JobInfo

app = typer.Typer(name="job", help="Jobs: long work that workers do, such as a retrain.", no_args_is_help=True)
ENDED = ("succeeded", "failed", "cancelled")
COLUMNS = [
    ("job", "id"),
    ("kind", "kind"),
    ("model", "model"),
    ("state", "state"),
    ("step", "step"),
    ("progress", "progress"),
    ("created", "created_at"),
    ("error", "error"),
]
JobArgument = Annotated[str, typer.Argument(help="The job's id.")]


@app.command("list")
def list_(
    context: typer.Context,
    since: SinceOption = "",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most this many jobs.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List jobs, newest first.

    Example: fleet job list --since 7d
    """
    session = session_of(context)
    jobs = session.client.jobs(limit=limit, since=session.since(since))
    print_items(jobs, COLUMNS, json=json, empty="no jobs")


@app.command("show")
def show(context: typer.Context, job: JobArgument, json: JsonFlag = False) -> None:
    """Show one job with its result.

    Example: fleet job show 01J8ZQ
    """
    print_document(client_of(context).job(job), [*COLUMNS, ("result", "result")], json=json)


@app.command("watch")
def watch(context: typer.Context, job: JobArgument, timeout: TimeoutOption = 3600.0, json: JsonFlag = False) -> None:
    """Follow a job until it ends; exit code 1 when it failed, 8 on a timeout.

    Example: fleet job watch 01J8ZQ
    """
    watch_job(session_of(context), job, timeout_s=timeout, json=json, lines=json)


@app.command("log")
def log(context: typer.Context, job: JobArgument, json: JsonFlag = False) -> None:
    """Print what a job's recipe has printed, the last MiB of it, once it has ended.

    Example: fleet job log 01J8ZQ
    """
    found = client_of(context).job_log(job)
    if json:
        print_document(found, [("job", "job"), ("text", "text")], json=True)
    else:
        typer.echo(found.text, nl=False)


@app.command("cancel")
def cancel(context: typer.Context, job: JobArgument, json: JsonFlag = False) -> None:
    """Ask a job to stop; a recipe that hangs is ended within seconds.

    Example: fleet job cancel 01J8ZQ
    """
    print_document(client_of(context).cancel_job(job), COLUMNS, json=json)


def watch_job(session: Session, job: str, *, timeout_s: float, json: bool, lines: bool = False) -> None:
    """Follow `job`, with each change as a line of JSON if `lines`; raises FailedError when it did not succeed."""
    tell = JsonLines() if lines else None
    shown: set[tuple[str, str]] = set()

    def show_step(found: JobInfo) -> None:
        if tell is not None:
            tell(found)
        if (found.state, found.step) not in shown:
            shown.add((found.state, found.step))
            print_note(f"{found.state}: {found.step or 'no step yet'} ({found.progress:.0%})")

    document = session.follow(
        lambda: session.client.job(job),
        ended=ENDED,
        show=show_step,
        timeout_s=timeout_s,
        subject=f"job {job}",
    )
    if not lines:
        print_document(document, [*COLUMNS, ("result", "result")], json=json)
    if document.state != "succeeded":
        raise FailedError(
            f"job {job} {document.state}: {document.error or 'no reason given'}",
            subject=job,
            hint=f"fleet job show {job} --json",
        )
