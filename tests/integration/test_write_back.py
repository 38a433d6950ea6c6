# SPDX-License-Identifier: MIT
"""What the kernel writes back of mappings, where the page cache is its own: never less than it is
told."""

import errno
import os

import pytest

from sections import make
from util import MIB, PAGE, View, mount, opened, pattern, read, refused, write


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
