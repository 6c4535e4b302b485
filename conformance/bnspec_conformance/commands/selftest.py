"""``bnspec-conformance selftest``: the suite proves that it finds what it is to find."""

import argparse
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from bnspec_conformance.commands.numbers import seconds

if TYPE_CHECKING:
    from bnspec_conformance.mutants import Mutant
    from bnspec_conformance.mutants.killing import Killing
    from bnspec_conformance.trials.record import Record

__all__ = ["call", "register"]

_SEEDS = (0, 1, 2)


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Declare the arguments."""
    selftest = commands.add_parser("selftest", help="show that the suite finds wrong implementations, and no right one")
    selftest.add_argument("--mutant", action="append", metavar="NAME", help="only this mutant; may be repeated")
    selftest.add_argument(
        "--clause", action="append", metavar="ID", help="only mutants that break this clause or family; may be repeated"
    )
    selftest.add_argument(
        "--seed", action="append", type=int, metavar="N", help="a seed of all cases; may be repeated (default: 0, 1, 2)"
    )
    selftest.add_argument("--jobs", type=int, metavar="N", help="processes (default: one for each processor)")
    selftest.add_argument("--deadline", type=seconds, metavar="SECONDS", help="for one case (default 120)")
    selftest.add_argument("--json", metavar="FILE", help="write the result as JSON")
    selftest.add_argument("--list", action="store_true", help="list the mutants and stop")
    selftest.add_argument("--table", action="store_true", help="print the page of all mutants as Markdown and stop")
    selftest.set_defaults(call=call)


def call(options: argparse.Namespace) -> int:
    """Kill every mutant with every seed; 0 only if none survives and the core itself passes."""
    import json
    import os
    import time

    from bnspec_conformance.mutants import catalogue
    from bnspec_conformance.mutants.declining import SHRUNK
    from bnspec_conformance.mutants.killing import checks_for
    from bnspec_conformance.mutants.summary import markdown, show, to_json
    from bnspec_conformance.report.atomic_write import write_text
    from bnspec_conformance.run.items import matches

    if options.table:
        sys.stdout.write(markdown())
        return 0
    known = catalogue()
    for name in options.mutant or ():
        if name not in known:
            print(_unknown(name, known), file=sys.stderr)
            return 2
    jobs = (os.cpu_count() or 1) if options.jobs is None else options.jobs
    if jobs < 1:
        print(f"--jobs is {jobs}; expected a number >= 1.", file=sys.stderr)
        return 2
    chosen = [m for m in known.values() if not options.mutant or m.name in options.mutant]
    if options.clause:
        chosen = [m for m in chosen if any(matches(wanted, m.clause) for wanted in options.clause)]
        if not chosen:
            print(
                f"no mutant breaks {' or '.join(options.clause)}; CONTRIBUTING.md says how to add one.", file=sys.stderr
            )
            return 2
    if options.list:
        for mutant in chosen:
            print(f"{mutant.name:41} {mutant.clause:12} {mutant.row or '':4} {mutant.breaks}")
        return 0
    seeds = sorted(set(options.seed or _SEEDS))
    started = time.perf_counter()
    try:
        with _pool(jobs) as pool:
            shrunk = [m for m in chosen if m.name in SHRUNK]
            attempts = [*_plain(chosen, seeds), *_shrunk(shrunk, seeds)]
            checks = [*_plain_checks(checks_for(chosen), seeds), *_shrunk_checks(checks_for(shrunk), seeds)]
            killings, records = _run(pool, attempts, checks, options.deadline)
    except BrokenProcessPool as error:
        print(f"a process ended before its time, for want of memory perhaps ({error}); try --jobs 1.", file=sys.stderr)
        return 1
    took = time.perf_counter() - started
    well = show(chosen, killings, records, seeds, took)
    if options.json:
        result = to_json(chosen, killings, records, seeds, took)
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    return 0 if well else 1


#: A name, a seed, whether to shrink, and what is declined.
_Attempt = tuple[str, int, bool, str]


def _plain(mutants: "Sequence[Mutant]", seeds: Sequence[int]) -> list[_Attempt]:
    return [(mutant.name, seed, False, "") for mutant in mutants for seed in seeds]


def _shrunk(mutants: "Sequence[Mutant]", seeds: Sequence[int]) -> list[_Attempt]:
    """With shrinking: as they are, and declining cases that the search comes across."""
    from bnspec_conformance.mutants.declining import DECLINERS

    whats = ("", *DECLINERS)
    return [(mutant.name, seed, True, what) for mutant in mutants for seed in seeds for what in whats]


def _plain_checks(checks: Sequence[str], seeds: Sequence[int]) -> list[_Attempt]:
    return [(check, seed, False, "") for check in checks for seed in seeds]


def _shrunk_checks(checks: Sequence[str], seeds: Sequence[int]) -> list[_Attempt]:
    """Return the core where it declines cases; with one seed, since nothing is found that could be made smaller."""
    from bnspec_conformance.mutants.declining import DECLINERS

    return [(check, seed, True, what) for check in checks for seed in seeds[:1] for what in DECLINERS]


def _run(
    pool: Executor, mutants: Sequence[_Attempt], checks: Sequence[_Attempt], deadline: float | None
) -> "tuple[list[Killing], list[Record]]":
    """Return all attempts in their order. The core comes last, in processes that held mutants."""
    with _progress(len(mutants) + len(checks), sys.stdout) as advance:

        def note(future: "Future[Any]") -> None:
            if not future.cancelled() and future.exception() is None:
                result = future.result()
                advance(f"{result.mutant} survived" if getattr(result, "check", "-") == "" else "")

        killing: list[Future[Any]] = [pool.submit(_kill, *each, deadline) for each in mutants]
        checking: list[Future[Any]] = [pool.submit(_clean, *each, deadline) for each in checks]
        for future in (*killing, *checking):
            future.add_done_callback(note)
        return [future.result() for future in killing], [future.result() for future in checking]


def _kill(name: str, seed: int, shrink: bool, declines: str, deadline: float | None) -> "Killing":
    """Return one attempt at one mutant, in a process of the pool."""
    from bnspec_conformance.mutants import catalogue
    from bnspec_conformance.mutants.killing import kill

    return kill(catalogue()[name], seed, shrink=shrink, declines=declines, deadline=deadline)


def _clean(check: str, seed: int, shrink: bool, declines: str, deadline: float | None) -> "Record":
    """Return one check of the core itself, in a process of the pool."""
    from bnspec_conformance.mutants.killing import clean

    return clean(check, seed, shrink=shrink, declines=declines, deadline=deadline)


class _Here(Executor):
    """No pool: this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(fn(*args, **kwargs))
        return done


@contextmanager
def _pool(jobs: int) -> Iterator[Executor]:
    import multiprocessing

    if jobs == 1:
        yield _Here()
        return
    # Fresh processes rather than forks, which would copy this one's threads.
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _progress(total: int, out: TextIO) -> Iterator[Callable[[str], None]]:
    """A bar on a terminal, else a line for every hundred attempts and for every survivor."""
    if not out.isatty():
        count = 0

        def say(news: str) -> None:
            nonlocal count
            count += 1
            if news or count % 100 == 0 or count == total:
                out.write(f"[{count}/{total}] {news}".rstrip() + "\n")
                out.flush()

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=out), transient=True) as bar:
        task = bar.add_task("attempts", total=total)

        def show(news: str) -> None:
            bar.update(task, advance=1)
            if news:
                bar.console.print(f"[bold red]{news}[/bold red]")

        yield show


def _unknown(name: str, known: Collection[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, known, n=3)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return (
        f"unknown mutant {name!r}; expected one of {len(known)}. {meant}`bnspec-conformance selftest --list` has them."
    )
