"""Test the configuration file of the gateway."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from convokit import AsyncConvokit
from convokit.errors import SettingsError
from convokit.server.config_file import GatewayConfig, open_application, read_config

EXAMPLE = """
database = "sqlite:///chat.db"
port = 9000
forward = ["top_k"]
match_history = false
conversation_headers = ["X-Session-Id"]
allowed_hosts = ["Chat.example.org"]

[limits]
max_body_bytes = 1000
ping_s = 5

[upstreams.openai]
api_key_env = "SERVED_KEY"

[upstreams.vllm]
base_url = "http://10.0.0.5:8000/v1"
profile = "vllm"

[models.large]
upstream = "openai"
name = "gpt-6-luna"

[models."日本語 モデル"]
upstream = "vllm"
context_tokens = 32768
"""


def read(text: str, folder: Path, **given: object) -> GatewayConfig:
    file = folder / "convokit.toml"
    file.write_text(text, "utf-8")
    return read_config(file, given)


@pytest.mark.once
def test_a_file_makes_kits_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each upstream gets a kit on the same database, and each model the kit of its upstream."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SERVED_KEY", "secret-1")

    async def check() -> None:
        async with open_application(read(EXAMPLE, tmp_path)) as app:
            gateway = app.state.gateway
            settings = gateway.settings
            assert (settings.max_body_bytes, settings.ping_s, settings.body_timeout_s) == (1000, 5, 30)
            assert (settings.forward, settings.match_history) == (("top_k",), False)
            assert (settings.conversation_headers, settings.allowed_hosts) == (("x-session-id",), ("chat.example.org",))
            large, japanese = settings.models["large"], settings.models["日本語 モデル"]
            assert (large.upstream_name, japanese.upstream_name, japanese.context_tokens) == ("gpt-6-luna", None, 32768)
            assert isinstance(large.kit, AsyncConvokit)
            assert large.kit is gateway.kit is not japanese.kit

    asyncio.run(check())


@pytest.mark.once
def test_options_have_precedence_and_workers_get_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of the command line replaces one of the file. The configuration survives pickling, and shows no secret."""
    monkeypatch.setenv("SERVED_KEY", "secret-1")
    config = read(EXAMPLE, tmp_path, port=1, database="postgresql://me:secret-2@db/chat")
    assert (config.port, config.host) == (1, "127.0.0.1")
    assert pickle.loads(pickle.dumps(config)) == config
    assert "secret" not in repr(config)


PROBLEMS = {
    "hots = 1": "hots: is not a key of the configuration ({file}): the keys here are database, host,",
    "[limits]\nbody = 1": (
        "limits.body: is not a key of the configuration ({file}): the keys here are max_body_bytes,"
    ),
    "port = 'x'": "port: must be a whole number, not 'x' ({file})",
    "port = 70000": "port: must be less than or equal to 65535, not 70000 ({file})",
    "match_history = 1": "match_history: must be true or false, not 1 ({file})",
    "limits = 3": "limits: must be a section, not 3 ({file})",
    "[limits]\nping_s = -1": "limits.ping_s: must be greater than 0, not -1 ({file})",
    "[limits]\nping_s = nan": "limits.ping_s: must be a finite number, not nan ({file})",
    "allowed_hosts = [1]": "allowed_hosts: must be text, not 1 ({file})",
    "conversation_headers = ['a b']": (
        "conversation_headers: must be names of headers, such as x-session-id, not 'a b' ({file})"
    ),
    "log_level = 'loud'": "log_level: must be 'debug', 'info', 'warning' or 'error', not 'loud' ({file})",
    "[upstreams.a]\nbase_url = 'ftp://x'": "upstreams.a.base_url: must be the URL of a server",
    "[upstreams.a]\nbase_url = 'http://me:pass@x/v1'": "upstreams.a.base_url: must not contain a user or a password",
    "[upstreams.a]\napi_key = 5": "upstreams.a.api_key: must be text ({file})",
    "[upstreams.a]\napi_key_env = 'NIX'": (
        "upstreams.a.api_key_env: the environment variable NIX is not set: export it ({file})"
    ),
    "[upstreams.a]\napi_key = 'k'\napi_key_env = 'PATH'": (
        "upstreams.a: has api_key and api_key_env: remove api_key ({file})"
    ),
    "[models.m]\nupstream = 'b'": (
        "models.m.upstream: there is no upstream 'b': there is no section [upstreams.NAME] ({file})"
    ),
    "[upstreams.a]\n[upstreams.b]\n[models.m]": (
        "models.m.upstream: is missing: name one of the upstreams a, b ({file})"
    ),
    "[upstreams.a]\n[upstreams.b]": "models: is empty, and there are several upstreams (a, b)",
    "port = ": "config: {file} is not valid TOML: ",
}


@pytest.mark.once
@pytest.mark.parametrize("text", PROBLEMS)
def test_a_problem_is_named_with_its_key_and_value(text: str, tmp_path: Path) -> None:
    """The error says which file, which key, which value, and what is allowed. It never shows a secret."""
    with pytest.raises(SettingsError) as raised:
        read(text, tmp_path)
    assert str(raised.value).startswith(PROBLEMS[text].format(file=tmp_path / "convokit.toml"))
    assert "pass@" not in str(raised.value)


@pytest.mark.once
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file and one that is not text raise SettingsError."""
    with pytest.raises(SettingsError, match=r"cannot read .*none\.toml: No such file"):
        read_config(tmp_path / "none.toml", {})
    (tmp_path / "latin.toml").write_bytes("x = 'é'".encode("latin-1"))
    with pytest.raises(SettingsError, match=r"latin\.toml is not UTF-8 text"):
        read_config(tmp_path / "latin.toml", {})


@pytest.mark.once
def test_the_configuration_in_the_documentation_is_valid(checkout: Path, tmp_path: Path) -> None:
    """The page's example is read as it stands. The names of all keys are on the page."""
    page = (checkout / "docs/how-to/serve-in-production.md").read_text("utf-8")
    config = read(page.partition("```toml\n")[2].partition("```")[0].replace("OPENAI_API_KEY", "PATH"), tmp_path)
    assert (config.workers, config.find_upstream("small")) == (4, "vllm")
    missing = [name for name in (*GatewayConfig.model_fields, *type(config.limits).model_fields) if name not in page]
    assert not missing
