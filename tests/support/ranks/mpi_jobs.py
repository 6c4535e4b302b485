"""Jobs of several processes for test_mpi.py and test_nccl.py, each with an outer limit that kills it."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from bnspec_conformance.run.launch import command

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

#: The deadline in rank_faults.py, how much later an error may come, what interpreters take to start on a busy machine,
#: and when a job is taken for one that hangs; in seconds.
DEADLINE, MARGIN, STARTING, KILL = 2.0, 5.0, 15.0, 60.0


def job(ranks: Any, *arguments: Any, kill: Any = KILL, launcher: Any = (), **more: Any) -> tuple[Any, ...]:
    """Run a job to its end, or kill it; further arguments are variables of its environment."""
    paths = [str(HERE), str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance"), os.environ.get("PYTHONPATH", "")]
    # Nothing that compiles at the first call: the deadlines here are short.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "BNSPEC_CPU_KERNELS": "blocked", **more}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [more.get("PYTHONPATH", ""), *paths]))
    started = time.perf_counter()
    first, *rest = command(ranks, [str(argument) for argument in arguments])
    line = [first, *launcher, *rest]
    done = subprocess.run(line, capture_output=True, text=True, timeout=kill, env=environment, check=False)
    return done, time.perf_counter() - started


def program(ranks: Any, act: str, *arguments: Any, **options: Any) -> Any:
    """Run an act of rank_program.py; what the first rank printed."""
    done, _ = job(ranks, HERE / "rank_program.py", act, *arguments, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def fault(folder: Path, act: str, ranks: int = 3, **options: Any) -> tuple[Any, ...]:
    """Run an act of rank_faults.py: the job, how long it took, and what each rank wrote, by name and rank."""
    done, seconds = job(ranks, HERE / "rank_faults.py", act, folder, **options)
    found: dict[str, dict[int, Any]] = {}
    for path in sorted(folder.glob("*.json")):
        name, rank = path.stem.rsplit("-", 1)
        found.setdefault(name, {})[int(rank)] = json.loads(path.read_text())
    return done, seconds, found


#: Each process with an emulated device of its own; compared with MPI, whose numbers the specification computes, as
#: those here.
EMULATED = {
    "PYTHONPATH": str(HERE.parent / "emulated"),
    "EMULATED_DEVICES": "8",
    "BNSPEC_CUDA_CACHE": str(HERE.parents[2] / ".cache" / "emulated-kernels"),
    "BNSPEC_TEST_RANKS": "nccl",
    "BNSPEC_CPU_KERNELS": "specification",
    "BNSPEC_CUDA_KERNELS": "specification",
}

#: The same with CUDA kernels, which the emulated device needs g++ for.
COMPILED = EMULATED | ({"BNSPEC_CUDA_KERNELS": "compiled"} if shutil.which("g++") else {})
