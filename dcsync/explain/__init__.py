"""What every code of an alert or error means: its cause, what dcsync does, when it is resolved, and what to do.

`codes.toml` has the texts. `dcsync explain` prints them, and the reference of the documentation shows them.
"""

from dcsync.explain.codes import Explanation, Section, explanation, sections

__all__ = ["Explanation", "Section", "explanation", "sections"]
