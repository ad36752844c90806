"""The statements of the pages of a conversation in which everything comes together."""

from __future__ import annotations

from uuid import UUID

import pytest

from convokit import Convokit
from convokit.testing import ScriptedModel
from tests.history.helpers import change
from tests.support.statements import count_statements
from tests.viewer.in_process import AsgiViewer

pytestmark = pytest.mark.once


@pytest.fixture
def conversation(viewer: AsgiViewer, database: str) -> UUID:
    """Versions, branches that take turns, passages, redactions, and an open turn of a dead worker on each branch."""
    with Convokit(database, model="m", api_key="x", http_client=ScriptedModel(["はい。"] * 20).client()) as kit:
        chat = kit.chat("k", title="京都")
        for number in range(3):
            chat.send(f"質問{number}", passages=["資料"] * (number % 3))
        fork = chat.fork(4, name="別案")
        for number in range(4):
            (fork, chat)[number % 2].send(f"枝の質問{number}", passages=["資料"] * (number % 3))
        for each in (chat, fork):
            reply = each.regenerate()
            change(
                database,
                "UPDATE convokit_turn SET state = 'open', claim = branch, lease_until = 5, ended_at = NULL"
                " WHERE reply_seq = :seq",
                seq=reply.message.seq,
            )
        for seq in (1, 6, 15):
            chat.redact(seq, author="監査人", reason="依頼")
        assert chat.id is not None
        return chat.id


@pytest.mark.parametrize("is_erased", [False, True])
def test_each_page_takes_at_most_six_statements(
    viewer: AsgiViewer, conversation: UUID, database: str, is_erased: bool
) -> None:
    if is_erased:
        with Convokit(database) as kit:
            kit.chat(id=conversation).erase(author="監査人", reason="依頼")
    path = f"/c/{conversation}"
    last = viewer.get(f"{path}/log.json").json()["messages"][-1]["seq"]
    paths = [path, f"{path}/b/1", f"{path}/log", f"{path}/tree", f"{path}/next", f"{path}/b/1/next"]
    for seq in range(1, last + 1):
        paths += [f"{path}/m/{seq}", f"{path}?before={seq}", f"{path}?after={seq}"]
        paths += [f"{path}/b/1?before={seq}", f"{path}/b/1?after={seq}", f"{path}/m/{seq}/versions"]
    viewer.get(path)  # the schema is checked once
    costs = {}
    for each in paths:
        with count_statements() as statements:
            response = viewer.get(each)
        assert response.status_code in (200, 400, 404), each
        costs[each.removeprefix(path), response.status_code] = len(statements)
    assert {each: cost for each, cost in costs.items() if cost > 6} == {}
