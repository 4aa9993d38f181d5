"""What dcsync does, one verb a module. They get open adapters and plain settings, and print nothing."""
