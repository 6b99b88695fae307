"""A command to a device, and what it has answered."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.devices import answers

router = APIRouter(prefix="/devices", include_in_schema=False)
LINES = 1000  # of a log
SHOWN = 50_000  # characters of an answer


@router.get("/{device_id}/commands/{command}")
def show(device_id: KeyPath, command: KeyPath, frame: Framed) -> Response:
    """The command and how it stands; the page waits for the answer."""
    found = answers.command_of(frame.hub, device_id, command)
    data = found.answer.data if found.answer is not None else {}
    return frame.show("command.html", command=found, lines=log_lines(data), text=in_words(data))


def log_lines(data: dict[str, Any]) -> list[str]:
    """The lines of a log that a device has sent; none of another answer, whatever the device made of it."""
    lines = data.get("lines")
    found = [line for line in lines if isinstance(line, dict)] if isinstance(lines, list) else []
    return [
        f"{line.get('level', '')} {line.get('name', '')}: {line.get('text', '')}"[:SHOWN] for line in found[-LINES:]
    ]


def in_words(data: dict[str, Any]) -> str:
    """An answer as it came, indented."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    return text if len(text) <= SHOWN else text[:SHOWN] + "\n…"
