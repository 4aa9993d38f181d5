"""dcsync keeps a complete, verified, dated copy of every Autodesk Data Connector extract on a disk you own."""

__version__ = "0.2.0"
