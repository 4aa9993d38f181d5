"""Alerts: collected from the manifest, and dispatched to hooks, notifications and the heartbeat."""
