"""The AsyncAPI document agrees with the contract, the AsyncAPI project's parser accepts it, and a browser shows it."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from parley.broker.core import messages
from parley.broker.jetstream import topology
from parley.monitoring.asyncapi import REPLIES, page
from parley.operator_http import VERSION, asyncapi_document
from tests.harness import Running

PARSER = "@asyncapi/parser@3.6.3"
NPM_SECONDS, APT_SECONDS, BROWSER_SECONDS = 90, 240, 60
# Parses each file named on the command line and prints one line of JSON for it, errors included.
CHECK = """
import { readFileSync } from "node:fs";
import { Parser } from "@asyncapi/parser";
for (const file of process.argv.slice(2)) {
  const { document, diagnostics } = await new Parser().parse(readFileSync(file, "utf8"));
  const errors = diagnostics.filter((d) => d.severity === 0).map((d) => `${d.path.join(".")}: ${d.message}`);
  console.log(JSON.stringify({ parsed: document !== undefined, errors, version: document?.version() }));
}
"""
# The subjects of docs/contract.md that the service receives, and those that it sends.
RECEIVED = {
    "deliberation.requested", "deliberation.cancel", "deliberation.deadline.*", "agent.requested",
    "agent.response.*", "agent.cancel", "deliberation.get", "deliberation.service",
}  # fmt: skip
SENT = {
    "deliberation.completed", "deliberation.failed", "agent.requested", "agent.response.completed",
    "agent.response.failed", "agent.cancel",
}  # fmt: skip


@pytest.fixture(scope="module")
def spec() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(json.dumps(asyncapi_document()))  # as it is served
    return document


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(node, list):
        for item in node:
            yield from references(item)


def resolved(spec: dict[str, Any], reference: str) -> Any:
    assert reference.startswith("#/"), reference
    node: Any = spec
    for part in reference[2:].split("/"):
        node = node[part.replace("~1", "/").replace("~0", "~")]
    return node


def channel(spec: dict[str, Any], operation: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = resolved(spec, operation["channel"]["$ref"])
    return found


def addresses(spec: dict[str, Any], action: str) -> set[str]:
    """Subjects on which the service receives or sends."""
    return {
        channel(spec, operation)["address"]
        for operation in spec["operations"].values()
        if operation["action"] == action
    }


def payload(spec: dict[str, Any], address: str, action: str) -> dict[str, Any]:
    """The schema of a subject's payload in one direction."""
    (operation,) = [
        one
        for one in spec["operations"].values()
        if one["action"] == action and channel(spec, one)["address"] == address
    ]
    (message,) = channel(spec, operation)["messages"].values()
    schema = resolved(spec, message["$ref"])["payload"]
    found: dict[str, Any] = resolved(spec, schema["$ref"])
    return found


# ── what it says ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_reference_resolves(spec: dict[str, Any]) -> None:
    found = set(references(spec))
    assert len(found) > 20
    for reference in found:
        assert isinstance(resolved(spec, reference), dict), reference


def test_it_names_itself_and_its_version(spec: dict[str, Any]) -> None:
    assert (spec["asyncapi"], spec["info"]["title"], spec["info"]["version"]) == ("3.0.0", "Parley", VERSION)


def test_it_has_every_subject_of_the_contract_in_the_right_direction(spec: dict[str, Any]) -> None:
    assert addresses(spec, "receive") == RECEIVED
    assert addresses(spec, "send") == SENT


def test_it_names_no_server_except_an_example(spec: dict[str, Any]) -> None:
    assert spec["servers"] == {"development": {"host": "127.0.0.1:4222", "protocol": "nats"}}
    for one in spec["channels"].values():
        assert one.get("servers", [{"$ref": "#/servers/development"}]) == [{"$ref": "#/servers/development"}]


@pytest.mark.parametrize(
    ("subject", "action", "title"),
    [
        ("deliberation.requested", "receive", "DeliberationRequested"),
        ("deliberation.cancel", "receive", "DeliberationCancel"),
        ("deliberation.deadline.*", "receive", "DeliberationDeadline"),
        ("deliberation.get", "receive", "DeliberationGet"),
        ("deliberation.service", "receive", "ServiceGet"),
        ("agent.requested", "receive", "AgentRequested"),
        ("agent.requested", "send", "AgentRequested"),
        ("agent.cancel", "receive", "AgentCancel"),
        ("agent.cancel", "send", "AgentCancel"),
        ("agent.response.completed", "send", "AgentCompleted"),
        ("agent.response.failed", "send", "AgentFailed"),
        ("deliberation.completed", "send", "DeliberationCompleted"),
        ("deliberation.failed", "send", "DeliberationFailed"),
    ],
)
def test_each_subject_has_its_payload(spec: dict[str, Any], subject: str, action: str, title: str) -> None:
    kind = getattr(messages, title)
    schema = payload(spec, subject, action)
    assert schema["title"] == title
    assert set(schema["properties"]) == set(kind.model_fields)


def test_an_outcome_is_completed_or_failed(spec: dict[str, Any]) -> None:
    outcome = payload(spec, "agent.response.*", "receive")
    assert {resolved(spec, one["$ref"])["title"] for one in outcome["anyOf"]} == {
        "AgentCompleted",
        "AgentFailed",
    }


def test_the_request_has_the_contracts_fields_and_bounds(spec: dict[str, Any]) -> None:
    schema = payload(spec, "deliberation.requested", "receive")
    assert schema["oneOf"] == [{"required": ["task_description"]}, {"required": ["messages"]}]
    fields = schema["properties"]
    assert set(fields) == {
        "task_id", "task_description", "role", "num_agents", "constraints", "diversity", "rounds", "min_responses",
        "finish_early", "timeout_seconds", "model", "temperature", "max_tokens", "seed", "stop", "metadata", "select",
        "judges", "judge_model", "judge_models", "answer_key", "agree", "max_calls", "synthesize", "system", "panel", "models", "top_p",
        "extra", "response_format", "messages", "logprobs", "top_logprobs",
    }  # fmt: skip
    assert (fields["num_agents"]["minimum"], fields["num_agents"]["maximum"]) == (1, 256)
    assert fields["num_agents"]["default"] == 3


@pytest.mark.parametrize("subject", REPLIES)
def test_a_question_has_a_reply(spec: dict[str, Any], subject: str) -> None:
    (request,) = [one for one in spec["operations"].values() if channel(spec, one)["address"] == subject]
    answers = resolved(spec, request["reply"]["channel"]["$ref"])
    assert answers["address"] is None  # the inbox that the request names
    (message,) = answers["messages"].values()
    schema = resolved(spec, resolved(spec, message["$ref"])["payload"]["$ref"])
    assert set(schema["properties"]) == set(REPLIES[subject].model_fields)


def test_no_other_subject_has_a_reply(spec: dict[str, Any]) -> None:
    answered = {channel(spec, one)["address"] for one in spec["operations"].values() if "reply" in one}
    assert answered == set(REPLIES)


def test_each_stored_subject_names_its_stream_and_consumer(spec: dict[str, Any]) -> None:
    said: dict[str, dict[str, Any]] = {}
    for one in spec["channels"].values():
        said.setdefault(one["address"], {}).update(one.get("x-jetstream", {}))
    for durable in topology.DURABLES:
        assert said[durable.filter]["stream"] == durable.stream
        assert said[durable.filter]["consumer"] == durable.name
    assert said["agent.requested"]["retention"] == "workqueue"
    for subject in ("deliberation.requested", "deliberation.cancel"):
        assert (said[subject]["stream"], said[subject]["retention"]) == ("REQUESTS", "limits")
    for subject in ("deliberation.completed", "deliberation.failed"):
        assert (said[subject]["stream"], said[subject]["retention"]) == ("DELIBERATIONS", "limits")
    for subject in ("agent.response.completed", "agent.response.failed"):
        assert (said[subject]["stream"], said[subject]["retention"]) == ("AGENT_RESPONSES", "limits")
    for core in ("agent.cancel", "deliberation.get", None):
        assert said[core] == {}  # type: ignore[index]  # the inbox of an answer has no address


# ── the page ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_document_cannot_inject_markup_into_the_page() -> None:
    html = page({"info": {"description": "</script><script>alert(1)</script><!-- "}})
    assert html.count("</script>") == 2
    assert "<script>alert" not in html
    assert "<!-- " not in html


def test_the_page_offers_no_way_to_publish(spec: dict[str, Any]) -> None:
    assert "/docs/try" not in page(spec)
    assert "http://" not in page(spec).replace("http://www.w3.org", "")
    assert "https://" not in page(spec)


# ── external tools ─────────────────────────────────────────────────────────────────────────────────────────────────


def skip(reason: str) -> None:
    print(reason)
    pytest.skip(reason)


@pytest.fixture(scope="module")
def parser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the AsyncAPI project's parser installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("asyncapi-parser")
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
    try:
        ran = subprocess.run(
            ["npm", "install", *quiet, "--prefix", str(folder), PARSER],
            check=False,
            capture_output=True,
            text=True,
            timeout=NPM_SECONDS,
        )
    except subprocess.TimeoutExpired:
        skip(f"npm did not install {PARSER} within {NPM_SECONDS} s")
    if ran.returncode:
        skip(f"npm cannot install {PARSER}: {ran.stderr.strip()[-300:]}")
    (folder / "check.mjs").write_text(CHECK)
    return folder


def test_the_asyncapi_projects_parser_accepts_it(spec: dict[str, Any], parser: Path) -> None:
    good, bad = parser / "good.json", parser / "bad.json"
    good.write_text(json.dumps(spec))
    spoilt = json.loads(json.dumps(spec))
    next(iter(spoilt["operations"].values()))["channel"]["$ref"] = "#/channels/nowhere"
    bad.write_text(json.dumps(spoilt))
    ran = subprocess.run(
        ["node", "check.mjs", good, bad], cwd=parser, capture_output=True, text=True, timeout=60, check=True
    )
    accepted, refused = (json.loads(line) for line in ran.stdout.splitlines())
    assert accepted == {"parsed": True, "errors": [], "version": "3.0.0"}
    assert refused["errors"], "the parser accepts anything"


@pytest.fixture(scope="module")
def chromium() -> str:
    """Chromium from the PATH, or else installed with apt-get if the tests run as root."""
    found = shutil.which("chromium")
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        install = ["apt-get", "install", "-y", "--no-install-recommends", "chromium"]
        try:
            subprocess.run(
                install, check=False, capture_output=True, timeout=APT_SECONDS,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            skip(f"apt-get did not install chromium within {APT_SECONDS} s")
        found = shutil.which("chromium")
    if found is None:
        skip("chromium is not installed, and cannot be from here")
    assert found is not None
    return found


@pytest.mark.timeout(APT_SECONDS + BROWSER_SECONDS + 60)
async def test_a_browser_shows_the_documentation_of_a_running_service(
    local_service: Running, chromium: str, tmp_path: Path
) -> None:
    options = [
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path}", "--virtual-time-budget=10000", "--dump-dom",
    ]  # fmt: skip
    process = await asyncio.create_subprocess_exec(
        *(chromium, *options, f"{local_service.service.http_url}/docs"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        stdin=asyncio.subprocess.DEVNULL,
    )
    try:
        dom, _ = await asyncio.wait_for(process.communicate(), BROWSER_SECONDS)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    # The page's scripts hold the document, too; the text that the browser rendered comes before them.
    rendered = dom.decode().partition("<script")[0]
    for words in ("deliberation.requested", "agent.response.completed", "task_description", "Parley"):
        assert words in rendered
