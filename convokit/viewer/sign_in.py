"""Sign in by a link or a key, and keep a session."""

from __future__ import annotations

import hmac
import re
import secrets
from abc import ABC, abstractmethod
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from convokit.viewer.access import Viewer
from convokit.viewer.forms import read_form
from convokit.viewer.language import choose_language
from convokit.viewer.page_request import Links
from convokit.viewer.rendering import render_template

_MAX_BODY_BYTES = 64 * 1024
_PATH = re.compile(r"/(?![/\\])[!-~]*")
"""A path below the viewer. `//` and a backslash would lead to another host."""
_RELOAD = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0"><title>convokit</title>'


@dataclass(frozen=True, slots=True)
class SessionCookie:
    """The value of a cookie, and how many seconds a browser keeps it. None: until it is closed."""

    value: str
    max_age_s: int | None = None


class SignIn(ABC):
    """Finds viewers by a cookie that they get for a secret."""

    cookie_name: str
    has_form: bool
    """Whether the secret is entered in a form. False: it is in a link."""

    @abstractmethod
    async def __call__(self, request: Request) -> Viewer | None:
        """Return the viewer of the cookie, or None."""

    @abstractmethod
    async def sign_in(self, secret: str) -> SessionCookie | None:
        """Return the cookie for a secret, None for a wrong one."""


class OneTimeLink(SignIn):
    """Lets in whoever opens the link first. Link and session live in memory, and end with the process."""

    has_form = False

    def __init__(self, viewer: Viewer, port: int) -> None:
        self._viewer = viewer
        self.cookie_name = f"convokit_view_{port}"  # browsers keep one cookie of a name for all ports of a host
        self.token = secrets.token_urlsafe(32)
        self._session = secrets.token_urlsafe(32)
        self._is_used = False

    async def __call__(self, request: Request) -> Viewer | None:
        """Return the viewer if the request has the session."""
        given = request.cookies.get(self.cookie_name, "")
        return self._viewer if hmac.compare_digest(given.encode(), self._session.encode()) else None

    async def sign_in(self, secret: str) -> SessionCookie | None:
        """Return the session for the token, once."""
        if self._is_used or not hmac.compare_digest(secret.encode(), self.token.encode()):
            return None
        self._is_used = True
        return SessionCookie(self._session)


async def answer_sign_in(request: Request, access: SignIn) -> Response:
    """Answer the sign-in page: exchange the token of a link or the key of the form for a cookie, and go on to the pages."""
    links = Links(request.scope.get("root_path", ""))
    if request.method == "POST":
        form = await read_form(request, _MAX_BODY_BYTES)
        cookie = await access.sign_in(form.get("key", "").strip()) if access.has_form else None
        following = form.get("next", "")
    else:
        token = request.query_params.get("token")
        if token is None or access.has_form:
            return _show(request, access, "" if access.has_form else "link_needed", request.query_params.get("next"))
        cookie, following = await access.sign_in(token), ""
        if cookie is None and await access(request) is not None:
            return RedirectResponse(links("/"), 303)
    if cookie is None:
        return _show(request, access, "sign_in_failed" if access.has_form else "link_used", following)
    # A redirect, so that the token is neither in the address bar nor in the history.
    response = RedirectResponse(links.root + (following if _PATH.fullmatch(following) else "/"), 303)
    response.set_cookie(
        access.cookie_name,
        cookie.value,
        max_age=cookie.max_age_s,
        path=links.root or "/",
        secure=request.scope.get("scheme") == "https",
        httponly=True,
        samesite="strict",
    )
    return response


async def answer_sign_out(request: Request, access: SignIn) -> Response:
    """Delete the cookie."""
    links = Links(request.scope.get("root_path", ""))
    response = RedirectResponse(links("/-/in"), 303)
    response.delete_cookie(access.cookie_name, path=links.root or "/", httponly=True, samesite="strict")
    return response


def ask_to_sign_in(request: Request, access: SignIn) -> Response:
    """Answer a request for a page without a session."""
    # A link on another site, such as one in a mail, brings no strict cookie. A reload from here does.
    if request.headers.get("sec-fetch-site") == "cross-site":
        return HTMLResponse(_RELOAD)
    if not access.has_form:
        return _show(request, access, "link_needed", None)
    root: str = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(root)
    query = request.scope["query_string"].decode("latin-1")
    following = f"{path}?{query}" if query else path
    return RedirectResponse(Links(root)("/-/in", next=following if _PATH.fullmatch(following) else None), 303)


def _show(request: Request, access: SignIn, problem: str, following: str | None) -> Response:
    language, links = choose_language(request), Links(request.scope.get("root_path", ""))
    html = render_template("sign_in", language, links, access=access, problem=problem, following=following or "")
    return HTMLResponse(html, 401 if problem else 200)
