"""Build the ASGI application of the viewer."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from convokit.async_kit import AsyncConvokit
from convokit.errors import ConvokitError, InvalidInput, NotFound, SettingsError, StoreError, StoreUnavailable
from convokit.viewer.access import Authenticate, Viewer
from convokit.viewer.language import choose_language
from convokit.viewer.page_request import Links, PageRequest
from convokit.viewer.pages import conversations
from convokit.viewer.rendering import answer_json, load_static, render_page, render_template

log = logging.getLogger("convokit.viewer")
Read = Callable[[PageRequest], Awaitable[Any]]
_JSON = ".json"
_PAGES: tuple[tuple[str, str, Read], ...] = (("/conversations", "conversations", conversations.read_conversations),)
"""Path, template, and the function that reads what the page shows. Each page is also there as JSON, under `<path>.json`."""


def create_app(kit: AsyncConvokit, *, auth: Authenticate) -> Starlette:
    """Return the viewer as an ASGI application. It may be mounted in an application of FastAPI or Starlette at any path.

    Args:
        kit: A kit with `read_only=True`. It stays open when the application ends.
        auth: Returns the viewer of a request, or None, which is answered with 401.

    Raises: SettingsError for a kit that can write.

    Example:
        async def find_viewer(request):
            return Viewer(tenant="acme") if request.session.get("is_staff") else None

        app.mount("/history", create_app(kit, auth=find_viewer))
    """
    if not kit._state.read_only:
        raise SettingsError("kit", "the viewer takes a kit that cannot write: pass AsyncConvokit(..., read_only=True)")
    routes = [Route("/", _make_endpoint(kit, auth, *_PAGES[0][1:], as_json=False))]
    for path, template, read in _PAGES:
        routes += [
            Route(path + _JSON, _make_endpoint(kit, auth, template, read, as_json=True)),
            Route(path, _make_endpoint(kit, auth, template, read, as_json=False)),
        ]
    routes.append(Route("/-/static/{name}", _answer_static))
    routes.append(Route("/{rest:path}", _make_endpoint(kit, auth, "error", _refuse_unknown, as_json=False)))
    return Starlette(routes=routes)


def _make_endpoint(
    kit: AsyncConvokit, auth: Authenticate, template: str, read: Read, *, as_json: bool
) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that authenticates a request, reads a page and answers errors."""

    async def answer(request: Request) -> Response:
        try:
            viewer = await auth(request)
            if viewer is None:
                return _answer_error(request, 401, "error_sign_in", as_json=as_json)
            page = make_page_request(kit, request, viewer)
            value = await read(page)
            if isinstance(value, Response):
                return value
            return answer_json(value) if as_json else await render_page(page, template, value)
        except Exception as error:
            return _answer_exception(request, error, as_json=as_json)

    return answer


def make_page_request(kit: AsyncConvokit, request: Request, viewer: Viewer) -> PageRequest:
    """Return the request of a page, with the kit of the viewer's tenant."""
    root: str = request.scope.get("root_path", "")
    path = request.scope["path"].removeprefix(root)
    return PageRequest(request, viewer, kit.tenant(viewer.tenant), choose_language(request), Links(root), path)


async def _refuse_unknown(page: PageRequest) -> Any:
    raise NotFound("page", "at this address")


def _answer_exception(request: Request, error: Exception, *, as_json: bool) -> Response:
    """Return the page of an error. It shows no text of anyone and no traceback."""
    if isinstance(error, NotFound):
        return _answer_error(request, 404, "error_not_found", as_json=as_json)
    if isinstance(error, InvalidInput):
        return _answer_error(request, 400, "error_input", str(error), as_json=as_json)
    if isinstance(error, StoreUnavailable):
        log.warning("the database is not available: %s", error)
        response = _answer_error(request, 503, "error_database", as_json=as_json)
        response.headers["retry-after"] = "5"
        return response
    if isinstance(error, StoreError):
        return _answer_error(request, 500, "error_store", str(error), as_json=as_json)
    reference = secrets.token_hex(4)
    log.error("error %s on a page", reference, exc_info=None if isinstance(error, ConvokitError) else error)
    return _answer_error(request, 500, "error_internal", reference, as_json=as_json)


def _answer_error(request: Request, status: int, key: str, detail: str = "", *, as_json: bool) -> Response:
    language, links = choose_language(request), Links(request.scope.get("root_path", ""))
    if as_json:
        return answer_json({"error": {"status": status, "message": str(language(key, detail=detail))}}, status)
    return HTMLResponse(render_template("error", language, links, status=status, key=key, detail=detail), status)


async def _answer_static(request: Request) -> Response:
    found = load_static().get(request.path_params["name"])
    if found is None:
        return Response("not found", 404)
    content, media_type = found
    return Response(content, media_type=media_type, headers={"cache-control": "public, max-age=31536000, immutable"})
