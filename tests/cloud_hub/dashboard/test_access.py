"""The page of tokens costs by what it shows, though every device has enrolled by a token of its own."""

from __future__ import annotations

import pytest

from cloud_hub.dashboard.views import access
from cloud_hub.store.tables import Token
from tests.support.hub import HubFixture


def test_tokens_that_devices_have_enrolled_by_are_counted_and_not_listed(
    hub: HubFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(access, "TOKENS", 3)
    now = hub.clock()
    with hub.hub.session() as session:
        for n in range(9):
            used, ended = ("d" if n < 6 else ""), (now - 1 if n == 8 else None)
            fields = {"secret_hash": "x", "channel": "stable", "created_at": now + n, "kind": "claim"}
            session.add(Token(id=f"t{n}", device_id=used, expires_at=ended, **fields))
    view = access.access_page(hub.hub, tokens=True)
    assert [one.id for one in view.tokens][:2] == ["t7", "t6"] and "t8" not in [one.id for one in view.tokens]
    assert (len(view.tokens), view.others) == (3, 7)
    assert access.access_page(hub.hub, tokens=False).tokens == []
    hub.client.post("/login", data={"token": hub.admin_token})
    assert "7 tokens more" in hub.client.get("/access").text
