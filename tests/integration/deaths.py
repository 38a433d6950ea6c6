# SPDX-License-Identifier: MIT
"""Killing workers, for tests about what comes after that."""

import signal

import pytest

import util
from util import eventually, kill

both_modes = pytest.mark.parametrize("mode", ["passthrough", "cached"])


def worker_of(mnt):
    """The present worker, as (pid, start time): a pid alone is given to others later. None while
    there is none. Asks /proc and not the mount."""
    for pid, row in util.process_table().items():
        if row[0] == mnt.keeper and row[1] not in "ZX":
            return pid, row[2]
    return None


def kill_worker(mnt, number=signal.SIGKILL):
    worker = eventually(lambda: worker_of(mnt))
    kill(worker[0], number)
    return worker


def resumed(mnt):
    """Kills the worker and waits until another one serves."""
    before, _ = kill_worker(mnt)
    assert eventually(lambda: mnt.stats()["worker_pid"]) != before
