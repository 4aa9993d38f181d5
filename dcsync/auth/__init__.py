"""Access tokens: where they come from, and a store that does not lose the chain of refresh tokens."""
