"""What the pages say of the project holds: files, methods, errors, providers, variables, floors."""

from __future__ import annotations

import ast
import inspect
import json
import re
from pathlib import Path
from types import FunctionType

import pytest

import convokit
from convokit import Chat, Convokit, errors, settings
from tests.docs.pages import CHECKOUT, name, pages, prose

FILE = re.compile(r"`((?:[\w.-]+/)*[\w.-]+\.(?:py|json|toml|ini))`")
FOLDER = re.compile(r"`((?:[\w-]+/)+)`")
METHOD = re.compile(r"\b(kit|chat)\.(\w+)\(")
EXAMPLES = {"models.py", "ask.py", "conftest.py", "echo_model.py", "conversations.json"}
PUBLIC = (
    "errors",
    "store",
    "context",
    "tokens",
    "wire",
    "local",
    "observers",
    "viewer",
    "server",
    "telemetry",
    "testing",
    r"testing\.fixtures",
)
"""The packages below `convokit` that users import from."""
_NAMES = r"(?:runtime|completion|access|turn|(?:turn|call|tool)\.\w+)`"
"""Names of loggers, spans and attributes, which are no modules."""
INTERNAL = re.compile(rf"(?:from |import |`)convokit\.(?!(?:{'|'.join(PUBLIC)})\b(?!\.[a-z])|db\b|{_NAMES})[a-z_]+")
"""A mention of a module that users must not import from: `convokit.x`, or `convokit.store.x`."""


@pytest.mark.parametrize("page", pages(), ids=name)
def test_files_that_are_named_are_there(page: Path) -> None:
    """A file or folder named in the text is one of the checkout or of the package."""
    text = prose(page)
    for named in [*FILE.findall(text), *FOLDER.findall(text)]:
        places = (CHECKOUT / named, CHECKOUT / "convokit" / named, page.parent / named)
        assert named in EXAMPLES or any(place.exists() for place in places), named


@pytest.mark.parametrize("page", pages(), ids=name)
def test_methods_that_are_named_exist(page: Path) -> None:
    """What a page calls on a kit or a chat is a method of it: no page promises what is not there."""
    owners = {"kit": Convokit, "chat": Chat}
    for owner, method in METHOD.findall(page.read_text("utf-8")):
        assert hasattr(owners[owner], method), f"{owner}.{method}"


@pytest.mark.parametrize("page", pages(), ids=name)
def test_pages_for_users_name_no_internal_module(page: Path) -> None:
    """Tutorial, how-to pages and README import from `convokit` and its public packages only."""
    if page.parent.name in ("adr", "reference"):
        return
    assert not INTERNAL.search(page.read_text("utf-8"))


@pytest.mark.soak(sample=True)
def test_error_messages_name_no_internal_module() -> None:
    """A text of the library that names `convokit.x` names something public."""
    for path in sorted((CHECKOUT / "convokit").rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                for named in re.findall(r"\bconvokit\.([a-z_]+)\.", node.value):
                    is_telemetry = path.parent.name == "telemetry"  # `convokit.turn.closed` is the name of a metric
                    assert named in PUBLIC or "/" in node.value or is_telemetry, f"{path}: {node.value}"


def test_every_error_has_its_advice() -> None:
    """The page of errors names every class; those it says nobody raises are raised nowhere."""
    text = (CHECKOUT / "docs" / "how-to" / "errors.md").read_text("utf-8")
    _, _, later = text.partition("## Named already, raised by nothing yet")
    later, _, _ = later.partition("\n## ")
    source = "".join(
        path.read_text("utf-8")
        for path in (CHECKOUT / "convokit").rglob("*.py")
        if path != CHECKOUT / "convokit" / "errors.py"
    )
    for each, value in vars(errors).items():
        if inspect.isclass(value) and issubclass(value, errors.ConvokitError):
            assert f"`{each}`" in text, f"docs/how-to/errors.md: say what to do about {each}"
            if f"`{each}`" in later:
                assert not re.search(rf"\b{each}\(", source), f"docs/how-to/errors.md: {each} is raised by now"


def test_attributes_that_are_named_exist() -> None:
    """What the page of errors says every ModelError has, an error without any facts has too."""
    text = (CHECKOUT / "docs" / "how-to" / "errors.md").read_text("utf-8")
    named = text.partition("All are below `ModelError`, with ")[2].partition(";")[0]
    found = re.findall(r"`\.(\w+)`", named)
    assert found
    for each in found:
        assert hasattr(errors.ModelError("x"), each), each


def test_every_provider_is_described() -> None:
    """The page of providers names every one in profiles.json, and every host that tells one."""
    text = (CHECKOUT / "docs" / "how-to" / "providers.md").read_text("utf-8")
    known = json.loads((CHECKOUT / "convokit" / "domain" / "profiles.json").read_text("utf-8"))["providers"]
    for provider, facts in known.items():
        assert f"`{provider}`" in text, provider
        for host in facts.get("hosts", ()):
            assert f"`{host}`" in text, host


def test_the_page_of_the_environment_names_what_is_read() -> None:
    """The variables on the page are those that are read, and no others."""
    asked: list[str] = []

    class Recording(dict[str, str]):
        def get(self, key: str, default: object = None) -> object:  # type: ignore[override]
            asked.append(key)
            return default

    settings.Environment.read(Recording())
    page = (CHECKOUT / "docs" / "reference" / "environment.md").read_text("utf-8")
    assert sorted(re.findall(r"^\| `([A-Z_]+)`", page, flags=re.MULTILINE)) == sorted(asked)


def test_the_picture_of_the_layers_is_the_enforced_one() -> None:
    """Every layer of the import contract stands in docs/architecture.md, in that order."""
    contract = (CHECKOUT / "pyproject.toml").read_text("utf-8").partition("layers = [")[2].partition("]")[0]
    layers = [re.findall(r"convokit\.([\w.]+)", line) for line in contract.splitlines() if "convokit." in line]
    picture = (CHECKOUT / "docs" / "architecture.md").read_text("utf-8").partition("```text")[2].partition("```")[0]
    last = -1
    for rooms in layers:
        places = [picture.find(f"{room}/") if f"{room}/" in picture else picture.find(f"{room}.py") for room in rooms]
        there = [place for place, room in zip(places, rooms, strict=True) if f"(convokit.{room})" not in contract]
        assert all(place > -1 for place in there), rooms
        assert not there or min(there) > last, rooms
        last = max([last, *there])


def test_public_names_stand_in_the_reference() -> None:
    """The reference has a heading for every name of the package."""
    text = "".join(page.read_text("utf-8") for page in (CHECKOUT / "docs" / "reference").glob("*.md"))
    for each in convokit.__all__:
        if not isinstance(getattr(convokit, each), type | FunctionType):
            continue  # a union of types is named on the page of its members
        assert re.search(rf"^#+ {each}$", text, flags=re.MULTILINE), each
