"""Read the messages that follow the same message."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from convokit import Message, TurnRecord
from convokit.viewer.page_request import PageRequest
from convokit.viewer.page_size import MAX_BODY_BYTES, cut_text
from convokit.viewer.text_diff import TextChange, compare_texts


@dataclass(frozen=True, slots=True)
class VersionsPage:
    """The versions of a message, and the differences of two of them."""

    conversation_id: UUID
    seq: int
    versions: list[Message]
    turns: list[TurnRecord]
    """The turns of the versions, with their calls."""
    a: Message
    b: Message
    changes: list[TextChange]
    """What leads from the text of `a` to that of `b`. Empty for equal texts and for a single version."""
    is_cut: bool
    """Whether only the beginnings of the texts were compared."""


async def read_versions(page: PageRequest) -> VersionsPage:
    """Read the versions of a message. By default the message is compared with the version before it."""
    chat, seq = page.open_chat(), page.read_path_number("seq")
    versions = await chat.siblings(seq)
    turn_ids = list({message.turn_id for message in versions if message.turn_id is not None})
    turns = await chat.turn_records(turn_ids) if turn_ids else []
    index = next((index for index, each in enumerate(versions) if each.seq == seq), 0)
    other = index - 1 if index else min(1, len(versions) - 1)
    by_seq = {message.seq: message for message in versions}
    a = by_seq.get(page.read_number("a") or 0, versions[min(other, index)])
    b = by_seq.get(page.read_number("b") or 0, versions[max(other, index)])
    whole = [a.text, b.text]
    compared = whole if page.is_json else [cut_text(text, MAX_BODY_BYTES).text for text in whole]
    changes = compare_texts(*compared) if compared[0] != compared[1] else []
    return VersionsPage(page.conversation_id, seq, versions, turns, a, b, changes, is_cut=compared != whole)
