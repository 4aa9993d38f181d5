"""The work queue of several hosts, on procrastinate. Nothing of it is imported where the manifest is a file."""
