"""`convokit view`: the link, its one use, and the end."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from convokit.cli.app import app
from tests.viewer.in_process import tell_story

pytestmark = pytest.mark.once


def test_a_viewer_lives_until_it_is_ended(sqlite_file: str) -> None:
    """It prints one line with the link, serves its browser alone, and ends at once at SIGTERM with open streams."""
    story = tell_story(sqlite_file)
    command = [sys.executable, "-m", "convokit", "view", "-d", sqlite_file, "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = ""
            while "open" not in line:
                line = process.stdout.readline()
                assert line, process.stderr.read() if process.stderr else ""
            link = re.search(r"http://127\.0\.0\.1:\d+/-/in\?token=\S+", line)
            assert link is not None
            base = link[0].partition("/-/")[0]
            with httpx.Client(base_url=base, follow_redirects=True) as browser:
                assert httpx.get(base).status_code == 401
                assert "京都旅行" in browser.get(link[0]).text
                assert httpx.get(link[0]).status_code == 401
                assert browser.get(f"/c/{story.id}").status_code == 200
                assert browser.get("/", headers={"host": "evil.example"}).status_code == 421
                with browser.stream("GET", f"/c/{story.id}/live") as stream:
                    assert next(stream.iter_lines()).startswith("event: changed")
                    process.send_signal(signal.SIGTERM)
                    assert process.wait(15) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        assert process.stderr.read().splitlines()[-1] == "the viewer has ended"


def test_what_does_not_start(tmp_path: Path, sqlite_file: str) -> None:
    """No database, and a port that another program has."""
    runner = CliRunner()
    missing = runner.invoke(app, ["view", "-d", str(tmp_path / "none.db")])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error:")
    assert not (tmp_path / "none.db").exists()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        taken = runner.invoke(app, ["view", "-d", sqlite_file, "--port", port, "--no-open"])
    assert taken.exit_code == 1
    assert f"cannot listen on port {port}" in taken.stderr
    assert "--port" in taken.stderr
