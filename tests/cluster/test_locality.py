"""A call on one conversation is a matter of one worker."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convokit.runtime.sync_store import open_store
from convokit.store import anchors, keys
from convokit.store.engine import parse_database_url
from tests.cluster.remote_commands import RemoteCommands, record, with_log
from tests.support.faces import Face
from tests.support.public_calls import KIT_CALLS_OF_ONE, list_writes, run_chat_reads, write_history
from tests.support.server import LoopbackServer

OF_MORE = {"copy", "erase"}
"""A copy is another conversation. An erasure looks for the use of its prompts in the tenant's other conversations."""
_WRITES_PROMPT = re.compile(r"INSERT INTO public\.convokit_prompt_")


@pytest.fixture
def commands() -> Iterator[RemoteCommands]:
    with record() as recorded:
        yield recorded


@pytest.fixture
def kit(
    face: Face,
    cluster_url: str,
    server: LoopbackServer,
    tmp_path: Path,
    commands: RemoteCommands,
    store_each_chunk: None,
) -> Any:
    tenant = f"locality {face.name} {tmp_path.name}"
    write_history(face, cluster_url, server, tmp_path, tenant=tenant)
    made = face.kit(
        with_log(cluster_url), model="loop-1", base_url=server.url, tenant=tenant, developer_prompt="Be brief."
    )
    face.settle(made.chat("warm").send("hello"))  # reads the schema's row, and writes the prompt to all servers
    commands.take()
    return made


def _describe(commands: RemoteCommands) -> str:
    """Return what is wrong with the commands of a call; nothing if they went to one worker and ended with a plain COMMIT.

    A new prompt is written to all servers, once.
    """
    taken = commands.take()
    servers = {server for server, _ in taken}
    two_phase = sum("PREPARE TRANSACTION" in command for _, command in taken)
    if (len(servers) < 2 and not two_phase) or any(_WRITES_PROMPT.match(command) for _, command in taken):
        return ""
    return f"{len(taken)} commands to {len(servers)} workers, {two_phase} of them PREPARE TRANSACTION"


def test_a_call_that_reads_asks_one_worker(face: Face, kit: Any, commands: RemoteCommands, tmp_path: Path) -> None:
    """The calls of a chat, and the kit's calls with a key."""
    run_chat_reads(face, kit.chat("a"), tmp_path)
    found = {"chat": _describe(commands)}
    for name, call in KIT_CALLS_OF_ONE.items():
        face.settle(call(kit, tmp_path))
        found[name] = _describe(commands)
    assert {name: problem for name, problem in found.items() if problem} == {}


def test_a_call_that_writes_changes_one_worker(
    face: Face, kit: Any, commands: RemoteCommands, server: LoopbackServer
) -> None:
    """And commits without a second phase, so that it needs no other worker."""
    found: dict[str, set[str]] = {}
    for name, write in list_writes(server):
        (face.collect if "stream" in name else face.settle)(write(kit))
        found.setdefault(name, set()).add(_describe(commands))
    problems = {name: sorted(each - {""}) for name, each in found.items() if each != {""} and name not in OF_MORE}
    assert problems == {}


def test_a_turn_with_anchors_changes_one_worker(
    face: Face, kit: Any, commands: RemoteCommands, cluster_url: str
) -> None:
    """The anchors are with the messages. The lookup in one conversation asks one worker too."""
    chat = kit.chat("a")

    def anchor(message: Any) -> bytes:
        return str(message["content"]).encode()[:64]

    face.settle(chat.send("anchored", anchor=anchor))
    assert _describe(commands) == ""
    face.collect(chat.stream("streamed", anchor=anchor))
    assert _describe(commands) == ""
    face.settle(chat.regenerate(anchor=anchor))
    assert _describe(commands) == ""
    store = open_store(parse_database_url(with_log(cluster_url)), "test")
    digests = [b"anchored", b"echo: anchored", b"streamed", b"echo: streamed"]
    tenant = kit._state.tenant
    found = store.run(lambda connection: anchors.find_conversation(connection, tenant, chat.id, digests), write=False)
    assert found is not None
    assert len(found.anchors) == 5
    assert _describe(commands) == ""
    everywhere = store.run(lambda connection: anchors.find_conversations(connection, tenant, digests), write=False)
    assert sorted(repr(each.anchors[0]) for each in everywhere) == sorted(map(repr, found.anchors))
    store.close()


def test_counting_requests_changes_one_worker(cluster_url: str, commands: RemoteCommands) -> None:
    """Keys are read from any server. A window is written on one worker, without a second phase."""
    store = open_store(parse_database_url(with_log(cluster_url)), "test")
    digest, minute = keys.digest_key(keys.make_key()), int(time.time()) // 60

    def take(period: int) -> int:
        return store.run(lambda connection: keys.take_permits(connection, digest, "requests", period, 3, 5), write=True)

    found = [(take(period), _describe(commands)) for period in (minute - 20, minute, minute, minute)]
    assert found == [(3, ""), (3, ""), (2, ""), (0, "")]
    assert store.run(lambda connection: keys.find_key(connection, digest), write=False) is None
    assert _describe(commands) == ""
    store.close()
