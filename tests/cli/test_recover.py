"""Test `recover`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from convokit import Convokit
from tests.cli.conftest import CommandLine
from tests.support.server import LoopbackServer, stream

LEFT = """
import os, signal, sys
import pytest

from convokit import Convokit
kit = Convokit(sys.argv[1], model="m", base_url=sys.argv[2], tenant=sys.argv[3])
with kit.chat("k").stream("count") as events:
    for number, event in enumerate(events):
        if number == 13:
            os.kill(os.getpid(), signal.SIGKILL)
"""


def _left(cli: CommandLine, server: LoopbackServer, *tenants: str) -> None:
    for tenant in tenants:
        server.script(stream([f"{number} " for number in range(40)], pause_s=0.1))
        subprocess.run([sys.executable, "-c", LEFT, cli.database, server.url, tenant], check=False)


@pytest.mark.soak(sample=True)
def test_recover_lists_the_closed_turns(cli: CommandLine, server: LoopbackServer) -> None:
    _left(cli, server, "default")
    result = cli("recover")
    assert result.stderr == "closed 1 turn of dead workers; the parts of their replies are kept\n"
    assert "open for" in result.stdout
    assert "characters" in result.stdout
    assert cli("recover").stderr.startswith("nothing to recover")
    assert cli.json("recover") == {"recovered": []}


@pytest.mark.soak(sample=True)
def test_recover_all_tenants_closes_turns_of_other_tenants(cli: CommandLine, server: LoopbackServer) -> None:
    _left(cli, server, "a", "b")
    assert cli.json("recover") == {"recovered": []}
    assert [each["tenant"] for each in cli.json("recover", "--tenant", "a")["recovered"]] == ["a"]
    found = cli.json("recover", "--all-tenants")["recovered"]
    assert [(each["tenant"], each["key"]) for each in found] == [("b", "k")]
    assert found[0]["kept_chars"] > 0
    with Convokit(cli.database, model="m", tenant="b") as kit:
        assert kit.chat("k").turns()[0].state == "abandoned"
