"""What a stream hands out while a reply is on its way.

Every event has `.text`, empty where it carries none, so `print(event.text, end="")` is right for all of them. Plain slotted
dataclasses: one is made per piece of a stream, and validation there would cost more than the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from uuid import UUID


@dataclass(slots=True)
class TextDelta:
    """A piece of the reply's text; `index` is the choice (0 unless `n` > 1)."""

    text: str
    index: int = 0
    type: Literal["text"] = "text"


@dataclass(slots=True)
class RefusalDelta:
    """A piece of the model's refusal to answer."""

    refusal: str
    index: int = 0
    text: str = ""
    type: Literal["refusal"] = "refusal"


@dataclass(slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning, from servers that show it. Never part of the reply's text."""

    reasoning: str
    index: int = 0
    text: str = ""
    type: Literal["reasoning"] = "reasoning"


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a tool call: `position` counts the calls of this choice from 0, `arguments` is the new part only."""

    position: int
    id: str
    name: str
    arguments: str
    index: int = 0
    text: str = ""
    type: Literal["tool_call"] = "tool_call"


@dataclass(slots=True)
class AudioDelta:
    """A piece of spoken reply: base64 `data` as it came, and the `transcript` that goes with it."""

    data: str
    transcript: str
    index: int = 0
    text: str = ""
    type: Literal["audio"] = "audio"


@dataclass(slots=True)
class Finished:
    """A choice is complete, for this reason."""

    finish_reason: str
    index: int = 0
    text: str = ""
    type: Literal["finished"] = "finished"


@dataclass(slots=True)
class Retrying:
    """The call failed before its first piece and is tried again in `delay_s` seconds."""

    attempt: int
    delay_s: float
    reason: str
    text: str = ""
    type: Literal["retrying"] = "retrying"


@dataclass(slots=True)
class Started:
    """The question is saved and the call is about to be made: from here on the turn can be followed, cancelled and resumed."""

    turn_id: UUID
    text: str = ""
    type: Literal["started"] = "started"


StreamEvent = Started | TextDelta | RefusalDelta | ReasoningDelta | ToolCallDelta | AudioDelta | Finished | Retrying
