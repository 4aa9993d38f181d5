"""The mirror on disk: root and lock, staging, publishing. Everything goes through folder descriptors (openat)."""
