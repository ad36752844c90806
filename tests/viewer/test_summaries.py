"""Summaries on the page of all branches."""

from __future__ import annotations

import pytest

from convokit import Convokit
from tests.completion.summaries import BUDGET, ONCE, SUMMARY, Writer
from tests.support.server import LoopbackServer
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer

pytestmark = pytest.mark.once


def test_a_summary_says_what_it_stands_for(viewer: AsgiViewer, database: str, server: LoopbackServer) -> None:
    server.answer = Writer()
    with Convokit(database, model="m", base_url=server.url, budget=BUDGET, summary=SUMMARY, retry=ONCE) as kit:
        chat = kit.chat("k")
        for number in range(30):
            chat.send(f"turn number {number} and more")
        made = chat.summaries()[-1]
    path = f"/c/{chat.id}/log"
    viewer.get(path)
    for language, text in (("en", "(stands for {} to {})"), ("ja", "（{}〜{} の要約）")):
        with count_statements() as statements:
            page = viewer.get(path, headers={"accept-language": language})
        assert text.format(made.from_seq, made.to_seq) in page.text
        assert len(statements) <= 6, statements
