"""The judge's fact check (paper §3): it names what to look up, an engine is asked, and the finds stand in its prompt.

Owns the questions and what is said of the finds. It judges nothing: a search that timed out, found nothing, failed or
was refused is told as that, to the judge and in the verdict.
"""

import re
from collections import Counter
from dataclasses import dataclass

from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.records import ChatReply, Identity, Message, SearchOutcome, SearchRequest
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Attack, Search, Source

LONGEST_QUERY = 200
_SEPARATOR = re.compile(r"\s*[;,]\s+")
_MARK = re.compile(r"^\s*(?:[-*•]\s+|\d+[.)]\s+)+")
TOLD: dict[SearchOutcome, str] = {
    "found": "found",
    "nothing": "found nothing",
    "timeout": "timed out",
    "refused": "refused",
    "failed": "failed",
}


@dataclass(frozen=True, slots=True)
class FactCheck:
    """Looks up at most `queries` things, `top` results each, in at most `timeout_s` seconds each."""

    domain: Domain
    player: Player
    engine: Identity
    queries: int
    top: int
    timeout_s: float
    retries: int

    async def look_up(self, attack: Attack, draw: Draw, call: Call) -> tuple[tuple[Search, ...], str]:
        """What was found, query by query, and that in words."""
        prompt = self.domain.render("claims", {"attack": attack, "queries": self.queries})
        asked = self.player.asking((Message("user", prompt),), ("QUERIES",))
        queries = await ask_until_read(self.player, asked, self._read, draw, "claims", self.retries, call)
        if isinstance(queries, Unparsed):
            return (), f"nothing was looked up: {queries.reason}"
        searches = tuple([await self._search(query, call) for query in queries])
        counted = Counter(search.outcome for search in searches)
        told = ", ".join(f"{counted[outcome]} {TOLD[outcome]}" for outcome in TOLD if counted[outcome])
        return searches, f"{len(searches)} searches: {told}" if searches else "nothing to look up, says the judge"

    async def _search(self, query: str, call: Call) -> Search:
        reply = await call(SearchRequest(self.engine, query, self.top, self.timeout_s))
        return Search(query, reply.outcome, reply.detail, tuple(Source(*result) for result in reply.results))

    def _read(self, reply: ChatReply) -> tuple[str, ...] | Unparsed:
        sections = read_sections(reply.text, ("QUERIES",))
        if isinstance(sections, Unparsed):
            return sections
        lines = [line for line in sections["QUERIES"].splitlines() if line.strip()]
        if len(lines) == 1 and len(listed := _SEPARATOR.split(lines[0])) > 2:  # small models list them in one line
            lines = listed
        lines = [_MARK.sub("", line).strip(' \t*"`') for line in lines]
        queries = tuple(dict.fromkeys(line[:LONGEST_QUERY] for line in lines if line))
        return () if queries[:1] and queries[0].strip(". ").upper() == "NONE" else queries[: self.queries]
