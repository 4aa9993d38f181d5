"""Fingerprints of the configuration: whether two processes have read the same one."""

from __future__ import annotations

import hashlib
import json

from dcsync.config import Config


def fingerprints(config: Config) -> dict[str, str]:
    """Return a fingerprint of each section that decides what a command does. None of them has a secret."""
    sections = {
        "[mirror]": config.mirror.model_dump(mode="json"),
        "[[account]]": [account.model_dump(mode="json") for account in config.accounts],
        "[keep]": config.keep.model_dump(mode="json"),
        "[verify]": config.verify.model_dump(mode="json"),
        "[history]": config.history.model_dump(mode="json"),
        "[[load]]": [
            {**load.model_dump(mode="json", exclude={"to"}), "to": load.to.describe()} for load in config.loads
        ],
        "[transfer]": config.transfer.model_dump(mode="json"),
        "[[hook]]": [hook.model_dump(mode="json") for hook in config.hooks],
    }
    return {
        name: hashlib.sha256(json.dumps(section, sort_keys=True).encode()).hexdigest()
        for name, section in sections.items()
    }
