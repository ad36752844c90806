"""Who sees what: sign-in, hosts, methods, headers, tenants and errors."""

from __future__ import annotations

import logging
import re
from typing import Any
from uuid import uuid4

import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from convokit import AsyncConvokit, Convokit
from convokit.errors import SettingsError
from convokit.viewer import Viewer, create_app
from convokit.viewer.rendering import _make_environment
from convokit.viewer.routes import _FILES, _PAGES
from convokit.viewer.sign_in import OneTimeLink
from tests.viewer.in_process import AsgiViewer, Parsed, Story, tell_story, viewing

pytestmark = pytest.mark.once
_ROUTES = [route for route, *_ in _PAGES if "{id" in route] + [route for route, _ in _FILES if "{id" in route]


def _fill(route: str, id_: Any, story: Story) -> str:
    values = {
        "id": id_,
        "turn": story.last_turn,
        "call": 1,
        "seq": 4,
        "branch": 1,
        "suffix": "jsonl",
        "digest": story.png,
    }
    path = re.sub(r"\{(\w+)(?::\w+)?\}", lambda match: str(values[match[1]]), route)
    return f"{path}?a={story.first_turn}&b={story.last_turn}" if route.endswith("/diff") else path


@pytest.mark.parametrize("route", _ROUTES)
def test_another_tenants_conversation_does_not_exist(viewer: AsgiViewer, story: Story, route: str) -> None:
    """Every route with a conversation: the answer is the one for an id that nobody has."""
    viewer.viewer = Viewer("other")
    answers = [viewer.get(_fill(route, id_, story)) for id_ in (story.id, uuid4())]
    assert [each.status_code for each in answers] == [404, 404]
    assert answers[0].content == answers[1].content
    for path in ("/", "/search?q=重要", "/usage?by=conversation", "/export.jsonl", "/k/京都"):
        assert str(story.id) not in viewer.get(path).text


@pytest.mark.parametrize("route", _ROUTES)
def test_nobody_sees_anything_without_a_viewer(viewer: AsgiViewer, story: Story, route: str) -> None:
    viewer.viewer = None
    response = viewer.get(_fill(route, story.id, story))
    assert response.status_code == 401
    assert "京都" not in response.text
    assert viewer.get("/conversations.json").json()["error"]["status"] == 401


def test_each_response_limits_the_browser(viewer: AsgiViewer, story: Story) -> None:
    """Pages, errors and static files; words are kept by no cache."""
    static = re.findall(r"/-/static/[\w.]+", viewer.get("/").text)
    assert len(static) == 3
    for path in ("/", f"/c/{story.id}", "/nothing", "/-/health", "/conversations.json", *static):
        headers = viewer.get(path).headers
        assert headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; script-src 'self'")
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert ("immutable" in headers["cache-control"]) == (path in static)
        assert path in static or headers["cache-control"] == "no-store"
    assert viewer.get("/-/static/view.css").status_code == 404
    elements = Parsed(viewer.get(f"/c/{story.id}").text).elements
    assert not [name for _, given in elements for name in given if name == "style" or name.startswith("on")]
    assert all("src" in given for tag, given in elements if tag == "script")


def test_only_the_named_hosts_are_answered(sqlite_file: str) -> None:
    """Reads and the health check too: a page may rebind its name to this address."""
    with viewing(sqlite_file) as viewer:
        viewer.app = create_app(viewer.kit, auth=viewer._find_viewer, allowed_hosts=("localhost", "::1"))
        for host in ("evil.example", "localhost.evil.example", "localhost@evil", "", "127.0.0.1"):
            for path in ("/", "/-/health", "/nothing"):
                assert viewer.get(path, headers={"host": host}).status_code == 421
        for host in ("localhost", "LOCALHOST:8000", "[::1]:80"):
            assert viewer.get("/-/health", headers={"host": host}).status_code == 200


def test_methods_and_origins(sqlite_viewer: AsgiViewer) -> None:
    """Only reads, and forms of the same origin."""
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert sqlite_viewer.request(method, "/").status_code == 405
    assert sqlite_viewer.request("POST", "/").status_code == 405
    assert sqlite_viewer.request("HEAD", "/").status_code == 200
    for headers in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
    ):
        assert sqlite_viewer.request("POST", "/-/in", headers=headers).status_code == 403


def test_a_link_works_once(sqlite_file: str) -> None:
    """The token becomes a cookie and leaves the address; later uses are refused, unless the browser is signed in."""
    access = OneTimeLink(Viewer(name="me"), 1234)
    with viewing(sqlite_file, auth=access) as viewer:
        assert viewer.get("/").status_code == 401
        assert viewer.get("/-/in?token=wrong").status_code == 401
        response = viewer.get(f"/-/in?token={access.token}")
        assert (response.status_code, response.headers["location"]) == (303, "/")
        cookie = response.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Path=/" in cookie
        assert access.token not in cookie
        session = {"cookie": cookie.partition(";")[0]}
        assert viewer.get("/", headers=session).status_code == 200
        assert "me" in viewer.get("/", headers=session).text
        used = viewer.get(f"/-/in?token={access.token}", headers={"accept-language": "ja"})
        assert used.status_code == 401
        assert "使用済み" in used.text
        assert viewer.get(f"/-/in?token={access.token}", headers=session).status_code == 303
        assert viewer.get("/", headers={"cookie": f"{access.cookie_name}={access.token}"}).status_code == 401
        assert viewer.request("POST", "/-/in", data={"key": access.token}).status_code == 401
        out = viewer.request("POST", "/-/out", headers=session)
        assert 'convokit_view_1234=""' in out.headers["set-cookie"]
        assert viewer.get("/-/out", headers=session).status_code == 404


def test_a_cookie_of_https_is_secure(sqlite_file: str) -> None:
    access = OneTimeLink(Viewer(), 1)
    with viewing(sqlite_file, auth=access) as viewer:
        response = viewer.get(f"https://localhost/-/in?token={access.token}")
        assert "Secure" in response.headers["set-cookie"]


def test_a_link_of_another_site_is_loaded_again(sqlite_file: str) -> None:
    """A strict cookie does not come with a link in a mail; it comes with the reload."""
    with viewing(sqlite_file, auth=OneTimeLink(Viewer(), 1)) as viewer:
        first = viewer.get("/search?q=x", headers={"sec-fetch-site": "cross-site"})
        assert first.status_code == 200
        assert 'http-equiv="refresh" content="0"' in first.text
        assert viewer.get("/search?q=x", headers={"sec-fetch-site": "same-origin"}).status_code == 401


def test_links_begin_with_the_mount_path(database: str) -> None:
    """In an application at any path."""
    story = tell_story(database)
    with viewing(database) as viewer:
        viewer.app = Starlette(routes=[Mount("/admin/history", viewer.app)])
        page = viewer.get(f"/admin/history/c/{story.id}")
        assert page.status_code == 200
        paths = re.findall(r'(?:href|src|action|data-live|data-page)="(/[^"]*)"', page.text)
        assert len(paths) > 20
        assert all(path.startswith("/admin/history/") for path in paths)
        assert viewer.get(paths[0]).status_code == 200
        moved = viewer.get("/admin/history/?lang=ja&subject=花子")
        assert moved.status_code == 303
        assert moved.headers["location"].startswith("/admin/history/?subject=")
        assert "Path=/admin/history" in moved.headers["set-cookie"]


def test_a_kit_that_writes_is_refused(sqlite_file: str) -> None:
    with pytest.raises(SettingsError, match="read_only=True"):
        create_app(AsyncConvokit(sqlite_file), auth=OneTimeLink(Viewer(), 1))


def test_errors_tell_nothing(viewer: AsgiViewer, story: Story, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A fault has a reference that is in the log, and neither shows a text; addresses are not logged."""
    caplog.set_level(logging.INFO)
    monkeypatch.setitem(_make_environment().globals, "view_messages", None)
    response = viewer.get(f"/c/{story.id}?source=秘密")
    assert response.status_code == 500
    reference = re.search(r"reference (\w{8})", response.text)
    assert reference is not None
    assert "TypeError" not in response.text
    assert reference[1] in caplog.text
    own = [each.getMessage() for each in caplog.records if each.name.startswith("convokit")]
    assert any("GET /c/{id:uuid} 500" in line for line in own)
    assert not any("秘密" in line or "京都" in line or str(story.id) in line for line in own)


def test_tables_that_do_not_fit_are_explained(empty_database: str, backend: str) -> None:
    """A file that does not exist, a database without tables, and a kit without a search index."""
    with viewing(empty_database) as viewer:
        page = viewer.get("/")
        if backend == "sqlite":
            assert (page.status_code, page.headers["retry-after"]) == (503, "5")
        else:
            assert page.status_code == 500
            assert "migrate" in page.text
    with Convokit(empty_database) as kit:
        kit.migrate()
    with viewing(empty_database, search=False) as viewer:
        assert "search=False" in viewer.get("/search?q=x").text
        assert "There is no conversation yet" in viewer.get("/").text


def test_bad_addresses(viewer: AsgiViewer, story: Story) -> None:
    """Malformed ids and numbers, foreign cursors, controls: an error page each."""
    for path, status in (
        ("/c/x", 404),
        (f"/c/{story.id}/m/99999999999999999999", 404),
        (f"/c/{story.id}/t/{uuid4()}", 404),
        (f"/c/{story.id}?before=x", 400),
        (f"/c/{story.id}?before=99999999999", 400),
        (f"/c/{story.id}?before=77", 404),
        ("/?before=x", 400),
        ("/?since=yesterday", 400),
        ("/search?q=%00", 400),
        ("/?subject=%00", 400),
        (f"/c/{story.id}/diff?a=x&b=y", 400),
        (f"/c/{story.id}/t/{story.last_turn}/9", 404),
        ("/c/../../etc/passwd", 404),
        ("/-/static/..%2f..%2froutes.py", 404),
    ):
        response = viewer.get(path)
        assert response.status_code == status, (path, response.text)
        assert f"Error {status}" in response.text or "not found" in response.text
