# SPDX-License-Identifier: MIT
"""The same calls on sectionfs and on the filesystem it stands for: results and errors are equal.

The calls are in compare_cases.py, and so are the differences that are meant to be. Each case is
a few lines of Python in a World: every call in them is recorded with its result or error, once on
the mount and once on the reference, and the two records must be the same. The kinds of World are

    page        sections in a directory of the mount        a tmpfs
    file        sections over files on a disk               plain files on the same disk
    cow         views of page-file-backed sections          copies on a tmpfs, one for each open
    cowfile     views of file-backed sections               copies on the disk, one for each open
    cowcopy     as cow, small enough to be copies           as cow

SECTIONFS_TEST_CASES: a pattern of names ("open: *"), to try those alone.
"""

import contextlib
import ctypes
import errno
import fcntl
import fnmatch
import functools
import hashlib
import mmap
import os
import re
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import textwrap
import time

import pytest

import compare_cases
import util
from util import check, libc

libc.mlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.munlock.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
libc.lseek.restype = libc.telldir.restype = ctypes.c_long
libc.lseek.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
libc.ftruncate.argtypes = [ctypes.c_int, ctypes.c_long]
libc.truncate.argtypes = [ctypes.c_char_p, ctypes.c_long]
libc.opendir.restype = libc.readdir.restype = ctypes.c_void_p
libc.telldir.argtypes = libc.rewinddir.argtypes = libc.closedir.argtypes = [ctypes.c_void_p]
libc.readdir.argtypes = [ctypes.c_void_p]
libc.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
libc.syscall.restype = ctypes.c_long
libc.sync_file_range.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_long, ctypes.c_uint]

TICK = 0.012                    # longer than the kernel's coarse clock takes to move on
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
SYS_faccessat2 = 439            # libc's own function does some flags by itself


def say(value):
    """A result as text that does not depend on where it came from."""
    if isinstance(value, (bytes, bytearray)):
        if len(value) <= 48:
            return repr(bytes(value))
        return f"{len(value)} bytes {hashlib.sha256(value).hexdigest()[:12]}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(say, value)) + "]"
    return str(value)


class Descriptor(int):
    """Numbers differ from one side to the other; that there is one does not."""
    def __str__(self):
        return "a descriptor"
    __repr__ = __str__


class Mapping:
    def __init__(self, address, length):
        self.address, self.length = address, length

    def __str__(self):
        return "a mapping"


class Handle(int):
    def __str__(self):
        return "a handle"


class Died(Exception):
    def __init__(self, status):
        self.status = status


def path_bytes(path):
    return os.fsencode(path)


def recorded(method):
    """A call that a case can make: it is noted with its outcome, and never raises an OSError
    (but inside of another one, such as elsewhere)."""
    @functools.wraps(method)
    def call(self, *arguments, **options):
        if self.depth:
            return method(self, *arguments, **options)
        self.depth += 1
        result = None
        try:
            result = method(self, *arguments, **options)
            outcome = say(result)
        except OSError as error:
            outcome = errno.errorcode.get(error.errno, str(error.errno))
        except ValueError as error:             # Python's own word for EBADF
            assert "negative" in str(error), error
            outcome = "EBADF"
        except OverflowError:
            outcome = "beyond C"
        except Died as death:
            outcome = f"status {death.status}"
        finally:
            self.depth -= 1
        told = ", ".join([say(a) if not callable(a) else "..." for a in arguments]
                         + [f"{k}={say(v)}" for k, v in options.items()])
        self.record.append((f"{method.__name__}({told})", outcome))
        if result is None and method.__name__ in World.MAKES_DESCRIPTOR:
            return Descriptor(-1)
        if result is None and method.__name__ == "map":
            return Mapping(0, 0)
        return result
    call.recorded = True
    return call


class World:
    """One side of a comparison. The methods are named and behave as the system calls are."""

    MAKES_DESCRIPTOR = {"open", "dup", "inotify", "opendir"}

    def __init__(self, side, kind, top, disk, users):
        """top: the mount, or the reference directory; disk: where files for sections may lie."""
        self.side, self.kind, self.top, self.disk = side, kind, top, disk
        self.users = dict(users, root=util.User("root", 0, 0))
        self.names = {name: getattr(self, name) for name in dir(World)
                      if getattr(getattr(World, name), "recorded", False)}
        self.names.update({name: getattr(os, name) for name in dir(os) if name.startswith(
            ("O_", "SEEK_", "RWF_", "F_OK", "R_OK", "W_OK", "X_OK", "XATTR_", "POSIX_FADV_"))})
        self.names.update({name: getattr(stat, name) for name in dir(stat) if name.startswith("S_")})
        self.names.update({name: getattr(fcntl, name) for name in dir(fcntl)
                           if name.startswith(("F_", "LOCK_"))})
        self.names.update({name: getattr(mmap, name) for name in dir(mmap)
                           if name.startswith(("MAP_", "PROT_", "MADV_"))})
        self.names.update({name: getattr(select, name) for name in dir(select)
                           if name.startswith("POLL")})
        self.names.update(
            P=util.PAGE, pattern=util.pattern, NOW=NOW, OMIT=OMIT, USER=users["user"].uid,
            OTHER=users["other"].uid,
            USERGROUP=users["user"].gid, OTHERGROUP=users["other"].gid, kind=kind,
            KEEP=1, PUNCH=2, COLLAPSE=8, ZERO=16, INSERT=32, UNSHARE=64,
            NOREPLACE=1, EXCHANGE=2, WHITEOUT=4, MAX=(1 << 63) - 1, PATHFD="/proc/self/fd/")

    def perform(self, number, code):
        """Runs one case and returns its record."""
        self.record, self.depth = [], 0
        self.descriptors, self.maps, self.handles, self.pids = set(), [], [], []
        self.last_change, self.cow_files = {}, set()
        name = f"{self.kind}{number}"
        self.home = f"{self.top}/{name}"
        self.files = f"{self.disk}/{self.side}{name}"
        self.copies = f"{self.disk if self.kind == 'cowfile' else self.top}/copies-{self.side}{name}"
        os.mkdir(self.home)
        os.mkdir(self.files)
        if self.side == "reference":
            os.mkdir(self.copies)
        self.cow = self.kind.startswith("cow")
        where = self.home
        if self.cow and self.side == "mount":
            where = f"{self.top}/.cow/{name}"
        os.chdir(where)
        try:
            exec(code, dict(self.names))
        finally:
            self._clean()
        return self.record

    def _clean(self):
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        os.setgroups([])
        os.umask(0o022)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        for mapping in self.maps:
            if mapping.address:
                libc.munmap(mapping.address, mapping.length)
        for pid in self.pids:
            util.kill(pid)
            os.waitpid(pid, 0)
        for handle in self.handles:
            libc.closedir(handle)
        for fd in self.descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)
        os.chdir("/")
        for path in (self.home, self.files, self.copies):
            shutil.rmtree(path, ignore_errors=True)

    def _keep(self, fd):
        self.descriptors.add(fd)
        return Descriptor(fd)

    def _stand_in(self, path):
        """The path that a call on path is to use. On the reference, each call on a
        copy-on-write file has a copy of its own, as each has a view on the mount."""
        if self.side == "reference" and self.cow_files and not os.fspath(path).endswith("/"):
            real = os.path.realpath(os.fsdecode(path))
            if real in self.cow_files:
                copy = f"{self.copies}/{len(os.listdir(self.copies))}"
                with self._as_root():
                    self._copy(real, copy)
                return copy
        return path

    @staticmethod
    @contextlib.contextmanager
    def _as_root():
        user, group = os.getresuid(), os.getresgid()
        os.setresuid(-1, 0, -1)
        os.setresgid(-1, 0, -1)
        try:
            yield
        finally:
            os.setresgid(*group)
            os.setresuid(*user)

    @staticmethod
    def _copy(source, target):
        with util.opened(source, os.O_RDONLY | os.O_NOATIME) as a, \
                util.opened(target, os.O_RDWR | os.O_CREAT | os.O_EXCL) as b:
            status = os.fstat(a)
            end = status.st_size
            os.ftruncate(b, end)
            position = 0
            while position < end:
                try:
                    position = os.lseek(a, position, os.SEEK_DATA)
                except OSError:
                    break
                stop = os.lseek(a, position, os.SEEK_HOLE)
                while position < stop:
                    position += os.pwrite(b, os.pread(a, min(stop - position, 1 << 20), position),
                                          position)
            os.fchown(b, status.st_uid, status.st_gid)
            os.fchmod(b, stat.S_IMODE(status.st_mode))
            os.utime(b, ns=(status.st_atime_ns, status.st_mtime_ns))

    # --- Making what a case starts from: not recorded, must succeed ---

    def _base(self, name, content, kind, mode, owner):
        """content: bytes, or text such as "D..D5": pages of data and holes, then 5 bytes."""
        plain = f"{self.home}/{name}"
        where = plain
        over_file = kind in ("file", "cowfile") and self.side == "mount"
        if over_file:
            where = f"{self.files}/{len(os.listdir(self.files))}"
        if kind.startswith("cow") and self.side == "reference":
            mode |= (mode & 0o444) >> 1                 # who may read a section may write a view
        fd = os.open(where, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if isinstance(content, str):
            pages, tail = re.fullmatch(r"([D.]*)(\d*)", content).groups()
            for number, letter in enumerate(pages):
                if letter == "D":
                    os.pwrite(fd, util.pattern(number), number * util.PAGE)
            os.ftruncate(fd, len(pages) * util.PAGE)
            if tail:
                os.pwrite(fd, util.pattern("tail", int(tail)), len(pages) * util.PAGE)
        else:
            util.write_all(fd, content)
        os.close(fd)
        if over_file:
            os.close(os.open(plain, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            os.setxattr(plain, "user.section.file", os.fsencode(where))
        os.chown(plain, owner, owner)
        os.chmod(plain, mode)
        os.utime(plain, ns=(1_000_000_001, 2_000_000_002))
        if kind.startswith("cow"):
            if self.side == "reference":
                self.cow_files.add(os.path.realpath(plain))
            return f"{self.top}/.cow/{os.path.basename(self.home)}/{name}" \
                if self.side == "mount" else plain
        return plain

    @recorded
    def base(self, name, content=b"", mode=0o644, owner=0):
        self._base(name, content, self.kind, mode, owner)

    @recorded
    def outside(self, content):
        """A descriptor of a plain file that is on neither side."""
        path = f"{self.files}/outside"
        util.write(path, content)
        return self._keep(os.open(path, os.O_RDWR))

    def _open_kind(self, kind, name, content, flags):
        if kind == "outside":
            path = f"{self.files}/{name}"
            util.write(path, content)
        else:
            path = self._base(name, content, kind, 0o644, 0)
        return self._keep(os.open(self._stand_in(path), flags))

    @recorded
    def open_kind(self, kind, name, content, flags=os.O_RDWR):
        """Makes a file of a kind other than the world's, and opens it."""
        return self._open_kind(kind, name, content, flags)

    # --- Opening, reading, writing ---

    @recorded
    def open(self, path, flags=os.O_RDWR, mode=0o666, dir_fd=None):
        return self._keep(os.open(self._stand_in(path), flags | os.O_CLOEXEC, mode, dir_fd=dir_fd))

    @recorded
    def reopen(self, fd, flags=os.O_RDWR):
        return self._keep(os.open(f"/proc/self/fd/{fd + 0}", flags | os.O_CLOEXEC))

    @recorded
    def close(self, fd):
        self.descriptors.discard(fd)
        os.close(fd)

    @recorded
    def dup(self, fd):
        return self._keep(os.dup(fd))

    @recorded
    def pipe(self):
        a, b = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        return self._keep(a), self._keep(b)

    @recorded
    def read(self, fd, count):
        return os.read(fd, count)

    @recorded
    def write(self, fd, data):
        return os.write(fd, data)

    @recorded
    def pread(self, fd, count, offset):
        return os.pread(fd, count, offset)

    @recorded
    def pwrite(self, fd, data, offset):
        return os.pwrite(fd, data, offset)

    @recorded
    def readv(self, fd, sizes):
        buffers = [bytearray(size) for size in sizes]
        return os.readv(fd, buffers), b"".join(buffers)

    @recorded
    def writev(self, fd, data):
        return os.writev(fd, data)

    @recorded
    def preadv2(self, fd, sizes, offset, flags=0):
        buffers = [bytearray(size) for size in sizes]
        return os.preadv(fd, buffers, offset, flags), b"".join(buffers)

    @recorded
    def pwritev2(self, fd, data, offset, flags=0):
        return os.pwritev(fd, data, offset, flags)

    def _aligned(self):
        area = mmap.mmap(-1, 8 * util.PAGE)
        area[:] = bytes(range(256)) * (8 * util.PAGE // 256)
        return area

    @recorded
    def pread_aligned(self, fd, count, offset, skew=0):
        """Into memory that O_DIRECT takes (with skew: that it does not)."""
        area = self._aligned()
        got = os.preadv(fd, [memoryview(area)[skew:skew + count]], offset)
        return got, bytes(area[skew:skew + got])

    @recorded
    def pwrite_aligned(self, fd, count, offset, skew=0):
        return os.pwritev(fd, [memoryview(self._aligned())[skew:skew + count]], offset)

    @recorded
    def lseek(self, fd, offset, whence=os.SEEK_SET):
        return check(libc.lseek(fd, offset, whence))

    @recorded
    def truncate(self, path, size):
        check(libc.truncate(path_bytes(self._stand_in(path)), size))

    @recorded
    def ftruncate(self, fd, size):
        check(libc.ftruncate(fd, size))

    @recorded
    def fallocate(self, fd, mode, offset, length):
        util.fallocate(fd, mode, offset, length)

    @recorded
    def posix_fallocate(self, fd, offset, length):
        os.posix_fallocate(fd, offset, length)

    @recorded
    def fadvise(self, fd, offset, length, advice):
        os.posix_fadvise(fd, offset, length, advice)

    @recorded
    def fsync(self, fd):
        os.fsync(fd)

    @recorded
    def fdatasync(self, fd):
        os.fdatasync(fd)

    @recorded
    def syncfs(self, fd):
        check(libc.syncfs(fd))

    @recorded
    def sync_file_range(self, fd, offset, count, flags):
        check(libc.sync_file_range(fd, offset, count, flags))

    @recorded
    def copy(self, source, target, count, at=None, to=None):
        return os.copy_file_range(source, target, count, at, to)

    @recorded
    def sendfile(self, target, source, offset, count):
        return os.sendfile(target, source, offset, count)

    @recorded
    def splice(self, source, target, count, at=None, to=None):
        return os.splice(source, target, count, at, to, flags=2)         # SPLICE_F_NONBLOCK

    @recorded
    def contents(self, fd):
        """All of it, by reading; and where it has data, by seeking."""
        end = os.fstat(fd).st_size
        if end > 64 << 20:
            return f"{end} bytes"
        position, data = 0, []
        while position < end:
            data.append(os.pread(fd, end - position, position))
            assert data[-1], f"end of file at {position} of {end}"
            position += len(data[-1])
        return b"".join(data)

    @recorded
    def data_ranges(self, fd):
        """Where it has data, by seeking. Everywhere else there must be zeros."""
        before, position, found = os.lseek(fd, 0, os.SEEK_CUR), 0, []
        while len(found) < 100:
            try:
                position = os.lseek(fd, position, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO, error
                break
            stop = os.lseek(fd, position, os.SEEK_HOLE)
            found.append((position, stop))
            position = stop
        os.lseek(fd, before, os.SEEK_SET)
        end = os.fstat(fd).st_size
        for (_, start), (stop, _) in zip([(0, 0), *found], [*found, (end, end)]):
            if stop - start < 1 << 24:
                assert not os.pread(fd, max(0, stop - start), start).strip(b"\0"), "data in a hole"
        return found

    @recorded
    def getfl(self, fd):
        return oct(fcntl.fcntl(fd, fcntl.F_GETFL))

    @recorded
    def setfl(self, fd, flags):
        fcntl.fcntl(fd, fcntl.F_SETFL, flags)

    # --- Attributes ---

    @staticmethod
    def _moment(nanoseconds):
        return "now" if abs(nanoseconds / 1e9 - time.time()) < 3600 else str(nanoseconds)

    def _status(self, status):
        mode = status.st_mode
        text = f"mode={mode:o} nlink={status.st_nlink} uid={status.st_uid} gid={status.st_gid}"
        if not stat.S_ISDIR(mode):              # a directory's size is each filesystem's own affair
            text += f" size={status.st_size}"
            if not self.cow:                    # what a view's blocks count is documented
                text += f" blocks={status.st_blocks}"
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            text += f" rdev={status.st_rdev:x}"
        return text + f" blksize={status.st_blksize}"

    @recorded
    def stat(self, path):
        return self._status(os.stat(path))

    @recorded
    def lstat(self, path):
        return self._status(os.lstat(path))

    @recorded
    def fstat(self, fd):
        return self._status(os.fstat(fd))

    @recorded
    def dir_size(self, path):
        status = os.stat(path)
        return status.st_size, status.st_blocks

    @recorded
    def same(self, one, two):
        return os.path.samestat(os.lstat(one) if not isinstance(one, int) else os.fstat(one),
                                os.lstat(two) if not isinstance(two, int) else os.fstat(two))

    @recorded
    def times(self, path):
        """Access and modification as set or "now", and whether the change time has moved since
        the last call. What comes next has another time."""
        status = os.fstat(path) if isinstance(path, int) else os.lstat(path)
        before = self.last_change.get(path)
        self.last_change[path] = status.st_ctime_ns
        change = "" if before is None else ", changed" if status.st_ctime_ns != before else ", same"
        time.sleep(TICK)
        return f"{self._moment(status.st_atime_ns)}, {self._moment(status.st_mtime_ns)}{change}"

    @recorded
    def statx(self, path, flags=0, mask=0xfff, dir_fd=-100):
        data = ctypes.create_string_buffer(256)
        check(libc.statx(dir_fd, path_bytes(path), flags, mask, data))
        got, blksize, attributes, nlink, uid, gid, mode = struct.unpack_from("=IIQIIIH", data)
        size, = struct.unpack_from("=Q", data, 40)
        btime, = struct.unpack_from("=q", data, 80)
        return (f"mask={got & mask:x} attributes={attributes & 0x3874:x} nlink={nlink} "
                f"uid={uid} gid={gid} mode={mode:o} size={size if not stat.S_ISDIR(mode) else '-'} "
                f"born={'-' if not got & 0x800 else self._moment(btime * 10**9)}")

    @recorded
    def statvfs(self, path):
        s = os.statvfs(path)
        return (f"bsize={s.f_bsize} frsize={s.f_frsize} namemax={s.f_namemax} blocks={s.f_blocks > 0} "
                f"free={0 < s.f_bavail <= s.f_bfree <= s.f_blocks} "
                f"files={s.f_files > 0} ffree={0 < s.f_favail <= s.f_ffree <= s.f_files}")

    @recorded
    def chmod(self, path, mode):
        os.chmod(self._stand_in(path), mode)

    @recorded
    def fchmod(self, fd, mode):
        os.fchmod(fd, mode)

    @recorded
    def chown(self, path, uid, gid):
        os.chown(self._stand_in(path), uid, gid)

    @recorded
    def lchown(self, path, uid, gid):
        os.lchown(self._stand_in(path), uid, gid)

    @recorded
    def fchown(self, fd, uid, gid):
        os.fchown(fd, uid, gid)

    @recorded
    def utime(self, path, access=None, modification=None, nofollow=False):
        """Each a pair (seconds, nanoseconds); neither: the null pointer. Takes a descriptor."""
        pair = None
        if access is not None:
            pair = struct.pack("=qqqq", *access, *modification)
        if isinstance(path, int):
            check(libc.futimens(path, pair))
        else:
            check(libc.utimensat(-100, path_bytes(self._stand_in(path)), pair, 0x100 if nofollow else 0))

    @recorded
    def access(self, path, mode):
        return os.access(path, mode)

    @recorded
    def faccessat(self, path, mode, flags=0):
        check(libc.syscall(SYS_faccessat2, -100, path_bytes(path), mode, flags))

    @recorded
    def umask(self, mask):
        return os.umask(mask)

    @recorded
    def setxattr(self, path, name, value, flags=0, nofollow=False):
        os.setxattr(path, name, value, flags, follow_symlinks=not nofollow)

    @recorded
    def getxattr(self, path, name, nofollow=False):
        return os.getxattr(path, name, follow_symlinks=not nofollow)

    @recorded
    def getxattr_into(self, path, name, room):
        buffer = ctypes.create_string_buffer(max(room, 1))
        return check(libc.getxattr(path_bytes(path), path_bytes(name), buffer, ctypes.c_size_t(room)))

    @recorded
    def listxattr(self, path, nofollow=False):
        """Without those that every section has."""
        return sorted(name for name in os.listxattr(path, follow_symlinks=not nofollow)
                      if not name.startswith("user.section."))

    @recorded
    def listxattr_into(self, path, room):
        buffer = ctypes.create_string_buffer(max(room, 1))
        return check(libc.listxattr(path_bytes(path), buffer, ctypes.c_size_t(room))) >= 0

    @recorded
    def removexattr(self, path, name, nofollow=False):
        os.removexattr(path, name, follow_symlinks=not nofollow)

    # --- Names ---

    @recorded
    def mkdir(self, path, mode=0o777):
        os.mkdir(path, mode)

    @recorded
    def rmdir(self, path):
        os.rmdir(path)

    @recorded
    def unlink(self, path):
        os.unlink(path)

    @recorded
    def rename(self, old, new, flags=0):
        util.renameat2(old, new, flags)

    @recorded
    def link(self, old, new, follow=False):
        check(libc.linkat(-100, path_bytes(old), -100, path_bytes(new), 0x400 if follow else 0))

    @recorded
    def link_fd(self, fd, path):
        util.link_fd(fd, path)

    @recorded
    def link_empty(self, fd, path):
        check(libc.linkat(fd, b"", -100, path_bytes(path), 0x1000))         # AT_EMPTY_PATH

    @recorded
    def symlink(self, text, path):
        check(libc.symlink(path_bytes(text), path_bytes(path)))

    @recorded
    def readlink(self, path):
        return os.fsencode(os.readlink(path))

    @recorded
    def mknod(self, path, mode, major=0, minor=0):
        os.mknod(path, mode, os.makedev(major, minor))

    @recorded
    def listdir(self, path="."):
        return sorted(os.fsencode(name) for name in os.listdir(path))

    @recorded
    def chdir(self, path):
        os.chdir(path)

    @recorded
    def getcwd(self):
        return os.path.relpath(os.getcwd(), self.home)

    @recorded
    def tree(self, path="."):
        """Everything below, with its attributes."""
        found = []
        for name in sorted(os.fsencode(name) for name in os.listdir(path)):
            full = os.path.join(os.fsencode(path), name)
            status = os.lstat(full)
            found.append((name, self._status(status)))
            if stat.S_ISDIR(status.st_mode):
                found.append(self.tree(full))
        return found

    @recorded
    def opendir(self, path):
        handle = libc.opendir(path_bytes(path))
        if not handle:
            check(-1)
        self.handles.append(handle)
        return Handle(handle)

    def _next(self, handle):
        entry = libc.readdir(handle)
        if not entry:
            return None
        kind = ctypes.string_at(entry + 18, 1)[0]
        return ctypes.string_at(entry + 19), kind

    @recorded
    def readdir(self, handle, count=1 << 30):
        """Names and types, sorted: each filesystem has its own order."""
        found = []
        while count and (entry := self._next(handle)):
            found.append(entry)
            count -= 1
        return sorted(found)

    @recorded
    def readdir_count(self, handle, count):
        return sum(1 for _ in range(count) if self._next(handle))

    @recorded
    def rewinddir(self, handle):
        libc.rewinddir(handle)

    @recorded
    def seeks_right(self, handle):
        """Whether seekdir to what telldir said leads to the entry that followed."""
        libc.rewinddir(handle)
        places = []
        while True:
            place = libc.telldir(handle)
            entry = self._next(handle)
            places.append((place, entry))
            if entry is None:
                break
        wrong = 0
        for place, entry in places[::-1] + places[::7]:
            libc.seekdir(handle, place)
            wrong += self._next(handle) != entry
        return len(places), wrong, len({place for place, _ in places}) == len(places)

    # --- Mappings ---

    @recorded
    def map(self, fd, length, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ | mmap.PROT_WRITE, offset=0):
        mapping = Mapping(check(libc.mmap(None, length, prot, flags, fd, offset)), length)
        self.maps.append(mapping)
        return mapping

    @recorded
    def unmap(self, mapping):
        check(libc.munmap(mapping.address, mapping.length))
        mapping.address = 0

    @recorded
    def load(self, mapping, offset, count):
        if not mapping.address:
            return "no mapping"
        return ctypes.string_at(mapping.address + offset, count)

    @recorded
    def store(self, mapping, offset, data):
        if not mapping.address:
            return "no mapping"
        ctypes.memmove(mapping.address + offset, data, len(data))

    @recorded
    def msync(self, mapping, flags=4, offset=0, length=None):
        check(libc.msync(mapping.address + offset, length or mapping.length, flags))

    @recorded
    def madvise(self, mapping, advice, offset=0, length=None):
        check(libc.madvise(mapping.address + offset, length or mapping.length, advice))

    @recorded
    def mlock(self, mapping):
        check(libc.mlock(mapping.address, mapping.length))

    @recorded
    def munlock(self, mapping):
        check(libc.munlock(mapping.address, mapping.length))

    @recorded
    def mprotect(self, mapping, prot):
        check(libc.mprotect(mapping.address, mapping.length, prot))

    @recorded
    def mremap(self, mapping, length):
        libc.mremap.restype = ctypes.c_void_p
        address = check(libc.mremap(ctypes.c_void_p(mapping.address), ctypes.c_size_t(mapping.length),
                                    ctypes.c_size_t(length), 1))
        mapping.address, mapping.length = address, length

    # --- Processes, users, limits ---

    @recorded
    def elsewhere(self, function):
        """Runs it in a child; tells what came of it."""
        out, into = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                for number in (signal.SIGBUS, signal.SIGSEGV):
                    signal.signal(number, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
                try:
                    answer = say(function())
                except OSError as error:
                    answer = errno.errorcode.get(error.errno, str(error.errno))
                os.write(into, answer.encode())
            except BaseException as error:
                os.write(into, repr(error).encode())
            finally:
                os._exit(0)
        os.close(into)
        with os.fdopen(out, "rb") as file:
            answer = file.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status:
            raise Died(signal.Signals(-status).name if status < 0 else status)
        return answer

    @recorded
    def fork(self, function):
        """A child that does it and then waits until the case ends, or kill is called."""
        ready, ping = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                util.prctl(util.PR_SET_PDEATHSIG, signal.SIGKILL)
                function()
                os.write(ping, b".")
                time.sleep(60)
            finally:
                os._exit(0)
        os.close(ping)
        with os.fdopen(ready, "rb") as file:
            good = file.read(1) == b"."
        self.pids.append(pid)
        return good

    @recorded
    def kill(self):
        for pid in self.pids:
            util.kill(pid)
            os.waitpid(pid, 0)
        self.pids.clear()

    @recorded
    def become(self, name, groups=()):
        os.setresuid(0, 0, 0)
        os.setresgid(0, 0, 0)
        user = self.users[name]
        os.setgroups(list(groups))
        os.setresgid(user.gid, user.gid, 0)
        os.setresuid(user.uid, user.uid, 0)

    @recorded
    def limit(self, size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    @recorded
    def execute(self, path, *arguments):
        return self._execute(path, arguments)

    def _execute(self, path, arguments=(), fd=None):
        out, into = os.pipe2(os.O_CLOEXEC)
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            null = os.open("/dev/null", os.O_RDWR)
            for number in range(3):
                os.dup2(null, number)
            try:
                os.execve(path if fd is None else fd, ["program", *arguments], {})
            except OSError as error:
                os.write(into, errno.errorcode[error.errno].encode())
            finally:
                os._exit(99)
        os.close(into)
        with os.fdopen(out, "rb") as file:
            problem = file.read().decode()
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return problem or status

    @recorded
    def fexecute(self, fd, *arguments):
        return self._execute(None, arguments, fd)

    @recorded
    def run_on(self, path, *arguments):
        """Starts a program that goes on until the case ends."""
        out, into = os.pipe2(os.O_CLOEXEC)
        pid = os.fork()
        if pid == 0:
            util.prctl(util.PR_SET_PDEATHSIG, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.execve(path, ["program", *arguments], {})
            os.write(into, b"failed")
            os._exit(99)
        os.close(into)
        self.pids.append(pid)
        with os.fdopen(out, "rb") as file:
            return file.read()

    # --- Locks, waiting, notices ---

    @recorded
    def flock(self, fd, operation):
        fcntl.flock(fd, operation)

    @recorded
    def lock(self, fd, kind, start=0, length=0, command=fcntl.F_SETLK, whence=0):
        """A record lock; command: F_SETLK, F_SETLKW, F_OFD_SETLK."""
        fcntl.fcntl(fd, command, struct.pack("=hhxxxxqqi4x", kind, whence, start, length, 0))

    @recorded
    def getlock(self, fd, kind, start=0, length=0, command=fcntl.F_GETLK):
        answer = fcntl.fcntl(fd, command, struct.pack("=hhxxxxqqi4x", kind, 0, start, length, 0))
        kind, whence, start, length, pid = struct.unpack("=hhxxxxqqi4x", answer)
        holders = {os.getpid(): "me", os.getppid(): "parent", -1: "-1"}
        holders.update({child: "child" for child in self.pids})
        return ({0: "read", 1: "write", 2: "free"}[kind], whence, start, length,
                "-" if kind == fcntl.F_UNLCK else holders.get(pid, "?"))

    @recorded
    def poll(self, fd, events=select.POLLIN | select.POLLOUT):
        poller = select.poll()
        poller.register(fd, events)
        return [event for _, event in poller.poll(0)]

    @recorded
    def selects(self, fd):
        return [len(found) for found in select.select([fd], [fd], [fd], 0)]

    @recorded
    def epoll(self, fd):
        with select.epoll() as poller:
            poller.register(fd, select.EPOLLIN)

    @recorded
    def setlease(self, fd, kind):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)

    @recorded
    def getlease(self, fd):
        return fcntl.fcntl(fd, fcntl.F_GETLEASE)

    @recorded
    def inotify(self, path, mask):
        fd = check(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        self.descriptors.add(fd)
        check(libc.inotify_add_watch(fd, path_bytes(path), mask))
        return Descriptor(fd)

    @recorded
    def events(self, fd):
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return []
        found, position = [], 0
        while position < len(data):
            _, mask, _, length = struct.unpack_from("=iIII", data, position)
            name = data[position + 16:position + 16 + length].rstrip(b"\0")
            found.append(f"{mask:x} {name.decode()}")
            position += 16 + length
        return found

    @recorded
    def bind(self, path):
        server = socket.socket(socket.AF_UNIX)
        server.bind(path)
        server.listen(1)
        client = socket.socket(socket.AF_UNIX)
        client.connect(path)
        client.close()
        server.close()

    @recorded
    def ioctl(self, fd, number, room=8):
        return bytes(fcntl.ioctl(fd, number, bytes(room)))


def run_cases(cases, side, kind, top, disk, users):
    """In a child: every record, as text."""
    world = World(side, kind, top, disk, users)
    os.umask(0o022)
    records = {}
    for number, (name, code) in enumerate(cases):
        try:
            records[name] = world.perform(number, compile(code, name, "exec"))
        except Exception as error:
            error.add_note(f"in the case {name!r}, {kind}, on the {side}")
            raise
    return records


def equal(one, two, kind):
    """A disk may need one more block for the list of a file's extents, or not."""
    if one != two and kind == "file" and "blocks=" in one:
        counts = [int(re.search(r"blocks=(\d+)", text)[1]) if "blocks=" in text else 0
                  for text in (one, two)]
        if abs(counts[0] - counts[1]) == 8 and min(counts) >= 40:
            two = two.replace(f"blocks={counts[1]}", f"blocks={counts[0]}")
    return one == two


def differences(expected, found, kind):
    """Lines "NUMBER CALL: REFERENCE here MOUNT" for each step that differs."""
    lines = []
    for step in range(max(len(expected), len(found))):
        one = expected[step] if step < len(expected) else ("-", "-")
        two = found[step] if step < len(found) else ("-", "-")
        if not equal(one[1], two[1], kind):
            lines.append(f"{step + 1} {one[0]}: {one[1]} here {two[1]}")
    return lines


def known_for(name, kind, mode):
    return [entry for entry in compare_cases.KNOWN
            if kind in entry.kinds and mode in entry.modes and fnmatch.fnmatchcase(name, entry.cases)]


@pytest.mark.options("dev,suid,cow_copy_max=0")
@pytest.mark.parametrize("group", list(compare_cases.GROUPS))
def test_as_the_reference(mnt, new_mount, place, user, other, group):
    kinds, cases = compare_cases.GROUPS[group]
    pattern = os.environ.get("SECTIONFS_TEST_CASES")
    cases = [(f"{group}: {name}", textwrap.dedent(code)) for name, code in cases.items()]
    if pattern:
        cases = [case for case in cases if fnmatch.fnmatchcase(case[0], pattern)]
        if not cases:
            pytest.skip("not among SECTIONFS_TEST_CASES")
    tmpfs = new_mount("tmpfs")
    for name in ("disk", "tmp"):
        os.mkdir(f"{place}/{name}")
    users = {"user": user, "other": other}
    mounts = {kind: mnt for kind in kinds}
    if "cow" in kinds and mnt.mode == "passthrough":
        mounts["cowcopy"] = new_mount("passthrough", "dev,suid")
    problems = []
    started = {}
    for kind in mounts:                         # all at once, each in a process of its own
        os.mkdir(f"{place}/tmp/{kind}")
        reference = tmpfs.path if kind in ("page", "cow", "cowcopy") else f"{place}/tmp/{kind}"
        for side, top in ("reference", reference), ("mount", mounts[kind].path):
            child = started[kind, side] = util.Child(names={"run_cases": run_cases})
            child.begin("run_cases(*arguments)", _kind="get",
                        arguments=(cases, side, kind, top, f"{place}/disk", users))
    for kind in mounts:
        expected, found = started[kind, "reference"].finish(), started[kind, "mount"].finish()
        used, listed = set(), {}
        for name, _ in cases:
            entries = known_for(name, kind, mnt.mode)
            lines = differences(expected[name], found[name], kind)
            for line in lines:
                fitting = [entry for entry in entries if re.search(entry.line, line)]
                used.update(map(id, fitting))
                if not fitting:
                    problems.append(f"[{kind}] {name}: {line}")
            listed.update({id(entry): entry for entry in entries})
        for key, entry in listed.items():
            if key not in used and not entry.sometimes and not pattern:
                problems.append(f"[{kind}] {entry.cases}: no longer differs as listed: "
                                f"{entry.line!r} ({entry.reason})")
    if problems:
        pytest.fail(f"{len(problems)} differences (reference here mount):\n" + "\n".join(problems),
                    pytrace=False)
