"""MPI jobs: starting one, and being one of its processes that has nothing to say."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["LaunchError", "command", "launch", "rank_here", "ranks_here", "silence_other_ranks"]


class LaunchError(Exception):
    """A job cannot be started; the text says what is missing."""


def command(ranks: int, arguments: Sequence[str]) -> list[str]:
    """Return the command line of a job of Python processes.

    The launcher is the one beside the interpreter, where a wheel puts it, else the one on the path; the environment
    variable ``BNSPEC_MPIEXEC`` overrules both.

    Raises
    ------
    LaunchError
        There is no mpi4py, or no launcher.
    """
    if ranks < 1:
        raise LaunchError(f"--ranks is {ranks}; expected a number >= 1.")
    try:
        import mpi4py  # noqa: F401
    except ImportError:
        raise LaunchError("mpi4py is not installed; try `pip install bnspec[mpi]`.") from None
    beside = Path(sys.executable).parent / "mpiexec"
    found = os.environ.get("BNSPEC_MPIEXEC") or (str(beside) if beside.exists() else shutil.which("mpiexec"))
    if found is None:
        raise LaunchError("no mpiexec beside the interpreter or on the path; try `pip install bnspec[mpi]`.")
    more: list[str] = []
    try:
        said = subprocess.run([found, "--version"], capture_output=True, text=True, check=False).stdout
    except OSError as error:
        raise LaunchError(f"{found} cannot be started: {error.strerror}.") from None
    if "Open MPI" in said or "OpenRTE" in said or "PRRTE" in said:  # it counts cores, and minds being root
        more = ["--oversubscribe", *(["--allow-run-as-root"] if os.geteuid() == 0 else [])]
    return [found, *more, "-n", str(ranks), sys.executable, *arguments]


def launch(ranks: int, arguments: Sequence[str]) -> int:
    """Run ``python arguments`` as a job of so many ranks; its exit status."""
    return subprocess.run(command(ranks, arguments), check=False).returncode


def ranks_here() -> int:
    """Return the number of processes in the job of this one, as its MPI library sees it."""
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_size())


def rank_here() -> int:
    """Return the number of this process in its job, as its MPI library sees it; 0 without one."""
    try:
        from mpi4py import MPI
    except ImportError:
        return 0
    return int(MPI.COMM_WORLD.Get_rank())


def silence_other_ranks(rank: int) -> bool:
    """Silence every process of a job but the first; return whether this process was silenced."""
    if rank == 0:
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(nowhere, stream.fileno())
    return True
