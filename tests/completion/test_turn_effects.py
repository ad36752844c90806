"""A turn as a list of effects: what it asks of the outside world, in which order, with no database and no network."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from convokit.completion.effects import (
    Clock,
    CloseResponse,
    Emit,
    Flow,
    OpenRequest,
    ReadBody,
    ResponseHead,
    Sleep,
    Sql,
    Stopped,
)
from convokit.completion.options import NO_OPTIONS, Options
from convokit.completion.send import SendRequest, send_flow
from convokit.completion.state import ChatRef, DatabaseIdentity, KitState
from convokit.domain.conversation import ConversationRow
from convokit.errors import ConversationBusy, Rejected, ServerFailed, Unreachable
from convokit.settings import Limits, Retry
from convokit.store import snapshot
from convokit.store.turn_end import LateReply, TurnEnd, TurnUpdate
from convokit.store.turn_start import TurnStart, Written
from convokit.store.write_batch import Conflict

BODY = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
}


class Outside:
    """Performs effects: scripted answers to OpenRequest and ReadBody, and for Sql what a store would return."""

    def __init__(self, *answers: tuple[int, Any] | Exception) -> None:
        self.answers = list(answers)
        self.log: list[str] = []
        self.body: list[bytes] = []
        self.written: list[Any] = []
        self.conversation: ConversationRow | None = None
        self.conflicts = 0
        self.moves_head = False
        self._head = 0

    def perform(self, effect: Any) -> Any:
        self.log.append(type(effect).__name__.lower())
        match effect:
            case Sql(call, write):
                return self._sql(call, write)
            case OpenRequest():
                self.log[-1] += f" {json.loads(effect.data)['messages'][-1]['content']}"
                answer = self.answers.pop(0)
                if isinstance(answer, Exception):
                    raise answer
                status, body = answer
                self.body = [json.dumps(body).encode(), b""]
                return ResponseHead(status, {"content-type": "application/json"})
            case ReadBody():
                return self.body.pop(0)
            case Sleep(seconds):
                self.log[-1] += f" {seconds:g}"
        return None

    def _sql(self, call: Callable[[Any], Any], write: bool) -> Any:
        step = getattr(call, "__self__", None)
        if step is None:
            cells = [cell.cell_contents for cell in call.__closure__ or ()]
            function = next(cell for cell in cells if callable(cell))
            self.log[-1] = f"read {function.__name__}"
            self._head += self.moves_head
            return snapshot.Snapshot(self.conversation, self._head)
        self.log[-1] = f"{'write' if write else 'read'} {type(step).__name__}"
        self.written.append(step)
        if isinstance(step, TurnStart) and self.conflicts:
            self.conflicts -= 1
            raise Conflict
        assert isinstance(step, TurnStart | TurnUpdate | TurnEnd | LateReply)
        return Written(step.conversation, step.rows)

    def run(self, flow: Flow[Any]) -> Any:
        answer: Any = None
        error: Exception | None = None
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as stop:
                return stop.value
            answer = error = None
            try:
                answer = self.perform(effect)
            except Exception as raised:
                error = raised


def make_kit_state(**options: Any) -> KitState:
    return KitState(
        tenant="t",
        database=DatabaseIdentity("db", UUID(int=1)),
        base_url="http://127.0.0.1:1/v1",
        api_key=lambda: None,
        options=Options(model="m", **options),
        limits=Limits(),
        owner=lambda: "me",
        is_alive=lambda owner, turn: None,
        has_local_clock=False,
        clock=Clock(random=lambda: 0.5),
    )


def _send(kit: KitState, text: str, *, stream: bool) -> Flow[Any]:
    return send_flow(kit, ChatRef(key="k"), SendRequest(text, (), NO_OPTIONS, "raise"), stream=stream)


def test_a_plain_turn_in_effects() -> None:
    """One read, the question durable before the first byte, the call, one write that closes the turn."""
    outside = Outside((200, BODY))
    reply = outside.run(_send(make_kit_state(), "hello", stream=False))
    assert reply.text == "hi"
    assert outside.log == [
        *("read read_snapshot", "write TurnStart"),
        *("openrequest hello", "readbody", "readbody", "closeresponse"),
        "write TurnEnd",
    ]


def test_a_retried_turn_in_effects() -> None:
    """Each call has its row before its first byte; the wait lies between the two, with no transaction open."""
    outside = Outside(Unreachable("no"), (500, {"error": {"message": "oops"}}), (200, BODY))
    retry = Retry(attempts=3, initial_s=1.0)
    reply = outside.run(_send(make_kit_state(retry=retry), "hello", stream=False))
    assert reply.attempts == 3
    kept = [each for each in outside.log if each not in ("readbody", "closeresponse")]
    assert kept == [
        "read read_snapshot", "write TurnStart",
        "openrequest hello", "write TurnUpdate", "emit", "sleep 0.5",
        "openrequest hello", "write TurnUpdate", "emit", "sleep 1",
        "openrequest hello", "write TurnEnd",
    ]  # fmt: skip


def test_a_rejected_turn_closes_as_failed() -> None:
    """A 400 is not tried again; the turn is closed as failed and the error names its turn."""
    outside = Outside((400, {"error": {"message": "bad"}}))
    with pytest.raises(Rejected) as caught:
        outside.run(_send(make_kit_state(), "hello", stream=False))
    end = outside.written[-1]
    assert (end.state, end.call.state) == ("failed", "error")
    assert caught.value.turn_id == str(end.turn_id)


def test_a_call_that_fails_for_good_raises_its_last_error() -> None:
    """After the last attempt there is no wait, and the error is the last one."""
    outside = Outside((500, {}), (500, {}))
    with pytest.raises(ServerFailed):
        outside.run(_send(make_kit_state(retry=Retry(attempts=2)), "x", stream=False))
    assert len([each for each in outside.log if each.startswith("sleep")]) == 1


@pytest.mark.parametrize("kind", [OpenRequest, ReadBody])
def test_a_caller_who_leaves_closes_the_turn(kind: type) -> None:
    """Stopped, thrown at whatever effect, lets the flow close the turn as interrupted, and comes out again."""
    outside = Outside((200, BODY))
    flow = _send(make_kit_state(), "hello", stream=True)
    effect = next(flow)
    while not isinstance(effect, kind):
        effect = flow.send(outside.perform(effect))
    effect = flow.throw(Stopped())
    assert isinstance(effect, Sql)
    with pytest.raises(Stopped):
        flow.send(outside.perform(effect))
    assert outside.written[-1].state == "interrupted"


def _run_until(outside: Outside, flow: Flow[Any], last: str, answer: Any) -> Any:
    """Perform the flow's effects up to the one that is logged as `last`. Answer that one, and return the next effect."""
    effect = next(flow)
    while True:
        found = outside.perform(effect)
        if outside.log[-1] == last:
            return flow.send(answer)
        effect = flow.send(found)


@pytest.mark.parametrize("leaves_at", ["end", "late"])
def test_a_late_reply_is_stored_although_its_caller_leaves(leaves_at: str) -> None:
    """Another worker closed the turn, and the caller leaves before or after that is known: the paid reply is stored."""
    outside = Outside((200, BODY))
    flow = _send(make_kit_state(), "hello", stream=False)
    if leaves_at == "late":
        _run_until(outside, flow, "write TurnEnd", None)
        effect = flow.throw(Stopped())
    else:
        _run_until(outside, flow, "closeresponse", None)
        effect = flow.throw(Stopped())
        outside.perform(effect)
        effect = flow.send(None)
    outside.perform(effect)
    with pytest.raises(Stopped):
        flow.send(Written(outside.written[-1].conversation, outside.written[-1].rows))
    late = outside.written[-1]
    assert isinstance(late, LateReply)
    assert late.rows[0].content == "hi"


def test_a_failed_turn_is_closed_although_its_caller_leaves() -> None:
    outside = Outside((400, {"error": {"message": "bad"}}))
    flow = _send(make_kit_state(), "hello", stream=False)
    _run_until(outside, flow, "readbody", b"")
    while not isinstance(flow.send(None), Sql):
        pass
    effect = flow.throw(Stopped())
    with pytest.raises(Stopped):
        flow.send(outside.perform(effect))
    assert (outside.written[-1].state, outside.written[-1].call.state) == ("failed", "error")


def _conversation() -> ConversationRow:
    return ConversationRow(
        UUID(int=2), "t", "k", None, None, None, None, None, 0, 0, b"", created_at=1, updated_at=1, archived_at=None
    )


def test_a_branch_that_keeps_moving_is_busy() -> None:
    """A turn is built again at most three times when its branch moved meanwhile; then its sender hears that it is busy."""
    outside = Outside()
    outside.conversation = _conversation()
    outside.conflicts, outside.moves_head = 10, True
    with pytest.raises(ConversationBusy):
        outside.run(_send(make_kit_state(), "hello", stream=False))
    assert outside.log == ["read read_snapshot", "write TurnStart"] * 4


def test_other_branches_may_move_as_often_as_they_like() -> None:
    """A turn is built again for as long as only other branches move: somebody gets on each time."""
    outside = Outside((200, BODY))
    outside.conversation = _conversation()
    outside.conflicts = 10
    reply = outside.run(_send(make_kit_state(), "hello", stream=False))
    assert reply.text == "hi"
    assert outside.log.count("write TurnStart") == 11


def test_only_events_and_no_text_leave_a_flow_in_logs() -> None:
    """Effects that carry text or keys do not show them when printed by accident in a driver's log."""
    assert CloseResponse() == CloseResponse()
    assert Emit([]).events == []
