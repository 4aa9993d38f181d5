"""Is the mirror still what was published: verify, repair, rebuild, prune."""
