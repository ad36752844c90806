"""`usage`: what it draws, where it cuts, and what programs get."""

from __future__ import annotations

import csv
import io
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.cells import cell_len

from convokit import Convokit
from convokit.cli.commands import usage
from tests.cli.conftest import CommandLine, Terminal
from tests.support.selection import keep
from tests.support.server import LoopbackServer, completion, failure

JAPANESE = "東京の天気についてのとても長い会話の名前です"


@pytest.fixture
def talked(cli: CommandLine, server: LoopbackServer) -> CommandLine:
    """Three conversations of one tenant, one of another's; a model with a price, one without, a call that was refused."""
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


def test_a_table_with_bars_and_a_total(talked: CommandLine) -> None:
    """A line a day with what is known of its cost, and beside the table what the table cannot say."""
    shown = talked("usage")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    assert [line.split()[0] for line in shown.stdout.splitlines()] == ["day", today]
    assert "12k" in shown.stdout
    assert "█" in shown.stdout
    assert "+?" in shown.stdout
    assert "1 calls without figures" in shown.stderr
    models = talked("usage", "--by", "model").stdout.splitlines()
    assert [line.split()[0] for line in models] == ["model", "gpt-6-luna", "nobody-knows", "total"]
    assert " ? " in models[2]


@pytest.mark.parametrize("by", keep(["day", "model", "conversation", "tenant"], "conversation", sample=True))
def test_it_fits_a_narrow_terminal(talked: CommandLine, terminal: type[Terminal], by: str) -> None:
    """On 60 columns every line is one line of at most 60 cells; long names give way, Japanese ones at whole characters."""
    window = terminal("usage", "--by", by, "--all-tenants", CONVOKIT_DATABASE_URL=talked.database, NO_COLOR="1")
    assert window.end() == 0
    lines = [line.rstrip() for line in re.sub("\x1b\\[[0-9;]*m", "", window.seen).splitlines()]
    table = [line for line in lines if "calls" not in line and "price" not in line]
    assert len(table) >= 1
    assert all(cell_len(line) <= 60 for line in lines), lines
    if by == "conversation":
        assert any(line.startswith(("default", "他社")) and "…" in line for line in lines)


def test_programs_get_exact_figures(talked: CommandLine) -> None:
    """JSON and CSV hold every count and exact amounts; a name is no formula for a spreadsheet."""
    found = talked.json("usage", "--by", "conversation", "--all-tenants")["tenants"]
    assert [each["tenant"] for each in found] == ["default", "他社"]
    rows = {row["key"]: row for row in found[0]["rows"]}
    assert set(rows) == {JAPANESE, "=1+1", "k"}
    assert rows["k"]["cost"] == "1.5"
    assert rows["k"]["uncounted_calls"] == 1
    assert rows["=1+1"]["cost"] is None
    assert rows[JAPANESE]["cached_share"] == 0.25
    table = list(csv.DictReader(io.StringIO(talked("usage", "--by", "conversation", "--csv").stdout)))
    assert {row["key"] for row in table} == {JAPANESE, "'=1+1", "k"}
    assert {row["prompt_tokens"] for row in table} == {"4000"}
    assert next(row["cost"] for row in table if row["key"] == "k") == "1.5"


def test_it_keeps_to_its_tenant_unless_told(talked: CommandLine) -> None:
    """Without --all-tenants one tenant is shown; with it every one, each under its name; --by tenant is a line for each."""
    assert talked.json("usage")["tenants"][0]["total"]["calls"] == 4
    assert talked.json("usage", "--tenant", "他社")["tenants"][0]["total"]["calls"] == 1
    lines = talked("usage", "--by", "tenant", "--all-tenants").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["tenant", "default", "他社"]
    assert talked.json("usage", "--tenant", "nobody") == {"tenants": []}
    assert talked("usage", "--tenant", "nobody").stderr.startswith("no calls")


def test_since_and_until(talked: CommandLine) -> None:
    """Times are spans back from now, days or moments; what is none of them is refused with what would do."""
    tomorrow = "2999-01-01"
    for option in (["--since", "1h"], ["--since", "2w"], ["--since", "2026-01-01"], ["--until", tomorrow]):
        assert talked.json("usage", *option)["tenants"][0]["total"]["calls"] == 4
    assert talked.json("usage", "--since", tomorrow)["tenants"] == []
    assert talked.json("usage", "--since", "2026-01-01T00:00:00+09:00", "--until", "2026-01-02")["tenants"] == []
    for wrong in ("yesterday", "5", "999999w", "2026-13-01"):
        assert "12h, 30d, 8w" in talked("usage", "--since", wrong, code=2).stderr.replace("\n", " ")
    talked("usage", "--json", "--csv", code=2)
    assert "until" in talked.mistake("usage", "--since", "1h", "--until", "2026-01-01")
    assert "never" in talked.mistake("usage", "--key", "never")


def test_without_the_extra_it_says_what_to_install(talked: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no price list is installed one line says how to get one, and what servers said is still shown."""
    for module in (usage, __import__("convokit.usage.prices", fromlist=["x"])):
        monkeypatch.setattr(module, "has_price_lists", lambda: False)
    shown = talked("usage")
    assert "pip install 'convokit-sql[prices]'" in shown.stderr
    assert "$1.50+?" in shown.stdout


def test_names_cannot_steer_the_terminal(cli: CommandLine, server: LoopbackServer, tmp_path: Path) -> None:
    """A model's name is the server's word: what it holds is shown, never obeyed, in the table and in CSV."""
    server.script(completion("yes", model="evil\x1b[2Jname\u202e"))
    cli.chat("hello")
    for form in ([], ["--csv"], ["--json"]):
        printed = cli("usage", "--by", "model", *form).stdout
        assert "evil" in printed
        assert "\x1b" not in printed
        assert "\u202e" not in printed
    assert not os.listdir(tmp_path)
