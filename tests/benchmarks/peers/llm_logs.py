"""simonw/llm: a conversation that is loaded from its log and logged again; it has no window."""

import sys

import llm
import sqlite_utils
from llm.default_plugins.openai_models import Chat
from llm.migrations import migrate
from protocol import QUESTION, serve

url, folder = sys.argv[1:3]
model = Chat("bench", model_name="bench", api_base=url)
model.key = "k"
database = sqlite_utils.Database(f"{folder}/llm.db")
migrate(database)
conversation = llm.Conversation(model=model)


def turn() -> str:
    """Take a turn."""
    response = conversation.prompt(QUESTION, system="Be terse.", stream=False)
    said = response.text()
    response.log_to_db(database)
    return str(said)


def fill(count: int) -> None:
    """Store a history: by talking, for want of another way."""
    for _ in range(count // 2):
        assert turn()


serve(fill, turn)
