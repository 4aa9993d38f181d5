"""What every code of an alert or error means: its cause, what dcsync does, when it is resolved, and what to do.

`codes.toml` has the texts. `dcsync explain` prints them, and the reference of the documentation shows them.
The guides are those of the documentation.
"""

from dcsync.explain.codes import Explanation, Section, explanation, sections
from dcsync.explain.guides import guide, guide_names

__all__ = ["Explanation", "Section", "explanation", "guide", "guide_names", "sections"]
