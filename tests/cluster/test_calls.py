"""Every public call works on a cluster of three nodes, also over the URL of a worker, and when several send at once."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import make_url

from convokit.errors import ConversationBusy
from tests.cluster.calls import run_every_call
from tests.cluster.conftest import migrate
from tests.cluster.load import Load
from tests.cluster.servers import CitusServers
from tests.support.faces import Face
from tests.support.pgbouncer import PROGRAM, PgBouncer
from tests.support.public_calls import CHAT_WRITES
from tests.support.server import LoopbackServer

SENDERS = 4
CONVERSATIONS = 6


@pytest.mark.usefixtures("store_each_chunk")
def test_every_public_call_works(face: Face, cluster_url: str, server: LoopbackServer, tmp_path: Path) -> None:
    called: set[str] = set()
    run_every_call(face, cluster_url, server, tmp_path, f"calls {face.name}", called.add)
    assert called == set(CHAT_WRITES)


def test_a_worker_serves_the_application_too(
    face: Face, citus: CitusServers, cluster_url: str, server: LoopbackServer
) -> None:
    """Each server knows where a conversation is, so that clients can be spread over all of them."""
    name = cluster_url.rpartition("/")[2]
    kits = [face.kit(citus.url(name, node), model="m", base_url=server.url, tenant=face.name) for node in (0, 1, 2)]
    for kit in kits:
        face.settle(kit.migrate())  # nothing is to do
        assert face.settle(kit.chat("shared").send("hello")).text == "echo: hello"
    for kit in kits:
        assert len(face.settle(kit.chat("shared").messages())) == 6
        face.settle(kit.verify())
    migrate(citus.url(name, 1))


@pytest.mark.skipif(PROGRAM is None, reason="pgbouncer is not installed")
def test_a_pooler_stands_before_the_coordinator(citus: CitusServers, cluster_url: str, server: LoopbackServer) -> None:
    """Senders share a few connections of the server, a transaction at a time."""
    pooler = PgBouncer(make_url(citus.url("postgres")), 2)
    try:
        with Load(pooler.through(cluster_url), server.url, [f"pooled {number}" for number in range(6)]) as load:
            load.wait_for_turns()
        load.check()
    finally:
        pooler.close()


def _send_at_once(face: Face, kit: Any, key: str, options: dict[str, Any], texts: list[str]) -> list[Any]:
    """Send all texts at once, and return replies and errors in their order."""
    if face.name == "sync":

        def send(text: str) -> Any:
            try:
                return kit.chat(key).send(text, **options)
            except ConversationBusy as error:
                return error

        with ThreadPoolExecutor(len(texts)) as threads:
            return list(threads.map(send, texts))

    async def send_all() -> list[Any]:
        return await asyncio.gather(*(kit.chat(key).send(text, **options) for text in texts), return_exceptions=True)

    return face.loop.run_until_complete(send_all())


@pytest.mark.parametrize("options", [{}, {"idempotency_key": "one"}, {"on_busy": "wait"}], ids=["plain", "key", "wait"])
def test_senders_race(
    face: Face, cluster_url: str, server: LoopbackServer, options: dict[str, Any], request: pytest.FixtureRequest
) -> None:
    """The first message of a conversation, and a later one, from several senders. Each reply that one gets is stored once."""
    kit = face.kit(cluster_url, model="m", base_url=server.url, tenant=request.node.name)
    for number in range(CONVERSATIONS):
        key, expected = f"race {number}", Counter[str]()
        for round_ in range(2):
            sent = options | ({"idempotency_key": f"one {round_}"} if "idempotency_key" in options else {})
            texts = [f"from {0 if 'idempotency_key' in options else sender}, {round_}" for sender in range(SENDERS)]
            answers = _send_at_once(face, kit, key, sent, texts)
            refused = [answer for answer in answers if isinstance(answer, BaseException)]
            assert all(isinstance(error, ConversationBusy) for error in refused), refused
            assert not (refused and options)
            answered = {
                answer.turn_id: text for answer, text in zip(answers, texts, strict=True) if answer not in refused
            }
            assert len(answered) == {"idempotency_key": 1, "on_busy": SENDERS}.get(
                next(iter(options), ""), len(answered)
            )
            assert answered
            expected.update(answered.values())
        chat = kit.chat(key)
        messages = face.settle(chat.messages(limit=None))
        assert Counter(each.text for each in messages if each.role == "user") == expected
        assert Counter(each.text for each in messages if each.role == "assistant") == {
            f"echo: {text}": count for text, count in expected.items()
        }
        face.settle(chat.verify())
