# SPDX-License-Identifier: MIT
"""The worker dies: nothing is lost, nothing is done twice, nobody is told."""

import contextlib
import errno
import fcntl
import mmap
import os
import random
import select
import shutil
import signal
import time

import pytest

import util
from deaths import both_modes, kill_worker, resumed, worker_of
from util import (MIB, PAGE, Child, View, eventually, kill, opened, pattern, read,
                  refused, write)
from test_views import loop  # noqa: F401 (a fixture)

LONG = os.environ.get("SECTIONFS_TEST_LONG") == "1"
DEATHS = 1000 if LONG else 100
KILL_MS = [float(n) for n in os.environ.get("SECTIONFS_TEST_KILL_MS", "20-80").split("-")]
PROCESSES = 8


# --- One client after the other ---------------------------------------------------------------

def test_names_and_attributes_stay(mnt):
    os.mkdir(mnt / "d", 0o750)
    write(mnt / "d/a", b"some bytes")
    os.link(mnt / "d/a", mnt / "b")
    os.symlink("d/a", mnt / "s")
    os.mkfifo(mnt / "f", 0o600)
    long = "n" * 255
    write(mnt / long, b"")
    os.setxattr(mnt / "d/a", "user.x", b"v" * 1000)
    os.chown(mnt / "b", 12, 34)
    os.utime(mnt / "d", ns=(10 ** 18, 2 * 10 ** 18))

    def all_of_it():
        found = {}
        for root, dirs, files in os.walk(mnt.path):
            for name in dirs + files:
                st = os.lstat(f"{root}/{name}")
                found[f"{root}/{name}"] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_ino,
                                           st.st_size, st.st_mtime_ns, st.st_ctime_ns)
        return found
    before = all_of_it()
    for _ in range(3):
        resumed(mnt)
        assert all_of_it() == before
        assert os.getxattr(mnt / "d/a", "user.x") == b"v" * 1000
        assert os.readlink(mnt / "s") == "d/a"
        assert read(mnt / "b") == b"some bytes"
    figures = mnt.stats()
    assert figures["deaths"] == figures["resumes"] == 3
    assert 0 < figures["resume_last_us"] <= figures["resume_max_us"] <= figures["resume_total_us"]
    assert mnt.log_text().count("was ended by signal 9") == 3


def test_open_files_stay(mnt, place):
    """Open descriptors of every kind go on, those of unlinked sections too."""
    write(f"{place}/real", pattern("real", 8 * PAGE))
    with opened(mnt / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.setxattr(fd, "user.section.file", os.fsencode(f"{place}/real"))
    write(mnt / "page", pattern("page", 8 * PAGE))
    before = mnt.stats()
    page, real = os.open(mnt / "page", os.O_RDWR), os.open(mnt / "file", os.O_RDWR)
    cow, cow_real = os.open(mnt.cow("page"), os.O_RDWR), os.open(mnt.cow("file"), os.O_RDWR)
    unnamed = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR)
    write(mnt / "gone", b"gone")
    gone = os.open(mnt / "gone", os.O_RDWR)
    os.unlink(mnt / "gone")
    os.pwrite(cow, b"view", PAGE)
    os.pwrite(cow, b"tail", 100 * PAGE)
    os.pwrite(cow_real, b"view", 0)
    os.ftruncate(cow_real, 3 * PAGE + 5)
    os.write(unnamed, b"unnamed")
    private = int(os.getxattr(f"/proc/self/fd/{cow}", "user.section.private"))
    text = os.open(mnt / ".stats", os.O_RDONLY)
    start = os.read(text, 100)
    view = View(page, 8 * PAGE)
    for n in range(3):
        resumed(mnt)
        assert os.pread(text, 100, 0) == start
        assert os.pread(page, 8 * PAGE, 0)[5:] == pattern("page", 8 * PAGE)[5:]
        assert os.pread(gone, 10, 0) == b"gone" and os.pread(unnamed, 10, 0) == b"unnamed"
        expected = bytearray(pattern("page", 8 * PAGE) + bytes(92 * PAGE) + b"tail")
        expected[PAGE:PAGE + 4] = b"view"
        assert os.pread(cow, 200 * PAGE, 0) == expected
        assert int(os.getxattr(f"/proc/self/fd/{cow}", "user.section.private")) == private
        assert os.pread(cow_real, 9 * PAGE, 0) == b"view" + pattern("real", 8 * PAGE)[4:3 * PAGE + 5]
        os.pwrite(page, b"%d" % n, 0)
        assert view.read(0, 1) == b"%d" % n
        view.write(1, b"%d" % n)
        view.sync()
        assert os.pread(page, 2, 0) == b"%d%d" % (n, n)
        os.pwrite(real, b"%d" % n, PAGE)
        assert read(f"{place}/real")[PAGE:PAGE + 1] == b"%d" % n
        assert mnt.stats()["handles"] == before["handles"] + 6
    view.close()
    for fd in page, real, cow, cow_real, unnamed, gone, text:
        os.close(fd)
    mnt.settled(before)


def test_the_store_is_counted_anew(mnt):
    before = mnt.stats()
    write(mnt / "a", bytes(3 * MIB))
    fd = os.open(mnt.cow("a"), os.O_RDWR)
    os.pwrite(fd, pattern(1, MIB), 0)
    used = mnt.stats()
    resumed(mnt)
    now = mnt.stats()
    assert (now["size_used"], now["size_overlays"]) == (used["size_used"], used["size_overlays"])
    os.close(fd)
    os.unlink(mnt / "a")
    mnt.settled(before, "size_used", "size_overlays", "handles")


def test_locks_stay(mnt):
    write(mnt / "a", bytes(100))
    one, two = mnt.child(), mnt.child()
    for child in one, two:
        child.do("import fcntl\nfd = os.open(path, os.O_RDWR)", path=mnt / "a")
    one.do("fcntl.flock(fd, fcntl.LOCK_EX)\nfcntl.lockf(fd, fcntl.LOCK_EX, 10, 20)")
    for _ in range(2):
        resumed(mnt)
        with refused(errno.EAGAIN):
            two.do("fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)")
        with refused(errno.EAGAIN, errno.EACCES):
            two.do("fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 29)")
        two.do("fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 30)")
    two.begin("fcntl.lockf(fd, fcntl.LOCK_EX, 1, 20)")          # waits through the next death
    time.sleep(0.1)
    resumed(mnt)
    one.do("fcntl.lockf(fd, fcntl.LOCK_UN, 10, 20)")
    two.finish()
    two.begin("fcntl.flock(fd, fcntl.LOCK_EX)")
    one.do("os.close(fd)")
    two.finish()


def use_for(seconds, files):
    """Reads, writes, loads and stores all of them again and again, and checks that they agree;
    files: of (descriptor, its view). Rounds, and the longest that any single step took, in s."""
    longest, n, end = 0, 0, time.monotonic() + seconds

    def timed(step, *arguments):
        nonlocal longest
        before = time.perf_counter()
        result = step(*arguments)
        longest = max(longest, time.perf_counter() - before)
        return result
    while time.monotonic() < end:
        at, text = n % 16 * PAGE, b"%08d" % n
        for fd, view in files:
            timed(os.pwrite, fd, text, at)
            timed(view.write, at + 8, text)
            assert timed(os.pread, fd, 16, at) == text * 2
            assert timed(view.read, at, 16) == text * 2
        n += 1
    return n, longest


def test_io_goes_on_without_a_worker(loop, new_mount, place):
    """What passes the daemon by does not notice that there is none for a second: sections, and views
    that have a copy or a clone."""
    disk = loop("xfs")
    mnt = new_mount("passthrough")
    write(mnt / "page", bytes(MIB))
    write(mnt / "small", bytes(16 * PAGE))
    sizes = {f"{place}/real": MIB, f"{place}/less": 16 * PAGE, f"{disk}/clone": 4 * MIB}
    for path, size in sizes.items():
        write(path, bytes(size))
        with opened(mnt / os.path.basename(path), os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
            os.setxattr(fd, "user.section.file", os.fsencode(path))
    names = [mnt / "page", mnt / "real", mnt.cow("small"), mnt.cow("less"), mnt.cow("clone")]
    fds = [os.open(name, os.O_RDWR) for name in names]
    files = [(fd, View(fd, 16 * PAGE)) for fd in fds]
    _, with_worker = use_for(1, files)
    kill(mnt.keeper, signal.SIGSTOP)
    kill_worker(mnt)
    n, without = use_for(1, files)
    kill(mnt.keeper, signal.SIGCONT)
    figures = mnt.stats()
    for fd, view in files:
        view.close()
        os.close(fd)
    print(f"the longest step took {with_worker * 1e6:.0f} us with a worker, "
          f"{without * 1e6:.0f} us without")
    assert figures["deaths"] == 1
    assert figures["requests_read"] == figures["requests_write"] == 0
    assert n > 100 and without < 0.5
    assert mnt.stop() == []         # before the disk, which it has open
    mnt.keeper = None


def test_mappings_go_on_without_a_worker(new_mount):
    """Pages that a program has are its own to use, where reading passes through the daemon too."""
    mnt = new_mount("cached")
    write(mnt / "a", pattern("a", 64 * PAGE))
    with opened(mnt / "a") as fd, opened(mnt.cow("a")) as copy:
        view, own = View(fd, 64 * PAGE), View(copy, 64 * PAGE)
        assert view.read(0, 64 * PAGE) == own.read(0, 64 * PAGE) == pattern("a", 64 * PAGE)
        kill(mnt.keeper, signal.SIGSTOP)
        kill_worker(mnt)
        end, n = time.monotonic() + 1, 0
        while time.monotonic() < end:
            assert view.read(n % 64 * PAGE, PAGE) == pattern("a", 64 * PAGE)[n % 64 * PAGE:][:PAGE]
            assert own.read(n % 64 * PAGE, PAGE) == view.read(n % 64 * PAGE, PAGE)
            assert os.pread(fd, PAGE, n % 64 * PAGE) == view.read(n % 64 * PAGE, PAGE)
            n += 1
        kill(mnt.keeper, signal.SIGCONT)
        assert mnt.stats()["deaths"] == 1
        view.close()
        own.close()
    assert n > 100


def test_many_sections_and_handles(new_mount, session):
    """How long it takes to go on with them. Only the long run is held to it."""
    session.watchdog.arm(300)
    sections, handles = (100000, 10000) if LONG else (5000, 500)
    mnt = new_mount("passthrough")
    before = mnt.stats()
    for n in range(sections):
        if n % 1000 == 0:
            os.mkdir(mnt / f"d{n // 1000}")
        os.mknod(mnt / f"d{n // 1000}/s{n}", 0o100644)
    names = [mnt / f"d{n // 1000}/s{n}" for n in range(0, sections, sections // handles)]
    child = mnt.child()
    child.do("import resource\n"
             "resource.setrlimit(resource.RLIMIT_NOFILE, (20000, 20000))\n"
             "fds = [os.open(name, os.O_RDWR) for name in names]\n"
             "for fd in fds: os.write(fd, b'%d' % fd)", names=names)
    resumed(mnt)
    assert child.get("all(os.pread(fd, 9, 0) == b'%d' % fd for fd in fds)")
    figures = mnt.stats()
    assert figures["handles"] == before["handles"] + handles
    print(f"{figures['resume_last_us']} us without a worker")
    assert not LONG or figures["resume_last_us"] < 500000
    child.kill()
    mnt.settled(before, "handles")


# --- Requests that come again ------------------------------------------------------------------

class Client:
    """One process: does this and that, and knows what must come of it."""

    def __init__(self, top, number, real, shared, seed):
        self.top, self.number, self.real, self.shared = top, number, real, shared
        self.root = f"{top}/c{number}"
        self.random = random.Random(seed * 1000 + number)
        self.files = {}             # name: [content, identity]
        self.count = self.added = self.appended = 0
        os.mkdir(self.root)

    def path(self, name):
        return f"{self.root}/{name}"

    def new_name(self):
        self.count += 1
        return f"n{self.count}" + "x" * self.random.choice([0, 0, 200])

    def any(self):
        return self.random.choice(list(self.files))

    def data(self, limit=20000):
        return self.random.randbytes(self.random.randrange(1, limit))

    def create(self):
        name, data = self.new_name(), self.data()
        fd = os.open(self.path(name), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
        assert os.write(fd, data) == len(data)
        os.close(fd)
        self.files[name] = [bytearray(data), object()]

    def write(self):
        name = self.any()
        content = self.files[name][0]
        at, data = self.random.randrange(30000), self.data()
        fd = os.open(self.path(name), os.O_RDWR)
        assert os.pwrite(fd, data, at) == len(data)
        content.extend(bytes(max(0, at - len(content))))
        content[at:at + len(data)] = data
        assert os.pread(fd, 100000, 0) == content
        os.close(fd)

    def append(self):
        name = self.any()
        fd = os.open(self.path(name), os.O_WRONLY | os.O_APPEND)
        for _ in range(3):
            data = self.data(300)
            assert os.write(fd, data) == len(data)
            self.files[name][0].extend(data)
        os.close(fd)
        assert os.stat(self.path(name)).st_size == len(self.files[name][0])

    def append_to_file(self):
        """To a real file, of which each client has one."""
        fd = os.open(f"{self.top}/real{self.number}", os.O_WRONLY | os.O_APPEND)
        self.appended += 1
        line = b"%08d\n" % self.appended
        assert os.write(fd, line) == len(line)
        os.close(fd)

    def map(self):
        name = self.any()
        content = self.files[name][0]
        fd = os.open(self.path(name), os.O_RDWR)
        if content:
            with mmap.mmap(fd, len(content)) as mapping:
                at = self.random.randrange(len(content))
                data = self.data(200)[:len(content) - at]
                mapping[at:at + len(data)] = data
                content[at:at + len(data)] = data
                assert mapping[:] == content
        os.close(fd)

    def truncate(self):
        name = self.any()
        content = self.files[name][0]
        size = self.random.randrange(40000)
        os.truncate(self.path(name), size)
        del content[size:]
        content.extend(bytes(size - len(content)))
        self.check(name)

    def check(self, name=None):
        name = name or self.any()
        with open(self.path(name), "rb", buffering=0) as file:
            assert file.read(100000) == self.files[name][0], f"wrong bytes in {name}"

    def rename(self):
        old, new = self.any(), self.any() if self.random.random() < 0.4 else self.new_name()
        os.rename(self.path(old), self.path(new))
        if self.files.get(new, [0, 0])[1] is not self.files[old][1]:
            self.files[new] = self.files.pop(old)
        assert (not os.path.exists(self.path(old))) == (old not in self.files)

    def exchange(self):
        old, new = self.any(), self.any()
        util.renameat2(self.path(old), self.path(new), util.RENAME_EXCHANGE)
        self.files[old], self.files[new] = self.files[new], self.files[old]

    def link(self):
        old, new = self.any(), self.new_name()
        os.link(self.path(old), self.path(new))
        self.files[new] = self.files[old]
        names = sum(file is self.files[old] for file in self.files.values())
        assert os.stat(self.path(new)).st_nlink == names

    def unlink(self):
        name = self.any()
        os.unlink(self.path(name))
        del self.files[name]
        assert not os.path.lexists(self.path(name))

    def folder(self):
        name = self.path(self.new_name())
        os.mkdir(name)
        os.symlink("to nowhere", name + "/s")
        assert os.readlink(name + "/s") == "to nowhere"
        os.mknod(name + "/p", 0o600 | 0o010000)
        assert sorted(os.listdir(name)) == ["p", "s"]
        os.unlink(name + "/s")
        os.unlink(name + "/p")
        os.rmdir(name)

    def unnamed(self):
        data = self.data()
        fd = os.open(self.root, os.O_TMPFILE | os.O_RDWR, 0o600)
        os.write(fd, data)
        if self.random.random() < 0.5:
            name = self.new_name()
            util.link_fd(fd, self.path(name))
            self.files[name] = [bytearray(data), object()]
        assert os.pread(fd, 100000, 0) == data
        os.close(fd)

    def attribute(self):
        path, value = self.path(self.any()), self.data(300)
        name = "user.a" + self.new_name()
        os.setxattr(path, name, value, os.XATTR_CREATE)
        assert os.getxattr(path, name) == value
        os.setxattr(path, name, b"other", os.XATTR_REPLACE)
        assert os.getxattr(path, name) == b"other"
        os.removexattr(path, name)
        os.chmod(path, 0o600)
        assert os.stat(path).st_mode & 0o777 == 0o600

    def temporary(self):
        path = self.path(self.new_name())
        fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.setxattr(fd, "user.section.lifetime", b"temporary")
        os.write(fd, b"for a while")
        other = os.open(path, os.O_RDONLY)
        os.close(fd)
        assert os.read(other, 100) == b"for a while"
        os.close(other)
        eventually(lambda: not os.path.exists(path), 30, "a temporary section that stays")

    def copy(self):
        name = self.any()
        content = bytearray(self.files[name][0])
        fd = os.open(f"{self.top}/.cow/c{self.number}/{name}", os.O_RDWR)
        for _ in range(4):
            at, data = self.random.randrange(30000), self.data()
            os.pwrite(fd, data, at)
            content.extend(bytes(max(0, at - len(content))))
            content[at:at + len(data)] = data
            assert os.pread(fd, 200000, 0) == content
        if self.random.random() < 0.5:
            size = self.random.randrange(30000)
            os.ftruncate(fd, size)
            os.ftruncate(fd, len(content))
            content[size:] = bytes(max(0, len(content) - size))
            assert os.pread(fd, 200000, 0) == content
        os.close(fd)
        self.check(name)

    def lock(self):
        """A number in a file that all clients add to, each under a lock."""
        fd = os.open(f"{self.top}/number", os.O_RDWR)
        whole = self.random.random() < 0.5
        fcntl.flock(fd, fcntl.LOCK_EX)
        if not whole:
            fcntl.lockf(fd, fcntl.LOCK_EX, 8, 0)
        number = int(os.pread(fd, 8, 0))
        os.pwrite(fd, b"%08d" % (number + 1), 0)
        if not whole:
            fcntl.lockf(fd, fcntl.LOCK_UN, 8, 0)
        if self.random.random() < 0.5:
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)
        self.added += 1

    def list(self):
        assert sorted(os.listdir(self.root)) == sorted(self.files)

    def define(self):
        name = self.path(self.new_name())
        with open(f"{self.real}/own{self.number}", "wb") as file:
            data = self.data()
            file.write(data)
        fd = os.open(name, os.O_CREAT | os.O_EXCL | os.O_RDWR)
        os.setxattr(fd, "user.section.file", os.fsencode(file.name))
        os.close(fd)
        with open(name, "r+b", buffering=0) as section:
            assert section.read() == data
            section.seek(0)
            section.write(b"!")
        with open(file.name, "rb") as file:
            assert file.read() == b"!" + data[1:]
        os.unlink(name)

    def work(self, stop):
        steps = [self.write, self.append, self.append_to_file, self.map, self.truncate, self.check,
                 self.rename, self.exchange, self.link, self.unlink, self.folder, self.unnamed,
                 self.attribute, self.temporary, self.copy, self.lock, self.list, self.define,
                 self.create, self.create]
        done = 0
        while not os.path.exists(stop):
            step = self.create if len(self.files) < 3 else self.random.choice(steps)
            if len(self.files) > 40:
                step = self.unlink
            try:
                step()
            except Exception as error:
                error.add_note(f"in {step.__name__}, step {done} of client {self.number}")
                raise
            done += 1
        for name in self.files:
            self.check(name)
        self.list()
        return done, self.added, self.appended

    def clear(self):
        for name in os.listdir(self.root):
            os.unlink(self.path(name))
        os.rmdir(self.root)


def begin_clients(mnt, place, count=PROCESSES, seed=None):
    seed = seed or int(os.environ.get("SECTIONFS_TEST_SEED", random.randrange(1 << 20)))
    print("SECTIONFS_TEST_SEED =", seed)
    write(mnt / "number", b"%08d" % 0)
    clients = []
    for n in range(count):
        write(f"{place}/real{n}", b"")
        with opened(mnt / f"real{n}", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
            os.setxattr(fd, "user.section.file", os.fsencode(f"{place}/real{n}"))
        child = Child(names={"Client": Client})
        child.do("client = Client(top, number, real, None, seed)", top=mnt.path, number=n,
                 real=place, seed=seed)
        clients.append(child)
    for child in clients:
        child.begin("client.work(stop)", _kind="get", stop=f"{place}/stop")
    return clients


def one_has_ended(clients):
    """Whether there is one that has something to say before it was told to end: a failure."""
    return select.select([child.socket for child in clients], [], [], 0)[0] != []


@contextlib.contextmanager
def explained(mnt):
    """Has a failure tell what everybody was doing at the time, before all that is taken away."""
    try:
        yield
    except Exception as error:
        error.add_note("threads at the time:\n" + util.threads_below(os.getpid()))
        with contextlib.suppress(Exception):
            checked = util.run(mnt.command[0], "--check-registry", mnt.path, ok=False, timeout=20)
            error.add_note(f"the registry: {checked.stdout or checked.stderr or 'in order'}")
        with contextlib.suppress(Exception):
            error.add_note("the mount's figures:\n" + util.call(read, mnt / ".stats",
                                                                timeout=20).decode())
        raise


def end_clients(mnt, place, clients, before):
    """Lets them end, checks what they did together, and that nothing is left of it."""
    with explained(mnt):
        return _end_clients(mnt, place, clients, before)


def _end_clients(mnt, place, clients, before):
    write(f"{place}/stop", b"")
    for child in clients:
        child.socket.settimeout(120)
    results = [child.finish() for child in clients]
    assert int(read(mnt / "number")) == sum(added for _, added, _ in results)
    for n, (_, _, appended) in enumerate(results):
        lines = [b"%08d\n" % i for i in range(1, appended + 1)]
        assert read(f"{place}/real{n}") == b"".join(lines), f"real{n}"
    for n, child in enumerate(clients):
        child.do("client.clear()")
        os.unlink(mnt / f"real{n}")
    os.unlink(mnt / "number")
    assert os.listdir(mnt.path) == []
    mnt.settled(before, timeout=60)
    return sum(done for done, _, _ in results)


@contextlib.contextmanager
def memory_is_moved_about():
    """As the kernel does it by itself to make room for large pages. What it copies to and from at
    that moment must not be among that: see fixed.h."""
    child = Child()
    child.begin("while True:\n"
                "    with open('/proc/sys/vm/compact_memory', 'w') as file: file.write('1')\n"
                "    time.sleep(0.01)")
    yield
    child.kill()


def test_killed_again_and_again_under_load(mnt, place, session):
    session.watchdog.arm(600 if not LONG else 3600)
    before = mnt.stats()
    clients = begin_clients(mnt, place)
    chance = random.Random(1)
    killed = set()
    with explained(mnt), memory_is_moved_about() if LONG else contextlib.nullcontext():
        while len(killed) < DEATHS and not one_has_ended(clients):
            time.sleep(chance.uniform(*KILL_MS) / 1000)
            killed.add(kill_worker(mnt))
        checked = util.run(mnt.command[0], "--check-registry", mnt.path, ok=False)
        assert (checked.returncode, checked.stdout) == (0, "")
    done = end_clients(mnt, place, clients, before)
    util.run(mnt.command[0], "--check-registry", mnt.path)
    figures = mnt.stats()
    print(f"{done} steps; {figures['deaths']} deaths, {figures['resent']} requests again, "
          f"at most {figures['resume_max_us']} µs without a worker")
    assert figures["deaths"] == len(killed) == DEATHS


@pytest.fixture
def slow_disk(new_mount, place):
    """A file system on a device that can be made to wait: its bytes are in another mount, whose
    worker is stopped. Who reads or writes there then sleeps where no signal reaches."""
    server = new_mount("cached")
    image, disk = server / "image", f"{place}/disk"
    tool = shutil.which("mkfs.ext4")
    if tool is None:
        pytest.skip("there is no mkfs.ext4")
    write(image, b"")
    os.truncate(image, 16 * MIB)
    util.run(tool, "-q", image)
    os.mkdir(disk)
    result = util.run("mount", "-o", "loop", image, disk, ok=False)
    if result.returncode != 0:
        pytest.skip(f"cannot mount ext4: {result.stderr.strip()}")

    @contextlib.contextmanager
    def slow(name):
        with opened(f"{disk}/{name}") as file, opened(image) as device:
            util.check(util.libc.syncfs(file))
            for fd in file, device:
                os.fsync(fd)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        worker, _ = worker_of(server)
        kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            kill(worker, signal.SIGCONT)
    yield disk, slow
    eventually(lambda: util.run("umount", disk, ok=False).returncode == 0)


def test_what_a_dead_worker_is_still_doing_is_not_done_twice(slow_disk, new_mount):
    """A thread of it waits for a disk, and does what it had begun when that answers."""
    disk, slow = slow_disk
    mnt = new_mount("cached")
    try:
        write(f"{disk}/log", b"one\n")
        with opened(mnt / "log", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
            os.setxattr(fd, "user.section.file", os.fsencode(f"{disk}/log"))
        child = mnt.child()
        child.do("fd = os.open(path, os.O_WRONLY | os.O_APPEND); os.write(fd, b'two\\n')",
                 path=mnt / "log")
        with slow("log"):
            child.begin("os.write(fd, b'three\\n')")
            for n in range(3):
                time.sleep(0.2)
                kill_worker(mnt)
                eventually(lambda: mnt.log_text().count("going on after") == n + 1)
                write(mnt / "page", b"%d" % n)          # all else is served meanwhile
                assert read(mnt / "page") == b"%d" % n
            time.sleep(0.2)
        child.finish()
        child.do("os.write(fd, b'four\\n'); os.close(fd)")
        assert read(f"{disk}/log") == b"one\ntwo\nthree\nfour\n"
    finally:
        problems = mnt.stop()       # before the disk, which it has open
        mnt.keeper = None
    assert problems == []


# --- Ends one after the other -----------------------------------------------------------------

def test_worker_that_ends_as_soon_as_it_serves(new_mount):
    """By itself, which SIGUSR2 stands for here: in the end the keeper takes its time. It does not
    after one that has served for a while."""
    mnt = new_mount("cached")
    took = []
    for _ in range(27):
        kill_worker(mnt, signal.SIGUSR2)
        eventually(lambda: mnt.stats()["deaths"] == len(took) + 1)
        took.append(mnt.stats()["resume_last_us"])
    assert min(took[20:]) > 40000 and took[-1] > 300000 and sorted(took[:20])[10] < 300000, took
    time.sleep(2.2)
    kill_worker(mnt, signal.SIGUSR2)
    eventually(lambda: mnt.stats()["deaths"] == 28)
    assert mnt.stats()["resume_last_us"] < 300000


def test_worker_that_is_killed_before_anybody_is_served(faulty):
    """Whoever starts the mount hears of it."""
    with pytest.raises(RuntimeError, match="(?s)ended with status 1.*the worker could not start"):
        faulty("cached", SECTIONFS_KILL_AT=",".join(str(5 * n) for n in range(1, 20)))


# --- Faults on demand -------------------------------------------------------------------------

@both_modes
def test_a_request_that_ends_workers_gets_eio(faulty, mode):
    """And no other one does."""
    mnt = faulty(mode, SECTIONFS_ABORT_AT="10")             # FUSE_UNLINK
    write(mnt / "a", b"bytes")
    fd = os.open(mnt / "a", os.O_RDWR)
    with refused(errno.EIO):
        os.unlink(mnt / "a")
    assert mnt.stats()["deaths"] == 3
    assert "(opcode 10" in mnt.log_text()
    assert os.pread(fd, 10, 0) == read(mnt / "a") == b"bytes"
    os.rename(mnt / "a", mnt / "b")
    os.close(fd)


@both_modes
def test_killed_more_often_than_it_can_serve(faulty, mode):
    """For as long as that goes on; it is no failure of the worker's."""
    mnt = faulty(mode, SECTIONFS_KILL_AT=",".join(str(point) for point in range(3000, 3108)))
    with opened(mnt / "a", os.O_CREAT | os.O_RDWR) as fd:
        n = 0
        while mnt.stats()["deaths"] == 0:
            os.ftruncate(fd, n)
            n += 1
        assert os.fstat(fd).st_size == n - 1
    # Another thread of a worker that is dying may pass the next point.
    assert 100 < mnt.stats()["deaths"] <= 108
    assert mnt.log_text().count("did not get to serve") > 100
