"""The step of hatchling's builds that adds the manual page and the completion of the shells to the wheel and sdist."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class BuildHook(BuildHookInterface[Any]):
    """Generates the files before the build, and deletes them after it."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files. An editable installation has none, because its commands still change."""
        if version == "editable":
            return
        sys.path[:0] = [self.root]
        from scripts.manual import generated_files

        self._folder = tempfile.TemporaryDirectory()
        added = {str(Path(self.root, "config.example.toml")): "share/doc/dcsync/config.example.toml"}
        for path, text in generated_files().items():
            file = Path(self._folder.name, path)
            file.parent.mkdir(parents=True)
            file.write_text(text, encoding="utf-8")
            added[str(file)] = path
        if self.target_name == "wheel":
            build_data["shared_data"].update(added)
        else:
            del added[str(Path(self.root, "config.example.toml"))]  # it is among the sources
            build_data["force_include"].update(added)

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Delete the generated files."""
        if version != "editable":
            self._folder.cleanup()
