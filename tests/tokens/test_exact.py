"""Exact counts: OpenAI's ids, offline, whoever computes them; and no count at all from a tokenizer that errs."""

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
from convokit.errors import SettingsError
from convokit.settings import UNSET
from convokit.tokens import exact
from convokit.tokens.counter import choose_counter
from convokit.tokens.estimate import CharacterEstimate
from convokit.tokens.exact import ENCODINGS, Encoding, ExactTokens
from tests.tokens.samples import FIXTURES, POOLS


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


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_ids_are_the_known_ones(encoding: Encoding) -> None:
    """The frozen texts have as many tokens as frozen ids; special tokens in them are text like any other."""
    counter = ExactTokens(encoding)
    for text, ids in exact._KNOWN[encoding].items():
        assert counter.count(text) == len(ids)
    assert counter.name == encoding
    assert counter.count("<|endoftext|>") > 1
    assert counter.count("") == 0


def test_lone_surrogates_count_as_what_is_sent() -> None:
    """A half pair counts as U+FFFD, two halves that stand together as the character they are."""
    counter = ExactTokens()
    assert counter.count("a\ud800b") == counter.count("a\ufffdb")
    assert counter.count("\ud83d\ude00") == counter.count("😀")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_vocabulary_is_openais(encoding: Encoding) -> None:
    """Written out as OpenAI publishes it, splintr's vocabulary is that file, byte for byte."""
    assert hashlib.sha256(_published(encoding)).hexdigest() == exact._SHA256[encoding]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_tiktoken_counts_the_same_from_its_cache(
    encoding: Encoding, without: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without splintr, tiktoken counts with the vocabulary in its cache, and its counts are the same."""
    texts = [*FIXTURES.values(), *(" ".join(pool) for pool in POOLS.values()), "x\ud800"]
    counted = [ExactTokens(encoding).count(text) for text in texts]
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    exact._find_cached_file(encoding).write_bytes(_published(encoding))
    exact._load_encode.cache_clear()
    without("splintr")
    assert [ExactTokens(encoding).count(text) for text in texts] == counted


def _published(encoding: Encoding) -> bytes:
    tokenizer = importlib.import_module("splintr").Tokenizer.from_pretrained(encoding)
    size = {"o200k_base": 199_998, "cl100k_base": 100_256}[encoding]
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
    with pytest.raises(SettingsError, match=r"pip install 'convokit-sql\[tokens\]'"):
        ExactTokens().count("x")


def test_a_tokenizer_with_other_ids_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the ids of the frozen texts are not the known ones, there is an error and no wrong count."""
    right = exact._load_splintr("o200k_base")
    monkeypatch.setattr(exact, "_load_splintr", lambda encoding: lambda text: [each + 1 for each in right(text)])
    with pytest.raises(SettingsError, match="splintr has a wrong vocabulary o200k_base"):
        ExactTokens().count("x")


def test_an_unknown_vocabulary_is_refused() -> None:
    """Only the vocabularies that are checked can be asked for."""
    with pytest.raises(SettingsError, match="o200k_base or cl100k_base"):
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


def test_the_extra_is_used_for_models_whose_vocabulary_is_known(without: Any) -> None:
    """With splintr an OpenAI model is counted exactly, any other by the estimate; without splintr both are estimated."""
    openai = resolve_profile("gpt-6-luna", "https://api.openai.com/v1").model_copy(update={"images": None})
    assert (choose_counter(openai).name, choose_counter(Profile()).name) == ("o200k_base", "estimate")
    assert isinstance(ContextBuilder(profile=openai).counter, ExactTokens)
    assert resolve_profile("gpt-4-0613", "https://api.openai.com/v1").tokenizer == "cl100k_base"
    exact.is_splintr_installed.cache_clear()
    without("splintr")
    assert isinstance(choose_counter(openai), CharacterEstimate)
    assert choose_counter(openai).name == "estimate:o200k_base"


def test_a_kit_counts_exactly_and_says_so(sqlite_file: str) -> None:
    """The report of a chat with an OpenAI model names the vocabulary; the counter given to the kit goes before it."""
    for given, name in ((UNSET, "o200k_base"), (CharacterEstimate(), "estimate")):
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
