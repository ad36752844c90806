"""Build the ASGI application of the viewer."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from convokit import AsyncConvokit
from convokit.errors import InvalidInput, NotFound, SchemaOutdated, SettingsError, StoreUnavailable
from convokit.viewer import files, live
from convokit.viewer.access import Authenticate, Viewer
from convokit.viewer.guard import Guard
from convokit.viewer.language import LANGUAGE_COOKIE, LANGUAGES, choose_language
from convokit.viewer.message_text import RenderedTexts
from convokit.viewer.page_request import Links, PageRequest
from convokit.viewer.pages import (
    conversation_list,
    conversation_page,
    proof_page,
    search_page,
    tree_page,
    turn_page,
    usage_page,
    versions_page,
)
from convokit.viewer.pending_reads import PendingReads
from convokit.viewer.rendering import answer_json, load_static, render_page, render_template
from convokit.viewer.sign_in import SignIn, answer_sign_in, answer_sign_out, ask_to_sign_in

log = logging.getLogger("convokit.viewer")
Read = Callable[[PageRequest], Awaitable[Any]]
_JSON = ".json"
_CONVERSATION = "/c/{id:uuid}"
_CALL = _CONVERSATION + "/t/{turn:uuid}/{call:int}"
_PAGES: tuple[tuple[str, str, Read], ...] = (
    ("/conversations", "conversations", conversation_list.read_conversations),
    ("/search", "search", search_page.read_search),
    ("/usage", "usage", usage_page.read_usage),
    (_CONVERSATION, "conversation", conversation_page.read_branch),
    (_CONVERSATION + "/b/{branch:int}", "conversation", conversation_page.read_branch),
    (_CONVERSATION + "/m/{seq:int}", "conversation", conversation_page.read_message),
    (_CONVERSATION + "/m/{seq:int}/versions", "versions", versions_page.read_versions),
    (_CONVERSATION + "/log", "log", conversation_page.read_log),
    (_CONVERSATION + "/tree", "tree", tree_page.read_tree),
    (_CONVERSATION + "/t/{turn:uuid}", "turn", turn_page.read_turn),
    (_CALL, "request", turn_page.read_request),
    (_CALL + "/window", "window", turn_page.read_window),
    (_CONVERSATION + "/diff", "diff", turn_page.read_diff),
    (_CONVERSATION + "/next", "next", turn_page.read_next),
    (_CONVERSATION + "/b/{branch:int}/next", "next", turn_page.read_next),
    (_CONVERSATION + "/proof", "proof", proof_page.read_proof),
    (_CONVERSATION + "/verify", "proof", proof_page.verify),
    (_CONVERSATION + "/removals", "removals", proof_page.read_removals),
)
"""Path, template, and the function that reads what the page shows. Each page is also there as JSON, under `<path>.json`."""
_FILES: tuple[tuple[str, Read], ...] = (
    ("/k/{key:path}", conversation_page.find_key),
    ("/usage.csv", usage_page.download_usage),
    ("/export.{suffix}", files.export_all),
    (_CONVERSATION + "/export.{suffix}", files.export_conversation),
    (_CONVERSATION + "/blob/{digest}", files.answer_blob),
    (_CONVERSATION + "/m/{seq:int}/raw", conversation_page.answer_raw),
    (_CALL + "/body.json", turn_page.download_request),
    (_CONVERSATION + "/live", live.stream_changes),
    (_CONVERSATION + "/b/{branch:int}/live", live.stream_changes),
    (_CONVERSATION + "/verify/events", live.stream_check),
)
"""Path, and the function that answers with something other than a page."""


def create_app(kit: AsyncConvokit, *, auth: Authenticate, allowed_hosts: Collection[str] | None = None) -> Starlette:
    """Return the viewer as an ASGI application. It may be mounted in an application of FastAPI or Starlette at any path.

    Args:
        kit: A kit with `read_only=True`. It stays open when the application ends.
        auth: Returns the viewer of a request, or None, which is answered with 401.
        allowed_hosts: The names that the `Host` header may have, without ports. Default: any. An application that a
            browser on the same machine reaches without signing in must name them: "localhost", "127.0.0.1".

    Raises: SettingsError for a kit that can write.

    Example:
        async def find_viewer(request):
            return Viewer(tenant="acme") if request.session.get("is_staff") else None

        app.mount("/history", create_app(kit, auth=find_viewer))
    """
    if not kit.read_only:
        raise SettingsError("kit", "the viewer takes a kit that cannot write: pass AsyncConvokit(..., read_only=True)")
    state = _State(kit, auth, proof_page.ChainChecks(), PendingReads(), RenderedTexts())
    routes = [Route("/", state.make_endpoint(_PAGES[0][2], _PAGES[0][1]))]
    for path, template, read in _PAGES:
        routes.append(Route(path + _JSON, state.make_endpoint(read, None)))
        routes.append(Route(path, state.make_endpoint(read, template)))
    routes.append(Route(_CONVERSATION + "/proof", state.make_endpoint(proof_page.compare, "proof"), methods=["POST"]))
    routes += [Route(path, state.make_endpoint(answer, "error")) for path, answer in _FILES]
    if isinstance(auth, SignIn):
        routes += _make_sign_in_routes(auth)
    routes.append(Route("/-/static/{name}", _answer_static))
    routes.append(Route("/-/health", _answer_health))
    routes.append(Route("/{rest:path}", state.make_endpoint(_refuse_unknown, "error")))
    return Starlette(routes=routes, middleware=[Middleware(Guard, allowed_hosts=allowed_hosts)])


def _make_sign_in_routes(access: SignIn) -> list[Route]:
    async def sign_in(request: Request) -> Response:
        try:
            return await answer_sign_in(request, access)
        except Exception as error:
            return _answer_exception(request, error, as_json=False)

    async def sign_out(request: Request) -> Response:
        return await answer_sign_out(request, access)

    return [
        Route("/-/in", sign_in, methods=["GET", "POST"]),
        Route("/-/out", sign_out, methods=["POST"]),
    ]


@dataclass(frozen=True, slots=True)
class _State:
    """What the requests of one application share."""

    kit: AsyncConvokit
    auth: Authenticate
    checks: proof_page.ChainChecks
    pending: PendingReads
    texts: RenderedTexts

    def make_endpoint(self, read: Read, template: str | None) -> Callable[[Request], Awaitable[Response]]:
        """Return an endpoint that authenticates a request, reads a page and answers errors. Without a template it is JSON."""

        async def answer(request: Request) -> Response:
            try:
                viewer = await self.auth(request)
                if viewer is None and isinstance(self.auth, SignIn) and template is not None:
                    return ask_to_sign_in(request, self.auth)
                if viewer is None:
                    return _answer_error(request, 401, "error_sign_in", as_json=template is None)
                page = self._make_page_request(request, viewer)
                chosen = request.query_params.get("lang")
                if chosen in LANGUAGES and template is not None:
                    return _change_language(page, chosen)
                value = await read(page)
                if isinstance(value, Response):
                    return value
                return answer_json(value) if template is None else await render_page(page, template, value, self.texts)
            except Exception as error:
                return _answer_exception(request, error, as_json=template is None)

        return answer

    def _make_page_request(self, request: Request, viewer: Viewer) -> PageRequest:
        root: str = request.scope.get("root_path", "")
        path = request.scope["path"].removeprefix(root)
        kit = self.kit.tenant(viewer.tenant)
        return PageRequest(
            request,
            viewer,
            kit,
            choose_language(request),
            Links(root),
            path,
            self.checks,
            self.pending,
            self.auth,
            isinstance(self.auth, SignIn),
        )


def _change_language(page: PageRequest, code: str) -> Response:
    """Keep the language in a cookie, and return to the page."""
    response = RedirectResponse(page.with_query(lang=None), 303)
    path = page.links.root or "/"
    response.set_cookie(LANGUAGE_COOKIE, code, max_age=31536000, path=path, httponly=True, samesite="strict")
    return response


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
    if isinstance(error, SchemaOutdated):
        return _answer_error(request, 500, "error_store", str(error), as_json=as_json)
    if isinstance(error, SettingsError):
        return _answer_error(request, 400, "error_settings", str(error), as_json=as_json)
    reference, place = secrets.token_hex(4), traceback.extract_tb(error.__traceback__)[-1]
    # The text of the exception may quote a message.
    log.error("a page failed (%s): %s in %s, line %s", reference, type(error).__name__, place.filename, place.lineno)
    return _answer_error(request, 500, "error_internal", reference, as_json=as_json)


def _answer_error(request: Request, status: int, key: str, detail: str = "", *, as_json: bool) -> Response:
    language, links = choose_language(request), Links(request.scope.get("root_path", ""))
    if as_json:
        return answer_json({"error": {"status": status, "message": str(language(key, detail=detail))}}, status)
    return HTMLResponse(render_template("error", language, links, status=status, key=key, detail=detail), status)


async def _answer_health(request: Request) -> Response:
    return answer_json({"status": "ok"})


async def _answer_static(request: Request) -> Response:
    found = load_static().get(request.path_params["name"])
    if found is None:
        return Response("not found", 404)
    content, media_type = found
    return Response(content, media_type=media_type, headers={"cache-control": "public, max-age=31536000, immutable"})
