"""Compiled code on disk: whatever is found there, calls are computed, by code that was made from these sources."""

import errno
import gc
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from bnspec_backends.cpu.buffer_pool import SMALLEST, Pool  # noqa: E402
from bnspec_backends.cpu.compiled import dtypes as storage  # noqa: E402
from bnspec_backends.cpu.compiled.code_cache import CodeCache  # noqa: E402
from bnspec_backends.cpu.compiled.compile_notice import notice  # noqa: E402


def square(v: Any) -> Any:
    return v * v


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(notice, "_damage_told", False)
    monkeypatch.setattr(notice, "_unkept", "")
    return tmp_path


def found(stamp: str = "one", value: int = 3) -> bool:
    """Whether a new process would find the code; it computes in any case."""
    kernel = numba.njit(square)
    kernel._cache = CodeCache(square, stamp)
    assert kernel(value) == value * value
    return bool(sum(kernel.stats.cache_hits.values()))


def files(folder: Path) -> list[Any]:
    return [path for path in folder.rglob("*") if path.is_file()]


def flipped(at: Any) -> Any:
    def flip(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[at % len(content)] ^= 0x10
        path.write_bytes(content)

    return flip


def cut(length: Any) -> Callable[..., Any]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "inside").touch()


DAMAGE = {
    "empty": cut(0),
    "cut in the digests": cut(10),
    "cut in the code": cut(-1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another format": lambda path: path.write_bytes(b"\x80\x04K\x01."),
    "a folder": made_a_folder,
    **{f"bit of byte {at} flipped": flipped(at) for at in (0, 31, 32, 63, 64, 100, 1000, -1)},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_compiled_anew_with_one_warning(
    folder: Path, caplog: pytest.LogCaptureFixture, damage: Any
) -> None:
    assert [found(), found()] == [False, True]
    (path,) = files(folder)
    damage(path)
    with caplog.at_level(logging.WARNING, "bnspec"):
        assert not found()
    assert caplog.text.count("cannot be read") == 1
    if not path.is_dir():
        assert found()


def test_code_of_other_sources_or_for_other_arguments_is_not_used(folder: Path) -> None:
    assert [found("one"), found("two"), found("two"), found("one")] == [False, False, True, False]
    assert [found("one", 2.5), found("one", 2.5), found("one", 3)] == [False, True, True]
    first, second = files(folder)
    first.write_bytes(second.read_bytes())  # whole, and ours, but not for these arguments
    assert sorted([found("one", 2.5), found("one", 3)]) == [False, True]


def test_a_folder_that_is_removed_is_made_again(folder: Path) -> None:
    assert not found()
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    assert [found(), found()] == [False, True]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("what", ["write_bytes", "replace"])
def test_where_a_file_cannot_be_written_nothing_fails_and_nothing_is_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, number: Any, what: str
) -> None:
    def fail(*given: Any) -> None:
        if what == "write_bytes":
            Path(given[0]).touch()  # as a full disk leaves it
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((Path, what, fail) if what == "write_bytes" else (os, what, fail)))
    assert [found(), found()] == [False, False]
    assert os.strerror(number) in notice._unkept
    assert files(folder) == []


def test_what_a_killed_process_left_is_removed_in_time(folder: Path) -> None:
    assert not found()
    (path,) = files(folder)
    old, new = (path.with_name(f"{path.name}.tmp.{name}") for name in ("old", "new"))
    for each in (old, new):
        each.write_bytes(b"half")
    os.utime(old, (0, 0))
    assert not found("two")
    assert sorted(files(folder)) == sorted([path, new])


def test_many_processes_may_write_at_once(folder: Path) -> None:
    """Here as threads, each with a dispatcher of its own, which numba's lock orders; files are renamed whole."""
    told = []
    crowd = [threading.Thread(target=lambda n=n: told.append(found(f"{n % 2}"))) for n in range(8)]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join(60)
    assert len(told) == 8
    assert len(files(folder)) == 1


def test_the_stamp_is_that_of_every_source_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    before = storage._stamp.__wrapped__()
    assert before == storage._stamp.__wrapped__()
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda p: read(p) + (b"#" if p.name == "plan.py" else b""))
    assert storage._stamp.__wrapped__() != before


def run(code: str, **more: Any) -> tuple[Any, ...]:
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | more, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_numba_that_does_not_compile_is_told_and_done_without() -> None:
    code = """
import numpy as np, bnspec
from bnspec._cli import main
from bnspec_backends import cpu
print(bnspec.BatchNorm(axis=1)(np.ones((4, 3), "f4")).shape, cpu.in_use())
try:
    cpu.use("compiled")
except ImportError as error:
    print(error)
main(["backends"])
"""
    status, said, told = run(code, NUMBA_DISABLE_JIT="1", BNSPEC_CPU_KERNELS="")
    assert status == 0, told
    lines = said.splitlines()
    assert lines[0] == "(4, 3) blocked"
    assert "NUMBA_DISABLE_JIT" in lines[1]
    assert "[BN-ERR-5]" in lines[1]
    assert "numpy: kernels 'blocked' in the place of 'compiled': numba is told not to compile" in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BNSPEC_POOL_BYTES", "abc"),
        ("BNSPEC_POOL_BYTES", "-1"),
        ("BNSPEC_POOL_BYTES", "1e9"),
        ("BNSPEC_NUM_THREADS", "0"),
        ("BNSPEC_NUM_THREADS", "many"),
        ("BNSPEC_CPU_KERNELS", "fast"),
    ],
)
def test_a_variable_that_cannot_be_understood_is_refused_by_its_name(variable: str, value: str) -> None:
    status, _, told = run("from bnspec._cli import main; raise SystemExit(main(['backends']))", **{variable: value})
    assert status == 2
    assert told.startswith(f"bnspec: the environment variable {variable} is '{value}'; expected ")
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(("name", "value"), [("threads", 0), ("threads", "2"), ("threads", 2.0), ("limit", -1)])
def test_settings_are_checked_where_they_are_made(name: str, value: float | int | str) -> None:
    from bnspec_backends import cpu

    owner = cpu.resources if name == "threads" else cpu.resources.pool
    before = getattr(owner, name)
    with pytest.raises(ValueError, match=f"{name} is {value!r}"):
        setattr(owner, name, value)
    assert getattr(owner, name) == before


def test_buffers_that_come_back_in_the_middle_of_anything() -> None:
    """A collection may run, and finalizers with it, while the pool is looking for a buffer."""
    pool, thresholds = Pool(1 << 40), gc.get_threshold()
    sizes = [SMALLEST + 64 * i for i in range(40)]
    gc.set_threshold(3, 1, 1)
    try:
        for size in sizes * 20:
            cycle = [pool.empty(size)]
            cycle.append(cycle)
    finally:
        gc.set_threshold(*thresholds)
    del cycle
    gc.collect()
    assert pool.waiting == sum(raw.size for raw in pool._idle.values())
    assert len({raw.ctypes.data for raw in pool._idle.values()}) == len(pool._idle)
    assert np.shares_memory(pool.empty(SMALLEST), pool.empty(SMALLEST)) is False
