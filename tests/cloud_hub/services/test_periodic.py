"""The time that looks of a periodic service took is where Prometheus reads it."""

from __future__ import annotations

from cloud_hub.services.periodic import PeriodicService
from tests.support.statements import counted


class Busy(PeriodicService):
    name = "busy-for-a-test"

    def look(self) -> None:
        sum(range(1000))


def test_looks_are_counted_with_their_time_and_those_of_another_replicas_turn_are_not(hub):
    one, other = (Busy(hub.hub, 1.0) for _ in range(2))
    for service in (one, one, other):  # the first holds the lease
        service.step()
    text = hub.client.get("/metrics", headers=hub.auth()).text
    for name in ("edgeloop_hub_look_seconds", "edgeloop_hub_look_cpu_seconds"):
        assert f'{name}_count{{service="busy-for-a-test"}} 2.0' in text
        (spent,) = [line.split()[1] for line in text.splitlines() if line.startswith(f'{name}_sum{{service="busy-for')]
        assert 0 < float(spent) < 60


def test_a_lease_is_written_when_a_third_of_it_has_passed_and_another_has_it_once_it_is_over(hub):
    one, other = (Busy(hub.hub, 1.0) for _ in range(2))
    one.step()
    with counted(hub.hub.engine) as within:
        for _ in range(9):
            hub.clock.advance(1.0)
            one.step()
    assert within.statements == 0
    hub.clock.advance(1.0)
    with counted(hub.hub.engine) as renewed:
        one.step()
    assert renewed.statements > 0
    hub.clock.advance(29.0)
    other.step()
    assert other._renewed_at is None  # still another's
    hub.clock.advance(2.0)
    other.step()
    one.step()
    assert (other._renewed_at, one._renewed_at) == (hub.clock(), None)
