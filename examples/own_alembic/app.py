"""An application with its own tables, its own Alembic and convokit in one database.

Run it in a checkout. It migrates both sides, answers a ticket, and reads ticket and messages in one transaction:

    uv run python examples/own_alembic/app.py

The same migrations as commands, and the check that autogenerate leaves convokit's tables alone:

    cd examples/own_alembic
    uv run alembic upgrade head
    uv run --extra cli convokit db upgrade --database sqlite:///desk.db
    uv run alembic check

DATABASE_URL names the database; the default is desk.db in this folder. CONVOKIT_MODEL names the model, with OPENAI_API_KEY, and
OPENAI_BASE_URL for another server than OpenAI's. Without CONVOKIT_MODEL, an echo answers.
"""

import os
from pathlib import Path

from alembic import command
from alembic.config import Config
from models import DATABASE, Customer, Ticket
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from convokit import Convokit
from convokit.store import find_conversation_by_key, read_messages
from convokit.testing import ScriptedModel

TENANT = "default"


def make_kit() -> Convokit:
    """Return a kit on the application's database: for the model that the environment names, else for an echo."""
    if os.environ.get("CONVOKIT_MODEL"):
        return Convokit(DATABASE, tenant=TENANT)
    return Convokit(DATABASE, tenant=TENANT, model="echo", api_key="none", http_client=ScriptedModel().client())


def migrate(kit: Convokit) -> None:
    """Bring both sides up to date, when you deploy. Neither side's migrations run inside the other's."""
    command.upgrade(Config(Path(__file__).with_name("alembic.ini")), "head")
    kit.migrate()


def open_ticket(session: Session, customer: str, title: str) -> int:
    """Write a ticket and commit it. A turn has commits of its own, so it starts after this one."""
    ticket = Ticket(title=title, customer=Customer(name=customer))
    session.add(ticket)
    session.commit()
    return ticket.id


def answer_ticket(session: Session, kit: Convokit, ticket_id: int) -> str:
    """Ask the model about a ticket. The idempotency key makes a repeat safe: one question, one reply."""
    ticket = session.get_one(Ticket, ticket_id)
    chat = kit.chat(ticket.key, subject=f"customer-{ticket.customer_id}", title=ticket.title)
    question = ticket.title
    session.commit()  # no transaction of the application is open while the model answers
    return chat.send(question, idempotency_key="title").text


def read_ticket(session: Session, ticket_id: int) -> list[str]:
    """Read a ticket and its newest messages in the session's own transaction."""
    ticket = session.get_one(Ticket, ticket_id)
    lines = [f"Ticket {ticket.id} of {ticket.customer.name}: {ticket.title}"]
    connection = session.connection()
    conversation = find_conversation_by_key(connection, TENANT, ticket.key)
    if conversation is not None:
        messages = read_messages(connection, conversation.id, conversation.head_seq, 20)
        lines += [f"  {message.seq} {message.role}: {message.content}" for message in messages]
    return lines


def main() -> None:
    """Migrate, answer a ticket, and print it."""
    engine = create_engine(DATABASE)
    with make_kit() as kit:
        migrate(kit)
        with Session(engine) as session:
            ticket_id = open_ticket(session, "山田", "80番ポートが使えません。")
            answer_ticket(session, kit, ticket_id)
            print("\n".join(read_ticket(session, ticket_id)))
    engine.dispose()


if __name__ == "__main__":
    main()
