"""Answer as the model of `convokit serve --demo`."""

from __future__ import annotations

import re
from typing import Any

from convokit.domain.message import USER
from convokit.testing import RecordedRequest, ScriptedModel, ScriptedReply

_PAUSE_S = 0.03
"""Between two chunks, so that a stream can be seen."""
_SHOWN_CHARS = 200
_JAPANESE = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


def make_demo_model() -> ScriptedModel:
    """Return a model that says which of the caller's messages it was sent, in English or Japanese."""
    return ScriptedModel(answer_demo)


def answer_demo(request: RecordedRequest) -> ScriptedReply:
    """Return a reply that shows that the model was sent the earlier messages too."""
    texts = [_read_text(message) for message in request.messages if message.get("role") == USER]
    last, first = (texts[-1], texts[0]) if texts else ("", "")
    count = len(texts)
    if _JAPANESE.search(last):
        reply = f"「{last}」を受け取りました。この会話で{count}番目のメッセージです。"
        if count > 1:
            reply += f"最初のメッセージは「{first}」でした。"
    else:
        reply = f'I got "{last}". That is message {count} from you in this conversation.'
        if count > 1:
            reply += f' The first one was "{first}".'
    return ScriptedReply(reply, pause_s=_PAUSE_S)


def _read_text(message: dict[str, Any]) -> str:
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = " ".join(part.get("text") or f"[{part.get('type')}]" for part in content)
    return content if len(content) <= _SHOWN_CHARS else content[:_SHOWN_CHARS] + "…"
