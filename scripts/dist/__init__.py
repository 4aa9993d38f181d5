"""The files of a release, in dist/: `python -m scripts.dist [KIND ...]`. `make dist` builds all of them."""
