"""The application's own tables, and the database that it shares with convokit."""

import os

from sqlalchemy import ForeignKey
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

DATABASE = os.environ.get("DATABASE_URL", "sqlite:///desk.db")
"""On PostgreSQL: postgresql+psycopg://user@host/name. SQLAlchemy and convokit both take this URL."""


class Base(DeclarativeBase):
    """The base class of the application's tables. Its metadata has no table of convokit."""


class Customer(Base):
    """A customer. convokit knows them as the subject of their conversations."""

    __tablename__ = "customer"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Ticket(Base):
    """A ticket. `key` is the key of its conversation, and the application chooses it before the first message."""

    __tablename__ = "ticket"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customer.id"))
    customer: Mapped[Customer] = relationship()

    @property
    def key(self) -> str:
        """The key of the conversation about this ticket."""
        return f"ticket-{self.id}"
