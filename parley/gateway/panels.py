"""Panels as models: `parley/dev-3` asks three agents as developers, `parley/judge-5` five agents as they are. Pure, but for
the file of panels.

Judges choose in both. `parley/vote-5` takes what most agents say. An operator's file has panels of their own:

    [panels.migrations]
    description = "Two models, five agents, and an answer written from the best"
    num_agents = 5
    models = ["qwen3-32b", "llama-3.3-70b"]
    select = "judge"
    synthesize = true
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from parley.broker.core.errors import InvalidMessage
from parley.broker.core.messages import DeliberationRequested, decode

PREFIX = "parley/"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_OF_SIZE = re.compile(r"([a-z][a-z0-9_]{0,31})-([1-9][0-9]{0,2})")
_JUDGES = 3
# What a question brings itself.
_OF_QUESTION = frozenset({"task_id", "task_description", "messages", "metadata"})


@dataclass(frozen=True, slots=True)
class PanelModel:
    """`fields`: of a request, without its question."""

    name: str
    description: str
    fields: Mapping[str, Any]


def panel_of_size(name: str) -> PanelModel | None:
    """`dev-3`, `judge-5`, `vote-7`: a kind, and how many agents. None for another form."""
    found = _OF_SIZE.fullmatch(name)
    if found is None:
        return None
    kind, agents = found[1], int(found[2])
    fields: dict[str, Any] = {"num_agents": agents, "select": "judge" if agents > 1 else "none"}
    if kind == "vote":
        fields |= {"role": "NONE", "select": "vote", "answer_key": {"last": "line"}}
    elif kind == "judge":
        fields |= {"role": "NONE"}
    else:
        fields |= {"role": kind.upper()}
    words = (
        "vote"
        if kind == "vote"
        else f"asked as {fields['role']}, {_JUDGES} judges choose"
        if agents > 1
        else "answers"
    )
    return PanelModel(name, f"{agents} agents: {words}", fields)


USUAL = tuple(
    panel for name in ("dev-3", "judge-3", "judge-5", "vote-5") if (panel := panel_of_size(name)) is not None
)


def read_panels(path: Path) -> dict[str, PanelModel]:
    """Raises ValueError that names the panel and the mistake."""
    try:
        found = tomllib.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: is no TOML: {error}") from None
    panels = found.get("panels")
    if not isinstance(panels, dict) or set(found) != {"panels"}:
        raise ValueError(f"{path}: has tables [panels.NAME], and nothing else")
    return {name: _panel(f"{path}: panels.{name}", name, fields) for name, fields in panels.items()}


def _panel(where: str, name: str, fields: Any) -> PanelModel:
    if not _NAME.fullmatch(name) or not isinstance(fields, dict):
        raise ValueError(f"{where}: a table under a name of a-z 0-9 . _ -")
    own = {key: value for key, value in fields.items() if key != "description"}
    known = DeliberationRequested.model_fields.keys() - _OF_QUESTION
    if unknown := sorted(own.keys() - known):
        raise ValueError(f"{where}: {', '.join(unknown)}: no field of a panel")
    try:
        decode(DeliberationRequested, to_json({**own, "task_description": "x"}))
    except InvalidMessage as error:
        raise ValueError(f"{where}: {error}") from None
    return PanelModel(name, str(fields.get("description", "")), own)
