# SPDX-License-Identifier: MIT
"""The kernel opens what a file is backed by with the flags of whoever opens the file. So a reader of
a section's own bytes must never be joined by a writer of a view, in whatever order they come, go and
are opened again through /proc: not one byte may reach the section."""

import contextlib
import errno
import itertools
import os
import shutil

import pytest

from sections import make, unused
from test_views import LARGE, SMALL, again, loop, map_file, mode  # noqa: F401 (a fixture)
from util import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, PAGE, View, extents, fallocate, opened,
                  pattern, read, refused, sha, write)

WRITING = [os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_DIRECT,
           os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC]
# Who opens: the section itself for reading, its .cow name for reading, and for writing.
WHO = ("section", "reader", "writer")
GOES = ("nobody", "first", "last", "all but mapped")


def scribble(fd, size, other):
    """All that can write through a descriptor; what is refused is refused."""
    for attempt in (lambda: os.pwrite(fd, b"scribble", 100), lambda: os.write(fd, b"scribble"),
                    lambda: store(fd, size), lambda: os.copy_file_range(other, fd, PAGE, 0, PAGE),
                    lambda: fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, 0, 2 * PAGE),
                    lambda: os.ftruncate(fd, size + PAGE), lambda: os.ftruncate(fd, size // 2)):
        with contextlib.suppress(OSError):
            attempt()


def store(fd, size):
    view = View(fd, PAGE)
    if os.fstat(fd).st_size >= PAGE:
        view.write(10, b"scribble")
        view.sync()
    view.close()


class Party:
    """Those three, on one section."""

    def __init__(self, path, cow, data, shared, other):
        self.path, self.cow, self.data, self.shared, self.other = path, cow, data, shared, other
        self.fds, self.views, self.writable = {}, {}, set()

    def arrives(self, who):
        flags = os.O_RDWR if who == "writer" else os.O_RDONLY
        fd = self.fds[who] = os.open(self.path if who == "section" else self.cow, flags)
        self.views[who] = View(fd, len(self.data), prot=1)

    def leaves(self, who):
        os.close(self.fds.pop(who))

    def is_reopened(self):
        """By each descriptor that is open, and by each mapping, in every way."""
        for who, fd in list(self.fds.items()):
            with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as second:
                os.pread(second, 10, 0)
                self.is_written(who, second)
            self.is_written(who, fd)
            if who == "writer" or self.shared:
                scribble(fd, len(self.data), self.other)
        for who, view in self.views.items():
            for flags in WRITING if who != "section" else ():
                # Not for everybody, and not of what the kernel has no name for any more.
                with contextlib.suppress(OSError), opened(map_file(None, view), flags) as again_:
                    scribble(again_, len(self.data), self.other)

    def is_written(self, who, fd):
        for flags in WRITING:
            if who == "section" and not self.shared:
                continue                # that would be allowed to write
            if who == "reader" and not self.shared:
                with refused(errno.EACCES):
                    again(fd, flags)
                continue
            with opened(f"/proc/self/fd/{fd}", flags) as second:
                scribble(second, len(self.data), self.other)

    def check(self):
        """Readers have seen nothing of it."""
        for who in () if self.shared else self.views.keys() - {"writer"}:
            assert self.views[who].read(0, len(self.data)) == self.data, who
            if who in self.fds:
                assert os.pread(self.fds[who], len(self.data) + 1, 0) == self.data, who

    def ends(self):
        for fd in self.fds.values():
            os.close(fd)
        for view in self.views.values():
            view.close()


@pytest.mark.modes("passthrough", "cached", "user")
@pytest.mark.parametrize("kind", ["page small", "page large", "file small", "file large", "clone",
                                  "window", "readonly", "writecopy", "chain", "shared"])
def test_every_order_of_opens(request, mnt, place, kind):
    size = SMALL if kind.endswith("small") else LARGE
    expected = {"clone": "clone"}.get(kind, "copy" if size == SMALL else "overlay")
    where = place
    if kind == "clone":
        if mnt.mode != "passthrough":
            pytest.skip("there are clones in passthrough only")
        where = request.getfixturevalue("loop")("xfs" if shutil.which("mkfs.xfs") else "btrfs")
    data = pattern("base", size)
    real = f"{where}/real"
    if not kind.startswith("page"):
        write(real, bytes(PAGE) + data + bytes(PAGE) if kind == "window" else data)
        if mnt.user:
            os.chown(real, mnt.user.uid, mnt.user.gid)
        os.sync()

    def facts():
        status = os.stat(real)
        return sha(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns, extents(real)

    def body():
        path = cow = mnt / "base"
        if kind.startswith("page"):
            write(path, data)
        elif kind == "window":
            make(path, file=real, offset=PAGE, length=size)
        elif kind in ("chain", "shared"):
            make(mnt / "golden", file=real, protect="writecopy")
            make(mnt / "middle", base="golden")
            make(path, base="middle", **({"cow": "section"} if kind == "shared" else {}))
        else:
            make(path, file=real, **({"protect": kind} if kind in ("readonly", "writecopy") else {}))
        if kind != "shared":
            cow = mnt.cow("base")
        write(mnt / "other", os.urandom(PAGE))
        before = os.stat(path)
        with opened(mnt / "other") as other:
            for order, goes in itertools.product(itertools.permutations(WHO), GOES):
                party = Party(path, cow, data, kind == "shared", other)
                for who in order:
                    party.arrives(who)
                    party.is_reopened()
                    party.check()
                found = mode(party.fds["writer"])
                assert found == (expected if mnt.mode == "passthrough" and kind != "shared"
                                 else "overlay"), (order, goes, found)
                for who in {"first": order[:1], "last": order[-1:], "all but mapped": order}.get(goes, ()):
                    party.leaves(who)
                    party.is_reopened()
                    party.check()
                party.ends()
                if kind != "shared":
                    assert read(path) == data, (order, goes)
        after = os.stat(path)
        if kind != "shared":
            assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        else:
            unused(path)
            assert read(path) == data

    if kind.startswith("page"):
        mnt.run(body)
        return
    before = facts()
    mnt.run(body)
    assert facts() == before
    if kind == "clone":
        os.unlink(mnt / "base")
