"""The machine's vital signs are read from files; values that they lack, or that no machine can have, are left out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.host.vitals import APART_S, KEPT_S, VitalSigns
from edge_agent.serving.metrics import Metrics
from edge_agent.telemetry.request_metrics import show_vitals
from fleet.protocol.vitals import Vitals, mended_vitals

MEMINFO = "MemTotal:        1000 kB\nMemFree:          100 kB\nMemAvailable:     250 kB\n"


@pytest.fixture
def machine(tmp_path: Path) -> Callable[..., Path]:
    """Write what a machine tells; an empty text is a file that is not there."""

    def write(stat: str = "", meminfo: str = MEMINFO, **zones: str) -> Path:
        files = {"proc/stat": stat, "proc/meminfo": meminfo}
        files |= {f"sys/class/thermal/{zone}/temp": text for zone, text in zones.items()}
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            if text:
                path.write_text(text)
        return tmp_path

    return write


def test_the_processors_are_busy_for_their_share_of_the_time_between(machine: Callable[..., Path]) -> None:
    now = [0.0]
    signs = VitalSigns(Path("/"), root=machine("cpu  100 0 100 800 0 0 0 0 50 0\n"), monotonic=lambda: now[0])
    machine("cpu  150 0 150 1500 200 0 0 0 99 0\n")
    assert signs.read().cpu is None  # too soon for a share
    now[0] += APART_S
    assert signs.read().cpu == 0.1
    machine("cpu  900 0 900 1500 200 0 0 0 99 0\n")
    now[0] += 1
    assert signs.read().cpu == 0.1
    machine("cpu  1 0 1 1 0 0 0 0 0 0\n")  # a guest that was moved
    now[0] += APART_S
    assert signs.read().cpu is None


def test_one_look_at_the_metrics_is_one_reading(machine: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked = [0.0], []
    signs = VitalSigns(Path("/"), root=machine(), monotonic=lambda: now[0])
    monkeypatch.setattr(signs, "_memory", lambda: looked.append(now[0]) or (None, None))
    metrics = Metrics()
    show_vitals(metrics, signs)
    metrics.render()
    assert looked == [0.0]
    now[0] += KEPT_S
    metrics.render()
    assert looked == [0.0, KEPT_S]


def test_memory_and_the_hottest_sensor_that_makes_sense_are_told(machine: Callable[..., Path]) -> None:
    zones = {
        "thermal_zone0": "41500\n",
        "thermal_zone1": "-274000\n",
        "thermal_zone2": "off\n",
        "thermal_zone3": "39000",
    }
    found = VitalSigns(Path("/"), root=machine(**zones)).read()
    assert (found.memory, found.memory_free, found.celsius) == (1_024_000, 256_000, 41.5)


@pytest.mark.parametrize("meminfo", ["", "MemTotal: x kB\n", "MemTotal: 5 kB\nMemAvailable: 6 kB\n", "MemTotal:\n"])
@pytest.mark.parametrize("stat", ["", "cpu\n", "cpu a b\n"])
def test_what_is_not_told_is_left_out(machine: Callable[..., Path], meminfo: str, stat: str) -> None:
    now = [0.0]
    signs = VitalSigns(Path("/none"), root=machine(stat, meminfo), monotonic=lambda: now[0])
    now[0] += APART_S
    assert signs.read() == Vitals()


@pytest.mark.skipif(sys.platform != "linux", reason="the files are Linux's")
def test_a_real_machine_tells_what_a_hub_takes(tmp_path: Path) -> None:
    found, bad = mended_vitals(VitalSigns(tmp_path).read())
    assert not bad
    assert found.memory and found.memory_free and found.disk and found.disk_free is not None


def test_they_are_shown_at_metrics(machine: Callable[..., Path]) -> None:
    metrics = Metrics()
    show_vitals(metrics, VitalSigns(Path("/none"), root=machine(thermal_zone0="41500")))
    shown = metrics.render().decode()
    assert "edge_machine_celsius 41.5\n" in shown and "edge_machine_memory_free_bytes 256000\n" in shown
    assert "\nedge_machine_disk_bytes " not in shown
