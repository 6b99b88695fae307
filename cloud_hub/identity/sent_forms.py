"""A form is carried out once, however often it is sent: a double click, a reload, a second replica.

The page that shows a form gives it a random id. `claim` writes the id down before anything is done, `give_back` frees
it when the order was refused and has done nothing. In between lies what may have been done: such a form stays claimed.
"""

from __future__ import annotations

import re
import secrets

from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from cloud_hub.context import Hub
from cloud_hub.errors import ConflictError, InvalidError
from cloud_hub.store.tables import SentForm

LIFE_S = 2 * 86_400.0  # longer than a page can be used: its cookie ends first
AT_ONCE = 500  # old ids that one form clears away
ID = re.compile(r"[0-9a-f]{32}")


def new_form() -> str:
    """An id that nobody guesses."""
    return secrets.token_hex(16)


def claim(hub: Hub, form: str, *, actor: str) -> None:
    """Write down that a form is being carried out.

    Args:
        hub: the hub.
        form: the id that the page gave the form.
        actor: who sends it.

    Raises:
        InvalidError: this is no id. ConflictError: the form was sent before.
    """
    if not ID.fullmatch(form):
        raise InvalidError("this form has no id of its own", subject="form", hint="load the page again")
    now = hub.clock()
    old = select(SentForm.id).where(col(SentForm.at) < now - LIFE_S).limit(AT_ONCE).with_for_update(skip_locked=True)
    try:
        with hub.session() as session:
            session.execute(delete(SentForm).where(col(SentForm.id).in_(old)))
            session.add(SentForm(id=form, actor=actor, at=now))
    except IntegrityError:
        what = "this form was sent before, and is not carried out a second time"
        raise ConflictError(what, subject="form", hint="look what came of it, and begin anew if it is needed") from None


def give_back(hub: Hub, form: str) -> None:
    """Free a form whose order was refused: it may be corrected and sent again."""
    with hub.session() as session:
        row = session.get(SentForm, form)
        if row is not None:
            session.delete(row)
