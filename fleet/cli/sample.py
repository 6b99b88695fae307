"""`fleet sample`: what devices recorded, and its labels."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleet.cli.answered import ANSWERED
from fleet.cli.label_files import label_of, read_each, read_labels
from fleet.cli.label_studio import read_studio
from fleet.cli.label_tasks import send_each, write_tasks
from fleet.cli.output import Column, print_document, print_items, print_json, print_note
from fleet.cli.session import JsonFlag, ModelOption, client_of, parse_pairs

if TYPE_CHECKING:
    from fleet.api.samples import SampleInfo

app = typer.Typer(name="sample", help="Samples: recorded inputs, their answers and labels.", no_args_is_help=True)
SinceAlarmOption = Annotated[
    bool, typer.Option("--since-alarm", help="Only from after the shift that the newest open alarm names.")
]


class ExportFormat(StrEnum):
    """The formats that `export` writes."""

    parquet = "parquet"
    label_studio = "label-studio"
    csv = "csv"


class ImportFormat(StrEnum):
    """The formats that `import` reads."""

    label_studio = "label-studio"
    csv = "csv"


RANKED: list[Column] = [
    ("sample", "id"),
    ("device", "device_id"),
    ("release", "release"),
    ("reason", "reason"),
    ("at", "at"),
    *ANSWERED,
    ("worth", "worth"),
    ("wrong", "wrong"),
    ("unlike", "unlike"),
]
COLUMNS: list[Column] = [
    ("sample", "id"),
    ("device", "device_id"),
    ("release", "release"),
    ("reason", "reason"),
    ("at", "at"),
    *ANSWERED,
    ("label", "label"),
]


@app.command("list")
def list_(
    context: typer.Context,
    model: ModelOption,
    reason: Annotated[str, typer.Option("--reason", help="uncertain, disagreeing, outlying or random.")] = "",
    labelled: Annotated[bool | None, typer.Option("--labelled/--unlabelled", help="Only with (without) label.")] = None,
    device: Annotated[str, typer.Option("--device", help="Only those from this device.")] = "",
    limit: Annotated[int, typer.Option("--limit", help="At most this many.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List samples.

    Example: fleet sample list --model digits --unlabelled
    """
    found = client_of(context).samples(model=model, device=device, reason=reason, labelled=labelled, limit=limit)
    samples = list(found)
    print_items(samples, COLUMNS, json=json, empty=f"no samples of {model}; fleet channel set C --sampling turns it on")


@app.command("rank")
def rank(
    context: typer.Context,
    model: ModelOption,
    count: Annotated[int, typer.Option("--count", min=1, max=1000, help="At most this many.")] = 50,
    since_alarm: SinceAlarmOption = False,
    json: JsonFlag = False,
) -> None:
    """List what to label, the most useful first.

    Those that the model is unsure or likely wrong about, and that are unlike what has a label; near repeats are out.
    So are samples drawn at random: their labels say how right the model is, and choosing among them would falsify it.

    Example: fleet sample rank --model digits --count 20
    """
    found = client_of(context).ranked_samples(model, count=count, since_alarm=since_alarm)
    if json:
        print_json(found)
        return
    print_items(found.items, RANKED, json=False, empty=f"no sample of {model} to choose")
    words = f"{found.candidates} samples without a label were looked at; {found.repeats} are near repeats"
    words += f"; {found.random} drawn at random are left out: label these as they come" if found.random else ""
    print_note(
        words + (f"; {found.unread} were not read (no data, other inputs, or too many bytes)" if found.unread else "")
    )


@app.command("export")
def export(
    context: typer.Context,
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to write.")],
    format_: Annotated[ExportFormat, typer.Option("--format", help="What to write.")] = ExportFormat.parquet,
    ranked: Annotated[
        int | None, typer.Option("--ranked", min=1, max=1000, help="Only so many that are worth a label most.")
    ] = None,
    since_alarm: SinceAlarmOption = False,
    json: JsonFlag = False,
) -> None:
    """Write every sample of a model to a Parquet file, or those without a label as tasks for people.

    Label Studio's tasks hold a picture, a sound, values over time, a table or text, and a file beside them has the
    labelling configuration of the model's task; a CSV file has an empty column `label`.

    Example: fleet sample export --model digits --format label-studio --ranked 50 --out tasks.json
    """
    client = client_of(context)
    if format_ == ExportFormat.parquet:
        if ranked is not None or since_alarm:
            raise typer.BadParameter("--ranked and --since-alarm go with --format label-studio or csv")
        data = client.export_samples(model)
        out.write_bytes(data)
        print_document({"file": str(out), "bytes": len(data)}, [("file", "file"), ("bytes", "bytes")], json=json)
        return
    if since_alarm and ranked is None:
        raise typer.BadParameter("--since-alarm goes with --ranked")
    samples: Iterable[SampleInfo] = (
        client.samples(model=model, labelled=False)
        if ranked is None
        else client.ranked_samples(model, count=ranked, since_alarm=since_alarm).items
    )
    advice = iter(["; --ranked 50 writes only those that are worth a label most"] if ranked is None else [])
    studio = format_ == ExportFormat.label_studio
    written = write_tasks(
        client, samples, studio=studio, hear=lambda done: print_note(f"{done} samples so far" + next(advice, ""))
    )
    out.write_text(written.text, encoding="utf-8", newline="")
    document: dict[str, object] = {"file": str(out), "samples": written.samples, "gone": written.gone}
    if written.config:
        config = out.with_suffix(".xml")
        config.write_text(written.config, encoding="utf-8")
        document["config"] = str(config)
    columns = [("file", "file"), ("samples", "samples"), ("gone meanwhile", "gone")]
    print_document(document, [*columns, *([("configuration", "config")] if written.config else [])], json=json)
    if written.cut and not studio:
        print_note(
            f"inputs of {written.cut} samples are more than a cell holds, and end with …: --format parquet has all"
        )


@app.command("import")
def import_(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Label Studio's export (JSON), or a CSV file with a heading.")],
    format_: Annotated[ImportFormat, typer.Option("--format", help="What it is.")],
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "operator",
    json: JsonFlag = False,
) -> None:
    """Write down the labels in a file, each by itself: one that is refused takes no other along (exit code 1).

    Of Label Studio: choices, numbers, rectangles and text, as the task wants them. What cannot be meant is named.

    Example: fleet sample import project.json --format label-studio --by ada
    """
    read = read_each(file) if format_ == ImportFormat.csv else read_studio(file)
    sent = send_each(client_of(context), read.labels, by=by)
    refused = [*read.refused, *sent.refused]
    document = {
        "labelled": sent.labelled,
        "without": read.without,
        "refused": refused,
        "untried": sent.untried,
        "by": by,
    }
    shown = {**document, "refused": len(refused)}
    columns = [(name, name) for name in ("labelled", "without", "refused", "untried", "by")]
    print_document(document if json else shown, columns, json=json)
    for why in refused:
        print_note(f"refused: {why}")
    if refused:
        raise typer.Exit(1)


@app.command("label")
def label(
    context: typer.Context,
    labels: Annotated[list[str] | None, typer.Argument(help="SAMPLE=VALUE, SAMPLE=NAME or SAMPLE=@FILE.json.")] = None,
    file: Annotated[
        Path | None, typer.Option("--file", "-f", help="A CSV file of samples and labels, or a JSON object.")
    ] = None,
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "operator",
    json: JsonFlag = False,
) -> None:
    """Write down what is true of samples, as the model's task says it; labels outrank the auditor.

    A class by number or name, a number, 1 for an anomaly, text; or JSON: a list of classes or numbers, boxes. Text in
    quotes, as JSON has it, is always a name. A CSV file has lines SAMPLE,LABEL, or a heading: `sample,label`, or
    `sample` and a column for each class (1 and 0) or each value.

    Example: fleet sample label 01J8ZQ=7 01J8ZR=3.25 01J8ZS='["person", "dog"]' 01J8ZT=@boxes.json --by ada
    """
    given = {sample: label_of(text) for sample, text in parse_pairs(labels or []).items()}
    if file is not None:
        given |= read_labels(file)
    if not given:
        raise typer.BadParameter("give SAMPLE=VALUE pairs or --file")
    document = client_of(context).label_samples(given, by=by)
    print_document(document, [("labelled", "labelled"), ("by", "by")], json=json)


@app.command("delete")
def delete(
    context: typer.Context,
    sample: Annotated[str, typer.Argument(help="The sample's id.")],
    json: JsonFlag = False,
) -> None:
    """Delete a sample for good.

    Example: fleet sample delete 01J8ZQ
    """
    client_of(context).delete_sample(sample)
    print_document({"id": sample, "deleted": True}, [("sample", "id"), ("deleted", "deleted")], json=json)
