"""pydantic-ai, which stores nothing by itself: each run's new messages as a row of JSON in SQLite, the last runs sent again."""

import sqlite3
import sys

from protocol import ANSWER, KEPT, QUESTION, serve
from pydantic_ai import (
    Agent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    TextPart,
    UserPromptPart,
)
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url, folder = sys.argv[1:3]
agent = Agent(OpenAIChatModel("bench", provider=OpenAIProvider(base_url=url, api_key="k")), instructions="Be terse.")
database = sqlite3.connect(f"{folder}/pydantic_ai.db")
database.execute("PRAGMA journal_mode=WAL")
database.execute("CREATE TABLE run (id INTEGER PRIMARY KEY, chat TEXT, messages BLOB)")
database.execute("CREATE INDEX run_chat ON run (chat, id)")


def store(messages: bytes) -> None:
    """Store a run."""
    database.execute("INSERT INTO run (chat, messages) VALUES ('c', ?)", (messages,))
    database.commit()


def fill(count: int) -> None:
    """Store a history."""
    made: list[ModelMessage] = [
        ModelRequest(parts=[UserPromptPart(content=QUESTION)]),
        ModelResponse(parts=[TextPart(content=ANSWER)]),
    ]
    body = ModelMessagesTypeAdapter.dump_json(made)
    database.executemany("INSERT INTO run (chat, messages) VALUES ('c', ?)", [(body,)] * (count // 2))
    database.commit()


def turn() -> str:
    """Take a turn."""
    query = "SELECT messages FROM run WHERE chat = 'c' ORDER BY id DESC LIMIT ?"
    rows = database.execute(query, (KEPT // 2,)).fetchall()
    past = [each for row in reversed(rows) for each in ModelMessagesTypeAdapter.validate_json(row[0])]
    result = agent.run_sync(QUESTION, message_history=past)
    store(result.new_messages_json())
    return str(result.output)


serve(fill, turn)
