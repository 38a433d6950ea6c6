# SPDX-License-Identifier: MIT
"""What the kernel writes back of mappings, where the page cache is its own: never more than there
is of the file, and never less than it is told."""

import ctypes
import errno
import os
import threading
import time

import pytest

from sections import make
from util import MIB, PAGE, View, mount, opened, pattern, read, refused, write

SIZE = 128 * MIB


# --- Cut meanwhile ----------------------------------------------------------------------------

def dirty(fd, byte):
    """A mapping all of which was stored to."""
    os.ftruncate(fd, SIZE)
    view = View(fd, SIZE)
    ctypes.memset(view.address, byte, SIZE)
    return view


def stays_cut(path):
    """Opening with O_TRUNC does not hold off write-back: what the kernel has sent already comes to
    the daemon when the file is cut."""
    with opened(path) as fd:
        for n in range(6):
            view = dirty(fd, ord("A") + n)
            flusher = threading.Thread(target=view.sync)
            flusher.start()
            time.sleep(n / 100)
            os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC))
            flusher.join()
            view.close()
            assert os.fstat(fd).st_size == 0
            assert os.pread(fd, PAGE, 0) == b""
            yield
            os.ftruncate(fd, MIB + 5)
            assert os.pread(fd, 2 * MIB, 0) == bytes(MIB + 5)
            os.pwrite(fd, b"new", 0)
            os.fsync(fd)
            assert os.pread(fd, 2 * MIB, 0) == b"new" + bytes(MIB + 2)


@pytest.mark.options(f"size={4 * SIZE}")
@pytest.mark.modes("cached")
def test_cut_page_section_stays_cut(mnt):
    write(mnt / "x", b"")
    for _ in stays_cut(mnt / "x"):
        pass


@pytest.mark.options(f"size={4 * SIZE},cow_copy_max=0")
@pytest.mark.modes("passthrough", "cached")
def test_cut_view_stays_cut(mnt):
    write(mnt / "x", pattern("base", MIB))
    for _ in stays_cut(mnt.cow("x")):
        pass
    assert read(mnt / "x") == pattern("base", MIB)


@pytest.mark.modes("cached")
def test_cut_file_stays_cut(mnt, place):
    write(f"{place}/real", b"")
    make(mnt / "x", file=f"{place}/real")
    for _ in stays_cut(mnt / "x"):
        assert os.stat(f"{place}/real").st_size == 0


@pytest.mark.modes("cached")
def test_file_that_others_cut_stays_cut(mnt, place):
    """The kernel does not know of it, and writes back up to where the end was."""
    end = 40 * PAGE + 10
    write(f"{place}/real", pattern("real", MIB))
    make(mnt / "whole", file=f"{place}/real")
    make(mnt / "part", file=f"{place}/real", offset=2 * PAGE, length=100 * PAGE)
    for name, start in ("whole", 0), ("part", 2 * PAGE):
        os.truncate(f"{place}/real", MIB)
        with opened(mnt / name) as fd:
            size = os.fstat(fd).st_size
            view = View(fd, size)
            view.write(0, pattern(name, size))
            os.truncate(f"{place}/real", end)
            view.sync()
            view.close()
        assert read(f"{place}/real")[start:] == pattern(name, size)[:end - start]


# --- No room ----------------------------------------------------------------------------------

# In pages, above what there is room for: so the kernel's last request does not fit as a whole.
OVER = 1, 2, 20, 60


def store(fd, size):
    """Has the kernel write back a mapping of so many bytes."""
    os.ftruncate(fd, size)
    view = View(fd, size)
    try:
        view.write(0, pattern("mapped", size))
        view.sync()
    finally:
        view.close()


def room(path):
    figures = os.statvfs(path)
    return figures.f_bavail * figures.f_bsize


@pytest.fixture
def small(place):
    """A file system with little room, none of it on a disk."""
    where = f"{place}/small"
    os.mkdir(where)
    mount("tmpfs", where, "tmpfs", 0, "size=3600k")
    return where


@pytest.mark.modes("cached")
@pytest.mark.parametrize("pages", [40, 0])
def test_file_that_does_not_fit_is_told_of(mnt, small, pages):
    """Nobody is told that his stores are on the disk when they are not: msync fails. In one
    request, or in many."""
    write(f"{small}/real", b"")
    make(mnt / "x", file=f"{small}/real")
    if pages:
        write(f"{small}/other", bytes(room(small) - pages * PAGE))
    with opened(mnt / "x") as fd:
        for over in OVER:
            with refused(errno.ENOSPC):
                store(fd, room(small) + over * PAGE)
            os.ftruncate(fd, 0)
        fits = room(small)
        store(fd, fits)
        assert read(f"{small}/real") == pattern("mapped", fits)
        os.ftruncate(fd, 0)


@pytest.mark.modes("cached")
def test_window_that_does_not_fit_is_told_of(mnt, small):
    write(f"{small}/real", b"")
    os.truncate(f"{small}/real", 16 * MIB)
    length = room(small) + PAGE
    make(mnt / "x", file=f"{small}/real", offset=10, length=length)
    with opened(mnt / "x") as fd, refused(errno.ENOSPC):
        store(fd, length)


@pytest.mark.modes("passthrough")
@pytest.mark.options("size=4M")
def test_page_section_that_does_not_fit_is_told_of(mnt):
    """One that is not passed through, for its set-id bit, on the tmpfs that has a size."""
    write(mnt / "other", bytes(5 * PAGE))
    write(mnt / "x", b"")
    os.chmod(mnt / "x", 0o4777)
    with opened(mnt / "x") as fd:
        for over in OVER:
            before = mnt.stats()["requests_write"]
            with refused(errno.ENOSPC):
                store(fd, room(mnt.path) + over * PAGE)
            assert mnt.stats()["requests_write"] > before
            os.ftruncate(fd, 0)
        fits = room(mnt.path)
        store(fd, fits)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(fd, 2 * fits, 0) == pattern("mapped", fits)
