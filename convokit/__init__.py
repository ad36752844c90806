"""Store conversations, build contexts, and call a Chat Completions API."""

from convokit.async_chat import AsyncChat
from convokit.async_kit import AsyncConvokit
from convokit.chat import Chat
from convokit.completion.saved_reply import Reply
from convokit.context.builder import ContextBuilder
from convokit.context.report import Context, Report
from convokit.domain.conversation import Branch, Conversation, MessagePreview
from convokit.domain.events import (
    AudioDelta,
    Finished,
    HistoryGap,
    ReasoningDelta,
    RefusalDelta,
    Retrying,
    Started,
    StreamEvent,
    TextDelta,
    ToolCallDelta,
)
from convokit.domain.history import History, Run
from convokit.domain.message import Message, NewMessage
from convokit.domain.paging import Page
from convokit.domain.past_window import PastPart, PastWindow
from convokit.domain.profiles import Profile
from convokit.domain.removal import Receipt
from convokit.domain.reply import Usage
from convokit.domain.stored_records import (
    Call,
    ChainEntry,
    Removal,
    RequestWindow,
    StoredBlob,
    SummaryRecord,
    ToolRun,
    TurnRecord,
)
from convokit.domain.stored_request import Diff, Replay
from convokit.domain.turn import Recovered, Turn
from convokit.domain.verification import Checkpoint, MovedHead, Verified, VerifiedAll
from convokit.errors import ConvokitError
from convokit.kit import Convokit
from convokit.runtime.aio import AsyncStream
from convokit.runtime.http_client import AsyncHttpxClient, HttpxClient
from convokit.runtime.sync import Stream
from convokit.runtime.tokenizer import TokenizeCounter
from convokit.search.query import Hit, SearchPage
from convokit.settings import Budget, Limits, Retry, Summary, Timeouts
from convokit.tools.decorator import ToolLike, tool
from convokit.tools.tool import Tool
from convokit.transfer.models import Exported, Imported
from convokit.usage.models import Price, Prices, UsageReport

__all__ = [
    "AsyncChat",
    "AsyncConvokit",
    "AsyncHttpxClient",
    "AsyncStream",
    "AudioDelta",
    "Branch",
    "Budget",
    "Call",
    "ChainEntry",
    "Chat",
    "Checkpoint",
    "Context",
    "ContextBuilder",
    "Conversation",
    "Convokit",
    "ConvokitError",
    "Diff",
    "Exported",
    "Finished",
    "History",
    "HistoryGap",
    "Hit",
    "HttpxClient",
    "Imported",
    "Limits",
    "Message",
    "MessagePreview",
    "MovedHead",
    "NewMessage",
    "Page",
    "PastPart",
    "PastWindow",
    "Price",
    "Prices",
    "Profile",
    "ReasoningDelta",
    "Receipt",
    "Recovered",
    "RefusalDelta",
    "Removal",
    "Replay",
    "Reply",
    "Report",
    "RequestWindow",
    "Retry",
    "Retrying",
    "Run",
    "SearchPage",
    "Started",
    "StoredBlob",
    "Stream",
    "StreamEvent",
    "Summary",
    "SummaryRecord",
    "TextDelta",
    "Timeouts",
    "TokenizeCounter",
    "Tool",
    "ToolCallDelta",
    "ToolLike",
    "ToolRun",
    "Turn",
    "TurnRecord",
    "Usage",
    "UsageReport",
    "Verified",
    "VerifiedAll",
    "tool",
]
