"""Count the statements and rows of a turn."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from sqlalchemy import event, text

from convokit import Budget, Convokit, Retry
from convokit.domain.message import MessageRow
from convokit.errors import ServerFailed
from convokit.store import messages, pipeline
from convokit.store.engine import WRITE, open_engine, parse_database_url
from convokit.store.fast_execute import FastConnection
from tests.support.reports import report_of
from tests.support.server import LoopbackServer, calls, failure


class Traffic:
    """Counts statements, commits and rows of a kit."""

    def __init__(self, kit: Convokit) -> None:
        self.statements: list[str] = []
        self.transactions: Counter[str] = Counter()
        self.sizes: list[tuple[str, int]] = []
        """Of each transaction, its kind and how many statements it had, BEGIN and COMMIT apart."""
        self._fresh = 0
        self.rows = 0
        engine = kit._runtime._store.engine
        event.listen(engine, "before_cursor_execute", self._statement)
        event.listen(engine, "commit", self._commit)

    def _statement(self, connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        self.statements.append(statement)
        self._fresh += not statement.startswith("BEGIN")

    def _commit(self, connection: Any) -> None:
        writing = connection.get_execution_options().get(WRITE)
        kind = "write" if writing else "read"
        self.transactions[kind] += 1
        self.sizes.append((kind, self._fresh))
        self._fresh = 0

    def reset(self) -> None:
        self.statements.clear()
        self.transactions.clear()
        self.sizes.clear()
        self.rows = 0


def _grow(kit: Convokit, database: str, key: str, count: int) -> None:
    """Give a conversation `count` messages, as if it had been talked in for long."""
    chat = kit.chat(key)
    chat.send("first")
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        head = messages.find(connection, chat.id, 2)  # type: ignore[arg-type]
        assert head is not None
        rows = []
        for seq in range(3, count + 1):
            values = {name: getattr(head, name) for name in MessageRow.__slots__}
            values |= {"seq": seq, "parent_seq": seq - 1, "role": "user" if seq % 2 else "assistant"}
            values |= {"path_tokens": head.path_tokens + (seq - 2) * head.tokens, "window_from_seq": None}
            rows.append(MessageRow(**values))
        messages.append(connection, chat.id, rows)  # type: ignore[arg-type]
        connection.execute(text("UPDATE convokit_conversation SET head_seq = :n, last_seq = :n"), {"n": count})
    engine.dispose()


@pytest.fixture
def sync_kit(database: str, server: LoopbackServer) -> Any:
    with Convokit(
        database, model="loop-1", base_url=server.url, budget=Budget(context_tokens=400, reply_tokens=50)
    ) as kit:
        yield kit


def test_a_plain_turn_takes_one_read_and_two_commits(sync_kit: Convokit) -> None:
    """The number of statements is fixed."""
    chat = sync_kit.chat("k")
    chat.send("warm up")
    traffic = Traffic(sync_kit)
    chat.send("hello")
    assert traffic.transactions == {"read": 1, "write": 2}
    first = len([each for each in traffic.statements if not each.startswith("BEGIN")])
    traffic.reset()
    for number in range(5):
        chat.send(f"turn {number}")
    assert len([each for each in traffic.statements if not each.startswith("BEGIN")]) == 5 * first


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_each_write_of_a_turn_is_two_round_trips_on_postgresql(
    sync_kit: Convokit, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first advances the conversation, the second inserts the rows. BEGIN is sent with the first; COMMIT is one more."""
    trips: list[list[str]] = []
    send, execute = pipeline._send, FastConnection.execute

    def observe_send(driver: Any, queue: Any) -> None:
        trips.append([_shorten(each.compiled.sql) for each in queue])
        send(driver, queue)

    def observe_execute(connection: Any, statement: Any, *more: Any) -> Any:
        trips.append([_shorten(str(statement.compile(dialect=connection.dialect)))])
        return execute(connection, statement, *more)

    chat = sync_kit.chat("k")
    chat.send("warm up")
    chat.send("warm up")
    monkeypatch.setattr(pipeline, "_send", observe_send)
    monkeypatch.setattr(FastConnection, "execute", observe_execute)
    chat.send("hello")
    reads = [["SELECT conversation"], ["SELECT message"], ["SELECT turn"]]
    rows = [f"INSERT INTO {name}" for name in ("turn", "message", "search", "entry", "completion")]
    start = [["UPDATE conversation"], rows]
    end = [
        ["UPDATE conversation", "UPDATE turn"],
        ["INSERT INTO message", "INSERT INTO search", "INSERT INTO entry", "UPDATE completion"],
    ]
    assert trips == [*reads, *start, *end]
    trips.clear()
    sync_kit.chat("new").send("hello")
    assert trips == [["SELECT conversation"], ["INSERT INTO conversation", *rows], *end]
    trips.clear()
    with chat.stream("hello") as events:
        assert "".join(event.text for event in events) == "echo: hello"
    assert trips == [*reads, *start, *end]
    server.script(failure(500))
    with pytest.raises(ServerFailed):
        chat.send("once more", retry=Retry(attempts=1))
    trips.clear()
    chat.resume()
    reopening = [
        ["SELECT conversation", "SELECT removal", "UPDATE turn", "SELECT completion"],
        ["INSERT INTO completion"],
    ]
    end[-1].append("DELETE FROM chunk")  # of the call that failed, there may be some
    assert trips[-4:] == [*reopening, *end]


@pytest.mark.parametrize("backend", ["postgresql"], indirect=True)
def test_anchors_take_no_round_trip(sync_kit: Convokit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both transactions of a turn send one INSERT more, with the others. Other turns send none."""
    trips: list[list[str]] = []
    send = pipeline._send

    def observe(driver: Any, queue: Any) -> None:
        trips.append([_shorten(each.compiled.sql) for each in queue])
        send(driver, queue)

    chat = sync_kit.chat("k")
    for _ in range(2):
        chat.send("warm up", anchor=lambda message: b"digest")
    monkeypatch.setattr(pipeline, "_send", observe)
    chat.send("hello")
    plain = list(trips)
    assert "INSERT INTO anchor" not in {each for trip in plain for each in trip}
    trips.clear()
    chat.send("hello", anchor=lambda message: b"digest")
    assert [sorted(trip) for trip in trips] == [
        sorted([*trip, "INSERT INTO anchor"]) if "INSERT INTO message" in trip else sorted(trip) for trip in plain
    ]
    assert sum("INSERT INTO anchor" in trip for trip in trips) == 2


def test_an_anchored_turn_executes_two_statements_more(sync_kit: Convokit) -> None:
    """One in each writing transaction, on both databases, for a plain and a streamed reply."""
    chat = sync_kit.chat("k")
    chat.send("warm up", anchor=lambda message: b"digest")
    traffic = Traffic(sync_kit)

    def count(**options: Any) -> list[tuple[str, int]]:
        traffic.reset()
        chat.send("hello", **options)
        with chat.stream("hello", **options) as events:
            list(events)
        return list(traffic.sizes)

    plain = count()
    assert count(anchor=lambda message: b"digest") == [(kind, size + (kind == "write")) for kind, size in plain]
    assert count(anchor=lambda message: None) == plain == count()


def _shorten(sql: str) -> str:
    """Return the kind of a statement and its table."""
    found = re.search(r"^(SELECT|UPDATE|INSERT INTO|DELETE FROM) .*?convokit_(\w+)", " ".join(sql.split()))
    assert found is not None
    return f"{found[1]} {found[2]}"


@pytest.mark.parametrize("branch", [False, True])
def test_tool_results_cost_what_a_question_costs(database: str, server: LoopbackServer, branch: bool) -> None:
    """A turn with tool results takes the transactions and statements of any turn, with and without a question."""
    schema = {"type": "function", "function": {"name": "pay", "parameters": {"type": "object"}}}
    with Convokit(database, model="loop-1", base_url=server.url) as kit:
        chat = kit.chat("k", tools=[schema])
        chat.send("warm up")
        chat = chat.fork() if branch else chat
        chat.send("hello")
        traffic = Traffic(kit)

        def count(*content: str, **results: Any) -> list[tuple[str, int]]:
            traffic.reset()
            chat.send(*content, **results)
            return list(traffic.sizes)

        plain = count("hello")
        for content in ((), ("and now?",)):
            server.script(calls(("c1", "pay", "{}")))
            chat.send("hello")
            (call,) = chat.open_calls()
            assert count(*content, tool_results={call["id"]: "paid"}) == plain


@pytest.mark.once
@pytest.mark.parametrize("count", [50, 5000])
def test_rows_read_do_not_depend_on_the_history(
    sync_kit: Convokit, database: str, server: LoopbackServer, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A turn reads at most twice the rows it sends plus 32, with 50 messages as with 5,000."""
    _grow(sync_kit, database, "long", count)
    read = 0
    original = MessageRow.__init__

    def counting(self: MessageRow, *args: Any, **kwargs: Any) -> None:
        nonlocal read
        read += 1
        original(self, *args, **kwargs)

    for _ in range(2):
        read = 0
        with monkeypatch.context() as patched:
            patched.setattr(MessageRow, "__init__", counting)
            sync_kit.chat("long").send("and now?")
        sent = len(server.requests[-1].body["messages"])
        assert 5 < sent < 60
        assert read - 2 <= 2 * sent + 32, "rows read, less the two that were written"


def test_the_window_keeps_its_start_between_turns(sync_kit: Convokit, database: str, server: LoopbackServer) -> None:
    """After the budget is reached, several turns send the same first message."""
    _grow(sync_kit, database, "steady", 400)
    chat = sync_kit.chat("steady")
    starts = []
    for number in range(12):
        reply = chat.send(f"turn {number}")
        starts.append(report_of(reply).start or 0)
    assert starts == sorted(starts)
    assert len(set(starts)) <= 6
    assert starts[0] > 300


def test_a_conversation_of_another_tenant_is_not_found(database: str, server: LoopbackServer) -> None:
    """The same key under another tenant is another conversation, and its id is not found."""
    ours = Convokit(database, model="m", base_url=server.url, tenant="a")
    theirs = Convokit(database, model="m", base_url=server.url, tenant="b")
    chat = ours.chat("k")
    chat.send("secret")
    assert len(theirs.conversations()) == 0
    from convokit.errors import NotFound  # noqa: PLC0415

    assert theirs.chat("k").messages() == []
    with pytest.raises(NotFound):
        theirs.chat(id=chat.id).messages()
    theirs.chat("k").send("other")
    assert [message.text for message in ours.chat("k").messages()] == ["secret", "echo: secret"]
    for kit in (ours, theirs):
        kit.close()
