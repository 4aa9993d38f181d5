"""Runs inside the container that `nspawn.boot` boots: drives the units, and writes down what it saw.

It is started by a unit of its own and judges nothing: it leaves `observed.json` for the tests, as far as it came, and
with a traceback if it broke.
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import pwd
import shutil
import signal
import subprocess
import threading
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.rigs.units_system import (
    COMPANY_CA,
    CREDENTIALS,
    DROP_INS,
    ETC,
    FIXED,
    MAIN,
    MARK,
    METRICS,
    OUT,
    PASS,
    PROBE,
    PROGRAM,
    PROXIED,
    PROXIED_ROOT,
    PROXY,
    REFRESHING,
    ROOT,
    SANDBOX,
    SHARED,
    SLOW,
    SLOW_ROOT,
    STATE,
    TINYPROXY,
    TLS_OUTPUT,
    TLS_SANDBOX,
    Api,
    facts,
    snapshots,
    start_sandbox,
    until,
    write_config,
    write_secret,
)


def drive() -> None:
    """Do it all, and leave what was seen in `observed.json`. A step that breaks does not stop the next."""
    observed: dict[str, Any] = {}
    api = start_sandbox()
    for step in (
        install,
        look_at_setup,
        run,
        by_root,
        poll_now,
        reload,
        one_pass,
        confine,
        hang,
        refuse,
        drain,
        proxied,
        remove,
    ):
        try:
            observed[step.__name__] = step(api)
        except Exception:  # noqa: BLE001 - told to the tests
            observed[step.__name__] = {"broke": traceback.format_exc()}
        (OUT / "observed.json").write_text(json.dumps(observed, indent=1))
    subprocess.run(["journalctl", "--sync"], check=False)
    with (OUT / "journal").open("w") as file:
        subprocess.run(["journalctl", "--boot", "--output=short-monotonic"], check=False, stdout=file)
    of_unit = ["journalctl", "--boot", "--output=cat", f"_SYSTEMD_UNIT={MAIN.name}"]
    for name, priorities in (("warnings", "emerg..warning"), ("others", "notice..debug")):
        with (OUT / f"journal-{name}").open("w") as file:
            subprocess.run([*of_unit, f"--priority={priorities}"], check=False, stdout=file)


def service(*arguments: str) -> dict[str, Any]:
    """Run `dcsync service`."""
    done = subprocess.run([PROGRAM, "service", *arguments], check=False, capture_output=True, text=True)
    return {"exit": done.returncode, "said": done.stdout + done.stderr}


def install(_: Api) -> dict[str, Any]:
    """Install the units, the user and the folders, and let systemd create a folder again as it would at a boot."""
    installed = service("install", "--program", PROGRAM)
    again = service("install", "--program", PROGRAM)
    STATE.rmdir()
    subprocess.run(["systemd-tmpfiles", "--create", "dcsync.conf"], check=True)
    return {"first": installed, "again": again}


def remove(_: Api) -> dict[str, Any]:
    """Uninstall the service while two of its units are active and enabled."""
    before = len(snapshots(ROOT))
    for unit in (MAIN, SLOW):
        unit.do("enable", "--now")
    removed = service("uninstall")
    return {
        "removed": removed,
        "units": {unit.name: unit.show()["LoadState"] for unit in (MAIN, SLOW, PASS)},
        "left_running": [unit.name for unit in (MAIN, SLOW) if unit.pid()],
        "links": [str(path) for path in DROP_INS.glob("*.wants/dcsync*")],
        "kept": [len(snapshots(ROOT)) - before, (ETC / "config.toml").exists(), pwd.getpwnam("dcsync").pw_dir],
    }


def look_at_setup(api: Api) -> dict[str, Any]:
    """See what sysusers, tmpfiles and `systemd-analyze` made of the files."""
    verified = subprocess.run(
        ["systemd-analyze", "verify", MAIN.name, SLOW.name, "dcsync-sync.timer"], check=False, capture_output=True
    )
    user = pwd.getpwnam("dcsync")
    return {
        "verify": verified.stderr.decode(),
        "uid": user.pw_uid,
        "gid": user.pw_gid,
        "shell": user.pw_shell,
        "root": facts(ROOT),
        "etc": facts(ETC),
        "state": facts(STATE),
        "shared": facts(SHARED),
        "secrets": [api.refresh_token, api.access_token, "sandbox-secret", "canary-of-the-proxy"],
    }


def run(api: Api) -> dict[str, Any]:
    """Start the daemon and wait until it has mirrored what there is."""
    write_secret("client-secret", "sandbox-secret\n")
    write_secret("refresh-token", api.refresh_token)
    write_secret("access-token", api.access_token)
    write_config(api, auth=REFRESHING, more=f'[metrics]\ntextfile = "{METRICS}"')
    (SHARED / "secrets.conf").write_text(f"[Service]\n{CREDENTIALS}")
    MAIN.drop_in("RestartSec=500ms\n")
    MARK.touch()
    started = MAIN.do("start")
    at_start = MAIN.show()
    until("all that there is has been mirrored", lambda: len(snapshots(ROOT)) == 5)
    until("all latest links stand", lambda: len(list(ROOT.glob("sandbox/*/latest"))) == 3)
    newest = (next(ROOT.glob("sandbox/*/latest"))).resolve()
    # A person with no part in dcsync can read and prove it.
    proof = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sha256sum", "--check", "SHA256SUMS"],
        cwd=newest,
        check=False,
        capture_output=True,
    )
    until("the metrics are there", METRICS.is_file)
    until("the daemon has nothing to do", lambda: MAIN.show()["StatusText"].startswith("waiting"))
    return {
        "start": started,
        "at_start": at_start,
        "later": MAIN.show(),
        "proof": proof.returncode,
        "owners": sorted({(path.lstat().st_uid, path.lstat().st_gid) for path in (ROOT / "sandbox").rglob("*")}),
        "modes": sorted({oct(path.stat().st_mode & 0o777) for path in newest.rglob("*") if path.is_file()}),
        "state": facts(STATE),
        "runtime": facts(METRICS.parent),
        "metrics": facts(METRICS),
    }


def by_root(_: Api) -> dict[str, Any]:
    """Run commands as root, beside the daemon: they need its credentials, and must leave no file of root."""
    subprocess.run(["systemctl", "start", "dbus.socket"], check=True)
    seen: dict[str, Any] = {}
    for name, arguments in (
        ("accounts", ["accounts", "--json"]),
        ("doctor", ["--config", "config.toml", "doctor", "--json"]),
        ("mistaken", ["diff", "nosuch", "latest"]),
    ):
        done = subprocess.run([PROGRAM, *arguments], cwd=ETC, check=False, capture_output=True, text=True)
        seen[name] = {"status": done.returncode, "out": done.stdout, "err": done.stderr}
    seen["owners"] = sorted({path.lstat().st_uid for path in (STATE, *STATE.rglob("*"))})
    return seen


def poll_now(api: Api) -> dict[str, Any]:
    """Ask for a poll by SIGUSR1, long before the next one is due, when there is a new job; its hook runs."""
    hooked = STATE / "hooked"
    hooked.unlink(missing_ok=True)
    SANDBOX.do("kill", "--signal=USR1")
    pid, lines, before = MAIN.pid(), len(MAIN.journal()), len(snapshots(ROOT))
    killed = MAIN.do("kill", "--signal=USR1", "--kill-whom=main")
    with suppress(TimeoutError):
        until("the new job is mirrored", lambda: len(snapshots(ROOT)) > before)
        until("the hook has run", hooked.exists)
    return {
        "kill": killed,
        "new": len(snapshots(ROOT)) - before,
        "hooked": hooked.read_text().splitlines() if hooked.exists() else [],
        "same_pid": MAIN.pid() == pid,
        "said": MAIN.new_lines(lines),
    }


def reload(api: Api) -> dict[str, Any]:
    """Reload with a good configuration, with a bad one, and with a good one again."""
    pid, seen = MAIN.pid(), {}
    for kind, more in [
        ("good", '[log]\nlevel = "debug"\n'),
        ("bad", '[log]\nlevel = "chatty"\n'),
        ("unreadable", "[log\n"),
        ("again", ""),
    ]:
        lines = len(MAIN.journal())
        write_config(api, auth=REFRESHING, more=more)
        done = MAIN.do("reload")
        with suppress(TimeoutError):
            until("it speaks of it", functools.partial(MAIN.has_spoken, lines))
        MAIN.until_state("active")
        seen[kind] = {
            "reload": done,
            "shown": MAIN.show(),
            "same_pid": MAIN.pid() == pid,
            "said": MAIN.new_lines(lines),
        }
    return seen


def one_pass(api: Api) -> dict[str, Any]:
    """Run the timer's service and commands of root while the daemon holds the mirror, then the service alone."""
    beside = PASS.do("start"), PASS.show()
    by_root = [
        subprocess.run(
            [PROGRAM, "--config", str(ETC / "config.toml"), *command], check=False, capture_output=True, text=True
        )
        for command in (["sync"], ["verify", "--repair"], ["poll"])
    ]
    of_root = [str(path) for top in (STATE, ROOT) for path in top.rglob("*") if path.lstat().st_uid == 0]
    stopped = MAIN.do("stop")
    alone = PASS.do("start"), PASS.show()
    return {
        "beside": beside,
        "by_root": [(done.returncode, done.stdout, done.stderr) for done in by_root],
        "of_root": of_root,
        "stopped": stopped,
        "stopped_as": MAIN.show(),
        "alone": alone,
        "said": PASS.journal(),
    }


def confine(api: Api) -> dict[str, Any]:
    """Start a program in place of the daemon that tries what it should not."""
    started = PROBE.do("start")
    result: dict[str, Any] = json.loads((OUT / "confined.json").read_text() or "{}")
    left = [str(Path(place, "dcsync-was-here")) for place in ("/tmp", "/var/tmp", "/dev/shm")]  # noqa: S108
    return {
        "start": started,
        "can": result,
        "left_by_hooks": [path for path in left if Path(path).exists()],
        "said": PROBE.journal(),
    }


def hang(api: Api) -> dict[str, Any]:
    """Stop the daemon's process from running: the watchdog must notice."""
    MAIN.drop_in("RestartSec=500ms\nWatchdogSec=5s\n")
    started = MAIN.do("start")
    pid = MAIN.pid()
    threading.Event().wait(6)  # longer than WatchdogSec=: it must live on that long when it is fed
    fed = MAIN.pid() == pid
    lines = len(MAIN.journal())
    os.kill(pid, signal.SIGSTOP)
    until("it was restarted", lambda: MAIN.show()["NRestarts"] != "0")
    again = MAIN.until_state("active")
    return {
        "start": started,
        "fed": fed,
        "again": again,
        "new_pid": again["MainPID"] != str(pid),
        "gone": not Path(f"/proc/{pid}").exists(),
        "said": MAIN.new_lines(lines),
        "cores": [str(path) for place in (Path("/"), ROOT, STATE, Path("/tmp")) for path in place.glob("*core*")],  # noqa: S108
    }


def refuse(api: Api) -> dict[str, Any]:
    """Let the daemon find what makes it refuse to start."""
    MAIN.do("stop")
    MAIN.drop_in("RestartSec=500ms\n")
    seen: dict[str, Any] = {}

    write_config(api, auth=REFRESHING, more='[log]\nlevel = "chatty"\n')
    seen["bad_config"] = MAIN.refused()
    write_config(api, auth=REFRESHING)

    marker, aside = ROOT / ".dcsync/instance", ROOT / ".dcsync/aside"
    marker.rename(aside)
    seen["not_mounted"] = MAIN.refused()
    aside.rename(marker)

    secret, gone = ETC / "client-secret", ETC / "gone"
    secret.rename(gone)
    seen["no_credential"] = MAIN.refused()
    gone.rename(secret)

    MAIN.do("reset-failed")
    lines = len(MAIN.journal())
    with (ROOT / ".dcsync/lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        start = MAIN.do("start", "--no-block")
        until("it was tried again", lambda: int(MAIN.show()["NRestarts"]) >= 1)
        held = MAIN.show()
    freed = MAIN.until_state("active")
    seen["held"] = {"start": start, "held": held, "freed": freed, "said": MAIN.new_lines(lines)}
    seen["stop"] = MAIN.do("stop")
    return seen


def drain(api: Api) -> dict[str, Any]:
    """Stop an instance in the middle of a download, and let it go on."""
    root, state = SLOW_ROOT, STATE / "slow"
    root.mkdir()
    shutil.chown(root, "dcsync", "dcsync")

    def write(bandwidth: str) -> None:
        more = f'requests = ["Large"]\n[transfer]\nbandwidth = "{bandwidth}"\n'
        write_config(api, "slow", root=root, state=state, auth=FIXED, hook="stubborn-hook", more=more)

    def parts() -> dict[str, int]:
        return {path.name: path.stat().st_size for path in (root / ".dcsync/staging").rglob("*.part")}

    write("1 MiB/s")
    SLOW.drop_in(f"ReadWritePaths={root}\nLoadCredential=access-token:{ETC}/access-token\n")
    started = SLOW.do("start")
    until("something is on its way", lambda: any(parts().values()))
    busy = SLOW.show()
    stopped = SLOW.do("stop")
    seen: dict[str, Any] = {"start": started, "busy": busy, "stop": stopped, "after": SLOW.show(), "left": parts()}
    lines = len(SLOW.journal())

    write("unlimited")
    SLOW.do("start")
    until("it is mirrored", lambda: len(snapshots(root)) == 1)
    until("nothing is left of it in the staging", lambda: not parts())
    until("its hook hangs", (state / "hooked").exists)
    seen["stubborn"] = SLOW.do("stop"), SLOW.show()
    alive = subprocess.run(["pgrep", "--full", "sleep 1234"], check=False, capture_output=True, text=True)
    seen["left_running"] = alive.stdout.split()
    return {**seen, "state": facts(state), "said": SLOW.new_lines(lines)}


def proxied(_: Api) -> dict[str, Any]:
    """Run an instance whose API only a proxy with a password can reach, first by a credential, then by a variable."""
    api, state = start_sandbox(TLS_SANDBOX, TLS_OUTPUT), STATE / "proxied"
    PROXIED_ROOT.mkdir()
    shutil.chown(PROXIED_ROOT, "dcsync", "dcsync")
    shutil.copy(COMPANY_CA, ETC / "ca.pem")
    write_secret("proxy", PROXY)
    write_secret("tls-access-token", api.access_token)

    def write(network: str) -> None:
        more = f'requests = ["*"]\n[network]\n{network}\n'
        auth = 'access_token = "credential:access-token"'
        write_config(api, "proxied", root=PROXIED_ROOT, state=state, auth=auth, more=more)
        path = ETC / "proxied.toml"
        path.write_text(path.read_text().replace("[api]", '[api]\nallow_storage_hosts = ["storage.dcsync.test"]'))

    def drop_in(more: str) -> None:
        PROXIED.drop_in(f"ReadWritePaths={PROXIED_ROOT}\nLoadCredential=access-token:{ETC}/tls-access-token\n{more}")

    def mirrored() -> int:
        return len(snapshots(PROXIED_ROOT))

    def poll(count: int) -> None:
        TLS_SANDBOX.do("kill", "--signal=USR1")
        PROXIED.do("kill", "--signal=USR1", "--kill-whom=main")
        until("the new job is mirrored through the proxy", lambda: mirrored() == count)

    TINYPROXY.do("start")
    write(f'proxy = "credential:proxy"\nca_file = "{ETC}/ca.pem"')
    drop_in(f"LoadCredential=proxy:{ETC}/proxy\n")
    seen: dict[str, Any] = {"start": PROXIED.do("start")}
    until("all that there is has been mirrored through the proxy", lambda: mirrored() == 5)
    seen["by_credential"] = tunnels()

    # A proxy that is gone is named.
    TINYPROXY.do("stop")
    lines = len(PROXIED.journal())
    PROXIED.do("kill", "--signal=USR1", "--kill-whom=main")
    until("the proxy is named", lambda: "to the proxy 127.0.0.1:3128" in "\n".join(PROXIED.new_lines(lines)))
    PROXIED.do("stop")

    TINYPROXY.do("start")
    write("")
    drop_in(f"Environment=HTTPS_PROXY={PROXY} SSL_CERT_FILE={ETC}/ca.pem\n")
    before = tunnels()
    PROXIED.do("start")
    poll(6)
    seen["by_variable"] = {host: count - before[host] for host, count in tunnels().items()}
    return {**seen, "stop": PROXIED.do("stop"), "after": PROXIED.show(), "said": PROXIED.journal()}


def tunnels() -> dict[str, int]:
    """Return how many tunnels the proxy was asked for, by host."""
    said = "\n".join(TINYPROXY.journal())
    return {host: said.count(f"): CONNECT {host}") for host in ("api.dcsync.test", "storage.dcsync.test")}


if __name__ == "__main__":
    drive()
