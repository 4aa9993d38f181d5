"""`dcsync init` on a terminal: it leads a user from nothing to the first snapshot.

Each step examines what exists and does only the rest. A run can therefore end anywhere, and the next one continues.
"""

from dcsync.cli.guide.app_step import Start
from dcsync.cli.guide.lead import lead

__all__ = ["Start", "lead"]
