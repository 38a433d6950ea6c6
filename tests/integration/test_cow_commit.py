# SPDX-License-Identifier: MIT
"""Writing a view into its section is all or nothing, however often the worker ends in between.

SECTIONFS_TEST_LONG=1: more deaths. SECTIONFS_TEST_SEED: repeats a run."""

import errno
import fcntl
import mmap
import os
import random
import select
import signal
import threading
import time

import pytest

from points import ANY, Points
from test_verbs import COMMIT, diff
from test_views import define, loop  # noqa: F401 (a fixture)
from util import (KIB, MIB, PAGE, Child, ChildDied, View, eventually, kill, mapped, opened, pattern,
                  read, refused, write)

LONG = bool(os.environ.get("SECTIONFS_TEST_LONG"))
ENDED = "what was begun to be written into it was ended"
both_modes = pytest.mark.parametrize("io", ["passthrough", "cached"])
MECHANISMS = ["page overlay", "file overlay", "page copy", "file copy", "file clone"]


class Section:
    """A section called base, what is in it, and a program that has a view of it."""

    def __init__(self, request, io, mechanism, place, size, make=None):
        kind, self.expected = mechanism.split()
        if io == "cached" and self.expected != "overlay":
            pytest.skip("without passthrough there are overlays only")
        self.mnt = make(io, f"cow_copy_max={'64M' if self.expected == 'copy' else '0'}")
        seed = int(os.environ.get("SECTIONFS_TEST_SEED", time.time_ns() % 1_000_000_007))
        print(f"SECTIONFS_TEST_SEED={seed}")
        self.random = random.Random(seed)
        self.old = pattern(seed, size)
        self.path = self.mnt / "base"
        if kind == "file":
            where = request.getfixturevalue("loop")("xfs") if self.expected == "clone" else place
            write(f"{where}/real", self.old)
            define(self.path, f"{where}/real")
        else:
            write(self.path, self.old)
        self.reader = os.open(self.path, os.O_RDONLY)       # from before until after
        self.child = Child(names={"fcntl": fcntl, "COMMIT": COMMIT, "diff": diff})
        self.child.do("fd = os.open(path, os.O_RDWR)", path=self.mnt.cow("base"))
        assert self.child.get("os.getxattr(fd, 'user.section.mode').decode()") == self.expected
        self.deaths = self.ended = 0

    def change(self, kind, runs=400):
        """Scattered runs, the size too if told; in the view, and in a plain copy of what it shows."""
        new = bytearray(self.old)

        def cut(size):
            self.child.do("os.ftruncate(fd, size)", size=size)
            del new[size:]
            new.extend(bytes(size - len(new)))
        if kind in ("cut and grown", "cut"):
            cut(self.random.randrange(len(new) // 3, len(new)))
        if kind in ("cut and grown", "grown"):
            cut(min(len(new) + self.random.randrange(1, 4 * MIB), 20 * MIB))
        writes = []
        for _ in range(runs):
            at = self.random.randrange(len(new))
            at -= at % PAGE if self.random.random() < 0.5 else 0
            data = self.random.randbytes(self.random.choice((7, PAGE, 3 * PAGE)))[:len(new) - at]
            writes.append((at, data))
            new[at:at + len(data)] = data
        for at in [self.random.randrange(len(new) // PAGE) * PAGE for _ in range(3)]:
            writes.append((at, None))
            new[at:at + PAGE] = bytes(min(PAGE, len(new) - at))
        self.child.do("for at, data in writes: os.pwrite(fd, data, at) if data else punch(fd, at, PAGE)",
                      writes=writes)
        self.new = bytes(new)

    def commit(self, end_worker, points=None, kills=()):
        """Commits, while end_worker ends one or more, or one ends at kills. Looks at the section as
        soon as the next one serves, and when it is done."""
        before = self.mnt.stats()
        told = self.mnt.log_text().count(ENDED)
        if points:
            points.arm(*kills)
        self.child.begin("fcntl.ioctl(fd, COMMIT)", _kind="get")
        end_worker(before["worker_pid"])
        done = self.is_done()
        if done:
            assert self.child.finish() == 0             # and it is told once
        now = eventually(self.mnt.stats)
        died = now["worker_pid"] != before["worker_pid"]
        ended = self.mnt.log_text().count(ENDED) - told
        found = read(self.path)
        if ended or done:
            assert found == self.new, self.describe(found)
            assert os.stat(self.path).st_size == len(self.new)
            if self.mnt.mode == "passthrough":
                assert os.pread(self.reader, 1 << 26, 0) == self.new
        elif died:
            # Not begun, so that it begins now, or has yet to.
            self.check_pages(found)
        if not done:
            assert self.child.finish() == 0
        assert read(self.path) == self.new
        assert os.pread(self.reader, 1 << 26, 0) == self.new
        with opened(self.path, os.O_RDONLY) as fd:
            view = View(fd, len(self.new), prot=1)
            assert view.read(0, len(self.new)) == self.new
            view.close()
        assert self.child.get("os.pread(fd, 1 << 26, 0)") == self.new
        if self.expected != "clone":
            assert self.child.get("diff(fd)") == []
        self.deaths += self.mnt.stats()["deaths"] - before["deaths"]
        self.ended += self.mnt.log_text().count(ENDED) - told
        self.old = self.new

    def is_done(self):
        return bool(select.select([self.child.socket], [], [], 0)[0])

    def describe(self, found):
        pages = [("old" if found[at:at + PAGE] == self.old[at:at + PAGE] else "")
                 + ("new" if found[at:at + PAGE] == self.new[at:at + PAGE] else "")
                 for at in range(0, len(found), PAGE)]
        return f"{len(found)} bytes of {len(self.old)}, now {len(self.new)}; pages: " + \
            ", ".join(f"{name or 'neither'} {pages.count(name)}" for name in sorted(set(pages)))

    def check_pages(self, found):
        """Each is the old one or the new one, or the old one cut off at the new end, or zeros beyond
        the end that there was; or it is just being written."""
        for at in range(0, len(found), PAGE):
            page = found[at:at + PAGE]
            possible = [whole[at:at + PAGE].ljust(PAGE, b"\0")[:len(page)]
                        for whole in (b"", self.old, self.new)]
            assert page in possible or all(byte in each for byte, *each in zip(page, *possible)), \
                self.describe(found)

    def close(self):
        self.child.kill()
        os.close(self.reader)
        os.unlink(self.path)
        eventually(lambda: self.mnt.stats()["sections"] == 0)


KINDS = ("scattered", "cut and grown", "grown", "cut")


@pytest.mark.parametrize("mechanism", MECHANISMS)
@both_modes
def test_worker_is_killed_during_a_commit(request, new_mount, session, io, mechanism, place):
    """At any moment of it; what is seen once the next worker serves is the one or the other."""
    session.watchdog.arm(1200)
    section = Section(request, io, mechanism, place, 8 * MIB + 123, new_mount)
    took = 0
    for number in range(120 if LONG else 12):
        section.change(KINDS[number % len(KINDS)])

        def measure(pid):
            nonlocal took
            start = time.monotonic()
            select.select([section.child.socket], [], [], 60)
            took = time.monotonic() - start

        def wait_and_kill(pid):
            time.sleep(section.random.uniform(0, 1.2 * took))
            kill(pid, signal.SIGKILL)
            eventually(lambda: section.mnt.stats()["worker_pid"] != pid)
        section.commit(wait_and_kill if took else measure)
    print(f"{section.deaths} deaths, {section.ended} of them in the midst")
    assert section.deaths == number and (section.ended > 5 or not LONG)
    section.close()


def commit_killed_at(request, faulty, io, mechanism, kind, place, points, kills):
    """How often a later worker ended what was begun; None if none was killed."""
    section = Section(request, io, mechanism, place, MIB + 123,
                      lambda io, options: faulty(io, SECTIONFS_POINTS=points.path, options=options))
    section.change(kind, runs=40)
    section.commit(lambda pid: eventually(
        lambda: section.is_done() or section.mnt.stats()["worker_pid"] != pid), points, kills)
    points.disarm()
    section.close()
    section.mnt.stop()
    return section.ended if "was ended by signal 9" in section.mnt.log_text() else None


@pytest.mark.parametrize("mechanism", MECHANISMS)
@both_modes
def test_worker_is_killed_at_points_of_a_commit(request, faulty, session, io, mechanism, place):
    """And again at some while the next one ends what was begun. Finding room for all of it passes
    through hundreds of them where the section is in memory, before anything is written."""
    session.watchdog.arm(1800)
    points = Points(f"{place}/points", os.environ.get("SECTIONFS_FAULTS"))
    first = range(1, 1500, 3) if LONG else range(random.randrange(5, 50), 800, 50)
    killed = ended = 0
    for number, point in enumerate(first):
        times = commit_killed_at(request, faulty, io, mechanism, KINDS[number % len(KINDS)], place,
                                 points, [(ANY, point), (ANY, 19), (ANY, 200)])
        killed += times is not None
        ended += times or 0
    print(f"{killed} times killed, {ended} of them in the midst")
    assert ended or not LONG


@pytest.mark.parametrize("size", [2 * MIB, 2 * MIB + 123, 123, 0])
def test_clone_that_cannot_be_put_back_leaves_the_section_as_it_was(loop, faulty, size):  # noqa: F811
    """Its end, above all, where the clone is shorter."""
    place = loop("xfs")
    old = pattern("old", 3 * MIB + 7)
    write(f"{place}/real", old)
    mnt = faulty("passthrough", "cow_copy_max=0")
    define(mnt / "base", f"{place}/real")
    with opened(mnt.cow("base")) as fd:
        assert os.getxattr(fd, "user.section.mode") == b"clone"
        os.ftruncate(fd, size)
        os.pwrite(fd, b"new"[:size], 0)
        new = os.pread(fd, 4 * MIB, 0)
        mnt.failures.plan("clones", serving=True)
        before = mnt.stats()["worker_pid"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: mnt.stats()["worker_pid"] != before)
        if size >= PAGE:
            with refused(errno.EIO):
                fcntl.ioctl(fd, COMMIT)
            assert mnt.failures.failed == 1
            assert read(f"{place}/real") == read(mnt / "base") == old
        fcntl.ioctl(fd, COMMIT)
        assert read(f"{place}/real") == read(mnt / "base") == new
        assert os.pread(fd, 4 * MIB, 0) == new


def test_command_succeeds_though_the_worker_is_killed(mnt, session, place):
    write(mnt / "base", pattern("base", 32 * MIB))
    with opened(mnt.cow("base")) as fd:
        for _ in range(5):
            data = os.urandom(16 * MIB)
            os.pwrite(fd, data, 8 * MIB)
            pid = mnt.stats()["worker_pid"]
            done = os.spawnl(os.P_NOWAIT, session.programs.sectionctl, "sectionctl", "cow", "commit",
                             f"/proc/{os.getpid()}/fd/{fd}")
            time.sleep(random.uniform(0, 0.03))
            kill(pid, signal.SIGKILL)
            assert os.waitpid(done, 0)[1] == 0
            assert read(mnt / "base")[8 * MIB:24 * MIB] == data


# --- What else a commit must not do -----------------------------------------------------------------

def test_mapping_of_the_section_outlives_a_view_that_was_cut_and_grown(mnt, place):
    """The section is never shorter than it was and will be."""
    write(mnt / "base", pattern("base", 4 * MIB))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDONLY); view = View(fd, 4 * MIB, prot=1)", path=mnt / "base")
    child.begin("while not os.path.exists(stop):\n"
                "    for at in range(0, 4 * MIB, PAGE): view.read(at, 1)", stop=f"{place}/stop")
    with opened(mnt.cow("base")) as fd:
        for number in range(30):
            os.ftruncate(fd, number * 1000)
            os.ftruncate(fd, 4 * MIB)
            os.pwrite(fd, pattern(number), 2 * MIB)
            expected = os.pread(fd, 4 * MIB, 0)
            fcntl.ioctl(fd, COMMIT)
            assert read(mnt / "base") == expected
    write(f"{place}/stop", b"")
    try:
        child.finish()
    except ChildDied as death:
        raise AssertionError(f"it died of {death.status}") from None


@pytest.mark.options("size=32M,cow_copy_max=0")
def test_there_is_room_for_a_view_that_was_cut_and_grown(mnt):
    """What the section holds already is not given back before it is written anew, for others to
    take."""
    write(mnt / "base", pattern("base", 8 * MIB))
    with opened(mnt.cow("base")) as fd, opened(mnt / "filler", os.O_CREAT | os.O_RDWR) as filler:
        os.ftruncate(fd, 0)
        os.pwrite(fd, pattern("new", 8 * MIB), 0)
        try:
            for at in range(0, 32 * MIB, 64 * KIB):
                os.pwrite(filler, bytes(64 * KIB), at)
        except OSError:
            pass
        fcntl.ioctl(fd, COMMIT)
        assert read(mnt / "base") == pattern("new", 8 * MIB)


@pytest.mark.options("size=64M,commit=commit")
def test_section_whose_memory_is_promised_keeps_it(mnt):
    before = mnt.stats()["size_used"]
    write(mnt / "base", pattern("base", 4 * MIB))
    with opened(mnt.cow("base")) as fd:
        os.ftruncate(fd, MIB)
        os.ftruncate(fd, 6 * MIB)
        fcntl.ioctl(fd, COMMIT)
    assert os.stat(mnt / "base").st_blocks * 512 == 6 * MIB
    eventually(lambda: mnt.stats()["size_used"] - before == 6 * MIB)
    assert read(mnt / "base") == pattern("base", 4 * MIB)[:MIB] + bytes(5 * MIB)


def test_stores_to_a_mapping_of_the_section_before_are_written_over(mnt):
    """They do not come in after the commit, when the kernel gets round to writing them back."""
    write(mnt / "base", pattern("base", 2 * MIB))
    with opened(mnt / "base") as base, opened(mnt.cow("base")) as fd:
        view = mapped(base, 2 * MIB)
        for page in range(0, 512, 3):
            view[page * PAGE:page * PAGE + 6] = b"stored"
        os.pwrite(fd, pattern("new", 2 * MIB), 0)
        fcntl.ioctl(fd, COMMIT)
        assert view[:] == pattern("new", 2 * MIB)
        view.flush()
        assert os.pread(base, 2 * MIB, 0) == pattern("new", 2 * MIB)
        view.close()
    assert read(mnt / "base") == pattern("new", 2 * MIB)


@pytest.mark.options("cow_copy_max=0")
def test_who_reads_during_a_commit_sees_no_zeros(mnt):
    """What the view holds is given back when it is the section's: it must not be read just then."""
    size = 4 * MIB
    write(mnt / "base", pattern("base", size))
    wrong, stop = [], threading.Event()
    with opened(mnt.cow("base")) as fd, opened(f"/proc/self/fd/{fd}",
                                               os.O_RDONLY | os.O_DIRECT) as direct:
        def look():
            with mmap.mmap(-1, size) as buffer:
                while not stop.is_set() and not wrong:
                    if os.preadv(direct, [buffer], 0) != size or buffer.find(bytes(PAGE)) >= 0:
                        wrong.append(buffer.find(bytes(PAGE)))

        threads = [threading.Thread(target=look) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(60):
            os.pwrite(fd, pattern(number, size), 0)
            fcntl.ioctl(fd, COMMIT)
        stop.set()
        for thread in threads:
            thread.join()
        assert not wrong
        assert os.pread(fd, size, 0) == pattern(59, size)
