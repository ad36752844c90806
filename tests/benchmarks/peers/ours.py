"""convokit, as it comes: durable, counted, chained, searchable; a window of 9 to 17 messages, 13 on average."""

import sys

from protocol import QUESTION, serve

from convokit import Budget, Convokit

url, folder = sys.argv[1:3]
kit = Convokit(
    f"sqlite:///{folder}/convokit.db",
    model="bench",
    base_url=url,
    api_key="k",
    developer_prompt="Be terse.",
    budget=Budget(context_tokens=4000, reply_tokens=500),
)
kit.migrate()
chat = kit.chat("c")


def turn() -> str:
    """Take a turn."""
    return chat.send(QUESTION).text


def fill(count: int) -> None:
    """Store a history, by talking."""
    for _ in range(count // 2):
        assert turn()


serve(fill, turn)
