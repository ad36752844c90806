"""Define the events of a streamed reply.

Every event has `.text`, empty where it carries none, so that `print(event.text, end="")` works for all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

# Events are dataclasses with slots, not pydantic models: a stream makes one for each chunk, and validation takes longer.


@dataclass(slots=True)
class TextDelta:
    """A chunk of the reply's text. `index` is the choice (0 unless `n` > 1)."""

    text: str
    index: int = 0
    type: Literal["text"] = "text"


@dataclass(slots=True)
class RefusalDelta:
    """A chunk of the model's refusal."""

    refusal: str
    index: int = 0
    text: str = ""
    type: Literal["refusal"] = "refusal"


@dataclass(slots=True)
class ReasoningDelta:
    """A chunk of the model's reasoning, from servers that send it. It is not part of the reply's text."""

    reasoning: str
    index: int = 0
    text: str = ""
    type: Literal["reasoning"] = "reasoning"


@dataclass(slots=True)
class ToolCallDelta:
    """A chunk of a tool call. `position` counts the calls of this choice from 0; `arguments` are those of this chunk.

    Some gateways repeat arguments in later chunks. The whole arguments are in the reply.
    """

    position: int
    id: str
    name: str
    arguments: str
    index: int = 0
    text: str = ""
    type: Literal["tool_call"] = "tool_call"


@dataclass(slots=True)
class AudioDelta:
    """A chunk of a spoken reply: base64 `data` as the server sent it, and the matching part of the `transcript`."""

    data: str
    transcript: str
    index: int = 0
    text: str = ""
    type: Literal["audio"] = "audio"


@dataclass(slots=True)
class Finished:
    """A choice is complete. `finish_reason` is the server's own value (`stop`, `length` …)."""

    finish_reason: str
    index: int = 0
    text: str = ""
    type: Literal["finished"] = "finished"


@dataclass(slots=True)
class Retrying:
    """A call failed before its first chunk. The next attempt starts in `delay_s` seconds."""

    attempt: int
    delay_s: float
    reason: str
    text: str = ""
    type: Literal["retrying"] = "retrying"


@dataclass(slots=True)
class Started:
    """The question is saved and the call starts. From now on the turn can be followed, cancelled and resumed."""

    turn_id: UUID
    text: str = ""
    type: Literal["started"] = "started"


@dataclass(slots=True)
class HistoryGap:
    """The messages from seq `first` to seq `last` are in neither the window nor the summary: the model does not know them.

    It comes before the reply, in conversations with a rolling summary whose summary failed or was too long.
    """

    first: int
    last: int
    text: str = ""
    type: Literal["history_gap"] = "history_gap"


StreamEvent = (
    Started | HistoryGap | TextDelta | RefusalDelta | ReasoningDelta | ToolCallDelta | AudioDelta | Finished | Retrying
)
