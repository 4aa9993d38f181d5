"""How many connections one download uses: more while they make it faster. Pure.

Object storage gives each connection only so much: 50 to 90 MB/s nearby, far less over an ocean. On a fast line to a
near store a second connection gains nothing, so the number is measured and not configured.
"""

from __future__ import annotations

import math

#: A download that ends sooner than this at its present rate gets no more connections, in seconds.
WORTH_S = 0.5
#: A rate is measured over at least this time, in seconds. The first one decides only whether the download is long.
FIRST_S, MEASURE_S = 0.1, 0.25
#: If new connections take longer than this to answer, the rate is measured without them, in seconds.
SETTLE_S = 3.0
#: After more connections gained nothing, the next trial waits this long, then twice as long, up to a minute.
HOLD_S, MOST_HOLD_S = 1.0, 60.0
#: After the storage refused a connection or broke it, the connections are divided by this.
REFUSED = 4
#: The gain of a step that is worth it. Less is the noise of a measurement.
GAIN = 1.3
#: At this rate, the disk and the hashes are the bottleneck, not a connection, in bytes per second.
FAST = 200e6


class Widening:
    """The number of connections of one download.

    The caller counts the bytes of all its connections, and asks for the number as often as it likes. All times are
    seconds of one monotonic clock.
    """

    def __init__(self, now: float) -> None:
        self._wanted = 1
        self._counted = 0
        #: When the number changed, and how long it took until as many connections received.
        self._changed_at = now
        self._answer_s: float | None = 0.0
        self._measured_from = now
        #: The fewest connections with the best rate so far.
        self._best, self._best_rate = 1, 0.0
        self._is_second_trial = False
        self._least_s = FIRST_S
        self._hold_s = HOLD_S
        self._held_until = now

    def count(self, size: int) -> None:
        """Count `size` received bytes."""
        self._counted += size

    def refuse(self, now: float) -> None:
        """Take back the last step, because the storage refused a connection or broke it."""
        self._best = max(1, self._wanted // REFUSED)
        self._is_second_trial = False
        self._fall_back(now)

    def connections(self, now: float, *, rest: int, receiving: int, limit: int) -> int:
        """Return how many connections to use now for the `rest` bytes, at most `limit`.

        `receiving` is the number of connections whose answer has arrived.
        """
        if limit < self._wanted:
            # Other downloads took connections, so a rate would not show what this number of them can do.
            self._measured_from, self._counted = now, 0
            return limit
        if self._answer_s is None:
            if receiving < self._wanted and now - self._changed_at < SETTLE_S:
                return self._wanted
            self._answer_s, self._measured_from, self._counted = now - self._changed_at, now, 0
        # A connection over a long line begins slowly. The time until its answer shows how long the line is.
        measured_s = now - self._measured_from
        if measured_s >= max(self._least_s, 2 * self._answer_s):
            rate, self._measured_from, self._counted = self._counted / measured_s, now, 0
            self._least_s = MEASURE_S
            self._judge(now, rate, rest=rest, limit=limit)
        return self._wanted

    def _judge(self, now: float, rate: float, *, rest: int, limit: int) -> None:
        if self._wanted > self._best and rate < self._best_rate * GAIN:
            # One measurement may fall into a burst or a pause.
            if self._is_second_trial:
                self._fall_back(now)
            self._is_second_trial = not self._is_second_trial
            return
        enough = max(1, math.ceil(self._best * rate / max(1.0, self._best_rate)))
        if self._wanted > self._best and self._wanted >= 2 * enough:
            # The line is full. Fewer connections, each as fast as before, fill it as well.
            if self._is_second_trial:
                self._best, self._best_rate = enough, rate
                self._fall_back(now)
            self._is_second_trial = not self._is_second_trial
            return
        self._is_second_trial = False
        self._best, self._best_rate = self._wanted, rate
        if now >= self._held_until and rate < FAST and rest > rate * WORTH_S and limit > self._wanted:
            # As many as end the download in that time, if each is as fast as these.
            self._change(min(limit, math.ceil(self._wanted * rest / max(1.0, rate * WORTH_S))), now)

    def _fall_back(self, now: float) -> None:
        self._held_until = now + self._hold_s
        self._hold_s = min(MOST_HOLD_S, 2 * self._hold_s)
        self._change(self._best, now)

    def _change(self, wanted: int, now: float) -> None:
        self._wanted, self._changed_at, self._answer_s = wanted, now, None
