# SPDX-License-Identifier: MIT
"""Large writes do not pass through the daemon's memory: they go through a pipe. Nobody should notice."""

import contextlib
import errno
import os
import random
import stat

import pytest

from deaths import killed_within
from util import KIB, MIB, PAGE, eventually, opened, pattern, read, write

pytestmark = [pytest.mark.options("cow_copy_max=0,size=64M"),
              pytest.mark.modes("passthrough", "cached")]
SIZE = 4 * MIB


def make_base(mnt, real):
    """A section called file over a real one."""
    write(real, pattern("base", SIZE))
    os.chmod(real, 0o666)
    with opened(mnt / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.setxattr(fd, "user.section.file", os.fsencode(real))


def worker_pid(mnt):
    return mnt.stats()["worker_pid"]


def pipes(pid):
    """Those that something can be put into."""
    found = 0
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found += (os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:") and
                      os.lstat(f"/proc/{pid}/fd/{fd}").st_mode & stat.S_IWUSR != 0)
    return found


def scribble(fd, model, rng, times=60, flags=0):
    """Writes of all sizes, most of them large and in whole pages, to a file and its model."""
    for _ in range(times):
        length = rng.choice((64 * KIB, 100 * KIB, 512 * KIB, 516 * KIB, MIB, MIB + 8 * KIB))
        at = rng.randrange((SIZE - length) // PAGE) * PAGE
        if rng.random() < 0.3:
            length += rng.randrange(-PAGE, PAGE)
        if rng.random() < 0.2:
            at += rng.randrange(PAGE)
        if rng.random() < 0.2:
            length = rng.randrange(1, 3 * PAGE)
        data = pattern(rng.random(), length)
        assert os.pwrite(fd, data, at) == length
        model[at:at + length] = data


@pytest.mark.parametrize("kind", ["page", "file", "cow"])
def test_all_of_it_arrives(mnt, place, kind):
    make_base(mnt, f"{place}/base")
    write(mnt / "page", pattern("page", SIZE))
    path = mnt.cow("file") if kind == "cow" else mnt / kind
    model = bytearray(read(path))
    with opened(path) as fd:
        scribble(fd, model, random.Random(1))
        with opened(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_SYNC) as synced:
            scribble(synced, model, random.Random(2), 10)
        assert os.pread(fd, 2 * SIZE, 0) == model
        # Past the page cache, as whoever opens it next sees it.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 2 * SIZE, 0) == model
        with opened(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND) as end:
            for n in range(6):
                data = pattern(n, 512 * KIB)
                assert os.write(end, data) == len(data)
                model += data
        assert os.pread(fd, 2 * SIZE, 0) == model
    if kind == "file":
        assert read(f"{place}/base") == model
    if kind == "cow":
        assert read(f"{place}/base") == pattern("base", SIZE)


def test_they_are_spliced(mnt, place):
    """One write is read as any other request; those that follow it go through pipes."""
    make_base(mnt, f"{place}/base")
    worker = worker_pid(mnt)
    before = pipes(worker)
    with opened(mnt.cow("file")) as fd:
        for n in range(40):
            os.pwrite(fd, pattern(n, 32 * KIB), 0)
        assert pipes(worker) == before
        for n in range(40):
            os.pwrite(fd, pattern(n, MIB), 0)
        assert pipes(worker) > before
        assert os.pread(fd, MIB, 0) == pattern(39, MIB)


def test_what_does_not_fit_is_refused(new_mount, place):
    """A store that is full takes of a large write what it has room for, to the page."""
    for mode in "passthrough", "cached":
        mnt = new_mount(mode, "cow_copy_max=0,size=3M")
        make_base(mnt, f"{place}/{mode}")
        before = mnt.stats()["size_used"]
        with opened(mnt.cow("file")) as fd:
            at, model = 0, bytearray(pattern("base", SIZE))
            while True:
                data = pattern(at, 768 * KIB)
                try:
                    n = os.pwrite(fd, data, at)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    break
                model[at:at + n] = data[:n]
                at += n
            assert 3 * MIB - 64 * KIB < at <= 3 * MIB and at % PAGE == 0
            assert os.pread(fd, 16 * MIB, 0) == model
            # What is the view's own needs no room.
            for n in range(20):
                data = pattern(n, MIB)
                assert os.pwrite(fd, data, n % 2 * MIB) == MIB
                model[n % 2 * MIB:n % 2 * MIB + MIB] = data
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.pread(fd, 16 * MIB, 0) == model
        eventually(lambda: mnt.stats()["size_used"] == before)


def test_a_death_in_the_middle(mnt, place):
    """The bytes that a dead worker had in its pipe come again."""
    make_base(mnt, f"{place}/base")
    rng, model = random.Random(3), bytearray(pattern("base", SIZE))
    with opened(mnt.cow("file")) as fd:
        for _ in range(12):
            with killed_within(mnt, rng.random() / 20):
                scribble(fd, model, rng, 40)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 2 * SIZE, 0) == model
    assert mnt.stats()["deaths"] > 0
