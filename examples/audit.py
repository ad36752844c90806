"""An auditor's report: what is stored, whether it was altered, what the model was sent, and who removed what.

The database is opened read-only, so a copy or a hot standby will do, and no model is needed. Run it in a checkout, for
example on the database that tool_bot.py or fastapi_app.py made:

    uv run python examples/audit.py bot.db --subject reader-7 --key-file auditor.key --new-checkpoint 2026-12-01.jsonl
    uv run python examples/audit.py bot.db --subject reader-7 --key-file auditor.key --checkpoint 2026-12-01.jsonl

The key file holds a secret of 16 bytes or more. Keep it and the checkpoints away from everybody who can write the database.
The exit code is 0 if every history is whole, 1 if one was altered, cut off or deleted, and 2 if the report could not be made.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from convokit import Chat, Conversation, Convokit
from convokit.errors import ChainBroken, ConvokitError


def list_all(kit: Convokit, subject: str | None = None) -> Iterator[Conversation]:
    """Yield every conversation, or those of one person, page by page."""
    before = None
    while True:
        page = kit.conversations(subject=subject, limit=200, before=before)
        yield from page
        if page.next is None:
            return
        before = page.next


def report_history(kit: Convokit, checkpoint: str | None, key: str | None) -> bool:
    """Verify all conversations, and return whether all are whole."""

    def report_broken(error: ChainBroken) -> None:
        print(f"  ALTERED  {error}")

    print("\n# History")
    found = kit.verify(against=checkpoint, key=key if checkpoint else None, broken=report_broken)
    print(f"  {found.conversations} conversations, {found.entries} entries verified, {found.broken} broken")
    print(f"  compared with {checkpoint or 'no checkpoint: a history that was cut off at its end is not noticed'}")
    for moved in found.moved_heads:
        where = f"conversation {moved.conversation_id}, branch {moved.branch}"
        print(f"  MOVED    {where}: ended at message {moved.checkpoint_seq}, now at {moved.seq}")
    return not found.broken


def report_conversation(conversation: Conversation, chat: Chat) -> bool:
    """Print the messages and the request of the newest reply. Return whether the request is as it was sent."""
    print(f"\n# {conversation.key or conversation.id}  {conversation.title or ''}")
    for message in chat.messages(limit=None):
        calls = ", ".join(call["function"]["name"] for call in message.tool_calls or [])
        text = message.text or f"[{calls or message.status}]"
        print(f"  {message.seq:>4} {message.created_at:%Y-%m-%d %H:%M} {message.role:<9} {text}")
    turns = chat.turns(limit=1)
    if not turns:  # its messages were appended or imported
        return True
    replay = chat.replay(turns[-1])
    print(f"  Request of the newest reply: {replay.status}, {replay.model}, {len(replay.body or b'')} bytes")
    if replay.problem:
        print(f"  {replay.problem}")
    for sent in replay.messages:
        print(f"       {sent['role']:<9} {sent.get('content') or '[calls]'}")
    return replay.status != "mismatch"


def report_removals(chat: Chat, name: str) -> None:
    """Print each redaction and erasure of a conversation: when, who, what and why."""
    before = None
    while entries := chat.entries(limit=200, before=before):
        for entry in reversed(entries):
            if entry.removal is not None:
                who, why = entry.removal.author or "(no name given)", entry.removal.reason or "(no reason given)"
                what = "everything before" if entry.ref == "*" else entry.ref
                print(f"  {entry.removal.at:%Y-%m-%d %H:%M} {who}: {entry.kind} of {what} in {name}: {why}")
        before = entries[0].number


def report_usage(kit: Convokit, subject: str | None) -> None:
    """Print the tokens of each model, and the cost where it is known."""
    print("\n# Usage")
    for row in kit.usage(by="model", subject=subject).rows:
        cost = "cost unknown" if row.cost is None else f"${row.cost}"
        print(f"  {row.model}: {row.calls} calls, {row.prompt_tokens} + {row.completion_tokens} tokens, {cost}")


def main() -> int:
    """Print the report, and return the exit code."""
    parser = argparse.ArgumentParser(description="Report on the conversations of a convokit database.")
    parser.add_argument("database", help="a path or a database URL")
    parser.add_argument("--tenant", default="default")
    parser.add_argument("--subject", help="print the conversations of this person only; default: of everybody")
    parser.add_argument("--key-file", type=Path, help="the secret of the checkpoints")
    parser.add_argument("--checkpoint", help="compare with this checkpoint")
    parser.add_argument("--new-checkpoint", help="write a checkpoint here if all histories are whole")
    options = parser.parse_args()
    if (options.checkpoint or options.new_checkpoint) and not options.key_file:
        parser.error("a checkpoint needs --key-file")
    try:
        key = options.key_file.read_text("utf-8").strip() if options.key_file else None
        with Convokit(options.database, tenant=options.tenant, read_only=True) as kit:
            whole = report_history(kit, options.checkpoint, key)
            for conversation in list_all(kit, options.subject):
                whole &= report_conversation(conversation, kit.chat(id=conversation.id))
            print("\n# Removals")
            for conversation in list_all(kit):  # an erasure removes the subject too, so those of everybody
                report_removals(kit.chat(id=conversation.id), conversation.key or str(conversation.id))
            report_usage(kit, options.subject)
            if whole and key and options.new_checkpoint:
                made = kit.checkpoint(key=key, to=options.new_checkpoint)
                print(f"\nNew checkpoint {options.new_checkpoint}: {made.conversations} conversations")
    except (ConvokitError, OSError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
