"""Streams as threads: work is queued, runs later and in order, and the host waits only where it says so."""

import contextlib
import itertools
import queue
import threading
import weakref
from typing import Any

__all__ = ["Event", "Stream", "get_current_stream", "synchronizations"]

_local = threading.local()
_streams: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_events: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count(1)

#: How often the host has waited for a device; what a training step must not do.
_waited = 0


def synchronizations() -> int:
    """How often the host has waited so far. Of the emulator; CuPy has no such function."""
    return _waited


def _count_wait() -> None:
    global _waited
    _waited += 1


def use_runtime() -> None:
    """Give the calling thread a context, as the first call of CUDA's runtime in a thread does."""
    _local.context = True


def has_context() -> bool:
    """Whether the driver would know of a context in this thread; memory from the pool is no reason to."""
    return getattr(_local, "context", False)


class Stream:
    """As `cupy.cuda.Stream`; what begins with an underscore is the emulator's own."""

    __module__ = "cupy.cuda.stream"

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: Any = None
    ) -> None:
        self.ptr = 0 if null else next(_numbers)
        _streams[self.ptr] = self
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: Any = None
        self._left = 0
        self._capturing = False

    def __eq__(self, other: Any) -> Any:
        return self.ptr == other.ptr if isinstance(other, Stream) else NotImplemented

    def __hash__(self) -> Any:
        return hash(self.ptr)

    def _enqueue(self, work: Any) -> None:
        use_runtime()
        with self._lock:
            self._left += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"stream {self.ptr}", daemon=True)
                self._thread.start()
        self._queue.put(work)

    def _run(self) -> None:
        while True:
            work = self._queue.get()
            try:
                work()
            finally:
                del work
                with self._lock:
                    self._left -= 1

    @property
    def done(self) -> bool:
        with self._lock:
            return self._left == 0

    def synchronize(self) -> None:
        _count_wait()
        reached = threading.Event()
        self._enqueue(reached.set)
        reached.wait()

    def record(self, event: Any = None) -> Any:
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Any) -> None:
        reached = event._reached
        if reached is not None:
            self._enqueue(reached.wait)

    def begin_capture(self, mode: str | None = None) -> None:
        """Only the rules of capturing are emulated: what is queued meanwhile is done, and not recorded."""
        self._capturing = True
        _captures[self] = _RELAXED if mode is None else mode

    def end_capture(self) -> None:
        self._capturing = False
        _captures.pop(self)
        if self in _spoiled:
            _spoiled.remove(self)
            from cupy.cuda.runtime import CUDARuntimeError

            raise CUDARuntimeError("cudaErrorStreamCaptureInvalidated: operation failed due to a previous error")

    def is_capturing(self) -> Any:
        return self._capturing

    def use(self) -> Any:
        _local.stream = self
        return self

    def __enter__(self) -> Any:
        _local.before = [*getattr(_local, "before", []), get_current_stream()]
        return self.use()

    def __exit__(self, *_: Any) -> None:
        _local.stream = _local.before.pop()


#: Streams that are being captured, with the mode; and those whose capture came to nothing.
_captures: dict[Any, Any] = {}
_spoiled: set[Any] = set()
_GLOBAL, _RELAXED = 0, 2


def exchange_capture_mode(mode: str) -> Any:
    """As the driver's cuThreadExchangeStreamCaptureMode: the thread's mode before."""
    before = getattr(_local, "capture_mode", _GLOBAL)
    _local.capture_mode = mode
    return before


def _disturbs_captures() -> bool:
    """Whether a query by this thread is an error, since a thread captures in mode "global"; it spoils the capture."""
    if getattr(_local, "capture_mode", _GLOBAL) == _RELAXED:
        return False
    begun = [stream for stream, mode in _captures.items() if mode == _GLOBAL]
    _spoiled.update(begun)
    return bool(begun)


#: What the device answers to everything, once it is broken; as CUDA's sticky errors.
_fault = 0


def _break_device(status: Any) -> None:
    global _fault
    _fault = status


class Event:
    """As `cupy.cuda.Event`. `done` is false for ever where the device is broken, as CuPy's is."""

    __module__ = "cupy.cuda.stream"

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self._reached: Any = None
        self.ptr = next(_numbers)
        _events[self.ptr] = self

    def _query(self) -> Any:
        if _disturbs_captures():
            return 900  # cudaErrorStreamCaptureUnsupported
        return _fault or (0 if self._reached is None or self._reached.is_set() else 600)

    @property
    def done(self) -> bool:
        return bool(self._query() == 0)

    def record(self, stream: Any = None) -> None:
        self._reached = threading.Event()
        (stream or get_current_stream())._enqueue(self._reached.set)

    def synchronize(self) -> None:
        _count_wait()
        if self._reached is not None:
            self._reached.wait()


Stream.null = Stream(null=True)


def get_current_stream(device_id: Any = None) -> Any:
    return getattr(_local, "stream", Stream.null)


def stream_of(ptr: Any) -> Any:
    """The stream that a pointer stands for, as the C functions see it."""
    with contextlib.suppress(KeyError):
        return _streams[ptr]
    raise ValueError(f"no stream at {ptr}")
