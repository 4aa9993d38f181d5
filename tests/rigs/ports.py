"""Free ports of loopback that nobody else gets before the test uses them."""

from __future__ import annotations

import random
import socket
from pathlib import Path
from typing import Final

#: The kernel gives ports of this range to connections and to servers that ask for any port. It never gives one below.
_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST: Final = 10_000
#: The same seed in each worker of the tests would give each the same ports.
_chance: Final = random.SystemRandom()
_given: Final[set[int]] = set()


def free_port() -> int:
    """Return a port that nothing uses, and that this process has not returned before."""
    highest = int(_RANGE.read_text().split()[0])
    while True:
        port = _chance.randrange(_LOWEST, highest)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
