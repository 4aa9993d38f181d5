"""Builders of configurations, without a file."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dcsync.config import Config

ACCOUNT_ID = "872264f8-2433-498d-8d36-16649ecb13fe"


def make_config(**sections: Any) -> Config:
    """Return a valid configuration with these sections merged over the least one."""
    document: dict[str, Any] = {
        "mirror": {"root": "/srv/dcsync"},
        "auth": {"method": "token", "access_token": "env:TOKEN"},
        "account": [{"name": "acme", "id": ACCOUNT_ID}],
    }
    for name, values in sections.items():
        document[name] = values if isinstance(values, list) or name == "auth" else {**document.get(name, {}), **values}
    return Config.model_validate(document)


def refusal(**sections: Any) -> str:
    """Return why a configuration is refused, in one line."""
    with pytest.raises(ValidationError) as caught:
        make_config(**sections)
    assert "input_value" not in str(caught.value)  # it may be a secret
    return "; ".join(error["msg"].removeprefix("Value error, ") for error in caught.value.errors())
