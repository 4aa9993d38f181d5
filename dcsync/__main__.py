"""`python -m dcsync` is `dcsync`."""

from dcsync.cli import main

if __name__ == "__main__":
    main()
