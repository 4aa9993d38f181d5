"""The daemon: what `dcsync run` is made of beyond one run."""
