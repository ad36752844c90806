"""A turn that ends at any of its effects, in any manner, reports an end for each start, and each once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from convokit.completion.effects import Effect, Flow, Sql, Stopped
from convokit.completion.notifier import make_notifier
from convokit.completion.options import NO_OPTIONS, to_tools
from convokit.completion.send import SendRequest, send_flow
from convokit.completion.state import ChatRef
from convokit.errors import StoreUnavailable, Unreachable
from convokit.settings import Retry
from convokit.store.turn_start import TurnStart
from tests.completion.observing import Recorder
from tests.completion.test_turn_effects import BODY, Outside, make_kit_state

CALL = {"id": "a", "type": "function", "function": {"name": "double", "arguments": '{"number": 1}'}}
ASKING = {
    **BODY,
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": None, "tool_calls": [CALL, {**CALL, "id": "b"}]}}
    ],
}
WAYS = ["left before it", "left after it", "dropped", "no database", "lease lost", "interrupted"]


class Program(BaseException):
    """The end of the program, raised in the flow itself."""


def double(number: int) -> int:
    """Return twice the number."""
    return 2 * number


class Faulty:
    """Runs a flow, and lets something happen at its nth effect."""

    def __init__(self, outside: Outside, way: str, at: int) -> None:
        self.outside, self.way, self.at = outside, way, at
        self.effects = 0

    def run(self, flow: Flow[Any]) -> None:
        answer: Any = None
        error: BaseException | None = None
        leaves_next = False
        while True:
            try:
                effect = flow.send(answer) if error is None else flow.throw(error)
            except (StopIteration, Exception, Program):
                return
            self.effects += 1
            answer = error = None
            if leaves_next:
                leaves_next, error = False, Stopped()
                continue
            if self.effects == self.at:
                error = self._fail(effect)
                leaves_next = self.way == "left after it"
                if self.way == "dropped":
                    flow.close()
                    return
                if self.way == "lease lost" and isinstance(effect, Sql) and effect.write:
                    is_start = isinstance(getattr(effect.call, "__self__", None), TurnStart)
                    answer = self._perform(effect) if is_start else None
                    continue
            if error is None:
                try:
                    answer = self._perform(effect)
                except Exception as raised:
                    error = raised

    def _fail(self, effect: Effect) -> BaseException | None:
        if self.way == "left before it":
            return Stopped()
        if self.way == "interrupted":
            return Program()
        if self.way == "no database" and isinstance(effect, Sql):
            return StoreUnavailable("db", "gone")
        return None

    def _perform(self, effect: Effect) -> Any:
        calls = getattr(effect, "calls", None)
        if calls is not None:
            return [function(**arguments) for function, arguments in calls]
        if isinstance(effect, Sql) and effect.write and not hasattr(effect.call, "__self__"):
            cells = [cell.cell_contents for cell in getattr(effect.call, "__closure__", None) or ()]
            effect = Sql(
                next(cell for cell in cells if getattr(cell, "__name__", "") == "write"), write=True
            )  # a retry
        return self.outside.perform(effect)


def run_turn(way: str, at: int, *, streamed: bool) -> tuple[list[str], int]:
    """Run a turn with a fault. Return the names of its events and the number of its effects."""
    recorder = Recorder()
    kit = make_kit_state(retry=Retry(attempts=2), tools=to_tools([double]))
    kit = replace(kit, notifier=make_notifier([recorder]))
    faulty = Faulty(Outside(Unreachable("no"), (200, ASKING), (200, BODY)), way, at)
    faulty.run(send_flow(kit, ChatRef(key="k"), SendRequest("hi", (), NO_OPTIONS, "raise"), stream=streamed))
    return recorder.take(), faulty.effects


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("streamed", [False, True])
def test_whatever_happens_at_any_effect(way: str, streamed: bool) -> None:
    """The turn has a retry, a round with two tools and a reply. Its events are balanced after every fault."""
    names, effects = run_turn("", 0, streamed=streamed)
    assert names[-1] == "turn_ended completed"
    assert effects > 15
    ends: set[str] = set()
    for at in range(1, effects + 1):
        names, _ = run_turn(way, at, streamed=streamed)
        ends |= {name for name in names if name.startswith("turn_ended")}
    expected = {
        "left before it": {"completed", "interrupted"},
        "left after it": {"completed", "interrupted"},
        "dropped": {"unsaved"},
        "no database": {"completed"},
        "lease lost": {"completed", "taken_over"},
        "interrupted": {"unsaved"},
    }
    assert {name.split()[1] for name in ends} == expected[way]
