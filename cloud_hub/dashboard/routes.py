"""The dashboard's routes: the page at `/`, its fragments, samples with their labels, `/login` and `/logout`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Form, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates

from cloud_hub.api.access import HubDep
from cloud_hub.api.errors import error_response
from cloud_hub.dashboard import access, labels, plots, views
from cloud_hub.dashboard.access import COOKIE, LoginNeeded, Visitor
from cloud_hub.errors import HubError, InvalidError, NotFoundError
from cloud_hub.identity.callers import Caller
from cloud_hub.identity.tokens import role_allows
from cloud_hub.rollouts.orders import apply_order
from cloud_hub.samples import pictures, store
from fleet.api.rollouts import Order

HERE = Path(__file__).parent
ORDERS: dict[str, Order] = {"pause": "pause", "resume": "resume", "abort": "abort", "approve": "approve"}
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}

router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(directory=HERE / "templates")


def _number(value: float) -> str:
    """Three digits, with a power of ten when it is large."""
    return f"{value:.3g}"


def _sentence(detail: Any) -> str:
    """A document in one short line."""
    if not isinstance(detail, dict):
        return str(detail)
    return ", ".join(f"{key} {_brief(value)}" for key, value in detail.items() if value not in ("", None, {}, []))


def _brief(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 120 else text[:117] + "…"


templates.env.filters |= {"ago": views.ago, "number": _number, "sentence": _sentence}


def install(app: FastAPI) -> None:
    """Serve the static files, and answer a visitor who is not logged in with the way to `/login`."""
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.add_exception_handler(LoginNeeded, _to_login)


async def _to_login(request: Request, error: Exception) -> Response:
    if request.headers.get("hx-request"):
        answer = error_response(request.url.path, "unauthenticated", "nobody is logged in", hint="open /login")
        answer.headers["HX-Redirect"] = "/login"
        return answer
    return RedirectResponse("/login", status_code=303, headers=HEADERS)


def _render(request: Request, name: str, *, status: int = 200, **context: Any) -> Response:
    return templates.TemplateResponse(request, name, context, status_code=status, headers=HEADERS)


def _content(request: Request, hub: HubDep, caller: Caller) -> dict[str, Any]:
    return {
        "view": views.overview(hub),
        "caller": caller,
        "may_change": role_allows(caller.role, "operator"),
        "csrf": access.csrf_token(request.cookies[COOKIE]),
    }


@router.get("/")
def page(request: Request, hub: HubDep, caller: Visitor) -> Response:
    """The page."""
    return _render(request, "page.html", **_content(request, hub, caller))


@router.get("/dashboard/live")
def live(request: Request, hub: HubDep, caller: Visitor) -> Response:
    """What changes, as a fragment."""
    return _render(request, "live.html", **_content(request, hub, caller))


@router.get("/dashboard/drift.json")
def drift(hub: HubDep, caller: Visitor) -> Response:
    """The plots' data."""
    return JSONResponse({"items": plots.drift_plots(hub)}, headers=HEADERS)


@router.get("/login")
def login_form(request: Request) -> Response:
    """Ask for an operator token."""
    return _render(request, "login.html", problem="")


@router.post("/login")
def login(request: Request, hub: HubDep, token: Annotated[str, Form()] = "") -> Response:
    """Turn an operator token into a cookie."""
    token = token.strip()
    try:
        access.log_in(hub, token)
    except HubError as error:
        return _render(request, "login.html", status=error.status, problem=f"{error}.")
    response = RedirectResponse("/", status_code=303, headers=HEADERS)
    access.remember(response, token, secure=request.url.scheme == "https")
    return response


@router.post("/logout")
def logout(request: Request, caller: Visitor, csrf: Annotated[str, Form()] = "") -> Response:
    """Forget the cookie; leaving is allowed to every role, but only from our own page."""
    access.check_form(request, csrf)
    response = RedirectResponse("/login", status_code=303, headers=HEADERS)
    response.delete_cookie(COOKIE, path="/")
    return response


@router.post("/dashboard/rollouts/{rollout}")
async def order(
    rollout: str,
    request: Request,
    hub: HubDep,
    caller: Visitor,
    action: Annotated[str, Form()] = "",
    stage: Annotated[int | None, Form()] = None,
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Pause, resume, abort or approve a rollout."""
    access.check_change(request, caller, csrf)
    if action not in ORDERS:
        raise InvalidError(f"no order {action!r}", subject="action", hint=", ".join(ORDERS))
    seen = stage if action == "approve" else None  # what the page showed; an abort is meant whatever the stage is
    await run_in_threadpool(apply_order, hub, rollout, ORDERS[action], "from the dashboard", caller.actor, seen)
    return RedirectResponse("/", status_code=303, headers=HEADERS)


@router.get("/dashboard/samples/{model}")
def samples(model: str, request: Request, hub: HubDep, caller: Visitor) -> Response:
    """A model's newest samples with their answers and labels."""
    return _samples(request, hub, caller, model)


@router.get("/dashboard/pictures/{sample}")
def picture(sample: str, hub: HubDep, caller: Visitor) -> Response:
    """A sample's input that is an image, as PNG; 404 without any."""
    found = pictures.picture_of(store.arrays(hub, store.get(hub, sample)).inputs)
    if found is None:
        raise NotFoundError(f"sample {sample} has no picture", subject=sample)
    return Response(found, media_type="image/png", headers=HEADERS)


@router.post("/dashboard/samples/{model}")
def label_sample(
    model: str,
    request: Request,
    hub: HubDep,
    caller: Visitor,
    sample: Annotated[str, Form()] = "",
    label: Annotated[str, Form()] = "",
    csrf: Annotated[str, Form()] = "",
) -> Response:
    """Write down what is true of one sample; what is refused is said above the table."""
    access.check_change(request, caller, csrf)
    try:
        labels.write(hub, sample, label, actor=caller.actor)
    except HubError as error:
        return _samples(request, hub, caller, model, error)
    return RedirectResponse(f"/dashboard/samples/{quote(model, safe='')}", status_code=303, headers=HEADERS)


def _samples(request: Request, hub: HubDep, caller: Caller, model: str, error: HubError | None = None) -> Response:
    return _render(
        request,
        "samples.html",
        status=error.status if error is not None else 200,
        view=labels.page_of(hub, model),
        problem=f"{error}. {error.hint}" if error is not None else "",
        caller=caller,
        may_change=role_allows(caller.role, "operator"),
        csrf=access.csrf_token(request.cookies[COOKIE]),
        now=hub.clock(),
    )
