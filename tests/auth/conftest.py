"""The token store of several hosts meets the same tests as that of one."""

from __future__ import annotations

from tests.rigs.shared_tokens import shared_database, shared_store
from tests.rigs.token_chain import folder_rig, rig

__all__ = ["folder_rig", "rig", "shared_database", "shared_store"]
