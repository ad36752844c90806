"""Test the API keys of the gateway and the windows that count their requests."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from convokit.errors import ReadOnly
from convokit.runtime.sync_store import SyncStore, open_store
from convokit.store import keys, schema
from convokit.store.engine import parse_database_url
from convokit.store.keys import ApiKeyRow

DIGEST = keys.digest_key("ck-a")
ROW = ApiKeyRow(DIGEST, "会社", "鍵", ("chat", "read"), ("大きい", "small"), 60, 1_700_000_000_000_001)
Permits = Callable[..., int]


@pytest.fixture
def store(database: str) -> Iterator[SyncStore]:
    opened = open_store(parse_database_url(database), "test")
    yield opened
    opened.close()


@pytest.fixture
def take(store: SyncStore) -> Permits:
    """Take permits in a transaction of its own."""

    def call(period: int, wanted: int, limit: int, digest: bytes = DIGEST, kind: str = "requests") -> int:
        return store.run(
            lambda connection: keys.take_permits(connection, digest, kind, period, wanted, limit), write=True
        )

    return call


def _insert(store: SyncStore, row: ApiKeyRow) -> None:
    store.run(lambda connection: keys.insert_key(connection, row), write=True)


def _windows(store: SyncStore) -> list[tuple[Any, ...]]:
    table = schema.key_window
    query = select(table.c.kind, table.c.period, table.c.used).order_by(table.c.kind, table.c.period)
    return store.run(lambda connection: [tuple(row) for row in connection.execute(query)], write=False)


@pytest.mark.once
def test_keys_differ_and_their_digests_do() -> None:
    """A key has 43 characters of base64 after its prefix, for 32 random bytes."""
    made = {keys.make_key() for _ in range(100)}
    assert len({keys.digest_key(each) for each in made}) == 100
    assert {(each[:3], len(each)) for each in made} == {("ck-", 46)}
    assert {len(keys.digest_key(each)) for each in made} == {32}
    assert len(keys.digest_key("鍵")) == 32


@pytest.mark.parametrize(
    "row",
    [
        ROW,
        replace(ROW, models=None, requests_per_minute=None, scopes=("read",)),
        replace(ROW, models=(), expires_at=1_800_000_000_000_000, revoked_at=1_700_000_000_000_002),
    ],
)
def test_a_key_is_read_as_it_was_stored(store: SyncStore, row: ApiKeyRow) -> None:
    """No model and all models are different things."""
    _insert(store, row)
    assert store.run(lambda connection: keys.find_key(connection, DIGEST), write=False) == row
    assert store.run(lambda connection: keys.find_key(connection, keys.digest_key("ck-b")), write=False) is None
    assert store.run(lambda connection: keys.find_key_by_name(connection, "会社", "鍵"), write=False) == row
    assert store.run(lambda connection: keys.find_key_by_name(connection, "acme", "鍵"), write=False) is None


def test_a_name_is_unique_within_a_tenant(store: SyncStore) -> None:
    """Also after the key was revoked."""
    _insert(store, ROW)
    _insert(store, replace(ROW, digest=b"b", tenant="acme"))
    store.run(lambda connection: keys.revoke_key(connection, "会社", "鍵", 5), write=True)
    with pytest.raises(IntegrityError), store.engine.begin() as connection:
        keys.insert_key(connection, replace(ROW, digest=b"c"))


def test_list_keys_returns_a_tenants_keys_the_oldest_first(store: SyncStore, database: str) -> None:
    """Without a tenant it returns all. A store that is opened for reading is enough."""
    rows = [
        replace(ROW, digest=b"2", name="new", created_at=20),
        replace(ROW, digest=b"1", name="old", created_at=10),
        replace(ROW, digest=b"3", tenant="acme", created_at=15),
    ]
    for row in rows:
        _insert(store, row)
    reading = open_store(parse_database_url(database), "test", read_only=True)
    found = reading.run(lambda connection: keys.list_keys(connection, "会社"), write=False)
    assert found == [rows[1], rows[0]]
    assert reading.run(keys.list_keys, write=False) == [rows[1], rows[2], rows[0]]
    assert reading.run(lambda connection: keys.list_keys(connection, "nobody"), write=False) == []
    with pytest.raises(ReadOnly):
        reading.run(lambda connection: keys.revoke_key(connection, "会社", "new", 5), write=False)
    reading.close()


def test_revoke_key_changes_one_key_once(store: SyncStore) -> None:
    """A repeat does not change the time. The key of the same name of another tenant stays."""
    _insert(store, ROW)
    _insert(store, replace(ROW, digest=b"b", tenant="acme"))

    def revoke(tenant: str, name: str, at: int) -> bool:
        return store.run(lambda connection: keys.revoke_key(connection, tenant, name, at), write=True)

    assert [revoke("会社", "鍵", 5), revoke("会社", "鍵", 6), revoke("会社", "no", 7)] == [True, False, False]
    assert {row.tenant: row.revoked_at for row in store.run(keys.list_keys, write=False)} == {"会社": 5, "acme": None}


def test_has_keys_counts_keys_that_can_be_used(store: SyncStore) -> None:
    def has_keys() -> bool:
        return store.run(keys.has_keys, write=False)

    now = time.time_ns() // 1000
    assert not has_keys()
    _insert(store, replace(ROW, digest=b"1", name="expired", expires_at=now - 1))
    _insert(store, replace(ROW, digest=b"2", name="revoked", revoked_at=now + 10**9))
    assert not has_keys()
    _insert(store, replace(ROW, digest=b"3", name="later", expires_at=now + 10**9))
    assert has_keys()


@pytest.mark.once
def test_describe_state() -> None:
    assert keys.describe_state(replace(ROW, expires_at=10), 9) == "active"
    assert keys.describe_state(replace(ROW, expires_at=10), 10) == "expired"
    assert keys.describe_state(replace(ROW, expires_at=10, revoked_at=5), 20) == "revoked"
    assert keys.describe_state(ROW, 2**60) == "active"


def test_permits_end_at_the_limit(take: Permits, store: SyncStore) -> None:
    """The last caller gets what is left. Another key, kind or window has its own limit."""
    assert [take(100, 4, 10) for _ in range(4)] == [4, 4, 2, 0]
    assert take(100, 4, 10, digest=b"other") == 4
    assert take(100, 4, 10, kind="tokens") == 4
    assert take(101, 4, 10) == 4
    assert sorted(_windows(store)) == [
        ("requests", 100, 4),
        ("requests", 100, 10),
        ("requests", 101, 4),
        ("tokens", 100, 4),
    ]


def test_no_permits_are_granted_below_one(take: Permits, store: SyncStore) -> None:
    """A limit that was lowered meanwhile takes nothing back."""
    assert [take(1, 0, 5), take(1, 3, 0), take(1, 3, 5), take(1, 3, 2), take(1, -1, 9)] == [0, 0, 3, 0, 0]
    assert _windows(store) == [("requests", 1, 3)]


def test_old_windows_are_deleted(take: Permits, store: SyncStore) -> None:
    """The first request of a minute deletes the windows of the key that are ten minutes old."""
    take(90, 1, 1, digest=b"other")
    for period in range(90, 120):
        take(period, 1, 5)
        take(period, 1, 5)
    assert _windows(store) == [("requests", 90, 1), *(("requests", period, 2) for period in range(110, 120))]


def test_a_late_clock_gets_no_second_limit(take: Permits) -> None:
    """A process may be late by some minutes. What others took of its window still counts."""
    assert take(100, 5, 5) == 5
    assert take(109, 5, 5) == 5
    assert take(100, 5, 5) == 0
    assert take(109, 1, 5) == 0


def test_threads_never_take_more_than_the_limit(take: Permits, store: SyncStore) -> None:
    """All start with a window that does not exist, at the same moment."""
    start = threading.Barrier(8)

    def work() -> int:
        start.wait()
        return sum(take(7, 3, 50) for _ in range(6))

    with ThreadPoolExecutor(8) as pool:
        granted = list(pool.map(lambda _: work(), range(8)))
    assert sum(granted) == 50
    assert _windows(store) == [("requests", 7, 50)]


WORKER = """
import sys
from convokit.runtime.sync_store import open_store
from convokit.store import keys
from convokit.store.engine import parse_database_url

store = open_store(parse_database_url(sys.argv[1]), "test")
print("ready", flush=True)
sys.stdin.readline()
digest = keys.digest_key("ck-a")
for period in range(10):
    granted = 0
    while given := store.run(lambda c: keys.take_permits(c, digest, "requests", period, 3, 40), write=True):
        granted += given
    print(granted)
"""


@pytest.mark.soak(sample=True)
def test_two_processes_never_take_more_than_the_limit(database: str, store: SyncStore) -> None:
    """They go through ten windows side by side, each window to its end."""
    command = [sys.executable, "-c", WORKER, database]
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
            for _ in range(2)
        ]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
        outputs = [[int(line) for line in worker.communicate()[0].split()] for worker in workers]
    assert [len(each) for each in outputs] == [10, 10]
    assert [sum(each) for each in zip(*outputs, strict=True)] == [40] * 10
    assert [used for _, _, used in _windows(store)] == [40] * 10
