"""Encode requests and decode answers of a Chat Completions API.

No module here opens a connection, waits or reads a clock. A function that needs the time takes it as an argument.
"""

from convokit.wire.request import RenderedRequest, render_request
from convokit.wire.response import ReplyReader

__all__ = ["RenderedRequest", "ReplyReader", "render_request"]
