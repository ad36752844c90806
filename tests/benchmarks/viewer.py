"""What a page of the viewer costs at a million messages, and in a conversation of 100,000.

`python -m tests.benchmarks.viewer [CONVERSATIONS] [MESSAGES]` (10,000 conversations of 100 messages, and one conversation of
100,000) on SQLite and PostgreSQL. Each page is asked for in the process, without a socket: reading, rendering and encoding.
Medians of 7 after two first requests, wall time. Statements and bytes are those of the last request.

Messages have 150 (Japanese) or 400 (English) characters, so that some 600 of them fill a window of 128,000 tokens. In a third
conversation they have one line, and many thousands fill it.
"""

from __future__ import annotations

import statistics
import sys
import time
from urllib.parse import quote

from sqlalchemy import text

from convokit import Convokit
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.testing import ScriptedModel
from tests.benchmarks import million, page
from tests.support.databases import Files, Postgres
from tests.support.large_databases import grow
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer, viewing

_REPEATS = 7
_ADDED_UP, _BUILT = "the same, until it is added up", "the same, until it is built"
_TENANT = "large"


def fill(database: str, conversations: int, messages: int) -> dict[str, str]:
    """Fill a database. Return the ids of a small, of the long and of a conversation of one-line messages, as in addresses."""
    key = million.fill(database, {_TENANT: conversations})[_TENANT][0]
    japanese, english = (text for text, _ in million.said()[:2])
    model = ScriptedModel([english, english, "一つ目の返事です。", "二つ目の返事です。"])
    ids = {}
    with Convokit(database, tenant=_TENANT, model="gpt-4o", api_key="x", http_client=model.client()) as kit:
        small = kit.conversation(key)
        assert small is not None
        ids["small"] = str(small.id)
        engine = open_engine(parse_database_url(database))
        for name, question, count in (("long", japanese, messages), ("lines", "長い会話", messages // 5)):
            chat = kit.chat(name)
            chat.send(question)
            assert chat.id is not None
            with engine.execution_options(**{WRITE: True}).begin() as connection:
                grow(connection, chat.id, count)
            chat.send(question)
            ids[name] = str(chat.id)
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("ANALYZE"))
        engine.dispose()
    return ids


def list_paths(viewer: AsgiViewer, ids: dict[str, str], messages: int) -> dict[str, str]:
    """Return the pages."""
    english, japanese = million.common()
    middle = messages // 2
    small, long, lines = (f"/c/{ids[name]}" for name in ("small", "long", "lines"))
    turn, first, large, lines_turn = (
        viewer.get(f"{path}.json").json()["history"]["turns"][-1]["id"] for path in (small, f"{long}/m/2", long, lines)
    )
    return {
        "conversations": "/conversations",
        "a conversation of 100": small,
        "the long conversation": long,
        "the same, in the middle": f"{long}/m/{middle}",
        "the same, an older page": f"{long}?before={middle}",
        "all branches": f"{long}/log",
        "tree": f"{long}/tree",
        "versions": f"{long}/m/{middle}/versions",
        "turn": f"{small}/t/{turn}",
        "what was sent": f"{long}/t/{first}/1",
        "what was sent, a full window": f"{long}/t/{large}/1",
        "what the model saw": f"{long}/t/{large}/1/window",
        "what the model saw, of one-line messages": f"{lines}/t/{lines_turn}/1/window",
        "next request": f"{long}/next",
        "next request, of one-line messages": f"{lines}/next",
        _BUILT: f"{lines}/next",
        "proof": f"{long}/proof",
        "removals": f"{long}/removals",
        "usage of 30 days": "/usage",
        _ADDED_UP: "/usage",
        "search, a common word": f"/search?q={quote(english)}",
        "search, two characters": f"/search?q={quote(japanese)}",
        "search, a rare word": f"/search?q={quote(million.RARE[1])}",
    }


def measure(viewer: AsgiViewer, path: str, *, complete: bool) -> tuple[float, int, int]:
    """Return the milliseconds, the statements and the bytes of a page; if `complete`, until it does not wait any more."""
    times, count, size = [], 0, 0
    for _ in range(_REPEATS + 2):
        start = time.perf_counter()
        with count_statements() as statements:
            response = viewer.get(path) if complete else viewer.request("GET", path)
        times.append((time.perf_counter() - start) * 1000)
        count, size = len(statements), len(response.content)
        assert response.status_code == 200, f"{path}: {response.status_code}"
    return statistics.median(times[2:]), count, size


def run(conversations: int = 10_000, messages: int = 100_000) -> str:
    """Return a table of all pages on both databases."""
    files, postgres = Files(), Postgres()
    columns: list[dict[str, tuple[float, int, int]]] = []
    for database in (files.migrated(), postgres.migrated()):
        ids = fill(database, conversations, messages)
        with viewing(database) as viewer:
            assert viewer.viewer is not None
            viewer.viewer = type(viewer.viewer)(_TENANT)
            found = list_paths(viewer, ids, messages)
            columns.append(
                {name: measure(viewer, path, complete=name in (_ADDED_UP, _BUILT)) for name, path in found.items()}
            )
    postgres.close()
    files.close()
    rows = [
        [name, f"{on_sqlite[0]:.1f}", f"{columns[1][name][0]:.1f}", str(on_sqlite[1]), f"{on_sqlite[2] / 1000:.0f}"]
        for name, on_sqlite in columns[0].items()
    ]
    return page.table(["page", "SQLite, ms", "PostgreSQL, ms", "statements", "kB"], rows)


if __name__ == "__main__":
    print(run(*map(int, sys.argv[1:])))
