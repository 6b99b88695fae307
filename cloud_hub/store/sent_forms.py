"""The table of the dashboard's forms that were sent, so that none is carried out twice."""

from __future__ import annotations

from sqlmodel import Field, SQLModel


class SentForm(SQLModel, table=True):
    """A form by the random id that its page was made with; `actor` sent it at `at` (Unix seconds)."""

    __tablename__ = "sent_form"

    id: str = Field(primary_key=True)
    actor: str
    at: float = Field(index=True)
