# SPDX-License-Identifier: MIT
"""The worker is killed at every store to a record, and before and after every system call that
others see (../faults/points.h), one after the other, while a client does all that can be done and
knows what must come of it: no error, nothing lost, nothing twice, nothing left.

A *scene* is a part of what can be done, and leaves nothing behind. What is killed at is a *site*,
a place in the code with the calls that led there. Each scene is played once to learn which sites it
passes; then again for each of them, with the worker ending there. Sites that show only then,
because they are passed by a worker that goes on, are killed at in turn, after the death that led to
them."""

import errno
import fcntl
import os
import random
import stat
import struct
import time

import pytest

import util
from points import ANY, Points
from sections import COMMIT, PREFIX, RESET, key, make, patiently, set_keys
from util import (FALLOC_KEEP_SIZE, PAGE, RENAME_EXCHANGE, RENAME_NOREPLACE, View, eventually,
                  fallocate, link_fd, opened, pattern, punch, read, refused, renameat2, write)

LONG = os.environ.get("SECTIONFS_TEST_LONG") == "1"
SHORT_TIME = 7                                  # seconds a mode, of killing
both_modes = pytest.mark.parametrize("mode", ["passthrough", "cached"])

DIFF = 3 << 30 | 1040 << 16 | 0x5381
BIG = 80 * PAGE                                 # more than is copied for a view, see OPTIONS
OPTIONS = "size=64M,cow_copy_max=64k"
CREATE = os.O_CREAT | os.O_EXCL | os.O_RDWR


class Stage:
    """Where scenes are played: the mount, a folder outside of it, and another process."""

    def __init__(self, mnt, place):
        self.mnt, self.place = mnt, place
        self.child = mnt.child(names={"fcntl": fcntl})

    def __truediv__(self, name):
        return self.mnt / name

    def cow(self, name):
        return self.mnt.cow(name)

    def real(self, name, data=b""):
        write(f"{self.place}/{name}", data)
        return f"{self.place}/{name}"

    def file(self, name, data, **keys):
        """A section over a real file: the file's path."""
        real = self.real(f"real-{name}", data)
        make(self / name, file=real, **keys)
        return real

    def remove(self, *names):
        for name in names:
            patiently(os.unlink, self / name)


def identity(path):
    return os.stat(path).st_ino


# --- Names ------------------------------------------------------------------------------------

def names(at):
    os.mkdir(at / "d", 0o750)
    os.mkdir(at / "d/e")
    fd = os.open(at / "d/a", CREATE, 0o640)
    with refused(errno.EEXIST):
        os.open(at / "d/a", CREATE)
    os.write(fd, b"bytes of a")
    os.close(fd)
    long = "n" * 250
    os.link(at / "d/a", at / f"d/{long}")
    assert os.stat(at / "d/a").st_nlink == 2
    os.rename(at / f"d/{long}", at / "d/e/b")
    assert identity(at / "d/e/b") == identity(at / "d/a")
    os.rename(at / "d/e", at / "e")
    assert os.stat(at / "d").st_nlink == 2 and os.stat(at / "e").st_nlink == 2
    write(at / "e/c", b"bytes of c")
    with refused(errno.EEXIST):
        renameat2(at / "d/a", at / "e/c", RENAME_NOREPLACE)
    renameat2(at / "d/a", at / "e/c", RENAME_EXCHANGE)
    assert read(at / "d/a") == b"bytes of c" and read(at / "e/c") == b"bytes of a"
    renameat2(at / "e/c", at / f"e/{long}", RENAME_NOREPLACE)
    os.rename(at / "d/a", at / f"e/{long}")             # replaces
    assert read(at / f"e/{long}") == b"bytes of c" and read(at / "e/b") == b"bytes of a"
    assert os.stat(at / "e/b").st_nlink == 1
    assert os.listdir(at / "d") == []
    assert sorted(os.listdir(at / "e")) == ["b", long]
    with refused(errno.ENOTEMPTY):
        os.rmdir(at / "e")
    renameat2(at / "d", at / "e", RENAME_EXCHANGE)
    assert sorted(os.listdir(at / "d")) == ["b", long] and os.listdir(at / "e") == []
    os.unlink(at / "d/b")
    os.unlink(at / f"d/{long}")
    with refused(errno.ENOENT):
        os.unlink(at / "d/b")
    os.rename(at / "d", at / "e")                       # onto an empty directory
    assert os.listdir(at.mnt.path) == ["e"]
    os.rmdir(at / "e")


def other_kinds(at):
    target = "t" * 300
    os.symlink(target, at / "s")
    assert os.readlink(at / "s") == target and os.lstat(at / "s").st_size == 300
    os.mkfifo(at / "f", 0o600)
    assert stat.S_ISFIFO(os.stat(at / "f").st_mode)
    os.mknod(at / "n", stat.S_IFREG | 0o600)
    os.mknod(at / "c", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    assert os.stat(at / "c").st_rdev == os.makedev(1, 3)
    os.link(at / "f", at / "g")
    os.rename(at / "s", at / "f")
    assert os.stat(at / "g").st_nlink == 1
    assert sorted(os.listdir(at.mnt.path)) == ["c", "f", "g", "n"]
    at.remove("c", "f", "g", "n")


def unnamed(at):
    fd = os.open(at.mnt.path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, b"one")
    link_fd(fd, at / "a")
    with refused(errno.EEXIST):
        link_fd(fd, at / "a")
    os.write(fd, b"two")
    assert read(at / "a") == b"onetwo" and os.fstat(fd).st_nlink == 1
    os.unlink(at / "a")
    assert os.pread(fd, 10, 0) == b"onetwo" and os.fstat(fd).st_nlink == 0
    os.close(fd)
    fd = os.open(at.mnt.path, os.O_TMPFILE | os.O_EXCL | os.O_RDWR, 0o600)
    os.write(fd, b"never named")
    assert os.pread(fd, 20, 0) == b"never named"
    os.close(fd)


# --- Attributes -------------------------------------------------------------------------------

def attributes(at):
    write(at / "a", bytes(5000))
    os.chmod(at / "a", 0o4755)
    os.chown(at / "a", 12, 34)
    os.utime(at / "a", ns=(10 ** 18 + 1, 2 * 10 ** 18 + 2))
    st = os.stat(at / "a")
    assert (st.st_uid, st.st_gid, st.st_atime_ns, st.st_mtime_ns) == \
        (12, 34, 10 ** 18 + 1, 2 * 10 ** 18 + 2)
    assert st.st_mode == stat.S_IFREG | 0o755           # chown takes set-id bits
    os.truncate(at / "a", 3)
    os.truncate(at / "a", 7000)
    assert read(at / "a") == bytes(7000)
    values = {"user.small": b"v", "user.large": pattern("v", 3000)}
    for name, value in values.items():
        os.setxattr(at / "a", name, value, os.XATTR_CREATE)
        with refused(errno.EEXIST):
            os.setxattr(at / "a", name, value, os.XATTR_CREATE)
    os.setxattr(at / "a", "user.small", b"other", os.XATTR_REPLACE)
    assert os.getxattr(at / "a", "user.large") == values["user.large"]
    assert os.getxattr(at / "a", "user.small") == b"other"
    os.removexattr(at / "a", "user.large")
    with refused(errno.ENODATA):
        os.removexattr(at / "a", "user.large")
    assert [n for n in os.listxattr(at / "a") if not n.startswith(PREFIX)] == ["user.small"]
    os.setxattr(at.mnt.path, "user.top", b"x")
    os.removexattr(at.mnt.path, "user.top")
    os.removexattr(at / "a", "user.small")
    assert os.statvfs(at.mnt.path).f_bsize == PAGE
    at.remove("a")


def folders_hand_down(at):
    os.mkdir(at / "d")
    set_keys(at / "d", limit=8 * PAGE, resize="grow", delete="busy")
    write(at / "d/a", b"bytes")
    os.mkdir(at / "d/e")
    assert key(at / "d/a", "limit") == key(at / "d/e", "limit") == str(8 * PAGE)
    with opened(at / "d/a") as fd:
        with refused(errno.EFBIG):
            os.pwrite(fd, b"x", 8 * PAGE)
        with refused(errno.EBUSY):
            os.unlink(at / "d/a")
    assert key(at / "d/a", "resize") == "grow"
    at.remove("d/a")
    os.rmdir(at / "d/e")
    os.rmdir(at / "d")


# --- Bytes ------------------------------------------------------------------------------------

def bytes_of(at, name, real=None):
    """All that is done with bytes, on an empty section."""
    fd = os.open(at / name, os.O_RDWR)
    expected = bytearray()

    def check():
        assert os.pread(fd, 1 << 20, 0) == expected
        if real:
            assert read(real) == expected

    def put(offset, data):
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset:offset + len(data)] = data
    data = pattern(name, 3 * PAGE)
    assert os.pwrite(fd, data, 100) == len(data)
    put(100, data)
    check()
    appending = os.open(at / name, os.O_WRONLY | os.O_APPEND)
    for n in range(3):
        line = b"line %d\n" % n * 20
        assert os.write(appending, line) == len(line)
        put(len(expected), line)
    os.close(appending)
    check()
    os.ftruncate(fd, 2 * PAGE + 50)
    del expected[2 * PAGE + 50:]
    os.ftruncate(fd, 5 * PAGE)
    put(5 * PAGE - 1, b"\0")
    check()
    fallocate(fd, 0, 4 * PAGE, 2 * PAGE)
    put(6 * PAGE - 1, b"\0")
    fallocate(fd, FALLOC_KEEP_SIZE, 6 * PAGE, PAGE)
    punch(fd, PAGE, PAGE)
    put(PAGE, bytes(PAGE))
    check()
    view = View(fd, 6 * PAGE)
    view.write(3 * PAGE + 5, b"stored")
    put(3 * PAGE + 5, b"stored")
    view.sync()
    assert view.read(0, 6 * PAGE) == expected
    view.close()
    check()
    os.fsync(fd)
    os.fdatasync(fd)
    assert os.lseek(fd, 0, os.SEEK_END) == len(expected)
    assert os.lseek(fd, 0, os.SEEK_DATA) == 0
    with opened(at / "to", CREATE) as to:
        assert os.copy_file_range(fd, to, 2 * PAGE, 0, PAGE) == 2 * PAGE
        assert os.pread(to, 4 * PAGE, 0) == bytes(PAGE) + expected[:2 * PAGE]
        assert os.copy_file_range(to, fd, PAGE, PAGE, 3 * PAGE) == PAGE
        put(3 * PAGE, expected[:PAGE])
    check()
    os.close(fd)
    assert os.stat(at / name).st_size == len(expected)
    fd = os.open(at / name, os.O_RDWR | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    at.remove("to")


def page_bytes(at):
    os.mknod(at / "p", stat.S_IFREG | 0o600)
    bytes_of(at, "p")
    at.remove("p")


def file_bytes(at):
    bytes_of(at, "f", at.file("f", b""))
    at.remove("f")


def limited_bytes(at):
    """Handles whose writes come to the daemon though mappings do not."""
    make(at / "l", limit=40 * PAGE)
    bytes_of(at, "l")
    at.remove("l")
    make(at / "c", size=4 * PAGE, commit="commit", resize="fixed")
    with opened(at / "c") as fd:
        os.pwrite(fd, b"end", 4 * PAGE - 3)
        for size in 0, 5 * PAGE:
            with refused(errno.EPERM):
                os.ftruncate(fd, size)
        assert os.pread(fd, 10, 4 * PAGE - 3) == b"end"
    at.remove("c")


def window(at):
    data = pattern("w", 16 * PAGE)
    real = at.file("w", data, offset=3 * PAGE + 100, length=2 * PAGE + 50)
    first, end = 3 * PAGE + 100, 5 * PAGE + 150
    with opened(at / "w") as fd:
        assert os.pread(fd, 10 * PAGE, 0) == data[first:end]
        assert os.pwrite(fd, b"in", PAGE) == 2
        punch(fd, 0, 50)
        view = View(fd, PAGE)
        view.write(60, b"stored")
        view.sync()
        view.close()
    expected = bytearray(data)
    expected[first + PAGE:first + PAGE + 2] = b"in"
    expected[first:first + 50] = bytes(50)
    expected[first + 60:first + 66] = b"stored"
    assert read(real) == expected
    at.remove("w")


def unlinked_and_open(at):
    write(at / "u", b"gone")
    fd, path = os.open(at / "u", os.O_RDWR), os.open(at / "u", os.O_PATH)
    write(at / "v", b"another")
    os.rename(at / "v", at / "u")
    assert os.pread(fd, 10, 0) == b"gone" and read(at / "u") == b"another"
    os.pwrite(fd, b"still", 4)
    again = os.open(f"/proc/self/fd/{path}", os.O_RDONLY)
    assert os.read(again, 20) == b"gonestill"
    for one in again, path, fd:
        os.close(one)
    at.remove("u")


def texts(at):
    write(at / "a", b"bytes")
    with opened(at / ".info/a", os.O_RDONLY) as fd, opened(at / ".stats", os.O_RDONLY) as stats:
        assert b"size: 5\n" in os.pread(fd, 4096, 0)
        assert os.pread(stats, 4096, 0) == os.pread(stats, 4096, 0) != b""
    assert ".info" not in os.listdir(at.mnt.path)
    assert os.listdir(at / ".info") == ["a"]
    at.remove("a")


# --- Copy-on-write ----------------------------------------------------------------------------

def written_view(at, path, base):
    """All that is done with a view's bytes."""
    fd = os.open(path, os.O_RDWR)
    expected = bytearray(base)

    def put(offset, data):
        expected.extend(bytes(max(0, offset + len(data) - len(expected))))
        expected[offset:offset + len(data)] = data

    def check():
        assert os.pread(fd, 1 << 21, 0) == expected
    for offset, data in ((PAGE + 10, b"some"), (5 * PAGE, pattern("x", 2 * PAGE)), (7, b"first")):
        assert os.pwrite(fd, data, offset) == len(data)
        put(offset, data)
    check()
    view = View(fd, len(base))
    view.write(3 * PAGE + 9, b"stored")
    put(3 * PAGE + 9, b"stored")
    view.sync()
    view.close()
    check()
    os.ftruncate(fd, 4 * PAGE + 10)
    del expected[4 * PAGE + 10:]
    check()
    os.ftruncate(fd, len(base))
    put(len(base) - 1, b"\0")
    check()
    punch(fd, PAGE, PAGE)
    put(PAGE, bytes(PAGE))
    fallocate(fd, 0, len(base), PAGE)
    put(len(base) + PAGE - 1, b"\0")
    check()
    os.fchmod(fd, 0o640)
    os.utime(fd, ns=(10 ** 18, 10 ** 18))
    again = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND)
    assert os.write(again, b"appended") == 8
    os.close(again)
    put(len(expected), b"appended")
    check()
    assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o640
    assert int(os.getxattr(fd, "user.section.private")) > 0
    return fd


def view_of(at, name, base):
    """Written, reset, thrown away; then one that is committed."""
    fd = written_view(at, at.cow(name), base)
    os.fsync(fd)
    answer = bytearray(1040)
    fcntl.ioctl(fd, DIFF, answer)
    assert struct.unpack_from("=QI", answer)[1] > 0
    fcntl.ioctl(fd, RESET)
    assert os.pread(fd, 1 << 21, 0) == base
    os.pwrite(fd, b"again", 3)
    assert os.pread(fd, 5, 3) == b"again"
    os.close(fd)
    assert read(at / name) == base
    with opened(at.cow(name), os.O_RDONLY) as one, opened(at.cow(name)) as two:
        os.pwrite(two, b"two", 2 * PAGE)
        assert os.pread(one, 1 << 21, 0) == base
        os.fsync(two)
        fcntl.ioctl(two, COMMIT)
        os.pwrite(two, b"own", 0)
    expected = bytearray(base)
    expected[2 * PAGE:2 * PAGE + 3] = b"two"
    assert read(at / name) == expected


def view_of_small(at):
    base = pattern("small", 10 * PAGE)
    write(at / "s", base)
    view_of(at, "s", base)
    at.remove("s")


def view_of_large(at):
    base = pattern("large", BIG)
    write(at / "b", base)
    view_of(at, "b", base)
    at.remove("b")


def view_of_file(at):
    base = pattern("file", BIG)
    real = at.file("f", base)
    view_of(at, "f", base)
    assert read(real)[2 * PAGE:][:3] == b"two" and len(read(real)) == BIG
    at.remove("f")


def many_pieces(at):
    """More runs of private pages than the list in the overlay's file takes."""
    make(at / "m", size=2 * BIG)
    with opened(at.cow("m")) as fd:
        for n in range(0, 20, 2):
            os.pwrite(fd, b"%02d" % n, n * PAGE)
        os.ftruncate(fd, 9 * PAGE)
        os.ftruncate(fd, 20 * PAGE)
        for n in range(0, 20, 2):
            assert os.pread(fd, 2, n * PAGE) == (b"%02d" % n if n < 9 else b"\0\0")
    at.remove("m")


def writecopy(at):
    base = pattern("wc", 8 * PAGE)
    for cow in "open", "section":
        at.file("wc", base, protect="writecopy", cow=cow)
        one, two = os.open(at / "wc", os.O_RDWR), os.open(at / "wc", os.O_RDWR)
        os.pwrite(one, b"one", PAGE)
        assert os.pread(two, 3, PAGE) == (base[PAGE:PAGE + 3] if cow == "open" else b"one")
        os.ftruncate(two, 3 * PAGE)
        assert os.fstat(one).st_size == (8 * PAGE if cow == "open" else 3 * PAGE)
        os.close(one)
        os.close(two)
        patiently(lambda: set_keys(at / "wc", protect="readonly"))
        assert read(at / "wc") == base
        at.remove("wc")


def based(at):
    base = pattern("base", 8 * PAGE)
    write(at / "base", base)
    make(at / "copy", base="base", protect="writecopy", cow="section")
    make(at / "over", base="copy", protect="writecopy", cow="open")
    with opened(at / "copy") as copy:
        os.pwrite(copy, b"copy", 0)
        with opened(at / "over") as over:
            assert os.pread(over, 8 * PAGE, 0)[4:] == base[4:]
            os.pwrite(over, b"over", PAGE)
            assert os.pread(over, 4, PAGE) == b"over"
        assert os.pread(copy, 8 * PAGE, 0) == b"copy" + base[4:]
    assert read(at / "base") == base
    at.remove("base")
    assert read(at / "copy") == base
    at.remove("over", "copy")


# --- Life and locks ---------------------------------------------------------------------------

def vanished(path):
    eventually(lambda: not os.path.lexists(path), 30, "a temporary section that stays")


def temporary(at):
    fd = os.open(at / "t", CREATE)
    set_keys(at / "t", lifetime="temporary")
    os.write(fd, bytes(PAGE))
    os.link(at / "t", at / "t2")
    other = os.open(at / "t2", os.O_RDWR)
    os.close(fd)
    view = View(other, PAGE)
    os.close(other)
    view.write(0, b"still there")
    time.sleep(0.005)
    assert os.path.exists(at / "t")
    view.close()
    vanished(at / "t")
    assert not os.path.lexists(at / "t2")
    at.file("tf", b"bytes", lifetime="temporary")
    assert read(at / "tf") == b"bytes"
    vanished(at / "tf")


def temporary_views(at):
    make(at / "base", size=4 * PAGE, lifetime="temporary")
    fd = os.open(at.cow("base"), os.O_RDWR)
    os.pwrite(fd, b"mine", 0)
    os.pwrite(fd, b"more", PAGE)
    assert os.path.exists(at / "base")
    os.close(fd)
    vanished(at / "base")


def keys(at):
    write(at / "k", bytes(4 * PAGE))
    for name, values in {"protect": ("readonly", "readwrite"), "commit": ("commit", "reserve"),
                         "resize": ("fixed", "grow", "free"), "delete": ("busy", "posix"),
                         "limit": ("65536", "0"), "lifetime": ("temporary", "permanent")}.items():
        for value in values:
            patiently(lambda: set_keys(at / "k", **{name: value}))
            assert key(at / "k", name) == value
    set_keys(at / "k", protect="readonly")
    with refused(errno.EACCES):
        os.open(at / "k", os.O_RDWR)
    with refused(errno.EINVAL):
        set_keys(at / "k", protect="nonsense")
    # Open, and defined then: another inode, and no longer the empty one.
    with opened(at / "r", CREATE) as fd:
        set_keys(fd, file=at.real("real-r", b"defined"))
        assert key(at / "r", "kind") == "file"
        assert read(at / "r") == b"defined"
    at.remove("k", "r")


def keys_that_are_created(at):
    """Once each: what an earlier worker has done is not found there by whoever asked for it."""
    def create(name, key_, value):
        os.setxattr(at / name, PREFIX + key_, value.encode(), os.XATTR_CREATE)
        with refused(errno.EEXIST):
            os.setxattr(at / name, PREFIX + key_, value.encode(), os.XATTR_CREATE)
    real = os.fspath(at.real("real-k", bytes(3 * PAGE)))
    for name in "f", "b", "w":
        os.mknod(at / name, stat.S_IFREG | 0o600)
    create("f", "file", real)
    create("b", "base", "f")
    create("w", "offset", str(PAGE))
    os.setxattr(at / "w", PREFIX + "length", str(PAGE).encode(), os.XATTR_REPLACE)
    create("w", "file", real)
    assert [os.stat(at / name).st_size // PAGE for name in "fbw"] == [3, 3, 1]
    at.remove("b", "f", "w")


def committed(at):
    make(at / "c", size=4 * PAGE)
    set_keys(at / "c", commit="commit")
    assert os.stat(at / "c").st_blocks * 512 == 4 * PAGE
    at.remove("c")


OFD_LOCK = struct.Struct("@hhqqi4x")
F_OFD_SETLK = 37


def ofd_lock(fd, kind, start, length):
    fcntl.fcntl(fd, F_OFD_SETLK, OFD_LOCK.pack(kind, os.SEEK_SET, start, length, 0))


def locks(at):
    write(at / "l", bytes(100))
    at.file("m", bytes(100))
    for name in "l", "m":
        at.child.do("fd = os.open(path, os.O_RDWR)\n"
                    "fcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)", path=at / name)
        fd = os.open(at / name, os.O_RDWR)
        with refused(errno.EAGAIN, errno.EACCES):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 30)
        at.child.begin("fcntl.lockf(fd, fcntl.LOCK_EX, 10, 30)")    # waits
        time.sleep(0.002)
        fcntl.lockf(fd, fcntl.LOCK_UN, 5, 30)
        fcntl.lockf(fd, fcntl.LOCK_UN)
        at.child.finish()
        at.child.do("fcntl.lockf(fd, fcntl.LOCK_UN)")
        ofd_lock(fd, fcntl.F_WRLCK, 0, 8)
        with refused(errno.EAGAIN, errno.EACCES):
            at.child.do("fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 7)")
        ofd_lock(fd, fcntl.F_UNLCK, 0, 0)
        at.child.do("fcntl.flock(fd, fcntl.LOCK_SH)")
        with refused(errno.EAGAIN):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(fd, fcntl.LOCK_SH)
        at.child.do("fcntl.flock(fd, fcntl.LOCK_UN)")
        at.child.begin("fcntl.flock(fd, fcntl.LOCK_EX)")
        time.sleep(0.002)
        os.close(fd)                                    # unlocks
        at.child.finish()
        at.child.do("fcntl.lockf(fd, fcntl.LOCK_EX)\nos.close(fd)")
        with opened(at / name) as fd:                   # that has unlocked, too
            patiently(fcntl.flock, fd, fcntl.LOCK_EX)
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    at.remove("l", "m")


# --- Going on ---------------------------------------------------------------------------------

def all_at_once(at):
    """Something of every kind is there, and in use, when the worker ends."""
    os.setxattr(at.mnt.path, "user.x", b"root")
    os.mkdir(at / "d")
    os.symlink("s" * 200, at / "d/link")
    write(at / "page", pattern("page", 8 * PAGE))
    real = at.file("file", pattern("real", BIG))
    page, file = os.open(at / "page", os.O_RDWR), os.open(at / "file", os.O_RDWR)
    small, large = os.open(at.cow("page"), os.O_RDWR), os.open(at.cow("file"), os.O_RDWR)
    os.pwrite(small, b"mine", PAGE)
    os.pwrite(large, b"mine", 50 * PAGE)
    at.child.do("fd = os.open(path, os.O_RDWR)\n"
                "fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)\nfcntl.flock(fd, fcntl.LOCK_EX)",
                path=at / "page")
    nameless = os.open(at.mnt.path, os.O_TMPFILE | os.O_RDWR)
    os.write(nameless, b"unnamed")
    temporary = os.open(at / "t", CREATE)
    set_keys(at / "t", lifetime="temporary")
    text = os.open(at / ".info/page", os.O_RDONLY)
    said = os.pread(text, 4096, 0)
    os.mkdir(at / "d/e")                                # the one to die at
    assert os.pread(page, 1 << 20, 0) == pattern("page", 8 * PAGE)
    expected = bytearray(pattern("page", 8 * PAGE))
    expected[PAGE:PAGE + 4] = b"mine"
    assert os.pread(small, 1 << 20, 0) == expected
    expected = bytearray(pattern("real", BIG))
    expected[50 * PAGE:50 * PAGE + 4] = b"mine"
    assert os.pread(large, 1 << 20, 0) == expected
    assert os.pread(nameless, 20, 0) == b"unnamed" and os.pread(text, 4096, 0) == said
    assert os.readlink(at / "d/link") == "s" * 200 and os.listdir(at / "d/e") == []
    assert os.getxattr(at.mnt.path, "user.x") == b"root" and os.path.exists(at / "t")
    with refused(errno.EAGAIN, errno.EACCES):
        fcntl.lockf(page, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 9)
    with refused(errno.EAGAIN):
        fcntl.flock(page, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.pwrite(file, b"!", 0)
    assert read(real)[:2] == b"!" + pattern("real", BIG)[1:2]
    at.child.do("os.close(fd)")
    for fd in page, file, small, large, nameless, temporary, text:
        os.close(fd)
    vanished(at / "t")
    os.removexattr(at.mnt.path, "user.x")
    os.unlink(at / "d/link")
    os.rmdir(at / "d/e")
    os.rmdir(at / "d")
    at.remove("page", "file")


SCENES = [names, other_kinds, unnamed, attributes, folders_hand_down, page_bytes, file_bytes,
          limited_bytes, window, unlinked_and_open, texts, view_of_small, view_of_large,
          view_of_file, many_pieces, writecopy, based, temporary, temporary_views, keys,
          keys_that_are_created, committed, locks, all_at_once]


# --- Killing ----------------------------------------------------------------------------------

AT_ONCE = 8                 # deaths in one playing, far from each other


class Theatre:
    """One mount with kill points, and what has been found out about them."""

    def __init__(self, mnt, place, points):
        self.mnt, self.points = mnt, points
        self.stage = Stage(mnt, place)
        self.before = mnt.stats()
        self.sites = {}             # site: how often it is passed
        self.killed = set()
        self.kills = self.rounds = 0

    def play(self, scene, *kills):
        """Once, with the worker ending at these, (site, at which time from the one before). Those
        that it ended at, and the sites that were never passed before: [(site, times, after how
        many of the kills)]."""
        deaths, seen = self.mnt.stats()["deaths"], self.points.seen()
        self.points.arm(*kills)
        try:
            scene(self.stage)
            died = self.points.disarm()
            self.mnt.settled(self.before)
            assert os.listdir(self.mnt.path) == []
            deaths = self.mnt.stats()["deaths"] - deaths
            # Another thread of a worker that is dying may pass the next point.
            assert deaths == died or kills[0][0] == ANY and 0 < deaths < died
            util.run(self.mnt.command[0], "--check-registry", self.mnt.path)
        except BaseException as error:
            ended = self.points.disarm()
            error.add_note(f"in {scene.__name__}, the worker having ended at {ended} of these:\n" +
                           "".join(f" at time {time} at\n{self.points.describe(site)}"
                                   for site, time in kills))
            raise
        self.kills += died
        self.rounds += 1
        self.killed |= {site for site, _ in kills[:died]}
        new = []
        if self.points.seen() != seen:
            new = [entry for entry in self.points.sites() if entry[0] not in self.sites]
            self.sites.update({site: times for site, times, _ in new})
        return kills[:died], new

    def learn(self):
        """Which sites each scene is the first to pass: [(scene, [site, ...])]."""
        return [(scene, [site for site, _, _ in self.play(scene)[1]]) for scene in SCENES]

    def missed(self):
        return [site for site in self.sites if site not in self.killed]

    def report(self):
        """A place counts once, whatever the calls that led there."""
        def places(sites):
            return {self.points.frames[site][0] for site in sites if site != ANY}
        alive = places(self.sites) - places(self.killed)
        print(f"{len(self.sites)} sites, at {len(self.missed())} of them no death; "
              f"{len(places(self.sites))} places, at {len(alive)} of them no death; "
              f"{self.kills} deaths in {self.rounds} scenes")
        if LONG:
            print("".join(self.points.describe(site) for site in self.missed()
                          if self.points.frames[site][0] in alive))


@pytest.fixture
def theatre(faulty, place):  # noqa: F811
    def make_theatre(mode):
        points = Points(f"{place}/points", os.environ["SECTIONFS_FAULTS"])
        mnt = faulty(mode, OPTIONS, SECTIONFS_POINTS=points.path)
        if mode == "passthrough" and mnt.stats()["mode"] != "passthrough":
            pytest.skip(f"no passthrough: {mnt.stats().get('mode_reason')}")
        if not points.instrumented:
            pytest.skip("the compiler of this build does not tell of stores")
        return Theatre(mnt, place, points)
    return make_theatre


def seeded():
    seed = int(os.environ.get("SECTIONFS_TEST_SEED", random.randrange(1 << 20)))
    print("SECTIONFS_TEST_SEED =", seed)
    return random.Random(seed)


def spread(sites):
    """In lists of which each has its sites in order, and far from each other."""
    step = -(-len(sites) // AT_ONCE)
    return [sites[n::step] for n in range(step)]


@both_modes
def test_killed_at_each_site(theatre, mode, session):
    """At some of them, in the short run; in the long one at all, each once where it is first
    passed and once more later, and after these deaths at all that only then shows."""
    session.watchdog.arm(7200 if LONG else 90)
    chance, end = seeded(), time.monotonic() + SHORT_TIME
    theatre = theatre(mode)
    learned = theatre.learn()
    plan = [(scene, [(site, 1) for site in sites]) for scene, own in learned if own
            for sites in spread(own)]
    plan += [(scene, [(site, chance.randint(2, theatre.sites[site]))]) for scene, own in learned
             for site in own if theatre.sites[site] > 1]
    chance.shuffle(plan)
    ways = {}               # site: how to come to it once more
    tries = 3 if LONG else 0
    while plan and (LONG or time.monotonic() < end):
        scene, kills = plan.pop()
        died, new = theatre.play(scene, *kills)
        if len(died) < len(kills) and len(kills) > 1:
            # What it does by itself, and when, is not always the same.
            ways.update({site: (scene, [(site, at)]) for site, at in kills[len(died):]})
        for site, _, after in new:
            plan.append((scene, [*kills[max(0, after - 1):after], (site, 1)]))
            ways[site] = scene, [*kills[:after], (site, 1)]
        if not plan and tries > 0:
            tries -= 1
            plan += [ways[site] for site in theatre.missed() if site in ways]
    theatre.report()


def test_killed_while_memory_is_committed(theatre):
    """Whoever was told that it is committed has the memory."""
    chance, theatre = seeded(), theatre("cached")
    theatre.play(committed)
    count = sum(theatre.sites.values())
    for point in range(1, count + 1) if LONG else chance.sample(range(1, count + 1), 30):
        theatre.play(committed, (ANY, point))


def test_killed_while_a_key_is_created(theatre, session):
    session.watchdog.arm(3600 if LONG else 90)
    chance, theatre = seeded(), theatre("cached")
    theatre.play(keys_that_are_created)
    count = sum(theatre.sites.values())
    for point in range(1, count + 1) if LONG else chance.sample(range(1, count + 1), 120):
        theatre.play(keys_that_are_created, (ANY, point))


@both_modes
def test_killed_one_after_the_other(theatre, mode, session):
    """Whoever goes on dies in turn, each a little later than the one before."""
    session.watchdog.arm(3600 if LONG else 90)
    chance = seeded()
    theatre = theatre(mode)
    theatre.play(all_at_once)
    for _ in range(300 if LONG else 3):
        first, step = chance.randint(1, 5000), chance.randint(1, 60)
        theatre.play(all_at_once, (ANY, first), *[(ANY, n * step) for n in range(1, 16)])
    theatre.report()


@both_modes
def test_killed_while_it_starts(faulty, mode, place, session):
    """The first worker, at each point before it serves, and at some where it does so in memory that
    nobody has used yet."""
    session.watchdog.arm(3600 if LONG else 90)
    chance = seeded()
    points = Points(f"{place}/points", os.environ["SECTIONFS_FAULTS"])

    def start():
        mnt = faulty(mode, OPTIONS, SECTIONFS_POINTS=points.path)
        assert points.instrumented or pytest.skip("this build does not tell of stores")
        return mnt

    def stop(mnt):
        assert mnt.stop() == []
        mnt.keeper = None
    stop(start())
    count = sum(times for _, times, _ in points.sites())
    for point in [*range(1, count), *range(count, 1000, 4)] if LONG else \
            [*chance.sample(range(1, count), 5), *chance.sample(range(count, 1000), 5)]:
        points.arm((ANY, point))
        mnt = start()
        try:
            names(Stage(mnt, place))
        except BaseException as error:
            error.add_note(f"killed at point {point}")
            raise
        died = points.disarm()
        assert mnt.stats()["deaths"] == died
        util.run(mnt.command[0], "--check-registry", mnt.path)
        stop(mnt)
    print(f"{count} points")
