"""Forks while other threads train layers, run collected updates and load states; each child uses layers itself."""

import os
import threading
import time
from typing import Any

import numpy as np

import bnspec

X = np.asarray([[0.0], [0.0], [0.0], [2.0]])

one, collects, loads = bnspec.BatchNorm(), bnspec.BatchNorm(ema_update="collection"), bnspec.BatchNorm()
updates, expected = bnspec.UpdateCollection(), bnspec.BatchNorm()(X).tobytes()
loads(X)
state = loads.state_dict()
stop = threading.Event()


def train() -> None:
    while not stop.is_set():
        one(X)
        one.backward(X)


def collect() -> None:
    while not stop.is_set():
        with bnspec.training_context(updates=updates):
            collects.forget()(X)
        updates.run()


def load() -> None:
    while not stop.is_set():
        loads.load_state_dict(state)


def child() -> Any:
    ok = bnspec.BatchNorm()(X).tobytes() == expected
    ok &= all(loads.variables[name].tobytes() == v.tobytes() for name, v in state.items())
    updates.run()
    loads.load_state_dict(state)
    one.forget()(X)
    with bnspec.training_context(updates=updates):
        collects.forget()(X)
    updates.run()
    return 0 if ok else 3


def ended(pid: int, seconds: float = 60.0) -> Any:
    """How a child ended; it is killed if it does not."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return "it waits for ever"


threads = [threading.Thread(target=t, daemon=True) for t in (train, collect, load)]
for t in threads:
    t.start()
for _ in range(30):
    time.sleep(0.002)
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(child())
        finally:
            os._exit(4)
    code = ended(pid)
    if code != 0:
        raise SystemExit(f"a child ended with {code}")
    if not all(t.is_alive() for t in threads):
        raise SystemExit("a thread of the parent failed")
stop.set()
print("30 children")
