"""Child process that answers one line for each line, and that can never make its caller wait for ever.

Everything is read and written without blocking, under one deadline; what the process wrote to its standard error is
kept, so that whoever reports a fault can quote it. A process is started in a session of its own and ended with
everything it started there. A process that moved to yet another session is found, on Linux, by a variable of its
environment.
"""

import contextlib
import os
import secrets
import selectors
import signal
import subprocess
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bnspec_conformance.subjects.contract import ProgramError

__all__ = ["Process"]

#: Longest answer, in bytes. The suite's largest case has fewer than 2**17 numbers for each of a dozen results.
_LONGEST = 64 * 2**20
#: Bytes of standard error that are kept.
_QUOTED = 2000
#: The variable that all descendants of a program inherit, unless they are given an environment without it.
_MARK = "BNSPEC_PROGRAM"
_ROUNDS = 10
#: Seconds a process gets to leave by itself when its input ends.
_GRACE = 0.5


class Process:
    """One running program.

    Parameters
    ----------
    command : sequence of str
        Program and arguments.
    environment : mapping of str to str

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        pipe = subprocess.PIPE
        token = secrets.token_hex(16)
        marked = {**environment, _MARK: token}
        self._child = subprocess.Popen(  # ended by `end`, at the latest when this object or the interpreter goes
            list(command), bufsize=0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True, env=marked
        )
        self._finalizer = weakref.finalize(self, _end, self._child, token, os.getpid(), _GRACE)
        self._token = token
        self._stdin, self._stdout, self._stderr = (stream.fileno() for stream in _streams(self._child))
        for number in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(number, False)
        self._read = bytearray()
        self._said = bytearray()

    def ask(self, line: bytes, deadline: float) -> bytes:
        """Send one line and return the one that comes back, both without their line ends.

        Raises
        ------
        ProgramError
            If no line comes within `deadline` seconds, if more than one comes or one that nobody asked for, if it is
            longer than `_LONGEST`, or if the process ends or closes its output. The process is of no use afterwards.
        """
        if self._take() is None or self._child.poll() is not None:
            raise self._ended()
        if self._read:
            raise self._fault(f"wrote something that nobody asked for: {_quoted(self._read)}")
        limit = time.monotonic() + deadline
        left = memoryview(line + b"\n")
        with selectors.DefaultSelector() as waiting:
            waiting.register(self._stdin, selectors.EVENT_WRITE)
            waiting.register(self._stdout, selectors.EVENT_READ)
            waiting.register(self._stderr, selectors.EVENT_READ)
            while b"\n" not in self._read:
                now = time.monotonic()
                if now >= limit:
                    raise self._fault(f"gave no answer within {deadline:g} s", hung=True)
                # A child's child may hold the pipe open after the child has gone, so do not only wait for its end.
                ready = {key.fd for key, _ in waiting.select(min(limit - now, 0.5))}
                if self._stderr in ready and not self._listen():
                    waiting.unregister(self._stderr)
                gone = self._child.poll() is not None
                if (gone or self._stdout in ready) and (self._take() is None or (gone and b"\n" not in self._read)):
                    raise self._ended()
                if self._stdin in ready:
                    left = self._send(left)
                    if not left:
                        waiting.unregister(self._stdin)
        answer, _, rest = self._read.partition(b"\n")
        if rest:
            raise self._fault(f"wrote more than one line: {_quoted(answer)} and then {_quoted(rest)}")
        if left:
            raise self._fault(f"answered before it had read the whole request: {_quoted(answer)}")
        self._read.clear()
        return bytes(answer)

    def stderr(self) -> str:
        """Return the last of what it wrote to its standard error."""
        if self._finalizer.alive:
            self._listen()
        return self._said.decode("utf-8", "replace").strip()

    def end(self, *, grace: float = 0.0) -> None:
        """End it and everything it started; waits up to `grace` seconds for it to leave by itself."""
        if self._finalizer.detach() is not None:
            _end(self._child, self._token, os.getpid(), grace)

    def _send(self, left: memoryview) -> memoryview:
        try:
            return left[os.write(self._stdin, left[:65536]) :]
        except BlockingIOError:
            return left
        except BrokenPipeError:  # it reads no more; whether it answers is another matter
            return memoryview(b"")

    def _take(self) -> int | None:
        """Read what is there of its output; None at its end."""
        taken = 0
        while True:
            try:
                some = os.read(self._stdout, 65536)
            except BlockingIOError:
                return taken
            if not some:
                return None
            taken += len(some)
            self._read += some
            if b"\n" in some:
                return taken
            if len(self._read) > _LONGEST:
                raise self._fault(f"wrote {len(self._read)} bytes without a line end: {_quoted(self._read)}")

    def _listen(self) -> bool:
        """Read what is there of its standard error; whether there can be more."""
        while True:
            try:
                some = os.read(self._stderr, 65536)
            except BlockingIOError:
                return True
            if not some:
                return False
            self._said += some
            del self._said[:-_QUOTED]

    def _ended(self) -> ProgramError:
        """Return the error for an output that has ended or a process that is gone."""
        try:
            status: int | None = self._child.wait(_GRACE)
        except subprocess.TimeoutExpired:
            status = None
        if status is None:
            did = "closed its output before it answered, and runs on"
        elif status < 0:
            did = f"was killed by {_signal_name(-status)} before it answered"
        else:
            did = f"ended with exit status {status} before it answered"
        return self._fault(did + (f", in the middle of a line: {_quoted(self._read)}" if self._read else ""))

    def _fault(self, did: str, *, hung: bool = False) -> ProgramError:
        return ProgramError(did, hung=hung)


def _end(child: "subprocess.Popen[bytes]", token: str, owner: int, grace: float) -> None:
    if os.getpid() != owner:  # a fork of the process that started it
        return
    stdin, stdout, stderr = _streams(child)
    stdin.close()  # by which it knows that there is nothing more to do
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(grace)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)  # its session, so also what it has started
    child.wait()
    for _ in range(_ROUNDS):  # what is about to be ended may start another one
        left = _marked(token)
        if not left:
            break
        for number in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
    stdout.close()
    stderr.close()


def _marked(token: str) -> list[int]:
    """Processes that have inherited the variable of a program; none where there is no /proc."""
    found, mark = [], f"{_MARK}={token}".encode()
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdigit():
                with contextlib.suppress(OSError):  # gone meanwhile, or somebody else's
                    if mark in Path("/proc", name, "environ").read_bytes().split(b"\0"):
                        found.append(int(name))
    return found


def _streams(child: "subprocess.Popen[bytes]") -> list[IO[bytes]]:
    return [stream for stream in (child.stdin, child.stdout, child.stderr) if stream is not None]


def _quoted(data: bytes | bytearray) -> str:
    text = bytes(data[:100]).decode("utf-8", "replace")
    return repr(text[:60]) + (f" ... ({len(data)} bytes)" if len(data) > 60 else "")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
