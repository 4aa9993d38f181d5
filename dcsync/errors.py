"""Every error that dcsync raises on purpose, in one tree. Decisions use classes and fields, never the text.

Each class has a stable `code`, its exit status, whether a retry can help (`transient`), how much of a run it stops
(`scope`), what stays safe, and what the operator should do. An exception that is not a `DcsyncError` is a bug. No
message contains a token or the query of a signed URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, Self


class ExitStatus(IntEnum):
    """The exit statuses of the commands. README.md documents each one."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INCOMPLETE = 3
    LOCKED = 11
    LOGIN_REQUIRED = 12
    PERMISSION_DENIED = 13
    UNSAFE = 14
    INTERRUPTED = 130


#: The order of precedence when several statuses apply: the most urgent one comes first.
SEVERITY = (
    ExitStatus.BUG,
    ExitStatus.UNSAFE,
    ExitStatus.USAGE,
    ExitStatus.LOGIN_REQUIRED,
    ExitStatus.PERMISSION_DENIED,
    ExitStatus.LOCKED,
    ExitStatus.INCOMPLETE,
    ExitStatus.INTERRUPTED,
    ExitStatus.DONE,
)


class Scope(StrEnum):
    """How much of a run an error of one job stops, because the rest would only meet the same error.

    An error outside of a job, for example of the job list, always stops its account.
    """

    #: One file. The job's other files are still downloaded, and the job fails.
    FILE = "file"
    #: One job. The account's other jobs are still mirrored.
    JOB = "job"
    #: Every account. Each one stops as soon as it meets the error itself.
    RUN = "run"


class DcsyncError(Exception):
    """The base class. `str()` is one line: what failed, on what, the value seen. Fields are set once."""

    code: ClassVar[str] = "DCSYNC"
    exit_status: ClassVar[ExitStatus] = ExitStatus.INCOMPLETE
    transient: ClassVar[bool] = False
    scope: ClassVar[Scope] = Scope.JOB
    #: The content itself is wrong, so a few more attempts will not help.
    poison: ClassVar[bool] = False
    safe: ClassVar[str] = "published snapshots are unchanged"
    hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = self.hint if hint is None else hint
        self.retry_after_s = retry_after_s

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field once. Python itself sets dunder attributes such as `__traceback__` several times."""
        if hasattr(self, name) and not name.startswith("__"):
            message = f"{name} of {type(self).__name__} is already set: create a new error instead"
            raise AttributeError(message)
        super().__setattr__(name, value)

    def with_message(self, message: str) -> Self:
        """Return a copy of this error with another message. The class, the fields and the traceback stay."""
        other = type(self).__new__(type(self), message)
        vars(other).update({**vars(self), "message": message})
        return other.with_traceback(self.__traceback__)


# --- configuration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMistake:
    """One mistake in a configuration: its place, the mistake, and what to write instead."""

    file: str
    line: int | None
    key: str
    message: str

    def __str__(self) -> str:
        place = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ConfigError(DcsyncError):
    """The configuration or the command line cannot be used."""

    code = "C-CONFIG"
    scope = Scope.RUN
    exit_status = ExitStatus.USAGE
    safe = "nothing was done"


class ConfigInvalid(ConfigError):
    """The configuration file has mistakes. `mistakes` has all of them."""

    hint = "correct the lines above. `dcsync config schema` describes every key"

    def __init__(self, mistakes: tuple[ConfigMistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class ConfigMissing(ConfigError):
    """No configuration file was found."""

    code = "C-MISSING"
    hint = "create one with `dcsync init`, which writes every key with a comment, or name yours with --config FILE"


class ConfigUnreadable(ConfigInvalid):
    """The user that runs the command may not read the configuration file."""

    hint = "for the service, run the command as root (sudo dcsync …). For a mirror of your own, run dcsync init"


class NotStateOwner(ConfigError):
    """root started a command that has to run as the owner of the state folder, who is `uid`."""

    hint = "run dcsync as the owner of state.dir"

    def __init__(self, message: str, *, uid: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.uid = uid


class SecretUnavailable(ConfigError):
    """A secret configured as `env:`, `file:` or `credential:` is missing, empty or unreadable."""

    code = "C-SECRET"
    hint = "set the variable above, or make the file readable for the user that runs dcsync"


class SecretExposed(ConfigError):
    """A file with secrets is accessible to other users."""

    code = "C-EXPOSED"
    hint = "run chmod 600 on that file. If others had access, replace the secret as well"


class ServiceSetupFailed(ConfigError):
    """A step of `dcsync service` failed."""

    safe = "the steps shown before are done, and none after them"
    hint = "fix the cause, and run the command again: it continues"


class KeyIdUnchanged(ConfigError):
    """A new private key is in place, but dcsync cannot change auth.key_id in the configuration."""

    safe = "both keys exist at Autodesk, and the private key of the new one is stored"
    hint = "change auth.key_id, and run the command again"


class SnapshotUnclear(ConfigError):
    """The given name matches no snapshot, or several."""

    code = "C-SNAPSHOT"
    hint = "give a job ID or its first characters, a day such as 2026-11-22, latest, or previous"


class TableUnclear(ConfigError):
    """The given name matches no table of a snapshot, or several."""

    code = "C-TABLE"
    hint = "give the name of a table, with or without .csv"


# --- the API --------------------------------------------------------------------------------------------------------


class ApiError(DcsyncError):
    """A call to Autodesk's API failed."""

    code = "A-API"
    hint = "the message above quotes Autodesk's answer"

    def __init__(
        self, message: str, *, status: int | None = None, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.status = status


class ApiUnreachable(ApiError):
    """No answer: name resolution, the connection or TLS failed, or the call timed out."""

    code = "A-NETWORK"
    transient = True
    hint = "check the network, DNS, the proxy (network.proxy) and api.base_url, then run the command again. "
    hint += "The daemon retries automatically"


class ApiFault(ApiError):
    """Autodesk's API or a gateway in front of it failed (5xx)."""

    code = "A-SERVER"
    transient = True
    hint = "the fault is on Autodesk's side. Run the command again later. The daemon retries automatically"


class Unconfirmed(ApiError):
    """A call that changes something got no usable answer. Autodesk may have carried it out, so it is not repeated."""

    code = "A-UNCONFIRMED"
    hint = "check whether it was done before you run the command again: `dcsync requests` lists data requests, and "
    hint += "`dcsync service-account list` lists service accounts"


class PartsFailed(ApiError):
    """Autodesk could not create the extracts of some parts of a backfill."""

    hint = "run dcsync requests backfill activities again. It tries each of them three more times"


class RateLimited(ApiError):
    """429: the rate limit of the client ID is used up."""

    code = "A-QUOTA"
    scope = Scope.RUN
    transient = True
    hint = "all programs that use this client ID share 60 calls per minute. "
    hint += "Lower api.requests_per_minute to leave some for the others"


class BadAnswer(ApiError):
    """A success status with a body that the API does not document: HTML, broken JSON, a wrong shape, too long."""

    code = "A-ANSWER"
    transient = True
    hint = "a proxy or a sign-in page may have answered instead of Autodesk: check network.proxy and api.base_url "
    hint += "(dcsync explain network)"


class BadRequest(ApiError):
    """The API refused the call as malformed (400 or another unexpected 4xx)."""

    code = "A-REQUEST"
    hint = "check the IDs in the configuration ([[account]] id, projects, requests) and the command's options"


class AccessRefused(ApiError):
    """403: the user has no access to this account or project."""

    code = "A-DENIED"
    exit_status = ExitStatus.PERMISSION_DENIED
    hint = "give the user (or service account) the Executive or Project Administrator role and access to Insight, and "
    hint += "add the client ID to the account's custom integrations"


class NotFound(ApiError):
    """404: Autodesk does not know this object, or no longer does."""

    code = "A-MISSING"
    hint = "check the IDs in the configuration ([[account]] id, projects, requests) and the command's options"


# --- tokens ---------------------------------------------------------------------------------------------------------


class AuthError(DcsyncError):
    """dcsync has no usable access token."""

    code = "T-AUTH"
    scope = Scope.RUN


class LoginRequired(AuthError):
    """The refresh token has expired, was revoked, or is missing. Only a new sign-in helps."""

    code = "T-LOGIN"
    exit_status = ExitStatus.LOGIN_REQUIRED
    hint = "run `dcsync login` as the user that runs dcsync, or as root. "
    hint += 'With method = "token", put a new refresh_token in [auth] and restart the daemon'


class ReadOnlySignIn(AuthError):
    """The daemon would change something at Autodesk, and the stored sign-in only reads."""

    safe = "nothing was changed at Autodesk"
    hint = "run the command yourself, which signs you in once more, or use a service account"


class LoginRefused(AuthError):
    """A sign-in was not completed: the user or Autodesk refused it, it expired, or it belongs to another attempt."""

    code = "T-REFUSED"
    exit_status = ExitStatus.LOGIN_REQUIRED
    safe = "the stored token is unchanged"
    hint = "run `dcsync login` again and complete the sign-in within five minutes"


class NobodyToSignIn(AuthError):
    """A browser cannot deliver the code of a sign-in, and standard input is not a terminal to paste it into."""

    code = "T-NOBODY"
    exit_status = ExitStatus.LOGIN_REQUIRED
    safe = "the stored token is unchanged"
    hint = "run `dcsync login` in a terminal"


class WrongUser(AuthError):
    """The user who signed in is not the user whose extracts are mirrored."""

    code = "T-USER"
    exit_status = ExitStatus.USAGE
    safe = "the stored token is unchanged"
    hint = "sign in as that user. To change users on purpose, add --switch-user: "
    hint += "dcsync then sees only the new user's extracts"


class ServiceAccountRejected(AuthError):
    """The token endpoint rejects the service account's assertion."""

    code = "T-ACCOUNT"
    exit_status = ExitStatus.LOGIN_REQUIRED
    hint = (
        "check client_id, service_account_id, key_id and private_key in [auth], the clock of this host, and that the "
    )
    hint += "key is enabled at Autodesk"


class PrivateKeyUnusable(AuthError):
    """The service account's private key is not a valid key."""

    code = "T-KEY"
    exit_status = ExitStatus.USAGE
    hint = "set auth.private_key to the PEM text that Autodesk showed once, when the key was created"


class ClientRejected(AuthError):
    """The token endpoint rejects the client ID or the client secret."""

    code = "T-CLIENT"
    exit_status = ExitStatus.USAGE
    hint = "compare auth.client_id and auth.client_secret with the app's page on the developer portal. "
    hint += "The refresh token was not used"


class TokenUndecided(AuthError):
    """A refresh is unconfirmed: Autodesk may have used the refresh token.

    dcsync retries with the old token until it gets a definite answer (docs/project/design.md, Token protocol, T5).
    """

    code = "T-UNDECIDED"
    transient = True
    hint = "you need not do anything: dcsync keeps the refresh token and retries with it at the next run"


class TokenEndpointUnavailable(AuthError):
    """The token endpoint is unreachable or overloaded. The refresh token was not used."""

    code = "T-ENDPOINT"
    transient = True
    hint = "check the network and the proxy (network.proxy), then run the command again. "
    hint += "The daemon retries automatically"


class TokenStoreUnusable(AuthError):
    """The token store cannot be read or written durably. Until it can, no refresh token is used."""

    code = "T-STORE"
    hint = "make state.dir writable and free some space. The refresh token was not used"


class TokenStoreDamaged(TokenStoreUnusable):
    """Neither the token file nor its previous generation has content that dcsync wrote."""

    code = "T-DAMAGED"
    hint = "sign in again with `dcsync login`, or put a new refresh_token in [auth]. dcsync keeps the damaged copy"


class TokenStoreExposed(AuthError):
    """The token file is accessible to other users."""

    code = "T-EXPOSED"
    exit_status = ExitStatus.USAGE
    hint = "run chmod 600 on that file. If others had access, sign in again with `dcsync login`"


# --- storage (signed URLs) ------------------------------------------------------------------------------------------


class StorageError(DcsyncError):
    """A download from Autodesk's object storage failed. The message never contains the signed URL."""

    code = "S-STORAGE"
    scope = Scope.FILE
    transient = True
    hint = "you need not do anything: the next run downloads the file with a new URL"


class StorageUnreachable(StorageError):
    """The connection failed, broke or timed out."""

    code = "S-NETWORK"


class StorageRefused(StorageError):
    """400 or 403: the URL has expired or is not accepted. The cure is a new URL, never a new sign-in."""

    code = "S-REFUSED"


class StorageFault(StorageError):
    """5xx, or another status that does not answer a GET."""

    code = "S-SERVER"


class TooSlow(StorageError):
    """The transfer fell below the minimum rate."""

    code = "S-SLOW"


class ContentChanged(StorageError):
    """The file at Autodesk differs from the partial download (412, a different ETag or Content-Range)."""

    code = "S-CHANGED"


class RangeIgnored(StorageError):
    """The storage does not deliver the requested parts of a file, so dcsync can only download all of it."""

    code = "S-RANGE"
    transient = False


class SizeMismatch(StorageError):
    """The downloaded file is shorter or longer than the data listing says."""

    code = "F-SIZE"
    poison = True
    hint = "the extract at Autodesk may be damaged. If the error persists, run the data request again"


class ChecksumMismatch(StorageError):
    """The CRC32 or MD5 of the downloaded bytes differs from the one that Autodesk gave."""

    code = "F-CHECKSUM"
    poison = True
    hint = "the extract at Autodesk may be damaged. If the error persists, run the data request again"


class UnsafeUrl(StorageError):
    """A signed URL points to a host that dcsync must not contact."""

    code = "S-UNSAFE"
    transient = False
    poison = True
    hint = "if you know and trust that host, add it to api.allow_storage_hosts"


# --- data listings --------------------------------------------------------------------------------------------------


class BadListing(DcsyncError):
    """A data listing that cannot be mirrored: malformed, empty or contradictory."""

    code = "L-LISTING"
    transient = True
    poison = True
    hint = "if the error persists, run the data request again in Autodesk's Data Connector"


class ExtractEmpty(DcsyncError):
    """The extract has no table: its data listing is empty, or names only documents."""

    code = "L-EMPTY"
    transient = True
    hint = "dcsync retries for one day. If the extract is still empty then, check the service groups of the data "
    hint += "request in Autodesk's Data Connector, and run it again"


class NothingSelected(DcsyncError):
    """The configuration selects no table of an extract."""

    code = "C-NOTABLES"
    exit_status = ExitStatus.USAGE
    hint = "correct include and exclude in [[account]]. The next run with the new configuration mirrors the extract. "
    hint += "Autodesk deletes it 30 days after it was completed"


class ExtractMissing(DcsyncError):
    """Autodesk has no data listing for a complete job (404)."""

    code = "L-MISSING"
    transient = True
    hint = "dcsync retries for one day. If the data listing is still missing then, run the data request again"


class Bug(DcsyncError):
    """An unexpected exception in one job or account: a bug, which must not stop the others."""

    code = "D-BUG"
    exit_status = ExitStatus.BUG
    poison = True
    hint = "please report this bug with the traceback in the log. dcsync retries, also after an update"


# --- rows -----------------------------------------------------------------------------------------------------------


class RowsFailed(DcsyncError):
    """DuckDB could not answer. The message is its own."""

    code = "R-ROWS"
    transient = True
    hint = "if the error persists, please report it with this message"


class RowsInterrupted(RowsFailed):
    """The work on rows was interrupted, because dcsync ends."""

    hint = "the next run continues"


class RowsUnproved(RowsFailed):
    """A row history does not have exactly the rows of a snapshot."""

    hint = "please report this with the message. The snapshots are not affected"


class RowsUnreadable(RowsFailed):
    """A table of which DuckDB would have to guess a record. `line` is where the record begins, from 1."""

    code = "R-CSV"
    transient = False
    hint = "the file is as Autodesk delivered it. Report it to Autodesk with this line"

    def __init__(self, message: str, *, path: str = "", line: int = 1, reason: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.line = line
        self.reason = reason


# --- loads ----------------------------------------------------------------------------------------------------------


class LoadFailed(DcsyncError):
    """A table could not be loaded into a target, or no table if `table` is empty. `target` has no secrets."""

    code = "R-LOAD"
    transient = True
    scope = Scope.RUN
    safe = "the target shows what it showed before"
    hint = "dcsync retries automatically"

    def __init__(self, target: str, table: str, reason: str, *, hint: str | None = None) -> None:
        super().__init__(f"{target}: {table}: {reason}" if table else f"{target}: {reason}", hint=hint)
        self.target = target
        self.table = table
        self.reason = reason


class TargetUnusable(LoadFailed):
    """The target cannot be reached, or refuses the user."""

    hint = "check that the target runs, the address in [[load]], and the rights of its user"


class LoadInterrupted(LoadFailed):
    """The load was interrupted, because dcsync ends."""

    hint = "the next run continues"


class LoadRefused(LoadFailed):
    """The table of this snapshot cannot be loaded as it is. A new snapshot or your decision helps, no retry."""

    hint = "correct the cause, and run dcsync load"


class ValueRefused(LoadRefused):
    """A type or the target refuses a value. `place` is its row or line."""

    hint = "the table waits for the next snapshot. The CSV file is as Autodesk delivered it, so report it to Autodesk"

    def __init__(self, target: str, table: str, reason: str, *, column: str, place: str) -> None:
        where = f"{place}, column {column}" if column else place
        super().__init__(target, table, f"{where}: {reason}")
        self.column = column
        self.place = place


# --- disk -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceNeeds:
    """What a snapshot needs on the disk, without the reserve of `mirror.min_free`."""

    size: int
    entries: int


class DiskError(DcsyncError):
    """An operation on the mirror's file system failed. `needs` says how much room it takes, if that is known."""

    code = "F-DISK"
    transient = True

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        retry_after_s: float | None = None,
        needs: SpaceNeeds | None = None,
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.needs = needs


class DiskFull(DiskError):
    """The disk is full, or has too little space to begin."""

    code = "F-SPACE"
    hint = "free some space on that disk. The next run resumes as soon as there is enough"


class InodesExhausted(DiskError):
    """The disk has too few free inodes."""

    code = "F-INODES"
    hint = "delete small files on that disk, or use a file system with more inodes. The next run resumes automatically"


class DiskReadOnly(DiskError):
    """The file system is read-only."""

    code = "F-READONLY"
    scope = Scope.RUN
    hint = "check the kernel log for disk errors, then remount the file system read-write"


class DiskDenied(DiskError):
    """The user that runs dcsync has no permission for this file or folder."""

    code = "F-PERM"
    transient = False
    hint = "give the user that runs dcsync read and write permission for that path"


class DiskFault(DiskError):
    """An I/O error. The file being written counts as lost and is downloaded again."""

    code = "F-IO"
    scope = Scope.RUN
    hint = "check the disk and the kernel log. The next run resumes automatically once the disk works again"


class DiskHung(DiskError):
    """The disk does not answer. Its calls can neither be interrupted nor ended."""

    code = "F-HUNG"
    scope = Scope.RUN
    transient = False
    exit_status = ExitStatus.UNSAFE
    hint = "check the disk, its cable or its server, and the kernel log. dcsync resumes as soon as the disk answers"


class PlaceUnusable(DiskError):
    """One folder of the mirror cannot be written. Jobs with another folder are still mirrored."""

    hint = "correct that folder. The downloaded files stay in .dcsync/staging, and the next attempt uses them"


class OtherFileSystem(PlaceUnusable):
    """A folder of the mirror is on another file system, so nothing can be renamed into it or out of it."""

    hint = "move the content of that folder to the file system of mirror.root: dcsync doctor names the folder"


class MirrorError(DcsyncError):
    """The mirror's root folder cannot be used."""

    code = "M-MIRROR"
    scope = Scope.RUN


#: The role of a lock's holder that is the daemon (`dcsync run`).
DAEMON_ROLE = "run"


class MirrorLocked(MirrorError):
    """Another dcsync process uses the mirror or the state folder."""

    code = "M-LOCKED"
    exit_status = ExitStatus.LOCKED
    hint = "wait until that process ends. `dcsync status` and `dcsync verify` work at any time"

    def __init__(
        self, message: str, *, pid: int | None = None, role: str | None = None, hint: str | None = None
    ) -> None:
        if hint is None and role == DAEMON_ROLE:
            # A daemon does not end on its own, so waiting would not help.
            hint = "stop the daemon first: systemctl stop dcsync. `dcsync status` and `dcsync verify` work at any time"
        super().__init__(message, hint=hint)
        self.pid = pid
        self.role = role


class MirrorNotMounted(MirrorError):
    """The manifest knows snapshots, but the root has no `.dcsync/instance`: its disk may not be mounted."""

    code = "M-UNMOUNTED"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"
    hint = "mount the mirror's disk, or correct mirror.root"


class MirrorMissing(MirrorError):
    """The mirror's root folder does not exist: its disk may not be mounted."""

    code = "M-MISSING"
    hint = "mount the mirror's disk, or create the folder if this is a new mirror"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"


class MirrorForeign(MirrorError):
    """The mirror's root belongs to another instance of dcsync."""

    code = "M-FOREIGN"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"


class MassChange(MirrorError):
    """Too many snapshots are affected at once: a mistake is more likely than intent."""

    code = "M-MASS"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was changed"


class MirrorTampered(MirrorError):
    """Something other than dcsync changed the mirror, for example replaced a folder with a symlink."""

    code = "M-TAMPERED"
    scope = Scope.JOB
    exit_status = ExitStatus.UNSAFE


# --- the machine ----------------------------------------------------------------------------------------------------


class NoThreads(DcsyncError):
    """The system starts no more threads for this process."""

    code = "D-THREADS"
    scope = Scope.RUN
    transient = True
    hint = "raise the limit of processes: TasksMax= of the unit, pids.max of the container, or ulimit -u of the user"


class DaemonGone(DcsyncError):
    """The daemon that a command needs is not running, or it ended before it had carried out the command."""

    code = "D-DAEMON"
    transient = True
    hint = "run the command again. What was done until then is kept. systemctl status dcsync shows the daemon"


# --- manifest -------------------------------------------------------------------------------------------------------


class ManifestError(DcsyncError):
    """The manifest cannot be read or written."""

    code = "D-MANIFEST"
    scope = Scope.RUN
    transient = True
    hint = "check the free space, the permissions and the disk of state.dir"


class ManifestNewer(ManifestError):
    """A newer version of dcsync wrote the manifest."""

    code = "D-NEWER"
    exit_status = ExitStatus.USAGE
    transient = False
    hint = "use that version of dcsync, or restore a manifest that this version wrote"


class ManifestCorrupt(ManifestError):
    """The manifest is damaged."""

    code = "D-CORRUPT"
    exit_status = ExitStatus.UNSAFE
    transient = False
    hint = "`dcsync sync` and the daemon rebuild it from the mirror automatically. "
    hint += "`dcsync rebuild` does so at once. The damaged file is kept under another name"


class ManifestMissing(ManifestError):
    """No run has created the manifest yet, in this state folder or database."""

    code = "D-MISSING"
    hint = "start the daemon or run `dcsync sync`: the first run creates the manifest"


class DatabaseUnreachable(ManifestError):
    """The shared database does not answer, or it closed the connection."""

    code = "D-DATABASE"
    hint = "make sure that PostgreSQL is running and reachable from this host. The next run continues automatically"


class DatabaseBusy(ManifestError):
    """Another connection held a lock of the shared database for too long."""

    code = "D-BUSY"
    hint = "dcsync retries. If the error persists, look in pg_stat_activity for a transaction that does not end"


class DatabaseRefused(ManifestError):
    """The shared database rejects the user or the password, or the user lacks a permission."""

    code = "D-REFUSED"
    exit_status = ExitStatus.USAGE
    transient = False
    hint = "check the user, the password (PGPASSWORD, ~/.pgpass, or state.manifest as env: or file:) and the user's "
    hint += "permissions in PostgreSQL"


class Fenced(DcsyncError):
    """Another host has taken over this job. This host's work on it is not recorded."""

    code = "D-FENCED"
    transient = True
    safe = "the other host completes the job, and nothing is published twice"
    hint = "you need not do anything: this happens when a host was paused or disconnected for a while"


class IllegalTransition(DcsyncError):
    """A job was about to make a transition that the table of states does not have: a bug, and it is refused."""

    code = "D-STATE"
    exit_status = ExitStatus.BUG


def every_error() -> Iterator[type[DcsyncError]]:
    """Yield every class of the tree."""
    remaining: list[type[DcsyncError]] = [DcsyncError]
    while remaining:
        kind = remaining.pop()
        yield kind
        remaining += kind.__subclasses__()
