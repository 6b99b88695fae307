"""`fleet device samples`: ask a device for samples, and see those that came from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleet.cli.commanding import ask_device
from fleet.cli.device_commands import DeviceArgument
from fleet.cli.output import print_document, print_items, print_note
from fleet.cli.sample import COLUMNS
from fleet.cli.session import JsonFlag, ModelOption, TimeoutOption, parse_seconds, session_of
from fleet.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from fleet.cli.session import Session

MIB = 1 << 20
WILL = [
    ("model", "model"),
    ("samples at most", "samples"),
    ("bytes at most", "max_bytes"),
    ("until", "until"),
    ("redacted", "redacted"),
]


def samples(
    context: typer.Context,
    device: DeviceArgument,
    model: ModelOption,
    count: Annotated[int | None, typer.Option("--ask", min=1, max=1000, help="Let it record this many.")] = None,
    during: Annotated[str, typer.Option("--for", help="With --ask: within this time, such as 15m, 6h.")] = "1h",
    mib: Annotated[int, typer.Option("--max-mib", min=1, max=256, help="With --ask: at most so many MiB.")] = 4,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write those that came to this Parquet file.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="List at most this many.")] = 100,
    timeout: TimeoutOption = 60.0,
    json: JsonFlag = False,
) -> None:
    """List the samples that came from a device, write them to a file, or ask for more.

    A device is asked only where its channel samples the model. They are drawn over the time given; the channel's
    retention, the day's bytes and the device's own redaction hold for them. Its application has to send requests.

    Example: fleet device samples kiosk-7 --model digits --ask 50 --for 6h
    """
    session = session_of(context)
    if count is not None:
        if out is not None:
            raise typer.BadParameter("--ask and --out do not go together: samples come over time")
        refuse_unsampled(session, device, model)
        wanted = {"model": model, "count": count, "max_bytes": mib * MIB, "seconds": parse_seconds(during)}
        will = ask_device(session, device, "send-samples", wanted, timeout_s=timeout).data
        print_document(_told(will), WILL, json=json)
        print_note(f"see those that have come: fleet device samples {device} --model {model}")
    elif out is not None:
        data = session.client.export_samples(model, device=device)
        out.write_bytes(data)
        print_document({"file": str(out), "bytes": len(data)}, [("file", "file"), ("bytes", "bytes")], json=json)
    else:
        found = list(session.client.samples(model=model, device=device, limit=limit))
        print_items(found, COLUMNS, json=json, empty=f"no samples of {model} from {device}; --ask N asks for some")


def refuse_unsampled(session: Session, device: str, model: str) -> None:
    """Raise ConflictError where the device's channel does not sample the model, NotFoundError where it has none."""
    channel = session.client.device(device).channel
    entry = session.client.channel(channel).document.models.get(model)
    if entry is None:
        hint = f"fleet channel show {channel}"
        raise NotFoundError(f"channel {channel!r}, which {device} follows, has no model {model!r}", hint=hint)
    if not entry.sampling.enabled:
        raise ConflictError(
            f"channel {channel!r} samples nothing of {model!r}, so no device is asked for inputs of it",
            subject=model,
            hint=f"if its inputs may be recorded: fleet channel set {channel} --model {model} --sampling",
        )


def _told(will: Mapping[str, Any]) -> dict[str, Any]:
    """Return the device's announcement, reduced to the fields that a table shows."""
    return {key: will.get(key) for _, key in WILL}
