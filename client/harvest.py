"""`fleet.harvest`: what the devices do that work for others while nobody needs them, and what they have earned."""

from __future__ import annotations

from client.api import Api
from schemas.harvest import HarvestInfo, HarvestListRequest, HarvestReply, HarvestRequest, HarvestRow
from schemas.limits import PAGE
from schemas.names import check_id


class Harvests:
    """The harvesting devices of one fleet."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def devices(self) -> tuple[list[HarvestRow], HarvestReply]:
        """Every device by id, and the answer of the last page for the network's figures."""
        rows: list[HarvestRow] = []
        while True:
            page = await self._api.call("harvest", "list", HarvestListRequest(len(rows) // PAGE), HarvestReply)
            rows += page.devices
            if not page.devices or len(rows) >= page.total:
                return rows, page

    async def device(self, node: str) -> HarvestInfo:
        """One device: every reason that stands against its work now, and the earliest moment that it could work."""
        return await self._api.call("harvest", "node", HarvestRequest(check_id("node", node)), HarvestInfo)
