"""What a page of the viewer costs at a million messages, and in a conversation of 100,000.

`python -m tests.benchmarks.viewer [CONVERSATIONS] [MESSAGES]` (10,000 conversations of 100 messages, and one conversation of
100,000) on SQLite and PostgreSQL. Each page is asked for in the process, without a socket: reading, rendering and encoding.
Medians of 7 after two first requests, wall time. Statements and bytes are those of the last request.
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
_TENANT = "large"


def fill(database: str, conversations: int, messages: int) -> tuple[str, str]:
    """Fill a database. Return the ids of a small and of the long conversation, as they are in addresses."""
    key = million.fill(database, {_TENANT: conversations})[_TENANT][0]
    model = ScriptedModel(["一つ目の返事です。", "二つ目の返事です。"])
    with Convokit(database, tenant=_TENANT, model="gpt-4o", api_key="x", http_client=model.client()) as kit:
        small, long = kit.conversation(key), kit.chat("long")
        long.send("長い会話")
        assert small is not None
        assert long.id is not None
        engine = open_engine(parse_database_url(database))
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            grow(connection, long.id, messages)
        with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text("ANALYZE"))
        engine.dispose()
    return str(small.id), str(long.id)


def list_paths(viewer: AsgiViewer, small: str, long: str, messages: int) -> dict[str, str]:
    """Return the pages."""
    english, japanese = million.common()
    middle = messages // 2
    turn, first = (
        viewer.get(f"/c/{path}.json").json()["history"]["turns"][-1]["id"] for path in (small, f"{long}/m/2")
    )
    return {
        "conversations": "/conversations",
        "a conversation of 100": f"/c/{small}",
        "the long conversation": f"/c/{long}",
        "the same, in the middle": f"/c/{long}/m/{middle}",
        "the same, an older page": f"/c/{long}?before={middle}",
        "all branches": f"/c/{long}/log",
        "tree": f"/c/{long}/tree",
        "versions": f"/c/{long}/m/{middle}/versions",
        "turn": f"/c/{small}/t/{turn}",
        "what was sent": f"/c/{long}/t/{first}/1",
        "what the model saw": f"/c/{long}/t/{first}/1/window",
        "next request": f"/c/{long}/next",
        "proof": f"/c/{long}/proof",
        "removals": f"/c/{long}/removals",
        "usage of 30 days": "/usage",
        "search, a common word": f"/search?q={quote(english)}",
        "search, two characters": f"/search?q={quote(japanese)}",
        "search, a rare word": f"/search?q={quote(million.RARE[1])}",
    }


def measure(viewer: AsgiViewer, path: str) -> tuple[float, int, int]:
    """Return the milliseconds, the statements and the bytes of a page."""
    times, count, size = [], 0, 0
    for _ in range(_REPEATS + 2):
        start = time.perf_counter()
        with count_statements() as statements:
            response = viewer.get(path)
        times.append((time.perf_counter() - start) * 1000)
        count, size = len(statements), len(response.content)
        assert response.status_code == 200, f"{path}: {response.status_code}"
    return statistics.median(times[2:]), count, size


def run(conversations: int = 10_000, messages: int = 100_000) -> str:
    """Return a table of all pages on both databases."""
    files, postgres = Files(), Postgres()
    columns: list[dict[str, tuple[float, int, int]]] = []
    for database in (files.migrated(), postgres.migrated()):
        small, long = fill(database, conversations, messages)
        with viewing(database) as viewer:
            assert viewer.viewer is not None
            viewer.viewer = type(viewer.viewer)(_TENANT)
            found = list_paths(viewer, small, long, messages)
            columns.append({name: measure(viewer, path) for name, path in found.items()})
    postgres.close()
    files.close()
    rows = [
        [name, f"{on_sqlite[0]:.1f}", f"{columns[1][name][0]:.1f}", str(on_sqlite[1]), f"{on_sqlite[2] / 1000:.0f}"]
        for name, on_sqlite in columns[0].items()
    ]
    return page.table(["page", "SQLite, ms", "PostgreSQL, ms", "statements", "kB"], rows)


if __name__ == "__main__":
    print(run(*map(int, sys.argv[1:])))
