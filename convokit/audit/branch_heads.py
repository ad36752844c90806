"""Find messages on no branch, and heads that moved since a checkpoint.

A branch head is a pointer to the last message of a branch. `checkout`, `edit` and `regenerate` move heads lawfully, so the
hash chain does not commit to them. A head that was moved in SQL hides messages, and the chain stays whole. `verify`
therefore returns the heads and counts the messages that no head reaches. A checkpoint signs the heads.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection

from convokit.audit import sql
from convokit.domain.conversation import MAIN, ConversationRow
from convokit.domain.verification import CheckpointHead, MovedHead


class HeadReport(NamedTuple):
    """The fields of `Verified` about the branch heads."""

    heads: dict[str | int, int | None]
    unreachable_messages: int
    moved_heads: tuple[MovedHead, ...]


def check_heads(connection: Connection, row: ConversationRow, known: CheckpointHead | None) -> HeadReport:
    """Compare the heads of a conversation with its messages and with a checkpoint. Every parent must precede its child."""
    heads: dict[int, int | None] = {0: row.head_seq}
    labels: dict[int, str | int] = {0: MAIN}
    for number, name, head_seq in sql.read_branches(connection, row.id):
        heads[number], labels[number] = head_seq, _choose_label(number, name)
    known_heads = {} if known is None or known.branch_heads is None else known.branch_heads
    wanted = {number: seq for number, seq in known_heads.items() if seq is not None}
    unreachable, found = _walk_paths(connection, row, heads, wanted)
    moved = tuple(
        MovedHead(conversation_id=row.id, branch=labels.get(number, number), checkpoint_seq=seq, seq=heads.get(number))
        for number, seq in wanted.items()
        if number not in found
    )
    return HeadReport({labels[number]: seq for number, seq in heads.items()}, unreachable, moved)


def _choose_label(number: int, name: str | None) -> str | int:
    # JSON has only text as keys: there the name "2" would be the same key as the number 2.
    is_ambiguous = name is None or name == MAIN or (name.isascii() and name.isdecimal())
    return number if name is None or is_ambiguous else name


def _walk_paths(
    connection: Connection, row: ConversationRow, heads: Mapping[int, int | None], wanted: Mapping[int, int]
) -> tuple[int, set[int]]:
    """Return the number of messages on no path, and the branches whose path has the message that is wanted of them.

    All paths are walked at once, from the last message to the first. Memory grows with the branches alone.
    """
    paths: dict[int, set[int]] = {}
    """The next message of every path, and the branches on this path that have a wanted message."""
    for number, seq in heads.items():
        if seq is not None:
            paths.setdefault(seq, set()).update({number} & wanted.keys())
    wanting = defaultdict(set)
    for number, seq in wanted.items():
        wanting[seq].add(number)
    unreachable, found = 0, set[int]()
    for message in sql.read_tree(connection, row.id, row.last_seq):
        branches = paths.pop(message.seq, None)
        if branches is None:
            unreachable += message.is_counted
            continue
        found |= wanting.get(message.seq, set()) & branches
        if message.parent_seq is not None:
            small, large = sorted((branches, paths.get(message.parent_seq, set())), key=len)
            large |= small  # copying the larger set at every fork would be quadratic
            paths[message.parent_seq] = large
    return unreachable, found
