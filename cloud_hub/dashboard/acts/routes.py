"""The routes of everything that people do on the dashboard: each act has a page with its form, which sends it.

Whoever sends it must be logged in with the role, from a form of this hub's that was made for this cookie, which was not
sent before and shows what is still so. A refusal shows the form again, with the words and with what was typed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import quote

from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from cloud_hub.dashboard import access
from cloud_hub.dashboard.acts.forms import Act, ActDone, ActRequest, Form, Told
from cloud_hub.dashboard.acts.register import ACTS
from cloud_hub.dashboard.rendering import Frame, Framed, go_to
from cloud_hub.errors import ConflictError, ForbiddenError, HubError, KeptError, error_code
from cloud_hub.identity import sent_forms
from cloud_hub.identity.callers import Caller
from cloud_hub.identity.tokens import role_allows
from fleet.protocol.errors import ProtocolError
from fleet.protocol.refusals import STATUS

MOST_FIELDS = 400  # of one form: a label for each of many samples
Refused = (HubError, ProtocolError)
OWN = ("csrf", "form", "seen", "step")  # fields that every form has

router = APIRouter(include_in_schema=False)


def _shown(
    frame: Frame, act: Act, asked: ActRequest, form: Form, *, error: HubError | ProtocolError | None = None
) -> Response:
    """The form, to be sent once, with the error that kept it from being carried out."""
    status = 200 if error is None else STATUS[error_code(error)]
    path = act.path.format(**{name: quote(value, safe="") for name, value in asked.names.items()})
    here = f"/{form.back.split('/')[1]}"  # the page that is marked in the navigation
    problem, own = _words(error), sent_forms.new_form()
    return frame.show("act.html", status=status, form=form, path=path, here=here, id=own, problem=problem)


def _words(error: HubError | ProtocolError | None) -> str:
    if error is None:
        return ""
    return f"{error}. {error.hint[:1].upper()}{error.hint[1:]}." if error.hint else f"{error}."


def _problem(frame: Frame, error: HubError | ProtocolError) -> Response:
    """A page that says why there is no form."""
    return frame.show("problem.html", status=STATUS[error_code(error)], problem=_words(error))


def _again(frame: Frame, act: Act, asked: ActRequest, error: HubError | ProtocolError) -> Response:
    """The form as it was sent, with the refusal; a page that says it where there is nothing to act on any more."""
    try:
        return _shown(frame, act, asked, act.form(asked), error=error)
    except Refused:
        return _problem(frame, error)


def _check_role(act: Act, caller: Caller) -> None:
    if not role_allows(caller.role, act.role):
        raise ForbiddenError(f"this needs the role {act.role}", subject=caller.actor, hint="log in with such a token")


def _show(act: Act) -> Callable[..., Response]:
    def show(frame: Framed) -> Response:
        request = frame.request
        given = {name: value for name, value in request.query_params.items() if name not in OWN}
        asked = ActRequest(hub=frame.hub, caller=frame.caller, names=request.path_params, given=given)
        try:
            _check_role(act, frame.caller)
            return _shown(frame, act, asked, act.form(asked))
        except Refused as error:
            return _problem(frame, error)

    return show


def _send(act: Act) -> Callable[..., Awaitable[Response]]:
    async def send(frame: Framed) -> Response:
        async with frame.request.form(max_files=0, max_fields=MOST_FIELDS) as form:
            sent = {name: value for name, value in form.items() if isinstance(value, str)}
        return await run_in_threadpool(_carry_out, frame, act, sent)

    return send


def _carry_out(frame: Frame, act: Act, sent: dict[str, str]) -> Response:
    given = {name: value for name, value in sent.items() if name not in OWN}
    names = frame.request.path_params
    asked = ActRequest(hub=frame.hub, caller=frame.caller, names=names, given=given, step=sent.get("step", ""))
    try:
        access.check_form(frame.request, sent.get("csrf", ""))
        _check_role(act, frame.caller)
        form = act.form(asked)
    except Refused as error:
        return _problem(frame, error)
    try:
        done = _do(act, asked, form, sent)
    except KeptError as kept:
        done = Told(title="It is kept, and not shown to devices yet", says=[_words(kept)], shown=[], back=form.back)
    except Refused as error:
        return _again(frame, act, asked, error)
    if isinstance(done, Form):
        return _shown(frame, act, asked, done)
    if isinstance(done, Told):
        return frame.show("told.html", told=done, here=done.back)
    return go_to(done.location)


def _do(act: Act, asked: ActRequest, form: Form, sent: dict[str, str]) -> ActDone | Told | Form:
    if asked.step in act.plain:
        return act.do(asked)
    if form.blocked:
        raise ConflictError(form.blocked, subject=form.title)
    if sent.get("seen", "") != form.seen:
        what = f"this page was out of date, and nothing was done: {sent.get('seen', '')[:200] or 'nothing'} was shown, "
        raise ConflictError(what + f"and now it is {form.seen}", subject="page", hint="look again before you send it")
    sent_forms.claim(asked.hub, sent.get("form", ""), actor=asked.caller.actor)
    try:
        return act.do(asked)
    except KeptError:  # it was carried out, so this form is used up
        raise
    except Refused:
        sent_forms.give_back(asked.hub, sent.get("form", ""))
        raise


for _act in ACTS:
    router.add_api_route(_act.path, _show(_act), methods=["GET"], name=f"show {_act.path}")
    router.add_api_route(_act.path, _send(_act), methods=["POST"], name=f"send {_act.path}")
