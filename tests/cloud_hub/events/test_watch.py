"""A fault that nobody else would notice becomes an event: a part that stopped, a key or certificate that ends."""

from __future__ import annotations

from cloud_hub.events.standing import PATIENCE_S
from cloud_hub.events.watch import EndsWatch
from cloud_hub.monitoring.watch import HubWatch
from cloud_hub.ports import Part
from tests.support.hub import HubFixture
from tests.support.told import told

DAY_S = 86_400.0


def test_trouble_of_the_hub_is_told_though_its_first_telling_failed(hub: HubFixture, monkeypatch) -> None:
    watch, failed = HubWatch(hub.hub), {"objects": Part("failed", "it does not answer")}
    watch.look(failed)
    hub.clock.advance(PATIENCE_S)
    with monkeypatch.context() as patch:
        patch.setattr(type(hub.hub), "session", lambda self: 1 / 0)  # the database is away just now
        try:
            watch.look(failed)
        except ZeroDivisionError:
            assert told(hub.hub) == []
    watch.look(failed)
    watch.look(failed)
    watch.look({"objects": Part("ok")})
    assert told(hub.hub) == [("hub.trouble", "objects"), ("hub.recovered", "objects")]


def test_ends_are_told_at_each_distance_once_and_by_one_of_several_hubs(hub: HubFixture) -> None:
    watches = [EndsWatch(hub.hub), EndsWatch(hub.hub)]

    def tell() -> list[tuple[str, str]]:
        before = len(told(hub.hub))
        for watch in watches:
            watch.look()
        return told(hub.hub)[before:]

    assert tell() == []
    hub.clock.advance(306 * DAY_S)  # root and targets last a year
    assert {kind for kind, _ in tell()} == {"key.expiring"} and tell() == []
    hub.clock.advance(29 * DAY_S)
    first = tell()
    assert ("key.expiring", "root") in first and ("key.expiring", "targets") in first and tell() == []
    hub.clock.advance(480 * DAY_S)
    assert ("certificate.expiring", "server.pem") in tell()
