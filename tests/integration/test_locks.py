# SPDX-License-Identifier: MIT
"""flock, POSIX record locks and OFD locks: what they exclude, and what ends them.

On a file-backed section they are locks of the real file, so nearly everything here is done on every pair
of names that lead to the same bytes: twice the section, the section and the file, two sections.
"""

import contextlib
import errno
import fcntl
import os
import random
import select
import signal
import sqlite3
import struct
import subprocess
import time

import pytest

from util import Child, PAGE, call, check, eventually, kill, libc, opened, read, refused, write

posix = pytest.mark.posix

FLOCK, POSIX, OFD = KINDS = ("flock", "posix", "ofd")
RECORDS = (POSIX, OFD)
PATIENCE = 20           # seconds in which what has to happen happens, on a slow machine too
A_WHILE = 0.06          # seconds after which what has not happened does not happen

# The pairs of names, each in one mode, for locks hardly depend on it. "first" holds, "second" wants.
SIDES = [pytest.param(("page", "passthrough"), marks=posix), ("file", "passthrough"),
         ("file-bare", "cached"), ("bare-file", "passthrough"), ("files", "cached")]
# For what is about the first alone.
HOLDERS = [pytest.param(("page", "cached"), marks=posix), ("file", "cached"),
           ("file-bare", "passthrough")]
on_holders = pytest.mark.parametrize("sides", HOLDERS, indirect=True, ids=lambda pair: pair[0])


# --- Locks, as a child process takes them ------------------------------------------------------

LAYOUT = "hhqqi4x"      # struct flock


def record(fd, command, how, start=0, length=0, whence=0):
    kind = {"r": fcntl.F_RDLCK, "w": fcntl.F_WRLCK, "u": fcntl.F_UNLCK}[how]
    return struct.unpack(LAYOUT, fcntl.fcntl(fd, command, struct.pack(
        LAYOUT, kind, whence, start, length, 0)))


def take(fd, kind, how, start=0, length=0, wait=False, whence=0):
    """how: r(ead), w(rite) or u(nlock)."""
    if kind == "flock":
        how = {"r": fcntl.LOCK_SH, "w": fcntl.LOCK_EX, "u": fcntl.LOCK_UN}[how]
        fcntl.flock(fd, how | (0 if wait else fcntl.LOCK_NB))
    else:
        commands = {("posix", False): fcntl.F_SETLK, ("posix", True): fcntl.F_SETLKW,
                    ("ofd", False): fcntl.F_OFD_SETLK, ("ofd", True): fcntl.F_OFD_SETLKW}
        record(fd, commands[kind, wait], how, start, length, whence)


def ask(fd, kind, how, start=0, length=0):
    """The lock in the way: (type, start, length, pid), or None."""
    got, whence, start, length, pid = record(
        fd, fcntl.F_GETLK if kind == "posix" else fcntl.F_OFD_GETLK, how, start, length)
    if got == fcntl.F_UNLCK:
        return None
    assert whence == os.SEEK_SET
    return {fcntl.F_RDLCK: "r", fcntl.F_WRLCK: "w"}[got], start, length, pid


def take_for(fd, kind, how, seconds, start=0, length=0):
    """Waits for a lock no longer than that, as programs do: with SIGALRM. True: has it.
    Not by Python's own calls, after which nobody can tell whether the signal came before the lock."""
    signal.signal(signal.SIGALRM, lambda *_: None)
    if kind == "flock":
        function, arguments = libc.flock, [fcntl.LOCK_EX if how == "w" else fcntl.LOCK_SH]
    else:
        lock = struct.pack(LAYOUT, fcntl.F_WRLCK if how == "w" else fcntl.F_RDLCK, 0, start, length, 0)
        function = libc.fcntl
        arguments = [fcntl.F_SETLKW if kind == "posix" else fcntl.F_OFD_SETLKW, lock]
    # Rings again, lest it rings before the wait has begun and never after.
    signal.setitimer(signal.ITIMER_REAL, seconds, 0.05)
    try:
        check(function(fd, *arguments))
        return True
    except InterruptedError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


NAMES = {"take": take, "ask": ask, "take_for": take_for, "record": record}


class Locker:
    """A process with the file open, as fd."""

    def __init__(self, mnt, path, flags=os.O_RDWR):
        self.child = mnt.child(names=NAMES)
        self.pid = self.child.pid
        self.do, self.get, self.kill = self.child.do, self.child.get, self.child.kill
        self.do("fd = os.open(path, flags)", path=path, flags=flags)

    def take(self, kind, how, start=0, length=0, fd="fd", whence=0):
        self.do(f"take({fd}, *a, whence=w)", a=(kind, how, start, length), w=whence)

    def refused(self, kind, how, start=0, length=0, fd="fd"):
        with refused(errno.EAGAIN, errno.EACCES):
            self.take(kind, how, start, length, fd)

    def drop(self, kind, start=0, length=0, fd="fd"):
        self.take(kind, "u", start, length, fd)

    def could(self, kind, how, start=0, length=0, fd="fd"):
        """Whether it gets the lock at once. It holds no other in that range, and has none after."""
        try:
            self.take(kind, how, start, length, fd)
        except OSError as error:
            assert error.errno in (errno.EAGAIN, errno.EACCES), error
            return False
        self.drop(kind, start, length, fd)
        return True

    def ask(self, kind, how, start=0, length=0):
        return self.get("ask(fd, *a)", a=(kind, how, start, length))

    def wait_for(self, kind, how, start=0, length=0):
        """Begins to wait for a lock that is not to be had now."""
        self.child.begin("take(fd, *a, wait=True)", a=(kind, how, start, length))
        assert not self.answered(A_WHILE), "did not wait"

    def answered(self, seconds=0):
        return bool(select.select([self.child.socket], [], [], seconds)[0])

    def granted(self):
        assert self.answered(PATIENCE), "still waiting"
        self.child.finish()


class Sides:
    """Two paths to one file's bytes, and what to do to them."""

    def __init__(self, mnt, place, name):
        self.mnt, self.name, self.bare = mnt, name, None
        if name == "page":
            write(mnt / "x", bytes(PAGE))
            self.first = self.second = mnt / "x"
        else:
            self.bare = f"{place}/real"
            write(self.bare, bytes(PAGE))
            self.section = section_over(mnt, "x", self.bare)
            self.first, self.second = {
                "file": (self.section, self.section),
                "file-bare": (self.section, self.bare),
                "bare-file": (self.bare, self.section),
                "files": (self.section, section_over(mnt, "y", self.bare)),
            }[name]
        self.on_mount = {self.first, self.second} - {self.bare}

    def lockers(self, extra=0):
        """A process on each side, and as many more on the second."""
        return [Locker(self.mnt, path) for path in [self.first, self.second] + [self.second] * extra]


def section_over(mnt, name, file):
    path = mnt / name
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o666))
    os.setxattr(path, "user.section.file", os.fsencode(file))
    return path


@pytest.fixture(params=SIDES, ids=lambda pair: pair[0])
def sides(request, new_mount, place):
    name, mode = request.param
    return Sides(new_mount("tmpfs" if request.config.getoption("--reference") else mode), place, name)


def locks_on(path):
    """The lines of /proc/locks about that file."""
    st = os.stat(path)
    key = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    with open("/proc/locks") as file:
        return [line for line in file if key in line.split()]


# --- What excludes what ------------------------------------------------------------------------

def test_locks_exclude_each_other(sides):
    first, second = sides.lockers()
    for kind in KINDS:
        first.take(kind, "w")
        second.refused(kind, "w")
        second.refused(kind, "r")
        first.drop(kind)
        second.take(kind, "w")
        first.refused(kind, "r")
        second.drop(kind)


def test_shared_locks_go_together(sides):
    first, second = sides.lockers()
    for kind in KINDS:
        first.take(kind, "r")
        second.take(kind, "r")
        first.refused(kind, "w")            # an upgrade that does not come about
        if kind in RECORDS:
            second.refused(kind, "w")       # leaves what there was
        if kind == FLOCK:
            first.take(kind, "r")           # flock gives up the old one first
        first.drop(kind)
        second.take(kind, "w")
        second.take(kind, "r")              # and down again
        first.take(kind, "r")
        first.drop(kind)
        second.drop(kind)


def test_which_kinds_know_of_each_other(sides):
    first, second = sides.lockers()
    for one, other in ((POSIX, OFD), (OFD, POSIX)):
        first.take(one, "w", 0, 100)
        second.refused(other, "r", 50, 100)
        first.drop(one)
        assert second.could(other, "w")
    for kind in RECORDS:
        first.take(FLOCK, "w")
        assert second.could(kind, "w")
        first.drop(FLOCK)
        first.take(kind, "w")
        assert second.could(FLOCK, "w")
        first.drop(kind)


@pytest.mark.modes("user")
def test_an_ordinary_user_locks_the_real_file(mnt, place):
    def make():
        write(f"{place}/real", bytes(PAGE))
        section_over(mnt, "x", f"{place}/real")
    mnt.run(make)
    section, bare = Locker(mnt, mnt / "x"), Locker(mnt, f"{place}/real")
    for kind in KINDS:
        section.take(kind, "w")
        bare.refused(kind, "w")
        section.drop(kind)
        bare.take(kind, "w")
        section.refused(kind, "w")
        bare.drop(kind)


def test_the_real_file_has_the_lock(mnt, place):
    """As the kernel itself lists it; and nothing is left of it in the end."""
    write(f"{place}/real", bytes(PAGE))
    section_over(mnt, "x", f"{place}/real")
    locker = Locker(mnt, mnt / "x")
    assert locks_on(f"{place}/real") == []
    locker.take(FLOCK, "r")
    locker.take(POSIX, "w", 3, 5)
    lines = [line.split()[1:4] + line.split()[-2:] for line in locks_on(f"{place}/real")]
    assert sorted(line[2:] for line in lines) == [["READ", "0", "EOF"], ["WRITE", "3", "7"]]
    assert "FLOCK" in [line[0] for line in lines]
    locker.do("os.close(fd)")
    eventually(lambda: locks_on(f"{place}/real") == [])
    os.unlink(mnt / "x")
    assert locks_on(f"{place}/real") == []


def test_readonly_sections_lock_what_may_be_locked(mnt, place, other):
    """A section that may only be read: shared record locks, and flock of both kinds, as for a file."""
    write(f"{place}/real", bytes(PAGE))
    section_over(mnt, "x", f"{place}/real")
    os.setxattr(mnt / "x", "user.section.protect", b"readonly")
    section = Locker(mnt, mnt / "x", os.O_RDONLY)
    bare = Locker(mnt, f"{place}/real")
    for kind in KINDS:
        section.take(kind, "r")
        bare.refused(kind, "w")
        section.drop(kind)
        bare.take(kind, "w")
        section.refused(kind, "r")
        bare.drop(kind)
    with refused(errno.EBADF):
        section.take(POSIX, "w")
    section.take(FLOCK, "w")
    bare.refused(FLOCK, "r")


def test_a_file_that_only_its_reader_may_lock(mnt, place, session):
    """The section's maker may only read the file, so the daemon has no descriptor to write it."""
    if session.no_user:
        pytest.skip(session.no_user)
    user = session.user
    write(f"{place}/real", bytes(PAGE))
    os.chmod(f"{place}/real", 0o644)
    call(section_over, mnt, "x", f"{place}/real", user=user)
    reader = Child(user=user, names=NAMES)
    reader.do("fd = os.open(path, os.O_RDONLY)", path=mnt / "x")
    bare = Locker(mnt, f"{place}/real")
    for kind in KINDS:
        reader.do("take(fd, kind, 'r')", kind=kind)
        bare.refused(kind, "w")
        reader.do("take(fd, kind, 'u')", kind=kind)
        bare.take(kind, "w")
        with refused(errno.EAGAIN, errno.EACCES):
            reader.do("take(fd, kind, 'r')", kind=kind)
        bare.drop(kind)
    reader.do("take(fd, 'flock', 'w')")
    bare.refused(FLOCK, "r")


@posix
def test_a_lock_needs_the_descriptor_for_it(mnt):
    write(mnt / "x", b"data")
    reader, writer = Locker(mnt, mnt / "x", os.O_RDONLY), Locker(mnt, mnt / "x", os.O_WRONLY)
    for kind in RECORDS:
        with refused(errno.EBADF):
            reader.take(kind, "w")
        with refused(errno.EBADF):
            writer.take(kind, "r")
    reader.take(FLOCK, "w")
    with refused(errno.EINVAL):
        reader.take(POSIX, "r", -1, 1)
    with refused(errno.EINVAL):
        reader.take(POSIX, "r", 5, -10)


@posix
def test_locks_on_what_has_never_had_a_byte(mnt):
    os.close(os.open(mnt / "x", os.O_CREAT | os.O_RDWR))
    first, second = Locker(mnt, mnt / "x"), Locker(mnt, mnt / "x")
    for kind in KINDS:
        first.take(kind, "w")
        second.refused(kind, "w")
        first.do("os.pwrite(fd, b'now', 0)")        # getting bytes does not lose it
        second.refused(kind, "w")
        first.do("os.ftruncate(fd, 0)")
        second.refused(kind, "w")
        first.drop(kind)
        assert second.could(kind, "w")


@posix
def test_directories_can_be_locked(mnt):
    os.mkdir(mnt / "d")
    first, second = Locker(mnt, mnt / "d", os.O_RDONLY), Locker(mnt, mnt / "d", os.O_RDONLY)
    first.take(FLOCK, "w")
    second.refused(FLOCK, "r")
    first.drop(FLOCK)
    second.take(FLOCK, "w")
    second.kill()
    eventually(lambda: first.could(FLOCK, "w"))
    third = Locker(mnt, mnt / "d", os.O_RDONLY)
    first.take(POSIX, "r")
    assert third.could(POSIX, "r")


@on_holders
@pytest.mark.parametrize("kind", KINDS)
def test_locks_stay_with_the_file_whatever_its_names(sides, kind):
    first, second = sides.lockers()
    where = sides.mnt / "elsewhere"
    path = sides.first if sides.first != sides.bare else sides.second
    first.take(kind, "w")
    os.link(path, where)
    by_link = Locker(sides.mnt, where)
    os.rename(path, sides.mnt / "renamed")
    by_link.refused(kind, "r")
    os.unlink(sides.mnt / "renamed")
    os.unlink(where)
    second.refused(kind, "r")
    by_link.refused(kind, "r")
    first.drop(kind)
    second.take(kind, "w")
    by_link.refused(kind, "r")


# --- Ranges ------------------------------------------------------------------------------------

def test_ranges(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        first.take(kind, "w", 10, 10)
        assert second.could(kind, "w", 0, 10)
        assert second.could(kind, "w", 20, 10)
        second.refused(kind, "w", 0, 11)
        second.refused(kind, "w", 19, 1)
        second.refused(kind, "r", 0)
        first.drop(kind)
        first.take(kind, "w", 20, -10)                      # before the start
        assert second.could(kind, "w", 0, 10)
        second.refused(kind, "w", 10, 1)
        assert second.could(kind, "w", 20)
        first.drop(kind)
        first.take(kind, "w", 100)                          # to the end, however far that is
        second.refused(kind, "r", (1 << 63) - 1, 1)
        assert second.could(kind, "w", 0, 100)
        first.drop(kind)
        first.take(kind, "w", (1 << 62) - 1, 2)
        second.refused(kind, "r", 1 << 62, 1)
        first.drop(kind)
        first.do("os.lseek(fd, 1000, os.SEEK_SET)")
        first.take(kind, "w", 5, 5, whence=os.SEEK_CUR)
        assert second.could(kind, "w", 0, 1005)
        second.refused(kind, "w", 1009, 1)
        first.drop(kind)
        first.take(kind, "w", -6, 3, whence=os.SEEK_END)
        assert second.could(kind, "w", 0, PAGE - 6)
        second.refused(kind, "w", PAGE - 6, 1)
        second.refused(kind, "w", PAGE - 4, 1)
        assert second.could(kind, "w", PAGE - 3)
        first.drop(kind)
        assert second.could(kind, "w")


def test_ranges_split_merge_and_change(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        def state():
            """What the second sees byte by byte: - free, r read lock, w write lock."""
            return "".join("-" if second.could(kind, "w", at, 1)
                           else "r" if second.could(kind, "r", at, 1) else "w" for at in range(12))
        first.take(kind, "w", 0, 12)
        first.drop(kind, 4, 4)                              # split
        assert state() == "wwww----wwww"
        first.take(kind, "r", 5, 2)
        assert state() == "wwww-rr-wwww"
        first.take(kind, "r", 2, 4)                         # changes a part, joins another
        assert state() == "wwrrrrr-wwww"
        first.take(kind, "w", 3, 8)
        assert state() == "wwrwwwwwwwww"
        assert second.ask(kind, "r", 3, 100)[:3] == ("w", 3, 9)     # merged to one
        first.drop(kind, 1, 20)
        assert state() == "w-----------"
        first.drop(kind)
        assert state() == "-" * 12


def test_a_change_that_is_refused_changes_nothing(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        first.take(kind, "r", 0, 10)
        second.take(kind, "r", 5, 10)
        first.refused(kind, "w", 0, 10)
        assert second.could(kind, "r", 0, 5)
        second.refused(kind, "w", 0, 5)
        second.take(kind, "w", 10, 5)
        first.refused(kind, "r", 0, 20)
        second.refused(kind, "w", 0, 5)
        first.drop(kind)
        second.drop(kind)


@on_holders
def test_hundreds_of_ranges(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        first.do("for i in range(300): take(fd, kind, 'rw'[i % 2], 2 * i, 1)", kind=kind)
        second.refused(kind, "w", 598, 1)
        second.refused(kind, "r", 598, 1)
        assert second.could(kind, "w", 599, 1)
        assert second.could(kind, "r", 0, 1)
        first.drop(kind)
        assert second.could(kind, "w", 0, 600)


# --- Asking ------------------------------------------------------------------------------------

def test_getlk_tells_of_the_lock_in_the_way(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        assert second.ask(kind, "w") is None
        first.take(kind, "w", 100, 50)
        found, start, length, pid = second.ask(kind, "r", 120, 100)
        assert (found, start, length) == ("w", 100, 50)
        if kind == OFD:
            assert pid in (-1, 0) or pid == first.pid       # OFD locks belong to no process
        elif sides.name in ("file-bare", "files"):
            assert pid in (-1, 0, first.pid)                # it is the daemon who has it for first
        else:
            assert pid == first.pid
        assert second.ask(kind, "r", 0, 100) is None
        assert second.ask(kind, "r", 150, 0) is None
        assert first.ask(kind, "w", 0, 0) is None           # one's own is never in the way
        first.take(kind, "r", 100, 50)
        assert second.ask(kind, "r", 0, 0) is None
        assert second.ask(kind, "w", 0, 0)[:3] == ("r", 100, 50)
        first.take(kind, "r", 150, 0)
        assert second.ask(kind, "w", 0, 0)[:3] == ("r", 100, 0)     # joined, to the end of all files
        assert second.could(kind, "r")
        first.drop(kind)
        assert second.ask(kind, "w") is None


@on_holders
def test_asking_takes_nothing(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        assert first.ask(kind, "w") is None
        assert second.could(kind, "w")


# --- Waiting -----------------------------------------------------------------------------------

def test_waiting_until_it_is_free(sides):
    first, second = sides.lockers()
    for kind in KINDS:
        for holder, waiter in ((first, second), (second, first)):
            holder.take(kind, "w")
            waiter.wait_for(kind, "w")
            holder.drop(kind)
            waiter.granted()
            assert not holder.could(kind, "r")
            waiter.drop(kind)


def test_a_waiter_for_a_range_gets_it_when_that_is_free(sides):
    first, second = sides.lockers()
    for kind in RECORDS:
        first.take(kind, "w", 0, 100)
        second.wait_for(kind, "r", 50, 10)
        first.drop(kind, 0, 50)
        assert not second.answered(A_WHILE)
        first.take(kind, "r", 50, 10)           # to a shared one: that will do
        second.granted()
        first.refused(kind, "w", 55, 1)
        first.drop(kind)
        second.drop(kind)


def test_the_holder_goes_on_while_another_waits(sides):
    """A waiting request must not be in the way of any other on the same descriptor."""
    first, second = sides.lockers()
    for kind in KINDS:
        first.take(kind, "w")
        second.wait_for(kind, "w")
        first.do("os.pwrite(fd, b'hello', 0)")
        assert first.get("os.pread(fd, 5, 0)") == b"hello"
        assert first.get("os.fstat(fd).st_size") == PAGE
        first.do("os.fsync(fd)")
        assert os.stat(sides.second).st_size == PAGE
        first.drop(kind)
        second.granted()
        second.drop(kind)


def test_a_signal_ends_a_wait(sides):
    first, second, third = sides.lockers(1)
    for kind in KINDS:
        first.take(kind, "w")
        before = time.monotonic()
        assert second.get("take_for(fd, kind, 'w', 0.1)", kind=kind) is False
        assert time.monotonic() - before < 5
        first.drop(kind)
        assert third.could(kind, "w"), "who gave up has got the lock all the same"
        assert second.get("take_for(fd, kind, 'w', 30)", kind=kind) is True
        assert not third.could(kind, "w")
        second.drop(kind)


def test_a_signal_that_is_handled_does_not_lose_the_place(sides):
    """With SA_RESTART, or as Python does it: begins again, and gets it."""
    first, second = sides.lockers()
    second.do("import signal; hits = []; signal.signal(signal.SIGUSR1, lambda *_: hits.append(1))")
    for kind in KINDS:
        for restart in (True, False):
            second.do("signal.siginterrupt(signal.SIGUSR1, not restart); hits.clear()",
                      restart=restart)
            first.take(kind, "w")
            second.wait_for(kind, "w")
            kill(second.pid, signal.SIGUSR1)
            assert not second.answered(0.05)
            first.drop(kind)
            second.granted()
            assert second.get("len(hits)") == 1
            assert not first.could(kind, "r")
            second.drop(kind)


def test_a_waiter_that_is_killed_leaves_no_lock(sides):
    first, _ = sides.lockers()
    for kind in KINDS:
        waiter, third = Locker(sides.mnt, sides.second), Locker(sides.mnt, sides.second)
        first.take(kind, "w")
        waiter.wait_for(kind, "w")
        kill(waiter.pid)
        eventually(lambda: os.waitid(os.P_PID, waiter.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG),
                   PATIENCE, "a waiter that was killed does not end")
        waiter.kill()
        first.drop(kind)
        eventually(lambda: third.could(kind, "w"))
        assert first.could(kind, "w")


@on_holders
def test_who_dies_leaves_no_lock(sides):
    _, second = sides.lockers()
    for kind in KINDS:
        holder = Locker(sides.mnt, sides.first)
        holder.take(kind, "w")
        second.wait_for(kind, "w")
        holder.kill()
        second.granted()
        second.drop(kind)


@posix
def test_deadlock_between_page_sections_is_told(mnt):
    for name in "xy":
        write(mnt / name, b"data")
    first, second = Locker(mnt, mnt / "x"), Locker(mnt, mnt / "y")
    first.take(POSIX, "w")
    second.take(POSIX, "w")
    first.do("other = os.open(path, os.O_RDWR)", path=mnt / "y")
    second.do("other = os.open(path, os.O_RDWR)", path=mnt / "x")
    first.child.begin("take(other, 'posix', 'w', wait=True)")
    assert not first.answered(A_WHILE)
    with refused(errno.EDEADLK):
        assert second.get("take_for(other, 'posix', 'w', 3)")
    second.drop(POSIX)
    first.granted()


def pause_and_count(path, kind, number, rounds):
    """In a child: so many times, waits for the lock, adds one to what the file says."""
    fd = os.open(path, os.O_RDWR)
    for _ in range(rounds):
        take(fd, kind, "w", 0, 0, True)
        value = int.from_bytes(os.pread(fd, 8, 0), "little")
        os.pwrite(fd, (value + 1).to_bytes(8, "little"), 0)
        take(fd, kind, "u")
    os.close(fd)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.modes("cached")
@pytest.mark.parametrize("where", ["file", "page"])
def test_many_more_waiters_than_threads(mnt, place, where, kind):
    """64 processes wait; the mount answers as ever; everybody gets the lock in the end."""
    sides = Sides(mnt, place, where)
    holder, passer_by = sides.lockers()
    holder.take(kind, "w")
    waiters = []
    for number in range(64):
        child = Child(names={**NAMES, "count": pause_and_count})
        child.begin("count(path, kind, 0, 1)", path=sides.second, kind=kind)
        waiters.append(child)
    eventually(lambda: waiting_processes(waiters) == 64, PATIENCE, "all wait")

    before = time.monotonic()
    for turn in range(20):                                  # nothing of this may depend on a waiter
        os.stat(mnt / "x")
        write(mnt / f"new{turn}", b"as ever")
        assert read(mnt / f"new{turn}") == b"as ever"
        os.listdir(mnt.path)
        assert passer_by.get("os.pread(fd, 8, 0)") == bytes(8)
        if where == "file":
            assert not passer_by.could(kind, "w")
    with opened(mnt / "another", os.O_CREAT | os.O_RDWR) as fd:
        take(fd, kind, "w")
        take(fd, kind, "u")
    assert time.monotonic() - before < 5, "the mount does not answer while processes wait"

    for child in waiters[::4]:                              # some give up
        child.kill()
    holder.drop(kind)
    for child in waiters:
        if child.status is None:
            child.finish()
    assert int.from_bytes(passer_by.get("os.pread(fd, 8, 0)"), "little") == 48
    eventually(lambda: holder.could(kind, "w"))


def waiting_processes(children):
    """How many of them sleep in a system call that takes a lock."""
    count = 0
    for child in children:
        with open(f"/proc/{child.pid}/syscall") as file:
            count += file.read().split()[0] in ("72", "73", "25", "32")   # fcntl, flock: x86, arm
    return count


def test_waiters_do_not_delay_the_end_of_the_mount(new_mount, place):
    mnt = new_mount("cached", "drain_timeout=1")
    write(f"{place}/real", bytes(PAGE))
    section_over(mnt, "x", f"{place}/real")
    with opened(f"{place}/real") as fd:
        waiters = []
        for kind in (FLOCK, OFD, POSIX) * 3:
            take(fd, FLOCK, "w")
            take(fd, OFD, "w")
            waiters.append(Locker(mnt, mnt / "x"))
            waiters[-1].wait_for(kind, "w")
        before = time.monotonic()
        mnt.note_processes()
        kill(mnt.keeper, signal.SIGTERM)
        assert mnt.wait_gone(10) == []
        assert time.monotonic() - before < 8
        for waiter in waiters:
            with pytest.raises(OSError):
                waiter.granted()
    assert locks_on(f"{place}/real") == []


def hammer(path, kind, seed, seconds):
    """In a child: waits for the lock, often giving up; adds one to the file whenever it has it.
    Returns how often that was."""
    draw = random.Random(seed)
    fd = os.open(path, os.O_RDWR)
    added = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        start, length = (0, 0) if kind == "flock" or draw.random() < 0.5 else (100, 1)
        if take_for(fd, kind, "w", draw.choice((0.0005, 0.001, 0.005, 0.3)), start, length):
            assert start <= 100
            value = int.from_bytes(os.pread(fd, 8, 0), "little")
            time.sleep(draw.choice((0, 0, 0.0002)))
            os.pwrite(fd, (value + 1).to_bytes(8, "little"), 0)
            added += 1
            take(fd, kind, "u", start, length)
    os.close(fd)
    return added


@pytest.mark.parametrize("kind", KINDS)
def test_no_update_is_lost_when_waits_come_and_go(sides, kind):
    """An interrupt may cross the granting of the lock; whichever it is must be what the program sees."""
    children = []
    for number in range(6):
        child = Child(names={**NAMES, "hammer": hammer})
        child.begin("hammer(path, kind, seed, 0.3)", "get", kind=kind, seed=number,
                    path=sides.first if number % 2 else sides.second)
        children.append(child)
    total = sum(child.finish() for child in children)
    assert int.from_bytes(read(sides.first)[:8], "little") == total
    first, second = sides.lockers()
    eventually(lambda: first.could(kind, "w") and second.could(kind, "w"))


# --- Close, fork, exec -------------------------------------------------------------------------

@on_holders
def test_closing_any_descriptor_ends_posix_locks(sides):
    first, second = sides.lockers()
    for way in ("os.open(path, os.O_RDONLY)", "os.dup(fd)", "os.open('/proc/self/fd/%d' % fd, 0)"):
        first.do(f"more = {way}", path=sides.first)
        first.take(POSIX, "w")
        second.refused(POSIX, "r")
        first.do("os.close(more)")
        assert second.could(POSIX, "w"), "the lock outlived the close"


@on_holders
def test_closing_a_descriptor_while_a_thread_waits(sides):
    """The close ends what was held then, not what the thread is given later."""
    first, second = sides.lockers()
    first.do("import threading; more = os.dup(fd); take(fd, 'posix', 'w', 20, 1)")
    second.take(POSIX, "w", 0, 10)
    first.do("t = threading.Thread(target=take, args=(fd, 'posix', 'w', 0, 10, True)); t.start()")
    time.sleep(A_WHILE)
    first.do("os.close(more)")
    assert second.could(POSIX, "w", 20, 1)
    second.drop(POSIX)
    first.do("t.join()")
    second.refused(POSIX, "r", 0, 10)
    first.do("os.close(os.dup(fd))")
    assert second.could(POSIX, "w")


def test_closing_one_of_two_sections_or_names(mnt, place):
    """POSIX locks belong to process and file, by whatever name it was opened."""
    sides = Sides(mnt, place, "file")
    os.link(sides.first, mnt / "link")
    first, second = sides.lockers()
    first.do("more = os.open(path, os.O_RDWR)", path=mnt / "link")
    first.take(POSIX, "w")
    first.take(POSIX, "r", fd="more")               # the same owner: changes it
    assert second.could(POSIX, "r")
    first.do("os.close(more)")
    assert second.could(POSIX, "w")


@on_holders
def test_closing_one_descriptor_keeps_the_locks_of_the_open(sides):
    first, second = sides.lockers()
    for kind in (FLOCK, OFD):
        first.do("fd2 = os.dup(fd); more = os.open(path, os.O_RDWR)", path=sides.first)
        first.take(kind, "w")
        first.refused(kind, "w", fd="more")         # another open is another owner
        first.do("os.close(more)")
        first.do("os.close(fd)")
        second.refused(kind, "r")
        first.take(kind, "r", fd="fd2")             # the same open: changes it
        assert second.could(kind, "r")
        second.refused(kind, "w")
        first.do("os.close(fd2)")
        eventually(lambda: second.could(kind, "w"))
        first.do("fd = os.open(path, os.O_RDWR)", path=sides.first)


@on_holders
def test_unlocking_by_a_duplicate(sides):
    first, second = sides.lockers()
    first.do("fd2 = os.dup(fd)")
    for kind in (FLOCK, OFD):
        first.take(kind, "w")
        first.drop(kind, fd="fd2")
        assert second.could(kind, "w")


@pytest.mark.parametrize("sides", [("page", "cached"), ("file", "cached")], indirect=True,
                         ids=lambda pair: pair[0])
def test_mappings_keep_the_locks_of_an_open(sides):
    """The open file lives on in a mapping, and flock's and OFD locks with it. (With passthrough the
    kernel makes the mapping one of the backing file alone, and tells of the last close before.)"""
    first, second = sides.lockers()
    for kind in (FLOCK, OFD):
        first.do("view = View(fd, 4096)")
        first.take(kind, "w")
        first.do("os.close(fd)")
        second.refused(kind, "w")
        first.do("view.close()")
        eventually(lambda: second.could(kind, "w"))
        first.do("fd = os.open(path, os.O_RDWR)", path=sides.first)


FORK = """
asks, answers = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    try:
        os.close(asks[1])
        os.close(answers[0])
        while True:
            step = os.read(asks[0], 1000).decode()
            if not step:
                break
            try:
                exec(step)
                os.write(answers[1], b"done")
            except OSError as error:
                os.write(answers[1], errno.errorcode[error.errno].encode())
    finally:
        os._exit(0)
os.close(answers[1])
os.close(asks[0])
def grandchild(step):
    os.write(asks[1], step.encode())
    return os.read(answers[0], 100).decode()
def end_grandchild():
    os.close(asks[1])
    os.close(answers[0])
    os.waitpid(pid, 0)
"""


@on_holders
def test_fork_and_posix_locks(sides):
    """The child has none of them; its closing and its end do not touch them."""
    first, second = sides.lockers()
    first.take(POSIX, "w", 0, 10)
    first.do(FORK)
    assert first.get("grandchild(\"take(fd, 'posix', 'w', 5, 1)\")") in ("EAGAIN", "EACCES")
    assert first.get("grandchild(\"take(fd, 'posix', 'w', 20, 1)\")") == "done"
    second.refused(POSIX, "r", 20, 1)
    assert first.get("grandchild('os.close(fd)')") == "done"
    assert second.could(POSIX, "w", 20, 1)
    second.refused(POSIX, "r", 0, 10)
    first.do("end_grandchild()")
    second.refused(POSIX, "r", 0, 10)
    first.drop(POSIX)
    assert second.could(POSIX, "w")


@on_holders
def test_fork_and_the_locks_of_an_open(sides):
    """The child shares them; they last as long as either has the open file."""
    for kind in (FLOCK, OFD):
        first, second = sides.lockers()
        first.take(kind, "w")
        first.do(FORK)
        assert first.get(f"grandchild(\"take(fd, '{kind}', 'r')\")") == "done"
        assert second.could(kind, "r")
        assert first.get(f"grandchild(\"take(fd, '{kind}', 'w')\")") == "done"
        second.refused(kind, "r")
        first.do("os.close(fd)")
        second.refused(kind, "r")
        first.do("end_grandchild()")
        eventually(lambda: second.could(kind, "w"))
        first.kill()
        second.kill()


@on_holders
def test_locks_sent_to_another_process(sides):
    """SCM_RIGHTS: the same open file. The sender's end does not release what the receiver has."""
    second = Locker(sides.mnt, sides.second)
    for kind in (FLOCK, OFD):
        receiver = Child(names=NAMES)
        fd = os.open(sides.first, os.O_RDWR)
        take(fd, kind, "w")
        receiver.give(fd, "fd")
        os.close(fd)
        second.refused(kind, "w")
        receiver.kill()
        eventually(lambda: second.could(kind, "w"))


@on_holders
def test_locks_outlive_exec(sides):
    second = Locker(sides.mnt, sides.second)
    for kind in KINDS:
        def lock_and_stay():
            fd = os.open(sides.first, os.O_RDWR)
            os.set_inheritable(fd, True)
            take(fd, kind, "w")
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   preexec_fn=lock_and_stay, close_fds=False)
        process.stdin.write(b"there\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"there\n"
        second.refused(kind, "r")
        process.stdin.close()
        process.wait()
        process.stdout.close()
        eventually(lambda: second.could(kind, "w"))


@on_holders
def test_threads_are_one_owner_of_posix_locks(sides):
    first, second = sides.lockers()
    first.do("import threading\n"
             "take(fd, 'posix', 'w', 0, 10)\n"
             "t = threading.Thread(target=take, args=(fd, 'posix', 'r', 0, 5)); t.start(); t.join()")
    assert second.could(POSIX, "r", 0, 5)
    second.refused(POSIX, "r", 5, 5)
    first.do("t = threading.Thread(target=take, args=(fd, 'posix', 'u')); t.start(); t.join()")
    assert second.could(POSIX, "w")


@on_holders
def test_opening_and_closing_does_not_disturb(sides):
    """Other processes open and close the file all the time; that ends nobody's locks but their own."""
    first, second = sides.lockers()
    for kind in KINDS:
        first.take(kind, "w")
        for path in (sides.first, sides.second):
            call(lambda: [os.close(os.open(path, os.O_RDWR)) for _ in range(20)])
        second.refused(kind, "r")
        first.drop(kind)


@on_holders
def test_locks_through_a_second_life(sides):
    """Nothing is left in an open file or an owner once it was used for locks: owners may be numbers
    that the kernel gives again."""
    for turn in range(40):
        kind = KINDS[turn % 3]
        fd = os.open(sides.first, os.O_RDWR)
        take(fd, kind, "w", 0, 10)
        os.close(fd)
        if kind == POSIX:
            with opened(sides.second) as again:
                take(again, kind, "w")
        else:
            with opened(sides.second) as again:
                def free():
                    with contextlib.suppress(BlockingIOError):
                        take(again, kind, "w")
                        return True
                eventually(free)
    if sides.bare:
        eventually(lambda: locks_on(sides.bare) == [])


# --- Copy-on-write views -----------------------------------------------------------------------

@pytest.mark.parametrize("where", ["page", "file"])
def test_locks_of_views(mnt, place, where):
    """One view is one file of its own: its locks mean nothing to others, to its section, to its file."""
    sides = Sides(mnt, place, where)
    view, other = Locker(mnt, mnt.cow("x")), Locker(mnt, mnt.cow("x"))
    section = Locker(mnt, mnt / "x")
    bare = Locker(mnt, sides.bare) if sides.bare else section
    for kind in KINDS:
        view.take(kind, "w")
        assert other.could(kind, "w")
        assert section.could(kind, "w")
        assert bare.could(kind, "w")
        section.take(kind, "w")
        assert other.could(kind, "w")
        section.drop(kind)
        view.drop(kind)
    if sides.bare:
        assert locks_on(sides.bare) == []


@pytest.mark.parametrize("where", ["page", "file"])
def test_locks_within_a_view(mnt, place, where):
    """Who shares it (by /proc or a socket) excludes each other in it."""
    Sides(mnt, place, where)
    first = Locker(mnt, mnt.cow("x"))
    second = Child(names=NAMES)
    with opened(f"/proc/{first.pid}/fd/{first.get('fd')}") as fd:
        second.give(fd, "fd")
    for kind in KINDS:
        first.take(kind, "w", 0, 10)
        with refused(errno.EAGAIN, errno.EACCES):
            second.do("take(fd, kind, 'w', 5, 1)", kind=kind)
        if kind in RECORDS:
            found = second.get("ask(fd, kind, 'r')", kind=kind)
            assert found[:3] == ("w", 0, 10)
            second.do("take(fd, kind, 'w', 10, 1)", kind=kind)
            first.refused(kind, "w", 10, 1)
            second.do("take(fd, kind, 'u')", kind=kind)
        second.begin("take(fd, kind, 'w', 5, 1, wait=True)", kind=kind)
        assert not select.select([second.socket], [], [], A_WHILE)[0]
        first.drop(kind)
        second.finish()
        first.refused(kind, "r", 0, 10)
        second.do("take(fd, kind, 'u')", kind=kind)
    second.do("take(fd, 'posix', 'w')")
    second.do("os.close(os.dup(fd))")
    assert first.could(POSIX, "w")
    second.do("take(fd, 'flock', 'w')")
    second.kill()
    eventually(lambda: first.could(FLOCK, "w"))


# --- SQLite, on the section and on the file ----------------------------------------------------

def begin_database(path, journal):
    connection = sqlite3.connect(path, isolation_level=None)
    assert connection.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    connection.execute("create table counter (n integer)")
    connection.execute("create table log (who integer, turn integer, text text, unique (who, turn))")
    connection.execute("insert into counter values (0)")
    return connection


def connect(path, journal):
    connection = sqlite3.connect(path, timeout=60, isolation_level=None)
    assert connection.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    connection.execute("pragma synchronous=off")
    connection.execute("pragma cache_size=8")       # writes to the database before the commit
    return connection


def transactions(connection, who, turns):
    """In a child: read, think, write, as one transaction; some rolled back. Returns how many were not."""
    done = 0
    for turn in range(turns):
        connection.execute("begin immediate")
        (value,) = connection.execute("select n from counter").fetchone()
        connection.execute("insert into log values (?, ?, ?)", (who, turn, "x" * (turn % 3000)))
        if turn % 7 == 3:
            connection.executemany("insert into log values (?, ?, ?)",
                                   [(who, -i, "y" * 500) for i in range(1, 100)])
            connection.execute("update counter set n = -1")
            connection.execute("rollback")
            continue
        connection.execute("update counter set n = ?", (value + 1,))
        connection.execute("commit")
        done += 1
    return done


def whole(connection):
    """How many transactions there were."""
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    (n,) = connection.execute("select n from counter").fetchone()
    assert connection.execute("select count(*) from log").fetchone() == (n,)
    return n


class Client(Child):
    """A process that has the database open, as connection."""

    def __init__(self, path, journal):
        super().__init__(names={"connect": connect, "transactions": transactions, "whole": whole})
        self.do("connection = connect(path, journal)", path=path, journal=journal)

    def begin_transactions(self, who, turns):
        self.begin("transactions(connection, who, turns)", "get", who=who, turns=turns)

    def whole(self):
        return self.get("whole(connection)")

    def end(self):
        self.do("connection.close()")
        self.kill()


def over_files(mnt, place, names):
    for name in names:
        if not os.path.exists(f"{place}/{name}"):
            write(f"{place}/{name}", b"")
        section_over(mnt, name, f"{place}/{name}")


@pytest.mark.parametrize("journal", ["memory", "delete"])
def test_sqlite_on_both_sides(mnt, place, journal):
    """The locks alone keep the two sides apart, and what one commits the other sees. The journal is
    each side's own, beside the name that it uses: enough as long as nobody is killed in the middle."""
    begin_database(f"{place}/db", journal).close()
    over_files(mnt, place, ["db"])
    sqlite_on_both_sides(mnt / "db", f"{place}/db", journal)


def sqlite_on_both_sides(section, bare, journal, turns=30):
    clients = [Client(path, journal) for path in (section, bare) * 2]
    for number, client in enumerate(clients):
        client.begin_transactions(number, turns)
    done = sum(client.finish() for client in clients)
    for client in clients:
        assert client.whole() == done, "updates were lost"
        client.end()
    for path in (section, bare):
        client = Client(path, journal)
        assert client.whole() == done
        client.end()


def sqlite_on_both_sides_with_deaths(section, bare, journal, rounds=6):
    """Whoever is killed in the middle of a transaction, the others undo what it has begun."""
    draw = random.Random(1)
    survivors = [Client(path, journal) for path in (section, bare)]
    last = survivors[0].whole()
    for turn in range(rounds):
        victims = [Client(path, journal) for path in (section, bare) * 2]
        for number, client in enumerate(victims):
            client.begin_transactions(100 + 10 * turn + number, 1 << 20)
        time.sleep(draw.uniform(0.05, 0.2))
        for client in victims:
            client.kill()
        for client in survivors[::(-1) ** turn]:
            n = client.whole()
            assert n >= last
            last = n
    for client in survivors:
        client.end()


def test_sqlite_on_both_sides_with_one_journal(mnt, place):
    """journal_mode=TRUNCATE does not remove the journal. So it can be made beforehand, with a section
    over it beside the database's: then both sides have one journal, and each can undo what the other
    left behind when it was killed. (Only a connection that was there before. A new one is in
    journal_mode=DELETE until it has said otherwise, and when it finds something to undo, it does
    that first and removes the journal by its own name for it.)"""
    begin_database(f"{place}/db", "truncate").close()
    over_files(mnt, place, ["db", "db-journal"])
    sqlite_on_both_sides(mnt / "db", f"{place}/db", "truncate")
    sqlite_on_both_sides_with_deaths(mnt / "db", f"{place}/db", "truncate")


@pytest.mark.modes("passthrough")
def test_sqlite_on_both_sides_with_wal(mnt, place):
    """In WAL mode both sides map db-shm, so they have to have the same pages (passthrough), and sections
    over db-wal and db-shm, made while they exist: as long as somebody on the side of the file has the
    database open. The last one to close removes both by name, which must not be one of the section's
    side: it would remove the sections alone."""
    begin_database(f"{place}/db", "delete").close()
    keeper = Client(f"{place}/db", "wal")
    assert keeper.whole() == 0                      # from its first look on it is in
    assert os.path.exists(f"{place}/db-wal") and os.path.exists(f"{place}/db-shm")
    over_files(mnt, place, ["db", "db-wal", "db-shm"])
    sqlite_on_both_sides(mnt / "db", f"{place}/db", "wal")
    sqlite_on_both_sides_with_deaths(mnt / "db", f"{place}/db", "wal")
    assert os.path.exists(mnt / "db-wal")
    assert os.getxattr(mnt / "db-wal", "user.section.kind") == b"file"
    keeper.end()
    assert not os.path.exists(f"{place}/db-wal")


@pytest.mark.parametrize("journal", ["wal", "delete", "truncate"])
def test_sqlite_on_the_section_alone(mnt, place, journal):
    """All on the section: db over a file, its companions page-file-backed, beside it in the mount."""
    begin_database(f"{place}/db", "delete").close()
    over_files(mnt, place, ["db"])
    sqlite_on_both_sides(mnt / "db", mnt / "db", journal)


def test_closing_takes_no_longer_for_the_locks_of_others(mnt):
    """Each close looks for locks to lift: among its own, and not among all that there are."""
    count = 8000
    os.mkdir(mnt / "d")
    write(mnt / "x", b"")

    def cost():
        def one():
            begin = time.monotonic()
            for _ in range(100):
                os.close(os.open(mnt / "x", os.O_RDONLY))
            return time.monotonic() - begin
        return min(one() for _ in range(10))

    before = cost()
    child = mnt.child()
    child.do("import fcntl, resource\n"
             "hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]\n"
             "resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))\n"
             "fds = [os.open(f'{path}/{n}', os.O_CREAT | os.O_RDWR) for n in range(count)]\n"
             "for fd in fds: fcntl.lockf(fd, fcntl.LOCK_EX)", path=mnt / "d", count=count)
    assert cost() < 4 * before
    child.kill()
