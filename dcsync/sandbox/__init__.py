"""A stand-in of the Data Connector API, its token endpoint and its file store, on loopback.

It imports nothing of dcsync: a mistake of the client's must not be shared by what tests it.
"""

from dcsync.sandbox.faults import Fault, Faults
from dcsync.sandbox.oauth import Tokens
from dcsync.sandbox.server import Sandbox
from dcsync.sandbox.state import Call, Options
from dcsync.sandbox.world import Synthetic, World

__all__ = ["Call", "Fault", "Faults", "Options", "Sandbox", "Synthetic", "Tokens", "World"]
