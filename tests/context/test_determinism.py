"""Sequences of turns over a real conversation: what is sent depends on the path and the settings, and moves in steps."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, update

from convokit import Budget, Chat, Convokit, Profile, Retry
from convokit.context.report import Report
from convokit.context.strategy import Everything, LastTurns, StepWindow, Strategy
from convokit.domain.message import MessageRow
from convokit.errors import ModelError
from convokit.store import conversations, message_tree, messages
from convokit.store.engine import WRITE
from convokit.store.schema import branch, message
from convokit.tokens.counter import count_message
from convokit.wire.message_encoding import to_wire_messages
from tests.context.histories import Words
from tests.context.oracle import refusals
from tests.support.reports import report_of
from tests.support.selection import examples
from tests.support.server import LoopbackServer, completion, failure

_keys = itertools.count(1)


class Letters:
    """Another counter: a token for ten characters."""

    name = "letters"
    is_scaled = False

    def count(self, text: str) -> int:
        return len(text) // 10 + 1


def look(place: str) -> str:
    """Look somewhere."""
    return f"nothing at {place}"


@dataclass(frozen=True)
class Rule:
    """What a window's start depends on besides the path."""

    model: str = "m"
    counter: str = "words"
    step: int = 40
    strategy: Strategy = field(default_factory=StepWindow)


class Named(StepWindow):
    """The same strategy under a name of its own."""

    @property
    def name(self) -> str:
        return "mine"


@dataclass(frozen=True)
class Send:
    """A turn; window and reserve change as they like."""

    words: int
    branch: int
    window: int
    reserve: int | None
    how: str
    tools: bool


@dataclass(frozen=True)
class Redact:
    """One of the messages loses its words."""

    which: int


@dataclass(frozen=True)
class Fork:
    """The second branch begins behind one of the messages of the first."""

    behind: int


SENDS = st.builds(
    Send,
    words=st.integers(5, 20),
    branch=st.sampled_from([0, 0, 1]),
    window=st.sampled_from([210, 210, 210, 400]),
    reserve=st.sampled_from([None, 10, 60, 90]),
    how=st.sampled_from(["plain"] * 5 + ["calls a tool", "fails first"]),
    tools=st.booleans(),
)
RULES = st.builds(
    Rule,
    model=st.sampled_from(["m", "n"]),
    counter=st.sampled_from(["words", "letters"]),
    step=st.sampled_from([40, 60]),
    strategy=st.sampled_from([StepWindow(), StepWindow(), Everything(), LastTurns(2)]),
)
OTHERS = st.one_of(st.builds(Redact, st.integers(0, 60)), st.builds(Fork, st.integers(0, 60)), RULES)
SEQUENCES = st.lists(
    st.lists(SENDS, min_size=5, max_size=9).flatmap(lambda sends: OTHERS.map(lambda other: [*sends, other])),
    min_size=3,
    max_size=5,
)


@dataclass
class Before:
    """What was sent last on a branch, and by what rule."""

    rule: Rule
    start: int
    sent: list[Any]
    changed: bool = False
    """Whether something in it was redacted since."""


@dataclass
class World:
    """A conversation of two branches, and what was seen of it."""

    kits: dict[str, Convokit]
    server: LoopbackServer
    key: str = field(default_factory=lambda: f"k{next(_keys)}")
    before: dict[int, Before] = field(default_factory=dict)
    rule: Rule = field(default_factory=Rule)
    rules: dict[int, Rule] = field(default_factory=dict)
    """By which rule the window of each reply was chosen, by the reply's seq."""
    forked: bool = False

    def chat(self, send: Send) -> Chat:
        budget = Budget(context_tokens=send.window, reply_tokens=30, step_tokens=self.rule.step)
        chat = self.kits[self.rule.counter].chat(self.key, budget=budget, strategy=self.rule.strategy)
        chat._ref.branch = send.branch if self.forked else 0
        return chat

    def path(self, number: int) -> list[MessageRow]:
        """Return the whole path of a branch, from its root on."""
        kit = self.kits["words"]
        with kit._runtime._store.engine.connect() as connection:
            row = conversations.find_by_key(connection, "default", self.key)
            if row is None:
                return []
            head = message_tree.read_head(connection, row, number)
            return messages.read_backwards(connection, row.id, head, lambda rows: 1000).rows

    def write(self, statement: Any) -> None:
        with self.kits["words"]._runtime._store.engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(statement)

    @property
    def id(self) -> Any:
        with self.kits["words"]._runtime._store.engine.connect() as connection:
            row = conversations.find_by_key(connection, "default", self.key)
        return None if row is None else row.id


@pytest.fixture
def kits(sqlite_file: str, server: LoopbackServer) -> Iterator[dict[str, Convokit]]:
    settled: dict[str, Any] = {"base_url": server.url, "retry": Retry(attempts=1), "developer_prompt": "be brief"}
    made = {
        "words": Convokit(sqlite_file, counter=Words(), **settled),
        "letters": Convokit(sqlite_file, counter=Letters(), **settled),
    }
    yield made
    for kit in made.values():
        kit.close()


@examples(cost=40, shrink=False)  # every example is a conversation of some forty turns
@given(parts=SEQUENCES)
def test_a_window_depends_on_the_path_and_moves_in_steps(
    kits: dict[str, Convokit], server: LoopbackServer, parts: list[list[Send | Redact | Fork | Rule]]
) -> None:
    """Rule 26. Same path and settings, same array, byte for byte; the start never moves back, moves only when the window is
    full, and in between each array begins with the one before it. Redactions, resumes, other branches, a larger budget or a
    smaller reserve change none of it."""
    world = World(kits, server)
    for step in itertools.chain.from_iterable(parts):
        if isinstance(step, Fork):
            _fork(world, step)
        elif isinstance(step, Redact):
            _redact(world, step)
        elif isinstance(step, Rule):
            world.rule = step
        else:
            _send(world, step)


@pytest.mark.parametrize(
    "other", [Rule(model="n"), Rule(counter="letters"), Rule(step=30), Rule(strategy=Named()), None], ids=str
)
def test_a_start_is_held_while_the_rule_stays(
    kits: dict[str, Convokit], server: LoopbackServer, other: Rule | None
) -> None:
    """Rule 26. After a large reserve moved the start on, a small one does not take it back; another model, counter, step
    or strategy does, because nothing of the old array could be served from a cache then."""
    world = World(kits, server)
    wide, narrow = (Send(10, 0, 260, reserve, "plain", tools=False) for reserve in (10, 160))
    for _ in range(12):
        _send(world, wide)
    _send(world, narrow)
    held = world.before[0].start
    world.rule = other or world.rule
    start = world.chat(wide).context("so?", model=world.rule.model, max_output_tokens=10).report.start
    assert start is not None
    assert start == held if other is None else start < held


def _fork(world: World, step: Fork) -> None:
    path = world.path(0)
    replies = [at for at, row in enumerate(path) if row.role == "assistant" and row.tool_calls is None]
    if world.forked or not replies:
        return
    at = path[replies[step.behind % len(replies)]].seq
    world.write(insert(branch).values(conversation_id=world.id, number=1, name="other", head_seq=at, created_at=1))
    world.forked = True


def _redact(world: World, step: Redact) -> None:
    path = world.path(0)
    if not path:
        return
    chosen = path[step.which % len(path)]
    place = (message.c.conversation_id == world.id) & (message.c.seq == chosen.seq)
    before = _places(path)
    world.write(update(message).where(place).values(status="redacted", content=None))
    assert _places(world.path(0)) == before
    for each in world.before.values():
        each.changed = True


def _send(world: World, send: Send) -> None:
    chat, text, number = world.chat(send), "word " * send.words, send.branch if world.forked else 0
    path, last = world.path(number), world.before.get(number)
    call: dict[str, Any] = {
        "model": world.rule.model,
        "tools": [look] if send.tools or send.how == "calls a tool" else [],
    }
    if send.reserve is not None:
        call["max_output_tokens"] = send.reserve
    seen, again = chat.context(text, **call), chat.context(text, **call)
    assert json.dumps(seen.messages) == json.dumps(again.messages)
    assert refusals(seen.messages) == []
    assert seen.report.dropped_tokens == _places(path).get(seen.report.start or 0, _end(path))
    if isinstance(world.rule.strategy, StepWindow):
        assert seen.report.start == _expected(world, path, seen.report, text)
    first = len(world.server.requests)
    report = _asked(world, chat, send, text, call)
    requests = [request.body["messages"] for request in world.server.requests[first:]]
    assert requests[0] == json.loads(json.dumps(to_wire_messages(seen.messages, Profile())))
    if last is not None and last.rule == world.rule and isinstance(world.rule.strategy, StepWindow):
        assert (seen.report.start or 0) >= last.start, "the start moved back"
        if seen.report.start == last.start and not last.changed:
            assert requests[0][: len(last.sent)] == last.sent
    for one, two in itertools.pairwise(requests):
        if send.how == "fails first":
            assert one == two, "a resumed turn sends what it sent before"
        elif report.start == seen.report.start:
            assert two[: len(one)] == one
    assert report.start is not None
    assert isinstance(world.rule.strategy, StepWindow) <= (report.start >= (seen.report.start or 0))
    world.before[number] = Before(world.rule, report.start, requests[-1])
    known = {row.seq for row in path}
    world.rules |= {row.seq: world.rule for row in world.path(number) if row.seq not in known}


def _asked(world: World, chat: Chat, send: Send, text: str, call: dict[str, Any]) -> Report:
    if send.how == "fails first":
        world.server.script(failure(500))
        with pytest.raises(ModelError):
            chat.send(text, **call)
        return report_of(chat.resume(**call))
    if send.how == "calls a tool":
        function = {"name": "look", "arguments": '{"place": "home"}'}
        world.server.script(completion(None, tool_calls=[{"id": "c", "type": "function", "function": function}]))
    return report_of(chat.send(text, **call))


def _places(path: list[MessageRow]) -> dict[int, int]:
    """Return T: the tokens of the path before each message."""
    return {row.seq: row.path_tokens - row.tokens for row in path}


def _end(path: list[MessageRow]) -> int:
    return path[-1].path_tokens if path else 0


def _can_be_sent(path: list[MessageRow], at: int) -> bool:
    """Whether a message still has its words, and where it calls a tool or is its answer, the other one too."""
    beside = path[at - 1] if path[at].role == "tool" else path[at + 1] if path[at].tool_calls else path[at]
    return "redacted" not in (path[at].status, beside.status)


def _expected(world: World, path: list[MessageRow], report: Report, text: str) -> int:
    """Return where the window has to begin, worked out from the whole path."""
    counter = world.kits[world.rule.counter]._state.options.counter
    assert isinstance(counter, Words | Letters)
    question = count_message(counter, {"role": "user", "content": text})
    costs = [row.tokens if row.counter == counter.name else count_message(counter, row.as_wire()) for row in path]
    costs = [cost if _can_be_sent(path, at) else 0 for at, cost in enumerate(costs)]
    seqs = [*(row.seq for row in path), report.parts[-1].key or 0]
    left = [sum(costs[at:]) + question for at in range(len(path) + 1)]
    turns = [at for at in range(len(path) + 1) if at == len(path) or path[at].role == "user"]
    begun = [row for row in path if row.window_from_seq is not None]
    held = begun and world.rules[begun[-1].seq] == world.rule
    floor = seqs.index(begun[-1].window_from_seq or 0) if held else 0
    if left[floor] <= report.available - report.available // 100:
        return seqs[floor]
    room = report.available - min(world.rule.step, report.available // 2)
    return next((seqs[at] for at in turns if at > floor and left[at] <= room), seqs[-1])
