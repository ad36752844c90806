"""Test `usage`."""

from __future__ import annotations

import csv
import io
import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from convokit import Convokit
from convokit.usage import prices
from tests.cli.conftest import CommandLine, Terminal
from tests.support.selection import keep
from tests.support.server import LoopbackServer, completion, failure

JAPANESE = "東京の天気についてのとても長い会話の名前です"


@pytest.fixture
def cli_with_usage(cli: CommandLine, server: LoopbackServer) -> CommandLine:
    """Fill three conversations of one tenant and one of another, with one refused call and one model without a price."""
    with Convokit(cli.database, model="gpt-6-luna", base_url=server.url, profile="openai", api_key="sk-x") as kit:
        for key, model, cached in ((JAPANESE, "gpt-6-luna", 1000), ("=1+1", "nobody-knows", 0), ("k", "gpt-6-luna", 0)):
            tokens = {
                "prompt_tokens": 4000,
                "completion_tokens": 500,
                "prompt_tokens_details": {"cached_tokens": cached},
            }
            server.script(completion("yes", model=model, usage={**tokens, "cost": 1.5} if key == "k" else tokens))
            kit.chat(key).send("hello")
        server.script(failure(400))
        with pytest.raises(Exception, match="400"):
            kit.chat("k").send("hello")
        kit.tenant("他社").chat("k").send("hello")
    return cli


def test_usage_prints_a_table_with_bars_and_a_total(cli_with_usage: CommandLine) -> None:
    """Notes on stderr name the calls that the table does not cover."""
    shown = cli_with_usage("usage")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["day", today]
    assert "12k" in shown.stdout
    assert "█" in shown.stdout
    assert "+?" in shown.stdout
    assert "1 call without figures" in shown.stderr
    models = cli_with_usage("usage", "--by", "model").stdout.splitlines()
    assert [line.split()[0] for line in models] == ["model", "gpt-6-luna", "nobody-knows", "total"]
    assert " ? " in models[2]


@pytest.mark.soak(sample=True)
@pytest.mark.parametrize("by", keep(["day", "model", "conversation", "tenant"], "conversation", sample=True))
def test_table_fits_a_narrow_terminal(cli_with_usage: CommandLine, terminal: type[Terminal], by: str) -> None:
    """Every row is one line of at most 60 cells. Long names are cut, Japanese ones between characters."""
    window = terminal("usage", "--by", by, "--all-tenants", CONVOKIT_DATABASE_URL=cli_with_usage.database, NO_COLOR="1")
    assert window.end() == 0
    lines = [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", window.seen).splitlines()]
    table = [line for line in lines if "calls" not in line and "price" not in line]
    assert len(table) >= 1
    assert all(cell_len(line) <= 60 for line in lines), lines
    if by == "conversation":
        assert any(line.startswith(("default", "他社")) and "…" in line for line in lines)


@pytest.mark.soak(sample=True)
def test_bars_are_ascii_without_unicode(cli_with_usage: CommandLine) -> None:
    command = [sys.executable, "-m", "convokit", "usage", "--by", "model", "-d", cli_with_usage.database]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    shown = subprocess.run(command, capture_output=True, check=True, env=env).stdout
    assert b"  ####" in shown
    assert b"?" not in shown.splitlines()[1]


def test_json_and_csv_hold_exact_figures(cli_with_usage: CommandLine) -> None:
    """A CSV cell is never a spreadsheet formula."""
    found = cli_with_usage.json("usage", "--by", "conversation", "--all-tenants")["tenants"]
    assert [each["tenant"] for each in found] == ["default", "他社"]
    rows = {row["key"]: row for row in found[0]["rows"]}
    assert set(rows) == {JAPANESE, "=1+1", "k"}
    assert rows["k"]["cost"] == "1.5"
    assert rows["k"]["uncounted_calls"] == 1
    assert rows["=1+1"]["cost"] is None
    assert rows[JAPANESE]["cached_share"] == 0.25
    table = list(csv.DictReader(io.StringIO(cli_with_usage("usage", "--by", "conversation", "--csv").stdout)))
    assert {row["key"] for row in table} == {JAPANESE, "'=1+1", "k"}
    assert {row["prompt_tokens"] for row in table} == {"4000"}
    assert next(row["cost"] for row in table if row["key"] == "k") == "1.5"


def test_all_tenants_option_includes_other_tenants(cli_with_usage: CommandLine) -> None:
    assert cli_with_usage.json("usage")["tenants"][0]["total"]["calls"] == 4
    assert cli_with_usage.json("usage", "--tenant", "他社")["tenants"][0]["total"]["calls"] == 1
    lines = cli_with_usage("usage", "--by", "tenant", "--all-tenants").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["tenant", "default", "他社"]
    assert cli_with_usage.json("usage", "--tenant", "nobody") == {"tenants": []}
    assert cli_with_usage("usage", "--tenant", "nobody").stderr.startswith("no calls")


def test_since_and_until_take_ages_and_dates(cli_with_usage: CommandLine) -> None:
    """Other values are refused with an example."""
    tomorrow = "2999-01-01"
    for option in (["--since", "1h"], ["--since", "2w"], ["--since", "2026-01-01"], ["--until", tomorrow]):
        assert cli_with_usage.json("usage", *option)["tenants"][0]["total"]["calls"] == 4
    assert cli_with_usage.json("usage", "--since", tomorrow)["tenants"] == []
    assert (
        cli_with_usage.json("usage", "--since", "2026-01-01T00:00:00+09:00", "--until", "2026-01-02")["tenants"] == []
    )
    for wrong in ("yesterday", "5", "999999w", "2026-13-01"):
        assert "12h, 30d, 8w" in cli_with_usage("usage", "--since", wrong, code=2).stderr.replace("\n", " ")
    cli_with_usage("usage", "--json", "--csv", code=2)
    assert "until" in cli_with_usage.mistake("usage", "--since", "1h", "--until", "2026-01-01")
    assert "never" in cli_with_usage.mistake("usage", "--key", "never")


def test_missing_price_list_is_noted_with_the_install_command(
    cli_with_usage: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Costs that the server reported are shown without a price list."""
    monkeypatch.setattr(prices, "has_price_lists", lambda: False)
    shown = cli_with_usage("usage")
    assert "pip install 'convokit-sql[prices]'" in shown.stderr
    assert "$1.50+?" in shown.stdout


def test_model_names_cannot_steer_the_terminal(cli: CommandLine, server: LoopbackServer, tmp_path: Path) -> None:
    """A model's name comes from the server."""
    server.script(completion("yes", model="evil\x1b[2Jname\u202e"))
    cli.chat("hello")
    for form in ([], ["--csv"], ["--json"]):
        printed = cli("usage", "--by", "model", *form).stdout
        assert "evil" in printed
        assert "\x1b" not in printed
        assert "\u202e" not in printed
    assert not os.listdir(tmp_path)
