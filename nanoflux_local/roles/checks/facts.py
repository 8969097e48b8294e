"""The fact check (paper §3): the judge writes queries, and the search results become part of its next prompt.

This check draws no conclusion itself. Both the judge's prompt and the finding state the outcome of each search (found,
nothing, timeout, refused, failed).
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from nanoflux_local.config import JudgeRules
from nanoflux_local.domains.base import Domain
from nanoflux_local.ledger.calls import Call
from nanoflux_local.quantities import format_quantity
from nanoflux_local.records import ChatReply, Identity, Message, SearchOutcome, SearchRequest
from nanoflux_local.roles.base import Draw, Player, ask_until_read
from nanoflux_local.roles.checks.base import SEARCH, Check, CheckContext, CheckStage
from nanoflux_local.roles.sections import Unparsed, read_sections
from nanoflux_local.transcript import Attack, Exhibit, Finding, Seed, Source

MAX_QUERY_CHARACTERS = 200
"""A longer query is truncated to this number of characters."""
_INLINE_SEPARATOR = re.compile(r"\s*[;,]\s+")
"""The separator between queries that a small model lists on one line."""
_BULLET = re.compile(r"^\s*(?:[-*•]\s+|\d+[.)]\s+)+")
OUTCOME_WORDS: dict[SearchOutcome, str] = {
    "found": "found",
    "nothing": "found nothing",
    "timeout": "timed out",
    "refused": "refused",
    "failed": "failed",
}
"""How a finding names the outcomes of searches."""


@dataclass(frozen=True, slots=True)
class FactCheck:
    """Runs at most `queries` searches, each with at most `top` results and `timeout_s` seconds."""

    name: ClassVar[str] = "facts"
    title: ClassVar[str] = "fact check"
    stage: ClassVar[CheckStage] = "informs"
    tools: ClassVar[tuple[str, ...]] = (SEARCH,)
    objection: ClassVar[str] = "the facts disagree"
    asks_solvers: ClassVar[bool] = False

    domain: Domain
    player: Player
    engine: Identity
    queries: int
    top: int
    timeout_s: float
    retries: int

    @classmethod
    def build(cls, context: CheckContext) -> "FactCheck":
        config = context.config
        engine = context.find_tool(SEARCH, "fact_check")
        search = config.search
        return cls(
            context.domain, context.player, engine, search.queries, search.top, search.timeout_s, config.retries.parse
        )

    @classmethod
    def count_calls(cls, rules: JudgeRules) -> Mapping[str, int]:
        del rules
        return {"chat": 1}

    async def examine(self, attack: Attack, draw: Draw, call: Call, seeds: tuple[Seed, ...] = ()) -> Finding:
        """Search for the judge's queries. The searches are the evidence; the judge draws the conclusion."""
        del seeds  # the queries come from the attack alone
        prompt = self.domain.render("claims", {"attack": attack, "queries": self.queries})
        make_request = self.player.request_builder((Message("user", prompt),), ("QUERIES",))
        queries = await ask_until_read(
            self.player, make_request, self._read_queries, draw, "claims", self.retries, call
        )
        if isinstance(queries, Unparsed):
            return Finding(self.name, "not checked", f"nothing was looked up: {queries.reason}")
        searches = tuple([await self._search(query, call) for query in queries])
        counts = Counter(search.outcome for search in searches)
        outcomes = ", ".join(f"{counts[name]} {words}" for name, words in OUTCOME_WORDS.items() if counts[name])
        search_count = format_quantity(len(searches), "search", "searches")
        reason = f"{search_count}: {outcomes}" if searches else "the judge named nothing to look up"
        return Finding(self.name, "not checked", reason, searches)

    async def _search(self, query: str, call: Call) -> Exhibit:
        """Run one search, and return it as evidence."""
        reply = await call(SearchRequest(self.engine, query, self.top, self.timeout_s))
        results = tuple(Source(*result) for result in reply.results)
        return Exhibit("search", query, reply.outcome, reply.detail, results)

    def _read_queries(self, reply: ChatReply) -> tuple[str, ...] | Unparsed:
        """Read at most `queries` queries, one per line; none if the judge writes "NONE"."""
        sections = read_sections(reply.text, ("QUERIES",))
        if isinstance(sections, Unparsed):
            return sections
        lines = [line for line in sections["QUERIES"].splitlines() if line.strip()]
        if len(lines) == 1:
            inline_queries = _INLINE_SEPARATOR.split(lines[0])
            if len(inline_queries) > 2:
                lines = inline_queries
        lines = [_BULLET.sub("", line).strip(' \t*"`') for line in lines]
        queries = tuple(dict.fromkeys(line[:MAX_QUERY_CHARACTERS] for line in lines if line))
        if queries and queries[0].strip(". ").upper() == "NONE":
            return ()
        return queries[: self.queries]


CHECK: type[Check] = FactCheck
