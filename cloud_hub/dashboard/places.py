"""Addresses of pages: where acts begin and end, and what an event is about."""

from __future__ import annotations

from urllib.parse import quote


def part(name: str | int) -> str:
    """A name as a part of a path."""
    return quote(str(name), safe="")


def rollout(name: str) -> str:
    """A rollout's page."""
    return f"/rollouts/{part(name)}"


def device(name: str) -> str:
    """A device's page."""
    return f"/devices/{part(name)}"


def answer(device_name: str, command: str) -> str:
    """The page of a command with its answer."""
    return f"{device(device_name)}/commands/{part(command)}"


def model(name: str) -> str:
    """A model's page."""
    return f"/models/{part(name)}"


def samples(model_name: str) -> str:
    """The page of a model's samples."""
    return f"{model(model_name)}/samples"


def job(name: str) -> str:
    """A job's page."""
    return f"/jobs/{part(name)}"


def event(name: str) -> str:
    """An event's page."""
    return f"{EVENTS}/{part(name)}"


ROLLOUTS, DEVICES, DRIFT, JOBS, ACCESS = "/rollouts", "/devices", "/drift", "/jobs", "/access"
EVENTS = "/events"
