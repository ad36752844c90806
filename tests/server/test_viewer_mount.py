"""The viewer under `/view` of the gateway: sign-in with an API key, and its end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest

from convokit import AsyncConvokit
from convokit.server import callers
from convokit.server.viewer_mount import mount_viewer
from convokit.store import keys
from tests.server.in_process import ORIGIN, AsgiGateway, serving
from tests.viewer.in_process import Story, tell_story

pytestmark = pytest.mark.once


class MountedViewer:
    """A gateway with keys and the viewer on one database."""

    def __init__(self, gateway: AsgiGateway, database: str, *, require_keys: bool = True) -> None:
        self.gateway = gateway
        self.kit = AsyncConvokit(database, read_only=True)
        mount_viewer(gateway.app, self.kit, require_keys=require_keys)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(self.gateway.app)
            async with httpx.AsyncClient(transport=transport, base_url=ORIGIN) as client:
                return await client.request(method, path, **options)

        return self.gateway.wait(send())

    def sign_in(self, key: str, following: str = "") -> httpx.Response:
        return self.request("POST", "/view/-/in", content=urlencode({"key": key, "next": following}))

    def get(self, path: str, cookie: str | None = None) -> httpx.Response:
        return self.request("GET", path, headers={} if cookie is None else {"cookie": cookie.encode("latin-1")})


def read_cookie(response: httpx.Response) -> str:
    return response.headers["set-cookie"].partition(";")[0]


@pytest.fixture
def mounted(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[MountedViewer]:
    monkeypatch.setattr(callers, "_KNOWN_S", 0.0)  # each request looks its key up
    with serving(database, auth=None) as gateway:
        viewer = MountedViewer(gateway, database)
        yield viewer
        gateway.wait(viewer.kit.close())


def test_a_key_opens_a_session_that_ends_with_it(mounted: MountedViewer, database: str) -> None:
    """Form, cookie, page; then the key is revoked. The cookie does not have the key."""
    story = tell_story(database)
    page = f"/view/c/{story.id}"
    asked = mounted.get(f"{page}?before=9")
    assert asked.status_code == 303
    assert asked.headers["location"] == f"/view/-/in?next=%2Fc%2F{story.id}%3Fbefore%3D9"
    form = mounted.get(asked.headers["location"])
    assert 'type="password"' in form.text
    assert f'value="/c/{story.id}?before=9"' in form.text
    key = mounted.gateway.make_key(name="監査人", scopes=("read",))
    response = mounted.sign_in(key, f"/c/{story.id}?before=9")
    assert (response.status_code, response.headers["location"]) == (303, f"{page}?before=9")
    for part in ("HttpOnly", "SameSite=strict", "Path=/view", "Max-Age=43200"):
        assert part in response.headers["set-cookie"]
    assert key not in response.headers["set-cookie"]
    cookie = read_cookie(response)
    shown = mounted.get(page, cookie)
    assert "京都旅行" in shown.text
    assert "監査人" in shown.text
    assert mounted.get(f"{page}.json", cookie).status_code == 200
    assert mounted.get("/v1/models", cookie).status_code == 401  # the session is no API key
    assert mounted.gateway.wait(_revoke(mounted, "監査人"))
    assert mounted.get(page, cookie).status_code == 303
    assert mounted.get(f"{page}.json", cookie).status_code == 401


async def _revoke(mounted: MountedViewer, name: str) -> bool:
    database = mounted.gateway.state.database
    revoked: bool = await database.write(keys.revoke_key, "default", name, time.time_ns() // 1000)
    return revoked


def test_keys_that_open_nothing(mounted: MountedViewer) -> None:
    """Unknown, expired, without the scope, and a body that is too long."""
    expired = mounted.gateway.make_key(expires_at=time.time_ns() // 1000 - 1)
    for key in ("ck-unknown", "", expired, mounted.gateway.make_key(scopes=("chat",)), "x" * 100_000):
        response = mounted.sign_in(key)
        assert response.status_code == 401
        assert "set-cookie" not in response.headers
        assert "unknown, revoked or expired" in response.text


def test_forged_and_old_cookies(mounted: MountedViewer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another digest, a later expiry, no signature; and one after 12 hours."""
    cookie = read_cookie(mounted.sign_in(mounted.gateway.make_key()))
    name, _, value = cookie.partition("=")
    digest, expiry, signature = value.split(".")
    other = keys.digest_key(mounted.gateway.make_key()).hex()
    assert mounted.get("/view/", cookie).status_code == 200
    for forged in (
        f"{other}.{expiry}.{signature}",
        f"{digest}.{int(expiry) + 1}.{signature}",
        f"{digest}.{expiry}.",
        f"{digest}.{expiry}",
        f"{digest}.x.{signature}",
        "é",
    ):
        assert mounted.get("/view/", f"{name}={forged}").status_code == 303
    now = time.time()
    monkeypatch.setattr("convokit.server.viewer_mount.time.time", lambda: now + 12 * 3600 + 1)
    assert mounted.get("/view/", cookie).status_code == 303


@pytest.mark.parametrize(
    "following", ["//evil.example", "https://evil.example", "/\\evil.example", "evil", "/\n/x", ""]
)
def test_the_way_after_sign_in_stays_in_the_viewer(mounted: MountedViewer, following: str) -> None:
    response = mounted.sign_in(mounted.gateway.make_key(), following)
    assert response.headers["location"] == "/view/"


def test_a_key_sees_its_tenant_alone(mounted: MountedViewer, database: str) -> None:
    stories: dict[str, Story] = {tenant: tell_story(database, tenant=tenant, key=tenant) for tenant in ("a", "b")}
    cookie = read_cookie(mounted.sign_in(mounted.gateway.make_key(tenant="a")))
    assert mounted.get(f"/view/c/{stories['a'].id}", cookie).status_code == 200
    assert mounted.get(f"/view/c/{stories['b'].id}", cookie).status_code == 404
    assert str(stories["b"].id) not in mounted.get("/view/", cookie).text


def test_a_drain_refuses_pages_too(mounted: MountedViewer) -> None:
    mounted.gateway.state.is_draining = True
    assert mounted.get("/view/").status_code == 503


def test_without_keys_the_gateway_checks_the_host(sqlite_file: str) -> None:
    """Everyone on this machine sees the pages, and no page of another site."""
    with serving(sqlite_file) as gateway:
        viewer = MountedViewer(gateway, sqlite_file, require_keys=False)
        moved = viewer.get("/view")
        assert (moved.status_code, moved.headers["location"]) == (308, "/view/")
        assert viewer.get("/view/").status_code == 200
        assert viewer.request("GET", "/view/", headers={"host": "evil.example"}).status_code == 421
        gateway.wait(viewer.kit.close())
