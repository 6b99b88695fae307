"""Access: who may do what, by tokens."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from cloud_hub.dashboard.rendering import Framed
from cloud_hub.dashboard.views.access import access_page

router = APIRouter(prefix="/access", include_in_schema=False)


@router.get("")
def show(frame: Framed) -> Response:
    """Tokens without their secrets, for admins as the API has it, and which credentials end soon."""
    return frame.show("access.html", view=access_page(frame.hub, tokens=frame.may_administer))
