"""What the model says in the documentation: a loopback server's answers to the questions the pages ask."""

from __future__ import annotations

from typing import Any

from tests.support.server import Script, completion, echo, stream

ANSWERS = {
    "Why is port 80 already taken?": "Another web server is listening on it, most likely nginx.",
    "And how do I free it?": "Run `sudo systemctl stop nginx`.",
    "開館時間を教えてください。": "午前九時から午後八時まで開いています。",
    "土曜日もですか。": "はい、土曜日も同じです。",
    "本は何冊借りられますか。": "一度に 十冊まで 借りられます。",
    "館内の規則を全部読み上げてください。": "一つ目、館内では静かに。 二つ目、飲食はご遠慮ください。",
    "こんにちは。": "こんにちは。ご用件は何でしょうか。",
    "お礼を言いたいです。": "どういたしまして。",
}


def answer(body: Any) -> Script:
    """Answer a known question with its line, and anything else with an echo."""
    said = body["messages"][-1]["content"]
    text = ANSWERS.get(said) if isinstance(said, str) else None
    if text is None:
        return echo(body)
    if not body.get("stream"):
        return completion(text, model=body["model"])
    words = text.split(" ")
    return stream([words[0], *(f" {word}" for word in words[1:])], pause_s=0.01)
