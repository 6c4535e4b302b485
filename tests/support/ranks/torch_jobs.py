"""Jobs of several processes for test_torch_groups.py, which find each other as those of torchrun do."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

#: The deadline in rank_faults.py, how much later an error may come, what interpreters take to start on a busy machine,
#: and when a job is taken for one that hangs; in seconds.
DEADLINE, MARGIN, STARTING, KILL = 2.0, 5.0, 60.0, 240.0

#: A process that starts the others. Those that run on after one has failed are ended, as torchrun does it.
_START = "import sys; from bnspec_conformance.run.local_job import launch_here as go; "
_START += f"sys.exit(go(int(sys.argv[1]), sys.argv[2:], patience={DEADLINE + MARGIN}) & 255)"


def torch_job(ranks: int, *arguments: Any, kill: float = KILL, **more: str) -> tuple[Any, float]:
    """Run a job to its end, or kill it; further arguments are variables of its environment."""
    paths = [str(HERE), str(ROOT), str(ROOT / "backends"), str(ROOT / "conformance"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "BNSPEC_CPU_KERNELS": "blocked",  # nothing that compiles at the first call: the deadlines here are short
        "BNSPEC_TEST_RANKS": "torch",
        "BNSPEC_TEST_DEADLINE": str(DEADLINE),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        **more,
    }
    line = [sys.executable, "-c", _START, str(ranks), *map(str, arguments)]
    started = time.perf_counter()
    job = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )
    try:
        out, err = job.communicate(timeout=kill)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)
        job.communicate()
        raise
    return subprocess.CompletedProcess(line, job.returncode, out, err), time.perf_counter() - started


def torch_programs(ranks: int, acts: str, **options: Any) -> dict[str, Any]:
    """Run acts of rank_program.py; what the first rank printed, by act."""
    done, _ = torch_job(ranks, HERE / "rank_program.py", acts + ",", **options)
    assert done.returncode == 0, done.stdout + done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip([act.split(":")[0] for act in acts.split(",")], said, strict=True))


def torch_faults(folder: Path, acts: str, ranks: int = 3, **options: Any) -> tuple[Any, float, dict[str, Any]]:
    """Run acts of rank_faults.py: the job, how long it took, and what each rank wrote, by act, name and rank."""
    done, seconds = torch_job(ranks, HERE / "rank_faults.py", acts, folder, **options)
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*.json")):
        name, rank = path.stem.rsplit("-", 1)
        act = acts if path.parent == folder else path.parent.name
        found.setdefault(act, {}).setdefault(name, {})[int(rank)] = json.loads(path.read_text())
    return done, seconds, found
