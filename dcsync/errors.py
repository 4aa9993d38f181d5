"""Every error that dcsync raises on purpose: one tree, decided on by class and field, never by text.

Each class has a stable `code`, the exit status it asks for, whether a retry can help (`transient`), how much of a run
it stops (`scope`), what stays safe, and what the operator should do. An exception that is not a `DcsyncError` is a bug.
No message holds a token or the query of a signed URL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar, Self


class ExitStatus(IntEnum):
    """What a command's exit status means; README.md documents each."""

    DONE = 0
    BUG = 1
    USAGE = 2
    INCOMPLETE = 3
    LOCKED = 11
    LOGIN_REQUIRED = 12
    PERMISSION_DENIED = 13
    UNSAFE = 14
    INTERRUPTED = 130


#: Which status goes first when several apply: the one that needs a person soonest.
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
    """How much of a run would only meet the same error again."""

    #: One file. The job's other files are still fetched, and the job fails.
    FILE = "file"
    #: One job. The account's other jobs are still mirrored.
    JOB = "job"
    #: Every job of the account, which stops. The other accounts go on.
    ACCOUNT = "account"
    #: Every account. Each one stops as soon as it meets the error itself.
    RUN = "run"

    @property
    def stops_account(self) -> bool:
        """Say whether the account's remaining jobs are left for a later run."""
        return self in {Scope.ACCOUNT, Scope.RUN}


class DcsyncError(Exception):
    """Base of all. `str()` is one line: what failed, on what, the value seen. No field changes after construction."""

    code: ClassVar[str] = "DCSYNC"
    exit_status: ClassVar[ExitStatus] = ExitStatus.INCOMPLETE
    transient: ClassVar[bool] = False
    scope: ClassVar[Scope] = Scope.JOB
    #: Trying the same thing a few times more is pointless: the content is what is wrong.
    poison: ClassVar[bool] = False
    safe: ClassVar[str] = "everything already published is untouched"
    hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = self.hint if hint is None else hint
        self.retry_after_s = retry_after_s

    def __setattr__(self, name: str, value: object) -> None:
        """Set a field once. Python itself sets dunder attributes such as `__traceback__` more often."""
        if hasattr(self, name) and not name.startswith("__"):
            message = f"{name} of {type(self).__name__} is already set; make another error instead"
            raise AttributeError(message)
        super().__setattr__(name, value)

    def with_message(self, message: str) -> Self:
        """Return an error that is like this one but for its message, with this one's traceback."""
        other = type(self).__new__(type(self), message)
        vars(other).update({**vars(self), "message": message})
        return other.with_traceback(self.__traceback__)


# --- configuration --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigMistake:
    """One mistake in a configuration: where it is, what it is, what to write instead."""

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
    """The file has mistakes; all of them are in `mistakes`."""

    hint = "correct the lines named above; config.example.toml documents every key"

    def __init__(self, mistakes: tuple[ConfigMistake, ...]) -> None:
        super().__init__("\n".join(str(mistake) for mistake in mistakes))
        self.mistakes = mistakes


class ConfigMissing(ConfigError):
    """No configuration file was found."""

    code = "C-MISSING"
    hint = "write one with `dcsync init` (config.example.toml documents every key), or give one with --config FILE"


class SecretUnavailable(ConfigError):
    """A secret named as `env:`, `file:` or `credential:` is not there."""

    code = "C-SECRET"
    hint = "set the variable or create the file named above"


class SecretExposed(ConfigError):
    """A file with secrets can be read by others."""

    code = "C-EXPOSED"
    hint = "chmod 600 the file (and change the secret if others had access)"


class SnapshotUnclear(ConfigError):
    """What was named is no snapshot, or several."""

    code = "C-SNAPSHOT"
    hint = "name a job id or its beginning, a day such as 2026-11-22, latest, or previous"


# --- the API --------------------------------------------------------------------------------------------------------


class ApiError(DcsyncError):
    """The Data Connector API did not give what was asked."""

    code = "A-API"
    hint = "see the API's own words above"

    def __init__(
        self, message: str, *, status: int | None = None, hint: str | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint, retry_after_s=retry_after_s)
        self.status = status


class ApiUnreachable(ApiError):
    """Name resolution, connection, TLS or a time-out: no answer came."""

    code = "A-NETWORK"
    scope = Scope.RUN
    transient = True
    hint = "check the network, DNS, the proxy and api.base_url; dcsync tries again by itself"


class ApiFault(ApiError):
    """The server or a gateway failed (5xx)."""

    code = "A-SERVER"
    scope = Scope.ACCOUNT
    transient = True
    hint = "nothing to do: it is the remote side; dcsync tries again by itself"


class RateLimited(ApiError):
    """429: the quota of calls is used up."""

    code = "A-QUOTA"
    scope = Scope.RUN
    transient = True
    hint = "other programs share this client id's 60 calls a minute; lower api.requests_per_minute if they must"


class BadAnswer(ApiError):
    """A success status whose body is not what the API documents: HTML, broken JSON, wrong shape, too long."""

    code = "A-ANSWER"
    transient = True
    hint = "often a proxy or a login page in between; check api.base_url"


class BadRequest(ApiError):
    """The API refused the call as malformed (400 or another unexpected 4xx)."""

    code = "A-REQUEST"
    hint = "check the ids in the configuration ([[account]] id, projects, requests) and the options given"


class AccessRefused(ApiError):
    """403: this user may not see this account or project."""

    code = "A-DENIED"
    exit_status = ExitStatus.PERMISSION_DENIED
    hint = "the user (or service account) needs the Executive or Project Administrator role, Insight access, and the "
    hint += "client id must be added to the account's custom integrations"


class NotFound(ApiError):
    """404: no such thing, or not any more."""

    code = "A-MISSING"


# --- tokens ---------------------------------------------------------------------------------------------------------


class AuthError(DcsyncError):
    """No usable access token."""

    code = "T-AUTH"
    scope = Scope.RUN


class LoginRequired(AuthError):
    """The token chain is at its end; only a person can start a new one."""

    code = "T-LOGIN"
    exit_status = ExitStatus.LOGIN_REQUIRED
    hint = 'sign in again: dcsync login (or give a new refresh_token in [auth] with method = "token")'


class LoginRefused(AuthError):
    """Signing in did not come to its end: refused by the person or the server, expired, or not ours."""

    code = "T-REFUSED"
    exit_status = ExitStatus.LOGIN_REQUIRED
    safe = "a token that was stored before is untouched"
    hint = "run dcsync login again; a sign-in must be finished within five minutes"


class NobodyToSignIn(AuthError):
    """Neither a browser nor a person can bring the code of a sign-in."""

    code = "T-NOBODY"
    exit_status = ExitStatus.LOGIN_REQUIRED
    safe = "a token that was stored before is untouched"
    hint = "run dcsync login on a terminal"


class WrongUser(AuthError):
    """Somebody else signed in than the one whose extracts are mirrored."""

    code = "T-USER"
    exit_status = ExitStatus.USAGE
    safe = "the token stored before is untouched"
    hint = "sign in as that user, or say --switch-user if the change is meant: you then see only that user's extracts"


class ServiceAccountRejected(AuthError):
    """The token endpoint does not accept the service account's assertion."""

    code = "T-ACCOUNT"
    exit_status = ExitStatus.LOGIN_REQUIRED
    hint = "check service_account_id, key_id and private_key in [auth], that the key is enabled, and this host's clock"


class PrivateKeyUnusable(AuthError):
    """The service account's private key is none."""

    code = "T-KEY"
    exit_status = ExitStatus.USAGE
    hint = "auth.private_key takes the PEM text that was shown once when the key was made"


class ClientRejected(AuthError):
    """The token endpoint does not accept the client id or secret."""

    code = "T-CLIENT"
    exit_status = ExitStatus.USAGE
    hint = "check auth.client_id and auth.client_secret against the app's page; the refresh token was not spent"


class TokenUndecided(AuthError):
    """It is unknown whether a refresh token was spent; the old one is tried again until a definite answer."""

    code = "T-UNDECIDED"
    transient = True
    hint = "nothing to do: dcsync keeps the token and asks again"


class TokenEndpointUnavailable(AuthError):
    """The token endpoint cannot be reached or is overloaded; the token was not spent."""

    code = "T-ENDPOINT"
    transient = True
    hint = "check the network; dcsync tries again by itself"


class TokenStoreUnusable(AuthError):
    """The store of the tokens cannot be read or made durable; no token is spent before it can."""

    code = "T-STORE"
    hint = "make state.dir writable with some free space; the refresh token is kept, not spent"


class TokenStoreDamaged(TokenStoreUnusable):
    """The token file was read, and neither it nor the generation before is one that dcsync wrote."""

    code = "T-DAMAGED"
    hint = "restore it from a backup, or give a new refresh_token in [auth]; the damaged file is kept aside"


class TokenStoreExposed(AuthError):
    """The token file can be read by others."""

    code = "T-EXPOSED"
    exit_status = ExitStatus.USAGE
    hint = "chmod 600 the file; if others had access, sign in again"


# --- storage (signed URLs) ------------------------------------------------------------------------------------------


class StorageError(DcsyncError):
    """A download from the file store failed. Its URL is never part of the message."""

    code = "S-STORAGE"
    scope = Scope.FILE
    transient = True
    hint = "nothing to do: dcsync tries again by itself with a new URL"


class StorageUnreachable(StorageError):
    """The connection failed, broke, or timed out."""

    code = "S-NETWORK"


class StorageRefused(StorageError):
    """400 or 403: the URL expired or is not accepted. A new URL is the answer, never a new login."""

    code = "S-REFUSED"


class StorageFault(StorageError):
    """5xx or any other status that is no answer to a GET."""

    code = "S-SERVER"


class TooSlow(StorageError):
    """The transfer fell below the minimum rate."""

    code = "S-SLOW"


class ContentChanged(StorageError):
    """The file is not the one whose beginning is on disk (412, another ETag, a wrong Content-Range)."""

    code = "S-CHANGED"


class RangeIgnored(StorageError):
    """The file store does not give parts of a file, so its archive cannot be read from the end."""

    code = "S-RANGE"
    transient = False


class SizeMismatch(StorageError):
    """The bytes that came are fewer or more than the listing says."""

    code = "F-SIZE"
    poison = True
    hint = "the extract on the server may be damaged; if it stays so, run the data request again"


class ChecksumMismatch(StorageError):
    """CRC32 or MD5 of the bytes differ from what the server promised."""

    code = "F-CHECKSUM"
    poison = True
    hint = "the extract on the server may be damaged; if it stays so, run the data request again"


class UnsafeUrl(StorageError):
    """A signed URL points where dcsync must not go."""

    code = "S-UNSAFE"
    transient = False
    poison = True
    hint = "if that host is meant, add it to api.allow_storage_hosts"


# --- what the server lists ------------------------------------------------------------------------------------------


class BadListing(DcsyncError):
    """A data listing that cannot be mirrored as it is."""

    code = "L-LISTING"
    transient = True
    poison = True
    hint = "if it stays so, run the data request again"


class ExtractMissing(DcsyncError):
    """The listing of a complete job is not there (404)."""

    code = "L-MISSING"
    transient = True
    hint = "dcsync looks again for a day; after that, run the data request again"


class JobBug(DcsyncError):
    """An unforeseen exception in one job: a bug, which must not hold up the other jobs."""

    code = "D-BUG"
    exit_status = ExitStatus.BUG
    poison = True
    hint = "please report it with the lines of the log; an update may mend it, then dcsync sync --job ID"


# --- disk -----------------------------------------------------------------------------------------------------------


class DiskError(DcsyncError):
    """The mirror's file system did not do what was asked."""

    code = "F-DISK"
    scope = Scope.RUN
    transient = True


class DiskFull(DiskError):
    """No space, or not enough to start."""

    code = "F-SPACE"
    scope = Scope.JOB
    hint = "free space on that disk; dcsync goes on by itself"


class InodesExhausted(DiskError):
    """No free inodes."""

    code = "F-INODES"
    scope = Scope.JOB
    hint = "free inodes (delete files, or a file system with more inodes); dcsync goes on by itself"


class DiskReadOnly(DiskError):
    """The file system is read-only."""

    code = "F-READONLY"
    hint = "remount it read-write; check the kernel log for disk errors"


class DiskDenied(DiskError):
    """The user that runs dcsync may not write here."""

    code = "F-PERM"
    transient = False
    hint = "give the user that runs dcsync the right to write there"


class DiskFault(DiskError):
    """An I/O error: what was being written counts as lost and is fetched again."""

    code = "F-IO"
    hint = "check the disk and the kernel log; dcsync goes on by itself when writing works again"


class MirrorError(DcsyncError):
    """The mirror's root is not in a state to be written to."""

    code = "M-MIRROR"
    scope = Scope.RUN


class MirrorLocked(MirrorError):
    """Another dcsync holds the mirror or the state folder."""

    code = "M-LOCKED"
    exit_status = ExitStatus.LOCKED
    hint = "wait for it to end, or stop it; `dcsync status` works meanwhile"

    def __init__(
        self, message: str, *, pid: int | None = None, role: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.pid = pid
        self.role = role


class MirrorNotMounted(MirrorError):
    """The manifest knows snapshots, but the root has no instance marker."""

    code = "M-UNMOUNTED"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"
    hint = "mount the mirror's disk, or correct mirror.root"


class MirrorMissing(MirrorError):
    """The mirror's root is not there: its disk may not be mounted."""

    code = "M-MISSING"
    hint = "mount its disk, or create the folder if this is a new mirror"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"


class MirrorForeign(MirrorError):
    """The root belongs to another instance of dcsync."""

    code = "M-FOREIGN"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was written"


class MassChange(MirrorError):
    """So much has vanished at once that a mistake is likelier than an intention."""

    code = "M-MASS"
    exit_status = ExitStatus.UNSAFE
    safe = "nothing was changed"


class MirrorTampered(MirrorError):
    """Something in the tree is not what dcsync put there (a symlink instead of a folder, say)."""

    code = "M-TAMPERED"
    scope = Scope.JOB
    exit_status = ExitStatus.UNSAFE


# --- manifest -------------------------------------------------------------------------------------------------------


class ManifestError(DcsyncError):
    """The manifest cannot be read or written."""

    code = "D-MANIFEST"
    scope = Scope.RUN
    transient = True
    hint = "check state.dir: space, permissions, disk"


class ManifestNewer(ManifestError):
    """The manifest was written by a newer dcsync."""

    code = "D-NEWER"
    exit_status = ExitStatus.USAGE
    transient = False
    hint = "run the newer dcsync, or restore the manifest that belongs to this one"


class ManifestCorrupt(ManifestError):
    """The manifest is damaged."""

    code = "D-CORRUPT"
    exit_status = ExitStatus.UNSAFE
    transient = False
    hint = "dcsync rebuild sets it aside and makes it anew from the tree; every command that writes does so by itself"


class ManifestMissing(ManifestError):
    """The shared database holds no manifest yet."""

    code = "D-MISSING"
    hint = "the first dcsync sync or dcsync run makes it"


class DatabaseUnreachable(ManifestError):
    """The shared database does not answer, or let go of us."""

    code = "D-DATABASE"
    hint = "see that PostgreSQL runs and can be reached from this host; dcsync goes on by itself when it answers again"


class DatabaseBusy(ManifestError):
    """Others hold what is needed of the shared database for too long."""

    code = "D-BUSY"
    hint = "dcsync tries again; if it stays, look for a transaction that does not end (pg_stat_activity)"


class DatabaseRefused(ManifestError):
    """The shared database does not accept the role, its password, or what it asks for."""

    code = "D-REFUSED"
    exit_status = ExitStatus.USAGE
    transient = False
    hint = "check user and password (PGPASSWORD, ~/.pgpass, or state.manifest as env: or file:) and the role's rights"


class Fenced(DcsyncError):
    """Another host has taken this job up meanwhile: what was done here is not recorded."""

    code = "D-FENCED"
    transient = True
    safe = "the other host does the job; nothing is done twice"
    hint = "nothing: this happens to a host that was paused or cut off for a while"


class IllegalTransition(DcsyncError):
    """A job was to go to a state that its state does not lead to: a bug, kept from doing harm."""

    code = "D-STATE"
    exit_status = ExitStatus.BUG


def every_error() -> Iterator[type[DcsyncError]]:
    """Yield every class of the tree."""
    waiting: list[type[DcsyncError]] = [DcsyncError]
    while waiting:
        kind = waiting.pop()
        yield kind
        waiting += kind.__subclasses__()
