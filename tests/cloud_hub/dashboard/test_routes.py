from __future__ import annotations

import re

import numpy as np
import pytest
from sqlmodel import select

from cloud_hub.dashboard import access
from cloud_hub.dashboard.acts.register import ACTS
from cloud_hub.dashboard.views.overview import overview
from cloud_hub.drift import records
from cloud_hub.drift.basis import encode_basis, fit_basis
from cloud_hub.drift.streams import Settings, learn, new_stream
from cloud_hub.ingest import traffic
from cloud_hub.store.benchmarks import keep
from cloud_hub.store.benchmarks import row as measured_row
from cloud_hub.store.tables import AuditEntry, Device, DeviceModel, DriftMonitor, WindowRow
from cloud_hub.store.windows import settled
from fleet.protocol.messages import Benchmark
from tests.support.hub import HubFixture

ROLLOUT = "r-2"
WITH_ACTS = (
    "/devices",
    "/devices/kiosk-0",
    "/rollouts",
    "/rollouts/r-2",
    "/models/digits",
    "/models/digits/samples",
    "/drift",
    "/access",
)
PAGES = [
    "/",
    "/devices",
    "/devices/kiosk-0",
    "/rollouts",
    f"/rollouts/{ROLLOUT}",
    "/models",
    "/models/digits",
    "/models/digits/samples",
    "/drift",
    "/drift/plots.json",
    "/jobs",
    "/events",
    "/audit",
    "/access",
]


def log_in(hub: HubFixture, token: str = "") -> None:
    answer = hub.client.post("/login", data={"token": token or hub.admin_token}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def shown(hub: HubFixture, *paths: str) -> str:
    traffic.count(hub.hub, settled(hub.hub.engine))
    answers = [hub.client.get(path) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return "\n".join(answer.text for answer in answers)


def csrf_of(page: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]{64})"', page)
    assert found
    return found[1]


@pytest.mark.parametrize("path", PAGES)
def test_without_a_cookie_the_way_leads_to_the_login(hub: HubFixture, path: str) -> None:
    answer = hub.client.get(path, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_a_fragment_sends_the_whole_page_to_the_login(hub: HubFixture) -> None:
    answer = hub.client.get("/", headers={"HX-Request": "true"})
    assert (answer.status_code, answer.headers["hx-redirect"]) == (401, "/login")


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(hub: HubFixture) -> None:
    answer = hub.client.post("/login", data={"token": hub.admin_token}, follow_redirects=False)
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "secure" not in cookie
    answer = hub.client.post("https://testserver/login", data={"token": hub.admin_token}, follow_redirects=False)
    assert "secure" in answer.headers["set-cookie"].lower()


def test_only_operator_tokens_log_in_and_the_attempt_leaves_no_cookie(hub: HubFixture) -> None:
    for token in ("", "el1.no.such", hub.token("application", scope="infer:*"), hub.token("mirror")):
        answer = hub.client.post("/login", data={"token": token})
        assert answer.status_code == 401 and 'role="alert"' in answer.text
        assert "set-cookie" not in answer.headers


def test_a_login_is_in_the_audit_log(hub: HubFixture) -> None:
    log_in(hub)
    with hub.hub.reading() as session:
        actions = [row.action for row in session.exec(select(AuditEntry))]
    assert "dashboard.login" in actions
    found = shown(hub, "/audit?action=dashboard.login")
    assert 'id="entry-' in found and "hub.init" not in found and 'href="/audit?action=dashboard.login"' in found
    assert "Nothing is like this" in shown(hub, "/audit?action=%3Cb%3E")


def test_an_api_call_does_not_take_the_cookie(hub: HubFixture) -> None:
    log_in(hub)
    assert hub.client.get("/api/v1/models").status_code == 401


@pytest.mark.parametrize("path", ["/login", *PAGES])
def test_the_policy_allows_only_our_own_files(busy_hub: HubFixture, path: str) -> None:
    log_in(busy_hub)
    answer = busy_hub.client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    assert not re.search(r"<script(?! src=)|style=|\son[a-z]+=|https?://", answer.text)


def test_an_empty_hub_says_how_to_begin(hub: HubFixture) -> None:
    log_in(hub)
    text = hub.client.get("/").text
    assert "fleet token create" in text and "fleet release publish" in text
    assert ("failed or refused", "nothing counted", "/models") in overview(hub.hub, {}).numbers


@pytest.mark.parametrize("path", ["/devices/a%00b", "/rollouts/%00", "/audit?subject=%00", "/act/rollouts/%00/pause"])
def test_an_address_with_a_nul_character_is_refused_on_every_database(hub: HubFixture, path: str) -> None:
    log_in(hub)
    answer = hub.client.get(path)
    assert answer.status_code == 400 and "NUL character" in answer.text


def test_the_page_shows_what_is_going_on(busy_hub: HubFixture) -> None:
    log_in(busy_hub)
    text = shown(busy_hub, *PAGES)
    for expected in (
        "kiosk-0",
        "2 → 3",
        "selftest-failed",
        "41 audited pairs",
        "14 of 15 pairs",
        "default of stable",
        "auditor of stable",
        "86.7 %",
        "90.0 %",
        "distance 0.31",
    ):
        assert expected in text, expected


def test_it_shows_what_is_wrong_with_a_device_and_what_devices_measured(busy_hub: HubFixture) -> None:
    figures = Benchmark(
        model="digits", release=2, variant="litert-int8", runtime="r", rounds=9, p50_us=1.0, p95_us=812.0
    )
    with busy_hub.hub.session() as session:
        device = session.get(Device, "kiosk-0")
        device.problem = "clock-untrusted"
        device.info = {"problem": "clock-untrusted", "hint": "set <the> clock", "hardware": {"machine": "aarch64"}}
        session.add(device)
        keep(session, [measured_row("kiosk-0", figures, 1.0)])
    log_in(busy_hub)
    text = shown(busy_hub, "/devices", "/models/digits")
    assert "clock-untrusted" in text and "set &lt;the&gt; clock" in text
    assert '<td data-label="hardware">aarch64</td>' in text and '<td data-label="p95">812 µs</td>' in text


def test_what_devices_say_is_text_and_never_markup(busy_hub: HubFixture) -> None:
    log_in(busy_hub)
    text = busy_hub.client.get("/devices").text
    assert "&lt;b&gt;oslo" in text and "<b>oslo" not in text


def test_the_plot_follows_the_shift(busy_hub: HubFixture) -> None:
    log_in(busy_hub)
    (plot,) = busy_hub.client.get("/drift/plots.json").json()["items"]
    assert plot["model"] == "digits"
    assert plot["at"] == sorted(plot["at"]) and len(plot["at"]) == len(plot["distance"]) == len(plot["margin"]) == 40
    assert max(plot["distance"][:25]) < plot["margin"][0] < plot["distance"][-1]


def test_the_plot_measures_from_a_devices_own_baseline_once_there_is_one(busy_hub: HubFixture) -> None:
    with busy_hub.hub.session() as session:
        rows = list(session.exec(select(WindowRow).where(WindowRow.device_id == "kiosk-0")))
        features = np.stack([np.frombuffer(row.sketch, "<f4") / row.sketch_count for row in rows])
        basis = fit_basis(features, np.zeros(len(rows), np.int64))
        monitor = DriftMonitor(model="digits", sketch_id=rows[0].sketch_id, release=2, state="watching", updated_at=0)
        monitor.basis = encode_basis(basis)
        session.add(monitor)
        stream = new_stream("device", "kiosk-0", 2, 1.0, len(basis.weights))
        settings = Settings(period_s=60.0, first=3, budget_days=1.0, weights=basis.weights)
        for row in rows[-3:]:  # what is usual is what the others have moved to
            place = np.frombuffer(row.sketch, "<f4") / row.sketch_count @ basis.directions
            learn(stream, place, row.ended_at, row.sketch_count, settings)
        records.save(session, "digits", [stream], settings, 0.0)
        first, last = rows[0].ended_at, rows[-1].ended_at
    log_in(busy_hub)
    (plot,) = busy_hub.client.get("/drift/plots.json").json()["items"]
    points = {at: (away, margin) for at, away, margin in zip(plot["at"], plot["distance"], plot["margin"], strict=True)}
    assert points[last][0] < points[first][0] and points[first][1] >= 0.2


def test_a_window_with_a_sketch_of_another_size_hides_no_plot(busy_hub: HubFixture) -> None:
    with busy_hub.hub.session() as session:
        row = session.exec(select(WindowRow).where(WindowRow.device_id == "kiosk-0")).first()
        assert row is not None
        row.sketch = row.sketch[:-4]
        session.add(row)
    log_in(busy_hub)
    (plot,) = busy_hub.client.get("/drift/plots.json").json()["items"]
    assert len(plot["at"]) == 39


def test_leaving_needs_our_own_form(hub: HubFixture) -> None:
    log_in(hub)
    assert hub.client.post("/logout", data={"csrf": "0" * 64}).status_code == 403
    assert hub.client.post("/logout", data={"csrf": "ä"}).status_code == 403
    csrf = csrf_of(hub.client.get("/").text)
    answer = hub.client.post("/logout", data={"csrf": csrf}, follow_redirects=False)
    assert answer.headers["location"] == "/login"
    assert hub.client.get("/", follow_redirects=False).status_code == 303


def test_a_form_of_another_cookie_is_refused(hub: HubFixture) -> None:
    log_in(hub)
    other = access.csrf_token(hub.token(role="admin"))
    assert hub.client.post("/logout", data={"csrf": other}).status_code == 403


def test_vendored_files_come_with_their_licences(hub: HubFixture) -> None:
    for path in (
        "htmx/htmx.min.js",
        "htmx/LICENSE",
        "uplot/uPlot.iife.min.js",
        "uplot/uPlot.min.css",
        "uplot/LICENSE",
        "idiomorph/idiomorph-ext.min.js",
        "idiomorph/LICENSE",
    ):
        assert hub.client.get(f"/static/vendor/{path}").status_code == 200
    assert hub.client.get("/static/../routes.py").status_code == 404


def test_samples_are_read_from_the_object_store_once(busy_hub: HubFixture) -> None:
    log_in(busy_hub)
    assert "hx-get" not in shown(busy_hub, "/models/digits/samples") and "hx-get" in shown(busy_hub, "/models/digits")


def test_only_who_may_do_something_is_led_to_it(busy_hub: HubFixture) -> None:
    """An act that a role may not do is not shown; its refusal is tested in `test_acts`."""
    links: dict[str, set[str]] = {}
    for role in ("viewer", "operator", "admin"):
        busy_hub.client.post("/login", data={"token": busy_hub.token(role=role)})
        pages = [busy_hub.client.get(path).text for path in WITH_ACTS]
        links[role] = {link for page in pages for link in re.findall(r'href="(/act/[^"?]*)', page)}
    assert links["viewer"] == set()
    assert links["admin"] - links["operator"] >= {"/act/devices/kiosk-0/revoke"}
    for act in ACTS:
        shape = re.compile(re.sub(r"\{[^}]*\}", "[^/]+", act.path))
        led = [link for link in links["admin" if act.role == "admin" else "operator"] if shape.fullmatch(link)]
        absent = ("/resume", "/approve", "/resend", "/test")  # nothing waits for these here; see `test_events`, too
        assert led or act.path.endswith(absent), act.path


def test_it_tells_untried_releases_and_refused_requests_apart(busy_hub: HubFixture) -> None:
    counters = {"requests": 30, "edge": 18, "failed": 12, "refused": 9}
    with busy_hub.hub.session() as session:
        row = session.get(DeviceModel, ("kiosk-0", "digits"))
        row.untried = True
        session.add(row)
        session.add(
            WindowRow(
                device_id="kiosk-0",
                spool="s",
                seq=999,
                model="digits",
                release=2,
                started_at=0.0,
                ended_at=1.0,
                body={"counters": counters},
            )
        )
    log_in(busy_hub)
    text = shown(busy_hub, "/", "/devices")
    assert "12 (9 refused)" in text
    assert text.count(">untried</span>") == 1
