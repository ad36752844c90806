"""Make long conversations: English, Japanese, code, tool traffic, images, and languages that change.

English comes from the documentation of Python, code from its standard library, Japanese and the rows of tools from word lists.
The same arguments make the same conversation.
"""

from __future__ import annotations

import base64
import functools
import importlib
import inspect
import itertools
import json
import pydoc_data.topics
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support.token_counts import count_text

LANGUAGE_TURNS = 8
"""After so many turns the mixed conversation changes its language."""
_LIBRARY = (
    "argparse",
    "csv",
    "difflib",
    "fractions",
    "heapq",
    "mailbox",
    "optparse",
    "sched",
    "statistics",
    "textwrap",
)
_SMALL, _LARGE = 512, 1024
_IMAGE_TOKENS = {_SMALL: 255, _LARGE: 765}
_IMAGE_SHARE = 0.4
"""Of the tokens of a conversation with images."""

_WHO = (
    "図書館の職員", "隣の部署の佐藤さん", "新しく来た留学生", "窓口の担当者",
    "閲覧室の利用者", "広報課の田中さん", "館長", "大学院生",
)  # fmt: skip
_WHAT = (
    "延滞した本の返却", "会議室の予約", "古い地図の複写", "児童書の棚の整理",
    "電子書籍の貸出", "来月の展示の準備", "目録の修正", "寄贈された資料の登録",
)  # fmt: skip
_WHEN = (
    "先週の金曜日に", "昨日の夕方", "三月の終わりごろ", "開館の直後に",
    "雨が降り出した頃に", "来週の火曜日までに", "夏休みの間ずっと", "午後二時半ごろ",
)  # fmt: skip
_WHERE = ("中央館の二階で", "駅前の分館で", "地下の書庫で", "受付の横の机で", "オンラインの窓口で", "隣町の図書館で")
_FORMS = (
    "{when}、{who}が{where}{what}について相談していました。",
    "{what}は思っていたより時間がかかるので、早めに手配しておくと安心です。",
    "もし{what}がうまくいかない場合は、{who}に直接聞いてみてください。",
    "{where}は静かに過ごせますが、{when}少し混み合うことがあります。",
    "規則では、{what}の申し込みは{n}日前までに済ませることになっています。",
    "{who}によると、{what}の件数は去年の同じ時期より{n}件ほど増えたそうです。",
    "なるほど、それなら{when}もう一度{where}確認してからお返事しますね。",
    "{what}には身分証明書と、{n}円の手数料が必要です。",
    "ただし、{who}が不在のときは、{where}代わりの者が対応いたします。",
    "申し訳ありませんが、{what}に関する記録は{n}年分しか残っておりません。",
    "{when}届いた案内には、{what}を取りやめると書かれていたはずですが、どうなりましたか。",
    "結論から言うと、{what}は{who}の判断を待つしかないと思います。",
    "写真やグラフを添えると、{what}の説明がずっと分かりやすくなります。",
    "{who}はとても親切で、{what}の手順を最初から丁寧に教えてくれました。",
)
_STATUS = ("open", "paid", "overdue", "cancelled", "refunded")
_NAMES = (
    "Aoki Books", "Lindqvist AB", "山田商店", "Nakamura & Sons",
    "Porto Velho Ltda", "北星電機", "Hartmann GmbH", "O'Neill Print",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn: the question, the reply, and what a tool returns before the reply (none if empty)."""

    question: str | list[dict[str, Any]]
    reply: str
    rows: str = ""


def make_conversation(corpus: str, turns: int, tokens: int, *, seed: int = 1, paste: int = 0) -> list[Exchange]:
    """Return the turns of a conversation that grows by about `tokens` (o200k_base) with each request.

    With `paste`, each twelfth question has so many tokens.
    """
    rng, words = random.Random(f"{corpus} {seed}"), _make_texts(corpus, seed)
    conversation, owed = [], 0.0
    side = _SMALL if tokens < 600 else _LARGE
    for number in range(turns):
        size = tokens * min(max(rng.lognormvariate(-0.08, 0.4), 0.3), 2.2)
        text, images = size, 0
        if corpus == "images":
            owed += size * _IMAGE_SHARE
            text, images = size * (1 - _IMAGE_SHARE), int(owed // _IMAGE_TOKENS[side])
            owed -= images * _IMAGE_TOKENS[side]
        asked = paste if paste and number % 12 == 11 else text * rng.uniform(0.15, 0.4)
        question: str | list[dict[str, Any]] = _fill(words(number), asked)
        if images:
            pictures = [_make_image(rng, side) for _ in range(images)]
            question = [{"type": "text", "text": question}, *pictures]
        rows = _fill(_list_rows(rng), size * rng.uniform(0.6, 1.4), "\n") if corpus == "tools" else ""
        conversation.append(Exchange(question, _fill(words(number), text * 0.73), rows))
    return conversation


def list_messages(corpus: str, size: int, *, seed: int = 1) -> Iterator[str]:
    """Yield endless messages of about `size` bytes."""
    texts = _make_texts(corpus, seed)(0)
    while True:
        text = ""
        while len(text.encode()) < size:
            text += next(texts)
        yield text.encode()[:size].decode(errors="ignore").strip()


def _make_texts(corpus: str, seed: int) -> Callable[[int], Iterator[str]]:
    """Return a function that gives the endless pieces of text of a turn."""
    japanese = _list_japanese(random.Random(seed))
    english, code = (_shuffle(texts, random.Random(seed)) for texts in (_read_english(), _read_code()))
    if corpus == "mixed":
        languages = (english, japanese, code)
        return lambda number: languages[number // LANGUAGE_TURNS % 3]
    chosen = {"Japanese": japanese, "code": code}.get(corpus, english)
    return lambda number: chosen


def _fill(texts: Iterator[str], tokens: float, between: str = "") -> str:
    """Return pieces of text that have about so many tokens; the last one is cut."""
    pieces, left = [], max(tokens, 4.0)
    while left > 0:
        piece = next(texts)
        size = count_text(piece)
        if size > left + 8:
            piece = piece[: max(int(len(piece) * left / size), 4)]
        pieces.append(piece)
        left -= size
    return between.join(pieces).strip()


def _shuffle(texts: tuple[str, ...], rng: random.Random) -> Iterator[str]:
    while True:
        yield from rng.sample(texts, len(texts))


@functools.cache
def _read_english() -> tuple[str, ...]:
    """Return the sentences of the documentation that comes with Python."""
    paragraphs = [part for topic in pydoc_data.topics.topics.values() for part in topic.split("\n\n")]
    prose = [" ".join(part.split()) for part in paragraphs if re.match(r"[A-Z][a-z]* [a-z]", part)]
    sentences = [each for part in prose for each in re.split(r"(?<=[.?!]) (?=[A-Z])", part)]
    return tuple(f"{each} " for each in sentences if 30 < len(each) < 300)


@functools.cache
def _read_code() -> tuple[str, ...]:
    """Return the blocks of some modules of Python's library."""
    sources = [inspect.getsource(importlib.import_module(name)) for name in _LIBRARY]
    return tuple(f"{block}\n\n" for source in sources for block in source.split("\n\n") if 40 < len(block) < 900)


def _list_japanese(rng: random.Random) -> Iterator[str]:
    slots = {"who": _WHO, "what": _WHAT, "when": _WHEN, "where": _WHERE}
    while True:
        chosen = {slot: rng.choice(words) for slot, words in slots.items()}
        yield rng.choice(_FORMS).format(n=rng.randrange(2, 400), **chosen)


def _list_rows(rng: random.Random) -> Iterator[str]:
    for number in itertools.count(rng.randrange(10_000)):
        row = {"invoice": f"INV-{number:06}", "customer": rng.choice(_NAMES), "status": rng.choice(_STATUS)}
        due = f"2026-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}T{rng.randrange(24):02}:00:00Z"
        yield json.dumps({**row, "amount": rng.randrange(100, 900_000) / 100, "due": due}, ensure_ascii=False)


def _make_image(rng: random.Random, side: int) -> dict[str, Any]:
    """Return an image part: the head of a PNG of this size, and some bytes that no other image has."""
    head = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + side.to_bytes(4) + side.to_bytes(4) + b"\x08\x02\0\0\0"
    data = base64.b64encode(head + rng.randbytes(200)).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
