"""An SSH connection with the agent at its other end, for callers that are not asynchronous."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shlex
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from edgevision import errors
from edgevision.errors import (
    EdgeVisionError,
    LostConnectionError,
    StorageError,
    UnavailableError,
    UsageError,
)
from edgevision.lazy import require
from edgevision.remote.address import Address
from edgevision.remote.archive import agent_archive
from edgevision.remote.transfer import upload_bytes

if TYPE_CHECKING:
    import asyncssh

Progress = Callable[[str, int, int], None]
T = TypeVar("T")

_CONNECT_SECONDS = 20
_ALIVE_SECONDS, _ALIVE_COUNT = 10, 3  # a silent connection is given up after half a minute
_READ = 1 << 16
_HERE_SECONDS = 10.0  # the agent ends where it hears nothing for some of these
_STOP_SECONDS = 5.0
_MARK = "edgevision-root:"  # a shell's own greetings come before it
_ROOT = f'printf "\\n%s%s\\n" {_MARK} "${{XDG_CACHE_HOME:-$HOME/.cache}}/edgevision"'


class Connection:
    """A running agent. Requests go one at a time; ``close`` ends it, as does the end of this one.

    Args:
        address: the device.
        options: for ``asyncssh.connect`` beside the user's own configuration.

    Raises:
        UnavailableError: no connection, an unknown or changed host key, a login that is refused, no
            interpreter; says the way out.
        StorageError: there is no room for the agent.
    """

    def __init__(self, address: Address, **options: Any) -> None:
        self.address = address
        self._ssh = require("asyncssh")
        self._loop = asyncio.new_event_loop()
        # Transfers that are under way when a connection goes have nobody left to tell.
        self._loop.set_exception_handler(lambda loop, context: None)
        self._broken: EdgeVisionError | None = None
        # The agent answers one request after another. Held for longer by who needs several.
        self.alone = threading.RLock()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._started: asyncssh.SSHClientProcess[str] | None = None
        self._text = ""
        self._errors: list[str] = []
        self.hello: dict[str, Any] = {}
        try:
            self.hello = self.run(self._start(options))
        except BaseException:
            self.close()
            raise

    def call(self, task: str, progress: Progress | None = None, **arguments: Any) -> Any:
        """The result of a task of the agent.

        Raises:
            EdgeVisionError: the one that it raised there.
            UnavailableError: the connection or the agent is gone.
        """
        request = json.dumps({"task": task, "arguments": arguments})
        with self.alone:
            if self._broken is not None:
                raise self._broken
            return self.run(self._asked(request, progress))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for ``work``; what goes wrong with the connection comes out as our errors."""
        if self._loop.is_closed():
            work.close()
            raise UsageError(f"The connection to {self.address} was closed.")
        future = asyncio.run_coroutine_threadsafe(self._translated(work), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    @property
    def is_broken(self) -> bool:
        """Whether nothing can be asked any more."""
        return self._broken is not None or self._loop.is_closed()

    def close(self) -> None:
        """End the agent and the connection; a second call does nothing."""
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def sftp(self) -> asyncssh.SFTPClient:
        """For transfers."""
        return self._sftp

    async def _start(self, options: dict[str, Any]) -> dict[str, Any]:
        given = {
            name: value
            for name, value in (("port", self.address.port), ("username", self.address.user))
            if value is not None
        }
        self._connection = await self._ssh.connect(
            self.address.host,
            connect_timeout=_CONNECT_SECONDS,
            keepalive_interval=_ALIVE_SECONDS,
            keepalive_count_max=_ALIVE_COUNT,
            **{**given, **options},
        )
        found = await self._connection.run(_ROOT, check=False)
        lines = str(found.stdout).splitlines()
        roots = [line[len(_MARK) :] for line in lines if line.startswith(f"{_MARK}/")]
        if not roots:
            raise UnavailableError(
                f"Device {self.address} has no POSIX shell: {_words(found.stderr)}.",
                hint="EdgeVision serves devices with Linux.",
            )
        self.root = roots[-1]
        try:
            self._sftp = await self._connection.start_sftp_client()
        except (self._ssh.Error, OSError) as error:
            raise UnavailableError(
                f"Device {self.address} moves no files: its SSH server has no SFTP "
                f"({_words(error)}).",
                hint="Turn it on there: Subsystem sftp internal-sftp in sshd_config.",
            ) from error
        await self._sftp.makedirs(f"{self.root}/agents", exist_ok=True)
        path = await self._sent()
        python = self.address.python
        if python.startswith("~/"):
            python = python[2:]  # a command starts in the home folder
        command = f"exec {shlex.quote(python)} {shlex.quote(path)} {shlex.quote(self.root)}"
        self._started = await self._connection.create_process(
            command, encoding="utf-8", errors="replace"
        )
        self._listener = asyncio.ensure_future(self._listen())
        self._beat = asyncio.ensure_future(self._tell_alive())
        try:
            hello: dict[str, Any] = (await self._answer(None))["hello"]
        except _ToldError as told:
            raise told.error from None
        return hello

    async def _sent(self) -> str:
        """Where the agent's archive is on the device; sent if it is not there whole."""
        data = agent_archive()
        path = f"{self.root}/agents/{hashlib.sha256(data).hexdigest()[:16]}.pyz"
        if await self._sftp.exists(path) and (await self._sftp.stat(path)).size == len(data):
            return path
        await upload_bytes(self._sftp, data, path)
        return path

    @property
    def _agent(self) -> asyncssh.SSHClientProcess[str]:
        assert self._started is not None
        return self._started

    async def _listen(self) -> None:
        """Keep what the agent says beside its answers, for the case that it dies."""
        async for line in self._agent.stderr:
            self._errors = [*self._errors[-19:], str(line).rstrip()]

    async def _tell_alive(self) -> None:
        while True:
            await asyncio.sleep(_HERE_SECONDS)
            self._agent.stdin.write("\n")

    async def _asked(self, request: str, progress: Progress | None) -> Any:
        try:
            self._agent.stdin.write(request + "\n")
            return (await self._answer(progress))["result"]
        except _ToldError as told:
            raise told.error from None
        except BaseException:
            # The answer is still to come, or never will: nothing else can be asked.
            self._broken = LostConnectionError(f"The connection to {self.address} is no more.")
            raise

    async def _answer(self, progress: Progress | None) -> dict[str, Any]:
        while True:
            line = await self._line()
            try:
                told = json.loads(line)
            except ValueError:  # of an interpreter's wrapper
                self._errors.append(line)
                continue
            if not isinstance(told, dict):
                continue
            if "progress" in told:
                if progress is not None:
                    progress(*told["progress"])
            elif "error" in told:
                raise _ToldError(_error(told["error"], self.address))
            elif "defect" in told:
                raise RuntimeError(f"The agent on {self.address} failed:\n{told['defect']}")
            else:
                return dict(told)

    async def _line(self) -> str:
        """The agent's next line, of any length: durations of a long measurement take megabytes."""
        parts = [self._text]
        while "\n" not in parts[-1]:
            parts.append(await self._agent.stdout.read(_READ))
            if not parts[-1]:
                raise await self._gone()
        line, _, self._text = "".join(parts).partition("\n")
        return line

    async def _gone(self) -> EdgeVisionError:
        """Why no answer will come."""
        await self._agent.wait_closed()
        last = self._errors[-1] if self._errors else ""
        status, signal = self._agent.exit_status, self._agent.exit_signal
        if status is None and signal is None:
            return _lost(self.address)
        if status in (126, 127):
            return UnavailableError(
                f"Device {self.address} cannot run '{self.address.python}': {last}.",
                hint=f"Name its Python: ssh://{self.address}?python=/usr/bin/python3",
            )
        if status == 0 and not self.hello:
            return UnavailableError(
                f"Device {self.address}: '{self.address.python}' runs no agent: {last}.",
                hint=f"Name its Python: ssh://{self.address}?python=/usr/bin/python3",
            )
        how = f"killed by SIG{signal[0]}" if signal else f"exit status {status}"
        return LostConnectionError(
            f"The agent on {self.address} ended without an answer ({how}). {last}".rstrip(),
            hint="A kill is most often want of memory. Run the command again.",
        )

    async def _stop(self) -> None:
        if self._connection is None:
            return
        agent = self._started
        if agent is not None:
            self._beat.cancel()
            try:
                agent.stdin.write_eof()
                await asyncio.wait_for(agent.wait_closed(), _STOP_SECONDS)
            except asyncio.TimeoutError:
                await self._kill()
            except (self._ssh.Error, OSError):
                agent.close()
            self._listener.cancel()
        self._connection.close()
        await self._connection.wait_closed()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _kill(self) -> None:
        """End an agent that a vendor's call holds up."""
        pid = self.hello.get("pid")
        if pid is not None and self._connection is not None:
            with suppress(asyncio.TimeoutError, self._ssh.Error, OSError):
                kill = self._connection.run(f"kill -9 {int(pid)}", check=False)
                await asyncio.wait_for(kill, _STOP_SECONDS)
        self._agent.close()

    async def _translated(self, work: Coroutine[Any, Any, T]) -> T:
        ssh = self._ssh
        try:
            return await work
        except ssh.HostKeyNotVerifiable as error:
            raise _host_key(self.address, str(error)) from error
        except ssh.PermissionDenied as error:
            raise UnavailableError(
                f"Device {self.address} refuses the login: {error.reason}.",
                hint=f"Give it your key: {self.address.command('ssh-copy-id')}",
            ) from error
        except ssh.SFTPError as error:
            if isinstance(error, ssh.SFTPConnectionLost):
                raise _lost(self.address, error) from error
            raise StorageError(
                f"Device {self.address}: a file cannot be written or read: {error.reason}.",
                hint=f"Is its disk full? {self.address.command('ssh')} df -h",
            ) from error
        except (ssh.Error, BrokenPipeError) as error:
            raise _lost(self.address, error) from error
        except (OSError, asyncio.TimeoutError) as error:
            raise UnavailableError(
                f"Device {self.address} cannot be reached: {_reason(error)}.",
                hint=f"Check its address, and that SSH is on: {self.address.command('ssh')}",
            ) from error
        except ValueError as error:
            if self._connection is not None:
                raise
            raise UsageError(
                f"Device {self.address}: your SSH configuration, keys or known hosts cannot be "
                f"used: {_words(error)}.",
                hint=f"Try it with SSH itself: {self.address.command('ssh')}",
            ) from error


class _ToldError(Exception):
    """What the agent answered with: all is well with the connection."""

    def __init__(self, error: EdgeVisionError) -> None:
        super().__init__()
        self.error = error


def _lost(address: Address, error: Exception | None = None) -> UnavailableError:
    reason = f": {_words(error)}" if error is not None else ""
    return LostConnectionError(
        f"The connection to {address} was lost{reason}.",
        hint="Run the command again: it carries on with what has arrived.",
    )


def _host_key(address: Address, reason: str) -> UnavailableError:
    return UnavailableError(
        f"The host key of {address} is not one that is known: {_words(reason)}.",
        hint=f"If it is new, log in once and compare the key: {address.command('ssh')}. If it was "
        "known and has changed, somebody may be in between: ask whoever set the device up.",
    )


def _error(told: dict[str, Any], address: Address) -> EdgeVisionError:
    kind = getattr(errors, told["kind"], UsageError)
    message = f"On {address}: {told['message']}"
    error: EdgeVisionError = kind(message, hint=told["hint"])
    return error


def _reason(error: Exception) -> str:
    return _words(getattr(error, "strerror", None) or error) or "no answer"


def _words(error: object) -> str:
    return " ".join(str(error).split()).rstrip(".")
