"""The service: its units, user and folders, and how they get onto a machine."""

from dcsync.systemd.install import SHARED_SETTINGS, Step, install_steps, shadowing, uninstall_steps
from dcsync.systemd.machine import Machine
from dcsync.systemd.program import refuse_unusable, this_program

__all__ = [
    "SHARED_SETTINGS",
    "Machine",
    "Step",
    "install_steps",
    "refuse_unusable",
    "shadowing",
    "this_program",
    "uninstall_steps",
]
