"""A person at the dashboard, over HTTP: opens a form, fills it in, sends it."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass
from typing import Any

from sqlmodel import col, select

from cloud_hub.store.tables import AuditEntry
from tests.support.hub import HubFixture

HIDDEN = re.compile(r'<input type="hidden" name="([^"]*)" value="([^"]*)">')
SENT = re.compile(r'<(?:input(?! type="hidden"| type="checkbox"| type="radio")|select|textarea)[^>]* name="([^"]*)"')


def text_of(page: str) -> str:
    """The text of a page, without its markup."""
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page)))


@dataclass
class Person:
    """Somebody who is logged in."""

    hub: HubFixture
    token: str = ""

    def __post_init__(self) -> None:
        self.client = type(self.hub.client)(self.hub.client.app, raise_server_exceptions=False)
        self.client.post("/login", data={"token": self.token or self.hub.admin_token})

    def open(self, path: str) -> Any:
        """The page with the form."""
        return self.client.get(path, follow_redirects=False)

    def hidden(self, page: str) -> dict[str, str]:
        """The hidden fields of the form; that of the act alone."""
        act = page[page.index('class="act"') :] if 'class="act"' in page else page
        return {name: html.unescape(value) for name, value in HIDDEN.findall(act)}

    def send(self, path: str, page: str = "", **fields: Any) -> Any:
        """Open the form, unless its `page` is given, fill it in and send it."""
        page = page or self.open(path).text
        data = self.hidden(page) | {name: str(value) for name, value in fields.items()}
        return self.client.post(path, data=data, follow_redirects=False)


def audited(hub: HubFixture, action: str) -> list[AuditEntry]:
    """The entries of an action, oldest first."""
    with hub.hub.reading() as session:
        return list(session.exec(select(AuditEntry).where(AuditEntry.action == action).order_by(col(AuditEntry.id))))
