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
    from bnspec_conformance.mutants.killing import Killing, Way
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
    from bnspec_conformance.mutants.summary import markdown, show, to_json
    from bnspec_conformance.report.files.atomic_write import write_text
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
            killings, records = _run(pool, *_planned(chosen, seeds, options.deadline))
    except BrokenProcessPool as error:
        print(f"a process ended before its time, for want of memory perhaps ({error}); try --jobs 1.", file=sys.stderr)
        return 1
    took = time.perf_counter() - started
    well = show(chosen, killings, records, seeds, took)
    if options.json:
        result = to_json(chosen, killings, records, seeds, took)
        write_text(options.json, json.dumps(result, indent=1) + "\n")
    return 0 if well else 1


#: The name of a mutant or a check, and how it is run.
_Attempt = tuple[str, "Way"]


def _planned(
    mutants: "Sequence[Mutant]", seeds: Sequence[int], deadline: float | None
) -> tuple[list[_Attempt], list[_Attempt]]:
    """Return the attempts at mutants, and the checks of the core itself.

    Both are made with every seed on the specification's kernels; on the compiled ones, and with shrinking, where
    nothing new would be found by another, with the first seed.
    """
    from bnspec_conformance.mutants.declining import SHRUNK
    from bnspec_conformance.mutants.killing import Way, checks_for, kernels_of

    ways = [Way(seed, deadline=deadline) for seed in seeds]
    attempts = [(mutant.name, way) for mutant in mutants for way in ways]
    checks = [(check, way) for check in checks_for(mutants) for way in ways]

    compiled = [mutant for mutant in mutants if "compiled" in kernels_of(mutant)]
    way = Way(seeds[0], kernels="compiled", deadline=deadline)
    attempts += [(mutant.name, way) for mutant in compiled]
    checks += [(check, way) for check in checks_for(compiled)]

    for mutant in mutants:
        if mutant.name in SHRUNK:
            way = Way(seeds[0], shrink=True, declines=SHRUNK[mutant.name], deadline=deadline)
            attempts.append((mutant.name, way))
            checks += [(check, way) for check in checks_for([mutant]) if way.declines]
    return attempts, checks


def _run(
    pool: Executor, mutants: Sequence[_Attempt], checks: Sequence[_Attempt]
) -> "tuple[list[Killing], list[Record]]":
    """Return all attempts in their order. The core comes last, in processes that held mutants."""
    with _progress(len(mutants) + len(checks), sys.stdout) as advance:

        def note(future: "Future[Any]") -> None:
            if not future.cancelled() and future.exception() is None:
                result = future.result()
                advance(f"{result.mutant} survived" if getattr(result, "check", "-") == "" else "")

        killing: list[Future[Any]] = [pool.submit(_kill, *each) for each in mutants]
        checking: list[Future[Any]] = [pool.submit(_clean, *each) for each in checks]
        for future in (*killing, *checking):
            future.add_done_callback(note)
        return [future.result() for future in killing], [future.result() for future in checking]


def _kill(name: str, way: "Way") -> "Killing":
    """Return one attempt at one mutant, in a process of the pool."""
    from bnspec_conformance.mutants import catalogue
    from bnspec_conformance.mutants.killing import kill

    return kill(catalogue()[name], way)


def _clean(check: str, way: "Way") -> "Record":
    """Return one check of the core itself, in a process of the pool."""
    from bnspec_conformance.mutants.killing import clean

    return clean(check, way)


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
