# SPDX-License-Identifier: MIT
"""What the tests of workers that fail on demand stand on: telling the build with faults which calls
are to fail (tests/faults/failing.c), and a mount with something of everything."""

import errno
import fcntl
import os
import select
import struct

import util
from sections import make, set_keys
from util import PAGE, View, opened, pattern, refused, write

CLASSES = ("memory", "mappings", "threads", "descriptors", "space", "reads", "records", "inherited",
           "device", "clones", "seeks")
EVER = (1 << 64) - 1


class Failures:
    """The file that tells workers which of their calls fail, and that they count them in."""

    fields = ("number", "first", "last", "workers", "serving", "trace", "failed", "ready")

    def __init__(self, path):
        self.path = path
        size = 8 * (len(self.fields) + len(CLASSES))
        with open(path, "w+b") as file:
            file.truncate(size)
            # Without a descriptor, which a child would close by a number that is another's there.
            self.memory = View(file.fileno(), size)

    def __getattr__(self, name):
        if name not in self.fields:
            raise AttributeError(name)
        return struct.unpack("=Q", self.memory.read(8 * self.fields.index(name), 8))[0]

    def set(self, name, value):
        self.memory.write(8 * self.fields.index(name), struct.pack("=Q", value))

    def calls(self):
        """{class: how many there were in the last worker}"""
        counts = self.memory.read(8 * len(self.fields), 8 * len(CLASSES))
        return dict(zip(CLASSES, struct.unpack(f"={len(CLASSES)}Q", counts)))

    def plan(self, what, first=1, last=None, workers=1, serving=False):
        """The calls first to last of a class fail, in so many workers to come: while they go on,
        and also after that if told so."""
        self.set("workers", 0)
        self.set("number", CLASSES.index(what))
        self.set("first", first)
        self.set("last", last or first)
        self.set("serving", int(serving))
        self.set("trace", int("SECTIONFS_TEST_TRACE" in os.environ))
        self.set("failed", 0)
        self.set("ready", 0)
        self.set("workers", workers)


class Everything:
    """Something of every kind that a worker has to take up, in use by two processes."""

    def __init__(self, mnt, place):
        self.mnt = mnt
        self.before = mnt.stats()
        top = mnt.path
        for name, pages in ("real", 200), ("part", 8), ("under", 40):
            write(f"{place}/{name}", pattern(name, pages * PAGE))
        os.setxattr(top, "user.x", b"root")
        os.mkdir(f"{top}/d", 0o750)
        self.long = f"{top}/d/" + "n" * 255
        write(self.long, b"long")
        os.link(self.long, f"{top}/d/second")
        os.symlink("nowhere", f"{top}/d/s")
        os.mkfifo(f"{top}/d/f")
        os.setxattr(self.long, "user.y", b"y" * 1000)
        write(f"{top}/page", pattern("page", 8 * PAGE))
        make(f"{top}/file", file=f"{place}/real")
        make(f"{top}/part", file=f"{place}/part", offset=PAGE, length=4 * PAGE)
        make(f"{top}/own", file=f"{place}/under", protect="writecopy")
        make(f"{top}/over", base="page", protect="writecopy", cow="section")
        make(f"{top}/limited", size=2 * PAGE, limit=4 * PAGE)
        self.names = sorted(os.listdir(top))
        self.user = user = mnt.child(names={"fcntl": fcntl, "set_keys": set_keys})
        user.do("""
def opened(name, flags=os.O_RDWR):
    return os.open(f"{top}/{name}", flags)
page, file, part, own, over, limited = map(opened, ("page", "file", "part", "own", "over", "limited"))
fcntl.lockf(page, fcntl.LOCK_EX, 10, 0)
fcntl.lockf(page, fcntl.LOCK_SH, 10, 100)
fcntl.flock(page, fcntl.LOCK_EX)
fcntl.flock(file, fcntl.LOCK_SH)
view, small, reader = opened(".cow/file"), opened(".cow/page"), opened(".cow/file", os.O_RDONLY)
os.pwrite(view, b"mine", 100 * PAGE)
for n in range(0, 40, 2):
    os.pwrite(view, b"many", n * PAGE)
os.pwrite(small, b"mine", PAGE)
os.pwrite(own, b"mine", 2 * PAGE)
os.pwrite(over, b"ours", 3 * PAGE)
unnamed = os.open(top, os.O_TMPFILE | os.O_RDWR)
os.write(unnamed, b"unnamed")
gone = opened("gone", os.O_CREAT | os.O_RDWR)
os.write(gone, b"gone")
os.unlink(f"{top}/gone")
for name in "temporary", "mapped":
    fd = opened(name, os.O_CREAT | os.O_RDWR)
    set_keys(f"{top}/{name}", lifetime="temporary")
    os.write(fd, name.encode() + bytes(PAGE))
    if name == "temporary":
        temporary = fd
    else:
        mapping = View(fd, PAGE)
        os.close(fd)
text, folder = opened(".info/page", os.O_RDONLY), os.open(f"{top}/d", os.O_RDONLY)
""", top=top)
        self.text = user.get("os.pread(text, 2000, 0)")
        self.waiter = mnt.child(names={"fcntl": fcntl})
        self.waiter.do("fd = os.open(path, os.O_RDWR)", path=f"{top}/page")
        self.waiter.begin("fcntl.lockf(fd, fcntl.LOCK_EX, 1, 5)")
        self.check()

    def expected(self):
        """{name of a descriptor: its bytes}"""
        def patched(seed, pages, *patches):
            content = bytearray(pattern(seed, pages * PAGE))
            for page, data in patches:
                content[page * PAGE:page * PAGE + len(data)] = data
            return bytes(content)
        return {"page": patched("page", 8), "file": patched("real", 200),
                "part": pattern("part", 8 * PAGE)[PAGE:5 * PAGE],
                "own": patched("under", 40, (2, b"mine")),
                "over": patched("page", 8, (3, b"ours")), "limited": bytes(2 * PAGE),
                "view": patched("real", 200, (100, b"mine"),
                                *((n, b"many") for n in range(0, 40, 2))),
                "small": patched("page", 8, (1, b"mine")), "reader": patched("real", 200),
                "unnamed": b"unnamed", "gone": b"gone", "temporary": b"temporary" + bytes(PAGE)}

    def check_bytes(self):
        for name, content in self.expected().items():
            assert self.user.get(f"os.pread({name}, 300 * PAGE, 0)") == content, name
        assert self.user.get("mapping.read(0, 6)") == b"mapped"

    def check(self):
        """Everything is as it was. All in processes of their own: this one never hangs."""
        self.check_bytes()
        found = self.user.get(
            "(os.getxattr(top, 'user.x'), os.getxattr(long, 'user.y'), os.readlink(top + '/d/s'),"
            " os.stat(long).st_nlink, sorted(os.listdir(top + '/d')),"
            " [name for name in sorted(os.listdir(top)) if name not in ('temporary', 'mapped')],"
            " os.path.exists(top + '/temporary'), os.pread(text, 2000, 0))", long=self.long)
        assert found == (b"root", b"y" * 1000, "nowhere", 2,
                         sorted(["f", "n" * 255, "s", "second"]), self.names, True, self.text), found
        self.user.do("os.pwrite(limited, b'\\0', 3)\n"
                     "try:\n    os.pwrite(limited, b'x', 5 * PAGE)\n"
                     "except OSError as error:\n    assert error.errno == 27\n"
                     "else:\n    raise AssertionError('limit')\n")
        assert not select.select([self.waiter.socket], [], [], 0)[0], "the lock was not waited for"
        assert util.call(locked, self.mnt.path, timeout=20)

    def kill(self):
        self.waiter.kill()
        self.user.kill()

    def end(self):
        """Lets go of all of it; nothing of it stays."""
        self.user.do("fcntl.lockf(page, fcntl.LOCK_UN, 1, 5)")
        self.waiter.finish()
        self.kill()
        names = [name for name in self.names if name != "d"]
        util.call(clear, self.mnt.path, names)
        self.mnt.settled(self.before)


def locked(top):
    """Whether what the user of everything has locked is locked."""
    with opened(f"{top}/page") as fd:
        for start, length in (0, 5), (6, 4):
            with refused(errno.EAGAIN, errno.EACCES):
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
        with refused(errno.EAGAIN, errno.EACCES):
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
        fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 10, 100)
        with refused(errno.EAGAIN):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with opened(f"{top}/file") as fd:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    return True


def clear(top, names):
    for name in ["d/" + name for name in os.listdir(f"{top}/d")] + names:
        os.unlink(f"{top}/{name}")
    os.rmdir(f"{top}/d")
