"""What the children do: turns on a real database against a real server, dying where they are told to.

Run as a child's job, these functions say what a caller would have been told; the test takes only that as acknowledged. The same
functions finish, in the test's own process, what a dead child left.
"""

from __future__ import annotations

import inspect
import os
import signal
from collections.abc import Callable
from typing import Any

import psycopg  # noqa: F401  # imported before the fork, as is everything a child needs

from convokit import Budget, Retry, Summary, Timeouts
from convokit.completion import call as calls
from convokit.completion.effects import Effect, OpenRequest, ReadBody, Sql
from convokit.errors import ConvokitError
from convokit.runtime.aio import AsyncDriver
from convokit.runtime.sync import SyncDriver
from convokit.store.turn_end import TurnEnd
from convokit.store.turn_start import TurnStart, Written
from tests.faults.fork_server import say
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Request, Script, chunk, completion, echo, event, failure

AT_ONCE = Timeouts(busy_s=0.001, total_s=20.0)
"""No waiting for another turn, and none for a lease, which is longer than the whole turn may take."""
QUICK = Retry(initial_s=0.001, maximum_s=0.001)
SUMMARY = Summary(model="mini", max_tokens=20)
SMALL = Budget(context_tokens=330, reply_tokens=40, step_tokens=40)
"""What a question is asked with whose window is to move: no more than two short turns fit."""
TURNS = ("a plain question", "a streamed question", "a question with a tool")


def reply_to(question: str) -> str:
    """Return the reply that the server makes to a question, in the end."""
    return "echo: stamped" if "tool" in question else f"echo: {question}"


class Server(LoopbackServer):
    """Answers with the last message's echo, but with a tool call to a question about one, and with 503 to a chat's first
    request when its question says so."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = self._answer
        self._refused: set[str] = set()

    def seen(self, chat: str) -> list[Request]:
        """Return the requests of one chat."""
        return [each for each in self.requests if each.body["user"] == chat]

    def _answer(self, body: Any) -> Script:
        if "refused" in body["messages"][-1]["content"] and body["user"] not in self._refused:
            self._refused.add(body["user"])
            return failure(503)
        return _answer(body)


def _answer(body: Any) -> Script:
    last = body["messages"][-1]
    if last["role"] != "user" or "tool" not in last["content"]:
        return echo(body)
    function = {"name": "stamp", "arguments": '{"what": "it"}'}
    call = {"id": f"call-{len(body['messages'])}", "type": "function", "function": function}
    if body.get("stream"):
        delta = {"role": "assistant", "content": None, "tool_calls": [{"index": 0, **call}]}
        pieces: list[bytes | float | None] = [chunk(delta), chunk({}, "tool_calls"), event(b"[DONE]")]
        return Script(pieces, headers={"content-type": "text/event-stream"})
    return completion(None, tool_calls=[call])


def kit_of(face: Face, url: str, server: str, timeouts: Timeouts | None = None) -> Any:
    """Return a kit; in a child the one that was made before the fork, if there is one."""
    if timeouts is None and (face.name, url) in _warm:
        return _warm[face.name, url]
    return face.kit(url, model="loop-1", base_url=server, retry=QUICK, timeouts=timeouts or Timeouts())


_warm: dict[tuple[str, str], Any] = {}


def warm(face: str, url: str, server: str) -> None:
    """Have a kit ready for children: what it learnt of the database and its statements is not learnt again by each.

    Its connections to the database are closed again, or a child's would never be a file's last. The kit itself stays open.
    """
    _warm.clear()
    made = Face(face)
    kit = kit_of(made, url, server)
    asker = Asker(made, kit, "warm", tell=lambda **facts: None)
    for question in TURNS:
        asker.ask(question)
    store = getattr(kit._runtime._store, "_store", kit._runtime._store)
    if hasattr(store, "engine"):
        store.engine.dispose()
    _warm[face, url] = kit


class Asker:
    """Asks questions of one chat, each under an idempotency key of its own, and tells what came of them."""

    def __init__(self, face: Face, kit: Any, chat: str, *, tell: Callable[..., None] = say) -> None:
        def stamp(what: str) -> str:
            """Stamp something."""
            tell(ran=what)
            return "stamped"

        self._face = face
        self._tell = tell
        self.chat = kit.chat(chat, tools=[stamp], user=chat)

    def ask(self, question: str) -> str:
        """Ask, streamed where the question says so, and return the reply's text."""
        more: dict[str, Any] = {"summary": SUMMARY, "budget": SMALL} if "summed" in question else {}
        if "streamed" in question:
            streaming = self.chat.stream(question, idempotency_key=question, **more)
            reply = (
                self._face.settle(self._streamed(streaming)) if self._face.name == "async" else self._read(streaming)
            )
        else:
            reply = self._face.settle(self.chat.send(question, idempotency_key=question, **more))
        return str(reply.text)

    def resume(self) -> str:
        """Finish the last turn and return its reply's text."""
        return str(self._face.settle(self.chat.resume()).text)

    def _read(self, streaming: Any) -> Any:
        with streaming:
            for each in streaming:
                self._tell(shown=each.text)
        return streaming.reply

    async def _streamed(self, streaming: Any) -> Any:
        async with streaming:
            async for each in streaming:
                self._tell(shown=each.text)
        return streaming.reply


def all_turns(url: str, server: str, chat: str, early: bool = False) -> None:
    """Ask all questions of TURNS in one process, and close the kit; an error is told, and its question asked once more.

    `early` is the negative control: a reply is told before it is committed.
    """
    if early:
        _tell_before_commit()
    face = Face("sync")
    kit = kit_of(face, url, server)
    asker = Asker(face, kit, chat)
    for question in TURNS:
        for _ in range(2):
            try:
                reply = asker.ask(question)
            except ConvokitError as error:
                say(error=type(error).__name__, text=str(error))
                continue
            say(question=question)
            say(reply=reply)
            break
    kit.close()


def _tell_before_commit() -> None:
    write_end = TurnEnd.write

    def told(end: TurnEnd, connection: Any) -> Written | None:
        written = write_end(end, connection)
        for row in written.rows if written is not None else []:
            say(reply=row.content)
        return written

    TurnEnd.write = told  # type: ignore[method-assign, assignment]  # a child's own copy of the class


def one_action(face: str, url: str, server: str, chat: str, action: str, die_at: str | None, lost_begin: bool) -> None:
    """Do one thing, dying at the point that `die_at` names; without one, tell all points there are.

    An action is a question, or "resume", or "recover". `lost_begin` is the negative control: what `begin` wrote is rolled back.
    """
    calls.CHUNK_S = 0.0  # every chunk of a stream is stored
    points = Points(die_at)
    points.watch()
    if lost_begin:
        _roll_back_begin()
    made = Face(face)
    kit = kit_of(made, url, server)
    asker = Asker(made, kit, chat)
    if action == "recover":
        made.settle(kit.recover())
    else:
        reply = asker.resume() if action == "resume" else asker.ask(action)
        points.reach("before the reply is told")
        say(reply=reply)
    points.reach("at the end")
    if die_at is None:
        say(points=points.passed)


def _roll_back_begin() -> None:
    write_start = TurnStart.write

    def lost(start: TurnStart, connection: Any) -> Written:
        written = write_start(start, connection)
        connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN")
        return written

    TurnStart.write = lost  # type: ignore[method-assign, assignment]  # a child's own copy of the class


class Points:
    """The points of a flow: before each effect, and within each writing transaction when all but its commit is done."""

    def __init__(self, die_at: str | None) -> None:
        self._die_at = die_at
        self.passed: list[str] = []

    def reach(self, name: str) -> None:
        """Die here, if this is the point."""
        times = sum(each.partition(" #")[0] == name for each in self.passed) + 1
        name = name if times == 1 else f"{name} #{times}"
        if name == self._die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.passed.append(name)

    def watch(self) -> None:
        """Pass through here before each effect that a driver performs."""
        perform, aperform = SyncDriver._perform, AsyncDriver._perform
        feed = _Feed()

        def watched(driver: SyncDriver, effect: Effect) -> Any:
            effect = self._reach(effect)
            if not isinstance(effect, ReadBody):
                feed.clear(effect)
                return perform(driver, effect)
            while not feed.ready:
                feed.take(perform(driver, effect))
            return feed.next()

        async def awatched(driver: AsyncDriver, effect: Effect) -> Any:
            effect = self._reach(effect)
            if not isinstance(effect, ReadBody):
                feed.clear(effect)
                return await aperform(driver, effect)
            while not feed.ready:
                feed.take(await aperform(driver, effect))
            return feed.next()

        SyncDriver._perform = watched  # type: ignore
        AsyncDriver._perform = awatched  # type: ignore

    def _reach(self, effect: Effect) -> Effect:
        if not isinstance(effect, Sql):
            self.reach(f"before {type(effect).__name__}")
            return effect
        held = [effect.call, *(cell.cell_contents for cell in getattr(effect.call, "__closure__", None) or ())]
        steps = [type(each.__self__).__name__ for each in held if inspect.ismethod(each)]
        name = steps[0] if steps else next(each.__name__ for each in held[1:] if inspect.isfunction(each))
        self.reach(f"before {name}")
        if not effect.write:
            return effect

        def within(connection: Any) -> Any:
            done = effect.call(connection)
            self.reach(f"within {name}")
            return done

        return Sql(within, write=True)


class _Feed:
    """Gives the flow one event of a stream at a time, however the bytes came: so every run has the same effects."""

    def __init__(self) -> None:
        self._data = b""
        self._ended = False

    def clear(self, effect: Effect) -> None:
        if isinstance(effect, OpenRequest):
            self._data, self._ended = b"", False

    @property
    def ready(self) -> bool:
        return self._ended or b"\n\n" in self._data

    def take(self, data: bytes) -> None:
        self._data += data
        self._ended = not data

    def next(self) -> bytes:
        end = self._data.find(b"\n\n") + 2 if b"\n\n" in self._data else len(self._data)
        data, self._data = self._data[:end], self._data[end:]
        return data
