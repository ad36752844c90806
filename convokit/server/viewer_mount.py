"""Serve the viewer under `/view`, for callers with an API key."""

from __future__ import annotations

import hashlib
import hmac
import time

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Mount, Route

from convokit.async_kit import AsyncConvokit
from convokit.server.callers import KeyAuthentication
from convokit.server.database import Database
from convokit.store import keys
from convokit.viewer import Viewer
from convokit.viewer import create_app as create_viewer
from convokit.viewer.sign_in import SessionCookie, SignIn

VIEW_PATH = "/view"
_SESSION_S = 12 * 3600
_SECRET = b"convokit viewer"


class KeySignIn(SignIn):
    """Lets in callers with an API key that may read.

    The cookie has the digest of the key, which is no key, and a signature. So every worker accepts it, also after a restart.
    Each request looks the key up, so that a session ends when its key does.
    """

    has_form = True
    cookie_name = "convokit_view"

    def __init__(self, kit: AsyncConvokit) -> None:
        self._database = Database(kit)
        self._keys = KeyAuthentication(self._database)

    async def __call__(self, request: Request) -> Viewer | None:
        """Return the viewer of the cookie; None if it is forged or old, or its key has ended or may not read."""
        digest, _, rest = request.cookies.get(self.cookie_name, "").partition(".")
        expiry, _, signature = rest.partition(".")
        if not signature or not hmac.compare_digest(signature.encode(), (await self._sign(digest, expiry)).encode()):
            return None
        if int(expiry) < time.time():  # signed, so it is a number
            return None
        return await self._find_viewer(bytes.fromhex(digest))

    async def sign_in(self, secret: str) -> SessionCookie | None:
        """Return the cookie for an API key that may read."""
        digest = keys.digest_key(secret)
        if await self._find_viewer(digest) is None:
            return None
        expiry = str(int(time.time()) + _SESSION_S)
        signature = await self._sign(digest.hex(), expiry)
        return SessionCookie(f"{digest.hex()}.{expiry}.{signature}", _SESSION_S)

    async def _find_viewer(self, digest: bytes) -> Viewer | None:
        caller = await self._keys.find_caller(digest)
        return Viewer(caller.tenant, caller.name) if caller is not None and keys.READ in caller.scopes else None

    async def _sign(self, digest: str, expiry: str) -> str:
        secret = hashlib.sha256(_SECRET + (await self._database.check()).bytes).digest()
        return hmac.new(secret, f"{digest}.{expiry}".encode(), hashlib.sha256).hexdigest()


async def _let_everyone_in(request: Request) -> Viewer:
    return Viewer()


def mount_viewer(app: Starlette, kit: AsyncConvokit, *, require_keys: bool) -> None:
    """Add the pages to the gateway's application. The gateway checks the Host header of a server without keys."""
    viewer = create_viewer(kit, auth=KeySignIn(kit) if require_keys else _let_everyone_in)
    app.router.routes[:0] = [Route(VIEW_PATH, _add_slash), Mount(VIEW_PATH, viewer)]


async def _add_slash(request: Request) -> Response:
    return RedirectResponse(f"{request.scope.get('root_path', '')}{VIEW_PATH}/", 308)
