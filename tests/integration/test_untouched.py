# SPDX-License-Identifier: MIT
"""Of a section that is readonly or writecopy, and of any under .cow, nothing reaches the file: by no
operation that the daemon serves."""

import contextlib
import ctypes
import fcntl
import mmap
import os
import re
import stat

import pytest

from sections import PREFIX, make, set_keys, unused
from test_verbs import COMMIT, DIFF, RANGES, RESET
from util import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, PAGE, RENAME_EXCHANGE,
                  RENAME_NOREPLACE, View, extents, fallocate, libc, link_fd, opened, pattern, read,
                  renameat2, sha, write, write_all)

R = mmap.PROT_READ
SIZE = 4 * PAGE


class Attempts:
    """For each operation that the daemon serves, all that could change a section's file with it.
    What is refused is refused; what is allowed must not reach the file."""

    def __init__(self, path, directory, place):
        self.path, self.directory, self.place = path, directory, place
        self.other = f"{directory}/other"
        write(self.other, pattern("other", SIZE))
        self.fds = []
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND,
                      os.O_RDWR | os.O_DIRECT):
            with contextlib.suppress(OSError):
                self.fds.append(os.open(path, flags))
        self.done = 0

    def each(self, *functions):
        for function in functions:
            for fd in self.fds:
                self.try_(lambda: function(fd))

    def try_(self, *functions):
        for function in functions:
            self.done += 1
            with contextlib.suppress(OSError, ValueError):
                function()

    def new(self, name):
        """Another name of it, to be lost."""
        with contextlib.suppress(OSError):
            os.link(self.path, f"{self.directory}/{name}")
        return f"{self.directory}/{name}"

    # One method for each operation.

    def lookup(self):
        self.try_(lambda: os.stat(self.path), lambda: os.stat(self.path + "/.."))

    def getattr(self):
        self.each(os.fstat)

    statx = lookup

    def forget(self):
        name = self.new("forgotten")
        self.try_(lambda: os.unlink(name))

    forget_multi = forget

    def setattr(self):
        for size in (0, 1, SIZE - 1, SIZE, SIZE + 1, 10 * SIZE):
            self.try_(lambda: os.truncate(self.path, size))
            self.each(lambda fd: os.ftruncate(fd, size),
                      lambda fd: os.truncate(f"/proc/self/fd/{fd}", size))
        for times in (None, (1, 2), (1 << 33, 1 << 33)):
            self.try_(lambda: os.utime(self.path, times))
            self.each(lambda fd: os.utime(fd, times))
        self.try_(lambda: os.chmod(self.path, 0o7777), lambda: os.chown(self.path, 12, 34),
                  lambda: os.chown(self.path, 0, 0))
        self.each(lambda fd: os.fchmod(fd, 0o666), lambda fd: os.fchown(fd, 12, 34),
                  lambda fd: os.fchown(fd, 0, 0))

    def readlink(self):
        self.try_(lambda: os.symlink(self.path, f"{self.directory}/link"),
                  lambda: os.readlink(f"{self.directory}/link"),
                  lambda: os.truncate(f"{self.directory}/link", 0),
                  lambda: os.close(os.open(f"{self.directory}/link", os.O_RDWR | os.O_TRUNC)))

    def mknod(self):
        self.try_(lambda: os.mknod(self.path, 0o666 | stat.S_IFREG))

    def mkdir(self):
        self.try_(lambda: os.mkdir(self.path), lambda: os.mkdir(f"{self.path}/x"))

    def unlink(self):
        name = self.new("lost")
        self.try_(lambda: os.unlink(name))

    def rmdir(self):
        self.try_(lambda: os.rmdir(self.path))

    symlink = readlink

    def rename(self):
        name = self.new("renamed")
        for flags in (RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_EXCHANGE, 0):
            self.try_(lambda: renameat2(self.other, name, flags))
        write(self.other, pattern("other", SIZE))
        name = self.new("renamed")
        self.try_(lambda: os.rename(name, self.other))
        self.try_(lambda: os.unlink(self.other))
        write(self.other, pattern("other", SIZE))

    def link(self):
        self.try_(lambda: os.truncate(self.new("linked"), 0),
                  lambda: write(f"{self.directory}/linked", b"linked"))
        for name in ("linked", "link"):
            self.try_(lambda: os.unlink(f"{self.directory}/{name}"))

    def open(self):
        for access in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR, 3):
            for more in (0, os.O_TRUNC, os.O_APPEND, os.O_DIRECT, os.O_SYNC, os.O_NOATIME):
                self.try_(lambda: self.fds.append(os.open(self.path, access | more)))
        self.each(lambda fd: os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_TRUNC)))
        for fd in self.fds[8:]:
            os.close(fd)
        del self.fds[8:]

    def read(self):
        self.each(lambda fd: os.pread(fd, SIZE, 0))

    def write(self):
        page = mmap.mmap(-1, PAGE)
        page[:] = b"w" * PAGE                   # aligned, for O_DIRECT
        for at in (0, 1, PAGE, SIZE - 1, SIZE, SIZE + PAGE):
            self.each(lambda fd: os.pwrite(fd, b"written", at), lambda fd: os.pwritev(fd, [page], at))
        self.each(lambda fd: write_all(fd, b"written"))

        def store(fd, **how):
            view = View(fd, SIZE, **how)
            try:
                for at in (7, SIZE - 7):
                    if at + 6 <= os.fstat(fd).st_size:
                        view.write(at, b"stored")
                view.sync()
            finally:
                view.close()
        self.each(lambda fd: os.ftruncate(fd, SIZE))
        self.each(store, lambda fd: store(fd, flags=mmap.MAP_PRIVATE))

        def protect_later(fd):
            view = View(fd, SIZE, prot=R)
            try:
                if os.fstat(fd).st_size >= SIZE and \
                        libc.mprotect(ctypes.c_void_p(view.address), ctypes.c_size_t(SIZE), 3) == 0:
                    view.write(9, b"protected")
            finally:
                view.close()
        self.each(protect_later)
        with opened(self.other) as source:
            self.each(lambda fd: os.sendfile(fd, source, 0, PAGE),
                      lambda fd: os.splice(source, fd, PAGE))
            into, out = os.pipe2(os.O_NONBLOCK)
            self.each(lambda fd: os.write(out, b"spliced") and os.splice(into, fd, 7))
            os.close(into)
            os.close(out)

    def flush(self):
        self.each(lambda fd: os.close(os.dup(fd)))

    def release(self):
        self.try_(lambda: os.close(os.open(self.path, os.O_RDWR)))

    def fsync(self):
        self.each(os.fsync, os.fdatasync)
        self.each(lambda fd: check_sync_range(fd))

    def opendir(self):
        self.try_(lambda: os.listdir(self.directory))

    readdir = readdirplus = releasedir = opendir

    def fsyncdir(self):
        with opened(self.directory, os.O_RDONLY) as fd:
            os.fsync(fd)

    def statfs(self):
        self.try_(lambda: os.statvfs(self.path))

    def setxattr(self):
        """All keys but protect, which is its owner's to change."""
        for name, value in (("file", f"{self.place}/decoy"), ("base", "other"), ("offset", "1"),
                            ("length", "1"), ("size", "0"), ("kind", "page"), ("limit", "1"),
                            ("commit", "commit"), ("resize", "grow"), ("delete", "busy"),
                            ("lifetime", "permanent"), ("cow", "section"), ("cow", "open"),
                            ("mode", "direct"), ("private", "0")):
            self.try_(lambda: set_keys(self.path, **{name: value}))
        self.try_(lambda: os.setxattr(self.path, "user.colour", b"green"),
                  lambda: os.setxattr(self.path, "trusted.colour", b"green"),
                  lambda: os.setxattr(self.path, "security.colour", b"green"))

    def getxattr(self):
        for name in os.listxattr(self.path):
            self.try_(lambda: os.getxattr(self.path, name))

    listxattr = getxattr

    def removexattr(self):
        for name in ("file", "offset", "length", "limit", "commit", "resize", "delete", "lifetime"):
            self.try_(lambda: os.removexattr(self.path, PREFIX + name))
        self.try_(lambda: os.removexattr(self.path, "user.colour"))

    def create(self):
        for flags in (os.O_CREAT | os.O_RDWR | os.O_TRUNC, os.O_CREAT | os.O_EXCL | os.O_RDWR):
            self.try_(lambda: os.close(os.open(self.path, flags)))

    def tmpfile(self):
        fd = os.open(self.directory if "/.cow" not in self.directory else self.place,
                     os.O_TMPFILE | os.O_RDWR)
        self.try_(lambda: link_fd(fd, self.path))
        os.close(fd)

    def fallocate(self):
        for mode in (0, FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, FALLOC_ZERO_RANGE,
                     FALLOC_ZERO_RANGE | FALLOC_KEEP_SIZE, 8, 32, 64):
            for at, length in ((0, PAGE), (0, SIZE), (PAGE, PAGE), (SIZE, PAGE), (5, 7)):
                self.each(lambda fd: fallocate(fd, mode, at, length))

    def copy_file_range(self):
        with opened(self.other) as source:
            for at in (0, PAGE, SIZE):
                self.each(lambda fd: os.copy_file_range(source, fd, SIZE, 0, at),
                          lambda fd: os.copy_file_range(fd, fd, PAGE, 0, 2 * PAGE))

    def lseek(self):
        for whence in (os.SEEK_SET, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE):
            self.each(lambda fd: os.lseek(fd, 0, whence))

    def ioctl(self):
        self.each(lambda fd: fcntl.ioctl(fd, DIFF, bytearray(16 + 16 * RANGES)),
                  lambda fd: fcntl.ioctl(fd, RESET))
        if "/.cow/" not in self.path:           # there, it is what it is for
            self.each(lambda fd: fcntl.ioctl(fd, COMMIT))

    def setlk(self):
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN):
            self.each(lambda fd: fcntl.lockf(fd, kind | fcntl.LOCK_NB))

    getlk = setlk

    def flock(self):
        for kind in (fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_UN):
            self.each(lambda fd: fcntl.flock(fd, kind | fcntl.LOCK_NB))

    def finish(self):
        for fd in self.fds:
            os.close(fd)


def check_sync_range(fd):
    if libc.sync_file_range(fd, ctypes.c_long(0), ctypes.c_long(0), 7) != 0:
        raise OSError(ctypes.get_errno(), "sync_file_range")


def served_operations():
    """Those of the table in the daemon's source."""
    source = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src/ops.c")
    with open(source) as file:
        table = re.search(r"struct fuse_lowlevel_ops table = \{(.*?)\};", file.read(), re.DOTALL)[1]
    return re.findall(r"^\s*\.(\w+) =", table, re.MULTILINE)


def fingerprint(path):
    """Everything about a file but when it was last read."""
    status = os.stat(path)
    return (sha(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_mode,
            status.st_uid, status.st_gid, status.st_nlink, status.st_blocks, extents(path),
            os.listxattr(path))


def test_every_operation_is_attempted():
    assert set(served_operations()) <= set(dir(Attempts))


@pytest.mark.parametrize("which", ["readonly", "writecopy", "writecopy for all", "readonly window",
                                   "writecopy window", "copy of a readwrite one"])
def test_no_operation_reaches_the_file(mnt, place, which):
    """Of a section that is readonly or writecopy, and none under .cow at all: by no operation that
    the daemon serves, by root, with all that can be done with it."""
    real = f"{place}/real"
    write(real, pattern("real", 4 * SIZE))
    write(f"{place}/decoy", b"decoy")
    os.sync()                                           # so that its extents are what they will be
    os.mkdir(mnt / "d")
    values = {} if "copy of" in which else {"protect": which.split()[0]}
    if "window" in which:
        values.update(offset=PAGE, length=SIZE)
    if "for all" in which:
        values.update(cow="section")
    make(mnt / "d/x", file=real, **values)
    path = mnt.cow("d/x") if "copy of" in which else mnt / "d/x"
    before = fingerprint(real)
    attempts = Attempts(path, mnt / "d", place)
    for name in served_operations():
        getattr(attempts, name)()
        assert fingerprint(real) == before, f"by {name}"
    attempts.finish()
    unused(mnt / "d/x")
    assert fingerprint(real) == before
    assert read(f"{place}/decoy") == b"decoy"
    assert attempts.done > 300
    if "window" not in which:
        assert read(mnt / "d/x") == read(real)
