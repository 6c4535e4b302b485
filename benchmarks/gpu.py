"""Everything that only a CUDA device can show, in nine minutes: `python benchmarks/gpu.py --out DIR [--stages ...]`.

Each stage is a process of its own with its own limit, and its JSON is written as it ends, so that a stage that hangs or
a machine that goes away costs no other stage's result. What was expected stands in `PREDICTED`, written before any
run, and in a file beside the results; gpu_page.py makes tables of them.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

#: Stages in their order, each with the seconds after which it is stopped.
STAGES = {
    "facts": 40,
    "compile_all": 60,
    "bits": 60,
    "bits_twofold": 60,
    "truth": 40,
    "kernels_alone": 60,
    "blocks": 60,
    "times": 150,
    "small": 45,
    "waits": 45,
    "conformance": 150,
}

#: What was predicted: shares of the floor that a memory-bound pass should reach, launches of each operation.
PREDICTED = {
    "bits that differ from the emulator's": 0,
    "forward, of its floor 3A": 0.85,
    "backward, of its floor 5A": 0.85,
    "inference, of its floor 2A": 0.85,
    "launches forward, backward, inference": [2, 2, 1],
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the JSON files")
    parser.add_argument("--stages", default=",".join(STAGES), help="stages, separated by commas")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    asked = arguments.stages.split(",")
    if unknown := set(asked) - STAGES.keys():
        parser.error(f"no stages: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")
    (arguments.out / "predicted.json").write_text(json.dumps(PREDICTED, indent=1) + "\n", encoding="utf-8")
    begin = time.monotonic()
    for stage in asked:
        path = arguments.out / f"{stage}.json"
        command = [sys.executable, str(Path(__file__).with_name("gpu_stages.py")), stage, str(path)]
        try:
            done = subprocess.run(
                command, timeout=STAGES[stage], check=False, env=os.environ | {"PYTHONUNBUFFERED": "1"}
            )
            end = "" if done.returncode == 0 else f"exit status {done.returncode}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {STAGES[stage]} s"
        print(f"{time.monotonic() - begin:6.1f} s  {stage}: {end or 'done'}", flush=True)
        if end:
            path.with_suffix(".failed").write_text(end + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
