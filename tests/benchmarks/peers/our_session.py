"""convokit as a session store: `python our_session.py FOLDER default|bare`. `append` stores items beside their projections."""

import sys
from typing import Any

from session_protocol import measure, run

from convokit import AsyncConvokit, Convokit, NewMessage

KIND = "openai-agents/1"
folder, which = sys.argv[1:3]


def project(item: dict[str, Any]) -> NewMessage:
    """Return the message that an item is for convokit."""
    if item.get("type") == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        calls = [{"id": item["call_id"], "type": "function", "function": function}]
        return NewMessage("assistant", tool_calls=calls, kind=KIND, item=item)
    if item.get("type") == "function_call_output":
        return NewMessage("tool", item["output"], tool_call_id=item["call_id"], kind=KIND, item=item)
    content = item.get("content")
    text = content if isinstance(content, str) else "".join(part["text"] for part in content or ())
    return NewMessage(item.get("role", "assistant"), text or None, kind=KIND, item=item)


async def main() -> None:
    """Measure an asynchronous kit on a SQLite file, with the search index or without."""
    url = f"sqlite:///{folder}/ours.db"
    with Convokit(url) as kit:
        kit.migrate()
    async with AsyncConvokit(url, search=which == "default") as kit:
        chat = kit.chat("s")

        async def read(limit: int | None) -> list[Any]:
            return [message.item for message in await chat.messages(limit=limit or 1000)]

        async def pop() -> Any:
            (last,) = await chat.messages(limit=1)
            await chat.append([], after=last.parent_seq or 0, expect=last)
            return last.item

        await measure(lambda items: chat.append([project(item) for item in items]), read, pop)


run(main())
