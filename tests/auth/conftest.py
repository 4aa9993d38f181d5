"""The token store of several hosts meets the same tests as that of one."""

from __future__ import annotations

from tests.rigs.shared_tokens import shared_database, shared_store

__all__ = ["shared_database", "shared_store"]
