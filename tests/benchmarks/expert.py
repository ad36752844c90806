"""A turn as an expert writes it: the SQLAlchemy ORM and the openai package, an index, a window, a token count, two commits."""

from __future__ import annotations

import time
from typing import Any
from uuid import UUID

import openai
from sqlalchemy import BigInteger, ForeignKey, String, Text, Uuid, create_engine, event, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from convokit.tokens.estimate import CharacterEstimate
from tests.benchmarks.hand import MESSAGES, MOST_TOKENS


class Base(DeclarativeBase):
    pass


class Conversation(Base):
    __tablename__ = "expert_conversation"
    id: Mapped[UUID] = mapped_column(Uuid, primary_key=True)
    updated_at: Mapped[int] = mapped_column(BigInteger)
    last_seq: Mapped[int]


class Message(Base):
    __tablename__ = "expert_message"
    conversation_id: Mapped[UUID] = mapped_column(ForeignKey("expert_conversation.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    role: Mapped[str] = mapped_column(String(20))
    content: Mapped[str] = mapped_column(Text)
    tokens: Mapped[int]
    created_at: Mapped[int] = mapped_column(BigInteger)


class Expert:
    """Turns through the ORM, a session for each, and the openai package."""

    def __init__(self, url: str, database: str) -> None:
        self.client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        self.engine = create_engine(make_url(database).set(drivername=_driver(database)))
        if self.engine.dialect.name == "sqlite":
            event.listen(self.engine, "connect", _pragmas)
        Base.metadata.create_all(self.engine)
        self.count = CharacterEstimate().count
        self.wanted = MESSAGES
        self.sent = 0

    def fill(self, conversation: UUID, count: int, text: str) -> None:
        """Make a conversation of so many messages."""
        tokens = self.count(text)
        with Session(self.engine) as session, session.begin():
            session.add(Conversation(id=conversation, updated_at=0, last_seq=count))
            session.flush()
            for start in range(1, count + 1, 10_000):
                rows: list[dict[str, Any]] = [
                    {
                        "conversation_id": conversation,
                        "seq": seq,
                        "role": "user" if seq % 2 else "assistant",
                        "content": text,
                        "tokens": tokens,
                        "created_at": 0,
                    }
                    for seq in range(start, min(start + 10_000, count + 1))
                ]
                session.execute(insert(Message), rows)

    def turn(self, conversation: UUID, text: str) -> str:
        """Answer one question."""
        with Session(self.engine) as session:
            row = session.get_one(Conversation, conversation)
            recent = select(Message).where(Message.conversation_id == conversation, Message.seq > row.last_seq - 64)
            messages: list[Any] = []
            spent = 0
            for each in session.scalars(recent.order_by(Message.seq.desc())):
                spent += each.tokens
                if len(messages) + 1 == self.wanted or spent > MOST_TOKENS:
                    break
                messages.append({"role": each.role, "content": each.content})
            messages.reverse()
            messages.append({"role": "user", "content": text})
            self._append(session, row, "user", text)
            session.commit()
            found = self.client.chat.completions.create(model="bench", messages=messages)
            reply = found.choices[0].message.content or ""
            self._append(session, row, "assistant", reply)
            session.commit()
        self.sent = len(messages)
        return reply

    def _append(self, session: Session, row: Conversation, role: str, text: str) -> None:
        now = time.time_ns() // 1000
        row.last_seq, row.updated_at = row.last_seq + 1, now
        values: dict[str, Any] = {"seq": row.last_seq, "role": role, "content": text, "tokens": self.count(text)}
        session.add(Message(conversation_id=row.id, created_at=now, **values))

    def close(self) -> None:
        self.client.close()
        self.engine.dispose()


def _driver(database: str) -> str:
    return "sqlite" if database.startswith("sqlite") else "postgresql+psycopg"


def _pragmas(connection: Any, record: Any) -> None:
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
