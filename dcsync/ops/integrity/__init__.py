"""Check and keep what was published: verify, repair, rebuild, prune."""
