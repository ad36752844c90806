"""Observers: a turn that ends in any way reports each start and one end for it, after the commit and without text."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text as sql

from convokit import AsyncConvokit, Convokit, Retry
from convokit.errors import (
    ConvokitError,
    Interrupted,
    Rejected,
    ServerFailed,
    SettingsError,
    StoreError,
    TooManyRounds,
)
from convokit.observers import Observer, TurnEnded
from convokit.store.engine import open_engine, parse_database_url
from convokit.store.turn_end import TurnEnd
from tests.completion.observing import CONTENT, Recorder, texts
from tests.completion.summaries import BUDGET, ONCE, SUMMARY, Writer, next_moves
from tests.support.abandoned_turns import leave
from tests.support.background_reader import Running
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, calls, completion, failure, stream

pytestmark = pytest.mark.once

CALL = ["call_started", "call_ended ok"]
PLAIN = ["turn_started", *CALL, "turn_ended completed"]
STREAMED = ["turn_started", "call_started", "first_chunk", "call_ended ok", "turn_ended completed"]
FAST = Retry(initial_s=0, maximum_s=0)
SECRET = "秘密の花園"


def double(number: int) -> int:
    """Return twice the number."""
    if number < 0:
        raise ValueError(f"{number} {SECRET}")
    return 2 * number


async def adouble(number: int) -> int:
    """Return twice the number, later."""
    await asyncio.sleep(0)
    return 2 * number


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


@pytest.fixture
def observed(face: Face, database: str, server: LoopbackServer, recorder: Recorder) -> Any:
    """A kit with an observer."""
    return face.kit(
        database, model="loop-1", base_url=server.url, retry=FAST, tools=[double, adouble], observers=[recorder]
    )


def test_a_turn_reports_its_start_its_calls_and_its_end(face: Face, observed: Any, recorder: Recorder) -> None:
    """The events of a plain turn and of a stream, with ids, model, tokens, durations and finish reason."""
    reply = face.settle(observed.chat("k").send("hello"))
    started, ended = recorder.last("turn_started"), recorder.last("turn_ended")
    call = recorder.last("call_ended")
    assert recorder.take() == PLAIN
    assert (started.turn_id, started.epoch, started.branch, started.tenant) == (reply.turn_id, 1, 0, "default")
    assert str(started.conversation_id) == reply.message.id.partition(":")[0]
    assert (started.model, started.stream, ended.calls, ended.tool_calls) == ("loop-1", False, 1, 0)
    assert (call.number, call.served_model, call.finish_reason, call.usage_source) == (1, "loop-1", "stop", "reported")
    tokens = (reply.usage.prompt_tokens, reply.usage.completion_tokens)
    assert (call.prompt_tokens, call.completion_tokens) == tokens == (ended.prompt_tokens, ended.completion_tokens)
    assert (call.server_address, call.first_chunk_s, call.error, ended.error) == ("127.0.0.1", None, None, None)
    assert ended.duration_s >= call.duration_s > 0
    face.collect(observed.chat("k").stream("and streamed"))
    call = recorder.last("call_ended")
    assert 0 < call.first_chunk_s <= call.duration_s
    assert recorder.last("first_chunk").duration_s == call.first_chunk_s
    assert recorder.take() == STREAMED


def test_each_try_is_a_call(face: Face, observed: Any, server: LoopbackServer, recorder: Recorder) -> None:
    """A retried call reports its error; a call that fails for good ends the turn as failed."""
    server.script(failure(500), completion("at last"))
    face.settle(observed.chat("k").send("hello"))
    failed = next(event for name, event in recorder.told if name == "call_ended")
    assert (failed.error, failed.status, failed.number, failed.finish_reason) == ("ServerFailed", 500, 1, None)
    assert recorder.last("call_started").number == recorder.last("turn_ended").calls == 2
    assert recorder.take() == ["turn_started", "call_started", "call_ended error", *CALL, "turn_ended completed"]
    server.script(failure(400, f"bad {SECRET}"))
    with pytest.raises(Rejected):
        face.settle(observed.chat("k").send("hello"))
    assert recorder.last("turn_ended").error == "Rejected"
    assert SECRET not in texts(recorder.told)
    assert recorder.take() == ["turn_started", "call_started", "call_ended error", "turn_ended failed"]


@pytest.mark.parametrize("streamed", [False, True])
def test_tools_report_each_call(
    face: Face, observed: Any, server: LoopbackServer, recorder: Recorder, streamed: bool
) -> None:
    """Parallel calls start before the first one ends. An unknown tool and bad arguments are not run and have no duration."""
    asked = [("a", "double", '{"number": 1}'), ("b", "adouble", '{"number": 1}'), ("c", "double", '{"number": -1}')]
    server.script(
        calls(*asked, ("d", f"no_{SECRET}", "{}"), ("e", "double", '{"nothing": 1}'), streamed=streamed),
        stream(["two"]) if streamed else completion("two"),
    )
    chat = observed.chat("k")
    if streamed:
        face.collect(chat.stream("twice one?"))
    else:
        face.settle(chat.send("twice one?"))
    ended = [event for name, event in recorder.told if name == "tool_ended"]
    assert [each.name for each in ended] == ["double", "adouble", "double", None, "double"]
    assert [each.error for each in ended][:4] == [None, None, "ValueError", "UnknownTool"]
    assert [each.duration_s is not None for each in ended] == [True, True, True, False, False]
    assert SECRET not in texts(recorder.told)
    assert (recorder.last("turn_ended").calls, recorder.last("turn_ended").tool_calls) == (2, 5)
    chunk = ["first_chunk"] * streamed
    states = ["done", "done", "failed", "failed", "failed"]
    assert recorder.take() == [
        *("turn_started", "call_started", *chunk, "call_ended ok"),
        *["tool_started"] * 5,
        *[f"tool_ended {state}" for state in states],
        *("call_started", *chunk, "call_ended ok", "turn_ended completed"),
    ]


def test_too_many_rounds(face: Face, observed: Any, server: LoopbackServer, recorder: Recorder) -> None:
    """The last call ends with the error, and so does the turn."""
    server.script(*[calls(("a", "double", '{"number": 1}'))] * 2)
    with pytest.raises(TooManyRounds):
        face.settle(observed.chat("k").send("twice one?", max_tool_rounds=1))
    assert recorder.last("turn_ended").error == "TooManyRounds"
    tools = ["tool_started", "tool_ended done"]
    assert recorder.take() == [
        *("turn_started", *CALL, *tools, "call_started", "call_ended error", "turn_ended failed")
    ]


def test_a_stream_that_breaks_or_is_left(face: Face, observed: Any, server: LoopbackServer, recorder: Recorder) -> None:
    """A broken stream and a reader that leaves end the turn as interrupted. With "finish" the reply is completed."""
    broken = stream(["half ", "a ", "reply"], finish=None, done=False)
    broken.pieces.append(None)
    server.script(broken, stream(["one ", "two ", "three"], pause_s=0.02))
    with pytest.raises(Interrupted):
        face.collect(observed.chat("k").stream("hello"))
    assert recorder.last("turn_ended").error == "Interrupted"
    assert recorder.take() == [*STREAMED[:3], "call_ended error", "turn_ended interrupted"]
    face.take(observed.chat("k").stream("hello"), 2)
    assert (recorder.last("call_ended").error, recorder.last("turn_ended").error) == (None, None)
    assert recorder.take() == [*STREAMED[:3], "call_ended stopped", "turn_ended interrupted"]
    server.script(stream(["one ", "two ", "three"], pause_s=0.02))
    _abandon(face, lambda: observed.chat("k").stream("hello"), recorder)
    assert recorder.take() == [*STREAMED[:3], "call_ended stopped", "turn_ended interrupted"]
    face.take(observed.chat("k").stream("hello", on_disconnect="finish"), 2)
    face.close_kits()
    assert recorder.take() == STREAMED


def _abandon(face: Face, open_stream: Callable[[], Any], recorder: Recorder) -> None:
    """Read the beginning of a stream and drop it without closing it."""

    async def read() -> None:
        events = aiter(open_stream())
        await anext(events)
        await anext(events)
        del events
        gc.collect()
        while not recorder.names[-1].startswith("turn_ended"):  # the event loop closes it
            await asyncio.sleep(0.001)

    if face.name == "async":
        face.settle(read())
        return
    events = iter(open_stream())
    next(events)
    next(events)
    del events
    gc.collect()


@pytest.mark.parametrize("way", ["cancel", "supersede"])
def test_a_turn_that_is_closed_by_another_worker(
    face: Face, observed: Any, database: str, server: LoopbackServer, recorder: Recorder, way: str
) -> None:
    """The worker reports `taken_over`, its late reply included. The process that closed the turn reports `turn_closed`."""
    worker = Recorder()
    server.script(stream(["word "] * 40, pause_s=0.02))
    running = Running(database, server, observers=[worker])
    if way == "cancel":
        assert face.settle(observed.chat("k").cancel())
        assert recorder.names == ["turn_closed cancelled"]
    else:
        face.settle(observed.chat("k").send("another", on_busy="supersede"))
        assert recorder.names == ["turn_closed superseded", *PLAIN]
    closed = recorder.told[0][1]
    running.end()
    ended = worker.last("turn_ended")
    assert (closed.turn_id, closed.epoch) == (ended.turn_id, ended.epoch)
    assert (closed.open_s > 0, closed.key, ended.error) == (True, None, "Interrupted")
    assert worker.last("call_ended").number == worker.last("call_started").number == 1
    assert worker.take() == [*STREAMED[:3], "call_ended late", "turn_ended taken_over"]


def test_a_plain_reply_that_comes_after_the_cancel(
    face: Face, observed: Any, database: str, server: LoopbackServer
) -> None:
    """A whole late reply ends its call as late."""
    worker = Recorder()
    slow = completion("late")
    slow.delay_s = 0.3
    server.script(slow)
    errors: list[Exception] = []

    def send() -> None:
        try:
            kit.chat("k").send("hello")
        except ConvokitError as error:
            errors.append(error)

    with Convokit(database, model="m", base_url=server.url, observers=[worker]) as kit:
        thread = threading.Thread(target=send)
        thread.start()
        while not server.requests:
            thread.join(0.01)
        assert face.settle(observed.chat("k").cancel())
        thread.join()
    assert [type(each) for each in errors] == [Interrupted]
    assert worker.take() == ["turn_started", "call_started", "call_ended late", "turn_ended taken_over"]


def test_a_dead_workers_turn(face: Face, observed: Any, database: str, server: LoopbackServer) -> None:
    """`recover` and the next send report the turns that they close. A resumed turn runs under a higher epoch."""
    recorder = Recorder()
    kit = face.kit(database, model="m", base_url=server.url, observers=[recorder])
    server.script(stream(["word "] * 300))
    leave(face, observed, "k", "first", after=1)
    assert len(face.settle(kit.recover())) == 1
    assert recorder.take() == ["turn_closed abandoned"]
    face.settle(kit.chat("k").resume())
    assert recorder.told[0][1].epoch == 3
    assert recorder.take() == PLAIN
    server.script(stream(["word "] * 300))
    leave(face, observed, "k", "second", after=1)
    face.settle(kit.chat("k").send("third"))
    assert recorder.take() == ["turn_closed abandoned", *PLAIN]


def test_every_method_that_runs_a_turn(face: Face, observed: Any, server: LoopbackServer, recorder: Recorder) -> None:
    """Regenerate, edit, resume and tool results run turns. A repeat, an append and a follower run none."""
    chat = observed.chat("k")
    face.settle(chat.send("hello", idempotency_key="once"))
    assert recorder.take() == PLAIN
    face.settle(chat.send("hello", idempotency_key="once"))
    face.collect(chat.stream("hello", idempotency_key="once"))
    face.settle(chat.append([{"role": "user", "content": "appended"}]))
    assert recorder.take() == []
    face.settle(chat.resume())
    assert recorder.take() == PLAIN
    face.settle(chat.regenerate())
    assert recorder.take() == PLAIN
    question = face.settle(chat.messages())[0]
    face.settle(chat.edit(question.id, "goodbye"))
    assert recorder.take() == PLAIN
    server.script(calls(("a", "mine", "{}")))
    own = {"type": "function", "function": {"name": "mine", "parameters": {"type": "object", "properties": {}}}}
    other = observed.chat("tools", tools=[own])
    face.settle(other.send("do it"))
    face.settle(other.send(tool_results={"a": "done"}))
    assert recorder.take() == PLAIN * 2


@pytest.mark.parametrize("fails", [False, True])
def test_a_summary_is_a_call_of_its_turn(
    face: Face, database: str, server: LoopbackServer, recorder: Recorder, fails: bool
) -> None:
    """The call that asks for a summary says so, and a failed one does not end the turn."""
    server.answer = writer = Writer()
    kit = face.kit(
        database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE, observers=[recorder]
    )
    number = next_moves(face, kit.chat("k"))
    recorder.told.clear()
    writer.scripted = [failure(500)] if fails else []
    face.settle(kit.chat("k").send(f"turn number {number} and more"))
    found = [(event.number, event.model, event.is_summary) for name, event in recorder.told if name == "call_started"]
    assert found == [(1, "mini", True), (2, "m", False)]
    first = ["call_started", f"call_ended {'error' if fails else 'ok'}"]
    assert recorder.take() == ["turn_started", *first, *CALL, "turn_ended completed"]


def test_ctrl_c_and_a_cancelled_task(face: Face, database: str, server: LoopbackServer, recorder: Recorder) -> None:
    """A caller that leaves while a tool runs: its effect is unknown, and the turn is interrupted."""
    server.script(calls(("a", "stop", "{}")))

    def stop() -> None:
        """Leave."""
        raise KeyboardInterrupt

    async def astop() -> None:
        """Leave, later."""
        tasks[0].cancel()
        await asyncio.sleep(5)

    astop.__name__ = "stop"
    tasks: list[asyncio.Task[Any]] = []
    tool = stop if face.name == "sync" else astop
    kit = face.kit(database, model="m", base_url=server.url, tools=[tool], observers=[recorder])
    if face.name == "sync":
        with pytest.raises(KeyboardInterrupt):
            kit.chat("k").send("hello")
    else:
        tasks.append(face.loop.create_task(kit.chat("k").send("hello")))
        with pytest.raises(asyncio.CancelledError):
            face.settle(tasks[0])
    assert recorder.take() == [*PLAIN[:3], "tool_started", "tool_ended unknown", "turn_ended interrupted"]


def test_an_end_that_cannot_be_saved(
    face: Face, observed: Any, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The turn is still open in the database: its worker says that the end is unsaved."""

    def refuse(step: TurnEnd, connection: Any) -> None:
        raise StoreError("db: refused a row")

    monkeypatch.setattr(TurnEnd, "write", refuse)
    with pytest.raises(StoreError):
        face.settle(observed.chat("k").send("hello"))
    assert recorder.last("turn_ended").error == "StoreError"
    assert recorder.take() == [*PLAIN[:3], "turn_ended unsaved"]


def test_a_killed_process_reports_nothing(database: str, server: LoopbackServer, recorder: Recorder) -> None:
    """The killed worker reports no end. The process that closes its turn does."""
    code = (
        "import os, signal, sys; from convokit import Convokit; from convokit.observers import Observer\n"
        "class Told(Observer):\n"
        "    def turn_started(self, event): print('started', flush=True)\n"
        "    def call_started(self, event): os.kill(os.getpid(), signal.SIGKILL)\n"
        "    def call_ended(self, event): print('ended', flush=True)\n"
        "    turn_ended = call_ended\n"
        "Convokit(sys.argv[1], model='m', base_url=sys.argv[2], observers=[Told()]).chat('k').send('hello')"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, database, server.url], check=False, capture_output=True, text=True
    )
    assert (ran.returncode, ran.stdout) == (-signal.SIGKILL, "started\n"), ran.stderr
    with Convokit(database, model="m", base_url=server.url, observers=[recorder]) as kit:
        kit.chat("k").resume()
    assert recorder.take() == ["turn_closed abandoned", *PLAIN]


def test_events_come_after_the_commit(face: Face, database: str, server: LoopbackServer) -> None:
    """Another connection sees what an event reports: the open turn, the outcomes of calls and tools, the end."""
    found: list[tuple[str, str, str, str]] = []
    engine = open_engine(parse_database_url(database))

    class Looking(Recorder):
        def turn_started(self, event: Any) -> None:
            look("turn_started")

        def call_ended(self, event: Any) -> None:
            look("call_ended")

        def tool_started(self, event: Any) -> None:
            look("tool_started")

        def tool_ended(self, event: Any) -> None:
            look("tool_ended")

        def turn_ended(self, event: Any) -> None:
            look("turn_ended")

    def look(method: str) -> None:
        with engine.connect() as connection:
            turn, call, tool = (
                connection.execute(sql(f"SELECT state FROM convokit_{table}")).scalars().all()
                for table in ("turn", "completion", "tool_call")
            )
        found.append((method, " ".join(turn), " ".join(sorted(call)), " ".join(tool)))

    server.script(calls(("a", "double", '{"number": 1}')))
    kit = face.kit(database, model="m", base_url=server.url, tools=[double], observers=[Looking()])
    face.settle(kit.chat("k").send("hello"))
    engine.dispose()
    assert found == [
        ("turn_started", "open", "sending", ""),
        ("call_ended", "open", "ok", "running"),
        ("tool_started", "open", "ok", "running"),
        ("tool_ended", "open", "ok sending", "done"),
        ("call_ended", "completed", "ok ok", "done"),
        ("turn_ended", "completed", "ok ok", "done"),
    ]


def test_content_only_for_those_who_ask(face: Face, database: str, server: LoopbackServer) -> None:
    """Text, keys and parameters reach an observer with `include_content` and no other one, and no repr shows them."""
    without, with_content = Recorder(), Recorder(include_content=True)
    kit = face.kit(
        database,
        model="m",
        base_url=server.url,
        tools=[double],
        user=SECRET,
        developer_prompt=SECRET,
        retry=ONCE,
        observers=[without, with_content],
    )
    chat = kit.chat(f"key {SECRET}", subject=SECRET, title=SECRET, metadata={"a": SECRET})
    arguments = json.dumps({"number": 1})
    server.script(
        calls(("a", "double", arguments), ("b", "double", '{"number": -1}'), ("c", SECRET, f'{{"x": "{SECRET}"}}')),
        completion(SECRET),
    )
    face.settle(chat.send(f"question {SECRET}", turn_metadata=SECRET))
    server.script(failure(500, SECRET))
    with pytest.raises(ServerFailed):
        face.settle(chat.send(f"question {SECRET}"))
    broken = stream(["half ", SECRET], finish=None, done=False)
    broken.pieces.append(None)
    server.script(broken)
    with pytest.raises(Interrupted):
        face.collect(chat.stream(f"question {SECRET}"))
    assert without.names == with_content.names
    assert SECRET not in texts(without.told)
    assert all(getattr(event, name, None) is None for _, event in without.told for name in CONTENT)
    assert SECRET not in repr(with_content.told)
    seen = texts(with_content.told)
    for field in CONTENT:
        assert any(SECRET in line for line in seen.splitlines() if f".{field}=" in line), field
    start = next(event for name, event in with_content.told if name == "call_started")
    assert start.messages == server.requests[0].body["messages"]
    assert start.parameters["user"] == SECRET
    ended = [event for name, event in with_content.told if name == "call_ended"]
    assert ended[1].replies == [{"role": "assistant", "content": SECRET, "finish_reason": "stop"}]
    assert ended[-1].replies == [{"role": "assistant", "content": f"half {SECRET}"}]


def test_names_of_a_server_are_short(face: Face, observed: Any, server: LoopbackServer, recorder: Recorder) -> None:
    """A server may send anything as a model's name, a finish reason or an id. Events hold the first 200 characters."""
    answer = json.loads(str(completion("yes", model="m" * 500).pieces[0], "utf-8"))  # type: ignore[arg-type]
    answer["id"], answer["choices"][0]["finish_reason"] = "i" * 500, "f" * 500
    server.script(Script([json.dumps(answer).encode()]))
    face.settle(observed.chat("k").send("hello"))
    ended = recorder.last("call_ended")
    assert [len(each) for each in (ended.served_model, ended.response_id, ended.finish_reason)] == [200] * 3
    assert len(recorder.last("turn_ended").finish_reason) == 200


def test_a_closed_turn_has_its_key_for_those_who_ask(face: Face, database: str, server: LoopbackServer) -> None:
    """`turn_closed` obeys `include_content` too."""
    told = [Recorder(), Recorder(include_content=True)]
    kit = face.kit(database, model="m", base_url=server.url, observers=told)
    server.script(stream(["word "] * 300))
    leave(face, face.kit(database, model="m", base_url=server.url), SECRET, "first", after=1)
    face.settle(kit.recover())
    assert [each.last("turn_closed").key for each in told] == [None, SECRET]


def test_an_observer_that_fails_changes_nothing(
    face: Face, database: str, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its exception is logged once for each method, without its message. The other observers still get the event."""

    class Failing(Recorder):
        include_content = True

        def call_started(self, event: Any) -> None:
            raise ValueError(SECRET)

        def turn_ended(self, event: Any) -> None:
            raise LookupError(SECRET)

    recorder = Recorder()
    kit = face.kit(database, model="m", base_url=server.url, observers=[Failing(), recorder])
    with caplog.at_level(logging.ERROR, "convokit"):
        for _ in range(3):
            assert face.settle(kit.chat("k").send("hello")).text == "echo: hello"
    assert recorder.take() == PLAIN * 3
    lines = [(each.name, each.getMessage()) for each in caplog.records]
    assert [name for name, _ in lines] == ["convokit.observers"] * 2
    assert "Failing.call_started raised ValueError at " in lines[0][1]
    assert SECRET not in caplog.text


@pytest.mark.parametrize("method", ["turn_started", "call_started", "call_ended", "turn_ended"])
def test_an_interrupt_in_an_observer_is_not_swallowed(
    face: Face, database: str, server: LoopbackServer, method: str
) -> None:
    """Ctrl-C in an observer reaches the caller. The starts that were reported get their ends."""

    class Interrupting(Observer):
        pass

    def interrupt(event: Any) -> None:
        observer.__dict__.pop(method)  # once
        raise KeyboardInterrupt

    observer, recorder = Interrupting(), Recorder()
    setattr(observer, method, interrupt)
    kit = face.kit(database, model="m", base_url=server.url, observers=[observer, recorder])
    with pytest.raises(KeyboardInterrupt):
        face.settle(kit.chat("k").send("hello"))
    recorder.take()
    observer.__dict__.clear()
    face.settle(kit.chat("k").send("again"))
    assert recorder.names[-4:] == PLAIN


def test_headers_of_an_observer(
    face: Face, database: str, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Returned headers are sent. They replace none, and one that cannot be sent is dropped."""

    class Adding(Observer):
        def __init__(self, headers: Any) -> None:
            self.headers = headers

        def call_started(self, event: Any) -> Any:
            return self.headers

    wrong = [Adding({"bad": "line\nbreak"}), Adding(["no mapping"]), Adding({"content-length": "3"})]
    good = Adding({"traceparent": "00-1-2-01", "AUTHORIZATION": "Bearer other", "x-client-request-id": "other"})
    kit = face.kit(database, model="m", base_url=server.url, api_key="sk-mine", observers=[*wrong, good])
    reply = face.settle(kit.chat("k").send("hello"))
    sent = server.requests[0].headers
    assert (sent["traceparent"], sent["authorization"]) == ("00-1-2-01", "Bearer sk-mine")
    assert sent["x-client-request-id"] == str(reply.turn_id)
    assert "bad" not in sent
    assert len(caplog.records) == 3
    face.settle(kit.chat("k").verify())


class Awaited(Observer):
    """An observer that nobody would await."""

    async def turn_ended(self, event: TurnEnded) -> None:  # type: ignore[override]
        """Do nothing."""


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (Observer(), "must be a list of Observer objects, not Observer"),
        ([Observer], "an object, not the class"),
        (["log"], "must contain Observer objects, not str"),
        ("log", "must be a list of Observer objects, not str"),
        ([Awaited()], r"Awaited.turn_ended is an async function"),
    ],
)
def test_what_is_no_observer_is_refused(sqlite_file: str, given: Any, problem: str) -> None:
    """A kit is not made with an observer that would never be called."""
    for make in (Convokit, AsyncConvokit):
        with pytest.raises(SettingsError, match=problem):
            make(sqlite_file, model="m", observers=given)


@pytest.mark.parametrize("observers", [[], [Observer()]])
def test_a_turn_without_observers_does_nothing_more(
    face: Face, database: str, server: LoopbackServer, observers: list[Observer]
) -> None:
    """Without observers no function that serves them is called: neither in a turn nor when one is closed."""
    called: set[str] = set()

    def note(frame: Any, event: str, argument: object) -> None:
        name = frame.f_code.co_filename.rpartition("/")[2]
        if event == "call" and name in ("notifier.py", "observed_turn.py", "observers.py"):
            called.add(frame.f_code.co_name)

    kit = face.kit(database, model="m", base_url=server.url, tools=[double], retry=FAST, observers=observers)
    server.script(failure(500), calls(("a", "double", '{"number": 1}')))
    sys.setprofile(note)
    try:
        face.settle(kit.chat("k").send("hello"))
        face.take(kit.chat("k").stream("left"), 2)
    finally:
        sys.setprofile(None)
    assert bool(called) == bool(observers), called


def test_a_tenants_kit_has_the_same_observers(face: Face, observed: Any, recorder: Recorder) -> None:
    """`kit.tenant` shares them, and the events name the tenant."""
    face.settle(observed.tenant("other").chat("k").send("hello"))
    assert recorder.last("turn_ended").tenant == "other"
    assert recorder.take() == PLAIN
