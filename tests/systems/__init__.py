"""The files of a release, installed and run in systems that boot: `make systems`."""
