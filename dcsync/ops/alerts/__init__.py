"""What someone should know: alerts are collected after a run and dispatched to hooks, messages and the heartbeat."""
