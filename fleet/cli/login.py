"""`fleet login`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleet.cli.output import print_document, print_note
from fleet.cli.session import JsonFlag, session_of


def login(
    context: typer.Context,
    url: Annotated[str, typer.Argument(help="The hub's address.")],
    token: Annotated[str, typer.Option("--token", help="An operator token; `-` reads it from standard input.")],
    ca: Annotated[
        Path | None, typer.Option("--ca", help="The hub's own CA certificate (PEM), when it has one.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Store a hub's address and an operator token, after trying them.

    Example: fleet login https://127.0.0.1:8080 --token el1.… --ca hub/keys/ca.pem
    """
    from fleet.cli.config import HubLogin, config_path, save_login

    session = session_of(context)
    from_stdin = token == "-"  # noqa: S105  (a dash is no secret)
    text = typer.get_text_stream("stdin").readline().strip() if from_stdin else token
    chosen = HubLogin(url=url, token=text, ca=str(ca.resolve()) if ca else "")
    session.open(chosen).models()
    path = config_path(session.environment)
    save_login(path, chosen)
    print_document({"hub": url, "config": str(path)}, [("hub", "hub"), ("config", "config")], json=json)
    if not json:
        print_note("logged in")
