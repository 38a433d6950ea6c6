# SPDX-License-Identifier: MIT
"""Random operations by several processes, each done on sectionfs and on a tmpfs.

After every step both must have the same result or error, names, attributes and contents, open
files and mappings included. Each process has a directory of its own, where it goes as fast as
it can; in the shared directory one process at a time makes a step, and another one looks.

Views are compared with copies on the tmpfs, one for each open, and what they are views of must
be the same at the end.

The seed is printed. SECTIONFS_TEST_SEED repeats a run, SECTIONFS_TEST_LONG=1 makes long ones.
"""

import errno
import hashlib
import mmap
import os
import random
import signal
import stat
import time

import pytest

import util

LONG = bool(os.environ.get("SECTIONFS_TEST_LONG"))
ALONE = 100 if LONG else 3              # seconds in the directories of their own
TOGETHER = 100 if LONG else 3           # seconds in the shared one
PROCESSES = 3
NAMES = ["a", "b", "c", "d", "d/a", "d/b", "d/c", "e", "e/a", "e/b", "d/f", "d/f/a", "l", "d/l"]
SLOTS = 4                               # open files a process has at most
PAGES = 6                               # and the size of most of them
HOUR = 3600 * 10**9
FAR = 128 * util.MIB - 2 * util.PAGE    # where the next part of a view's page map begins, or just before
AROUND = 16 * util.PAGE


def moment(nanoseconds):
    return "now" if abs(nanoseconds - time.time_ns()) < HOUR else nanoseconds


def brief(value):
    """As repr, without kilobytes of it."""
    if isinstance(value, bytes) and len(value) > 8:
        return f"<{len(value)} bytes>"
    return repr(value)


def differing(one, two):
    """What two outcomes have that is not the same, in a line."""
    if not (isinstance(one, bytes) and isinstance(two, bytes)):
        return f"{brief(one)} on tmpfs, {brief(two)} here"
    at = next((i for i, (a, b) in enumerate(zip(one, two)) if a != b), min(len(one), len(two)))
    return (f"{brief(one)} on tmpfs, {brief(two)} here, from byte {at} on "
            f"{one[at:at + 8]!r} and {two[at:at + 8]!r}")


class Side:
    """One of the two filesystems as one process has it: a root directory, open files, mappings."""

    def __init__(self, root, real):
        self.root, self.real = root, real       # real: where files for sections lie, or None
        self.files = [None] * SLOTS
        self.views = [None] * SLOTS
        self.mapped = [None] * SLOTS            # their files, without having them open

    def path(self, name):
        return f"{self.root}/{name}"

    def do(self, step):
        """The outcome of a step: a comparable value, or the name of an error."""
        try:
            return getattr(self, "do_" + step[0])(*step[1:])
        except OSError as error:
            return errno.errorcode.get(error.errno, error.errno)

    def file(self, slot):
        if self.files[slot] is None:
            raise OSError(errno.EBADF, "nothing is open there")
        return self.files[slot]

    def do_open(self, slot, name, flags, mode):
        fd = os.open(self.path(name), flags | os.O_NONBLOCK, mode)
        if self.files[slot] is not None:
            os.close(self.files[slot])
        self.files[slot] = fd

    def do_close(self, slot):
        os.close(self.file(slot))
        self.files[slot] = None

    def do_define(self, name, data):
        """A file with content: here over a real file, there a plain one."""
        path = self.path(name)
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        try:
            if self.real is None:
                util.write_all(fd, data)
            else:
                self.number = getattr(self, "number", 0) + 1
                real = f"{self.real}/{os.getpid()}-{self.number}"
                util.write(real, data)
                os.setxattr(fd, "user.section.file", real.encode())
        finally:
            os.close(fd)

    def do_write(self, slot, data):
        return os.write(self.file(slot), data)

    def do_pwrite(self, slot, data, offset):
        return os.pwrite(self.file(slot), data, offset)

    def do_read(self, slot, count):
        return os.read(self.file(slot), count)

    def do_pread(self, slot, count, offset):
        return os.pread(self.file(slot), count, offset)

    def do_lseek(self, slot, offset, whence):
        if stat.S_ISDIR(os.fstat(self.file(slot)).st_mode):
            return "each filesystem's own affair"
        return os.lseek(self.file(slot), offset, whence)

    def do_ftruncate(self, slot, size):
        os.ftruncate(self.file(slot), size)

    def do_truncate(self, name, size):
        status = os.stat(self.path(name))
        if stat.S_ISREG(status.st_mode) and size == status.st_size and not status.st_blocks:
            return              # a tmpfs changes no times then
        os.truncate(self.path(name), size)

    def do_fallocate(self, slot, mode, offset, length):
        util.fallocate(self.file(slot), mode, offset, length)

    def do_copy(self, source, target, count, at, to):
        return os.copy_file_range(self.file(source), self.file(target), count, at, to)

    def do_sendfile(self, source, target, count, at):
        if self.are_same(self.file(source), self.file(target)):
            return "anything may come of that"
        return os.sendfile(self.file(target), self.file(source), at, count)

    @staticmethod
    def are_same(one, two):
        return os.path.samestat(os.fstat(one), os.fstat(two))

    def do_fsync(self, slot):
        os.fsync(self.file(slot))

    def do_map(self, slot, private):
        """A mapping of its own, that stays when the slot is closed or used for another file."""
        self.do_unmap(slot)
        self.views[slot] = util.View(
            self.file(slot), PAGES * util.PAGE, mmap.MAP_PRIVATE if private else mmap.MAP_SHARED)
        self.mapped[slot] = os.open(f"/proc/self/fd/{self.files[slot]}", os.O_PATH)

    def do_unmap(self, slot):
        if self.views[slot]:
            self.views[slot].close()
            os.close(self.mapped[slot])
            self.views[slot] = None

    def mapped_size(self, slot):
        return os.fstat(self.mapped[slot]).st_size

    def inside(self, slot, offset, count):
        """What of that is within the file. Beyond its end is another test's affair."""
        end = min(self.mapped_size(slot), self.views[slot].length)
        return max(0, min(count, end - offset))

    def do_store(self, slot, data, offset):
        if self.views[slot] is None:
            return "nothing is mapped"
        data = data[:self.inside(slot, offset, len(data))]
        if data:
            self.views[slot].write(offset, data)
        return len(data)

    def do_load(self, slot, count, offset):
        if self.views[slot] is None:
            return "nothing is mapped"
        count = self.inside(slot, offset, count)
        return self.views[slot].read(offset, count) if count else b""

    def do_msync(self, slot):
        if self.views[slot]:
            self.views[slot].sync()

    def do_mkdir(self, name, mode):
        os.mkdir(self.path(name), mode)

    def do_rmdir(self, name):
        os.rmdir(self.path(name))

    def do_unlink(self, name):
        os.unlink(self.path(name))

    def do_rename(self, old, new, flags):
        util.renameat2(self.path(old), self.path(new), flags)

    def do_link(self, old, new):
        os.link(self.path(old), self.path(new), follow_symlinks=False)

    def do_symlink(self, text, name):
        os.symlink(text, self.path(name))

    def do_mknod(self, name, mode):
        os.mknod(self.path(name), mode)

    def do_tmpfile(self, slot, mode):
        fd = os.open(self.root, os.O_TMPFILE | os.O_RDWR, mode)
        if self.files[slot] is not None:
            os.close(self.files[slot])
        self.files[slot] = fd

    def do_link_open(self, slot, name):
        util.link_fd(self.file(slot), self.path(name))

    def do_chmod(self, name, mode):
        os.chmod(self.path(name), mode)

    def do_chown(self, name, uid, gid):
        os.chown(self.path(name), uid, gid, follow_symlinks=False)

    def do_utime(self, name, access, modification):
        os.utime(self.path(name), ns=(access, modification), follow_symlinks=False)

    def do_setxattr(self, name, key, value, flags):
        os.setxattr(self.path(name), key, value, flags, follow_symlinks=False)

    def do_removexattr(self, name, key):
        os.removexattr(self.path(name), key, follow_symlinks=False)

    # --- What it is like now ---

    def status(self, status, exact):
        mode = status.st_mode
        found = [oct(mode), status.st_nlink, status.st_uid, status.st_gid]
        if not stat.S_ISDIR(mode):
            found.append(status.st_size)
        if exact and stat.S_ISREG(mode):
            found += [status.st_blocks, moment(status.st_mtime_ns)]
        return found

    @staticmethod
    def content(fd):
        return hashlib.sha1(os.pread(fd, 1 << 24, 0)).hexdigest()

    def tree(self, exact, name=""):
        found = {}
        for entry in sorted(os.listdir(self.path(name))):
            inner = f"{name}/{entry}" if name else entry
            path = self.path(inner)
            status = os.lstat(path)
            row = self.status(status, exact)
            row.append(sorted(
                (key, os.getxattr(path, key, follow_symlinks=False))
                for key in os.listxattr(path, follow_symlinks=False)
                if not key.startswith("user.section.")))
            if stat.S_ISREG(status.st_mode):
                fd = os.open(path, os.O_RDONLY | os.O_NOATIME)
                row.append(self.content(fd))
                os.close(fd)
            elif stat.S_ISLNK(status.st_mode):
                row.append(os.readlink(path))
            found[inner] = row
            if stat.S_ISDIR(status.st_mode):
                found.update(self.tree(exact, inner))
        return found

    def opened(self, exact):
        found = []
        for fd, view in zip(self.files, self.views):
            row = None
            if fd is not None:
                status = os.fstat(fd)
                row = self.status(status, exact)
                if stat.S_ISREG(status.st_mode):
                    row.append(os.lseek(fd, 0, os.SEEK_CUR))
                    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NOATIME)
                    row.append(self.content(again))
                    os.close(again)
            found.append((row, view is not None))
        return found


class KnownView:
    """What a process knows of a view that it has opened."""

    def __init__(self, readonly):
        self.readonly = readonly                # first opened for reading
        self.size = None                        # when it was last closed


class ViewSide(Side):
    """The same for files that are all views, or copies."""

    def __init__(self, root, cow):
        super().__init__(root, None)
        self.cow = cow                          # the root as seen under .cow; None: copies are made
        self.view_of = {}                       # for each descriptor, its KnownView
        self.mapped_view = [None] * SLOTS       # for each mapping

    def do_view(self, slot, name, flags):
        if self.cow is not None:
            fd = os.open(f"{self.cow}/{name}", flags)
        else:
            fd = self.open_copy(name, flags)
        self._keep(slot, fd, KnownView(flags & os.O_ACCMODE == os.O_RDONLY and not flags & os.O_TRUNC))

    def open_copy(self, name, flags):
        base, copy = self.path(name), self.path("copy")
        status = os.stat(base)
        util.write(copy, b"")
        with util.opened(base, os.O_RDONLY | os.O_NOATIME) as a, util.opened(copy) as b:
            for at in 0, FAR:
                os.pwrite(b, os.pread(a, AROUND, at), at)
        os.truncate(copy, status.st_size)
        os.chmod(copy, stat.S_IMODE(status.st_mode) | (status.st_mode & 0o444) >> 1)
        os.utime(copy, ns=(status.st_atime_ns, status.st_mtime_ns))
        fd = os.open(copy, flags)
        os.unlink(copy)
        return fd

    def _keep(self, slot, fd, view):
        if self.files[slot] is not None:
            self.do_close(slot)
        self.view_of[fd] = view
        self.files[slot] = fd

    def do_close(self, slot):
        fd = self.file(slot)
        self.view_of[fd].size = os.fstat(fd).st_size
        super().do_close(slot)

    def do_map(self, slot, private):
        super().do_map(slot, private)
        self.mapped_view[slot] = self.view_of[self.files[slot]]

    def mapped_size(self, slot):
        """A view that is only mapped may have no attributes any more, but it has its size."""
        view = self.mapped_view[slot]
        for fd in self.files:
            if fd is not None and self.view_of[fd] is view:
                return os.fstat(fd).st_size
        return view.size

    def do_join(self, source, slot, flags):
        """Another open of the same view. One that was first opened for reading stays so."""
        fd = self.file(source)
        if self.cow is None and self.view_of[fd].readonly and flags & os.O_ACCMODE != os.O_RDONLY:
            raise PermissionError(errno.EACCES, "for reading only")
        self._keep(slot, os.open(f"/proc/self/fd/{fd}", flags), self.view_of[fd])

    def are_same(self, one, two):
        return self.view_of[one] is self.view_of[two]       # inode numbers are those of the section

    def do_forget(self, slot):
        """What comes next comes from the daemon."""
        os.fsync(self.file(slot))
        os.posix_fadvise(self.file(slot), 0, 0, os.POSIX_FADV_DONTNEED)

    def do_fchmod(self, slot, mode):
        os.fchmod(self.file(slot), mode)

    def do_futime(self, slot, access, modification):
        os.utime(self.file(slot), ns=(access, modification))

    def status(self, status, exact):
        """Names, and what a view takes in blocks, are told otherwise."""
        found = [oct(status.st_mode), status.st_uid, status.st_gid, status.st_size]
        return found + [moment(status.st_mtime_ns)] if exact else found

    @staticmethod
    def content(fd):
        return hashlib.sha1(os.pread(fd, AROUND, 0) + b"|" + os.pread(fd, AROUND, FAR)).hexdigest()

    def tree(self, exact, name=""):
        return {}


class Actor:
    """Both sides, in one process.

    Where files are mapped, blocks and times are left out: a tmpfs takes a page for a hole that
    is read through a mapping, and does not note a store to one, as POSIX wants it.
    """

    def __init__(self, mount, tmpfs):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)       # for fifos
        self.mount, self.tmpfs = mount, tmpfs

    @classmethod
    def of_files(cls, roots, real):
        return cls(Side(roots[0], real), Side(roots[1], None))

    def step(self, step):
        one, two = self.tmpfs.do(step), self.mount.do(step)
        if one != two:
            return f"({', '.join(map(brief, step))}): {differing(one, two)}"
        return None

    def look(self, exact):
        """The first thing that is not the same on both sides."""
        for what in ("opened", "tree"):
            one, two = getattr(self.tmpfs, what)(exact), getattr(self.mount, what)(exact)
            if one != two:
                if what == "opened":
                    one, two = dict(enumerate(one)), dict(enumerate(two))
                keys = [key for key in {**one, **two} if one.get(key) != two.get(key)]
                return "; ".join(f"{what} {key!r}: {one.get(key)} on tmpfs, {two.get(key)} here"
                                 for key in keys[:3])
        return None


def random_step(chance, maps):
    """A step, good or bad: what it meets depends on the steps before. maps: some map files."""
    def name():
        return chance.choice(NAMES)

    def slot():
        return chance.randrange(SLOTS)

    def offset():
        return chance.choice([0, 1, util.PAGE - 1, util.PAGE, 2 * util.PAGE, 3 * util.PAGE + 5,
                              chance.randrange(PAGES * util.PAGE)])

    def data():
        return chance.randbytes(chance.choice([0, 1, 10, 100, util.PAGE, util.PAGE + 1, 9000]))

    def size():
        return chance.choice([0, 1, offset(), PAGES * util.PAGE, PAGES * util.PAGE * 2])

    flags = chance.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR]) | \
        chance.choice([0, os.O_CREAT, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC,
                       os.O_APPEND, os.O_CREAT | os.O_TRUNC, os.O_APPEND | os.O_CREAT])
    kinds = [
        (14, lambda: ("open", slot(), name(), flags, chance.choice([0o644, 0o600, 0o6755]))),
        (3, lambda: ("close", slot())),
        (4, lambda: ("define", name(), data() + data())),
        (7, lambda: ("write", slot(), data())),
        (9, lambda: ("pwrite", slot(), data(), offset())),
        (2, lambda: ("read", slot(), chance.randrange(5000))),
        (3, lambda: ("pread", slot(), chance.randrange(9000), offset())),
        (3, lambda: ("lseek", slot(), offset(), chance.choice([0, 0, 1, 2]))),
        (5, lambda: ("ftruncate", slot(), size())),
        (2, lambda: ("truncate", name(), size())),
        (5, lambda: ("fallocate", slot(), chance.choice([0, 1, 3, 3, 3]), offset(),
                     chance.choice([0, 1, 100, util.PAGE, 2 * util.PAGE]))),
        (4, lambda: ("copy", slot(), slot(), chance.randrange(9000), offset(), offset())),
        (2, lambda: ("sendfile", slot(), slot(), chance.randrange(9000), offset())),
        (1, lambda: ("fsync", slot())),
        (4 * maps, lambda: ("map", slot(), chance.random() < 0.2)),
        (4, lambda: ("unmap", slot())),
        (7, lambda: ("store", slot(), data()[:PAGES * util.PAGE - offset()], offset())),
        (5, lambda: ("load", slot(), chance.randrange(9000), offset())),
        (1, lambda: ("msync", slot())),
        (5, lambda: ("mkdir", name(), chance.choice([0o755, 0o700, 0o2775]))),
        (2, lambda: ("rmdir", name())),
        (4, lambda: ("unlink", name())),
        (7, lambda: ("rename", name(), name(), chance.choice([0, 0, 1, 2]))),
        (3, lambda: ("link", name(), name())),
        (2, lambda: ("symlink", chance.choice(["a", "../a", "none", "d"]), name())),
        (1, lambda: ("mknod", name(), chance.choice([stat.S_IFIFO, stat.S_IFSOCK, stat.S_IFREG]) | 0o644)),
        (1, lambda: ("tmpfile", slot(), 0o640)),
        (2, lambda: ("link_open", slot(), name())),
        (2, lambda: ("chmod", name(), chance.choice([0o644, 0o600, 0o755, 0o2755, 0o4755, 0o1777]))),
        (2, lambda: ("chown", name(), chance.choice([-1, 0, 1234]), chance.choice([-1, 0, 1234]))),
        (2, lambda: ("utime", name(), chance.randrange(10**18), chance.randrange(10**18))),
        (2, lambda: ("setxattr", name(), chance.choice(["user.a", "trusted.b"]),
                     chance.randbytes(chance.randrange(50)), chance.choice([0, 0, 1, 2]))),
        (1, lambda: ("removexattr", name(), chance.choice(["user.a", "trusted.b"]))),
    ]
    return chance.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0]()


def random_view_step(chance, maps, bases):
    def slot():
        return chance.randrange(SLOTS)

    def offset():
        return chance.choice([0, 0, 0, FAR]) + chance.choice(
            [0, 1, util.PAGE - 1, util.PAGE, 2 * util.PAGE, 3 * util.PAGE + 5, chance.randrange(PAGES * util.PAGE)])

    def data():
        return chance.randbytes(chance.choice([0, 1, 10, 100, util.PAGE, util.PAGE + 1, 9000]))

    def size():
        return chance.choice([0, 1, offset(), offset(), PAGES * util.PAGE, FAR + PAGES * util.PAGE])

    flags = chance.choice([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR, os.O_RDWR]) | \
        chance.choice([0, 0, 0, os.O_APPEND, os.O_TRUNC])
    kinds = [
        (8, lambda: ("view", slot(), chance.choice(bases), flags)),
        (4, lambda: ("join", slot(), slot(), flags & ~os.O_TRUNC)),
        (2, lambda: ("close", slot())),
        (6, lambda: ("write", slot(), data())),
        (12, lambda: ("pwrite", slot(), data(), offset())),
        (2, lambda: ("read", slot(), chance.randrange(5000))),
        (4, lambda: ("pread", slot(), chance.randrange(9000), offset())),
        (2, lambda: ("lseek", slot(), offset(), chance.choice([0, 0, 1, 2]))),
        (9, lambda: ("ftruncate", slot(), size())),
        (9, lambda: ("fallocate", slot(), chance.choice([0, 1, 3, 3, 3]), offset(),
                     chance.choice([0, 1, 100, util.PAGE, 2 * util.PAGE, FAR]))),
        (5, lambda: ("copy", slot(), slot(), chance.randrange(9000), offset(), offset())),
        (2, lambda: ("sendfile", slot(), slot(), chance.randrange(9000), offset())),
        (1, lambda: ("fsync", slot())),
        (8, lambda: ("forget", slot())),
        (5 * maps, lambda: ("map", slot(), chance.random() < 0.2)),
        (3, lambda: ("unmap", slot())),
        (8, lambda: ("store", slot(), data()[:PAGES * util.PAGE - offset() % FAR], offset() % FAR)),
        (5, lambda: ("load", slot(), chance.randrange(9000), offset() % FAR)),
        (1, lambda: ("msync", slot())),
        (2, lambda: ("fchmod", slot(), chance.choice([0o644, 0o600, 0o1755, 0o444]))),
        (2, lambda: ("futime", slot(), chance.randrange(10**18), chance.randrange(10**18))),
    ]
    return chance.choices([make for _, make in kinds], [weight for weight, _ in kinds])[0]()


def go_on(actor, make_step, seconds, exact):
    """Steps, in this process. Returns their number, and what differed."""
    end = time.monotonic() + seconds
    done = []
    while time.monotonic() < end:
        step = make_step()
        done.append(step)
        trouble = actor.step(step) or actor.look(exact)
        if trouble:
            return len(done), f"step {len(done)}: {trouble}", done[-30:]
    return len(done), None, None


def alone(roots, real, seed, seconds, maps):
    chance = random.Random(seed)
    return go_on(Actor.of_files(roots, real), lambda: random_step(chance, maps), seconds, not maps)


def alone_with_views(roots, cow, bases, seed, seconds, maps):
    chance = random.Random(seed)
    return go_on(Actor(ViewSide(roots[0], cow), ViewSide(roots[1], None)),
                 lambda: random_view_step(chance, maps, bases), seconds, not maps)


class Worker:
    """An Actor in another process, from the outside."""

    def __init__(self, mnt, roots, real):
        self.child = util.Child()
        self.child.do("import sys; sys.path.insert(0, where); import test_random; "
                      "actor = test_random.Actor.of_files(roots, real)",
                      where=os.path.dirname(os.path.abspath(__file__)), roots=roots, real=real)

    def step(self, step):
        return self.child.get("actor.step(step)", step=step)

    def look(self, exact):
        return self.child.get("actor.look(exact)", exact=exact)


@pytest.fixture
def grounds(mnt, new_mount, place):
    """A function that makes a directory on both, and the one where real files lie. There is
    one more above each, for "../a" to lead to."""
    tmpfs = new_mount("tmpfs")
    under = new_mount("tmpfs")

    def make(name):
        for top in (mnt.path, tmpfs.path, under.path):
            os.makedirs(f"{top}/{name}/in")
        return (f"{mnt.path}/{name}/in", f"{tmpfs.path}/{name}/in"), f"{under.path}/{name}/in"
    return make


@pytest.fixture
def seed(session):
    seed = int(os.environ.get("SECTIONFS_TEST_SEED") or random.randrange(1 << 32))
    print(f"SECTIONFS_TEST_SEED={seed}")
    # More than the watchdog gives a test by itself.
    session.watchdog.arm(ALONE + TOGETHER + 90)
    return seed


def fail(seed, number, trouble, steps):
    pytest.fail(f"SECTIONFS_TEST_SEED={seed}, process {number}, {trouble}\nthe last steps:\n"
                + "\n".join(f"  {', '.join(map(brief, step))}" for step in steps), pytrace=False)


def test_each_in_its_own_directory(mnt, grounds, seed):
    children = []
    for number in range(PROCESSES):
        roots, real = grounds(str(number))
        child = util.Child(names={"alone": alone})
        child.socket.settimeout(ALONE + 60)
        child.begin("alone(roots, real, seed, seconds, maps)", _kind="get", roots=roots, real=real,
                    seed=seed * PROCESSES + number, seconds=ALONE, maps=number > 0)
        children.append(child)
    for number, child in enumerate(children):
        steps, trouble, last = child.finish()
        print(f"process {number}: {steps} steps")
        if trouble:
            fail(seed, number, trouble, last)


def make_bases(mount, tmpfs, real, chance):
    """Sections to have views of, page-file-backed and file-backed, and the same files on the tmpfs."""
    contents = {
        "empty": {},
        "small": {0: 7},
        "odd": {0: 3 * util.PAGE + 100},
        "even": {0: PAGES * util.PAGE},
        "holes": {util.PAGE: util.PAGE, 4 * util.PAGE + 10: 2000},
        "far": {0: 100, FAR: 5 * util.PAGE},
    }
    names = []
    for kind in "page", "file":
        for content, parts in contents.items():
            name = f"{kind}-{content}"
            names.append(name)
            over = f"{real}/{name}" if kind == "file" else f"{mount}/{name}"
            parts = {at: chance.randbytes(length) for at, length in parts.items()}
            for path in over, f"{tmpfs}/{name}":
                util.write(path, b"")
                with util.opened(path) as fd:
                    for at, data in parts.items():
                        os.pwrite(fd, data, at)
                os.utime(path, ns=(10**18, 10**18 + 1))
            if kind == "file":
                util.write(f"{mount}/{name}", b"")
                os.setxattr(f"{mount}/{name}", "user.section.file", over.encode())
            for path in f"{mount}/{name}", f"{tmpfs}/{name}":
                os.chmod(path, 0o444 if content == "even" else 0o640)
    return names


def told(root, names):
    """All of the sections that views must leave alone."""
    found = {}
    for name in names:
        status = os.stat(f"{root}/{name}")
        with util.opened(f"{root}/{name}", os.O_RDONLY | os.O_NOATIME) as fd:
            found[name] = (oct(status.st_mode), status.st_size, status.st_blocks, status.st_mtime_ns,
                           status.st_nlink, ViewSide.content(fd))
    return found


def test_views(mnt, grounds, seed):
    (mount, tmpfs), real = grounds("views")
    bases = make_bases(mount, tmpfs, real, random.Random(seed))
    before = told(mount, bases)
    store = mnt.stats()
    children = []
    for number in range(PROCESSES):
        own = f"{tmpfs}/{number}"
        os.mkdir(own)
        for name in bases:
            os.link(f"{tmpfs}/{name}", f"{own}/{name}")
        child = util.Child(names={"alone_with_views": alone_with_views})
        child.socket.settimeout(ALONE + 60)
        child.begin("alone_with_views(roots, cow, bases, seed, seconds, maps)", _kind="get",
                    roots=(mount, own), cow=f"{mnt.path}/.cow/views/in", bases=bases,
                    seed=seed * PROCESSES + number, seconds=ALONE, maps=number > 0)
        children.append(child)
    for number, child in enumerate(children):
        steps, trouble, last = child.finish()
        print(f"process {number}: {steps} steps")
        if trouble:
            fail(seed, number, trouble, last)
        child.kill()
    assert told(mount, bases) == before
    mnt.settled(store)


def test_all_in_one_directory(mnt, grounds, seed):
    roots, real = grounds("shared")
    chance = random.Random(seed)
    workers = [Worker(mnt, roots, real) for _ in range(PROCESSES)]
    maps = chance.random() < 0.7
    end = time.monotonic() + TOGETHER
    done = []
    while time.monotonic() < end:
        number = chance.randrange(PROCESSES)
        step = random_step(chance, maps)
        done.append((number, step))
        trouble = workers[number].step(step)
        if not trouble:
            looking = chance.randrange(PROCESSES)
            trouble = workers[looking].look(not maps)
            if trouble:
                trouble = f"seen by process {looking}: {trouble}"
        if trouble:
            fail(seed, number, f"step {len(done)}: {trouble}", [(who, *step) for who, step in done[-30:]])
    print(f"{len(done)} steps")
