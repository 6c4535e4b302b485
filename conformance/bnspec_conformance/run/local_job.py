"""Jobs of processes of this machine that find each other by torch's environment variables, as those of torchrun do."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

__all__ = ["launch_here", "rank_here", "ranks_here"]

#: Seconds between two looks at the processes.
_LOOK = 0.05


def launch_here(ranks: int, arguments: Sequence[str], *, patience: float = 30.0) -> int:
    """Run ``python arguments`` as a job of so many processes, and return the exit status of the first that failed.

    Parameters
    ----------
    ranks : int
    arguments : sequence of str
    patience : float
        Seconds after which processes are ended that run on although another one failed.

    Notes
    -----
    torchrun ends the others as soon as one process ends with an error, and so would cut off the report of the first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = os.environ | {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    line = [sys.executable, *arguments]
    own = ({"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks))
    processes = [subprocess.Popen(line, env=given | each) for each in own]
    try:
        status = _ended(processes, patience)
    finally:
        for each in processes:
            each.kill()
            each.wait()
    return status


def _ended(processes: "list[subprocess.Popen[bytes]]", patience: float) -> int:
    """Wait until all processes have ended, or one has failed and the others had some time; the status of the first."""
    status, until = 0, float("inf")
    while time.monotonic() < until:
        running = [each for each in processes if each.poll() is None]
        failed = next((each.returncode for each in processes if each.returncode), 0)
        if failed and not status:
            status, until = failed, time.monotonic() + patience
        if not running:
            break
        time.sleep(_LOOK)
    return status


def ranks_here() -> int:
    """Return the number of processes in the job of this one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank_here() -> int:
    """Return the number of this process in its job."""
    return int(os.environ.get("RANK", "0"))
