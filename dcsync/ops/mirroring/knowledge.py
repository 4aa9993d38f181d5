"""The facts that dcsync learns about an account and its object storage while it mirrors jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import structlog

from dcsync.core import cost
from dcsync.core.cost import Choice, CostInputs, Method, Price
from dcsync.core.ports import AccountFacts
from dcsync.core.transfer import md5_of_etag
from dcsync.ops.context import Strategy, SyncContext

log = structlog.get_logger(__name__)

_ALLOWED = {
    Strategy.AUTO: tuple(Method),
    Strategy.FILES: (Method.FILES,),
    Strategy.ZIP: (Method.RANGES, Method.WHOLE),
}


@dataclass(slots=True, kw_only=True)
class AccountKnowledge:
    """The facts of an account: first those of the manifest, then those of this run."""

    facts: AccountFacts = field(default_factory=AccountFacts)
    #: The answers 304 of this run, and the answers 200 to conditional requests for content that had not changed.
    matched: int = 0
    missed: int = 0

    @property
    def asks_conditionally(self) -> bool:
        """Whether If-None-Match is worth sending. A storage that never answers 304 does not get it."""
        return self.facts.conditional_works is not False

    def learn_etag(self, etag: str | None, md5: str | None) -> None:
        """Learn from the first file whether ETags are the MD5 of the content."""
        promised = md5_of_etag(etag)
        if promised is not None and md5 is not None and self.facts.etag_is_md5 is None:
            self.facts = replace(self.facts, etag_is_md5=promised == md5)

    def distrust_etags(self) -> None:
        """Remember that ETags are no longer the MD5 of the content."""
        self.facts = replace(self.facts, etag_is_md5=False)

    def learn_conditional(self, account: str) -> None:
        """Learn whether the storage answers conditional requests: not if unchanged content never got a 304."""
        works = self.facts.conditional_works
        if self.matched:
            works = True
        elif self.missed and works is None:
            works = False
            log.debug("object storage never reports unchanged files; conditional requests turned off", account=account)
        self.facts = replace(self.facts, conditional_works=works)

    def learn_speed(self, size: int, seconds: float) -> None:
        """Add a transfer to the average network speed."""
        speed = cost.speed_after(self.facts.bytes_per_second, size=size, seconds=seconds)
        self.facts = replace(self.facts, bytes_per_second=speed)


async def cost_inputs(context: SyncContext, knowledge: AccountKnowledge) -> CostInputs:
    """Return the current inputs of a price."""
    limiter = context.limiter
    return CostInputs(
        calls_left=await limiter.left(),
        limit=limiter.limit,
        bytes_per_second=knowledge.facts.bytes_per_second,
        slots=context.settings.concurrency,
    )


def choose(prices: Mapping[Method, Price], strategy: Strategy) -> Choice:
    """Choose among the methods that the strategy allows."""
    return cost.choose(prices.values(), _ALLOWED[strategy])
