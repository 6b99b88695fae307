"""`fleet sample`: what devices recorded, and its labels."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.output import print_document, print_items
from fleet.cli.session import JsonFlag, ModelOption, client_of, parse_pairs
from fleet.errors import NotFoundError

CLASS = re.compile(r"[0-9]{1,9}")  # ² and ٣ are digits, too, but no numbers that int() or the hub would take

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
    labels: Annotated[list[str] | None, typer.Argument(help="SAMPLE=CLASS pairs.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="A CSV file with lines SAMPLE,CLASS.")] = None,
    by: Annotated[str, typer.Option("--by", help="Who says so.")] = "operator",
    json: JsonFlag = False,
) -> None:
    """Write down the true class of samples, by number or name; labels outrank the auditor.

    Example: fleet sample label 01J8ZQ=7 --by ada
    """
    pairs = parse_pairs(labels or [])
    if file is not None:
        if not file.is_file():
            raise NotFoundError(f"no file {file}", subject=str(file))
        lines = [line.strip() for line in _text_of(file).splitlines()]
        pairs |= parse_pairs([line.replace(",", "=", 1) for line in lines if line])
    if not pairs:
        raise typer.BadParameter("give SAMPLE=CLASS pairs or --file")
    if "" in pairs.values():
        raise typer.BadParameter("a label is empty: write a class by its number or name, such as 7")
    given = {key: int(value) if CLASS.fullmatch(value) else value for key, value in pairs.items()}
    document = client_of(context).label_samples(given, by=by)
    print_document(document, [("labelled", "labelled"), ("by", "by")], json=json)


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{file} is not text in UTF-8; save it as UTF-8") from None


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
