"""What these tests share: a server whose every reply is another one, and short looks at what is stored and sent."""

from __future__ import annotations

import itertools
from typing import Any

from sqlalchemy import text as sql

from convokit.store.engine import WRITE, open_engine, parse_database_url
from tests.support.faces import Face
from tests.support.server import LoopbackServer, Script, completion, stream


def count_replies(server: LoopbackServer) -> None:
    """Have the server number its replies: "1: hello" to "hello", then "2: hello"."""
    numbers = itertools.count(1)

    def answer(body: Any) -> Script:
        text = f"{next(numbers)}: {body['messages'][-1]['content']}"
        if body.get("stream"):
            words = text.split(" ")
            return stream([words[0], *(f" {word}" for word in words[1:])])
        return completion(text)

    server.answer = answer


def texts(face: Face, chat: Any) -> list[str]:
    """Return the words of a chat's path."""
    return [message.text for message in face.settle(chat.messages())]


def seqs(messages: list[Any]) -> list[int]:
    """Return the places of messages."""
    return [message.seq for message in messages]


def sent(server: LoopbackServer, index: int = -1) -> list[Any]:
    """Return the contents of a request's messages."""
    return [each["content"] for each in server.requests[index].body["messages"]]


def rows(database: str, query: str, **values: Any) -> list[Any]:
    """Return what a query finds."""
    engine = open_engine(parse_database_url(database))
    with engine.connect() as connection:
        found = list(connection.execute(sql(query), values))
    engine.dispose()
    return found


def change(database: str, statement: str, **values: Any) -> None:
    """Change the database behind the library's back."""
    engine = open_engine(parse_database_url(database))
    with engine.execution_options(**{WRITE: True}).begin() as connection:
        connection.execute(sql(statement), values)
    engine.dispose()


def counts(database: str) -> dict[str, int]:
    """Return how many rows every table of a conversation has."""
    tables = ("conversation", "branch", "message", "turn", "completion", "entry", "chunk", "tool_call", "blob")
    return {name: rows(database, f"SELECT count(*) FROM convokit_{name}")[0][0] for name in tables}
