"""Threads that share the blocks of one compiled call, without ever asking for the interpreter lock.

To hand that lock from thread to thread takes longer than many a call. So Python only starts the threads: each
enters compiled code (`_serve`) and stays there, spinning for a moment and then asleep, until a call invites it.
What they say to each other stands in the *mail*, an array of integers:

- a call that finds the gang free writes down the address of its kernel and of the kernel's arguments, invites the
  helpers and takes blocks itself; whoever is free takes the next block;
- an invitation that was not taken up when the blocks ran out is withdrawn, so nobody waits for a thread to wake;
- a call that finds the gang busy, because another thread of Python's is in it, computes alone.

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

__all__ = ["Gang", "each", "gang"]

_LOG = logging.getLogger("bnspec")

#: How often a thread looks for news before it sleeps: where `pause` says something to the processor, some tens of
#: microseconds, as long as waking it would take.
_PATIENCE = 2000

_LINE = 8  # integers in a line of cache: what different threads write stands in different lines
(
    _BUSY, _KERNEL, _JOB, _NUMBER, _NEXT, _FAILED, _QUIT, _HELPERS,
    _ACQUIRE, _RELEASE, _CALLER_SLEEPS, _CALLER_LOCK, _FIRST,
) = range(0, 13 * _LINE, _LINE)  # fmt: skip

# Of each helper: whether it is invited, whether it sleeps, and the lock it sleeps on.
_INVITED, _SLEEPS, _LOCK, _EACH = range(0, 4 * _LINE, _LINE)
_NOBODY, _WAITING, _WORKING = range(3)  # what stands at _INVITED

_LONG = ir.IntType(64)


@instructions  # type: ignore[untyped-decorator]
def each(context: Any, kernel: Any, job: Any, number: Any, mail: Any) -> Any:
    """Call ``kernel(job, i)`` for each i below a number, on all threads of the gang; return when all are done."""
    block = kernel.get_call_type(context, (job, types.int64), {})

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        home = cgutils.alloca_once_value(builder, arguments[1])  # the arrays in it live until this call returns
        entry = _entry(context, builder.module, kernel.dispatcher.get_compile_result(block), block, home.type)
        shared = types.void(types.int64, types.int64, types.int64, mail)
        code = _share.get_compile_result(shared)
        context.add_linking_libs((code.library,))
        addresses = [builder.ptrtoint(v, _LONG) for v in (entry, home)]
        context.call_internal(builder, code.fndesc, shared, [*addresses, *arguments[2:]])

    return types.void(kernel, job, types.int64, mail), generate


def _entry(context: Any, module: Any, code: Any, signature: Any, home: Any) -> Any:
    """Write a function of two integers, address of the job and block, that calls a kernel and says if it failed."""
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
    """Call what `_entry` wrote."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FunctionType(_LONG, [_LONG, _LONG]).as_pointer()
        return builder.call(builder.inttoptr(arguments[0], kind), arguments[1:])

    return types.int64(types.int64, types.int64, types.int64), generate


@internal
def _share(kernel: int, job: int, number: int, mail: Any) -> None:
    """Compute all blocks, with whoever is free."""
    helpers = min(mail[_HELPERS], number - 1)
    if helpers <= 0 or not replace(mail, _BUSY, 0, 1):
        failed = 0
        for i in range(number):
            failed += _invoke(kernel, job, i)
    else:
        mail[_KERNEL], mail[_JOB], mail[_NUMBER], mail[_FAILED] = kernel, job, number, 0
        store(mail, _NEXT, 0)
        for h in range(helpers):
            _invite(mail, _FIRST + h * _EACH)
        _take_blocks(mail)
        for h in range(helpers):
            _wait_for(mail, _FIRST + h * _EACH)
        failed = load(mail, _FAILED)
        store(mail, _BUSY, 0)
    if failed:
        raise MemoryError("a kernel found no memory for its sums")


@internal
def _take_blocks(mail: Any) -> None:
    """Take blocks until none is left."""
    kernel, job, number = mail[_KERNEL], mail[_JOB], mail[_NUMBER]
    while True:
        i = add(mail, _NEXT, 1)
        if i >= number:
            return
        if _invoke(kernel, job, i):
            store(mail, _FAILED, 1)


@internal
def _invite(mail: Any, helper: int) -> None:
    store(mail, helper + _INVITED, _WAITING)
    if load(mail, helper + _SLEEPS) and swap(mail, helper + _SLEEPS, 0):
        free(mail[_RELEASE], mail[helper + _LOCK])


@internal
def _wait_for(mail: Any, helper: int) -> None:
    """Wait until a helper has done the block it took, if it came at all."""
    if replace(mail, helper + _INVITED, _WAITING, _NOBODY):
        return
    looked = 0
    while load(mail, helper + _INVITED) == _WORKING:
        looked += 1
        if looked < _PATIENCE:
            pause()
            continue
        store(mail, _CALLER_SLEEPS, 1)
        if load(mail, helper + _INVITED) != _WORKING and swap(mail, _CALLER_SLEEPS, 0):
            return  # it was done before it could see that we sleep
        wait(mail[_ACQUIRE], mail[_CALLER_LOCK])
        looked = 0


@compiled
def _serve(mail: Any, helper: int) -> None:
    """What a helper does all its life."""
    while True:
        looked = 0
        while load(mail, helper + _INVITED) != _WAITING and not load(mail, _QUIT):
            looked += 1
            if looked < _PATIENCE:
                pause()
                continue
            store(mail, helper + _SLEEPS, 1)
            called = load(mail, helper + _INVITED) == _WAITING or load(mail, _QUIT)
            if not called or not swap(mail, helper + _SLEEPS, 0):  # else nobody has freed the lock, nor will
                wait(mail[_ACQUIRE], mail[helper + _LOCK])
            looked = 0
        if load(mail, _QUIT):
            return
        if replace(mail, helper + _INVITED, _WAITING, _WORKING):
            _take_blocks(mail)
            store(mail, helper + _INVITED, _NOBODY)
            if load(mail, _CALLER_SLEEPS) and swap(mail, _CALLER_SLEEPS, 0):
                free(mail[_RELEASE], mail[_CALLER_LOCK])


@compiled
def _dismiss(mail: Any, helpers: int) -> None:
    """Send the helpers home."""
    store(mail, _QUIT, 1)
    for h in range(helpers):
        helper = _FIRST + h * _EACH
        if swap(mail, helper + _SLEEPS, 0):
            free(mail[_RELEASE], mail[helper + _LOCK])


class Gang:
    """The helpers of one process, started at the first call that can use them.

    Examples
    --------
    >>> import numba
    >>> @numba.njit
    ... def block(job, i):
    ...     job[0][i] = job[1] * i
    >>> @numba.njit(nogil=True)
    ... def multiples(out, factor, mail):
    ...     each(block, (out, factor), out.size, mail)
    >>> out = numpy.zeros(5, numpy.int64)
    >>> multiples(out, 3, Gang().mail(threads=2))
    >>> out.tolist()
    [0, 3, 6, 9, 12]
    """

    def __init__(self) -> None:
        self.alone = _new_mail(0)
        self.start_afresh()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.start_afresh)

    def start_afresh(self) -> None:
        """Forget the helpers: a forked child has none."""
        self._mail, self._helpers = self.alone, 0
        self._lock = threading.RLock()  # a signal's handler may call, too

    def mail(self, threads: int) -> Any:
        """Return what a call passes to `each` to be computed by so many threads, the caller included."""
        if threads <= 1:
            return self.alone
        if self._helpers != threads - 1:
            # Here and now: a helper that compiles would hold the compiler's lock, which a forked child never gets back.
            _serve.compile((typeof(self.alone), types.int64))
            _dismiss.compile((typeof(self.alone), types.int64))
            with self._lock:
                if self._helpers != threads - 1:
                    self._renew(threads - 1)
        return self._mail

    def _renew(self, helpers: int) -> None:
        """Start other helpers; a call that is still with the old ones is completed by its caller."""
        mail, old = _new_mail(helpers), self._mail
        try:
            for h in range(helpers):
                args = (mail, _FIRST + h * _EACH)
                threading.Thread(target=_serve, args=args, name="bnspec-cpu", daemon=True).start()
        except RuntimeError as error:
            _LOG.warning("bnspec computes in one thread, since no other can be started (%s)", error)
            _dismiss(mail, helpers)
            mail = self.alone
        self._mail, self._helpers = mail, helpers
        if old is not self.alone:
            _dismiss(old, int(old[_HELPERS]))


def _new_mail(helpers: int) -> Any:
    raw = numpy.zeros(_FIRST + helpers * _EACH + _LINE, numpy.int64)
    mail = raw[-raw.ctypes.data % 64 // 8 :]
    mail[_HELPERS] = helpers
    mail[_ACQUIRE], mail[_RELEASE] = (
        ctypes.cast(f, ctypes.c_void_p).value or 0
        for f in (ctypes.pythonapi.PyThread_acquire_lock, ctypes.pythonapi.PyThread_release_lock)
    )
    mail[_CALLER_LOCK] = _new_lock()
    for h in range(helpers):
        mail[_FIRST + h * _EACH + _LOCK] = _new_lock()
    return mail


def _new_lock() -> int:
    """Return the address of a lock of Python's that is taken. It lives on: a thread may hold it to the end."""
    allocate = ctypes.PYFUNCTYPE(ctypes.c_void_p)(("PyThread_allocate_lock", ctypes.pythonapi))
    acquire = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int)(
        ("PyThread_acquire_lock", ctypes.pythonapi)
    )
    lock: int = allocate()
    acquire(lock, 1)
    return lock


#: The one that every call uses.
gang = Gang()
