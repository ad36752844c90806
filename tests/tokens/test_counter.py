"""Counters: which one counts a model, and how far its counts can be trusted."""

from __future__ import annotations

import pytest

from convokit import Budget, Convokit, Profile, TokenizeCounter
from convokit.domain.profiles import ImageTokens
from convokit.tokens import exact
from convokit.tokens.counter import (
    Counter,
    ProfileCounter,
    choose_counter,
    find_first_factor,
    is_estimate,
)
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.exact import ExactTokens
from tests.support.server import LoopbackServer


class Words:
    """Counts words: a user's counter that says nothing of itself."""

    name = "words"

    def count(self, text: str) -> int:
        return len(text.split())


class Guess(Words):
    """A user's counter that says that it estimates."""

    name = "guess"
    first_factor = 1.3
    is_estimate = True


WITH_IMAGES = Profile(images=ImageTokens(base=85, tile=170), replay_keys=frozenset({"reasoning_content"}))


@pytest.mark.once
@pytest.mark.parametrize(
    ("counter", "first_factor", "estimate"),
    [
        (ExactTokens(), 1.0, False),
        (ExactTokens("gemma3"), 1.0, False),
        (ExactTokens("gemma3", near=True), 1.15, True),
        (CharacterEstimate(), 1.0, True),
        (Words(), 1.0, False),
        (Guess(), 1.3, True),
    ],
)
def test_a_counter_says_how_far_it_can_be_trusted(counter: Counter, first_factor: float, estimate: bool) -> None:
    """So does the counter of a profile with image prices, which passes both on."""
    for each in (counter, choose_counter(WITH_IMAGES, counter)):
        assert (find_first_factor(each), is_estimate(each)) == (first_factor, estimate)
    assert isinstance(choose_counter(WITH_IMAGES, counter), ProfileCounter)


@pytest.mark.once
def test_the_tokenizer_of_a_server_is_exact() -> None:
    counter = TokenizeCounter("http://127.0.0.1:9/v1", "tiny")
    assert (find_first_factor(counter), is_estimate(counter)) == (1.0, False)
    counter.close()


@pytest.mark.once
@pytest.mark.parametrize(
    ("tokenizer", "name"),
    [
        ("o200k_base", "o200k_base"),
        ("qwen3", "qwen3"),
        ("~qwen3", "~qwen3"),
        ("~gemma3", "~gemma3"),
        (None, "~o200k_base"),
        ("p50k_base", "~o200k_base"),
        ("", "~o200k_base"),
    ],
)
def test_the_profile_decides_the_counter(tokenizer: str | None, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the extra: the vocabulary, a near one, or o200k_base as a near one. Without it: the estimate."""
    profile = Profile(tokenizer=tokenizer)
    assert choose_counter(profile).name == name
    assert choose_counter(profile, Words()).name == "words"
    monkeypatch.setattr(exact, "is_splintr_installed", lambda: False)
    assert choose_counter(profile).name == "estimate-2"


@pytest.mark.parametrize(
    ("model", "name"), [("qwen3:8b", "qwen3"), ("kimi-k2", "~deepseek_v3"), ("my-model", "~o200k_base")]
)
@pytest.mark.once(except_first=True)
def test_a_kit_counts_with_the_vocabulary_of_its_model(
    database: str, server: LoopbackServer, model: str, name: str
) -> None:
    """The reports of a turn and of a context name the counter, and the stored counts have its name."""
    kit = Convokit(database, model=model, base_url=server.url)
    reply = kit.chat("k").send("東京の天気は？")
    assert reply.context is not None
    assert reply.context.counter.split("+")[0] == name
    assert kit.chat("k").context("x").report.counter == reply.context.counter
    kit.close()


def test_a_deploy_may_change_the_counter(database: str, server: LoopbackServer) -> None:
    """Rows that another counter counted are counted again by the new one, and the turn goes on within its budget."""
    counters: list[Counter] = [Words(), ExactTokens(), ExactTokens("qwen3", near=True), CharacterEstimate()]
    budget = Budget(context_tokens=400, reply_tokens=20, step_tokens=100)
    for number, counter in enumerate(counters):
        kit = Convokit(database, model="loop-1", base_url=server.url, counter=counter, budget=budget)
        for turn in range(4):
            reply = kit.chat("k").send(f"question {number} {turn} " + "word " * 10)
            assert reply.context is not None
            assert (reply.context.counter, reply.context.tokens <= 380) == (counter.name, True)
        kit.close()
