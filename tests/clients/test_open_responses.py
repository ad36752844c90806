"""The compliance suite of Open Responses against a gateway."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

from tests.clients.conftest import StartGateway
from tests.clients.installed import make_environment
from tests.support.gateway import MODEL
from tests.support.openai_schemas import DATA

SUITE_TIMEOUT_S = 60.0
TESTS = [
    "assistant-phase",
    "basic-response",
    "image-input",
    "multi-turn",
    "response-output-phase-schema",
    "streaming-response",
    "system-prompt",
    "tool-calling",
]
"""The tests over HTTP, without the two of `/responses/compact`, which the gateway does not serve. Others need WebSockets."""


def test_the_gateway_passes_the_compliance_suite(
    start_gateway: StartGateway, node_folder: Path, tmp_path: Path
) -> None:
    gateway = start_gateway()
    folder = node_folder / "suite"  # below the folder of the packages that it imports
    with tarfile.open(DATA / "open_responses" / "suite.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    program = [str(node_folder / "node_modules" / ".bin" / "tsx"), str(folder / "bin" / "compliance-test.ts")]
    options = [
        "--base-url",
        gateway.base_url,
        "--api-key",
        "key",
        "--model",
        MODEL,
        "--filter",
        ",".join(TESTS),
        "--json",
    ]
    done = subprocess.run(
        [*program, *options],
        env=make_environment(str(tmp_path)),
        capture_output=True,
        text=True,
        timeout=SUITE_TIMEOUT_S,
        check=False,
    )
    assert done.stdout, done.stderr
    results = json.loads(done.stdout)["results"]
    assert {each["id"]: each.get("errors") for each in results if each["status"] != "passed"} == {}
    assert sorted(each["id"] for each in results) == TESTS
