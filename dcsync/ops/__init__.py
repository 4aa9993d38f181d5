"""The operations of dcsync, one per module. They get open adapters and plain settings, and print nothing."""
