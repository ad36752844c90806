"""Test `replay` with generated conversations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convokit import Budget, Convokit, Profile, Retry
from convokit.context.strategy import Everything, LastTurns
from tests.audit.recordings import GIF, SMALL, STREAMING, Questions, Stage, every_call, lookup
from tests.support.databases import Files
from tests.support.faces import Face
from tests.support.selection import examples
from tests.support.server import LoopbackServer, Script, calls, chunk, failure
from tests.support.server import completion as answered

WORDS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=12)
PROFILES = st.builds(
    Profile,
    provider=st.sampled_from(["p", "q"]),
    alternate=st.booleans(),
    instructions=st.sampled_from(["developer", "system", "fold"]),
    output_cap=st.sampled_from(["max_completion_tokens", "max_tokens"]),
    stream_usage=st.booleans(),
    null_content=st.booleans(),
    refusal_part=st.booleans(),
    json_schema=st.booleans(),
    json_object=st.booleans(),
    parts=st.sampled_from([frozenset({"text"}), frozenset({"text", "image_url"})]),
    rejects=st.frozensets(st.sampled_from(["seed", "stop", "reasoning_effort"])),
    tool_call_id_pattern=st.sampled_from([None, "[A-Za-z0-9]{9}"]),
    replay_keys=st.sampled_from([frozenset[str](), frozenset({"reasoning_content"})]),
)
PARAMS = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0, 2),
        "seed": st.integers(-(2**63), 2**63 - 1),
        "stop": st.lists(WORDS, min_size=1, max_size=4),
        "max_output_tokens": st.integers(1, 2**31),
        "logit_bias": st.dictionaries(WORDS, st.floats(-100, 100), max_size=3),
        "reasoning_effort": st.sampled_from(["none", "low"]),
        "extra_body": st.dictionaries(WORDS, WORDS | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        "response_format": st.sampled_from([{"type": "json_object"}, {"type": "json_schema", "json_schema": {}}]),
    },
)
KITS = st.fixed_dictionaries(
    {
        "profile": PROFILES,
        "unsupported": st.just("placeholder"),
        "mode": st.sampled_from(["drop", "pass"]),
        "partial": st.sampled_from(["include", "mark", "leave_out"]),
        "developer_prompt": st.none() | WORDS,
        "strategy": st.sampled_from([LastTurns(1), LastTurns(3), Everything(), Questions()]),
        "budget": st.sampled_from([SMALL, Budget()]),
    }
)
TURNS = st.fixed_dictionaries(
    {
        "content": WORDS | st.just([{"type": "text", "text": "図"}, {"type": "image_url", "image_url": {"url": GIF}}]),
        "passages": st.lists(WORDS, max_size=2),
        "params": PARAMS,
        "tools": st.booleans(),
        "stream": st.booleans(),
        "answers": st.lists(st.sampled_from(["tools", "fails", "breaks", "refuses", "echo"]), max_size=3),
        "then": st.sampled_from(["", "resume", "pin", "other kit"]),
    }
)
ANSWERS: dict[str, Script] = {
    "tools": calls(("c1", "lookup", '{"port": 80}'), ("c1", "made up 名", "")),
    "fails": failure(500),
    "breaks": Script([chunk({"content": "半分"}), None], headers=STREAMING),
    "refuses": answered(None, refusal="No.", reasoning_content="考"),
    "echo": answered("はい", reasoning_content="考"),
}


_numbers = count()


@pytest.fixture(scope="module")
def played(files: Files) -> Iterator[Stage]:
    server, face = LoopbackServer().start(), Face("sync")
    yield Stage(face, files.migrated(), server)
    face.close()
    server.stop()


@given(kits=st.tuples(KITS, KITS), turns=st.lists(TURNS, min_size=1, max_size=4))
@examples(cost=8)
def test_any_request_is_replayed_exactly(played: Stage, kits: tuple[Any, Any], turns: list[Any]) -> None:
    """For any settings, turns and answers, every request is replayed, and no other."""
    played.server.requests.clear()
    opened = [_kit(played, values) for values in kits]
    key = f"k{next(_numbers)}"
    chat: Any = None
    for turn in turns:
        chat = opened[0].chat(key)
        played.server._scripted = [ANSWERS[name] for name in turn["answers"]]
        options = {"passages": turn["passages"], "tools": [lookup] if turn["tools"] else [], **turn["params"]}
        if turn["stream"]:
            played.streamed(chat.stream(turn["content"], **options))
        else:
            played.fails(chat.send, turn["content"], **options)
        if turn["then"] == "resume":
            played.fails(chat.resume)
        elif turn["then"] == "pin":
            played.fails(chat.pin, 2)
        elif turn["then"] == "other kit":
            opened.reverse()
    played.fails(chat.messages)  # whatever became of the turns, it knows its conversation now
    bodies: Counter[bytes] = Counter()
    for _, turn_id, number, _ in every_call(played.database, chat.id):
        shown = chat.replay(turn_id, call=number)
        assert shown.body is not None, shown.problem
        bodies[shown.body] += 1
    assert bodies == Counter(request.raw for request in played.server.requests)
    for kit in opened:
        kit.close()


def _kit(played: Stage, values: Any) -> Convokit:
    retry = Retry(attempts=2, initial_s=0.0)
    return Convokit(
        played.database, base_url=played.server.url, model="loop-1", retry=retry, durability="fast", **values
    )
