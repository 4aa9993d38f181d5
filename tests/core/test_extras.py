"""What to do when an extra is missing."""

from __future__ import annotations

from dcsync import __version__
from dcsync.core.extras import install_hint


def test_the_hint_names_the_distribution_the_file_of_this_version_and_the_checkout() -> None:
    hint = install_hint("notify")

    assert "data-connector-mirror[notify]" in hint
    assert f"'./data_connector_mirror-{__version__}-py3-none-any.whl[notify]'" in hint
    assert "'.[notify]' in a checkout" in hint


def test_an_extra_that_no_package_has_says_where_it_is_explained() -> None:
    assert "A package, the image or the single file cannot have it: `dcsync explain load`" in install_hint("load")
    assert "package, the image" not in install_hint("history")
