"""JSON Schemas (2020-12) from the message types, each self-contained.

Messages are open (a reader ignores fields that it does not know). The schema of an event is closed: it states exactly
what this version says, so that a test or a tool notices anything else.
"""

from __future__ import annotations

import inspect
import types
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import Raw, Struct

from schemas import api, cluster, dead, decision, harvest, ledger, membership, peer, policy, relay, task
from schemas.event import EVENTS, CloudEvent
from schemas.names import ID_PATTERN

Schema = dict[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MESSAGES: tuple[type, ...] = (
    task.Task, task.Work, task.Outcome, task.Result, task.Output, dead.DeadLetter,
    membership.Register, membership.Registered, membership.Heartbeat, membership.Renewed,
    membership.NodeCommand, membership.NodeAnswer, membership.AllReport, membership.NodeRecord,
    api.Empty, api.ListRequest, api.NodeRequest, api.TaskRequest, api.CancelRequest, api.DrainRequest, api.SleepRequest,
    policy.PolicyRequest,
    api.StatusReply, api.FunctionsReply, api.TroubleReply, api.NodesReply, api.NodeInfo, api.TasksReply, api.TaskInfo,
    policy.PolicyReply, policy.AdviceReply, api.Done, api.ApiError,
    ledger.Claim, ledger.Entry, ledger.LedgerRequest, ledger.LedgerReply, ledger.CorrectRequest,
    harvest.HarvestListRequest, harvest.HarvestReply, harvest.HarvestRequest, harvest.HarvestInfo,
    cluster.ClusterRecord, cluster.Leadership, cluster.Membership, cluster.ClusterRequest, cluster.CreateCluster,
    decision.ProposeRequest, decision.Proposal, decision.DecisionRequest, decision.DecisionReply, decision.Tally,
    decision.Decision, decision.Poll, decision.VoteRequest, decision.Vote,
    peer.Pong, peer.CacheGet, peer.CachePut, peer.CacheItem, peer.CacheDone,
    relay.MemberBeat, relay.BeatAck, relay.Digest, relay.DigestAck, cluster.RelayCluster,
    cluster.PinCluster, cluster.GrowCluster, cluster.ClustersReply, cluster.ClusterRow,
)  # fmt: skip
# What a field holds that is passed on as it came (`msgspec.Raw`); one that is not listed holds any JSON value.
CARRIES: dict[tuple[str, str], Any] = {
    ("FunctionRun", "args"): list[Any],
    ("MapRun", "items"): list[Any],
    ("Work", "task"): task.Task,
    ("Outcome", "task"): task.Task,
    ("DeadLetter", "task"): task.Task,
}
RFC3339_UTC = r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$"


def json_schemas() -> dict[str, Schema]:
    """Every message by its name (``Task``), every event by its kind (``event.task.started``)."""
    parts = components("#/$defs/{name}")
    found = {cls.__name__: _alone(parts[cls.__name__], parts) for cls in MESSAGES}
    for kind, (data, doc) in EVENTS.items():
        found[f"event.{kind}"] = _alone(envelope(kind, doc, f"#/$defs/{data.__name__}"), parts, closed=True)
    return dict(sorted(found.items()))


# -- message types to schemas


def components(ref_template: str) -> dict[str, Schema]:
    """The schema of every type in messages and events, by name; `ref_template` makes the references."""
    seen: dict[type, type] = {}
    wanted = [*MESSAGES, *(data for data, _ in EVENTS.values())]
    plain = [_plain(cls, seen) for cls in dict.fromkeys(wanted)]
    _, found = msgspec.json.schema_components(plain, ref_template=ref_template)
    as_json: dict[str, Schema] = msgspec.json.decode(msgspec.json.encode(found))  # defaults as lists, not tuples
    return as_json


def _plain(annotation: Any, seen: dict[type, type]) -> Any:
    """The type with every `Raw` replaced by what it carries: msgspec can say no schema for a Raw that has a default."""
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return seen.get(annotation) or _plain_struct(annotation, seen)
    if annotation is Raw:
        return Any
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return Annotated[(_plain(args[0], seen), *args[1:])]
    if origin in (Union, types.UnionType):
        return Union[tuple(_plain(arg, seen) for arg in args)]  # noqa: UP007 - built from a tuple
    if origin is not None:
        return origin[tuple(_plain(arg, seen) for arg in args)]
    return annotation


def _plain_struct(cls: type[Struct], seen: dict[type, type]) -> type[Struct]:
    fields: list[Any] = []
    for field in msgspec.structs.fields(cls):
        carried = CARRIES.get((cls.__name__, field.name), field.type)
        fields.append((field.name, _plain(carried, seen), _default(field)))
    config = cls.__struct_config__
    made = msgspec.defstruct(
        cls.__name__,
        fields,
        namespace={"__doc__": inspect.getdoc(cls)},
        frozen=True,
        kw_only=True,
        tag=config.tag,
        tag_field=config.tag_field,
        array_like=config.array_like,
    )
    seen[cls] = made
    return made


def _default(field: msgspec.structs.FieldInfo) -> Any:
    if field.required:
        return msgspec.field()
    if isinstance(field.default, Raw):
        return msgspec.field(default_factory=str)  # optional; there is no default to state
    if field.default is not msgspec.NODEFAULT:
        return msgspec.field(default=field.default)
    return msgspec.field(default_factory=field.default_factory)


# -- schemas, each on its own


def envelope(kind: str, doc: str, data_ref: str) -> Schema:
    """The closed schema of one event type: CloudEvents' envelope around the data that `data_ref` points to."""
    fixed: Schema = {"specversion": "1.0", "type": f"fog.{kind}", "datacontenttype": "application/json"}
    properties: Schema = {
        "id": {
            "type": "string",
            "minLength": 1,
            "description": "made from what happened: the same id is the same event",
        },
        "source": {"type": "string", "format": "uri-reference", "minLength": 1},
        "time": {"type": "string", "format": "date-time", "pattern": RFC3339_UTC},
        "subject": {"type": "string", "pattern": ID_PATTERN, "description": "the id of the thing that this is about"},
        "fogterm": {"type": "integer", "minimum": 0, "description": "the term of the coordinator that said it"},
        "data": {"$ref": data_ref},
        **{name: {"const": value} for name, value in fixed.items()},
    }
    properties = {name: properties[name] for name in CloudEvent.__struct_fields__}
    return {
        "title": f"fog.{kind}",
        "description": doc,
        "type": "object",
        "properties": properties,
        "required": list(properties),
    }


def _alone(schema: Schema, parts: dict[str, Schema], *, closed: bool = False) -> Schema:
    needed: dict[str, Schema] = {}
    todo = list(_refs(schema))
    while todo:
        name = todo.pop()
        if name not in needed:
            needed[name] = close(parts[name]) if closed else parts[name]
            todo += _refs(parts[name])
    top = {"$schema": DIALECT, **(close(schema) if closed else schema)}
    return {**top, "$defs": dict(sorted(needed.items()))} if needed else top


def _refs(schema: Any) -> list[str]:
    if isinstance(schema, list):
        return [name for part in schema for name in _refs(part)]
    if not isinstance(schema, dict):
        return []
    own = [str(schema["$ref"]).rsplit("/", 1)[1]] if isinstance(schema.get("$ref"), str) else []
    return own + [name for key, part in schema.items() if key != "default" for name in _refs(part)]


def close(schema: Schema) -> Schema:
    """The same, refusing properties that are not named."""
    return {**schema, "additionalProperties": False} if "properties" in schema else schema
