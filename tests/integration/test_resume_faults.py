# SPDX-License-Identifier: MIT
"""A worker that goes on lacks something: each call that can fail does, one after the other. Either
the mount works on, with everything in it, or it ends in order and says why; nobody ever hangs."""

import collections
import errno
import os
import re
import time

import pytest

import failures
import util
from deaths import both_modes, kill_worker, resumed
from failures import CLASSES, EVER, Everything
from sections import set_keys
from util import MIB, PAGE, View, eventually, opened, refused, write

LONG = os.environ.get("SECTIONFS_TEST_LONG") == "1"
LANES = 8               # mounts at a time, where most of the time is spent waiting
GONE = errno.ENOTCONN, errno.ECONNABORTED
END = re.compile(r"no worker of .* can go on: |the worker of .* (was ended by signal|ended with) ")
# Without any memory GLib calls itself to say so, until the stack ends; and a sanitizer's own
# functions need some. All else that a sanitizer says is as bad as ever.
OUT_OF_MEMORY = (r"|AddressSanitizer:DEADLYSIGNAL|AddressSanitizer: stack-overflow"
                 r"|AddressSanitizer can not provide|AddressSanitizer: CHECK failed: sanitizer_")


@pytest.fixture
def in_use(faulty, place):
    """Mounts with everything in use."""
    def make(mode):
        mnt = faulty(mode)
        mnt.log_is_fine += "|no thread is to be had" + OUT_OF_MEMORY
        os.mkdir(mnt.path + ".files")
        mnt.everything = Everything(mnt, mnt.path + ".files")
        mnt.told = len(mnt.log_text())
        return mnt
    return make


def outcome(mnt):
    """What became of a mount whose worker was killed: "works on" or "ended"; never neither."""
    def known():
        if mnt.process.poll() is not None:
            return "ended"
        return mnt.failures.ready > 0 and "works on"
    try:
        return eventually(known, 30)
    except AssertionError as error:
        error.add_note("the mount hangs:\n" + mnt.log_text()[mnt.told:]
                       + util.threads_below(os.getpid()))
        raise


def works_on(mnt):
    """All of it, and the log says once how it went on."""
    log = eventually(lambda: "going on after worker" in mnt.log_text()[mnt.told:]
                     and mnt.log_text()[mnt.told:])
    assert log.count("going on after worker") == 1, log
    mnt.told += len(log)
    mnt.everything.check()
    return "did not get to serve" in log


def ended(mnt):
    """In order, with a sentence, and whoever used it is told."""
    assert mnt.wait_gone(30) == []
    log = mnt.log_text()[mnt.told:]
    assert mnt.status == 1 and END.search(log.splitlines()[-1]), log
    assert util.mounts_at(mnt.path) == [] and os.listdir(mnt.path) == []
    with refused(*GONE):
        mnt.everything.user.do("os.ftruncate(page, 5)")
    with refused(*GONE):
        mnt.everything.waiter.finish()
    mnt.everything.kill()
    assert mnt.log_problems() == []
    mnt.keeper = None


def calls(mnt):
    """{class: how many there are}"""
    mnt.failures.plan("memory", EVER)
    kill_worker(mnt)
    assert outcome(mnt) == "works on"
    works_on(mnt)
    return mnt.failures.calls()


def some(count, most):
    """The first, the last, and others between, as many as that."""
    return sorted({1 + n * (count - 1) // max(most - 1, 1) for n in range(most)} if count else ())


@both_modes
@pytest.mark.parametrize("what", CLASSES if LONG else ["each"])
def test_one_call_fails(in_use, session, mode, what):
    """In one worker. If that one does not go on, the next one does."""
    session.watchdog.arm(3000 if LONG else 90)
    mnt = in_use(mode)
    counts = calls(mnt)
    for kind in CLASSES if what == "each" else [what]:
        count = counts[kind]
        tried = died = 0
        # The number of calls is not always the same: to the end is where none has failed.
        for number in range(1, EVER) if LONG else some(count, 3):
            mnt.failures.plan(kind, number)
            kill_worker(mnt)
            assert outcome(mnt) == "works on", mnt.log_text()[mnt.told:]
            died += works_on(mnt)
            if mnt.failures.failed == 0:
                break
            tried += 1
        print(f"{mode}, {kind}: {tried} of {count} calls fail, {died} end the worker")
        assert tried >= (count // 2 if LONG else min(count, 1))
    util.run(mnt.command[0], "--check-registry", mnt.path)
    mnt.everything.end()


@both_modes
@pytest.mark.parametrize("what", CLASSES if LONG else ["each"])
def test_calls_fail_for_good(in_use, session, mode, what):
    """From one call on, in each worker to come, while they go on."""
    session.watchdog.arm(3600 if LONG else 90)
    lanes = [in_use(mode)]
    points = collections.deque()
    counts = calls(lanes[0])
    for kind in CLASSES if what == "each" else [what]:
        numbers = range(1, counts[kind] + 1) if LONG else some(counts[kind], 3)[1:2]
        points.extend((kind, number) for number in numbers)
    outcomes = collections.Counter()
    while points:
        while len(lanes) < min(LANES, len(points)):
            lanes.append(in_use(mode))
        busy = [(mnt, *points.popleft()) for mnt in lanes if points]
        for mnt, kind, number in busy:
            mnt.failures.plan(kind, number, EVER, workers=EVER)
            mnt.note_processes()
            kill_worker(mnt)
        for mnt, kind, number in busy:
            became = outcome(mnt)
            if became == "works on":
                works_on(mnt)
            else:
                ended(mnt)
                lanes.remove(mnt)
            outcomes[kind, became] += 1
    for (kind, became), count in sorted(outcomes.items()):
        print(f"{mode}, {kind} for good: {became} after {count}")
    for mnt in lanes:
        mnt.failures.plan("memory", EVER)
        util.run(mnt.command[0], "--check-registry", mnt.path)
        mnt.everything.end()


@both_modes
@pytest.mark.parametrize("what, says", [("inherited", "cannot be found again"),
                                        ("reads", "of a view of section"),
                                        ("memory", "ended "),
                                        ("threads", "ended "),
                                        ("device", "cannot be read again")])
def test_what_is_said_at_the_end(in_use, mode, what, says):
    mnt = in_use(mode)
    mnt.failures.plan(what, 1, EVER, workers=EVER)
    mnt.note_processes()
    kill_worker(mnt)
    assert outcome(mnt) == "ended"
    assert says in mnt.log_text().splitlines()[-1], mnt.log_text()
    ended(mnt)


# --- What is still lacking when it serves -----------------------------------------------------

@both_modes
def test_no_descriptor_is_to_be_had(in_use, mode):
    """Then a worker goes on with those that it has inherited."""
    mnt = in_use(mode)
    names = os.listdir(mnt.path)
    for _ in range(2):
        # But for the first, a number that there always is.
        mnt.failures.plan("descriptors", 2, EVER, serving=True)
        resumed(mnt)
        with refused(errno.ENFILE, errno.EMFILE):
            os.close(os.open(mnt / "new", os.O_CREAT | os.O_RDWR))
        assert os.listdir(mnt.path) == names
        mnt.everything.check_bytes()
    with refused(errno.ENOLCK):                 # for which a descriptor would have been needed
        mnt.everything.waiter.finish()
    resumed(mnt)
    assert util.call(failures.locked, mnt.path)


@both_modes
def test_nothing_new_for_want_of_records(in_use, mode):
    """The registry is full when a worker comes: what there is can be used, and taken away."""
    mnt = in_use(mode)
    user = mnt.everything.user
    mnt.failures.plan("records", 1, EVER, serving=True)
    kill_worker(mnt)
    assert outcome(mnt) == "works on"
    for _ in range(3):
        with refused(errno.ENOSPC, errno.ENFILE, errno.ENOMEM):
            os.mkdir(mnt / "new")
        with refused(errno.ENOSPC, errno.ENFILE, errno.ENOMEM):
            os.open(mnt / "page", os.O_RDWR)
    user.do("os.pwrite(page, b'more', 0)")
    assert user.get("os.pread(page, 4, 0)") == b"more"
    user.do("os.pwrite(page, data, 0)", data=mnt.everything.expected()["page"][:4])
    resumed(mnt)
    mnt.everything.check()
    os.mkdir(mnt / "new")


@both_modes
def test_no_thread_is_to_be_had(in_use, mode):
    """For what may have to wait, and is given to a thread of its own: another worker has one."""
    mnt = in_use(mode)
    mnt.failures.plan("threads", calls(mnt)["threads"] + 1, EVER, serving=True)
    kill_worker(mnt)
    assert outcome(mnt) == "works on"
    with refused(errno.ENOLCK):                 # each of those that wait for a lock has one
        mnt.everything.waiter.finish()
    assert "holder" in mnt.everything.user.get("open(top + '/.info/file').read()")
    assert "no thread is to be had" in mnt.log_text() and mnt.failures.ready == 2
    mnt.everything.check_bytes()


@both_modes
def test_keeper_that_cannot_be_watched_is_not_gone(in_use, mode):
    """The thread that watches it gets no descriptors of its own: another worker's does."""
    mnt = in_use(mode)
    mnt.failures.plan("threads", 2)             # the first one is that thread itself
    resumed(mnt)
    assert mnt.failures.failed == 1 and "did not get to serve: status 1" in mnt.log_text()
    mnt.everything.check()


@both_modes
def test_requests_that_cannot_be_read_for_a_while(in_use, mode):
    """No thread that serves ends of it, nor does the worker, and least of all the mount."""
    mnt = in_use(mode)
    first = calls(mnt)["device"] + 5            # there may be some more the next time
    mnt.failures.plan("device", first, first + 15, serving=True)
    resumed(mnt)
    pid = mnt.stats()["worker_pid"]
    eventually(lambda: mnt.stats()["worker_pid"] == pid and mnt.failures.failed == 16)
    assert "a request cannot be read yet" in mnt.log_text()
    mnt.everything.check()
    assert mnt.stats()["worker_pid"] == pid


def test_requests_that_cannot_be_read_any_more(in_use):
    """In this worker: another one goes on."""
    mnt = in_use("cached")
    mnt.log_is_fine += "|cannot be read any more"
    mnt.failures.plan("device", calls(mnt)["device"] + 5, EVER, serving=True)
    kill_worker(mnt)
    mnt.everything.check_bytes()
    assert "requests cannot be read any more" in mnt.log_text()
    mnt.everything.check()


def test_limit_that_cannot_be_moved(in_use):
    """The private tmpfs keeps its size: copies find no room, and all else goes on."""
    mnt = in_use("passthrough")
    mnt.failures.plan("space", 1, EVER, serving=True)
    kill_worker(mnt)
    assert outcome(mnt) == "works on"
    with opened(mnt.cow("file")) as fd:
        with refused(errno.ENOSPC):
            for n in range(16):
                os.pwrite(fd, bytes(MIB), n * MIB)
    write(mnt / "page2", bytes(3 * MIB))
    resumed(mnt)
    mnt.everything.check_bytes()
    with opened(mnt.cow("file")) as fd:
        for n in range(16):
            assert os.pwrite(fd, bytes(MIB), n * MIB) == MIB


def test_last_user_shows_without_inotify(faulty):
    """Then it is looked for by the clock."""
    mnt = faulty("passthrough")
    with opened(mnt / "a", os.O_CREAT | os.O_RDWR) as fd:
        set_keys(mnt / "a", lifetime="temporary")
        os.write(fd, bytes(PAGE))
        view = View(fd, PAGE)
    for number in range(1, 20):
        mnt.failures.plan("descriptors", number)
        resumed(mnt)
        if "no inotify" in mnt.log_text():
            break
    assert "no inotify" in mnt.log_text()
    time.sleep(0.3)
    view.write(0, b"still there")
    assert os.path.exists(mnt / "a")
    view.close()
    eventually(lambda: not os.path.exists(mnt / "a"), 20)
