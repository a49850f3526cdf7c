"""The node as a member of its clusters: hears from the coordinator who its peers and leaders are."""

from __future__ import annotations

import logging

from node.context import Context
from node.core.seats import Seats
from schemas.cluster import Membership
from schemas.logs import fields

log = logging.getLogger("fog.node.clusters")


class Clusters:
    """This node's seats."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self.seats = Seats(context.node)

    def told(self, said: Membership) -> str:
        """The coordinator says who is in a cluster; returns why that is refused, or ""."""
        before = self.seats.leads(said.cluster)
        error = self.seats.told(said)
        now = self.seats.leads(said.cluster)
        if now and now != before:
            log.info("leading", extra=fields(cluster=said.cluster, term=now))
        return error
