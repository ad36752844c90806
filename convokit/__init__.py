"""convokit: conversations that persist in SQL, a context builder, and a completion service for the Chat Completions API."""

from convokit.async_chat import AsyncChat
from convokit.async_kit import AsyncConvokit
from convokit.chat import Chat
from convokit.context.builder import ContextBuilder
from convokit.context.report import Context, Report
from convokit.domain.conversation import Conversation, Page, Verified
from convokit.domain.events import StreamEvent
from convokit.domain.message import Message
from convokit.domain.profiles import Profile
from convokit.domain.replay import Diff, Replay
from convokit.domain.reply import Usage
from convokit.domain.tool import Tool
from convokit.domain.turn import Reply
from convokit.errors import ConvokitError
from convokit.kit import Convokit
from convokit.runtime.aio import AsyncStream
from convokit.runtime.sync import Stream
from convokit.search.query import Hit
from convokit.settings import Budget, Limits, Retry, Summary, Timeouts
from convokit.tools.decorator import tool

__all__ = [
    "AsyncChat",
    "AsyncConvokit",
    "AsyncStream",
    "Budget",
    "Chat",
    "Context",
    "ContextBuilder",
    "Conversation",
    "Convokit",
    "ConvokitError",
    "Diff",
    "Hit",
    "Limits",
    "Message",
    "Page",
    "Profile",
    "Replay",
    "Reply",
    "Report",
    "Retry",
    "Stream",
    "StreamEvent",
    "Summary",
    "Timeouts",
    "Tool",
    "Usage",
    "Verified",
    "tool",
]
