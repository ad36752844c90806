"""What the model says in the documentation: a loopback server's answers to the questions the pages ask."""

from __future__ import annotations

import json
import re
from typing import Any

from convokit.settings import SUMMARY_PROMPT
from tests.support.server import Script, completion, echo, stream

ANSWERS = {
    "Why is port 80 already taken?": "Another web server is listening on it, most likely nginx.",
    "And how do I free it?": "Run `sudo systemctl stop nginx`.",
    "80番ポートが使えないのはなぜですか。": "別のウェブサーバーが使っています。",
    "どうすれば空きますか。": "`sudo systemctl stop nginx` を実行してください。",
    "開館時間を教えてください。": "午前九時から午後八時まで開いています。",
    "土曜日もですか。": "はい、土曜日も同じです。",
    "本は何冊借りられますか。": "一度に 十冊まで 借りられます。",
    "館内の規則を全部読み上げてください。": "一つ目、館内では静かに。 二つ目、飲食はご遠慮ください。",
    "こんにちは。": "こんにちは。ご用件は何でしょうか。",
    "中央館は土曜日、何時までですか。": "土曜日は午後八時まで開いています。",
    "『こころ』を取り寄せてください。": '{"title": "こころ", "author": "夏目漱石"}',
    "Pay my fine.": "Your fine is paid.",
    "罰金を払ってください。": "三百円のお支払いが済みました。",
    "お礼を言いたいです。": "どういたしまして。",
}


CALLS = {
    "中央館は土曜日、何時までですか。": ("opening_hours", {"branch": "中央", "day": "土曜日"}),
    "Pay my fine.": ("pay", {}),
    "罰金を払ってください。": ("pay", {"yen": 300}),
}
"""Questions that are answered by a tool call first."""


def answer(body: Any) -> Script:
    """Answer a known question with its line or its call, a summary's request with one, and anything else with an echo."""
    if body["messages"][0]["content"] == SUMMARY_PROMPT:
        last = re.findall(r"user: Server (\d+)", body["messages"][1]["content"])[-1]
        return completion(f"Servers 1 to {last} of rack 7 are installed.", model=body["model"])
    questions = [message["content"] for message in body["messages"] if message["role"] == "user"]
    said = questions[-1] if questions and isinstance(questions[-1], str) else ""
    if said in CALLS and body.get("tools") and body["messages"][-1]["role"] == "user":
        name, arguments = CALLS[said]
        function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
        return completion(None, tool_calls=[{"id": "call_1", "type": "function", "function": function}])
    text = ANSWERS.get(said)
    if text is None:
        return echo(body)
    if not body.get("stream"):
        return completion(text, model=body["model"])
    words = text.split(" ")
    return stream([words[0], *(f" {word}" for word in words[1:])], pause_s=0.01)
