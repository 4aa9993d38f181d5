"""What a person does with the packages of a release on a bare machine, and what the machine then shows.

The commands of the documentation are typed as its pages have them. Only three things differ: the client ID and the
account's ID are the sandbox's, which the README asks for, and `dcsync init` is told where the sandbox is.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

from dcsync import __version__
from tests.rigs.bare import MIRROR, Answer, Done, Machine, Terminal, terminal
from tests.rigs.steps import REPOSITORY, commands, one

#: Where the machine has the files of the release, and the wheels that pip would download.
RELEASE: Final = "/media/release"
WHEELS: Final = "/media/wheels"
HOME: Final = "/usr/lib/dcsync"
PERSON: Final = "ada"
SECRET: Final = "sandbox-secret"
PACKAGE: Final = "data-connector-mirror"
#: An interpreter, where it has packages, and whatever belongs to dcsync.
PYTHON_OR_US: Final = ".*/(python3[^/]*|site-packages|dist-packages|[^/]*dcsync[^/]*)"
#: What the sandbox has.
SNAPSHOTS: Final = 5
#: The index of pip is a folder, because the machine has no network. Compiling every module takes longer than the rest.
OFFLINE: Final = f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS} PIP_NO_COMPILE=1"
#: The account's ID in the README, which says to replace it.
EXAMPLE_ID: Final = "b.872264f8-2433-498d-8d36-16649ecb13fe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The sandbox, which has the machine's network."""

    machine: Machine
    base_url: str
    hub: str

    def allow(self, said: str) -> str:
        """Allow access at the address on the screen, as in a browser. Return where the browser then goes."""
        found = re.search(r"^ +(http://\S+/authorize\?\S+)\r$", said, re.MULTILINE)
        assert found, said
        address = urlsplit(found[1])
        form = urlencode({**dict(parse_qsl(address.query)), "user": PERSON, "answer": "allow"})
        page = f"http://{address.netloc}{address.path}"
        return self._curl("--write-out", "%{redirect_url}", "--data", form, page)

    def visit(self, said: str) -> str:
        """Do the same in a browser on the machine itself, which tells dcsync. Nothing is typed."""
        self._curl(self.allow(said))
        return ""

    def _curl(self, *arguments: str) -> str:
        command = ["nsenter", f"--target={self.machine.pid}", "--net", "curl", "--silent", "--show-error"]
        done = subprocess.run(
            [*command, "--output", "/dev/null", *arguments], check=True, capture_output=True, text=True
        )
        return done.stdout


@contextmanager
def api(machine: Machine) -> Iterator[Api]:
    """Run the sandbox with this machine's Python, in the network of the booted one."""
    command = ["nsenter", f"--target={machine.pid}", "--net", sys.executable, "-m", "tests.rigs.units_sandbox"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            yield Api(machine=machine, base_url=told["base_url"], hub=told["hub"])
        finally:
            process.kill()


def typed(text: str) -> Callable[[str], str]:
    """Return an answer that is always the same."""
    return lambda _: f"{text}\n"


def guide(api: Api) -> list[tuple[str, Answer]]:
    """Return the questions of `dcsync init` without options, and their answers. Enter takes the proposed value."""
    return [
        (r"Client ID: $", typed("sandbox")),
        (r"Client secret .*: $", typed(SECRET)),
        (r"Number \[\d\]: $", typed("2")),
        (r"Callback URL of the app .*: $", typed("")),
        (r"Mirror folder .*: $", typed("")),
        (r"Folder for tokens and the manifest.*: $", typed("")),
        (r"Sign in now\? .*: $", typed("")),
        (r"press Enter\.\r\n", api.visit),
        (r"Account \(number, or a part of its name\) \[1\]: $", typed("")),
        (r"Name of its folder .*: $", typed("acme")),
        (r"a number\) \[all\]: $", typed("")),
        # For the service, the mirror folder exists already.
        *[(r"(?:Create the folder|Mirror all extracts) now\? .*: $", typed(""))] * 2,
    ]


def type_it(shell: Terminal, api: Api, line: str) -> Done:
    """Type a command of the documentation, and answer what it asks for."""
    line = line.replace("YOUR_CLIENT_ID", "sandbox").replace(EXAMPLE_ID, api.hub)
    answers: list[tuple[str, Answer]] = []
    if line.startswith("apt install"):
        answers = [(r"\[Y/n\] $", typed("y"))]
    if line.startswith("dcsync init"):
        command, hash_, comment = line.partition("#")
        line = f"{command.rstrip()} --base-url {api.base_url} {hash_}{comment}".rstrip()
        answers = guide(api)
    if line.startswith("dcsync login"):
        by_hand = "Paste the address" in line
        answers = [(r"press Enter\.\r\n", (lambda said: api.allow(said) + "\n") if by_hand else api.visit)]
    return shell.type(line, answers, paste=SECRET if "paste the secret" in line else "")


def type_all(shell: Terminal, api: Api, lines: list[str]) -> list[dict[str, Any]]:
    """Type the commands one after another."""
    done = [(line, type_it(shell, api, line)) for line in lines]
    return [{"typed": line, "status": each.status, "said": each.said} for line, each in done]


def drive(machine: Machine) -> Iterator[tuple[str, Any]]:
    """Do it all in the order of an operator: what was seen, by step."""
    with api(machine) as sandbox:
        for step in (before, deb, upgrade, remove, rpm, purge, wheel, guided, workstation):
            yield step.__name__, step(machine, sandbox)


def before(machine: Machine, _: Api) -> dict[str, Any]:
    """See what the machine has."""
    programs = ("dcsync", "python3", "python3.11", "pip", "pipx", "dbus-daemon")
    packages = machine.run("dpkg-query", "--show", "--showformat=${Package}=${Version}\n").said.splitlines()
    return {
        "programs": [name for name in programs if machine.run("which", name).status == 0],
        "packages": packages,
        "python": machine.run("find", "/", "-xdev", "-regextype", "egrep", "-regex", PYTHON_OR_US).said,
        "zones": machine.run("ls", "/usr/share/zoneinfo").status == 0,
        "processes": machine.run("cat", "/proc/1/comm").said,
    }


def facts(machine: Machine, *paths: str) -> list[str]:
    """Return owner, group and mode of each path."""
    return machine.run("stat", "--format=%U:%G %a", *paths).said.splitlines()


def show(machine: Machine, unit: str = "dcsync.service") -> dict[str, str]:
    """Return a unit's properties."""
    lines = machine.run("systemctl", "show", unit).said.splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def snapshots(machine: Machine, root: str = "/srv/dcsync") -> list[str]:
    """Return the published snapshots."""
    found = machine.run(
        "find", root, "-path", "*/[0-9]*/_dcsync.json", "-not", "-path", "*/.dcsync/*", "-printf", "%U %h\n"
    )
    return sorted(found.said.splitlines()) if found.status == 0 else []


def mirrored(machine: Machine) -> dict[str, Any]:
    """Wait for the first snapshots by the service, and return how it is then."""
    machine.until("the service has mirrored everything", lambda: len(snapshots(machine)) == SNAPSHOTS)
    return {
        "unit": show(machine),
        "owners": sorted({line.split()[0] for line in snapshots(machine)}),
        "uid": machine.run("id", "--user", "dcsync").said.strip(),
        "check": machine.run("sh", "-c", "cd /srv/dcsync/*/large-*/latest && sha256sum --check --quiet SHA256SUMS"),
        "warnings": machine.run("journalctl", "--unit=dcsync", "--priority=warning", "--output=cat", "--quiet").said,
    }


def deb(machine: Machine, api: Api) -> dict[str, Any]:
    """Follow the README from the package to the first snapshot."""
    machine.run("cp", f"{RELEASE}/first.deb", f"/root/{PACKAGE}_{__version__}_amd64.deb")
    with terminal(machine) as shell:
        shell.type("export DEBIAN_FRONTEND=noninteractive; apt update")
        installed = type_it(shell, api, one("README.md", "Install", "apt install"))
        fresh = {
            "folders": facts(machine, "/srv/dcsync", "/etc/dcsync", "/etc/dcsync/service.d", "/var/lib/dcsync"),
            "verify": machine.run(
                "systemd-analyze", "verify", "--man=no", "dcsync.service", "dcsync@x.service", "dcsync-sync.timer"
            ),
            "unit": show(machine),
            "imports": {
                module: machine.run("/usr/bin/python3.11", "-c", f"import {module}").status
                for module in ("dcsync", "aiohttp", "pydantic")
            },
            "bus": machine.run("systemctl", "is-active", "dbus.socket").said.strip(),
        }
        typed = type_all(shell, api, commands("README.md", "Server"))
        first = mirrored(machine)
        pruned = shell.type("dcsync prune")
        reloaded = shell.type("systemctl reload dcsync")
    return {
        "installed": installed,
        "fresh": fresh,
        "typed": typed,
        "first": first,
        "pruned": pruned,
        "reloaded": reloaded,
        "by_root": machine.run("journalctl", "--unit=dcsync-by-root-*", "--output=cat", "--grep=prune").said,
    }


def upgrade(machine: Machine, _: Api) -> dict[str, Any]:
    """Install the next version over it while the daemon runs."""
    before = show(machine)["MainPID"]
    upgraded = machine.run("apt-get", "install", "-y", f"{RELEASE}/second.deb")
    machine.until("the daemon runs", lambda: show(machine)["ActiveState"] == "active")
    return {
        "upgraded": upgraded,
        "same_pid": show(machine)["MainPID"] == before,
        "files": [name for name in ("first", "second") if machine.has(f"{HOME}/{name}")],
        "config": machine.has("/etc/dcsync/config.toml"),
        "left": machine.run("sh", "-c", "ls -d /run/dcsync-*").said if machine.has("/run/dcsync-upgrade") else "",
    }


KEPT: Final = ("/etc/dcsync/config.toml", "/etc/dcsync/service.d/secrets.conf", "/var/lib/dcsync/manifest.sqlite")


def remove(machine: Machine, _: Api) -> dict[str, Any]:
    """Remove it while the daemon runs."""
    removed = machine.run("apt-get", "remove", "-y", PACKAGE)
    return {"removed": removed, **gone(machine)}


def gone(machine: Machine) -> dict[str, Any]:
    """Return what is left of a removed package."""
    return {
        "unit": show(machine)["LoadState"],
        "kept": [path for path in KEPT if machine.has(path)],
        "snapshots": len(snapshots(machine)),
        "left": [path for path in (HOME, "/usr/bin/dcsync", "/run/dcsync-upgrade") if machine.has(path)],
    }


def rpm(machine: Machine, _: Api) -> dict[str, Any]:
    """Install, upgrade and remove the .rpm. The configuration and the state of the .deb are still there."""
    # The package rpm needs Perl and more, to build packages.
    machine.run("apt-get", "install", "-y", "--no-install-recommends", "rpm-common")
    machine.run("sh", "-c", f"dpkg-deb --fsys-tarfile {MIRROR}/rpm_*.deb | tar -x -C / ./usr/bin/rpm")
    options = ("--nodeps", "--force-debian")  # the system's packages are not in its database
    installed = machine.run("rpm", "--install", *options, f"{RELEASE}/dcsync.rpm")
    machine.run("systemctl", "enable", "--now", "--no-block", "dcsync")
    machine.until("the daemon runs", lambda: show(machine)["ActiveState"] == "active")
    started = show(machine)
    # The scripts run as in an upgrade to another version.
    upgraded = machine.run("rpm", "--upgrade", "--force", *options, f"{RELEASE}/dcsync.rpm")
    machine.until("the daemon runs", lambda: show(machine)["ActiveState"] == "active")
    same_pid = show(machine)["MainPID"] == started["MainPID"]
    erased = machine.run("rpm", "--erase", *options, PACKAGE)
    return {
        "done": [installed, upgraded, erased],
        "started": started["ActiveState"],
        "same_pid": same_pid,
        **gone(machine),
    }


def purge(machine: Machine, _: Api) -> dict[str, Any]:
    """Purge it. The same script keeps a mirror that is inside the state."""
    script = machine.read(f"/var/lib/dpkg/info/{PACKAGE}.postrm")
    purged = machine.run("apt-get", "purge", "-y", PACKAGE)
    after = {
        "purged": purged,
        "folders": [path for path in ("/etc/dcsync", "/var/lib/dcsync") if machine.has(path)],
        "snapshots": len(snapshots(machine)),
        "user": machine.run("id", "--user", "--name", "dcsync").said.strip(),
        "links": machine.run("sh", "-c", "ls /etc/systemd/system/*.wants | grep dcsync").said,
    }
    machine.run("sh", "-c", "mkdir -p /var/lib/dcsync/mirror/.dcsync && touch /var/lib/dcsync/mirror/.dcsync/instance")
    spared = machine.run("sh", "-c", script, "postrm", "purge")
    return {**after, "spared": spared, "mirror": machine.has("/var/lib/dcsync/mirror/.dcsync/instance")}


def wheel(machine: Machine, api: Api) -> dict[str, Any]:
    """Follow the documentation from the wheel to the first snapshot. The mirror of before is moved away."""
    machine.run("sh", "-c", f"rm -r /var/lib/dcsync && mv /srv/dcsync /srv/before && cp {RELEASE}/*.whl /root")
    with terminal(machine) as shell:
        shell.type(OFFLINE)
        installed = type_all(shell, api, commands("docs/start/install.md", "On another server"))
        typed = type_all(shell, api, commands("README.md", "Server"))
        return {"installed": installed, "typed": typed, "first": mirrored(machine)}


def guided(machine: Machine, api: Api) -> dict[str, Any]:
    """Let `dcsync init` lead root from an installed service to the first snapshot and to the daemon."""
    machine.run("systemctl", "disable", "--now", "dcsync")
    machine.run("sh", "-c", "find /etc/dcsync /var/lib/dcsync /srv/dcsync -mindepth 1 -not -name service.d -delete")
    with terminal(machine) as shell:
        done = type_all(shell, api, ["dcsync init", "dcsync doctor", "systemctl enable --now dcsync"])
    return {
        "typed": done,
        "secret": facts(machine, "/etc/dcsync/client-secret", "/etc/dcsync/config.toml"),
        "drop_in": machine.read("/etc/dcsync/service.d/secrets.conf"),
        "first": mirrored(machine),
    }


def workstation(machine: Machine, api: Api) -> dict[str, Any]:
    """Follow the README as a user without rights, on a machine that has nothing else of dcsync."""
    machine.run("dcsync", "service", "uninstall")
    machine.run("sh", "-c", "rm -r /opt/pipx /usr/local/bin/dcsync /etc/dcsync /var/lib/dcsync")
    machine.run("useradd", "--create-home", "--shell=/bin/bash", PERSON)
    machine.run("sh", "-c", f"cp {RELEASE}/*.whl /home/{PERSON}")
    with terminal(machine, PERSON) as shell:
        shell.type(OFFLINE)
        installed = type_all(shell, api, [one("README.md", "Install", "pipx install"), "pipx ensurepath"])
    with terminal(machine, PERSON) as shell:
        typed = type_all(shell, api, commands("README.md", "First snapshot on a workstation"))
        report = shell.type("ls ~/dcsync/index.html")
    return {
        "installed": installed,
        "typed": typed,
        "report": report,
        "snapshots": len(snapshots(machine, f"/home/{PERSON}/dcsync")),
        "secret": facts(machine, f"/home/{PERSON}/.config/dcsync/client-secret"),
    }
