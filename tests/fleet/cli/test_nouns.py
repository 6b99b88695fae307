from __future__ import annotations

import json

import pytest

PAGE_END = {"next": None}


def test_a_claim_token_names_its_channel_and_labels(fleet, hub) -> None:
    hub.on("POST", "/tokens", {"id": "1", "token": "el1.1.s.p"})
    outcome = fleet("token", "create", "--channel", "stable", "--label", "site=berlin", "--expires", "2h", "--json")
    assert outcome.document["token"] == "el1.1.s.p"
    assert hub.sent("POST", "/tokens") == [
        {"kind": "claim", "channel": "stable", "labels": {"site": "berlin"}, "expires_in_s": 7200.0}
    ]


def test_a_claim_token_says_where_it_leads_and_who_cannot_get_there(hub, fleet):
    reason = "devices on other machines cannot reach 127.0.0.1 (HTTP); listen on the network (--host 0.0.0.0)"
    made = {"id": "t1", "token": "el1.t1.s.p", "hub": "https://127.0.0.1:8080", "warnings": [reason]}
    hub.on("POST", "/tokens", made, status=201)
    outcome = fleet("token", "create", "--channel", "stable")
    assert f"warning: {reason}" in outcome.err and "edge-agent enroll https://127.0.0.1:8080" in outcome.err
    assert fleet("token", "create", "--channel", "stable", "--json").document["warnings"] == [reason]


def test_an_application_token_has_scope_and_rate(fleet, hub) -> None:
    hub.on("POST", "/tokens", {"id": "1", "token": "el1.1.s"})
    assert fleet("token", "create", "--scope", "infer:digits", "--rate", "50/s").code == 0
    assert hub.sent("POST", "/tokens") == [{"kind": "application", "scope": "infer:digits", "rate_per_s": 50.0}]


def test_a_token_is_of_exactly_one_kind(fleet, hub) -> None:
    assert fleet("token", "create").code == 2
    assert fleet("token", "create", "--channel", "a", "--role", "admin").code == 2
    assert hub.asked == []


def test_devices_are_listed_with_what_they_run(fleet, hub) -> None:
    models = [{"model": "digits", "state": "fetching", "active": 1, "target": 2, "reason": ""}]
    device = {"id": "d1", "channel": "stable", "state": "online", "labels": {"site": "berlin"}, "models": models}
    hub.on("GET", "/devices?label=site%3Dberlin", {"items": [device], **PAGE_END})
    assert fleet("device", "list", "--label", "site=berlin", "--json").document == {"items": [device]}
    outcome = fleet("device", "list", "--label", "site=berlin")
    assert "digits 1 (fetching) → 2" in outcome.out and "online" in outcome.out


def test_a_cloned_device_is_named_in_list_and_show_beside_what_it_reports_itself(fleet, hub) -> None:
    cloned = {"id": "d1", "problem": "identity-in-use-twice", "hint": "enrol the other anew", "models": []}
    device = {**cloned, "info": {"problem": "disk-full", "hint": "make room"}}
    hub.on("GET", "/devices", {"items": [device], **PAGE_END})
    assert "identity-in-use-twice" in fleet("device", "list").out
    hub.on("GET", "/devices/d1", device)
    said = fleet("device", "show", "d1").err
    assert "identity-in-use-twice: enrol the other anew" in said and "disk-full: make room" in said


def test_a_device_shows_what_of_it_could_not_be_taken(fleet, hub) -> None:
    hub.on("GET", "/devices/d1", {"id": "d1", "set_aside": 3, "models": []})
    assert "3 messages could not be taken (try: fleet device set-aside d1)" in fleet("device", "show", "d1").err
    aside = {
        "received_at": 1.8e9,
        "leaf": "report",
        "spool": "s1",
        "seq": 7,
        "reason": "malformed",
        "detail": "at: nan",
    }
    hub.on("GET", "/devices/d1/set-aside", {"items": [aside], **PAGE_END})
    assert fleet("device", "set-aside", "d1", "--json").document == {"items": [{"id": 1, **aside}]}
    assert "malformed" in fleet("device", "set-aside", "d1").out


def test_a_device_shows_what_is_wrong_with_it_and_what_to_do(fleet, hub) -> None:
    info = {"clock": "untrusted", "problem": "clock-untrusted", "hint": "set this device's clock"}
    hub.on("GET", "/devices/d1", {"id": "d1", "info": info, "certificate_expires_at": 1.8e9, "models": []})
    outcome = fleet("device", "show", "d1")
    assert "untrusted" in outcome.out and "2027-01-15" in outcome.out
    assert "clock-untrusted: set this device's clock" in outcome.err


def test_labels_are_set_and_removed(fleet, hub) -> None:
    hub.on("PATCH", "/devices/d1")
    assert fleet("device", "label", "d1", "site=berlin", "old-").code == 0
    assert hub.sent("PATCH", "/devices/d1") == [{"labels": {"site": "berlin", "old": None}}]


def test_pins_are_set_and_removed(fleet, hub) -> None:
    hub.on("PATCH", "/devices/d1")
    assert fleet("device", "set", "d1", "--pin", "c=3", "--unpin", "a").code == 0
    assert hub.sent("PATCH", "/devices/d1") == [{"pins": {"a": None, "c": 3}}]
    assert fleet("device", "set", "d1").code == 2
    assert fleet("device", "set", "d1", "--pin", "c=x").code == 2


def test_channel_set_sends_only_what_was_given_in_the_channels_units(fleet, hub) -> None:
    hub.on("PUT", "/channels/stable/models/digits").on("PATCH", "/channels/stable")
    hub.on("GET", "/channels/stable", {"channel": "stable", "version": 2, "models": {"digits": {"release": 1}}})
    arguments = (
        "--model digits --release 1 --auditor 1 --audit-share 5 --deadline 0.2s --sampling --max-rate 5000 "
        "--fetch-window 22:30-05:00 --probation-p95-us 5000"
    )
    outcome = fleet("channel", "set", "stable", *arguments.split(), "--window-requests", "50")
    assert outcome.code == 0
    assert hub.sent("PUT", "/channels/stable/models/digits") == [
        {
            "release": 1,
            "audit": {"auditor": 1, "share_ppm": 50_000},
            "routing": {"deadline_ms": 200},
            "sampling": {"enabled": True},
            "probation": {"max_p95_us": 5000.0},
        }
    ]
    assert hub.sent("PATCH", "/channels/stable") == [
        {"fetching": {"max_bytes_per_s": 5000, "window": "22:30-05:00"}, "telemetry": {"window_requests": 50}}
    ]


def test_a_channel_says_whom_the_devices_ask_in_the_hubs_place_and_when(fleet, hub) -> None:
    hub.on("PUT", "/channels/stable/models/digits")
    hub.on("GET", "/channels/stable", {"channel": "stable", "version": 2, "models": {"digits": {"release": 1}}})
    server = ("--url", "https://kserve.example", "--name", "numbers", "--credential", "kserve")
    ask = ("channel", "cloud", "stable", "--model", "digits")
    assert fleet(*ask, "--when", "always", "--rate", "2", *server).code == 0
    assert fleet(*ask, "--url", "").code == 0  # the hub again
    named = {"url": "https://kserve.example", "model": "numbers", "version": "", "credential": "kserve", "binary": True}
    assert hub.sent("PUT", "/channels/stable/models/digits") == [
        {"routing": {"when": "always", "calls_per_s": 2.0, "remote": named}},
        {"routing": {"remote": None}},
    ]


@pytest.mark.parametrize("arguments", ["", "--credential kserve", "--version 2 --when always"])
def test_a_channels_cloud_is_refused_before_anything_is_sent(fleet, hub, arguments: str) -> None:
    assert fleet("channel", "cloud", "stable", "--model", "digits", *arguments.split()).code == 2
    assert hub.sent("PUT", "/channels/stable/models/digits") == []


@pytest.mark.parametrize("arguments", ["", "--release 1", "--model m --audit-share 101", "--window 5y"])
def test_channel_set_refuses_what_means_nothing(fleet, hub, arguments: str) -> None:
    assert fleet("channel", "set", "stable", *arguments.split()).code == 2
    assert hub.asked == []


def test_rollout_create_sends_stages_and_guard(fleet, hub) -> None:
    hub.on("POST", "/rollouts", {"id": "r1", "state": "running"})
    outcome = fleet(
        "rollout",
        "create",
        "digits",
        "2",
        "-c",
        "stable",
        "--stages",
        "12.5,100",
        "--evidence-deadline",
        "2m",
        "--soak",
        "10s",
    )
    assert outcome.code == 0
    assert hub.sent("POST", "/rollouts") == [
        {
            "model": "digits",
            "release": 2,
            "channel": "stable",
            "stages": [12.5, 100],
            "guard": {"evidence_deadline_s": 120.0},
            "soak_s": 10.0,
        }
    ]


FORECAST = {
    "goal": "not worse by more than 5 points, at 95 %",
    "power": 0.95,
    "pairs": 800,
    "scope": {"free": 3, "unable": [{"device": "old-1", "lacks": ["step:clip"]}]},
    "traffic": {"hours": 24, "requests": 86400.0, "audited": 864.0},
    "stages": [{"share_ppm": 340000, "devices": 1, "control": 2, "pairs": 800, "seconds": 80000.0}],
    "seconds": 80000.0,
    "evidence": ["pairs: release 1 audits 1 % of the requests of both releases"],
    "notes": ["the first stage is one device"],
}


def test_rollout_plan_says_what_it_takes_and_starts_nothing(fleet, hub) -> None:
    hub.on(
        "POST",
        "/rollouts/plan",
        {"model": "digits", "channel": "stable", "release": 2, "from_release": 1, "forecast": FORECAST},
    )
    outcome = fleet("rollout", "plan", "digits", "2", "-c", "stable", "--stages", "34,100", "--margin", "3")
    assert outcome.code == 0
    for said in ("not worse by more than 5 points", "800", "22.2 h", "old-1 lacks step:clip", "note: the first"):
        assert said in outcome.out
    assert hub.sent("POST", "/rollouts/plan")[0]["guard"] == {"margin": 0.03}
    assert fleet("rollout", "plan", "digits", "2", "-c", "stable", "--json").document["forecast"]["pairs"] == 800


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ("--shadow 24h", {"seconds": 86400.0}),
        ("--shadow 500-inputs", {"inputs": 500}),
        ("--shadow 30m,500-inputs --shadow-agreement 95", {"seconds": 1800.0, "inputs": 500, "agreement": 0.95}),
        ("--shadow 1h --shadow-devices 5 --shadow-cpu 2", {"seconds": 3600.0, "devices": 5, "cpu_share": 0.02}),
    ],
)
def test_rollout_create_may_begin_with_a_shadow_stage(fleet, hub, options: str, sent: dict) -> None:
    hub.on("POST", "/rollouts", {"id": "r1", "state": "running"})
    assert fleet("rollout", "create", "digits", "2", "-c", "stable", *options.split()).code == 0
    assert hub.sent("POST", "/rollouts")[0]["shadow"] == sent


@pytest.mark.parametrize("options", ["--shadow soon", "--shadow 5-devices", "--shadow-agreement 95"])
def test_a_shadow_stage_that_says_nothing_is_a_usage_error(fleet, hub, options: str) -> None:
    assert fleet("rollout", "create", "digits", "2", "-c", "stable", *options.split()).code == 2
    assert hub.asked == []


def test_rollout_plan_says_what_a_shadow_stage_takes(fleet, hub) -> None:
    stage = {"goal": "most is the same", "seconds": 7200.0, "inputs": 120, "devices": 3, "unable": 1, "cpu_share": 0.05}
    found = {"model": "digits", "channel": "stable", "release": 2, "from_release": 1}
    hub.on("POST", "/rollouts/plan", {**found, "forecast": {**FORECAST, "shadow": stage}})
    outcome = fleet("rollout", "plan", "digits", "2", "-c", "stable", "--shadow", "2h")
    said = "most is the same; at least 120 distinct inputs and 2.0 h; 3 devices, 5 % of a core each"
    assert outcome.code == 0 and said in outcome.out


def test_rollout_plan_of_one_that_could_never_finish_says_what_to_add(fleet, hub) -> None:
    blocked = {**FORECAST, "blockers": [{"what": "no auditor", "add": "fleet channel set"}]}
    hub.on(
        "POST",
        "/rollouts/plan",
        {"model": "digits", "channel": "stable", "release": 2, "from_release": 1, "forecast": blocked},
    )
    outcome = fleet("rollout", "plan", "digits", "2", "-c", "stable", "--evidence", "paired")
    assert outcome.code == 5 and "could never finish: no auditor" in outcome.err and "fleet channel set" in outcome.err
    assert fleet("rollout", "plan", "digits", "2", "-c", "stable", "--evidence", "hope").code == 2


def test_a_rollout_can_bound_what_devices_measure(fleet, hub) -> None:
    hub.on("POST", "/rollouts", {"id": "r1", "state": "running"})
    given = ("rollout", "create", "digits", "2", "-c", "stable")
    assert fleet(*given, "--max-p95-us", "800", "--min-measured", "3").code == 0
    assert hub.sent("POST", "/rollouts")[0]["guard"] == {"max_p95_us": 800.0, "min_measured": 3}
    assert fleet(*given, "--min-measured", "3").code == 2


@pytest.mark.parametrize("stages", ["50", "50,10,100", "0,100", "a,100", "50,50,100", "100,150"])
def test_stages_rise_to_a_hundred(fleet, hub, stages: str) -> None:
    assert fleet("rollout", "create", "digits", "2", "-c", "stable", "--stages", stages).code == 2
    assert hub.asked == []


@pytest.mark.parametrize(("state", "code"), [("finished", 0), ("halted", 7), ("aborted", 7), ("running", 8)])
def test_watch_follows_a_rollout_to_its_end(fleet, hub, state: str, code: int) -> None:
    running = {"id": "r1", "state": "running", "reason": ""}
    hub.on("GET", "/rollouts/r1", running, running, {**running, "state": state, "reason": "harmful"})
    hub.on(
        "GET", "/rollouts/r1/events", {"items": [{"id": 1, "at": 0.0, "event": "stage 1", "detail": {}}], **PAGE_END}
    )
    outcome = fleet("rollout", "watch", "r1", "--timeout", "10")
    assert outcome.code == code
    assert outcome.err.count("stage 1") == 1
    assert ("harmful" in outcome.err) == (code == 7)


@pytest.mark.parametrize("action", ["approve", "promote"])
def test_the_end_of_a_stage_is_ordered_of_the_stage_that_is_meant(fleet, hub, action: str) -> None:
    hub.on("GET", "/rollouts/r1", {"id": "r1", "state": "running", "stage": 2})
    hub.on("POST", f"/rollouts/r1/{action}", {"id": "r1", "state": "running"})
    assert fleet("rollout", action, "r1", "--reason", "looks well").code == 0
    assert fleet("rollout", action, "r1", "--reason", "looks well", "--stage", "1").code == 0
    sent = hub.sent("POST", f"/rollouts/r1/{action}")
    assert sent == [{"reason": "looks well", "stage": stage} for stage in (2, 1)]


@pytest.mark.parametrize("action", ["pause", "resume", "abort", "retry"])
def test_rollout_actions(fleet, hub, action: str) -> None:
    hub.on("POST", f"/rollouts/r1/{action}", {"id": "r1", "state": "paused"})
    outcome = fleet("rollout", action, "r1", "--reason", "lunch", "--json")
    assert (outcome.document["id"], outcome.document["state"]) == ("r1", "paused")
    assert hub.sent("POST", f"/rollouts/r1/{action}") == [{"reason": "lunch"}]


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1), ("running", 8)])
def test_watch_follows_a_job_to_its_end(fleet, hub, state: str, code: int) -> None:
    job = {"id": "j", "kind": "retrain", "state": "running", "step": "train", "progress": 0.5, "error": ""}
    hub.on("GET", "/jobs/j", job, {**job, "state": state, "error": "gate"})
    assert fleet("job", "watch", "j", "--timeout", "5").code == code


def test_watching_with_json_tells_each_change_in_a_line(fleet, hub) -> None:
    job = {"id": "j", "kind": "retrain", "state": "running", "step": "train", "progress": 0.5, "error": ""}
    hub.on("GET", "/jobs/j", job, job, {**job, "progress": 0.9}, {**job, "state": "succeeded"})
    lines = [json.loads(line) for line in fleet("job", "watch", "j", "--json").out.splitlines()]
    assert [(line["state"], line["progress"]) for line in lines] == [
        ("running", 0.5),
        ("running", 0.9),
        ("succeeded", 0.5),
    ]
    rollout = {"id": "r1", "state": "running", "reason": ""}
    hub.on("GET", "/rollouts/r1", rollout, rollout, {**rollout, "state": "halted", "reason": "harmful"})
    hub.on("GET", "/rollouts/r1/events", {"items": [], **PAGE_END})
    outcome = fleet("rollout", "watch", "r1", "--output", "json")
    assert outcome.code == 7 and [json.loads(line)["state"] for line in outcome.out.splitlines()] == [
        "running",
        "halted",
    ]


def test_a_job_s_log_is_printed_as_it_is(fleet, hub) -> None:
    hub.on("GET", "/jobs/j/log", {"job": "j", "text": "epoch 1\nepoch 2\n"})
    assert fleet("job", "log", "j").out == "epoch 1\nepoch 2\n"
    assert fleet("job", "log", "j", "--json").document == {"job": "j", "text": "epoch 1\nepoch 2\n"}


@pytest.mark.parametrize(("size", "count"), [("8k", 8000), ("1.5M", 1_500_000), ("900", 900)])
def test_retrain_takes_a_byte_budget(fleet, hub, size, count) -> None:
    hub.on("POST", "/models/digits/retrain", {"id": "j", "state": "queued"})
    assert fleet("retrain", "digits", "--max-bytes", size).code == 0
    assert hub.sent("POST", "/models/digits/retrain") == [{"max_bytes": count}]


@pytest.mark.parametrize("size", ["k", "8kb", "-1", "0", "nan", "inf", "9999999M", "8 000"])
def test_retrain_refuses_what_is_no_size(fleet, hub, size) -> None:
    outcome = fleet("retrain", "digits", f"--max-bytes={size}")
    assert outcome.code == 2 and "is no size" in outcome.err
    assert hub.sent("POST", "/models/digits/retrain") == []


def test_a_search_is_written_as_one_says_it(fleet, hub) -> None:
    hub.on("POST", "/models/digits/tune", {"id": "j", "state": "queued"})
    ranges = ["--search", "student_rate=1e-4..0.01:log", "--search", "warm_share=0.1..1", "--search", "batch=32,64"]
    outcome = fleet("tune", "digits", *ranges, "--for", "2h", "--parallel", "4", "--retrain", "--channel", "stable")
    assert outcome.code == 0, outcome.err
    space = {
        "student_rate": {"low": 1e-4, "high": 0.01, "log": True},
        "warm_share": {"low": 0.1, "high": 1.0, "log": False},
        "batch": [32.0, 64.0],
    }
    [sent] = hub.sent("POST", "/models/digits/tune")
    assert sent["space"] == space and (sent["for_s"], sent["parallel"]) == (7200.0, 4)
    assert sent["retrain"] == {"channel": "stable"}


@pytest.mark.parametrize(
    "options",
    [
        ("--search", "batch=a..b"),
        ("--search", "batch=1..2:cubic"),
        ("--search", "batch"),
        ("--search", "colour=1,2"),
        ("--search", "batch=1,2", "--channel", "stable"),
    ],
)
def test_a_search_that_is_none_is_refused(fleet, hub, options) -> None:
    assert fleet("tune", "digits", *options).code == 2
    assert hub.sent("POST", "/models/digits/tune") == []


def test_a_retrain_takes_other_numbers(fleet, hub) -> None:
    hub.on("POST", "/models/digits/retrain", {"id": "j", "state": "queued"})
    assert fleet("retrain", "digits", "--hyper", "batch=32", "--hyper", "student_rate=0.01").code == 0
    assert hub.sent("POST", "/models/digits/retrain") == [{"hyper": {"batch": 32, "student_rate": 0.01}}]
    for wrong in ("batch=1.5", "batch=inf", "batch=nan", "student_rate=1e999", "student_rate=fast"):
        outcome = fleet("retrain", "digits", "--hyper", wrong)
        assert outcome.code == 2 and "--search" not in outcome.err, outcome.err


def test_a_retrains_rollout_has_the_guard_that_is_asked_for(fleet, hub) -> None:
    hub.on("POST", "/models/digits/retrain", {"id": "j", "state": "queued"})
    assert fleet("retrain", "digits", "--channel", "stable", "--guard", '{"margin": 0.1, "min_pairs": 20}').code == 0
    [sent] = hub.sent("POST", "/models/digits/retrain")
    assert sent["channel"] == "stable"
    assert sent["rollout"]["guard"]["margin"] == 0.1


@pytest.mark.parametrize("guard", ["[1]", "{", '{"margin": "much"}'])
def test_a_guard_that_is_none_starts_no_retrain(fleet, hub, guard) -> None:
    assert fleet("retrain", "digits", "--channel", "stable", "--guard", guard).code == 2
    assert hub.sent("POST", "/models/digits/retrain") == []


@pytest.mark.parametrize("options", [("--stages", "50,100"), ("--guard", '{"margin": 0.1}')])
def test_a_retrains_rollout_without_a_channel_is_refused(fleet, hub, options) -> None:
    outcome = fleet("retrain", "digits", *options)
    assert outcome.code == 2
    assert "--channel" in outcome.err
    assert hub.sent("POST", "/models/digits/retrain") == []


def test_retrain_can_wait(fleet, hub) -> None:
    hub.on("POST", "/models/digits/retrain", {"id": "j", "state": "queued"})
    hub.on("GET", "/jobs/j", {"id": "j", "state": "succeeded", "step": "", "progress": 1.0, "result": {"release": 4}})
    outcome = fleet("retrain", "digits", "--channel", "stable", "--stages", "50,100", "--wait", "--json")
    assert outcome.document["result"] == {"release": 4}
    assert hub.sent("POST", "/models/digits/retrain") == [{"channel": "stable", "rollout": {"stages": [50, 100]}}]


def test_labels_come_from_arguments_and_files(fleet, hub, tmp_path) -> None:
    hub.on("POST", "/samples/labels", {"labelled": 2})
    file = tmp_path / "labels.csv"
    file.write_text("s1,7\n\ns2,3\ns4,a dog\n")
    assert fleet("sample", "label", "s3=1", "--file", str(file), "--by", "ada").code == 0
    (sent,) = hub.sent("POST", "/samples/labels")
    assert sent["by"] == "ada"
    assert {item["id"]: item["label"] for item in sent["labels"]} == {"s1": 7, "s2": 3, "s3": 1, "s4": "a dog"}
    assert fleet("sample", "label").code == 2
    assert fleet("sample", "label", "s=").code == 2
    file.write_bytes(b"s1,\xe4\n")
    refused = fleet("sample", "label", "--file", str(file))
    assert refused.code == 2 and "UTF-8" in refused.err


def test_a_label_may_be_what_a_file_holds(fleet, hub, tmp_path) -> None:
    hub.on("POST", "/samples/labels", {"labelled": 1})
    (tmp_path / "boxes.json").write_text('[{"box": [0, 0, 2.5, 1], "class": "dog"}]')
    assert fleet("sample", "label", f"s=@{tmp_path / 'boxes.json'}").code == 0
    (sent,) = hub.sent("POST", "/samples/labels")
    assert sent["labels"] == [{"id": "s", "label": [{"box": [0, 0, 2.5, 1], "class": "dog"}]}]
    assert fleet("sample", "label", "s=@absent.json").code == 3
    assert fleet("sample", "label", "s=[1,").code == 2
    nested = "[" * 100_000
    (tmp_path / "deep.json").write_text(nested)
    refused = fleet("sample", "label", f"s=@{tmp_path / 'deep.json'}")
    assert refused.code == 2 and "this is not JSON" in refused.err


def test_export_writes_the_file(fleet, hub, tmp_path) -> None:
    hub.on("GET", "/samples/export?model=digits", b"PAR1")
    out = tmp_path / "x.parquet"
    assert fleet("sample", "export", "--model", "digits", "--out", str(out)).code == 0
    assert out.read_bytes() == b"PAR1"


def test_drift_shows_monitors_and_alarms(fleet, hub) -> None:
    hub.on("GET", "/drift?model=digits", {"items": [{"model": "digits", "state": "alarmed"}], **PAGE_END})
    alarms = [{"id": 1, "model": "digits", "status": "open"}, {"id": 2, "model": "other", "status": "open"}]
    hub.on("GET", "/alarms", {"items": alarms, **PAGE_END})
    document = fleet("drift", "status", "--model", "digits", "--json").document
    assert [alarm["id"] for alarm in document["alarms"]] == [1]
    assert document["items"][0]["state"] == "alarmed"


def test_drift_shows_where_inputs_are_watched_and_begins_baselines_anew(fleet, hub) -> None:
    stream = {"kind": "device", "name": "cam-1", "state": "provisional", "evidence": 2.5, "since": 1e9, "alarm": 0}
    hub.on("GET", "/drift/digits/streams?kind=device&limit=100", {"items": [stream], **PAGE_END})
    assert fleet("drift", "show", "digits", "--kind", "device", "--json").document["items"][0]["name"] == "cam-1"
    assert "provisional" in fleet("drift", "show", "digits", "--kind", "device").out
    steady = {**stream, "baseline": "period", "alarm_at": 10.25, "based_at": 1.8e9}
    hub.on("GET", "/drift/digits/streams?kind=device&limit=101", {"items": [steady], **PAGE_END})
    heading, row = fleet("drift", "show", "digits", "--kind", "device", "--limit", "101").out.splitlines()
    at = {title: row[heading.index(title) :].split("  ")[0].strip() for title in ("made", "alarm at", "since")}
    assert at["alarm at"] == "10.25"  # evidence, and no time
    assert at["made"].startswith("2027-01-15 ") and at["since"].startswith("2001-09-09 ")
    hub.on("POST", "/drift/digits/rebaseline", {"model": "digits", "streams": 3})
    model = {"name": "digits", "created_at": 0.0, "policy": {"drift": {"budget_days": 9.0}}}
    hub.on("GET", "/models/digits", model)
    hub.on("PATCH", "/models/digits", model)
    done = fleet("drift", "rebaseline", "digits", "--baseline", "7d", "--json")
    assert done.document["streams"] == 3
    assert hub.sent("PATCH", "/models/digits") == [{"policy": {"drift": {"budget_days": 9.0, "baseline": "7d"}}}]
    fleet("drift", "rebaseline", "digits", "--device", "cam-1")
    assert [sent.get("devices") for sent in hub.sent("POST", "/drift/digits/rebaseline")] == [None, ["cam-1"]]
    both = fleet("drift", "rebaseline", "digits", "--device", "cam-1", "--baseline", "7d")  # a period is the model's
    assert both.code == 2 and len(hub.sent("PATCH", "/models/digits")) == 1
    assert fleet("drift", "rebaseline", "digits", "--baseline", "a day").code == 2


def test_the_audit_log_is_a_table_or_json(fleet, hub) -> None:
    entry = {
        "id": 1,
        "at": 0.0,
        "actor": "operator:1",
        "action": "release.publish",
        "subject": "digits 1",
        "detail": {},
    }
    hub.on("GET", "/audit?newest=true", {"items": [entry], **PAGE_END})
    assert fleet("audit", "list", "--json").document == {"items": [entry]}
    assert "release.publish" in fleet("audit", "list").out


def test_devices_are_listed_in_parts(fleet, hub) -> None:
    page = {"items": [{"id": f"d{number}"} for number in (1, 2)], "next": "d2"}
    hub.on("GET", "/devices?after=d0&limit=3", page)
    hub.on("GET", "/devices?limit=3&after=d2", {"items": [{"id": "d3"}, {"id": "d4"}], "next": "d4"})
    found = fleet("device", "list", "--limit", "3", "--after", "d0", "--json").document["items"]
    assert [device["id"] for device in found] == ["d1", "d2", "d3"]


def test_lists_are_newest_first_and_of_a_time_and_a_device(fleet, hub, monkeypatch) -> None:
    monkeypatch.setattr("fleet.cli.session.time.time", lambda: 87_400.5)
    asked = (
        "/audit?newest=true&since=1000.5&subject=d1",
        "/audit?after=7",
        "/jobs?since=1000.5",
        "/rollouts?since=1000.5&device=d1",
    )
    for path in asked:
        hub.on("GET", path, {"items": [], **PAGE_END})
    assert fleet("audit", "list", "--since", "1d", "--device", "d1").code == 0
    assert fleet("audit", "list", "--after", "7").code == 0
    assert fleet("job", "list", "--since", "1d").code == 0
    assert fleet("rollout", "list", "--since", "1d", "--device", "d1").code == 0
    assert tuple(path.removeprefix("/api/v1") for _, path, _, _ in hub.asked) == asked
    assert fleet("rollout", "list", "--since", "a day").code == 2


def test_the_audit_log_is_searched_by_who_what_whose_and_when(fleet, hub) -> None:
    asked = (
        "/audit?newest=true&since=1796083200.0&until=1796130000.0&actor=operator%3A1&action=rollout.abort&subject=r-1",
        "/audit?newest=true&until=86400.0",
    )
    for path in asked:
        hub.on("GET", path, {"items": [], **PAGE_END})
    days = ("--since", "2026-12-01", "--until", "2026-12-01T14:00+01:00")
    outcome = fleet("audit", "list", *days, "--actor", "operator:1", "--action", "rollout.abort", "--subject", "r-1")
    assert outcome.code == 0 and "nothing is like this" in outcome.err
    assert fleet("audit", "list", "--until", "1970-01-02").code == 0
    assert tuple(path.removeprefix("/api/v1") for _, path, _, _ in hub.asked) == asked


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--since 2026-13-01", "is no time; for example 12h, 2026-11-30"),
        ("--since 1969-12-31", "between 1970 and 9999"),
        ("--until 9999-12-31T23:59:59-12:00", "between 1970 and 9999"),
        ("--since 2026-12-02 --until 2026-12-01", "no time is between them"),
        ("--subject a --device b", "name two things"),
        ("--since -5", "a duration is positive"),
    ],
)
def test_a_time_or_a_thing_that_cannot_be_meant_is_refused(fleet, hub, options: str, said: str) -> None:
    outcome = fleet("audit", "list", *options.split())
    assert outcome.code == 2 and said in " ".join(outcome.err.replace("│", " ").split()), outcome.err
    assert hub.asked == []


def test_what_had_no_request_yet_is_said(fleet, hub) -> None:
    model = {"model": "digits", "state": "committed", "active": 2, "untried": True}
    hub.on("GET", "/devices", {"items": [{"id": "d1", "models": [model]}], **PAGE_END})
    assert "digits 2 (committed, untried)" in fleet("device", "list").out
    lacks = "not enough evidence: 1 device has had no request"
    verdict = {"judgement": "not-enough-evidence", "reason": lacks, "cohort": {"committed": 1, "untried": 1}}
    waiting = {"id": "r1", "state": "running", "reason": "", "verdict": verdict}
    hub.on("GET", "/rollouts/r1", waiting, waiting, {**waiting, "state": "finished"})
    hub.on("GET", "/rollouts/r1/events", {"items": [], **PAGE_END})
    assert lacks in fleet("rollout", "status", "r1").out
    assert fleet("rollout", "watch", "r1", "--timeout", "10").err.count(lacks) == 1


def test_a_model_is_changed_and_an_interface_chosen(fleet, hub) -> None:
    hub.on("PATCH", "/models/digits", {"name": "digits", "interface_from": 2})
    assert fleet("model", "change", "digits", "--interface-from", "2", "--json").document["interface_from"] == 2
    assert fleet("model", "change", "digits", "--no-recipe").code == 0
    assert fleet("model", "change", "digits", "--recipe", "a.b", "--policy", '{"drift": {}}').code == 0
    assert hub.sent("PATCH", "/models/digits") == [
        {"interface_from": 2},
        {"recipe": ""},
        {"recipe": "a.b", "policy": {"drift": {}}},
    ]
    for wrong in ((), ("--recipe", "a", "--no-recipe"), ("--policy", "{"), ("--interface-from", "0")):
        assert fleet("model", "change", "digits", *wrong).code == 2


def test_models_whose_releases_disagree_are_named_with_what_to_do(fleet, hub) -> None:
    hub.on("GET", "/models", {"items": [{"name": "digits", "disputed": [1, 2]}], **PAGE_END})
    hub.on("GET", "/models/digits", {"name": "digits", "disputed": [1, 2]})
    for outcome in (fleet("model", "list"), fleet("model", "show", "digits")):
        assert "releases 1, 2 of digits disagree" in outcome.err and "--interface-from N" in outcome.err


DELETED = [
    (("model", "delete", "digitz"), "/models/digitz"),
    (("release", "delete", "digits", "4"), "/models/digits/releases/4"),
    (("channel", "delete", "stabel"), "/channels/stabel"),
    (("token", "delete", "3f9c"), "/tokens/3f9c?forget=true"),
    (("snapshot", "delete", "s1"), "/snapshots/s1"),
]


@pytest.mark.parametrize(
    ("command", "path"), DELETED, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_what_was_made_by_mistake_is_deleted(fleet, hub, command: tuple[str, ...], path: str) -> None:
    hub.on("DELETE", path, {})
    assert fleet(*command).code == 0 and fleet(*command, "--json").document
    assert [(method, asked) for method, asked, *_ in hub.asked] == [("DELETE", f"/api/v1{path}")] * 2


@pytest.mark.parametrize(
    ("command", "path"), DELETED, ids=lambda value: " ".join(value) if type(value) is tuple else ""
)
def test_what_is_still_used_gives_five_and_says_by_what(fleet, hub, command: tuple[str, ...], path: str) -> None:
    hub.on("DELETE", path, {"error": "it is used by channel stable", "hint": "first: fleet channel set"}, status=409)
    outcome = fleet(*command)
    assert (outcome.code, outcome.out) == (5, "")
    assert "used by channel stable" in outcome.err and "try: first: fleet channel set" in outcome.err


def test_a_channel_is_made_and_loses_a_model(fleet, hub) -> None:
    hub.on("POST", "/channels", {}, status=201).on("GET", "/channels/stable", {})
    hub.on("DELETE", "/channels/stable/models/digits", {})
    assert "stable" in fleet("channel", "create", "stable").out
    assert fleet("channel", "create", "No Name").code == 2
    assert fleet("channel", "remove", "stable", "--model", "digits", "--json").document["name"] == "stable"
    assert hub.sent("POST", "/channels") == [{"name": "stable"}]


def test_a_rollout_for_a_group_names_its_label(fleet, hub) -> None:
    hub.on("POST", "/rollouts", {}, status=201)
    assert fleet("rollout", "create", "digits", "2", "--channel", "stable", "--group", "site=berlin").code == 0
    assert hub.sent("POST", "/rollouts")[0]["groups"] == ["site=berlin"]


def test_a_model_says_how_right_it_is_and_whether_asking_the_cloud_pays(fleet, hub) -> None:
    right = {"share": 0.931, "low": 0.91, "high": 0.9482, "samples": 812, "hours": 300}
    reason = "the cloud's answers are worse: of 60 labelled samples; where they differ, …"
    answers = {"release": 3, "device": right, "compared": 60, "verdict": "worse", "reason": reason}
    model = {"name": "digits", "created_at": 0.0, "answers": [answers]}
    hub.on("GET", "/models/digits", model)
    out = fleet("model", "show", "digits").out
    assert "93.1 % (91.0 to 94.8 %, 812 labels)" in out and reason in out
    assert "cloud right:" in out and "not enough evidence" in out
    assert fleet("model", "show", "digits", "--json").document["answers"][0]["verdict"] == "worse"


def test_a_number_that_is_none_is_a_usage_error(fleet, hub) -> None:
    assert fleet("device", "set", "d1", "--pin", "digits=²").code == 2
    assert fleet("device", "set", "d1", "--pin", f"digits={'9' * 5000}").code == 2
    for timeout in ("nan", "inf", "-1"):
        assert fleet("job", "watch", "j", "--timeout", timeout).code == 2, "it would never give up"
    assert hub.asked == []


ANSWERED = [
    ({"prediction": 7, "confidence": 0.91, "cloud_prediction": 3}, ["0.91", "7", "3"]),
    ({"prediction": 0, "confidence": 0.0}, ["0", "0", "–"]),
    ({"prediction": -1, "confidence": 0.0}, ["–", "–", "–"]),  # a regression's
    ({"prediction": -1, "confidence": 0.997, "cloud_prediction": -1}, ["0.997", "–", "–"]),  # a detection's
]


@pytest.mark.parametrize(("said", "shown"), ANSWERED)
def test_a_sample_whose_answer_is_no_class_shows_none(fleet, hub, said, shown) -> None:
    sample = {"id": "s1", "model": "m", "device_id": "d", "reason": "random", "release": 1, "at": 1.8e9, **said}
    hub.on("GET", "/samples?model=m", {"items": [sample], **PAGE_END})
    row = fleet("sample", "list", "--model", "m").out.splitlines()[1]
    assert row.split()[-4:-1] == shown
