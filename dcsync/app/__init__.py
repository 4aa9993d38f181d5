"""The composition root: from a configuration to open adapters, and back to nothing in the right order."""
