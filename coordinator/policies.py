"""Operators' policies for nodes: kept in the bucket FOG_policies, and brought to the nodes.

A node is told its policy when an operator changes it, and when the node comes (again): it may have missed a change while it
was away, a policy taken back among them. So a node that ever had one keeps its entry, empty perhaps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection

from msgspec import Struct

from coordinator.areas import Area, Endpoints, Term
from coordinator.core.deliveries import Deliveries
from coordinator.refusal import Refusal
from schemas import subjects
from schemas.advice import policy_of
from schemas.api import NodeRequest
from schemas.codec import Decoder, encode
from schemas.errors import BadInput, FogError, NoResponders, Unreachable
from schemas.event import NodePolicy
from schemas.kv import Kv
from schemas.logs import fields
from schemas.membership import NodeAnswer, NodeCommand
from schemas.names import check_id
from schemas.policy import AdviceReply, PolicyReply, PolicyRequest
from schemas.streams import POLICIES

log = logging.getLogger("fog.policies")

COMMAND_S = 2.0
AT_ONCE = 32  # commands under way

_pairs: Decoder[dict[str, str]] = Decoder(dict[str, str])
_answer: Decoder[NodeAnswer] = Decoder(NodeAnswer)


class PoliciesArea(Area):
    """Answers ``api.policy.*`` and ``api.node.advise``."""

    name = "policies"

    def __init__(self, term: Term) -> None:
        super().__init__(term)
        self._kv = Kv(term.bus, term.store, POLICIES)
        self._policies: dict[str, dict[str, str]] = {}
        self._deliveries = Deliveries()
        self._writing = asyncio.Lock()

    def endpoints(self) -> Endpoints:
        """Its requests."""
        return {
            "node.advise": (NodeRequest, self._advise),
            "policy.set": (PolicyRequest, self._set),
            "policy.show": (NodeRequest, self._show),
        }

    async def start(self) -> None:
        """Read all policies."""
        for node, entry in (await self._kv.all()).items():
            try:
                policy = _pairs(entry.value)
                policy_of(policy)
            except BadInput as error:
                self.term.bad.add("policy", f"{POLICIES}/{node}", str(error))
                continue
            self._policies[check_id("node", node)] = policy
            self._want(node)

    def changed(self, nodes: Collection[str], now: float) -> None:
        """A node that came again is told its policy again."""
        for node in nodes:
            self._look(node)
        self._deliver(now)

    def _want(self, node: str) -> None:
        self._deliveries.want(node)
        self._look(node)

    def _look(self, node: str) -> None:
        view = self.term.nodes.get(node)
        if view is not None:
            self._deliveries.seen(node, view.boot, away=view.is_lost())

    def tick(self, now: float) -> None:
        """Try those again that did not answer."""
        self._deliver(now)

    def _deliver(self, now: float) -> None:
        if not self.term.may():
            return
        for node in self._deliveries.due(now, AT_ONCE - len(self._tasks)):
            self.spawn(self._bring(node))

    async def _bring(self, node: str) -> None:
        try:
            await self._tell(node)
        except FogError as error:
            log.info("a policy was not brought yet", extra=fields(node=node, error=error.message))

    async def _tell(self, node: str) -> NodeAnswer:
        """Bring a node its policy now. Raises FogError, and it stays due."""
        policy = self._policies.get(node, {})
        mark = self._deliveries.begin(node, self.term.clock())
        answer = await self._ask(node, "policy", policy)
        self._deliveries.done(node, mark, answer.boot)
        return answer

    async def _ask(self, node: str, verb: str, policy: dict[str, str]) -> NodeAnswer:
        command = encode(NodeCommand(self.term.number, policy=policy))
        answer = _answer(await self.term.bus.request(subjects.command(node, verb), command, COMMAND_S))
        if not answer.ok:
            raise FogError(f"node {node} refused: {answer.error}")
        return answer

    # Requests.

    async def _set(self, request: PolicyRequest) -> Struct:
        self._known(request.node)
        try:
            policy_of(request.set)
        except BadInput as error:
            raise Refusal("bad-request", error.problem, error.hint, error.field) from None
        async with self._writing:
            before = {} if request.reset else self._policies.get(request.node, {})
            policy = {**before, **request.set}
            if policy or request.node in self._policies:
                revision = await self._kv.put(request.node, encode(policy))
                self._policies[request.node] = policy
                self._want(request.node)
                key = f"{request.node}.policy.{revision}"
                self.term.events.emit(
                    "node.policy-set", request.node, key, NodePolicy(request.node, policy), self.term.clock()
                )
        return await self._told(request.node)

    async def _told(self, node: str) -> PolicyReply:
        policy = self._policies.get(node, {})
        if node not in self._policies:
            return PolicyReply(node, in_force=True)
        try:
            answer = await self._tell(node)
        except Unreachable:
            return PolicyReply(node, policy)
        except FogError as error:
            hint = "the policy is kept, and the node is told again until it takes it"
            raise Refusal("not-here", error.message, hint, "node") from None
        return PolicyReply(node, policy, True, answer.advice)

    async def _show(self, request: NodeRequest) -> Struct:
        self._known(request.node)
        policy = self._policies.get(request.node, {})
        return PolicyReply(request.node, policy, self._deliveries.delivered(request.node))

    async def _advise(self, request: NodeRequest) -> Struct:
        self._known(request.node)
        try:
            answer = await self._ask(request.node, "advise", {})
        except NoResponders:
            raise Refusal(
                "not-here", f"{request.node} is not connected", "`fog nodes` says since when", "node"
            ) from None
        if answer.advice is None:
            raise Refusal("not-here", f"{request.node} does not tell: it is of an older version", "", "node")
        return AdviceReply(request.node, answer.advice, answer.outbox)

    def _known(self, node: str) -> None:
        if node not in self.term.nodes and node not in self._policies:
            raise Refusal("unknown-node", f"there is no node {node}", "`fog nodes` lists them", "node")
