"""`fleet sample`: what devices recorded, and its labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.label_files import label_of, read_labels
from fleet.cli.output import print_document, print_items
from fleet.cli.session import JsonFlag, ModelOption, client_of, parse_pairs

app = typer.Typer(name="sample", help="Samples: recorded inputs, their answers and labels.", no_args_is_help=True)
COLUMNS = [
    ("sample", "id"),
    ("device", "device_id"),
    ("release", "release"),
    ("reason", "reason"),
    ("at", "at"),
    ("confidence", "confidence"),
    ("edge said", "prediction"),
    ("cloud said", "cloud_prediction"),
    ("label", "label"),
]


@app.command("list")
def list_(
    context: typer.Context,
    model: ModelOption,
    reason: Annotated[str, typer.Option("--reason", help="uncertain, disagreeing, outlying or random.")] = "",
    labelled: Annotated[bool | None, typer.Option("--labelled/--unlabelled", help="Only with (without) label.")] = None,
    limit: Annotated[int, typer.Option("--limit", help="At most this many.")] = 100,
    json: JsonFlag = False,
) -> None:
    """List samples.

    Example: fleet sample list --model digits --unlabelled
    """
    samples = list(client_of(context).samples(model=model, reason=reason, labelled=labelled, limit=limit))
    print_items(samples, COLUMNS, json=json, empty=f"no samples of {model}; fleet channel set C --sampling turns it on")


@app.command("export")
def export(
    context: typer.Context,
    model: ModelOption,
    out: Annotated[Path, typer.Option("--out", "-o", help="The Parquet file to write.")],
    json: JsonFlag = False,
) -> None:
    """Write every sample of a model to a Parquet file.

    Example: fleet sample export --model digits --out digits.parquet
    """
    data = client_of(context).export_samples(model)
    out.write_bytes(data)
    print_document({"file": str(out), "bytes": len(data)}, [("file", "file"), ("bytes", "bytes")], json=json)


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
