"""The vocabulary of a model, by its name as people and servers write it."""

from __future__ import annotations

import time

import pytest

from convokit.domain.profiles import resolve_profile
from convokit.domain.vocabularies import NEAR, VOCABULARIES, find_vocabulary

pytestmark = pytest.mark.once

NAMES: dict[str | None, tuple[str, ...]] = {
    "o200k_base": (
        "gpt-4o", "gpt-4o-mini", "openai/gpt-4o-2024-08-06", "GPT-4O-MINI", "gpt 4o mini", "azure/gpt-4.1", "gpt-4.5-preview",
        "gpt-4-1", "gpt-41-mini", "my-gpt-4o", "gpt4o-prod", "gpt-4-o", "gpt-5.1-codex-max",
        "東京-gpt-4o", "gpt-5", "gpt-5.4-nano", "gpt-6-luna", "gpt-audio",
        "chatgpt-4o-latest", "codex-mini-latest", "computer-use-preview", "o1", "o3-mini", "foo/o4-mini",
        "o1-preview-2024-09-12", "gpt-oss:20b", "openai/gpt-oss-120b", "openai.gpt-oss-20b-1:0",
        "ft:gpt-4o-mini-2024-07-18:acme::x", "ft:gpt-4o-mini-2024-07-18:acme:like-llama-3:x", "ft:o4-mini-2025-04-16:acme::x",
        "phi-4-mini-instruct", "phi4-mini:3.8b", "microsoft/Phi-4-multimodal-instruct",
    ),
    "cl100k_base": (
        "gpt-4", "gpt4", "gpt-4-turbo", "gpt-4-0613", "gpt-4-1106-preview", "gpt-4-32k", "gpt-3.5-turbo", "gpt-35-turbo",
        "prod-gpt-35-turbo-16k", "gpt-3-5-turbo", "ft:gpt-3.5-turbo-0125:acme::x", "phi4", "phi4-reasoning:14b", "olmo2:7b",
        "olmo-3.1-32b-think",
    ),
    "llama3": (
        "llama3.2:3b", "llama3", "meta-llama/Llama-3.3-70B-Instruct", "meta-llama/llama-3.3-70b-instruct:free",
        "llama-3.1-8b-instant", "llama3-70b-8192", "meta.llama3-1-70b-instruct-v1:0", "us.meta.llama3-3-70b-instruct-v1:0",
        "arn:aws:bedrock:us-east-1:1:inference-profile/us.meta.llama3-1-8b-instruct-v1:0", "Meta-Llama-31-8B",
        "C:\\models\\Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", "hf.co/bartowski/Llama-3.2-3B-Instruct-GGUF:Q4_K_M",
        "accounts/fireworks/models/llama-v3p1-8b-instruct", "@cf/meta/llama-3.1-8b-instruct", "llama-guard-3-8b",
        "nvidia/llama-3_3-nemotron-super-49b-v1", "DeepSeek-R1-Distill-Llama-70B", "hermes-3-70b",
        "tokyotech-llm/Llama-3.3-Swallow-70B-Instruct-v0.4", "/models/llama-3/",
    ),
    "qwen3": (
        "Qwen/Qwen2.5-7B-Instruct", "Qwen2.5-7B-Instruct-Q4_K_M.gguf", "/models/qwen2.5.gguf", "qwen2.5-7b-instruct@q4_k_m",
        "qwen2.5vl:7b", "qwen3:8b", "qwen3-0.6b", "qwen3-80b", "qwen-3-32b", "qwen3-coder", "qwen2-72b-instruct",
        "abeja-qwen2.5-32b-japanese",
        "lmstudio-community/Qwen3-8B-GGUF", "accounts/fireworks/models/qwen2p5-72b-instruct",
        "qwen.qwen3-235b-a22b-2507-v1:0", "qwq-32b", "baichuan-m2", "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
    ),
    "deepseek_v3": (
        "deepseek-chat", "deepseek-reasoner", "deepseek-v4", "deepseek-r1", "deepseek-r1:671b", "us.deepseek.r1-v1:0",
        "deepseek-ai/DeepSeek-V3.2-Exp", "deepseek/deepseek-chat-v3-0324", "accounts/fireworks/models/deepseek-v3p1",
    ),
    "mistral_v3": (
        "mistral-large-latest", "mistral-small3.2:24b", "mistral-medium-2508", "open-mistral-nemo", "ministral-8b-latest",
        "codestral-latest", "devstral-small-2507", "magistral-small-2509", "mistral.mistral-large-3-675b-instruct",
        "pixtral-12b-2409", "voxtral-mini", "cyberagent/Mistral-Nemo-Japanese-Instruct-2408",
    ),
    "gemma3": ("gemma3:4b", "google/gemma-3-27b-it", "gemma-3n-e4b", "gemma-4-31b-it", "medgemma-27b"),
    "~o200k_base": ("glm-4.5-air", "zai-org/GLM-5", "chatglm3-6b"),
    "~cl100k_base": (
        "llama2:13b", "llama-2-7b-chat", "elyza/ELYZA-japanese-Llama-2-7b", "llama-30b", "codellama:7b", "tinyllama",
        "vicuna-13b-gpt4", "phi3.5", "mistral", "mistral:latest", "mistral:7b", "mistral-7b-instruct-v0.2",
        "mistralai/Mistral-7B-Instruct-v0.3", "mixtral-8x7b-32768", "codestral:22b", "mistral.mistral-large-2402-v1:0",
        "Mistral-Large-Instruct-2407",
    ),
    "~llama3": ("deepseek-r1:70b", "deepseek-r1:8b-llama-distill-q4_K_M"),
    "~qwen3": (
        "qwen-max", "qwen3-max", "qwq-plus", "qwen:7b", "deepseek-r1:8b", "deepseek-r1:1.5b", "DeepSeek-R1-0528-Qwen3-8B",
        "deepseek-r1:7b-qwen-distill-q4_K_M",
    ),
    "~deepseek_v3": ("deepseek-coder-v2", "deepseek-llm-67b-chat", "kimi-k2-0905-preview", "moonshot-v1-8k"),
    "~mistral_v3": ("mistral-small-2409", "mistral-openorca", "deephermes-3-mistral-24b"),
    "~gemma3": (
        "google/gemma-2-9b-it", "gemma:2b", "gemma-4b", "tokyotech-llm/Gemma-2-Llama-Swallow-9b", "paligemma-3b",
        "gemini-2.5-flash", "Qwen/Qwen3.5-27B", "qwen3.6:27b",
        "qwen3.5-flash",
    ),
    None: (
        "", "/", "my-model", "日本語モデル", "claude-sonnet-4", "grok-4", "command-r", "granite-4", "nova-pro", "Llama-4-Scout",
        "smollm2-135m-instruct", "solar-o1x", "foo-o1", "xo1", "o1x", "open_llama_3b_v2", "codeqwen:7b", "gpt2", "gpt-50",
        "gpt-neox-20b", "gpt4all-j", "gpt-4all", "alpaca-gpt4-7b", "autogpt-5", "Phi-4.5", "olmo-7b",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model", "vocabulary"), [(name, key) for key, names in NAMES.items() for name in names])
def test_the_name_decides_the_vocabulary(model: str, vocabulary: str | None) -> None:
    assert find_vocabulary(model) == vocabulary
    assert vocabulary is None or vocabulary.removeprefix(NEAR) in VOCABULARIES


@pytest.mark.parametrize(
    "base_url", ["https://api.openai.com/v1", "http://127.0.0.1:8080/v1", "https://openrouter.ai/api/v1"]
)
def test_every_host_has_the_vocabulary_in_its_profile(base_url: str) -> None:
    """The profile of a known and of an unknown host names the same vocabulary."""
    assert resolve_profile("qwen3:8b", base_url).tokenizer == "qwen3"
    assert resolve_profile("gpt-4-turbo", base_url).tokenizer == "cl100k_base"
    assert resolve_profile("kimi-k2", base_url).tokenizer == "~deepseek_v3"
    assert resolve_profile("my-model", base_url).tokenizer is None


@pytest.mark.parametrize("name", ["vllm", "ollama", "azure"])
def test_a_named_provider_has_the_vocabulary_too(name: str) -> None:
    assert resolve_profile("llama3.1", "http://host/v1", name=name).tokenizer == "llama3"


def test_a_long_name_is_read_fast() -> None:
    """A name is input: 12,000 characters of it take no longer than a moment."""
    began = time.perf_counter()
    for part in ("qwen-", "deepseek", "gpt-4-1", "mistral-", "gemma", "-1.1"):
        find_vocabulary(part * 2_000)
    assert time.perf_counter() - began < 2
