"""An AsyncAPI 3.0 document of the public subjects, for tools that make clients, mocks and pages out of one."""

from __future__ import annotations

from typing import Any

from schemas import subjects
from schemas.event import EVENTS
from schemas.json_schema import Schema, close, components, envelope

VERSION = "1.0.0"  # of the contract under `subjects.ROOT`; a breaking change is a new root


def asyncapi() -> dict[str, Any]:
    """An AsyncAPI 3.0 document of the public subjects; ``send`` is what the fleet says, ``receive`` what it takes."""
    ref = "#/components/schemas/{name}"
    parts = {name: _draft7(schema) for name, schema in components(ref).items()}
    channels, operations, messages, payloads = {}, {}, {}, {}
    for name, action, address, payload, doc in _channels():
        if isinstance(payload, dict):
            payloads[name] = close(payload)
        reference = name if isinstance(payload, dict) else payload
        messages[name] = _message(name, doc, ref.format(name=reference))
        channels[name] = _channel([name], address, doc)
        operations[f"{action}.{name}"] = {"action": action, "summary": doc, **_where(name, [name])}
    asked = {key.split(".", 1)[1]: key for key in operations}
    for name, answers in REPLIES.items():
        of_reply = {answer: f"{name}.reply.{answer}" for answer in answers}
        for answer, key in of_reply.items():
            messages[key] = _message(answer, f"an answer on {name}", ref.format(name=answer))
        doc = "the inbox that the request names as its reply"
        channels[f"{name}.reply"] = _channel(list(of_reply.values()), None, doc)
        operations[asked[name]]["reply"] = _where(f"{name}.reply", list(of_reply.values()))
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "fogfleet",
            "version": VERSION,
            "description": "Subjects of a fogfleet fleet on NATS. Events are CloudEvents 1.0 in JSON, structured mode, "
            "kept for replay in the JetStream stream FOG_EVENTS.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"broker": _SERVER},
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": dict(sorted({**parts, **payloads}.items()))},
    }


def _draft7(schema: Any) -> Any:
    """The same in AsyncAPI's own dialect, draft 7 and more: it spells tuples otherwise, a discriminator is a string."""
    if isinstance(schema, list):
        return [_draft7(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    spelled = {"prefixItems": "items", "items": "additionalItems"} if "prefixItems" in schema else {}
    return {spelled.get(key, key): _draft7(part) for key, part in schema.items() if key != "discriminator"}


# -- AsyncAPI

_SERVER: dict[str, Any] = {
    "host": "{address}",
    "protocol": "nats",
    "description": "any NATS 2.11 or later with JetStream; `fog up` brings one and prints its address",
    "variables": {"address": {"default": "127.0.0.1:4222"}},
}
API = {  # noun.verb: what is asked, what is answered
    "fleet.status": ("Empty", "StatusReply"),
    "fleet.functions": ("Empty", "FunctionsReply"),
    "fleet.trouble": ("Empty", "TroubleReply"),
    "node.list": ("ListRequest", "NodesReply"),
    "node.info": ("NodeRequest", "NodeInfo"),
    "node.drain": ("DrainRequest", "Done"),
    "node.sleep": ("SleepRequest", "Done"),
    "cluster.list": ("ListRequest", "ClustersReply"),
    "cluster.info": ("ClusterRequest", "ClusterRow"),
    "cluster.create": ("CreateCluster", "Done"),
    "cluster.pin": ("PinCluster", "Done"),
    "cluster.grow": ("GrowCluster", "Done"),
    "cluster.dissolve": ("ClusterRequest", "Done"),
    "cluster.relay": ("RelayCluster", "Done"),
    "cluster.propose": ("ProposeRequest", "Proposal"),
    "cluster.decision": ("DecisionRequest", "DecisionReply"),
    "cluster.tally": ("Tally", "Decision"),
    "node.advise": ("NodeRequest", "AdviceReply"),
    "policy.set": ("PolicyRequest", "PolicyReply"),
    "policy.show": ("NodeRequest", "PolicyReply"),
    "task.list": ("ListRequest", "TasksReply"),
    "task.info": ("TaskRequest", "TaskInfo"),
    "task.cancel": ("CancelRequest", "Done"),
    "ledger.accounts": ("LedgerRequest", "LedgerReply"),
    "ledger.correct": ("CorrectRequest", "Done"),
    "harvest.list": ("HarvestListRequest", "HarvestReply"),
    "harvest.node": ("HarvestRequest", "HarvestInfo"),
}
PEER = {  # verb: what a member of a cluster is asked, what it answers
    "ping": ("Empty", "Pong"),
    "vote": ("VoteRequest", "Vote"),
    "cache-get": ("CacheGet", "CacheItem"),
    "cache-put": ("CachePut", "CacheDone"),
    "cache-drop": ("CacheGet", "CacheDone"),
    "beat": ("MemberBeat", "BeatAck"),
}
REPLIES = {  # channel: the messages that may answer
    "register": ["Registered"],
    **{f"peer.{verb}": [answer] for verb, (_, answer) in PEER.items()},
    "node.command": ["NodeAnswer"],
    "heartbeat": ["Renewed"],
    "digest": ["DigestAck"],
    **{f"api.{call}": [answer, "ApiError"] for call, (_, answer) in API.items()},
}
_PARAMETERS = {
    "id": "the id of the task, node or coordinator that the event is about",
    "task": "a task's id",
    "node": "a node's id",
    "cluster": "a cluster's id",
    "submitter": "the lasting name of who submitted",
    "priority": "1 low, 3 normal, 7 high, 10 critical",
    "verb": "probe, report, cancel, drain, resume, giveback, cluster, lead, sleep, wake",
}


def _channels() -> list[tuple[str, str, str, str | Schema, str]]:
    """(name, action, address, payload: a component's name or a schema, summary) of every public subject."""
    submit = subjects.submit(0, "{submitter}", "{task}").replace(".0.", ".{priority}.")
    rows: list[tuple[str, str, str, str | Schema, str]] = [
        (f"event.{kind}", "send", subjects.event(kind, "{id}"),
         envelope(kind, doc, f"#/components/schemas/{data.__name__}"), doc)
        for kind, (data, doc) in EVENTS.items()
    ]  # fmt: skip
    calls: list[tuple[str, str, str, str | Schema, str]] = [
        (f"api.{call}", "receive", subjects.api(*call.split(".")), asked, f"ask the acting coordinator: {call}")
        for call, (asked, _) in API.items()
    ]
    peers: list[tuple[str, str, str, str | Schema, str]] = [
        (
            f"peer.{verb}",
            "receive",
            subjects.peer("{cluster}", "{node}", verb),
            asked,
            f"ask a member of a cluster: {verb}",
        )
        for verb, (asked, _) in PEER.items()
    ]
    return [
        *rows,
        *calls,
        *peers,
        ("task.submit", "receive", submit, "Task", "submit a task (stream FOG_TASKS; Nats-Msg-Id is the task's id)"),
        ("work", "send", subjects.work("{node}", "{task}"), "Work", "one placement of a task (stream FOG_WORK)"),
        (
            "outcome",
            "receive",
            subjects.outcome("{node}", "{task}"),
            "Outcome",
            "an attempt without a result (FOG_OUTCOMES)",
        ),
        (
            "result",
            "receive",
            subjects.result("{submitter}", "{task}"),
            "Result",
            "store a task's one result (FOG_RESULTS)",
        ),
        ("done", "send", subjects.done("{submitter}", "{task}"), "Result", "a result that was stored"),
        (
            "dead",
            "send",
            subjects.dead("{submitter}", "{task}"),
            "DeadLetter",
            "a task that was given up after its attempts (stream FOG_DEAD)",
        ),
        ("output", "send", subjects.output("{submitter}", "{task}"), "Output", "what a running task prints; not kept"),
        ("heartbeat", "receive", subjects.heartbeat("{node}"), "Heartbeat", "a node lives, and what changed on it"),
        ("digest", "receive", subjects.digest("{node}"), "Digest", "a cluster's leader says its members' heartbeats"),
        ("register", "receive", subjects.register("{node}"), "Register", "a node asks to join; answered by Registered"),
        (
            "node.command",
            "send",
            subjects.command("{node}", "{verb}"),
            "NodeCommand",
            "a command; answered by NodeAnswer",
        ),
        ("ledger", "receive", subjects.ledger("{node}"), "Claim", "a device claims tokens (stream FOG_LEDGER, kept)"),
        ("book", "send", subjects.BOOK_ENTRY, "Entry", "what the coordinator makes of claims (stream FOG_BOOK, kept)"),
        ("all.report", "send", subjects.ALL_REPORT, "AllReport", "a coordinator took the lease: every node beats now"),
    ]


def _message(name: str, doc: str, payload_ref: str) -> dict[str, Any]:
    content = "application/cloudevents+json" if name.startswith("event.") else "application/json"
    return {"name": name, "summary": doc, "contentType": content, "payload": {"$ref": payload_ref}}


def _channel(messages: list[str], address: str | None, doc: str) -> dict[str, Any]:
    found = {token[1:-1] for token in (address or "").split(".") if token.startswith("{")}
    channel: dict[str, Any] = {
        "address": address,
        "summary": doc,
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
    }
    if found:
        channel["parameters"] = {key: {"description": _PARAMETERS[key]} for key in sorted(found)}
    return channel


def _where(channel: str, messages: list[str]) -> dict[str, Any]:
    return {
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
    }
