"""Read conversations inside your own transaction.

Each function takes a SQLAlchemy `Connection` that you hold, and neither begins nor commits a transaction. To write, use a kit:
it keeps messages, turns, calls and the hash chain together.

`find_conversation` checks the tenant. The other functions take a conversation's id and trust it, so take the id from
`find_conversation`.
"""

from convokit.domain.conversation import BranchRow, ConversationRow
from convokit.domain.message import MessageRow
from convokit.domain.turn import CallRow, TurnRow
from convokit.store.api_calls import list_calls
from convokit.store.conversations import find as find_conversation
from convokit.store.conversations import find_by_key as find_conversation_by_key
from convokit.store.conversations import list_recent as list_conversations
from convokit.store.message_tree import list_branches
from convokit.store.message_tree import read_head as read_branch_head
from convokit.store.messages import find as find_message
from convokit.store.messages import list_turn_messages
from convokit.store.path_pages import read_page as read_messages
from convokit.store.turns import find as find_turn

__all__ = [
    "BranchRow",
    "CallRow",
    "ConversationRow",
    "MessageRow",
    "TurnRow",
    "find_conversation",
    "find_conversation_by_key",
    "find_message",
    "find_turn",
    "list_branches",
    "list_calls",
    "list_conversations",
    "list_turn_messages",
    "read_branch_head",
    "read_messages",
]
