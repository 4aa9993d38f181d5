"""dcsync keeps a complete, verified, dated copy of every Autodesk Data Connector extract on a disk you own."""

__version__ = "0.2.0"

#: The name of the wheel and of the packages. On the Python Package Index, `dcsync` is a program of another author.
DISTRIBUTION = "data-connector-mirror"
