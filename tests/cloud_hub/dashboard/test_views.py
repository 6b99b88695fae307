"""The content of the pages, computed: drawings, money, lineage, and the words around them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloud_hub.config import HubConfig
from cloud_hub.config_tables import PricesConfig
from cloud_hub.dashboard import words
from cloud_hub.dashboard.pages.audit import beginning_of
from cloud_hub.dashboard.views import charts, lineage, traffic
from cloud_hub.dashboard.views.devices import device_page
from cloud_hub.dashboard.views.drift import drift_page
from cloud_hub.dashboard.views.overview import overview
from cloud_hub.dashboard.views.rollouts import loss_of, stages_of, verdict_in
from cloud_hub.dashboard.views.troubles import troubles
from cloud_hub.errors import InvalidError, NotFoundError
from cloud_hub.ports import Part
from cloud_hub.rollouts import orders
from tests.support import shown_fleet
from tests.support.hub import HubFixture, make_hub
from tests.support.shown_fleet import HALTED, MODEL, OTHER, REASON, RUNNING, name_of

DAY, HOUR = 86_400, 3600


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> HubFixture:
    hub = make_hub(tmp_path_factory.mktemp("views"), prices={"currency": "EUR", "per_1000_calls": 2.0})
    shown_fleet.lay(hub)
    return hub


def test_bars_stand_on_each_other_and_within_the_drawing() -> None:
    columns = {0: {"a": 30, "b": 10}, DAY: {"a": 0, "b": 40}, 9 * DAY: {"a": 7}}
    chart = charts.stacked(columns, ("a", "b"), begins=0, ends=2 * DAY, span_s=DAY)
    first, second, third = chart.bars
    assert [bar.kind for bar in chart.bars] == ["a", "b", "b"] and chart.up[-1].text == "50"
    assert first.y + first.height == pytest.approx(chart.floor) and second.y + second.height == pytest.approx(first.y)
    assert third.height == pytest.approx(first.height + second.height) and third.x > second.x
    assert all(chart.left <= bar.x and bar.x + bar.width <= chart.width and bar.y >= 0 for bar in chart.bars)
    assert [tick.text for tick in chart.across] == ["%H:%M"] * 8
    assert charts.stacked({}, ("a",), begins=0, ends=30 * DAY, span_s=DAY).bars == []


def test_an_axis_ends_at_a_number_that_reads_well() -> None:
    assert [charts.ceiling(n) for n in (0, 1, 3, 10, 11, 51, 99_000)] == [1, 1, 5, 10, 20, 100, 100_000]
    assert [charts.short(n) for n in (0, 0.5, 250, 1200, 3e6, 2e9)] == ["0", "0.5", "250", "1.2k", "3M", "2G"]


def test_the_clouds_part_costs_what_prices_say_and_nothing_without_any() -> None:
    prices = PricesConfig(currency="EUR", per_1000_calls=0.5, per_gigabyte=2.0)
    assert traffic.cost(4000, 250_000, prices) == pytest.approx(2.0 + 2.0)
    assert traffic.cost(4000, None, prices) is None and traffic.cost(4000, 1, PricesConfig()) is None
    assert traffic.cost(4000, None, PricesConfig(per_1000_calls=0.5)) == 2.0
    assert traffic.in_money(1234.5, prices) == "1,234.50 EUR" and traffic.in_money(None, prices) == ""


@pytest.mark.parametrize(
    "wrong", [{"per_1000_calls": -1}, {"per_gigabyte": "nan"}, {"per_call": 1}, {"currency": "x" * 9}]
)
def test_prices_that_mean_nothing_are_refused_by_name(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidError, match="prices"):
        HubConfig.build(tmp_path, {"prices": wrong})


def test_a_week_of_traffic_is_summed_up_by_model_with_its_cost(fleet: HubFixture) -> None:
    view = traffic.traffic_view(fleet.hub, 7)
    belt, speech = view.models
    assert (belt.model, speech.model) == (MODEL, OTHER) and belt.failed > belt.refused > 0 == speech.failed
    assert belt.calls > belt.cloud > 0
    assert belt.cost == f"{belt.calls / 500:,.2f} EUR" and view.total.endswith(" EUR")
    assert belt.bytes == f"about {words.size(belt.calls * (64 + 10) * 4)}"
    assert len({bar.x for bar in view.chart.bars}) == 7


def test_what_is_wrong_comes_first_and_says_why(fleet: HubFixture) -> None:
    found = troubles(fleet.hub, {"broker": Part("failed", "connection refused"), "database": Part("ok")})
    told = [(one.kind, one.level) for one in found]
    assert told == sorted(told, key=lambda pair: pair[1] != "bad") and found[0].what == "the hub's broker"
    by_kind = {one.kind: one for one in found if one.kind != "device"}
    assert by_kind["rollout"].why == REASON and by_kind["rollout"].href == f"/rollouts/{HALTED}"
    assert by_kind["job"].why.startswith("the gate refuses it") and "not watched" in by_kind["drift"].what
    assert by_kind["alarm"].what.endswith("inputs have moved on 10 of 60 devices, in site=berlin")
    assert by_kind["requests"].what.startswith(f"{MODEL}: ")
    devices = [one for one in found if one.kind == "device"]
    assert f"2 devices: selftest-failed ({MODEL})" in [one.what for one in devices] and all(one.todo for one in devices)


def test_a_halt_is_no_trouble_once_the_next_rollout_goes_on(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    shown_fleet.lay(hub, 2)
    with hub.hub.session() as session:
        row = session.get_one(shown_fleet.RolloutRow, RUNNING)
        row.channel = "stable"
        session.add(row)
    assert [one.kind for one in troubles(hub.hub, {}) if one.kind == "rollout"] == []


def test_an_empty_hub_has_no_trouble(hub: HubFixture) -> None:
    view = overview(hub.hub, {})
    assert (view.troubles, view.fleet, view.traffic.models) == ([], 0, [])


def test_releases_are_drawn_from_snapshot_to_devices(fleet: HubFixture) -> None:
    with fleet.hub.reading() as session:
        found = lineage.origins(session, MODEL)
    graph = lineage.draw(MODEL, found)
    assert [one.number for one in found] == [1, 2, 3, 4] and dict(found[1].serving) == {"stable": 48}
    columns = {node.x for node in graph.nodes}
    assert len(columns) == 4 and all(0 <= node.y <= graph.height - lineage.TALL for node in graph.nodes)
    assert len({(node.x, node.y) for node in graph.nodes}) == len(graph.nodes) == 2 + 4 + 2 + 2
    assert sum(edge.kind == "parent" for edge in graph.edges) == 3
    assert "served by 48 devices of stable" in graph.sentences[1] and "beta's auditor" in graph.sentences[0]
    assert lineage.draw(MODEL, []).nodes == []


def test_a_device_has_its_month_and_its_findings(fleet: HubFixture) -> None:
    view = device_page(fleet.hub, name_of(3), month=True)
    assert [one.what for one in view.findings] == [f"model {MODEL}: selftest-failed"] and view.asked_at is None
    assert view.month is not None and len({bar.x for bar in view.month.bars}) == 30
    assert [entry.action for entry in view.audit] == ["device.change"]
    assert [one.title for one in view.machine_month] == [
        "Busy share of its cores",
        "Share that is free",
        "Hottest sensor",
    ]
    without = device_page(fleet.hub, name_of(3), month=False)
    assert without.month is None and without.machine_month == []
    assert device_page(fleet.hub, name_of(4), month=True).machine_month == []
    with pytest.raises(NotFoundError):
        device_page(fleet.hub, "none", month=True)


def test_lines_break_where_nothing_is_known_and_hold_what_is_below_zero() -> None:
    axis = charts.Axis(0, 10 * 3600, 50.0, lambda value: f"{value:.0f}")
    series = {"one": {0: 10.0, 3600: 20.0, 5 * 3600: -3.0, 99 * 3600: 70.0}, "none": {}}
    found = charts.drawn(series, axis, span_s=3600)
    one, none = found.curves
    assert [len(run.split()) for run in one.runs] == [4, 2] and none.runs == []
    places = [float(point.split(",")[1]) for run in one.runs for point in run.split()]
    assert places[0] == places[1] > places[2] and min(places) >= charts.TOP and max(places) < found.floor
    assert [tick.text for tick in found.up] == ["-5", "22", "50"] and found.summary == "one -3 to 20"


def test_a_rollout_says_what_it_loses_and_when_it_is_judged(fleet: HubFixture) -> None:
    halted, running = orders.show_rollout(fleet.hub, HALTED), orders.show_rollout(fleet.hub, RUNNING)
    assert loss_of(halted) == "3.2 points (at most 6.4)" and verdict_in(halted) == ""
    assert verdict_in(running).startswith("in about ") and "come per hour" in verdict_in(running)
    assert stages_of(halted) == [("10 %", "lost"), ("50 %", "open"), ("100 %", "open")]


def test_alarms_name_devices_and_features(fleet: HubFixture) -> None:
    view = drift_page(fleet.hub)
    (alarm,), (closed,) = view.unclosed, view.closed
    assert alarm.more == 2 and alarm.moved[0] == "brightness: 0.52 → 0.31 (spread 0.04)"
    assert closed.where == "data is broken" and [one.model for one in view.monitors] == [OTHER]


def test_a_day_begins_at_midnight_in_utc_or_is_none() -> None:
    assert beginning_of("2026-11-30") == (1_795_996_800.0, "")
    assert beginning_of("") == (0.0, "") and beginning_of("2026-02-30")[0] == 0.0 and beginning_of("0000-00-00")[1]


def test_moments_and_numbers_are_told_whatever_a_device_says() -> None:
    assert (
        words.ago(None, 5.0) == "never" and words.ago(100.0, 40.0) == "in 1 min" and words.ago(1.0, 7300.0) == "2 h ago"
    )
    assert words.moment(1e300) == "9999-12-31 23:59 UTC" and words.iso(-5.0) == "1970-01-01T00:00:00Z"
    assert words.counted(1, "device") == "1 device" and words.counted(1203, "device") == "1,203 devices"
    assert [words.size(n) for n in (12, 3.4e6, 2e12)] == ["12 B", "3.4 MB", "2 TB"]
