"""openai-agents: an Agent over SQLiteSession, limited to the last messages."""

import asyncio
import sys

from agents import Agent, OpenAIChatCompletionsModel, Runner, SessionSettings, SQLiteSession, set_tracing_disabled
from openai import AsyncOpenAI
from protocol import ANSWER, KEPT, QUESTION, serve

set_tracing_disabled(True)
url, folder = sys.argv[1:3]
client = AsyncOpenAI(base_url=url, api_key="k")
agent = Agent(name="a", instructions="Be terse.", model=OpenAIChatCompletionsModel("bench", client))
session = SQLiteSession("s", f"{folder}/agents.db", session_settings=SessionSettings(limit=KEPT))
loop = asyncio.new_event_loop()


def fill(count: int) -> None:
    """Store a history."""
    roles = [("user", QUESTION), ("assistant", ANSWER)]
    items = [{"role": roles[n % 2][0], "content": roles[n % 2][1]} for n in range(count)]
    loop.run_until_complete(session.add_items(items))


def turn() -> str:
    """Take a turn."""
    return str(loop.run_until_complete(Runner.run(agent, QUESTION, session=session)).final_output)


serve(fill, turn)
