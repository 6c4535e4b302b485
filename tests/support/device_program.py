"""Programs of one CUDA kernel on the emulated device, for g++ with a sanitizer: no Python, no NumPy in between."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

from bnspec_backends.cuda.plan import plan_for

ROOT = Path(__file__).parents[2]
SOURCE = (ROOT / "backends" / "bnspec_backends" / "cuda" / "batch_norm.cu").read_text(encoding="utf-8")
DEVICE = ROOT / "tests" / "support" / "emulated" / "device"
FLAGS: tuple[str, ...] = ("-std=c++17", "-O1", "-g", "-w", "-ffp-contract=off", "-fno-math-errno")
if platform.machine() == "x86_64":
    FLAGS += ("-mfma", "-mf16c")


class Sizes(NamedTuple):
    """Extents of x without gaps: (groups, rows, channels, run)."""

    groups: int
    rows: int
    channels: int
    run: int


#: One channel's part for each block, and columns; both so long that several blocks share a channel.
SIZES = {"runs": Sizes(1, 2, 1, 3000), "columns": Sizes(1, 150, 33, 1)}

_MAIN = """
template <class T> T* made(size_t n) {{ return (T*)calloc(n, sizeof(T)); }}
int main() {{
  Call c{{}};
  const i64 n = {size}, each = {groups} * {channels};
  float* x = made<float>(n);
  float* dy = made<float>(n);
  for (i64 i = 0; i < n; i++) {{ x[i] = i % 97; dy[i] = i % 89; }}
  c.x = x; c.dy = dy; c.out = made<float>(n); c.mask = nullptr;
  c.groups = {groups}; c.rows = {rows}; c.channels = {channels}; c.run = {run};
  c.x_row = c.dy_row = c.out_row = {channels} * {run};
  c.x_channel = c.dy_channel = c.out_channel = {run};
  c.counts = 1; c.lanes = {lanes}; c.width = {width}; c.team = {team};
  c.partial = made<double>(each * {parts} * 4); c.counters = made<u32>({blocks}); c.count = made<i64>({groups});
  double** statistics[] = {{&c.divisor, &c.mean, &c.low, &c.m2, &c.inverse, &c.centre, &c.scale, &c.shift,
                           &c.slope, &c.s1, &c.s2}};
  for (double** v : statistics) *v = made<double>(each);
  c.epsilon = 1.0;
  for (i64 i = 0; i < each; i++) {{ c.centre[i] = 47; c.inverse[i] = 0.5; }}
  for (i64 i = 0; i < {groups}; i++) c.divisor[i] = n / each;
  const char* wrong = emulator::launch({{{blocks}, {grid}, 1}}, {{{threads}, 1, 1}}, {shared}, {order},
                                       [](const void* c) {{ {what}(*(const Call*)c); }}, &c);
  double sum = 0;
  for (i64 i = 0; i < each; i++) sum += c.mean[i] + c.m2[i] + c.scale[i] + c.shift[i] + c.slope[i] + c.s1[i] + c.s2[i];
  for (i64 i = 0; i < n; i++) sum += ((float*)c.out)[i];
  printf("%s %a\\n", wrong ? wrong : "done", sum);
}}
"""


def run(
    kernel: str,
    sizes: Sizes,
    folder: Path,
    sanitizer: str,
    *,
    source: str = SOURCE,
    less: int = 0,
    order: int = 0,
    arithmetic: str = "Wide",
) -> Any:
    """Run a kernel under a sanitizer; ``less`` bytes of shared memory are withheld."""
    columns = sizes.run < 128
    vector = 1 if columns else 4
    plan = plan_for(*sizes, columns, vector, 4)
    numbers = {"moments": 4, "grad_sums": 2}.get(kernel, 0)
    types = "float" if kernel in ("moments", "normalize") else "float, float"
    main = _MAIN.format(
        size=sizes.groups * sizes.rows * sizes.channels * sizes.run,
        **sizes._asdict(), lanes=plan.lanes, width=plan.width, team=plan.team, parts=plan.parts, blocks=plan.blocks,
        grid=plan.parts if numbers else plan.tiles, threads=plan.threads, order=order,
        shared=plan.shared_bytes(numbers) - less,
        what=f"{kernel}<{types}, {plan.walk}, {plan.unroll}, false, {arithmetic}>",
    )  # fmt: skip
    path = folder / f"{kernel}.cpp"
    path.write_text(
        f'#include <stdio.h>\n#include <stdlib.h>\n#include "{DEVICE / "cuda_words.h"}"\n{source}{main}',
        encoding="utf-8",
    )
    program = path.with_suffix("")
    build = ["g++", *FLAGS, f"-fsanitize={sanitizer}", f"-I{DEVICE}", str(path), str(DEVICE / "emulator.cpp")]
    subprocess.run([*build, "-o", str(program)], check=True)
    # ThreadSanitizer wants its part of the address space where it expects it.
    environment = os.environ | {"ASAN_OPTIONS": "detect_leaks=0"}
    return subprocess.run(["setarch", "-R", str(program)], capture_output=True, text=True, check=False, env=environment)
