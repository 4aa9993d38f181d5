"""Check and keep the published snapshots: verify, repair, rebuild, prune."""
