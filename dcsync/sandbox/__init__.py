"""A local simulator of the Data Connector API, its token endpoint and its object storage.

The sandbox imports no other package of dcsync, so that it cannot share a mistake of the code that it tests.
"""

from dcsync.sandbox.blobs import Synthetic
from dcsync.sandbox.faults import Fault, Faults
from dcsync.sandbox.oauth import Tokens
from dcsync.sandbox.server import Sandbox
from dcsync.sandbox.state import Call, Options
from dcsync.sandbox.world import DEMO_APART, World, demo_time

__all__ = ["DEMO_APART", "Call", "Fault", "Faults", "Options", "Sandbox", "Synthetic", "Tokens", "World", "demo_time"]
