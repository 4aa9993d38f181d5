"""The service: its units, user and folders, and how they get onto a machine."""

from dcsync.systemd.as_service import ServiceUnit, become, find_unit, lacks_bus, run_as_service
from dcsync.systemd.install import SHARED_SETTINGS, Step, install_steps, shadowing, uninstall_steps
from dcsync.systemd.machine import Machine
from dcsync.systemd.program import refuse_unusable, this_program

__all__ = [
    "SHARED_SETTINGS",
    "Machine",
    "ServiceUnit",
    "Step",
    "become",
    "find_unit",
    "install_steps",
    "lacks_bus",
    "refuse_unusable",
    "run_as_service",
    "shadowing",
    "this_program",
    "uninstall_steps",
]
