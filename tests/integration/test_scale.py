# SPDX-License-Identifier: MIT
"""Very many sections, running out of things, and how many requests it takes.

Time is only ever compared with time of the same run. Requests are counted, by .stats.
SECTIONFS_TEST_LONG=1 has the full size.
"""

import contextlib
import errno
import os
import resource
import shutil
import stat
import subprocess
import time

import pytest

from util import KIB, MIB, PAGE, Child, eventually, opened, pairs, read, refused, run, write

LONG = os.environ.get("SECTIONFS_TEST_LONG", "0") not in ("", "0")
MANY = 200_000 if LONG else 20_000
QUARTER = MANY // 4
SLOW = bool(os.environ.get("SECTIONFS_TEST_SLOW"))
SLOWER = 10 if SLOW else 3      # times as long, the last quarter may take, compared with the first
EACH = KIB * (20 if SLOW else 1)    # a closed empty section, or a name, may take; more by sanitizers


class Timing:
    """Notes how long each quarter of very many steps takes."""

    def __init__(self):
        self.quarters = []

    def each(self, step, names):
        names = list(names)
        assert len(names) % 4 == 0
        size = len(names) // 4
        for start in range(0, len(names), size):
            before = time.perf_counter()
            for name in names[start:start + size]:
                step(name)
            self.quarters.append(time.perf_counter() - before)

    def assert_linear(self, what):
        first, last = self.quarters[0], self.quarters[-1]
        assert last < SLOWER * max(first, 0.05), f"{what}: {self.quarters} s for each quarter"


def resident(mnt):
    """What the worker has in memory, its registry included, in bytes."""
    with open(f"/proc/{mnt.stats()['worker_pid']}/smaps_rollup") as file:
        for line in file:
            if line.startswith("Rss:"):
                return int(line.split()[1]) * KIB


def descriptors(mnt):
    """How many the daemon has, besides the pipes of each thread: one in which bytes are passed on,
    and those that keep its memory in place. A thread makes them when it first needs them."""
    figures = mnt.stats()
    pipes = others = 0
    for key in "worker_pid", "keeper_pid":
        for number in os.listdir(f"/proc/{figures[key]}/fd"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(f"/proc/{figures[key]}/fd/{number}").startswith("pipe:"):
                    pipes += 1
                else:
                    others += 1
    assert pipes <= 200
    return others


def requests(mnt, function, *arguments):
    """How many requests that made of each kind. Looking makes none that count: .stats is opened again
    without its name. What comes of something after it has returned is waited for, before and after."""
    with opened(mnt / ".stats", os.O_PATH) as stats:
        def look():
            figures = pairs(read(f"/proc/self/fd/{stats}").decode())
            return {key[9:]: value for key, value in figures.items() if key.startswith("requests_")}

        def at_rest():
            before = look()
            while True:
                time.sleep(0.05)
                now = look()
                if now == before:
                    return now
                before = now
        one = at_rest()
        function(*arguments)
        two = at_rest()
    return {key: two[key] - one[key] for key in two if two[key] != one[key]}


def wait_until_remembered(mnt, path):
    """The kernel is given attributes to keep only when the last close has reached the daemon."""
    eventually(lambda: requests(mnt, os.lstat, path) == {})


def assert_at_most(made, **allowed):
    too_many = {key: value for key, value in made.items() if value > allowed.get(key, 0)}
    assert not too_many, f"{made}, allowed {allowed}"


def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))


def make(path):
    os.mknod(path, stat.S_IFREG | 0o644)


# --- Very many ---------------------------------------------------------------------------------

@pytest.mark.modes("cached")
@pytest.mark.alone
def test_very_many_in_one_directory(mnt, session):
    session.watchdog.arm(600)
    os.mkdir(mnt / "d")
    names = [mnt / f"d/section{n}" for n in range(MANY)]
    fds = descriptors(mnt)
    create(mnt / "warm")
    eventually(lambda: descriptors(mnt) <= fds)         # a close comes a moment later
    memory = resident(mnt)

    timing = Timing()
    timing.each(make, names)
    timing.assert_linear("create")
    assert mnt.stats()["sections"] == MANY + 2
    assert resident(mnt) - memory <= EACH * MANY
    assert descriptors(mnt) <= fds

    before = time.perf_counter()
    listed = run("ls", "-f", mnt / "d").stdout.split()
    assert time.perf_counter() - before < max(0.5, timing.quarters[0])
    assert sorted(listed) == sorted([".", "..", *(f"section{n}" for n in range(MANY))])
    with os.scandir(mnt / "d") as entries:
        assert sum(entry.is_file(follow_symlinks=False) for entry in entries) == MANY

    timing = Timing()
    timing.each(os.stat, names)
    timing.assert_linear("stat")
    assert run("find", mnt / "d", "-type", "f", "-size", "0", "-printf", ".").stdout == "." * MANY

    timing = Timing()                           # in another order than they were made in
    order = [names[(n * 7919) % MANY] for n in range(MANY)]
    timing.each(os.unlink, order)
    timing.assert_linear("delete")
    os.rmdir(mnt / "d")
    eventually(lambda: mnt.stats()["sections"] == 1)

    memory = resident(mnt)                      # what was given back is used again
    os.mkdir(mnt / "d")
    for name in names[:MANY // 2]:
        make(name)
    assert resident(mnt) - memory <= EACH * MANY // 4
    shutil.rmtree(mnt / "d")


@pytest.mark.modes("passthrough")
@pytest.mark.alone
def test_very_many_opened_and_closed(mnt, session):
    """Made by open and close: nothing of that stays."""
    session.watchdog.arm(600)
    fds = descriptors(mnt)
    create(mnt / "warm")
    count = MANY // 2
    eventually(lambda: descriptors(mnt) <= fds)
    before = mnt.stats()
    memory = resident(mnt)
    timing = Timing()
    timing.each(create, [mnt / f"x{n}" for n in range(count)])
    timing.assert_linear("open and close")
    eventually(lambda: mnt.stats()["handles"] == 0)
    eventually(lambda: descriptors(mnt) <= fds)
    assert resident(mnt) - memory <= EACH * count
    assert mnt.stats()["size_used"] == before["size_used"] == 0
    timing = Timing()
    timing.each(os.unlink, [mnt / f"x{n}" for n in range(count)])
    timing.assert_linear("delete")


@pytest.mark.modes("passthrough")
@pytest.mark.alone
def test_very_many_in_a_deep_tree(mnt, session):
    """20 levels of a chain, and below each a tree of three: no name is looked for in vain."""
    session.watchdog.arm(600)
    per_folder, folders = 50, []
    deep = mnt.path
    while len(folders) < MANY // per_folder:
        level = len(folders)
        if level % (MANY // per_folder // 20) == 0:
            deep += f"/level{level}"
            os.mkdir(deep)
        top = f"{deep}/a{level % 7}/b{level % 3}"
        os.makedirs(top, exist_ok=True)
        folders.append(f"{top}/c{level}")
        os.mkdir(folders[-1])
    names = [f"{folder}/s{n}" for folder in folders for n in range(per_folder)]
    memory = resident(mnt)
    making = Timing()
    making.each(make, names)
    making.assert_linear("create")
    assert resident(mnt) - memory <= EACH * MANY
    timing = Timing()
    timing.each(os.stat, names)
    timing.assert_linear("stat")
    found = run("find", mnt.path, "-type", "f", "-printf", ".", timeout=300).stdout
    assert len(found) == MANY
    before = time.perf_counter()
    run("rm", "-r", mnt / "level0", timeout=300)
    assert time.perf_counter() - before < SLOWER * max(0.2, sum(making.quarters))
    eventually(lambda: mnt.stats()["sections"] == 0)


@pytest.mark.alone
def test_very_many_names_of_one_section(mnt):
    count = MANY // 10
    write(mnt / "x", b"one")
    timing = Timing()
    timing.each(lambda path: os.link(mnt / "x", path), [mnt / f"l{n}" for n in range(count)])
    timing.assert_linear("link")
    assert os.stat(mnt / "x").st_nlink == count + 1
    timing = Timing()
    timing.each(os.unlink, [mnt / f"l{n}" for n in range(count)])
    timing.assert_linear("unlink")
    assert read(mnt / "x") == b"one"


# --- Running out -------------------------------------------------------------------------------

@pytest.mark.options("nr_sections=100")
def test_running_out_of_sections(mnt):
    write(mnt / "s0", b"data")
    os.mkdir(mnt / "s1")
    for n in range(2, 100):
        make(mnt / f"s{n}")
    assert mnt.stats()["sections"] == 100
    assert os.statvfs(mnt.path).f_ffree == 0
    held = os.open(mnt / "s0", os.O_RDWR)
    for way in (make, create, os.mkdir, os.mkfifo, lambda path: os.symlink("x", path),
                lambda path: os.close(os.open(mnt.path, os.O_TMPFILE | os.O_RDWR, 0o600))):
        with refused(errno.ENOSPC):
            way(mnt / "s100")
        assert not os.path.lexists(mnt / "s100")
    with refused(errno.ENOSPC):                         # as on tmpfs, a further name counts
        os.link(mnt / "s0", mnt / "s1/link")
    # Nothing else is harmed.
    os.rename(mnt / "s2", mnt / "s1/moved")
    assert os.pwrite(held, b"more data", 0) == 9
    assert read(mnt / "s0") == b"more data"
    view = os.open(mnt.cow("s0"), os.O_RDWR)            # nor is a view
    assert os.pwrite(view, b"MORE", 0) == 4
    os.close(view)
    with opened(mnt / "s3") as fd:
        os.write(fd, bytes(MIB))
    assert len(os.listdir(mnt.path)) == 99
    # One goes, one comes; and one that is unlinked but open still counts.
    os.unlink(mnt / "s4")
    eventually(lambda: mnt.stats()["sections"] == 99)
    make(mnt / "s100")
    with refused(errno.ENOSPC):
        make(mnt / "s101")
    fd = os.open(mnt / "s100", os.O_RDWR)
    os.unlink(mnt / "s100")
    with refused(errno.ENOSPC):
        make(mnt / "s101")
    os.close(fd)
    eventually(lambda: mnt.stats()["sections"] == 99)
    make(mnt / "s101")
    os.close(held)


def limited(mnt, count):
    """No more descriptors than that for the worker, as from now."""
    figures = mnt.stats()
    for key, limit in (("worker_pid", count), ("keeper_pid", count + 32)):
        resource.prlimit(figures[key], resource.RLIMIT_NOFILE, (limit, limit))


def fill_descriptors(mnt, limit):
    """Makes sections with bytes until there is no descriptor any more; returns how many there are."""
    for n in range(limit):
        try:
            write(mnt / f"s{n}", b"%d" % n)
        except OSError as error:
            assert error.errno in (errno.ENFILE, errno.EMFILE), error
            return n
    raise AssertionError(f"{limit} sections with {limit} descriptors")


def test_running_out_of_descriptors(mnt):
    """Who needs one more is told so; all others go on."""
    write(mnt / "held", b"held")
    held = os.open(mnt / "held", os.O_RDWR)
    empty = os.open(mnt / "empty", os.O_CREAT | os.O_RDWR)
    limited(mnt, 100)
    made = fill_descriptors(mnt, 100)
    assert made >= 20

    codes = (errno.ENFILE, errno.EMFILE)
    for turn in range(30):                              # as often as one likes
        with refused(*codes):
            write(mnt / f"more{turn}", b"bytes")
    for n in range(made):                               # what there is
        assert read(mnt / f"s{n}") == b"%d" % n
    with opened(mnt / "s0") as fd:
        os.pwrite(fd, b"zero", 0)
        os.ftruncate(fd, 2)
    assert os.pread(held, 4, 0) == b"held"
    assert os.pwrite(held, b"HELD and longer", 0) == 15
    make(mnt / "another")                               # what needs none
    os.mkdir(mnt / "d")
    os.rename(mnt / "another", mnt / "d/another")
    os.symlink("d", mnt / "link")
    assert len(os.listdir(mnt.path)) >= made + 3
    assert os.stat(mnt / "s1").st_size == 1
    os.setxattr(mnt / "s1", "user.colour", b"red")
    child = Child()
    child.do("import fcntl; fd = os.open(path, os.O_RDWR)", path=mnt / "s2")
    assert child.get("os.read(fd, 5)") == b"2"

    for n in range(5, 15):                              # there is room again
        os.unlink(mnt / f"s{n}")

    def fits():
        try:
            write(mnt / "fits", b"now")
            return True
        except OSError as error:
            assert error.errno in codes
    eventually(fits)
    assert read(mnt / "fits") == b"now"
    os.close(empty)
    os.close(held)


@pytest.mark.options("cow_copy_max=0")
def test_running_out_of_descriptors_with_views_and_files(mnt, place):
    """The first write to a view, and defining a section, take one as well."""
    write(mnt / "x", bytes(4 * PAGE))
    write(f"{place}/real", b"real bytes")
    for n in range(3):
        make(mnt / f"f{n}")
    views = [os.open(mnt.cow("x"), os.O_RDWR) for _ in range(3)]
    os.pwrite(views[0], b"first", 0)
    limited(mnt, 100)
    fill_descriptors(mnt, 100)
    codes = (errno.ENFILE, errno.EMFILE)
    with refused(*codes):
        os.setxattr(mnt / "f0", "user.section.file", os.fsencode(f"{place}/real"))
    assert os.getxattr(mnt / "f0", "user.section.kind") == b"page"
    with refused(*codes):
        os.pwrite(views[1], b"second", 0)
        os.fsync(views[1])
    assert os.pread(views[0], 5, 0) == b"first"
    assert os.pwrite(views[0], b"again", PAGE) == 5
    for n in range(10):
        os.unlink(mnt / f"s{n}")

    def define():
        try:
            os.setxattr(mnt / "f0", "user.section.file", os.fsencode(f"{place}/real"))
            return True
        except OSError as error:
            assert error.errno in codes
    eventually(define)
    assert read(mnt / "f0") == b"real bytes"
    assert os.pread(views[2], 4, 0) == bytes(4)
    for view in views:
        os.close(view)


def test_a_hard_limit_at_the_start(new_mount):
    """Without the right to raise it the daemon takes the hard limit that it finds, above the soft one."""
    if shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        pytest.skip("there is no setpriv or prlimit")
    mnt = new_mount("cached", start=False)
    mnt.command = ["prlimit", "--nofile=40:160", "setpriv", "--bounding-set=-sys_resource",
                   *mnt.command]
    mnt.start()
    assert_raised(mnt, 160)
    made = fill_descriptors(mnt, 160)
    assert made >= 60
    for n in range(made):
        assert read(mnt / f"s{n}") == b"%d" % n


def assert_raised(mnt, hard):
    """All that the hard limit allows; the worker leaves some to the keeper."""
    for key in ("worker_pid", "keeper_pid"):
        limits = resource.prlimit(mnt.stats()[key], resource.RLIMIT_NOFILE)
        assert limits[1] >= hard
        assert limits[1] - 64 <= limits[0]


def test_the_limit_of_descriptors_is_raised(mnt):
    assert_raised(mnt, resource.getrlimit(resource.RLIMIT_NOFILE)[1])


# --- Requests ----------------------------------------------------------------------------------

def repeat(times, function, *arguments):
    for _ in range(times):
        function(*arguments)


def test_requests_of_stat(mnt):
    """The kernel answers for a section that is closed and that nobody has changed."""
    write(mnt / "x", b"bytes")
    make(mnt / "empty")
    os.mkdir(mnt / "d")
    os.symlink("x", mnt / "link")
    for name in ("x", "empty", "d", "link"):
        os.access(mnt / name, os.R_OK)                  # reading a link changes its access time
        wait_until_remembered(mnt, mnt / name)
        assert requests(mnt, repeat, 50, os.lstat, mnt / name) == {}, name
        assert requests(mnt, repeat, 50, os.access, mnt / name, os.R_OK) == {}
    os.stat(mnt.path)
    assert requests(mnt, repeat, 50, os.stat, mnt.path) == {}
    # What was changed is told, and then remembered again.
    for change in (lambda: os.chmod(mnt / "x", 0o600), lambda: os.truncate(mnt / "x", 3),
                   lambda: os.link(mnt / "x", mnt / "another"),
                   lambda: write(mnt / "x", b"new bytes")):
        change()
        wait_until_remembered(mnt, mnt / "x")
        assert requests(mnt, repeat, 20, os.stat, mnt / "x") == {}
    st = os.stat(mnt / "x")
    assert (st.st_size, st.st_mode & 0o777, st.st_nlink) == (9, 0o600, 2)


def test_requests_of_names_that_do_not_exist(mnt):
    os.mkdir(mnt / "d")
    os.path.exists(mnt / "d/none")
    made = requests(mnt, repeat, 10, os.path.exists, mnt / "d/none")
    assert_at_most(made, lookup=10)


def open_close(path, flags):
    os.close(os.open(path, flags))


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR], ids=["reading", "writing"])
@pytest.mark.parametrize("kind", ["page", "empty", "file"])
def test_requests_of_open_and_close(mnt, place, kind, flags):
    """OPEN, RELEASE, and FLUSH where a close may have to end locks."""
    make(mnt / "x")
    if kind == "page":
        write(mnt / "x", b"bytes")
    elif kind == "file":
        write(f"{place}/real", b"bytes")
        os.setxattr(mnt / "x", "user.section.file", os.fsencode(f"{place}/real"))
    open_close(mnt / "x", flags)
    if kind != "file":
        wait_until_remembered(mnt, mnt / "x")
    made = requests(mnt, repeat, 10, open_close, mnt / "x", flags)
    # Attributes of a real file are asked for anew each time, permission bits among them.
    assert_at_most(made, open=10, release=10, flush=10, getattr=10 if kind == "file" else 0)


def test_requests_of_reading_and_writing(mnt):
    write(mnt / "x", bytes(MIB))
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"x", 0)
        os.pread(fd, 1, 0)
        made = requests(mnt, repeat, 100, os.pwrite, fd, b"y" * 100, 5)
        if mnt.mode == "passthrough":
            assert made == {}
        else:
            assert_at_most(made, write=100, getxattr=100)
        made = requests(mnt, repeat, 100, os.pread, fd, 100, 5)
        if mnt.mode == "passthrough":
            assert made == {}
        else:
            assert_at_most(made, read=100)


def short_life(path):
    fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
    os.write(fd, b"bytes")
    os.close(fd)
    os.unlink(path)


def test_requests_of_a_short_life(mnt, record_property):
    """create, write, close, unlink: not more than libfuse's passthrough_ll has with default_permissions
    and xattr, as they are always on here: LOOKUP CREATE GETXATTR WRITE FLUSH RELEASE UNLINK FORGET, and
    GETATTR of the directory for each change in it."""
    os.mkdir(mnt / "d")
    short_life(mnt / "d/x")
    made = requests(mnt, repeat, 10, short_life, mnt / "d/x")
    record_property("requests", str(made))
    print(f"create, write, close, unlink, ten times: {made}")
    forgotten = made.pop("forget", 0) + made.pop("batch_forget", 0)
    assert forgotten <= 10
    assert_at_most(made, lookup=10, create=10, getxattr=10, flush=10, release=10, unlink=10,
                   getattr=20, write=0 if mnt.mode == "passthrough" else 10)


def test_requests_of_making_and_removing(mnt):
    os.mkdir(mnt / "d")

    def life(path):
        make(path)
        os.unlink(path)
    life(mnt / "d/x")
    made = requests(mnt, repeat, 10, life, mnt / "d/x")
    made.pop("batch_forget", 0)
    assert_at_most(made, lookup=10, mknod=10, unlink=10, forget=10, getattr=20)


def test_requests_of_listing(mnt):
    """ls -l asks for nothing in addition: the listing has the attributes of page sections with it."""
    os.mkdir(mnt / "d")
    for n in range(500):
        make(mnt / f"d/{n}")
    run("ls", "-l", mnt / "d")
    made = requests(mnt, run, "ls", "-l", mnt / "d")
    made.pop("listxattr", 0)                            # ls looks for ACLs and the like
    made.pop("getxattr", 0)
    assert_at_most(made, opendir=1, readdir=60, readdirplus=60, releasedir=1, getattr=1, lookup=1)


# --- stress-ng ---------------------------------------------------------------------------------

STRESS = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
                      "stress", "run-stress-ng")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["passthrough", "cached"])
def test_stress_ng_in_short(session, place, mode):
    """A few of the stressors of tests/stress/run-stress-ng, a second each."""
    if shutil.which("stress-ng") is None:
        pytest.skip("there is no stress-ng (run scripts/deps)")
    stressors = {"passthrough": ["mmap", "flock", "rename"],
                 "cached": ["dentry", "iomix", "locka"]}[mode]
    result = subprocess.run(
        [STRESS, "-t", "1", *(["-o", "passthrough=off"] if mode == "cached" else []), *stressors],
        env={**os.environ, "SECTIONFS": session.programs.sectionfs, "SECTIONFS_TEST_DIR": place},
        capture_output=True, text=True, timeout=85, stdin=subprocess.DEVNULL)
    if result.returncode == 77:
        pytest.skip(result.stderr)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.modes("cached")
def test_a_file_of_very_many_names(mnt):
    """A change of the file is not noted for each of them over and over, however slowly the kernel takes
    note."""
    count = 80_000
    write(mnt / "x", b"data")
    names = [mnt / f"name{n}" for n in range(count)]
    for name in names:
        os.link(mnt / "x", name)
    before = resident(mnt)
    for turn in range(40):
        os.setxattr(mnt / "x", "user.section.protect", (b"readonly", b"readwrite")[turn % 2])
    assert resident(mnt) - before < count * EACH
    assert os.stat(mnt / "x").st_nlink == 1 + count
