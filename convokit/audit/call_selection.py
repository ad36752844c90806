"""Find the API call that a caller names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Connection

from convokit.completion.saved_reply import Reply, TurnLike
from convokit.domain.conversation import ConversationRow
from convokit.domain.ids import parse_id
from convokit.domain.message import MessageRow
from convokit.domain.stored_request import Replay
from convokit.domain.turn import CallRow, Turn, TurnRow
from convokit.errors import InvalidInput, NotFound
from convokit.store import message_tree, messages, turn_pages
from convokit.store.turn_pages import TurnWithCalls


class CallSelector(NamedTuple):
    """Names an API call: by its turn (None: the newest), and by its number (None: the last call that was answered)."""

    turn_id: UUID | None
    number: int | None


class SelectedCall(NamedTuple):
    """An API call with its turn."""

    turn: TurnRow
    call: CallRow


def select_call(turn: TurnLike | None, call: int | None = None) -> CallSelector:
    """Return the selector of a call. Raises: InvalidInput."""
    if call is not None and (isinstance(call, bool) or not isinstance(call, int) or call < 1):
        raise InvalidInput("call", f"must be the number of a call, 1 or more, not {call!r}")
    if isinstance(turn, Replay):
        return CallSelector(turn.turn_id, turn.call if call is None else call)
    if isinstance(turn, Turn | Reply):
        return CallSelector(turn.id if isinstance(turn, Turn) else turn.turn_id, call)
    return CallSelector(None if turn is None else parse_id(turn, "turn"), call)


def find_selected_call(
    connection: Connection, row: ConversationRow, branch: int, selector: CallSelector
) -> SelectedCall:
    """Return the call that a selector names; without a turn, of the branch's newest turn. Raises: NotFound."""
    if selector.turn_id is not None:
        return find_selected_calls(connection, row, [selector])[0]
    head = message_tree.read_head(connection, row, branch)
    newest = None if head is None else turn_pages.read_newest_with_calls(connection, row.id, head)
    if newest is None:  # the run of the head has no turn, or the branch is empty
        turn_id = _find_newest_turn(connection, row.id, head)
        return find_selected_calls(connection, row, [CallSelector(turn_id, selector.number)])[0]
    return _select(newest, selector.number)


def find_selected_calls(
    connection: Connection, row: ConversationRow, selectors: Sequence[CallSelector]
) -> list[SelectedCall]:
    """Return the calls that selectors with turns name, by one statement. Raises: NotFound."""
    turn_ids = [each.turn_id for each in selectors if each.turn_id is not None]
    found = {each.row.id: each for each in turn_pages.read_with_calls(connection, row.id, turn_ids)}
    for turn_id in turn_ids:
        if turn_id not in found:
            raise NotFound("turn", turn_id)
    return [_select(found[turn_id], each.number) for turn_id, each in zip(turn_ids, selectors, strict=True)]


def _select(found: TurnWithCalls, number: int | None) -> SelectedCall:
    turn, calls = found.row, found.calls
    if not calls:
        raise NotFound("API call", f"of turn {turn.id}", "the turn made no call, or the call is no longer stored")
    if number is None:  # the call that brought the reply, rather than a failed one
        answered = [call for call in calls if call.state == "ok"]
        return SelectedCall(turn, (answered or calls)[-1])
    for call in calls:
        if call.number == number:
            return SelectedCall(turn, call)
    raise NotFound("API call", number, f"the turn has {', '.join(str(call.number) for call in calls)}")


def _find_newest_turn(connection: Connection, conversation_id: UUID, head: int | None) -> UUID:
    def rows_still_needed(rows: list[MessageRow]) -> int:
        return 0 if any(each.turn_id is not None for each in rows) else len(rows)

    path = messages.read_backwards(connection, conversation_id, head, rows_still_needed)
    for each in reversed(path.rows):
        if each.turn_id is not None:
            return each.turn_id
    raise NotFound("turn", "to replay", "no message of this chat belongs to a turn")
