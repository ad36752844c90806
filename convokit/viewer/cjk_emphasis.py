"""Parse emphasis beside Chinese, Japanese and Korean punctuation.

CommonMark takes `**「重要」**です` for text, because the closing mark stands between punctuation and a letter. Japanese has no
spaces between words, so about every second emphasis fails. Here such punctuation counts as a letter, and a letter of these
scripts as a space, as in the amendment https://github.com/tats-u/markdown-cjk-friendly.
"""

from __future__ import annotations

import re
from typing import Any

from markdown_it.common.utils import isMdAsciiPunct, isPunctChar, isWhiteSpace
from markdown_it.parser_inline import ParserInline
from markdown_it.rules_inline import StateInline
from markdown_it.rules_inline.state_inline import Scanned
from markdown_it.token import Token

_CJK = re.compile("[\u1100-\u11ff\u2e80-\u303e\u3041-\ua4cf\ua960-\ua97f\uac00-\ud7ff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef"
                  "\U00016fe0-\U0001b2ff\U0001f200-\U0001f2ff\U00020000-\U0003ffff]")  # fmt: skip


class _CjkState(StateInline):
    def scanDelims(self, start: int, canSplitWord: bool) -> Scanned:  # noqa: N802, N803  # the names of the parser
        """Return whether the marks at a position may open and close."""
        mark, end = self.src[start], start
        while end < self.posMax and self.src[end] == mark:
            end += 1
        last = self.src[start - 1] if start > 0 else " "
        following = self.src[end] if end < self.posMax else " "
        opens = _is_beside_text(following, last)
        closes = _is_beside_text(last, following)
        if canSplitWord:
            return Scanned(opens, closes, end - start)
        can_open = opens and (not closes or _is_punctuation(last))
        can_close = closes and (not opens or _is_punctuation(following))
        return Scanned(can_open, can_close, end - start)


def _is_beside_text(inner: str, outer: str) -> bool:
    """Return whether the marks between two characters belong to the text on the side of `inner`."""
    if isWhiteSpace(ord(inner)):
        return False
    if not _is_punctuation(inner) or _CJK.match(inner):
        return True
    return isWhiteSpace(ord(outer)) or _is_punctuation(outer) or _CJK.match(outer) is not None


def _is_punctuation(character: str) -> bool:
    return isMdAsciiPunct(ord(character)) or isPunctChar(character)


class CjkInlineParser(ParserInline):
    """The parser of Markdown's inline syntax with this emphasis."""

    def parse(self, src: str, md: Any, env: Any, tokens: list[Token]) -> list[Token]:
        """Parse the text of one block."""
        state = _CjkState(src, md, env, tokens)
        self.tokenize(state)
        for rule in self.ruler2.getRules(""):
            rule(state)
        return state.tokens
