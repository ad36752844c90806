"""The quick way to read a stream, whose chunks differ in nothing but a piece of content.

Once a chunk was read in full, another payload that has the same bytes around its content string says the same in everything
else, so only that string is read (and the padding some servers put last). Anything that differs elsewhere is read in full.
"""

from __future__ import annotations

import re

from convokit.wire.values import DECODER

_CONTENT = re.compile(r'"content"\s*:\s*(?=")')
_PADDING = re.compile(r'"obfuscation"\s*:\s*(?=")')
_PATIENCE = 16  # templates that did not fit in a row; a server whose every chunk differs is read in full from then on


class Template:
    """The bytes around the content of the last chunk that had content and nothing else."""

    __slots__ = ("_after", "_before", "_last", "_missed", "_start", "index")

    def __init__(self) -> None:
        self.index = 0
        self._before = ""
        self._start = 0
        self._after = ""
        self._last: str | None = None
        self._missed = 0

    def read(self, payload: str) -> str | None:
        """Return the content of a payload like the last one; None when it is not."""
        if not self._start or not payload.startswith(self._before):
            return None
        try:
            text, end = DECODER.raw_decode(payload, self._start)
            if not payload.startswith(self._after, end):
                return None
            end += len(self._after)
            if self._last is not None:
                _, end = DECODER.raw_decode(payload, end)
                if payload[end:] != self._last:
                    return None
            elif end != len(payload):
                return None
        except ValueError:
            return None
        if not isinstance(text, str):
            return None
        self._missed = 0
        return text

    def learn(self, payload: str, chunk: object) -> None:
        """Take a payload and the chunk it was read as for the new template, if the chunk is fit for one."""
        self._missed += 1
        if self._missed > _PATIENCE:
            return
        index = _quiet(chunk)
        found = list(_CONTENT.finditer(payload))
        if index is None or len(found) != 1:
            return
        _, end = DECODER.raw_decode(payload, found[0].end())
        after, last = payload[end:], None
        padding = list(_PADDING.finditer(after))
        if padding:
            if len(padding) != 1:
                return
            _, padding_end = DECODER.raw_decode(after, padding[0].end())
            after, last = after[: padding[0].end()], after[padding_end:]
        self._before, self._after, self._last = payload[: found[0].end()], after, last
        self._start = found[0].end()
        self.index = index


def _quiet(chunk: object) -> int | None:
    """Return the index of the choice, when content is all that a chunk adds. Whatever is kept as its last value may be there
    too: the same bytes say the same again."""
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    choice = choices[0]
    delta, index = choice.get("delta"), choice.get("index", 0)
    if not isinstance(delta, dict) or not isinstance(delta.get("content"), str) or type(index) is not int:
        return None
    adds = choice.get("logprobs") or any(value for key, value in delta.items() if key not in ("content", "role"))
    return None if adds else index
