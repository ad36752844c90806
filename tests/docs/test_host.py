"""The how-to for host applications: two Alembics in one database leave each other alone."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from convokit import Convokit
from tests.docs.pages import CHECKOUT, blocks

INI = """\
[alembic]
script_location = %(here)s/migrations
path_separator = os
prepend_sys_path = .
sqlalchemy.url = sqlite:///app.db
"""


def _written(folder: Path) -> None:
    """Write the files that the page shows, and what `alembic init` would add."""
    page = CHECKOUT / "docs" / "how-to" / "host-application.md"
    for block in blocks(page, "python"):
        source = str(block.parsed)
        if source.startswith("# ") and source.partition("\n")[0].endswith(".py"):
            path = folder / source.partition("\n")[0].removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
    (folder / "alembic.ini").write_text(INI, "utf-8")
    (folder / "migrations" / "versions").mkdir()
    template = (CHECKOUT / "migrations" / "script.py.mako").read_text("utf-8")
    (folder / "migrations" / "script.py.mako").write_text(template, "utf-8")


def _alembic(folder: Path, *words: str) -> str:
    ran = subprocess.run(
        [sys.executable, "-m", "alembic", *words], cwd=folder, check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.mark.soak(sample=True)
def test_autogenerate_leaves_the_other_side_alone(tmp_path: Path) -> None:
    """With the page's `include_name`, the host's autogenerate sees its own tables and no table of ours."""
    _written(tmp_path)
    with Convokit(f"sqlite:///{tmp_path / 'app.db'}", model="none") as kit:
        kit.migrate()
        _alembic(tmp_path, "revision", "--autogenerate", "-m", "first")
        script = next((tmp_path / "migrations" / "versions").glob("*.py")).read_text("utf-8")
        assert "create_table('ticket'" in script
        assert "convokit" not in script
        _alembic(tmp_path, "upgrade", "head")
        assert "No new upgrade operations" in _alembic(tmp_path, "check")
        kit.migrate()
    with sqlite3.connect(tmp_path / "app.db") as database:
        found = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert {"ticket", "alembic_version", "convokit_message", "convokit_alembic_version"} <= found
