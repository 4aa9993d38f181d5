"""Access tokens: their sources, and a store that does not lose the chain of refresh tokens."""
