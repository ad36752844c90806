"""After a child died: what it told and what the server saw is there, and another process finishes everything at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from convokit import Convokit
from tests.faults import jobs, oracles
from tests.faults.fork_server import Outcome
from tests.support.faces import Face
from tests.support.server import Request

LATER = "a later question"


class Finisher:
    """Another process's face and kit on one database."""

    def __init__(self, face: str, url: str, server: jobs.Server) -> None:
        self._url = url
        self._server = server
        self.face = Face(face)
        self.kit = jobs.kit_of(self.face, url, server.url, jobs.AT_ONCE)
        self._checker = Convokit(url, model="loop-1")

    def close(self) -> None:
        """Close the kits."""
        self._checker.close()
        self.face.close()

    def check(self, chat: str, outcome: Outcome) -> oracles.Found:
        """Check what a child left: nothing it told is lost, and nothing the server saw goes unrecorded."""
        found = oracles.check_conversation(self._url, chat, kit=self._checker)
        requests = self._seen(chat)
        oracles.check_calls([found], [each.raw for each in requests])
        asked = {_question(each.body) for each in requests if each.body["model"] != jobs.SUMMARY.model}
        oracles.check_acknowledged(found, asked | set(outcome.all("question")), outcome.all("reply"))
        return found

    def _seen(self, chat: str) -> list[Request]:
        found = self._server.seen(chat)
        for each in found:
            oracles.check_request(each.body["messages"])
        return found

    def ask(self, chat: str, question: str) -> None:
        """Ask one question."""
        asker = jobs.Asker(self.face, self.kit, chat, tell=lambda **facts: None)
        _compare(question, asker.ask(question))

    def finish(self, chat: str, questions: Sequence[str], *, later_first: bool, resume: bool = False) -> oracles.Found:
        """Finish what a dead process left, without waiting, and check that nothing was done twice. Return the rows.

        `later_first` puts a new question before the repeats of the old ones; `resume` finishes the last turn first.
        """
        before = oracles.find(self._url, chat)
        runs: list[str] = []

        def tell(**facts: Any) -> None:
            runs.extend([facts["ran"]] if "ran" in facts else [])

        asker = jobs.Asker(self.face, self.kit, chat, tell=tell)
        if resume:
            _compare(before.texts("user")[-1], asker.resume())
        for question in [LATER, *questions] if later_first else [*questions, LATER]:
            _compare(question, asker.ask(question))
        found = oracles.check_conversation(self._url, chat, kit=self._checker)
        oracles.check_once(found, {each: jobs.reply_to(each) for each in (*questions, LATER)})
        oracles.check_calls([found], [each.raw for each in self._seen(chat)])
        if runs and any(each["role"] == "tool" for each in before.messages):
            raise oracles.Broken("a tool whose result is recorded was run again")
        return found


def _question(body: Any) -> str:
    return str([each["content"] for each in body["messages"] if each["role"] == "user"][-1])


def _compare(question: str, reply: str) -> None:
    if reply != jobs.reply_to(question):
        raise oracles.Broken(f"the reply to {question!r} is {reply!r}")
