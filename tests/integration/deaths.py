# SPDX-License-Identifier: MIT
"""Killing workers, for tests about what comes after that."""

import contextlib
import os
import signal

import pytest

import util
from util import eventually, kill

both_modes = pytest.mark.parametrize("mode", ["passthrough", "cached"])


def _workers(mnt):
    """As (start time, pid). One that was left behind may still be dying."""
    return [(row[2], pid) for pid, row in util.process_table().items()
            if row[0] == mnt.keeper and row[1] not in "ZX"]


def worker_of(mnt):
    """The present worker, as (pid, start time): a pid alone is given to others later. None while
    there is none. Asks /proc and not the mount. The last that was started is meant."""
    workers = _workers(mnt)
    if not workers:
        return None
    start, pid = max(workers)
    return pid, start


@contextlib.contextmanager
def killed_within(mnt, seconds):
    """Another process kills the workers that there are then, while this one goes on."""
    killer = os.fork()
    if killer == 0:
        with contextlib.suppress(BaseException):
            signal.sigtimedwait([], seconds)
            for _, pid in _workers(mnt):
                kill(pid)
        os._exit(0)
    yield
    os.waitpid(killer, 0)


def kill_worker(mnt, number=signal.SIGKILL):
    worker = eventually(lambda: worker_of(mnt))
    kill(worker[0], number)
    return worker


def resumed(mnt):
    """Kills the worker and waits until another one serves."""
    before, _ = kill_worker(mnt)
    assert eventually(lambda: mnt.stats()["worker_pid"]) != before
