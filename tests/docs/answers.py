"""The model of the documentation: a scripted model that answers the questions of the pages."""

from __future__ import annotations

import re

from convokit.settings import SUMMARY_PROMPT
from convokit.testing import RecordedRequest, ScriptedCall

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
    "中央館は土曜日、何時までですか。": ScriptedCall("opening_hours", {"branch": "中央", "day": "土曜日"}, id="call_1"),
    "Pay my fine.": ScriptedCall("pay", id="call_1"),
    "罰金を払ってください。": ScriptedCall("pay", {"yen": 300}, id="call_1"),
}
"""Questions that are answered by a tool call first."""


def answer(request: RecordedRequest) -> str | ScriptedCall:
    """Answer a known question with its line or its call, a summary's request with one, and anything else with an echo."""
    messages = request.messages
    if messages[0]["content"] == SUMMARY_PROMPT:
        last = re.findall(r"user: Server (\d+)", messages[1]["content"])[-1]
        return f"Servers 1 to {last} of rack 7 are installed."
    questions = [message["content"] for message in messages if message["role"] == "user"]
    said = questions[-1] if questions and isinstance(questions[-1], str) else ""
    if said in CALLS and request.body.get("tools") and messages[-1]["role"] == "user":
        return CALLS[said]
    return ANSWERS.get(said, f"echo: {request.text or 'parts'}")
