"""The AsyncAPI document, generated from the declared routes, and the page that shows it.

FastStream writes the channels, operations and schemas. This file adds what FastStream does not know: the replies to
`deliberation.get` and `deliberation.service`, and the stream, consumer and retention behind each JetStream channel.

It relies on two private things of FastStream 0.7.8, both here and nowhere else:
- the key of a subscriber's message in `components.messages`, `<subject>:SubscribeMessage`
  (faststream/specification/asyncapi/v3_0_0/schema/channels.py);
- a fault of `get_model_schema` (faststream/specification/asyncapi/message.py, the branch that came with
  ag2ai/faststream#1591; no issue reports it). If the handler has one argument, the function takes the first entry of
  `$defs` for the argument's model. But pydantic sorts `$defs` by name.
"""

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from faststream.nats import NatsBroker
from faststream.specification import AsyncAPI

from parley.broker.core.messages import DeliberationRequested, DeliberationStatus, Message, ServiceProcess
from parley.broker.jetstream import topology
from parley.broker.jetstream.subject_streams import stream_of

ASSETS = Path(__file__).parent / "assets"
TITLE = "Parley"
DESCRIPTION = (
    "A task-queue bridge for multi-agent deliberation. Publish `deliberation.requested` to NATS JetStream; "
    "exactly one of `deliberation.completed` and `deliberation.failed` comes back, at the latest a second after the "
    "deadline."
)

# By the subject of the question.
REPLIES: Mapping[str, type[Message]] = {topology.GET: DeliberationStatus, topology.SERVICE: ServiceProcess}


def document(broker: NatsBroker, version: str) -> dict[str, Any]:
    """The document as JSON-like data. It names no real server: the URL of NATS may hold a password."""
    shown = AsyncAPI(broker, title=TITLE, version=version, description=DESCRIPTION, schema_version="3.0.0")
    spec: dict[str, Any] = json.loads(shown.to_specification().to_json())
    spec["servers"] = {"development": {"host": "127.0.0.1:4222", "protocol": "nats"}}
    # Undoes the fault above: `Constraints`, a part of the request, sorts before `DeliberationRequested`.
    message = spec["components"]["messages"][f"{topology.REQUESTED}:SubscribeMessage"]
    message["payload"] = {"$ref": f"#/components/schemas/{DeliberationRequested.__name__}"}
    _add_streams(spec)
    for subject, answer in REPLIES.items():
        _add_reply(spec, subject, answer)
    return spec


def _add_streams(spec: dict[str, Any]) -> None:
    for channel in spec["channels"].values():
        channel["servers"] = [{"$ref": "#/servers/development"}]
        address = channel.get("address", "")
        for durable in topology.DURABLES:
            if address == durable.filter:
                channel["x-jetstream"] = {"stream": durable.stream, "consumer": durable.name}
        for stream in topology.streams():
            if stream.name == stream_of(address):
                retention = stream.retention.value if stream.retention else "limits"
                channel.setdefault("x-jetstream", {}).update(stream=stream.name, retention=retention)


def _add_reply(spec: dict[str, Any], subject: str, answer: type[Message]) -> None:
    name, channel = answer.__name__, f"{subject}:reply"
    schema = answer.model_json_schema(ref_template="#/components/schemas/{model}")
    spec["components"]["schemas"].update(schema.pop("$defs", {}))
    spec["components"]["schemas"][name] = schema
    payload = {"$ref": f"#/components/schemas/{name}"}
    spec["components"]["messages"][name] = {"title": name, "payload": payload}
    spec["channels"][channel] = {
        "address": None,
        "description": "The inbox that the request names.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
    }
    for operation in spec["operations"].values():
        if operation["channel"]["$ref"] == f"#/channels/{subject}":
            operation["reply"] = {
                "address": {"location": "$message.header#/reply", "description": "NATS reply subject"},
                "channel": {"$ref": f"#/channels/{channel}"},
            }


def page(spec: Mapping[str, Any]) -> str:
    """An HTML page that shows the document. It loads local assets only and cannot publish messages."""
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
