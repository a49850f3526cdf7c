"""Where each chunk of an artifact comes from while members of a cluster take it at the same time. Pure: events in, actions out.

Each chunk has one *owner* among the members that take part, by rendezvous hashing. The owner gets it from the store, over the
wide link; everybody else gets it from whoever has it by now, or waits at its owner. So the wide link carries one copy a
cluster, and each member brings a different part of it. Waiting always goes to a member of more weight for that chunk, so no
two wait for each other.

| a member … | is asked for what it has | owns chunks |
|---|---|---|
| takes the artifact (or has it whole) | yes | yes |
| does not, and may begin yet (`JOIN_S`) | | yes: its chunks wait |
| brought nothing new for `STALL_S` | yes | no |
| broke off, or did not have what it promised | no, for `BROKEN_S` | no |
| served other bytes than it was asked for | no, for `BANNED_S`, which is told | no |

A member that may not serve now (its owner's battery, heat, network) owns nothing, itself included: it takes from the others,
and goes to the store only where there are none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import Struct

from schemas.rendezvous import owners as ranked

STORE = ""  # the source that is no peer
GETS = 8  # chunks that are under way from peers at a time, one a peer
JOIN_S = 2.0  # members that are told a moment later than others still bring their part
ASK_S = (1.0, 3.0)  # between two rounds of asking who has what: while members join, and later
STALL_S = 20.0
BROKEN_S = 30.0
BANNED_S = 600.0


class Ask(Struct, frozen=True):
    """Ask all peers what they have → `heard` or `silent` for each, then `asked`."""


class Get(Struct, frozen=True):
    """Get a chunk from a peer → `came`, `lacks`, `broken` or `rubbish`."""

    digest: str
    node: str


class FromStore(Struct, frozen=True):
    """Get chunks from the store → `stored`. One at a time."""

    digests: tuple[str, ...]


class Drop(Struct, frozen=True):
    """Say that this peer served something else under the name of this chunk, and is not asked for a while."""

    node: str
    digest: str


Action = Ask | Get | FromStore | Drop
Out = list[Action]


@dataclass(slots=True)
class Member:
    """A peer that would serve. `moved_at`: when it last had something new for us; `getting`: the chunk that is under way from
    it; `waited`: it let us wait for one in vain, so it is asked only for what it has until it is heard again."""

    takes: bool
    have: frozenset[str]
    moved_at: float
    getting: str = ""
    waited: bool = False


class Swarm:
    """`chunks`: the digests that are missing here, in the order in which they are wanted. `serves`: whether peers get them
    from here. `out`: peers that are not asked, until when; it is kept for the next artifact. Times are in seconds, of any
    clock that does not go back."""

    def __init__(self, me: str, chunks: Sequence[str], now: float, *, serves: bool, out: dict[str, float]) -> None:
        self.me, self.serves, self.out = me, serves, out
        for node in [node for node, until in out.items() if now >= until]:
            del out[node]
        self.missing = dict.fromkeys(chunks)
        self._members: dict[str, Member] = {}
        self._under_way: dict[str, str] = {}  # chunk → source
        self._queues: dict[str, deque[str]] = {}
        self._ranks: dict[str, list[str]] = {}  # chunk → all that were ever heard of and this node, the first the owner
        self._storing = False
        self._asking = self._asked = False
        self._ask_at, self._join_until = now, now + JOIN_S  # which begins anew with the first answers
        # Who was usable, and who owned, when the queues were made; None: they are to be made anew.
        self._view: tuple[frozenset[str], frozenset[str]] | None = None

    @property
    def done(self) -> bool:
        """Whether all of it is here."""
        return not self.missing

    # Events.

    def heard(self, node: str, takes: bool, have: frozenset[str], now: float) -> None:
        """A peer would serve; it takes the artifact as well, or not, and has these chunks of it."""
        member = self._members.get(node)
        if member is None:
            member = self._members[node] = Member(takes, have, now)
            self._ranks.clear()
        elif takes and (not member.takes or any(digest in self.missing for digest in have - member.have)):
            member.moved_at = now
        member.takes, member.have, member.waited = takes, have, False
        self._view = None

    def silent(self, node: str) -> None:
        """A peer does not answer, or does not serve now."""
        member = self._members.pop(node, None)
        if member is not None:
            self._release(member)
            self._view = None

    def asked(self, now: float) -> None:
        """All peers have answered, or have not."""
        if not self._asked:
            self._join_until = now + JOIN_S
        self._asking, self._asked = False, True
        self._ask_at = now + ASK_S[now >= self._join_until]

    def came(self, digest: str, node: str, now: float) -> None:
        """A chunk, checked, came from a peer."""
        member = self._members.get(node)
        if member is not None:
            member.moved_at = now
            if member.getting == digest:
                member.getting = ""
        self._here(digest)

    def stored(self, digests: Sequence[str]) -> None:
        """Chunks came from the store."""
        self._storing = False
        for digest in digests:
            self._here(digest)

    def lacks(self, digest: str, node: str, now: float) -> None:
        """A peer did not have it in the time that it lets one wait."""
        member = self._ended(digest, node)
        if member is not None and digest in member.have:
            self._leave_out(node, now + BROKEN_S)  # it said that it has it
        elif member is not None:
            member.waited = True

    def broken(self, digest: str, node: str, now: float) -> None:
        """A peer cannot be reached, or broke off."""
        self._ended(digest, node)
        self._leave_out(node, now + BROKEN_S)

    def rubbish(self, digest: str, node: str, now: float) -> Out:
        """A peer served bytes that are not what their name says."""
        self._ended(digest, node)
        self._leave_out(node, now + BANNED_S)
        return [Drop(node, digest)]

    # What follows.

    def next(self, now: float, batch: int) -> Out:
        """What is to be done now; `batch` is how many chunks may be asked of the store in one go."""
        out: Out = []
        if not self._asking and now >= self._ask_at:
            self._asking = True
            out.append(Ask())
        if not self._asked:
            return out  # who else takes it decides what is ours to bring
        usable = {node for node in self._members if now >= self.out.get(node, now)}
        view = frozenset(usable), frozenset(self._owning(usable, now))
        if view != self._view:
            self._view = view
            self._plan(*view)
        if not self._storing and (some := self._take(STORE, batch)):
            self._storing = True
            out.append(FromStore(some))
        free = GETS - sum(bool(member.getting) for member in self._members.values())
        for node in sorted(usable):
            member = self._members[node]
            if free > 0 and not member.getting and (one := self._take(node, 1)):
                free -= 1
                member.getting = one[0]
                out.append(Get(one[0], node))
        return out

    def _owning(self, usable: set[str], now: float) -> set[str]:
        """Among whom the chunks are divided."""
        found = {node for node in usable if self._owns(self._members[node], now)}
        return found | {self.me} if self.serves or not found else found

    def _owns(self, member: Member, now: float) -> bool:
        return now - member.moved_at < STALL_S if member.takes else now < self._join_until

    def _plan(self, usable: frozenset[str], owning: frozenset[str]) -> None:
        """Line up what is missing at its sources: what a peer has comes before what it will have."""
        queues: dict[str, deque[str]] = {node: deque() for node in (STORE, *usable)}
        self._queues = queues
        unowned = []
        for digest in self.missing:
            if digest in self._under_way:
                continue
            ranks = self._ranked(digest)
            holders = [node for node in ranks if node in usable and digest in self._members[node].have]
            if holders:
                queues[min(holders, key=lambda node: len(queues[node]))].append(digest)  # of equals the first in rank
            else:
                unowned.append((digest, next(node for node in ranks if node in owning)))
        for digest, owner in unowned:
            if owner == self.me:
                queues[STORE].append(digest)
            elif self._members[owner].takes and not self._members[owner].waited:
                queues[owner].append(digest)

    def _ranked(self, digest: str) -> list[str]:
        found = self._ranks.get(digest)
        if found is None:
            everybody = [self.me, *self._members]
            found = self._ranks[digest] = ranked(digest, everybody, len(everybody))
        return found

    def _take(self, source: str, most: int) -> tuple[str, ...]:
        queue = self._queues.get(source)
        some: list[str] = []
        while queue and len(some) < most:
            digest = queue.popleft()
            if digest in self.missing and digest not in self._under_way:
                self._under_way[digest] = source
                some.append(digest)
        return tuple(some)

    def _here(self, digest: str) -> None:
        self.missing.pop(digest, None)
        self._under_way.pop(digest, None)
        self._ranks.pop(digest, None)

    def _leave_out(self, node: str, until: float) -> None:
        self.out[node] = max(until, self.out.get(node, until))

    def _ended(self, digest: str, node: str) -> Member | None:
        """A chunk is no longer under way from a peer; the peer, where it is still known."""
        self._view = None
        member = self._members.get(node)
        if member is not None and member.getting == digest:
            self._release(member)
        return member

    def _release(self, member: Member) -> None:
        self._under_way.pop(member.getting, None)
        member.getting = ""
