"""A turn is a list of effects: the process is killed before each, and within each transaction, before it commits."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pytest
from sqlalchemy import update

from convokit.errors import Interrupted
from convokit.store import schema
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.faults import jobs, oracles, recovery_checks
from tests.faults.fork_server import ForkServer, Outcome
from tests.support.selection import Effort, keep, spread
from tests.support.server import completion

pytestmark = pytest.mark.soak(sample=True)

PLAIN, STREAMED, REFUSED, TOOL = "a plain question", "a streamed question", "a refused question", jobs.TURNS[2]
SUMMED, EARLIER = "a summed question", [f"what was said before, number {number}" for number in range(6)]


THINNED = {
    ("sync", "sqlite"): (0, 1),
    ("sync", "postgresql"): (0, 3),
    ("async", "sqlite"): (1, 3),
    ("async", "postgresql"): (2, 3),
}
"""Which points are tried with --soak-sample: where to begin, and each how many-th. A quick run tries three."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the child does, after another was killed in the middle of a stream, if `left` says so."""

    action: str
    left: bool = False
    recovered: bool = False
    """Whether what was left is closed before the child acts."""
    later: bool = False
    """Whether another question was asked in between."""
    talked: bool = False
    """Whether there is a history that the action's window leaves behind."""

    @property
    def questions(self) -> list[str]:
        """What was asked, in order, but for the later question."""
        asked = [STREAMED] if self.left else []
        return asked if self.action in ("resume", "recover", STREAMED) and self.left else [*asked, self.action]


SCENARIOS = {
    "plain": Scenario(PLAIN),
    "streamed": Scenario(STREAMED),
    "made again after a 503": Scenario(REFUSED),
    "with a tool": Scenario(TOOL),
    "with a summary": Scenario(SUMMED, talked=True),
    "takeover by a send": Scenario(PLAIN, left=True),
    "takeover by recover": Scenario("recover", left=True),
    "resume": Scenario("resume", left=True, recovered=True),
    "repeat": Scenario(STREAMED, left=True),
    "repeat after a later turn": Scenario(STREAMED, left=True, later=True),
}


class Stage:
    """One database, one face, and children that die."""

    def __init__(self, fork_server: ForkServer, server: jobs.Server, url: str, face: str) -> None:
        self._fork_server = fork_server
        self._server = server
        self.url = url
        self._face = face
        self.finisher = recovery_checks.Finisher(face, url, server)
        self.first, self.every = THINNED[face, url.partition(":")[0]]
        fork_server.warm(face, url, server.url)

    def run(self, chat: str, action: str, die_at: str | None, *, lost_begin: bool = False) -> Outcome:
        """Run one action in a child."""
        outcome = self._fork_server.run(
            "one_action",
            face=self._face,
            url=self.url,
            server=self._server.url,
            chat=chat,
            action=action,
            die_at=die_at,
            lost_begin=lost_begin,
        )
        assert outcome.killed == (die_at is not None), f"{die_at} was not reached"
        return outcome

    def set_up(self, chat: str, scenario: Scenario) -> list[str]:
        """Leave behind what the scenario begins with; return what was shown of the reply that broke off."""
        for question in EARLIER if scenario.talked else []:
            self.finisher.ask(chat, question)
        if not scenario.left:
            return []
        shown: list[str] = self.run(chat, STREAMED, "before save_chunk #4").all("shown")
        if scenario.recovered:
            assert len(self.finisher.face.settle(self.finisher.kit.recover())) == 1
        if scenario.later:
            self.finisher.ask(chat, recovery_checks.LATER)
        return shown

    def leave_late(self, chat: str, question: str) -> str:
        """Have a turn taken over from a worker whose lease ran out, but who is only slow; return its late reply."""
        slow = completion("late")
        slow.delay_s = 1.0
        self._server.script(slow)
        worker = recovery_checks.Finisher("sync", self.url, self._server)
        outcomes: list[Exception] = []

        def work_slowly() -> None:
            try:
                worker.kit.chat(chat, user=chat).send(question, idempotency_key=question)
            except Interrupted as error:
                outcomes.append(error)

        thread = threading.Thread(target=work_slowly)
        thread.start()
        while not self._server.seen(chat):
            thread.join(0.01)
        engine = open_engine(parse_database_url(self.url))
        with engine.execution_options(**{WRITE: True}).begin() as connection:
            connection.execute(update(schema.turn).values(lease_until=0, started_at=0))  # too old for a living worker
        engine.dispose()
        assert len(self.finisher.face.settle(self.finisher.kit.recover())) == 1
        thread.join()
        worker.close()
        assert len(outcomes) == 1
        return "late"

    def points(self, scenario: Scenario) -> list[str]:
        """Return all points of the scenario's action, from a run to its end."""
        self.set_up("whole", scenario)
        outcome = self.run("whole", scenario.action, None)
        found = self.finisher.check("whole", outcome)
        assert bool(found.summaries) == scenario.talked
        return list(outcome.all("points")[0])

    def kill(self, chat: str, scenario: Scenario, point: str, *, later_first: bool) -> None:
        """Kill the action at one point, check what is left, finish everything, and check again."""
        shown = self.set_up(chat, scenario)
        outcome = self.run(chat, scenario.action, point)
        found = self.finisher.check(chat, outcome)
        if scenario.action == STREAMED and not scenario.left:
            _check_stored(found, outcome.all("shown"))
        resume = scenario.action == "resume"
        found = self.finisher.finish(chat, scenario.questions, later_first=later_first, resume=resume)
        if scenario.left:
            _check_stored(found, shown)


def _check_stored(found: oracles.Found, shown: list[str]) -> None:
    """Check that what was shown of a reply is stored, but for the last piece at most."""
    pieces = "".join(str(each["text"]) for each in found.chunks)
    kept = "".join(shown[:-1])
    stored = [pieces, *found.texts("assistant")]
    assert any(each.startswith(kept) for each in stored), f"{kept!r} was shown, {stored} is stored"


@pytest.fixture(params=["sync", "async"])
def stage(
    request: pytest.FixtureRequest, fork_server: ForkServer, far_server: jobs.Server, database: str
) -> Iterator[Stage]:
    made = Stage(fork_server, far_server, database, request.param)
    yield made
    made.finisher.close()


@pytest.mark.parametrize("name", keep(SCENARIOS, "streamed", sample=True))
def test_killed_at_any_point(stage: Stage, name: str, effort: Effort) -> None:
    """Killed at any point of a turn, a takeover, a repeat: nothing told is lost, no call goes unrecorded, the chain holds, the
    next send goes at once, and repeated under its key every question is there once with one whole reply."""
    points = stage.points(SCENARIOS[name])
    every = range(len(points))
    some: dict[Effort, Sequence[int]] = {
        "quick": spread(every, 5)[1:-1],
        "sample": every[stage.first :: stage.every],
        "soak": every,
    }
    for number in some[effort]:
        for later_first in [False, True] if effort == "soak" else [bool(number % 2)]:
            try:
                stage.kill(f"{number}-{later_first}", SCENARIOS[name], points[number], later_first=later_first)
            except Exception as error:
                error.add_note(f"killed {points[number]}, later_first={later_first}; the points: {', '.join(points)}")
                raise


@pytest.mark.soak(sample=True)
def test_a_begin_that_is_not_durable_is_seen(stage: Stage) -> None:
    """The control: were the call made before question and call are stored, the server's request would have no row."""
    outcome = stage.run("k", PLAIN, "before ReadBody", lost_begin=True)
    with pytest.raises(oracles.Broken, match="has no row"):
        stage.finisher.check("k", outcome)


@pytest.mark.soak(sample=True)
def test_a_call_after_a_late_reply_is_closed_too(stage: Stage) -> None:
    """Where a reply came late and the turn was opened again, its worker's death leaves no call that seems to run for ever."""
    late = stage.leave_late("k", STREAMED)
    assert oracles.check_conversation(stage.url, "k").texts("assistant", "late") == [late]
    stage.run("k", STREAMED, "before save_chunk #3")
    stage.finisher.finish("k", [STREAMED], later_first=False)
