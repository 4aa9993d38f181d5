"""Keep rich out of the processes that do not draw: it takes 30 ms and 5 MB, and structlog would import it."""

import sys

_NAME = "rich"


def keep_rich_out() -> None:
    """Let `import rich` fail from now on. structlog then has no tracebacks by rich, which dcsync does not use."""
    # None makes an import fail (Python, The import system, "The module cache").
    sys.modules.setdefault(_NAME, None)  # type: ignore[arg-type]


def let_rich_in() -> None:
    """Let `import rich` work again. Call this before drawing."""
    if sys.modules.get(_NAME, sys) is None:
        del sys.modules[_NAME]
