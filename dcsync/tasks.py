"""Ways to run work: disk threads, uninterruptible work, work in the background, and bounded concurrency."""

from __future__ import annotations

import asyncio
import functools
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Generic, Literal, NoReturn, ParamSpec, Protocol, Self, TypeVar

import aiofiles

from dcsync.errors import DcsyncError, DiskHung, NoThreads
from dcsync.opening import open_regular

P = ParamSpec("P")
T = TypeVar("T")

#: Many small files are fsynced in parallel: 300 fsyncs over a 10 ms link took 0.97 s in 16 threads and 2.24 s in one.
DISK_THREADS = 16
#: A disk that takes longer to say how much is free does not answer. A disk that spins up takes some seconds.
ASK_S = 10.0


#: The calls to a disk that are running now, in all pools, with their begin. A hung disk lets none of them return.
_CALLS: dict[object, float] = {}


@contextmanager
def disk_call() -> Iterator[None]:
    """Count the block as a call to a disk, for `oldest_disk_call_s`."""
    mark = object()
    _CALLS[mark] = time.monotonic()
    try:
        yield
    finally:
        del _CALLS[mark]


def oldest_disk_call_s() -> float | None:
    """Return the age of this process's oldest running call to a disk in seconds, or None without a running call."""
    began = min(list(_CALLS.values()), default=None)
    return None if began is None else time.monotonic() - began


#: The blocks of `vital` that are running now.
_VITAL: set[object] = set()


@contextmanager
def vital() -> Iterator[None]:
    """Mark the block as work that must not be lost, such as a refresh, which uses up its token."""
    mark = object()
    _VITAL.add(mark)
    try:
        yield
    finally:
        _VITAL.remove(mark)


def is_vital_work_running() -> bool:
    """Say whether a block of `vital` is running."""
    return bool(_VITAL)


@contextmanager
def starting_threads() -> Iterator[None]:
    """Turn the refusal of the system to start a thread into `NoThreads`."""
    try:
        yield
    except RuntimeError as error:
        if is_refused_thread(error):
            message = "the system starts no more threads for dcsync"
            raise NoThreads(message) from None
        raise


def is_refused_thread(error: BaseException) -> bool:
    """Say whether an exception means that the system refused to start a thread. Python has no class for it."""
    return type(error) is RuntimeError and str(error) == "can't start new thread"


class Threads(ThreadPoolExecutor):
    """A pool that works with the threads that it has when the system refuses more. Without any, `NoThreads`."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call."""
        with starting_threads():
            return super().submit(fn, *args, **kwargs)

    def _adjust_thread_count(self) -> None:
        try:
            super()._adjust_thread_count()
        except RuntimeError:
            if self._threads:
                return
            with suppress(queue.Empty):
                # The caller is told that its call does not run. It must not run later either.
                self._work_queue.get_nowait()
            raise


class _TimedThreads(Threads):
    """A pool that knows since when each of its calls has been running, for all callers."""

    def __init__(self, max_workers: int, thread_name_prefix: str) -> None:
        super().__init__(max_workers, thread_name_prefix)
        self.running: dict[object, float] = {}

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit a call."""
        return super().submit(self.timed, functools.partial(fn, *args, **kwargs))

    def timed(self, call: Callable[[], T]) -> T:
        """Run a call here, and count it as one of the pool's."""
        mark = object()
        self.running[mark] = time.monotonic()
        try:
            with disk_call():
                return call()
        finally:
            del self.running[mark]


class _AsyncFile(Protocol):
    async def seek(self, offset: int, /) -> int: ...

    async def read(self, size: int = -1, /) -> bytes: ...

    async def write(self, data: bytes, /) -> int: ...

    async def close(self) -> None: ...


class DiskFile:
    """An open file of aiofiles. Each call runs to its end, even if its caller is cancelled."""

    def __init__(self, file: _AsyncFile) -> None:
        self._file = file

    async def seek(self, offset: int) -> None:
        """Continue at `offset`."""
        await finish(self._file.seek(offset))

    async def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, or fewer at the end of the file. By default, return the rest of the file."""
        return await finish(self._file.read(size))

    async def write(self, data: bytes) -> None:
        """Write everything."""
        await finish(self._file.write(data))

    async def close(self) -> None:
        """Write what is buffered, and close the file."""
        await finish(self._file.close())


class DiskThreads:
    """The threads for disk work. They are separate from the loop's own pool, which name resolution uses."""

    def __init__(self, threads: int = DISK_THREADS, *, ask_s: float = ASK_S) -> None:
        self._ask_s = ask_s
        self._pool = _TimedThreads(max_workers=threads, thread_name_prefix="dcsync-disk")
        #: The calls of `ask` that are running now, with their begin.
        self._asked: dict[object, float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Wait for started work: a thread cannot be stopped, and it must close its file before the lock is released.
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run blocking `function` in a thread and return its result.

        Cancelling waits until the function has returned and drops its result. No thread therefore still writes to a
        file after its owner has been cancelled.
        """
        return await self.wait(self.start(function, *args, **kwargs))

    async def ask(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a blocking `function` that only reads, and return its result. Nothing waits for it longer than `ask_s`.

        Raises `DiskHung` when the disk does not answer in time, and at once while an earlier call waits for longer.
        Each call has a thread of its own, which does not keep the process alive.
        """
        began = min(list(self._asked.values()), default=None)
        waiting_s = 0.0 if began is None else time.monotonic() - began
        if waiting_s > self._ask_s:
            raise _hung(waiting_s)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T | Exception] = loop.create_future()
        call, mark = functools.partial(function, *args, **kwargs), object()

        def deliver(result: T | Exception) -> None:
            if not answer.cancelled():
                answer.set_result(result)

        def work() -> None:
            result: T | Exception
            try:
                result = self._pool.timed(call)
            except Exception as error:  # noqa: BLE001 - raised by the caller
                result = error
            finally:
                del self._asked[mark]
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(deliver, result)

        self._asked[mark] = time.monotonic()
        try:
            with starting_threads():
                threading.Thread(target=work, name="dcsync-ask", daemon=True).start()
        except BaseException:
            del self._asked[mark]
            raise
        try:
            async with asyncio.timeout(self._ask_s):
                result = await answer
        except TimeoutError:
            raise _hung(self._ask_s) from None
        if isinstance(result, Exception):
            raise result
        return result

    def start(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
        """Start blocking `function` in a thread. The caller owns the future and must `wait` for it."""
        call = functools.partial(function, *args, **kwargs)
        return asyncio.get_running_loop().run_in_executor(self._pool, call)

    @asynccontextmanager
    async def open(
        self, path: Path | str, mode: Literal["rb", "wb"], *, opener: Callable[[str, int], int] | None = None
    ) -> AsyncIterator[DiskFile]:
        """Open a file for plain reads or writes, with `opener` as in the built-in `open`. Nothing is fsynced.

        Without an `opener`, the file must be a regular one (`dcsync.opening`), or this raises `NotRegular`.
        Cancelling waits for the call under way, as `run` does. The file is closed in these threads as well.
        """
        opened: list[DiskFile] = []

        async def work() -> None:
            opened.append(DiskFile(await aiofiles.open(path, mode, opener=opener or _open_plain, executor=self._pool)))

        try:
            await finish(work())
            yield opened[0]
        finally:
            for file in opened:
                await file.close()

    def oldest_s(self) -> float | None:
        """Return the age of the oldest running call in seconds, or None without a running call.

        A hung disk shows here, because its call does not return and cannot be interrupted.
        """
        began = min(list(self._pool.running.values()), default=None)
        return None if began is None else time.monotonic() - began

    async def wait(self, future: asyncio.Future[T]) -> T:
        """Return the result of a started call. Cancelling waits for its end first."""
        return await _to_the_end(future)


def _open_plain(path: str, flags: int) -> int:
    # 0666 and the umask, as the built-in `open` does.
    return open_regular(path, flags, 0o666)


def _hung(seconds: float) -> DiskHung:
    return DiskHung(f"the disk has not answered for {seconds:.0f} s")


async def finish(work: Coroutine[None, None, T]) -> T:
    """Run `work` to its end even if the caller is cancelled. The cancellation is delivered afterwards.

    Used for steps that must not be half done: a rename and its row, a new refresh token and its file.
    """
    async with asyncio.TaskGroup() as group:
        outcome = await _to_the_end(group.create_task(capture(work)))
    return outcome.get()


@dataclass(frozen=True, slots=True)
class Success(Generic[T]):
    """The result of work that succeeded."""

    result: T

    def get(self) -> T:
        """Return the result."""
        return self.result


@dataclass(frozen=True, slots=True)
class Failure:
    """The exception of work that failed."""

    error: Exception

    def get(self) -> NoReturn:
        """Raise the exception."""
        raise self.error


async def capture(work: Coroutine[None, None, T]) -> Success[T] | Failure:
    """Return the result or the exception of `work`. A raised exception would make a group cancel its parent task."""
    try:
        return Success(await work)
    except Exception as error:  # noqa: BLE001 - raised by the caller
        return Failure(error)


@asynccontextmanager
async def task_group() -> AsyncIterator[asyncio.TaskGroup]:
    """Yield a group for tasks that run while the block runs. The block must cancel those that are left at its end.

    An exception of the block is raised as it is, not in a group. If a task fails, the block is cancelled and the error
    of the task is raised.
    """
    failure: Exception | None = None
    try:
        async with asyncio.TaskGroup() as group:
            try:
                yield group
            except Exception as error:  # noqa: BLE001 - raised below, outside the group
                failure = error
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None
    if failure is not None:
        raise failure


@asynccontextmanager
async def running(work: Coroutine[None, None, object]) -> AsyncIterator[None]:
    """Run `work` while the block runs, and cancel it at the end of the block.

    `task_group` says how errors are raised.
    """
    async with task_group() as group:
        task = group.create_task(work)
        try:
            yield
        finally:
            task.cancel()


async def _to_the_end(future: asyncio.Future[T]) -> T:
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.shield(future)
        except asyncio.CancelledError as error:
            if future.cancelled():
                raise
            cancelled = error
        except BaseException:  # noqa: BLE001 - the future holds it; it is raised below
            break
    if cancelled is not None:
        # Reading the outcome keeps the loop from reporting an exception that was never retrieved.
        future.exception()
        raise cancelled
    return future.result()


async def each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, at_once: int) -> None:
    """Run `work` for every item in order, `at_once` items at a time. The first error cancels the rest and is raised.

    A bug takes precedence over a `DcsyncError`, so that no error hides a bug.
    """
    remaining = iter(items)

    async def worker() -> None:
        for item in remaining:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


def primary_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the most informative exception of a group: a bug if there is one, else the first `DcsyncError`."""
    leaves = list(_leaves(group))
    return next((error for error in leaves if not isinstance(error, DcsyncError)), leaves[0])


def _leaves(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from _leaves(error)
        else:
            yield error
