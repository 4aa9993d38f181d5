"""The units: what systemd's tools say of them, and how the daemon does under a real systemd (fault D7, D12, S9)."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from difflib import ndiff
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.rigs import confined, nspawn, units_sandbox

if TYPE_CHECKING:
    from tests.rigs.nspawn import Booted

UNITS: Final = Path(__file__).parents[2] / "dcsync/systemd/files"
SERVICES: Final = ("dcsync.service", "dcsync@.service", "dcsync-sync.service")
PROGRAM: Final = "/usr/local/bin/dcsync"


def settings(text: str) -> list[str]:
    """Return a unit's lines without comments and blanks."""
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def changes(old: str, new: str) -> list[str]:
    """Return the settings that differ, as "- old" and "+ new"."""
    lines = ndiff(settings((UNITS / old).read_text()), settings((UNITS / new).read_text()))
    return [line for line in lines if line[0] in "+-"]


# --- as they are on paper ---------------------------------------------------------------------------------------------


@pytest.mark.needs_tool("systemd-analyze")
@pytest.mark.parametrize("name", SERVICES)
def test_the_exposure_is_at_most_1_1(name: str) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=11", UNITS / name],
        check=False,
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stdout
    assert done.stderr == ""


@pytest.mark.needs_tool("systemd-analyze")
@pytest.mark.parametrize("name", [*SERVICES, "dcsync-sync.timer"])
def test_systemd_finds_nothing_to_remark(tmp_path: Path, name: str) -> None:
    # It wants to see the program; all else is as it will be installed. Unknown keys give no exit status, only words.
    for path in UNITS.glob("*.[st][ei]*[er]"):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, "/bin/true"))

    done = subprocess.run(
        ["systemd-analyze", "verify", tmp_path / name], check=False, capture_output=True, text=True, cwd=tmp_path
    )

    assert done.stderr == ""
    assert done.returncode == 0


def test_an_instance_differs_from_the_daemon_in_its_name_only() -> None:
    assert changes("dcsync.service", "dcsync@.service") == [
        "- Description=Mirror of Autodesk Data Connector extracts",
        "+ Description=Mirror of Autodesk Data Connector extracts (%i)",
        "- Documentation=man:systemd.exec(5) file:/etc/dcsync/config.toml",
        "+ Documentation=man:systemd.exec(5) file:/etc/dcsync/%i.toml",
        "- ExecStart=/usr/local/bin/dcsync --config /etc/dcsync/config.toml run",
        "+ ExecStart=/usr/local/bin/dcsync --config /etc/dcsync/%i.toml run",
        "- StateDirectory=dcsync",
        "+ StateDirectory=dcsync/%i",
        "- RuntimeDirectory=dcsync",
        "+ RuntimeDirectory=dcsync/%i",
    ]


def test_one_pass_is_confined_like_the_daemon() -> None:
    differing = {line[2:].split("=")[0] for line in changes("dcsync.service", "dcsync-sync.service")}

    assert differing <= {
        *("[Install]", "WantedBy"),
        *("Description", "Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "SuccessExitStatus"),
        # The run of a timer ends, and its metrics stay.
        "RuntimeDirectoryPreserve",
        *("Restart", "RestartSec", "RestartPreventExitStatus", "StartLimitIntervalSec", "StartLimitBurst"),
    }


# --- under a real systemd ---------------------------------------------------------------------------------------------

DRIVER: Final = """[Unit]
SuccessAction=exit
FailureAction=exit
[Service]
Type=oneshot
ExecStart=/usr/local/bin/units-driver
StandardError=file:/out/complaint
TimeoutStartSec=500
"""
SANDBOX: Final = """[Service]
ExecStart=/usr/local/bin/units-sandbox
StandardOutput=file:/run/sandbox.output
"""
TLS_SANDBOX: Final = """[Service]
RuntimeDirectory=tls
ExecStart=/usr/local/bin/units-sandbox /run/tls
StandardOutput=file:/run/tls-sandbox.output
"""
#: Only this unit can resolve the names.
PROXY: Final = """[Service]
ExecStart=/usr/bin/tinyproxy -d -c /usr/local/etc/tinyproxy.conf
BindReadOnlyPaths=/usr/local/etc/hosts-of-the-proxy:/etc/hosts
"""
PROXY_CONF: Final = """Port 3128
Listen 127.0.0.1
Timeout 600
LogLevel Connect
BasicAuth dcsync canary-of-the-proxy
"""
#: Leaves the names in its environment and the event that it was given.
HOOK: Final = """#!/bin/sh
{ env | cut -d= -f1 | tr '\\n' ' '; echo; cat; } > "$1.new" && mv "$1.new" "$1"
"""
STUBBORN_HOOK: Final = """#!/bin/sh
trap '' TERM
touch "$1"
sleep 1234
sleep 1234
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the driver saw, by step, and what was left behind."""

    steps: dict[str, Any]
    booted: Booted

    def __getitem__(self, step: str) -> Any:
        """Return a step; fail with its traceback when it broke."""
        assert step in self.steps, f"the driver did not come to {step}: {self.booted.console[-2000:]}"
        assert "broke" not in self.steps[step], self.steps[step]["broke"]
        return self.steps[step]


def probe_unit() -> str:
    """Return the daemon's unit with another program, and what goes with the daemon left out."""
    text = (UNITS / "dcsync.service").read_text()
    text = re.sub(r"^(Type|NotifyAccess|WatchdogSec|Restart\w*|ExecReload)=.*\n", "", text, flags=re.MULTILINE)
    return re.sub(
        r"^ExecStart=.*$",
        "Type=oneshot\nExecStart=/usr/local/bin/confined\nStandardOutput=file:/out/confined.json\n"
        "LoadCredential=client-secret:/etc/dcsync/client-secret",
        text,
        flags=re.MULTILINE,
    )


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """Boot once, drive the units through all of it, and return what was seen."""
    folder = tmp_path_factory.mktemp("systemd")
    files = {
        "/etc/systemd/system/dcsync-probe.service": probe_unit(),
        "/etc/systemd/system/sandbox.service": SANDBOX,
        "/etc/systemd/system/tls-sandbox.service": TLS_SANDBOX,
        "/etc/systemd/system/proxy.service": PROXY,
        "/usr/local/etc/tinyproxy.conf": PROXY_CONF,
        "/usr/local/etc/hosts-of-the-proxy": f"127.0.0.1 localhost {units_sandbox.API} {units_sandbox.STORAGE}\n",
        "/etc/systemd/system/driver.service": DRIVER,
        "/usr/local/bin/hook": HOOK,
        "/usr/local/bin/stubborn-hook": STUBBORN_HOOK,
        PROGRAM: nspawn.python("-m dcsync"),
        "/usr/local/bin/confined": nspawn.python(f"{nspawn.SOURCES}/tests/rigs/confined.py"),
        "/usr/local/bin/units-sandbox": nspawn.python(f"{nspawn.SOURCES}/tests/rigs/units_sandbox.py"),
        "/usr/local/bin/units-driver": nspawn.python(f"{nspawn.SOURCES}/tests/rigs/units_driver.py"),
    }
    booted = nspawn.boot(folder, files=files, unit="driver.service", timeout_s=520)
    report = booted.results / "observed.json"
    assert report.exists(), (booted.results / "complaint").read_text() + booted.console[-4000:]
    return Seen(steps=json.loads(report.read_text()), booted=booted)


@pytest.mark.machine
@pytest.mark.needs_root
@pytest.mark.needs_tool("systemd-nspawn")
@pytest.mark.needs_tool("tinyproxy")
@pytest.mark.timeout(600)  # the boot, and all that is driven in it; alone it takes 23 s
class TestUnderSystemd:
    """One boot, looked at from many sides."""

    def test_service_install_makes_its_user_and_folders_and_nothing_the_second_time(self, seen: Seen) -> None:
        setup, first, again = seen["look_at_setup"], seen["install"]["first"], seen["install"]["again"]

        assert (first["exit"], again["exit"]) == (0, 0), first["said"]
        assert "create /usr/local/lib/systemd/system/dcsync.service\n" in first["said"]
        assert "create the user dcsync with systemd-sysusers\n" in first["said"]
        assert [line for line in again["said"].splitlines() if "create" in line or "link" in line] == []
        assert setup["shell"] == "/usr/sbin/nologin"
        assert setup["root"] == {"uid": setup["uid"], "gid": setup["gid"], "mode": "0o755"}
        assert setup["etc"] == {"uid": 0, "gid": setup["gid"], "mode": "0o750"}
        assert setup["shared"] == {"uid": 0, "gid": 0, "mode": "0o755"}
        # systemd-tmpfiles has made the first, from the installed file.
        assert setup["state"] == seen["run"]["state"] == {"uid": setup["uid"], "gid": setup["gid"], "mode": "0o700"}

    @pytest.mark.parametrize("unit", ["daemon", "instance", "pass"])
    def test_all_units_share_the_drop_ins_of_the_configuration_s_folder(self, seen: Seen, unit: str) -> None:
        shown = {
            "daemon": seen["run"]["at_start"],
            "instance": seen["drain"]["busy"],
            "pass": seen["one_pass"]["alone"][1],
        }[unit]

        # The daemon and the pass would not have mirrored anything without the credentials in it.
        assert "/secrets.conf" in shown["DropInPaths"]

    def test_service_uninstall_stops_and_removes_the_units_and_keeps_all_else(self, seen: Seen) -> None:
        removed = seen["remove"]

        assert removed["removed"]["exit"] == 0, removed["removed"]["said"]
        assert set(removed["units"].values()) == {"not-found"}
        assert removed["left_running"] == removed["links"] == []
        assert removed["kept"] == [0, True, "/var/lib/dcsync"]

    def test_systemd_finds_nothing_to_remark_where_all_is_installed(self, seen: Seen) -> None:
        assert seen["look_at_setup"]["verify"] == ""

    def test_it_counts_as_started_when_it_says_so_and_says_in_words_how_it_stands(self, seen: Seen) -> None:
        started = seen["run"]["at_start"]

        assert seen["run"]["start"]["exit"] == 0
        assert (started["ActiveState"], started["NRestarts"]) == ("active", "0")
        # Python alone takes longer to its first line; a service that is "started" at its exec would show no gap.
        ready, executed = started["ActiveEnterTimestampMonotonic"], started["ExecMainStartTimestampMonotonic"]
        assert int(ready) - int(executed) > 50_000
        assert len(started["StatusText"].split()) > 1
        assert seen["run"]["later"]["StatusText"].startswith("waiting; next poll at ")

    def test_what_it_mirrors_is_its_own_and_anybody_can_read_and_prove_it(self, seen: Seen) -> None:
        setup = seen["look_at_setup"]

        assert seen["run"]["proof"] == 0
        assert seen["run"]["owners"] == [[setup["uid"], setup["gid"]]]
        assert seen["run"]["modes"] == ["0o444"]

    def test_sigusr1_polls_now(self, seen: Seen) -> None:
        assert seen["poll_now"]["kill"]["exit"] == 0
        assert seen["poll_now"]["new"] == 1, seen["poll_now"]["said"]
        assert seen["poll_now"]["same_pid"]

    def test_a_hook_runs_and_cannot_speak_for_the_daemon(self, seen: Seen) -> None:
        names, event = seen["poll_now"]["hooked"]

        assert "PATH" in names.split()
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY"} & set(names.split())
        assert json.loads(event)

    @pytest.mark.parametrize("kind", ["good", "bad", "unreadable", "again"])
    def test_a_reload_keeps_the_process(self, seen: Seen, kind: str) -> None:
        reloaded = seen["reload"][kind]

        assert reloaded["reload"]["exit"] == 0
        assert reloaded["same_pid"]
        assert (reloaded["shown"]["ActiveState"], reloaded["shown"]["NRestarts"]) == ("active", "0")

    @pytest.mark.parametrize("kind", ["bad", "unreadable"])
    def test_of_a_bad_configuration_it_says_where_and_that_the_old_one_is_kept(self, seen: Seen, kind: str) -> None:
        reloaded = seen["reload"][kind]
        place = re.compile(r"/etc/dcsync/config\.toml:\d+: ")

        assert place.search("\n".join(reloaded["said"]))
        assert place.search(reloaded["shown"]["StatusText"])
        assert "the previous configuration" in reloaded["shown"]["StatusText"]

    def test_the_daemon_does_a_pass_and_the_commands_of_root(self, seen: Seen) -> None:
        for done, shown in (seen["one_pass"]["beside"], seen["one_pass"]["alone"]):
            assert done["exit"] == 0
            assert shown["Result"] == "success"
        said = "\n".join(seen["one_pass"]["said"])
        assert "sandbox: nothing new" in said
        assert "another dcsync holds" not in said
        (sync, repair, poll) = seen["one_pass"]["by_root"]
        assert (sync[0], sync[1][:20]) == (0, "sandbox: nothing new"), sync
        assert (repair[0], "no problems found" in repair[1]) == (0, True), repair
        assert poll == [0, "the daemon polls now: sandbox\n", ""], poll
        assert seen["one_pass"]["of_root"] == []

    def test_it_stops_at_once_when_it_has_nothing_to_do(self, seen: Seen) -> None:
        # What takes longer than TimeoutStopSec= is killed, and its result is "timeout".
        assert seen["one_pass"]["stopped_as"]["Result"] == "success"
        assert seen["one_pass"]["stopped_as"]["ActiveState"] == "inactive"

    def test_a_hanging_daemon_is_killed_and_started_again(self, seen: Seen) -> None:
        hang = seen["hang"]
        said = "\n".join(hang["said"])

        assert hang["fed"], "it was killed although it was well"
        assert "Watchdog timeout" in said
        assert "Failed with result 'watchdog'" in said
        # Where it hung.
        assert "most recent call first" in said
        assert hang["gone"]
        assert hang["new_pid"]
        assert hang["again"]["NRestarts"] == "1"

    def test_no_core_file_is_left(self, seen: Seen) -> None:
        assert seen["hang"]["cores"] == []
        assert "dumped core" not in "\n".join(seen["hang"]["said"])

    @pytest.mark.parametrize(("why", "status"), [("bad_config", "2"), ("not_mounted", "14"), ("no_credential", "243")])
    def test_what_a_restart_cannot_mend_is_not_tried_again(self, seen: Seen, why: str, status: str) -> None:
        for shown in (seen["refuse"][why]["ended"], seen["refuse"][why]["later"]):
            assert shown["ActiveState"] == "failed"
            assert shown["ExecMainStatus"] == status
            assert shown["NRestarts"] == "0"

    def test_a_mirror_that_another_one_holds_is_tried_until_it_is_free(self, seen: Seen) -> None:
        held = seen["refuse"]["held"]

        assert "status=11" in "\n".join(held["said"])
        assert held["held"]["ActiveState"] == "activating"
        assert held["freed"]["ActiveState"] == "active"

    def test_it_stops_in_time_in_the_middle_of_a_download_and_goes_on_from_there(self, seen: Seen) -> None:
        drain = seen["drain"]

        assert drain["stop"]["exit"] == 0
        assert drain["after"]["Result"] == "success"
        [size] = drain["left"].values()
        assert 0 < size < units_sandbox.BIG
        assert f'"fetched_bytes": {units_sandbox.BIG - size},' in "\n".join(drain["said"])

    def test_it_stops_in_time_also_when_a_hook_does_not_and_leaves_nothing_running(self, seen: Seen) -> None:
        stopped, shown = seen["drain"]["stubborn"]

        assert stopped["exit"] == 0
        assert shown["Result"] == "success"
        assert seen["drain"]["left_running"] == []

    def test_behind_a_proxy_it_mirrors_by_a_credential_and_by_the_environment(self, seen: Seen) -> None:
        assert seen["proxied"]["start"]["exit"] == 0
        for kind in ("by_credential", "by_variable"):
            assert min(seen["proxied"][kind].values()) > 0, seen["proxied"][kind]
        assert seen["proxied"]["after"]["Result"] == "success"

    def test_an_instance_has_a_state_of_its_own(self, seen: Seen) -> None:
        setup = seen["look_at_setup"]

        assert seen["drain"]["state"] == {"uid": setup["uid"], "gid": setup["gid"], "mode": "0o700"}

    def test_it_writes_nowhere_but_into_its_folders(self, seen: Seen) -> None:
        uid = seen["look_at_setup"]["uid"]
        written = {path.path for path in seen.booted.written if path.uid == uid}
        # The manager, the journal, and the driver that has changed the configuration.
        others = {path.path for path in seen.booted.written if path.uid != uid and not path.is_folder}

        assert written
        assert [
            path for path in written if not re.match(r"/(srv/(dcsync|slow|proxied)|var/lib/dcsync)(/|$)", path)
        ] == []
        assert [
            path for path in others if not re.match(r"/etc/(dcsync|systemd)/|/var/log/(journal/|wtmp$)", path)
        ] == []

    def test_others_can_read_the_metrics_file(self, seen: Seen) -> None:
        assert seen["run"]["metrics"]["mode"] == "0o644"
        assert seen["run"]["runtime"] == {**seen["run"]["state"], "mode": "0o755"}

    def test_a_command_of_root_runs_as_the_service_with_its_credentials(self, seen: Seen) -> None:
        by_root, uid = seen["by_root"], seen["look_at_setup"]["uid"]

        assert by_root["accounts"]["status"] == 0, by_root["accounts"]
        assert len(json.loads(by_root["accounts"]["out"])["accounts"]) > 0
        checks = {check["name"]: check for check in json.loads(by_root["doctor"]["out"])["checks"]}
        assert checks["secrets"]["level"] == checks["state.dir"]["level"] == checks["token"]["level"] == "ok", checks
        assert f"private to uid {uid}" in checks["state.dir"]["message"]
        assert by_root["mistaken"]["status"] == 2
        assert "nosuch" in by_root["mistaken"]["err"]
        assert by_root["owners"] == [uid]

    def test_no_secret_is_in_the_journal(self, seen: Seen) -> None:
        journal = (seen.booted.results / "journal").read_text()

        assert "Watchdog timeout" in journal
        assert [secret for secret in seen["look_at_setup"]["secrets"] if secret in journal] == []

    def test_the_journal_has_the_priority_of_each_line(self, seen: Seen) -> None:
        def levels(name: str) -> set[str]:
            lines = (seen.booted.results / f"journal-{name}").read_text().splitlines()
            return {json.loads(line)["level"] for line in lines if line.startswith("{")}

        assert {"info"} <= levels("others") <= {"debug", "info"}  # debug: since a reload
        assert levels("warnings") <= {"warning", "error"}
        assert "warning" in levels("warnings")

    @pytest.mark.parametrize("folder", ["/srv/dcsync", "/var/lib/dcsync", "/tmp", "/var/tmp", "/dev/shm"])  # noqa: S108
    def test_a_hook_may_write_here(self, seen: Seen, folder: str) -> None:
        assert seen["confine"]["can"][f"write {folder}"] == "done"

    def test_a_hook_may_write_nowhere_else(self, seen: Seen) -> None:
        can = {what for what, how in seen["confine"]["can"].items() if what.startswith("write /") and how == "done"}

        assert can == {f"write {folder}" for folder in ("/srv/dcsync", "/var/lib/dcsync", *confined.PRIVATE)}
        assert seen["confine"]["left_by_hooks"] == []

    @pytest.mark.parametrize("what", confined.NEEDED)
    def test_what_it_needs_works(self, seen: Seen, what: str) -> None:
        assert seen["confine"]["can"][what] == "done"

    @pytest.mark.parametrize(("what", "error"), sorted(confined.FORBIDDEN.items()))
    def test_what_it_does_not_need_is_refused(self, seen: Seen, what: str, error: str) -> None:
        assert seen["confine"]["can"][what] == error

    def test_it_has_no_rights_to_give_away(self, seen: Seen) -> None:
        can = seen["confine"]["can"]

        assert int(can["CapEff"], 16) == int(can["CapBnd"], 16) == 0
        assert can["NoNewPrivs"] == "1"
        assert can["core limit"] == "(0, 0)"
