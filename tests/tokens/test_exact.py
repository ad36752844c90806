"""Exact counts: the ids of the models' vocabularies, offline; and no count at all from a tokenizer that errs."""

from __future__ import annotations

import base64
import hashlib
import importlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from convokit import ContextBuilder, Convokit, Profile
from convokit.domain.profiles import resolve_profile
from convokit.domain.vocabularies import VOCABULARIES, Vocabulary
from convokit.errors import SettingsError
from convokit.settings import UNSET
from convokit.tokens import exact
from convokit.tokens.counter import choose_counter
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.exact import ExactTokens
from tests.tokens.samples import FIXTURES, POOLS

OPENAI: tuple[Vocabulary, ...] = ("o200k_base", "cl100k_base")
SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|user|>",
    "<|call|>", "<｜begin▁of▁sentence｜>", "<｜User｜>", "[INST]", "[TOOL_CALLS]", "<s>", "</s>", "<bos>", "<pad>",
    "<start_of_turn>", "<unused0>", "<image_soft_token>", "<think>", "</think>", "<tool_call>", "<|think|>",
    "<|reserved_special_token_0|>",
)  # fmt: skip
"""Control tokens of the vocabularies, and of splintr itself."""


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing loaded before, nothing left behind."""
    exact._load_encode.cache_clear()
    exact.is_splintr_installed.cache_clear()
    yield
    exact._load_encode.cache_clear()
    exact.is_splintr_installed.cache_clear()


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what makes a package look as if it were not installed."""

    def hide(*names: str) -> None:
        real = importlib.import_module

        def find(name: str) -> Any:
            if name in names:
                raise ImportError(name)
            return real(name)

        monkeypatch.setattr(importlib, "import_module", find)
        monkeypatch.setattr(exact, "find_spec", lambda name: None if name in names else object())

    return hide


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_the_ids_are_the_known_ones(vocabulary: Vocabulary) -> None:
    """The frozen texts have as many tokens as frozen ids. One of them is Japanese."""
    counter = ExactTokens(vocabulary)
    for text, ids in exact._KNOWN[vocabulary].items():
        assert counter.count(text) == len(ids)
    assert any("です" in text for text in exact._KNOWN[vocabulary])
    assert counter.name == vocabulary
    assert counter.count("") == 0


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_text_that_looks_like_a_special_token_is_text(vocabulary: Vocabulary) -> None:
    """What a user writes cannot become a control token, so it costs what its letters and signs cost."""
    counter = ExactTokens(vocabulary)
    assert [special for special in SPECIAL if counter.count(special) < 2] == []
    assert [special for special in SPECIAL if counter.count(f"東京{special}東京") < counter.count("東京") + 3] == []


@pytest.mark.parametrize(
    ("vocabulary", "tokens"),
    [
        ("o200k_base", 18), ("cl100k_base", 24), ("llama3", 19), ("qwen3", 22), ("deepseek_v3", 19), ("mistral_v3", 22),
        ("gemma3", 19),
    ],
)  # fmt: skip
def test_each_vocabulary_counts_for_itself(vocabulary: Vocabulary, tokens: int) -> None:
    """A near one has the same counts and another name, so that stored counts say what they are."""
    text = "東京都の天気は晴れ、最高気温は35度です。2026"
    near = ExactTokens(vocabulary, near=True)
    assert ExactTokens(vocabulary).count(text) == near.count(text) == tokens
    assert near.name == f"~{vocabulary}"


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_long_run_of_one_character_is_counted(vocabulary: Vocabulary) -> None:
    """Text without a break takes no quadratic time and fails in no vocabulary."""
    counter = ExactTokens(vocabulary)
    for unit in ("a", " ", "\n", "日", "1", "😀"):
        assert 0 < counter.count(unit * 20_000) <= 80_000


@pytest.mark.parametrize("vocabulary", OPENAI)
def test_the_vocabulary_is_openais(vocabulary: Vocabulary) -> None:
    """Written out as OpenAI publishes it, splintr's vocabulary is that file, byte for byte."""
    assert hashlib.sha256(_published(vocabulary)).hexdigest() == exact._SHA256[vocabulary]


@pytest.mark.parametrize("vocabulary", OPENAI)
def test_tiktoken_counts_the_same_from_its_cache(
    vocabulary: Vocabulary, without: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without splintr, tiktoken counts with the vocabulary in its cache, and its counts are the same."""
    texts = [*FIXTURES.values(), *(" ".join(pool) for pool in POOLS.values()), "x\ud800"]
    counted = [ExactTokens(vocabulary).count(text) for text in texts]
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    exact._find_cached_file(vocabulary).write_bytes(_published(vocabulary))
    exact._load_encode.cache_clear()
    without("splintr")
    assert [ExactTokens(vocabulary).count(text) for text in texts] == counted


def _published(vocabulary: Vocabulary) -> bytes:
    tokenizer = importlib.import_module("splintr").Tokenizer.from_pretrained(vocabulary)
    size = {"o200k_base": 199_998, "cl100k_base": 100_256}[vocabulary]
    lines = (base64.b64encode(tokenizer.decode_token_bytes(rank)) + b" %d\n" % rank for rank in range(size))
    return b"".join(lines)


def test_nothing_is_ever_downloaded(without: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tiktoken without its vocabulary is an error that says what to install; no connection is tried."""
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: pytest.fail("a connection was tried"))
    without("splintr")
    with pytest.raises(SettingsError, match=r"no vocabulary of tiktoken at .*convokit-sql\[tokens\]"):
        ExactTokens().count("x")
    exact._find_cached_file("o200k_base").write_bytes(b"aGk= 0\n")
    with pytest.raises(SettingsError, match="SHA-256 differs"):
        ExactTokens().count("x")


def test_without_any_package_it_says_what_to_install(without: Any) -> None:
    """Neither splintr nor tiktoken: SettingsError, at the first count."""
    without("splintr", "tiktoken")
    for vocabulary in VOCABULARIES:
        with pytest.raises(SettingsError, match=rf"{vocabulary} needs `pip install 'convokit-sql\[tokens\]'`"):
            ExactTokens(vocabulary).count("x")


def test_tiktoken_has_openais_vocabularies_only(without: Any) -> None:
    """With tiktoken alone, another vocabulary says what to install."""
    without("splintr")
    with pytest.raises(SettingsError, match=r"qwen3 needs `pip install 'convokit-sql\[tokens\]'`"):
        ExactTokens("qwen3").count("x")


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
def test_a_tokenizer_with_other_ids_is_refused(vocabulary: Vocabulary, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the ids of the frozen texts are not the known ones, there is an error and no wrong count."""
    right = exact._load_splintr(vocabulary)
    monkeypatch.setattr(exact, "_load_splintr", lambda name: lambda text: [each + 1 for each in right(text)])
    with pytest.raises(SettingsError, match=f"splintr has a wrong vocabulary {vocabulary}"):
        ExactTokens(vocabulary).count("x")


def test_an_unknown_vocabulary_is_refused() -> None:
    """Only the vocabularies that are checked can be asked for."""
    with pytest.raises(SettingsError, match=r"the vocabulary must be o200k_base, cl100k_base, .*, not 'p50k_base'"):
        ExactTokens("p50k_base")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_threads_share_one_vocabulary() -> None:
    """Counts from many threads at once are right."""
    counter, text = ExactTokens(), FIXTURES["Japanese prose"]
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.extend(counter.count(text) for _ in range(50))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [87] * 400


def test_the_extra_is_used_by_default(without: Any) -> None:
    """With splintr a known model is counted exactly and any other nearly; without splintr both are estimated."""
    openai = resolve_profile("gpt-6-luna", "https://api.openai.com/v1").model_copy(update={"images": None})
    assert (choose_counter(openai).name, choose_counter(Profile()).name) == ("o200k_base", "~o200k_base")
    assert isinstance(ContextBuilder(profile=openai).counter, ExactTokens)
    exact.is_splintr_installed.cache_clear()
    without("splintr")
    assert isinstance(choose_counter(openai), CharacterEstimate)
    assert isinstance(choose_counter(Profile()), CharacterEstimate)


def test_a_kit_counts_exactly_and_says_so(sqlite_file: str) -> None:
    """The report of a chat with an OpenAI model names the vocabulary; the counter given to the kit goes before it."""
    for given, name in ((UNSET, "o200k_base"), (CharacterEstimate(), "estimate-2")):
        kit = Convokit(sqlite_file, model="gpt-5-pro", api_key="k", profile="openai", counter=given)
        assert kit.chat("k").context("日本語").report.counter == name
        kit.close()


def test_importing_convokit_loads_no_tokenizer() -> None:
    """Neither the package nor the vocabularies nor the list of frequent words: the first count does."""
    code = (
        "import sys, convokit; from convokit.tokens import estimate; from convokit.tokens import exact;"
        "assert not {'splintr', 'tiktoken'} & set(sys.modules);"
        "assert estimate._scale.cache_info().currsize == 0"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
