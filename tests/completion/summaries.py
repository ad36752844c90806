"""Talks with a rolling summary: who writes it, and what is looked at."""

from __future__ import annotations

from typing import Any

from sqlalchemy import text as sql

from convokit import Budget, Retry, Summary
from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, echo

BUDGET = Budget(context_tokens=400, reply_tokens=50, step_tokens=60)
SUMMARY = Summary(model="mini", max_tokens=40)
HEADING = "Summary of the earlier part of this conversation:\n\n"
ONCE = Retry(attempts=1)


class Writer:
    """Answers summaries with "so far 1", "so far 2" …, or with what is scripted for them, and everything else with an echo."""

    def __init__(self) -> None:
        self.made = 0
        self.scripted: list[Script] = []

    def __call__(self, body: Any) -> Script:
        if body["model"] != "mini":
            return echo(body)
        if self.scripted:
            return self.scripted.pop(0)
        self.made += 1
        return completion(f"so far {self.made}", model="mini")


def models(server: LoopbackServer, since: int = 0) -> list[str]:
    return [request.body["model"] for request in server.requests[since:]]


def sent_to(server: LoopbackServer, index: int = -1) -> list[Any]:
    return [each["content"] for each in server.requests[index].body["messages"]]


def talk_until(face: Face, server: LoopbackServer, chat: Any, *, until: int = 1, first: int = 0) -> int:
    """Send turns until `until` summary calls were made; return the number of the next turn."""
    for number in range(first, first + 60):
        face.settle(chat.send(f"turn number {number} and more"))
        if models(server).count("mini") >= until:
            return number + 1
    raise AssertionError("no summary was made")


def next_moves(face: Face, chat: Any) -> int:
    """Send turns until the next one, whose number is returned, would be the first to sum up."""
    for number in range(60):
        text = f"turn number {number} and more"
        if summary_parts(face.settle(chat.context(text)).report):
            return number
        face.settle(chat.send(text))
    raise AssertionError("the start never moves")


def fetched(database: str, query: str, **values: Any) -> list[Any]:
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        found = list(connection.execute(sql(query), values))
    engine.dispose()
    return found


def write(database: str, statement: str) -> None:
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(sql(statement))
    engine.dispose()


def summary_parts(report: Any) -> list[tuple[int | None, bool, str]]:
    return [(part.key, part.included, part.rule) for part in report.parts if part.kind == "summary"]
