"""Team of threads that share the blocks of one compiled call, without ever asking for the interpreter lock.

Handing that lock from thread to thread takes longer than many a call. So Python only starts the threads. Each enters
compiled code (`_serve`) and stays there, spinning for a moment and then asleep, until a call invites it. The threads
communicate through the *control block*, an array of integers:

- a call that finds the team free writes down the address of its kernel and of the kernel's arguments, invites the
  helpers and takes blocks itself; a free thread takes the next block;
- an invitation that no helper accepted before the blocks ran out is withdrawn, so a call never waits for a thread to
  wake;
- a call that finds the team busy, because another Python thread uses it, computes alone.

Which thread computes a block changes no result, since blocks are cut by shape alone.
"""

import ctypes
import logging
import os
import threading
from typing import Any

import numpy
from llvmlite import ir
from numba import typeof, types
from numba.core import cgutils

from bnspec_backends.cpu.compiled.atomics import add, free, load, pause, replace, store, swap, wait
from bnspec_backends.cpu.compiled.dtypes import compiled, instructions, internal

__all__ = ["ThreadTeam", "each", "team"]

_LOG = logging.getLogger("bnspec")

#: Polls of the control block before a thread sleeps. With a `pause` in each they take some tens of microseconds, as
#: long as waking the thread would take.
_PATIENCE = 2000

_LINE = 8  # integers in a line of cache: words that different threads write stand in different lines
(
    _BUSY, _KERNEL, _JOB, _NUMBER, _NEXT, _FAILED, _QUIT, _HELPERS,
    _ACQUIRE, _RELEASE, _CALLER_SLEEPS, _CALLER_LOCK, _FIRST,
) = range(0, 13 * _LINE, _LINE)  # fmt: skip

# Of each helper: whether it is invited, whether it sleeps, and the lock it sleeps on.
_INVITED, _SLEEPS, _LOCK, _EACH = range(0, 4 * _LINE, _LINE)
_NOBODY, _WAITING, _WORKING = range(3)  # values at _INVITED

_LONG = ir.IntType(64)


@instructions  # type: ignore[untyped-decorator]
def each(context: Any, kernel: Any, job: Any, number: Any, control: Any) -> Any:
    """Call ``kernel(job, i)`` for each i below a number, on all threads of the team; return when all are done."""
    block = kernel.get_call_type(context, (job, types.int64), {})

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        home = cgutils.alloca_once_value(builder, arguments[1])  # the arrays in it live until this call returns
        entry = _entry(context, builder.module, kernel.dispatcher.get_compile_result(block), block, home.type)
        shared = types.void(types.int64, types.int64, types.int64, control)
        code = _share.get_compile_result(shared)
        context.add_linking_libs((code.library,))
        addresses = [builder.ptrtoint(v, _LONG) for v in (entry, home)]
        context.call_internal(builder, code.fndesc, shared, [*addresses, *arguments[2:]])

    return types.void(kernel, job, types.int64, control), generate


def _entry(context: Any, module: Any, code: Any, signature: Any, home: Any) -> Any:
    """Write a function of the job's address and a block number, which calls a kernel and returns whether it failed."""
    context.add_linking_libs((code.library,))
    entry = ir.Function(module, ir.FunctionType(_LONG, [_LONG, _LONG]), module.get_unique_name("bnspec_block"))
    entry.linkage = "internal"
    builder = ir.IRBuilder(entry.append_basic_block("entry"))
    job = builder.load(builder.inttoptr(entry.args[0], home))
    kernel = context.declare_function(module, code.fndesc)
    given = [job, entry.args[1]]
    status, _ = context.call_conv.call_function(builder, kernel, signature.return_type, signature.args, given)
    builder.ret(builder.zext(status.is_error, _LONG))
    return entry


@instructions  # type: ignore[untyped-decorator]
def _invoke(context: Any, kernel: Any, job: Any, i: Any) -> Any:
    """Call the function that `_entry` wrote, by its address."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_LONG, [_LONG, _LONG]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])

    return types.int64(types.int64, types.int64, types.int64), generate


@internal
def _share(kernel: int, job: int, number: int, control: Any) -> None:
    """Compute all blocks, with the helpers that are free."""
    helpers = min(control[_HELPERS], number - 1)
    if helpers <= 0 or not replace(control, _BUSY, 0, 1):
        failed = 0
        for i in range(number):
            failed += _invoke(kernel, job, i)
    else:
        control[_KERNEL], control[_JOB], control[_NUMBER], control[_FAILED] = kernel, job, number, 0
        store(control, _NEXT, 0)
        for h in range(helpers):
            _invite(control, _FIRST + h * _EACH)
        _take_blocks(control)
        for h in range(helpers):
            _wait_for(control, _FIRST + h * _EACH)
        failed = load(control, _FAILED)
        store(control, _BUSY, 0)
    if failed:
        raise MemoryError("a kernel found no memory for its sums")


@internal
def _take_blocks(control: Any) -> None:
    """Take blocks until none is left."""
    kernel, job, number = control[_KERNEL], control[_JOB], control[_NUMBER]
    while True:
        i = add(control, _NEXT, 1)
        if i >= number:
            return
        if _invoke(kernel, job, i):
            store(control, _FAILED, 1)


@internal
def _invite(control: Any, helper: int) -> None:
    store(control, helper + _INVITED, _WAITING)
    if load(control, helper + _SLEEPS) and swap(control, helper + _SLEEPS, 0):
        free(control[_RELEASE], control[helper + _LOCK])


@internal
def _wait_for(control: Any, helper: int) -> None:
    """Wait until a helper has computed the block it took; withdraw an invitation that it has not accepted."""
    if replace(control, helper + _INVITED, _WAITING, _NOBODY):
        return
    looked = 0
    while load(control, helper + _INVITED) == _WORKING:
        looked += 1
        if looked < _PATIENCE:
            pause()
            continue
        store(control, _CALLER_SLEEPS, 1)
        if load(control, helper + _INVITED) != _WORKING and swap(control, _CALLER_SLEEPS, 0):
            return  # the helper was done before it could see that the caller sleeps
        wait(control[_ACQUIRE], control[_CALLER_LOCK])
        looked = 0


@compiled
def _serve(control: Any, helper: int) -> None:
    """Serve as a helper until the team is dismissed."""
    while True:
        looked = 0
        while load(control, helper + _INVITED) != _WAITING and not load(control, _QUIT):
            looked += 1
            if looked < _PATIENCE:
                pause()
                continue
            store(control, helper + _SLEEPS, 1)
            called = load(control, helper + _INVITED) == _WAITING or load(control, _QUIT)
            if not called or not swap(control, helper + _SLEEPS, 0):  # else no thread has freed the lock, nor will
                wait(control[_ACQUIRE], control[helper + _LOCK])
            looked = 0
        if load(control, _QUIT):
            return
        if replace(control, helper + _INVITED, _WAITING, _WORKING):
            _take_blocks(control)
            store(control, helper + _INVITED, _NOBODY)
            if load(control, _CALLER_SLEEPS) and swap(control, _CALLER_SLEEPS, 0):
                free(control[_RELEASE], control[_CALLER_LOCK])


@compiled
def _dismiss(control: Any, helpers: int) -> None:
    """Let the helpers end."""
    store(control, _QUIT, 1)
    for h in range(helpers):
        helper = _FIRST + h * _EACH
        if swap(control, helper + _SLEEPS, 0):
            free(control[_RELEASE], control[helper + _LOCK])


class ThreadTeam:
    """Helper threads of one process, started at the first call that can use them.

    Examples
    --------
    >>> import numba
    >>> @numba.njit
    ... def block(job, i):
    ...     job[0][i] = job[1] * i
    >>> @numba.njit(nogil=True)
    ... def multiples(out, factor, control):
    ...     each(block, (out, factor), out.size, control)
    >>> out = numpy.zeros(5, numpy.int64)
    >>> multiples(out, 3, ThreadTeam().control_block(threads=2))
    >>> out.tolist()
    [0, 3, 6, 9, 12]
    """

    def __init__(self) -> None:
        self.alone = _new_control_block(0)
        self.start_afresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.start_afresh)

    def start_afresh(self) -> None:
        """Forget the helpers, since a forked child has none."""
        self._control, self._helpers = self.alone, 0
        self._lock = threading.RLock()  # a signal's handler may call, too

    def control_block(self, threads: int) -> Any:
        """Return the control block that a call passes to `each`, for so many threads, the caller included."""
        if threads <= 1:
            return self.alone
        if self._helpers != threads - 1:
            # Compile before the helpers start: one that compiles holds the compiler's lock, and a child that is forked
            # meanwhile would never get it back.
            _serve.compile((typeof(self.alone), types.int64))
            _dismiss.compile((typeof(self.alone), types.int64))
            with self._lock:
                if self._helpers != threads - 1:
                    self._renew(threads - 1)
        return self._control

    def _renew(self, helpers: int) -> None:
        """Start other helpers; the caller completes a call that still uses the old ones."""
        control, old = _new_control_block(helpers), self._control
        try:
            for h in range(helpers):
                args = (control, _FIRST + h * _EACH)
                threading.Thread(target=_serve, args=args, name="bnspec-cpu", daemon=True).start()
        except RuntimeError as error:
            _LOG.warning("bnspec computes in one thread, since no other can be started (%s)", error)
            _dismiss(control, helpers)
            control = self.alone
        self._control, self._helpers = control, helpers
        if old is not self.alone:
            _dismiss(old, int(old[_HELPERS]))


def _new_control_block(helpers: int) -> Any:
    raw = numpy.zeros(_FIRST + helpers * _EACH + _LINE, numpy.int64)
    control = raw[-raw.ctypes.data % 64 // 8 :]
    control[_HELPERS] = helpers
    control[_ACQUIRE], control[_RELEASE] = (
        ctypes.cast(f, ctypes.c_void_p).value or 0
        for f in (ctypes.pythonapi.PyThread_acquire_lock, ctypes.pythonapi.PyThread_release_lock)
    )
    control[_CALLER_LOCK] = _new_lock()
    for h in range(helpers):
        control[_FIRST + h * _EACH + _LOCK] = _new_lock()
    return control


def _new_lock() -> int:
    """Return the address of a taken Python lock. The lock is never freed: a thread may sleep on it to the end."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
        ("PyThread_acquire_lock", ctypes.pythonapi)
    )
    lock: int = allocate()
    acquire(lock, 1)
    return lock


#: The team of every call.
team = ThreadTeam()
