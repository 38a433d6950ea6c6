# SPDX-License-Identifier: MIT
"""Random operations on views, each against plain bytes as the model. Of every mechanism and every
kind of section that can be copied on write there are views, and each must meet every operation: the
test counts, and fails for what was left out. What they are views of never changes.

SECTIONFS_TEST_LONG=1: two million operations. SECTIONFS_TEST_SEED: repeats a run."""

import collections
import contextlib
import errno
import mmap
import os
import random
import shutil
import time

import pytest

import util
from sections import make, patiently, set_keys, unused
from test_views import define, loop, mode  # noqa: F401 (a fixture)
from util import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, FALLOC_ZERO_RANGE, PAGE, Child, View,
                  eventually, extents, opened, pattern, sha, write)

LONG = bool(os.environ.get("SECTIONFS_TEST_LONG"))
OPERATIONS = 2_000_000 if LONG else 12_000
PROCESSES = 2
VIEWS = 4                               # that a process has open at a time
ROUND = 3000 if LONG else 400           # operations on four views, until four others are opened
LARGE, SMALL = 600_003, 150_001         # bytes: to be overlaid or cloned, and to be copied

# What each view must meet; those that are only read, the first part.
READING = ["pread", "load", "private", "seek", "direct read", "copied from", "reopen", "whole"]
WRITING = ["pwrite", "store", "append", "direct write", "cut", "grow", "fallocate", "keep size",
           "punch", "zero range", "copied to", "msync"]


class Subject:
    """A section: how it is opened for a view, and what that must turn out to be."""

    def __init__(self, name, size, native, flags=os.O_RDWR, path=None, alone=False):
        self.name, self.size, self.flags = name, size, flags
        self.native = native            # the mechanism where the mount has passthrough
        self.path = path or f".cow/{name}"
        self.alone = alone              # all opens share one view

    @property
    def kind(self):
        return self.name.rstrip("-0123456789")

    def expected(self, io):
        return self.native if io == "passthrough" else "overlay"


def subjects(number):
    """Those of one process. The shared ones it has for itself."""
    return [
        Subject("file", LARGE, "overlay"),
        Subject("page", LARGE, "overlay"),
        Subject("holes", LARGE, "overlay"),
        Subject("window", LARGE, "overlay"),
        Subject("clone", LARGE, "clone"),
        Subject("small-file", SMALL, "copy"),
        Subject("small-page", SMALL, "copy"),
        Subject("file", LARGE, "base", flags=os.O_RDONLY),
        Subject("page", LARGE, "base", flags=os.O_RDONLY),
        Subject("window", LARGE, "overlay", flags=os.O_RDONLY),
        Subject("chain", LARGE, "overlay", path="chain"),
        Subject("chain", LARGE, "overlay"),
        Subject("chain-small", SMALL, "copy", path="chain-small"),
        Subject("chain-page", LARGE, "overlay", path="chain-page"),
        Subject(f"shared-{number}", LARGE, "overlay", path=f"shared-{number}", alone=True),
        Subject(f"shared-chain-{number}", LARGE, "overlay", path=f"shared-chain-{number}", alone=True),
    ]


class Modelled:
    """A view, with a mapping of it, and the bytes that it should have."""

    def __init__(self, top, subject, data, io):
        self.subject, self.writes = subject, subject.flags == os.O_RDWR
        self.fd = os.open(f"{top}/{subject.path}", subject.flags)
        self.mechanism = mode(self.fd)
        assert self.mechanism == subject.expected(io), (subject.name, self.mechanism)
        self.model, self.most = bytearray(data), 2 * subject.size // PAGE * PAGE
        self.mapping = View(self.fd, self.most,
                            prot=mmap.PROT_READ | (mmap.PROT_WRITE if self.writes else 0))
        self.appender = self.again(os.O_WRONLY | os.O_APPEND) if self.writes else None
        self.direct = None
        with contextlib.suppress(OSError):      # not every file system has it
            self.direct = self.again(subject.flags | os.O_DIRECT)

    def again(self, flags):
        return os.open(f"/proc/self/fd/{self.fd}", flags)

    @property
    def size(self):
        return len(self.model)

    def counted(self, operation):
        return self.subject.kind, self.mechanism, operation

    def put(self, at, data):
        if at > self.size:
            self.model.extend(bytes(at - self.size))
        self.model[at:at + len(data)] = data

    def cut(self, size):
        del self.model[size:]
        self.model.extend(bytes(size - self.size))

    def zero(self, at, end):
        self.put(at, bytes(end - at))

    def same(self, found, at, length):
        expected = self.model[at:at + length]
        assert found == expected, f"{len(found)} bytes at {at}, first difference at " \
            f"{next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), 'the end')}"

    def check(self):
        self.same(os.pread(self.fd, self.most + PAGE, 0), 0, self.most + PAGE)
        assert os.fstat(self.fd).st_size == self.size

    def close(self):
        self.mapping.close()
        for fd in self.fd, self.appender, self.direct:
            if fd is not None:
                os.close(fd)


class Walk:
    """Random operations of one process on some views."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.noise = self.random.randbytes(1 << 20)
        self.buffer = mmap.mmap(-1, 16 * PAGE)          # aligned, as O_DIRECT wants it

    def data(self, length):
        at = self.random.randrange(len(self.noise) - length)
        return self.noise[at:at + length]

    def place(self, one):
        at = self.random.randrange(one.most)
        if self.random.random() < 0.4:
            at -= at % PAGE
        length = self.random.choice((1, 100, PAGE, 3 * PAGE + 5, 16 * PAGE))
        return at, min(length, one.most - at)

    def pages(self, one, most):
        """A range of whole pages below @most."""
        pages = most // PAGE
        if not pages:
            return None
        at = self.random.randrange(pages)
        return at * PAGE, min(self.random.choice((1, 2, 16)), pages - at) * PAGE

    # Each returns whether there was anything to do.

    def do_pread(self, one, views):
        at, length = self.place(one)
        one.same(os.pread(one.fd, length, at), at, length)

    def do_load(self, one, views):
        at, length = self.place(one)
        length = min(length, one.size - at)
        if length <= 0:
            return False
        one.same(one.mapping.read(at, length), at, length)

    def do_private(self, one, views):
        """What is stored to a private mapping is nobody else's."""
        where = self.pages(one, one.size)
        if not where:
            return False
        at, length = where
        own = View(one.fd, length, flags=mmap.MAP_PRIVATE, offset=at)
        one.same(own.read(0, length), at, length)
        stored = self.data(min(100, length))
        own.write(length - len(stored), stored)
        assert own.read(length - len(stored), len(stored)) == stored
        one.same(os.pread(one.fd, length, at), at, length)
        one.same(one.mapping.read(at, length), at, length)
        own.close()

    def do_seek(self, one, views):
        """What is told to be a hole has nothing in it, and what is told to be data ends somewhere."""
        at = self.random.randrange(one.most)
        try:
            data = os.lseek(one.fd, at, os.SEEK_DATA)
        except OSError as error:
            assert error.errno == errno.ENXIO
            assert not any(one.model[at:]), f"data after {at} is not found"
            return
        assert at <= data < one.size
        assert not any(one.model[at:data]), f"data between {at} and {data}"
        hole = os.lseek(one.fd, data, os.SEEK_HOLE)
        assert data < hole <= one.size
        assert os.lseek(one.fd, at, os.SEEK_HOLE) == (hole if data == at else at)

    def do_direct_read(self, one, views):
        where = self.pages(one, one.most)
        if one.direct is None or not where:
            return False
        at, length = where
        n = os.preadv(one.direct, [memoryview(self.buffer)[:length]], at)
        one.same(self.buffer[:n], at, length)

    def do_direct_write(self, one, views):
        where = self.pages(one, one.most)
        if one.direct is None:
            return False
        at, length = where
        data = self.data(length)
        self.buffer[:length] = data
        assert os.pwritev(one.direct, [memoryview(self.buffer)[:length]], at) == length
        one.put(at, data)

    def do_reopen(self, one, views):
        """As often as not with a descriptor that stays when the other one is closed."""
        fd = one.again(one.subject.flags)
        at, length = self.place(one)
        one.same(os.pread(fd, length, at), at, length)
        if self.random.random() < 0.5:
            fd, one.fd = one.fd, fd
        os.close(fd)

    def do_whole(self, one, views):
        one.check()

    def do_copied_from(self, one, views):
        two = self.random.choice(views)
        if two is one or not two.writes:
            return False
        return self.copy(one, two)

    def do_copied_to(self, one, views):
        two = self.random.choice(views)
        return two is not one and self.copy(two, one)

    def copy(self, one, two):
        at, length = self.place(one)
        to = self.random.randrange(two.most)
        length = min(length, one.size - at, two.most - to)
        if length <= 0:
            return False
        done = 0
        while done < length:
            count = os.copy_file_range(one.fd, two.fd, length - done, at + done, to + done)
            assert count > 0
            two.put(to + done, one.model[at + done:at + done + count])
            done += count
        return True

    def do_pwrite(self, one, views):
        at, length = self.place(one)
        data = self.data(length)
        assert os.pwrite(one.fd, data, at) == length
        one.put(at, data)

    def do_store(self, one, views):
        at, length = self.place(one)
        length = min(length, one.size - at)
        if length <= 0:
            return False
        data = self.data(length)
        one.mapping.write(at, data)
        one.put(at, data)

    def do_append(self, one, views):
        length = min(self.random.choice((1, 100, PAGE + 1)), one.most - one.size)
        if length <= 0:
            return False
        data = self.data(length)
        assert os.write(one.appender, data) == length
        one.put(one.size, data)

    def do_cut(self, one, views):
        if not one.size:
            return False
        size = max(0, one.size - self.random.choice((1, 100, PAGE, 20 * PAGE, one.size // 3)))
        size -= size % PAGE if self.random.random() < 0.3 else 0
        os.ftruncate(one.fd, size)
        one.cut(size)

    def do_grow(self, one, views):
        size = min(one.most, one.size + self.random.choice((1, 100, PAGE, 50 * PAGE)))
        os.ftruncate(one.fd, size)
        one.cut(size)

    def do_fallocate(self, one, views):
        at, length = self.place(one)
        util.fallocate(one.fd, 0, at, length)
        one.cut(max(one.size, at + length))

    def do_keep_size(self, one, views):
        at, length = self.place(one)
        util.fallocate(one.fd, FALLOC_KEEP_SIZE, at, length)

    def do_punch(self, one, views):
        at, length = self.place(one)
        util.fallocate(one.fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at, length)
        end = min(at + length, one.size)
        if at < end:
            one.zero(at, end)

    def do_zero_range(self, one, views):
        at, length = self.place(one)
        keep = self.random.random() < 0.5
        util.fallocate(one.fd, FALLOC_ZERO_RANGE | (FALLOC_KEEP_SIZE if keep else 0), at, length)
        if not keep:
            one.cut(max(one.size, at + length))
        end = min(at + length, one.size)
        if at < end:
            one.zero(at, end)

    def do_msync(self, one, views):
        one.mapping.sync()

    WEIGHTS = {"pread": 20, "load": 15, "pwrite": 20, "store": 20, "private": 4, "seek": 3,
               "direct read": 2, "direct write": 3, "copied from": 2, "copied to": 2, "reopen": 3,
               "append": 4, "cut": 4, "grow": 3, "fallocate": 2, "keep size": 1, "punch": 4,
               "zero range": 3, "msync": 1, "whole": 0.2}

    def round(self, views, steps, counts):
        """At least so many steps, and until each of the views has met everything that it must: chance
        alone leaves something out now and then."""
        operations, unmet = [], []
        for one in views:
            names = READING + (WRITING if one.writes else [])
            operations.append((names, [self.WEIGHTS[name] for name in names]))
            unmet += [(one, name) for name in names if not counts[one.counted(name)]]
        done = number = 0
        while number < steps or unmet:
            number += 1
            if unmet and self.random.random() < 0.2:
                one, name = self.random.choice(unmet)
            else:
                which = self.random.randrange(len(views))
                one = views[which]
                (name,) = self.random.choices(*operations[which])
            operation = getattr(self, "do_" + name.replace(" ", "_"))
            try:
                if operation(one, views) is not False:
                    counts[one.counted(name)] += 1
                    done += 1
                    if (one, name) in unmet:
                        unmet.remove((one, name))
            except BaseException as error:
                error.add_note(f"in step {number}: {name} on a view of {one.subject.name} by "
                               f"{one.subject.path}, {one.mechanism}")
                raise
        for one in views:
            one.check()
            counts[one.counted("whole")] += 1
        return done


def walk(top, io, number, seed, operations):
    """In a process of its own. How often which operation met a view of which mechanism."""
    walk = Walk(seed * PROCESSES + number)
    all_of_them = subjects(number)
    bases = {}
    counts = collections.Counter()
    turn = []
    done = 0
    # All of them have had their turn at least once, in whatever company.
    while done < operations or turn:
        while not turn or any(sum(one.flags == os.O_RDWR for one in turn[at:at + VIEWS]) < 2
                              for at in range(0, len(turn), VIEWS)):
            turn = walk.random.sample(all_of_them, len(all_of_them))    # who reads can copy to somebody
        chosen, turn = turn[:VIEWS], turn[VIEWS:]
        if done >= operations:
            turn = []
        for subject in chosen:
            if subject.name not in bases:
                with opened(f"{top}/{subject.path}", os.O_RDONLY) as fd:
                    bases[subject.name] = os.pread(fd, 2 * LARGE, 0)
                assert len(bases[subject.name]) == subject.size
        views = [Modelled(top, subject, bases[subject.name], io) for subject in chosen]
        done += walk.round(views, ROUND, counts)
        for one in views:
            one.close()
        for subject in chosen:
            if subject.alone:           # the view goes with the last close, a moment after it
                eventually(lambda: os.getxattr(f"{top}/{subject.path}", "user.section.opens") == b"0")
    return counts


def holes_in(size):
    data = bytearray(pattern("holes", size))
    for at in range(0, size, 40 * PAGE):
        data[at + PAGE:at + 20 * PAGE] = bytes(19 * PAGE)
    return bytes(data[:size])


class Bases:
    """The sections that there are views of, and what must never change about them."""

    def __init__(self, mnt, place, reflink):
        self.mnt, self.files = mnt, {}
        where = {"clone": reflink or place}
        for name, size in (("file", LARGE), ("clone", LARGE), ("small-file", SMALL),
                           ("window", LARGE), ("under-chain", LARGE), ("under-small", SMALL)):
            path = f"{where.get(name, place)}/real-{name}"
            # Of a window there is more on both sides.
            write(path, pattern(name, size + 2 * PAGE if name == "window" else size))
            if mnt.user:
                os.chown(path, mnt.user.uid, mnt.user.gid)
            self.files[name] = path
        os.sync()                                       # so that their extents are what they will be
        mnt.run(self.define)
        self.before = self.facts()

    def define(self):
        mnt = self.mnt
        for name in "file", "clone", "small-file":
            define(mnt / name, self.files[name])
        make(mnt / "window", file=self.files["window"], offset=PAGE, length=LARGE)
        for name, data in (("page", pattern("page", LARGE)), ("small-page", pattern("page", SMALL)),
                           ("under-chain-page", pattern("under", LARGE))):
            write(mnt / name, data)
        with opened(mnt / "holes", os.O_CREAT | os.O_RDWR) as fd:
            data = holes_in(LARGE)
            for at in range(0, LARGE, PAGE):
                if any(data[at:at + PAGE]):
                    os.pwrite(fd, data[at:at + PAGE], at)
            os.ftruncate(fd, LARGE)
        # Writecopy over writecopy over a file, or over memory.
        for name, under in (("chain", "under-chain"), ("chain-small", "under-small")):
            make(mnt / under, file=self.files[under], protect="writecopy")
            make(mnt / f"{name}-middle", base=under)
            make(mnt / name, base=f"{name}-middle")
        unused(mnt / "under-chain-page")
        patiently(lambda: set_keys(mnt / "under-chain-page", protect="writecopy"))
        make(mnt / "chain-page", base="under-chain-page")
        unused(mnt / "page")
        for number in range(PROCESSES):
            make(mnt / f"shared-{number}", base="page", cow="section")
            make(mnt / f"shared-chain-{number}", base="chain-middle", cow="section")

    def facts(self):
        real = {}
        for name, path in self.files.items():
            status = os.stat(path)
            real[name] = (sha(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                          status.st_blocks, self.layout(path), extents(path))
        return real, self.mnt.run(self.facts_inside)

    def facts_inside(self):
        found = {}
        for name in os.listdir(self.mnt.path):
            path = self.mnt / name
            status = os.stat(path)
            found[name] = (sha(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                           status.st_blocks, self.layout(path))
        return found

    @staticmethod
    def layout(path):
        """Where there is data, as lseek tells."""
        found, at = [], 0
        with opened(path, os.O_RDONLY) as fd, contextlib.suppress(OSError):
            while True:
                at = os.lseek(fd, at, os.SEEK_DATA)
                end = os.lseek(fd, at, os.SEEK_HOLE)
                found.append((at, end))
                at = end
        return found


@pytest.mark.modes("passthrough", "cached", "user")
def test_random_operations(request, mnt, place, session):
    seed = int(os.environ.get("SECTIONFS_TEST_SEED", time.time_ns() % 1_000_000_007))
    print(f"SECTIONFS_TEST_SEED={seed}")
    session.watchdog.arm(3600 if LONG else 300)
    # Where nothing can be cloned the test would not be what it says.
    reflink = None
    if mnt.mode == "passthrough":
        reflink = request.getfixturevalue("loop")("xfs" if shutil.which("mkfs.xfs") else "btrfs")
    bases = Bases(mnt, place, reflink)
    before = mnt.stats()
    start = time.monotonic()
    children = []
    for number in range(PROCESSES):
        child = Child(user=mnt.user, names={"walk": walk})
        child.socket.settimeout(3600)
        child.begin("walk(top, io, number, seed, operations)", _kind="get", top=mnt.path, io=mnt.mode,
                    number=number, seed=seed, operations=OPERATIONS // PROCESSES)
        children.append(child)
    counts = collections.Counter()
    for child in children:
        counts += child.finish()
        child.kill()
    took = time.monotonic() - start
    by_mechanism = collections.Counter()
    for (name, mechanism, operation), count in counts.items():
        by_mechanism[mechanism] += count
    print(f"{counts.total()} operations in {took:.0f} s: {dict(by_mechanism)}")
    assert counts.total() >= OPERATIONS
    check_complete(mnt.mode, counts)
    mnt.settled(before, timeout=60)
    assert bases.facts() == bases.before
    for name in os.listdir(mnt.path) if not mnt.user else ():
        os.unlink(mnt / name)
    if reflink:
        eventually(lambda: mnt.stats()["sections"] == 0)


def check_complete(io, counts):
    """Every kind of view was there, and met every operation."""
    kinds = {(one.kind, one.expected(io)) for one in subjects(0)}
    assert {(name, mechanism) for name, mechanism, _ in counts} == kinds
    if io == "passthrough":
        assert {mechanism for _, mechanism in kinds} == {"base", "copy", "clone", "overlay"}
    missing = [(name, mechanism, operation) for name, mechanism in kinds
               for operation in READING + (WRITING if mechanism != "base" else [])
               if not counts[name, mechanism, operation]]
    assert not missing, missing
