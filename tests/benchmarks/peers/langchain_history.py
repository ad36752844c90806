"""LangChain: RunnableWithMessageHistory over SQLChatMessageHistory, with trim_messages to the last messages."""

import sys
import warnings

from langchain_community.chat_message_histories import SQLChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, trim_messages
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_openai import ChatOpenAI
from protocol import ANSWER, KEPT, QUESTION, serve
from sqlalchemy import create_engine

warnings.simplefilter("ignore")
url, folder = sys.argv[1:3]
engine = create_engine(f"sqlite:///{folder}/langchain.db")
model = ChatOpenAI(model="bench", base_url=url, api_key="k")
prompt = ChatPromptTemplate.from_messages(
    [("system", "Be terse."), MessagesPlaceholder("history"), ("human", "{question}")]
)
trimmer = trim_messages(max_tokens=KEPT, token_counter=len, strategy="last", start_on="human", include_system=True)


def history(session: str) -> SQLChatMessageHistory:
    """Return the stored history."""
    return SQLChatMessageHistory(session, connection=engine)


chain = RunnableWithMessageHistory(
    prompt | trimmer | model, history, input_messages_key="question", history_messages_key="history"
)


def fill(count: int) -> None:
    """Store a history."""
    messages: list[BaseMessage] = [HumanMessage(QUESTION) if n % 2 == 0 else AIMessage(ANSWER) for n in range(count)]
    history("s").add_messages(messages)


def turn() -> str:
    """Take a turn."""
    return str(chain.invoke({"question": QUESTION}, {"configurable": {"session_id": "s"}}).content)


serve(fill, turn)
