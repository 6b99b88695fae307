"""Rollouts: the newest, and one with its evidence."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.api.params import KeyPath, KeyQuery
from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views import rollouts as words
from cloud_hub.rollouts import orders

router = APIRouter(prefix="/rollouts", include_in_schema=False)
PAGE = 25


@router.get("")
def show_list(frame: Framed, after: KeyQuery = "") -> Response:
    """Rollouts, newest first."""
    page = orders.list_rollouts(frame.hub, after=after, limit=PAGE)
    return frame.show("rollouts.html", page=page, words=words)


@router.get("/{rollout}")
def show(rollout: KeyPath, frame: Framed) -> Response:
    """One rollout: where it is, what speaks for it and against it, what happened."""
    found, events = orders.show_rollout(frame.hub, rollout), orders.list_events(frame.hub, rollout)
    return frame.show("rollout.html", rollout=found, events=events, words=words)
