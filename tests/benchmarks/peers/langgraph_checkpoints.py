"""LangGraph: a graph of one node over MessagesState, checkpointed in SQLite; the node sends the last messages."""

import sqlite3
import sys

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from protocol import ANSWER, KEPT, QUESTION, serve

url, folder = sys.argv[1:3]
model = ChatOpenAI(model="bench", base_url=url, api_key="k")


def call(state: MessagesState) -> dict[str, list[BaseMessage]]:
    """Send the last messages."""
    return {"messages": [model.invoke([SystemMessage("Be terse."), *state["messages"][-KEPT:]])]}


graph = StateGraph(MessagesState)
graph.add_node("call", call)
graph.add_edge(START, "call")
saver = SqliteSaver(sqlite3.connect(f"{folder}/langgraph.db", check_same_thread=False))
app = graph.compile(checkpointer=saver)
config = {"configurable": {"thread_id": "t"}}


def fill(count: int) -> None:
    """Store a history."""
    made: list[BaseMessage] = [HumanMessage(QUESTION) if n % 2 == 0 else AIMessage(ANSWER) for n in range(count)]
    app.update_state(config, {"messages": made}, as_node="call")


def turn() -> str:
    """Take a turn."""
    return str(app.invoke({"messages": [HumanMessage(QUESTION)]}, config)["messages"][-1].content)


serve(fill, turn)
