"""What is learned of an account and its file store while jobs are mirrored."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import structlog

from dcsync.core import cost
from dcsync.core.ports import AccountFacts
from dcsync.core.transfer import md5_of_etag

log = structlog.get_logger(__name__)


@dataclass(slots=True, kw_only=True)
class AccountKnowledge:
    """The facts of an account, as the manifest had them and as they are by now."""

    facts: AccountFacts = field(default_factory=AccountFacts)
    #: Answers 304 in this run, and answers 200 to a condition though the content was the same.
    matched: int = 0
    missed: int = 0

    @property
    def asks_conditionally(self) -> bool:
        """Whether If-None-Match is worth sending: not to a store that never answers 304."""
        return self.facts.conditional_works is not False

    def learn_etag(self, etag: str | None, md5: str | None) -> None:
        """Compare an ETag that may be an MD5 with that of the content, when nothing is known yet."""
        promised = md5_of_etag(etag)
        if promised is not None and md5 is not None and self.facts.etag_is_md5 is None:
            self.facts = replace(self.facts, etag_is_md5=promised == md5)

    def distrust_etags(self) -> None:
        """Note that the store's ETags are not the MD5 of the content any more."""
        self.facts = replace(self.facts, etag_is_md5=False)

    def learn_conditional(self, account: str) -> None:
        """Conclude whether the store answers conditions: it does not when equal content never brought a 304."""
        works = self.facts.conditional_works
        if self.matched:
            works = True
        elif self.missed and works is None:
            works = False
            log.info(
                "the file store never answers that a file is unchanged; conditional requests stop", account=account
            )
        self.facts = replace(self.facts, conditional_works=works)

    def learn_speed(self, size: int, seconds: float) -> None:
        """Take a transfer into the average speed of the line."""
        speed = cost.speed_after(self.facts.bytes_per_second, size=size, seconds=seconds)
        self.facts = replace(self.facts, bytes_per_second=speed)
