"""The AsyncAPI document, generated from the declared routes, and the page that shows it.

FastStream writes the channels, operations and schemas. What it does not know is added here: the reply of `deliberation.get`,
and which stream, consumer and retention stand behind each JetStream channel.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI

from parley.broker.core.messages import DeliberationRequested, DeliberationStatus
from parley.broker.jetstream import topology

ASSETS = Path(__file__).parent / "assets"
TITLE = "Parley"
DESCRIPTION = (
    "A task-queue bridge for multi-agent deliberation. Publish `deliberation.requested` to NATS JetStream; exactly one of "
    "`deliberation.completed` and `deliberation.failed` comes back, at the latest a second after the deadline."
)

_REPLY = "DeliberationStatus"


def document(broker: NatsBroker, version: str) -> dict[str, Any]:
    """The document as JSON-like data. Holds no address of a server: where NATS is may be a secret."""
    specification = AsyncAPI(
        broker, title=TITLE, version=version, description=DESCRIPTION, schema_version="3.0.0"
    )
    spec: dict[str, Any] = json.loads(specification.to_specification().to_json())
    spec["servers"] = {"development": {"host": "127.0.0.1:4222", "protocol": "nats"}}
    _name_the_request(spec)
    _add_streams(spec)
    _add_reply(spec)
    return spec


def _name_the_request(spec: dict[str, Any]) -> None:
    """FastStream takes the first definition of a payload for the payload itself (0.7.8, `get_model_schema`), and definitions are
    sorted by name: `Constraints`, which a request only contains, comes before `DeliberationRequested`."""
    message = spec["components"]["messages"][f"{topology.REQUESTED}:SubscribeMessage"]
    message["payload"] = {"$ref": f"#/components/schemas/{DeliberationRequested.__name__}"}


def _add_streams(spec: dict[str, Any]) -> None:
    for channel in spec["channels"].values():
        channel["servers"] = [{"$ref": "#/servers/development"}]
        address = channel.get("address", "")
        for durable in topology.DURABLES:
            if address == durable.filter:
                channel["x-jetstream"] = {"stream": durable.stream, "consumer": durable.name}
        for stream in topology.streams():
            if any(_matches(pattern, address) for pattern in stream.subjects or ()):
                retention = stream.retention.value if stream.retention else "limits"
                channel.setdefault("x-jetstream", {}).update(stream=stream.name, retention=retention)


def _matches(pattern: str, subject: str) -> bool:
    wanted, given = pattern.split("."), subject.split(".")
    return len(wanted) == len(given) and all(w in ("*", g) for w, g in zip(wanted, given, strict=True))


def _add_reply(spec: dict[str, Any]) -> None:
    schema = DeliberationStatus.model_json_schema(ref_template="#/components/schemas/{model}")
    spec["components"]["schemas"].update(schema.pop("$defs", {}))
    spec["components"]["schemas"][_REPLY] = schema
    spec["components"]["messages"][_REPLY] = {
        "title": _REPLY,
        "payload": {"$ref": f"#/components/schemas/{_REPLY}"},
    }
    spec["channels"]["deliberation.get:reply"] = {
        "address": None,
        "description": "The inbox that the request names.",
        "messages": {_REPLY: {"$ref": f"#/components/messages/{_REPLY}"}},
    }
    for operation in spec["operations"].values():
        if operation["channel"]["$ref"] == "#/channels/deliberation.get":
            operation["reply"] = {
                "address": {"location": "$message.header#/reply", "description": "NATS reply subject"},
                "channel": {"$ref": "#/channels/deliberation.get:reply"},
            }


def page(spec: Mapping[str, Any]) -> str:
    """A page that shows the document with local assets only, and offers no way to publish."""
    embedded = json.dumps({"schema": spec, "config": {"show": {"sidebar": True}}}).replace("<", "\\u003c")
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{html.escape(TITLE)} AsyncAPI</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/assets/asyncapi.css">
</head>
<body>
<div id="asyncapi"></div>
<script src="/docs/assets/asyncapi.js"></script>
<script>AsyncApiStandalone.render({embedded}, document.getElementById("asyncapi"));</script>
</body>
</html>
"""
