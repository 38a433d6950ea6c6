# SPDX-License-Identifier: MIT
"""Copy-on-write views have their bytes in the fastest way that the case allows: the section's own
(base), a copy, a clone, or an overlay of pages. Nobody should notice which; these tests make sure of
that, and that each is what it should be."""

import contextlib
import errno
import mmap
import os
import shutil

import pytest

from test_cow import FILE, make_base
from util import (FALLOC_KEEP_SIZE, KIB, MIB, PAGE, View, call, eventually, extents, fallocate, kill,
                  mapped, mount, opened, pattern, punch, read, refused, run, sha, umount, write)

SMALL, LARGE = 100 * KIB + 1000, 2 * MIB + 1000
only_passthrough = pytest.mark.modes("passthrough")
every_mode = pytest.mark.modes("passthrough", "cached", "user")


def mode(fd):
    return os.getxattr(fd, "user.section.mode").decode()


def private(fd):
    return int(os.getxattr(fd, "user.section.private"))


def define(path, real):
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644) as fd:
        os.setxattr(fd, FILE, os.fsencode(real))


def gone(where):
    try:
        umount(where)
        return True
    except OSError as error:            # the daemon lets go of a file a moment after its last close
        assert error.errno == errno.EBUSY
        return False


@pytest.fixture
def loop(place):
    """Makes a file system on a file and mounts it, once; returns its directory."""
    made = []

    def make(kind):
        tool = shutil.which(f"mkfs.{kind}")
        if tool is None:
            pytest.skip(f"there is no mkfs.{kind}")
        image, where = f"{place}/{kind}.image", f"{place}/{kind}"
        if where in made:
            return where
        with opened(image, os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 512 * MIB)
        run(tool, "-q", image)
        os.mkdir(where)
        result = run("mount", "-o", "loop", image, where, ok=False)
        if result.returncode != 0:
            pytest.skip(f"cannot mount {kind}: {result.stderr.strip()}")
        made.append(where)
        os.chmod(where, 0o755)
        return where
    yield make
    for where in made:
        eventually(lambda: gone(where), 10)


# --- Which one ------------------------------------------------------------------------------------

@only_passthrough
@pytest.mark.parametrize("kind", ["page", "file"])
def test_mechanism_follows_the_case(mnt, place, kind):
    for name, size in (("small", SMALL), ("large", LARGE), ("empty", 0)):
        os.mkdir(f"{place}/{name}")
        base = make_base(mnt, kind, f"{place}/{name}", pattern(name, size))
        os.rename(mnt / "base", mnt / name)
        del base
    for name, flags, expected in (("small", os.O_RDONLY, "base"), ("large", os.O_RDONLY, "base"),
                                  ("small", os.O_RDWR, "copy"), ("small", os.O_WRONLY, "copy"),
                                  ("large", os.O_RDWR, "overlay"), ("empty", os.O_RDWR, "copy"),
                                  ("small", os.O_RDONLY | os.O_TRUNC, "copy"),
                                  ("large", os.O_WRONLY | os.O_APPEND, "overlay")):
        with opened(mnt.cow(name), flags) as fd:
            assert mode(fd) == expected, (name, flags)
    with opened(mnt.cow("empty"), os.O_RDONLY) as fd:
        assert mode(fd) == "overlay" and os.read(fd, 10) == b""


@pytest.mark.modes("cached", "user")
def test_without_passthrough_it_is_always_an_overlay(mnt):
    def body():
        write(mnt / "x", b"data")
        for flags in (os.O_RDONLY, os.O_RDWR):
            with opened(mnt.cow("x"), flags) as fd:
                assert mode(fd) == "overlay"
                assert os.pread(fd, 10, 0) == b"data" or flags == os.O_WRONLY
    mnt.run(body)


@pytest.mark.parametrize("options, size, expected",
                         [("cow_copy_max=0", 1, "overlay"), ("cow_copy_max=8K", 8192, "copy"),
                          ("cow_copy_max=8K", 8193, "overlay"), ("cow_copy_max=4M", 4 * MIB, "copy")])
def test_threshold_of_copies_is_an_option(new_mount, options, size, expected):
    mnt = new_mount("passthrough", options)
    write(mnt / "x", pattern(size, size))
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == expected
        assert os.pread(fd, size + 1, 0) == pattern(size, size)


@only_passthrough
def test_neither_base_nor_copy_asks_the_daemon(mnt):
    write(mnt / "x", pattern("x", SMALL))
    before = mnt.stats()
    for flags in (os.O_RDONLY, os.O_RDWR):
        with opened(mnt.cow("x"), flags) as fd:
            writes = flags == os.O_RDWR
            view = mapped(fd, SMALL, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writes else 0))
            assert view[:] == os.pread(fd, SMALL, 0) == pattern("x", SMALL)
            if writes:
                view[0:4] = b"view"
                os.pwrite(fd, b"file", PAGE)
                assert os.pread(fd, 4, 0) == b"view" and view[PAGE:PAGE + 4] == b"file"
            view.close()
    now = mnt.stats()
    assert (now["requests_read"], now["requests_write"]) == \
        (before["requests_read"], before["requests_write"])
    assert read(mnt / "x") == pattern("x", SMALL)


@only_passthrough
def test_view_lets_go_of_the_file(mnt, loop):
    """The kernel is told of each file that it was given: nothing holds it when all is closed."""
    where = loop("xfs")
    write(f"{where}/real", pattern("real", LARGE))
    define(mnt / "x", f"{where}/real")
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_RDONLY):
        with opened(mnt.cow("x"), flags) as fd:
            assert mode(fd) == ("base" if flags == os.O_RDONLY else "clone")
            assert os.pread(fd, 10, 0) == pattern("real", LARGE)[:10]
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)
    eventually(lambda: gone(where), 5)
    mount_again = run("mount", "-o", "loop", f"{where}.image", where, ok=False)
    assert mount_again.returncode == 0, mount_again.stderr      # for the fixture to take off


# --- Nothing reaches the base ---------------------------------------------------------------------

def again(fd, flags):
    return os.open(f"/proc/self/fd/{fd}", flags)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["page", "file"])
@every_mode
def test_view_opened_for_reading_never_becomes_writable(mnt, place, kind, size):
    """What the kernel reads in its place may be the section itself."""
    made = make_base(mnt, kind, place, pattern("base", size))

    def body():
        with opened(mnt.cow("base"), os.O_RDONLY) as fd:
            for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC,
                          os.O_RDWR | os.O_APPEND):
                with refused(errno.EACCES):
                    again(fd, flags)
            with refused(errno.EACCES):
                os.truncate(f"/proc/self/fd/{fd}", 10)
            with opened(f"/proc/self/fd/{fd}", os.O_RDONLY) as second:
                assert os.pread(second, size, 0) == made.data
            assert os.fstat(fd).st_size == size
            assert os.pread(fd, size, 0) == made.data
            # Its attributes are its own all the same.
            os.utime(fd, ns=(5_000_000_000, 6_000_000_000))
            assert os.fstat(fd).st_mtime_ns == 6_000_000_000
            os.fchmod(fd, 0o640)
            assert os.fstat(fd).st_mode & 0o7777 == 0o640
    mnt.run(body)
    made.unchanged()


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("kind", ["page", "file"])
@pytest.mark.parametrize("first", ["reader", "writer"])
def test_reader_of_the_base_and_writer_of_a_view(mnt, place, kind, size, first):
    """A reader in passthrough on the base while a writer has a view, in either order, each reopened
    through /proc in every way: not one byte reaches the base."""
    made = make_base(mnt, kind, place, pattern("base", size))
    order = [os.O_RDONLY, os.O_RDWR] if first == "reader" else [os.O_RDWR, os.O_RDONLY]
    fds = {flags: os.open(mnt.cow("base"), flags) for flags in order}
    reader, writer = fds[os.O_RDONLY], fds[os.O_RDWR]
    shown = mapped(reader, size, prot=mmap.PROT_READ)
    os.pwrite(writer, b"written", 10)
    with opened(f"/proc/self/fd/{writer}", os.O_RDWR) as second:
        stored = mapped(second, size)
        stored[PAGE:PAGE + 6] = b"stored"
        os.pwrite(second, b"second", 2 * PAGE)
    with opened(f"/proc/self/fd/{writer}", os.O_RDONLY) as third:
        assert os.pread(third, 7, 10) == b"written" and os.pread(third, 6, 2 * PAGE) == b"second"
        assert os.pread(third, 6, PAGE) == b"stored"
        with opened(f"/proc/self/fd/{third}", os.O_WRONLY) as fourth:
            os.pwrite(fourth, b"fourth", 3 * PAGE)
        assert os.pread(third, 6, 3 * PAGE) == b"fourth"
    with refused(errno.EACCES):
        again(reader, os.O_RDWR)
    child = mnt.child()
    child.do("try: os.open(path, os.O_RDWR)\nexcept PermissionError: pass\nelse: raise AssertionError",
             path=f"/proc/{os.getpid()}/fd/{reader}")
    child.kill()
    assert shown[:] == os.pread(reader, size, 0) == made.data
    for fd in fds.values():
        os.close(fd)
    assert shown[:] == made.data and stored[PAGE:PAGE + 6] == b"stored"
    shown.close()
    stored.close()
    made.unchanged()


def map_file(fd, view):
    """The /proc entry of a mapping."""
    with open("/proc/self/maps") as file:
        for line in file:
            if line.startswith(f"{view.address:x}-"):
                return "/proc/self/map_files/" + line.split()[0]
    raise AssertionError("not mapped")


@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_RDWR])
@pytest.mark.parametrize("kind", ["page", "file"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_reopening_a_mapping_after_the_last_close(mnt, place, kind, size, flags):
    """The kernel knows the inode still; whatever is opened then, it is not the base."""
    made = make_base(mnt, kind, place, pattern("base", size))
    fd = os.open(mnt.cow("base"), flags)
    view = View(fd, size, prot=mmap.PROT_READ)
    path = map_file(fd, view)
    os.close(fd)
    for _ in range(20):
        with contextlib.suppress(OSError), opened(path) as second:
            os.pwrite(second, b"scribble", 100)
            own = mapped(second, size)
            own[PAGE:PAGE + 8] = b"scribble"
            own.close()
            os.ftruncate(second, size + PAGE)
    view.close()
    made.unchanged()


@pytest.mark.parametrize("kind", ["page", "file"])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_view_that_is_only_mapped(mnt, place, kind, size):
    """It keeps its bytes to the end of its own size, not the section's. What its attributes are is
    told only where that is known to the daemon."""
    made = make_base(mnt, kind, place, pattern("base", size))
    before = mnt.stats()
    fd = os.open(mnt.cow("base"), os.O_RDWR)
    os.ftruncate(fd, PAGE)
    os.ftruncate(fd, size + 5 * PAGE)
    os.pwrite(fd, pattern("tail"), size + 2 * PAGE)
    lasting = mode(fd) == "overlay"
    inode = os.open(f"/proc/self/fd/{fd}", os.O_PATH)
    view = View(fd, size + 5 * PAGE)
    os.close(fd)
    if not lasting:
        mnt.settled(before, "handles")
    assert os.fstat(inode).st_size == (size + 5 * PAGE if lasting else size)
    # Nothing was touched before.
    expected = pattern("base", size)[:PAGE] + bytes(size + PAGE) + pattern("tail") + bytes(2 * PAGE)
    assert view.read(0, size + 5 * PAGE) == expected
    view.write(size + 4 * PAGE, b"stored")
    assert view.read(size + 4 * PAGE, 8) == b"stored\0\0"
    view.close()
    os.close(inode)
    mnt.settled(before)
    made.unchanged()


@pytest.mark.parametrize("kind", ["page", "tmpfs", "disk"])
@pytest.mark.parametrize("ahead", [False, True])
def test_reading_holes_by_a_mapping_takes_nothing(mnt, new_mount, place, kind, ahead):
    """A tmpfs gives pages to holes that are read through a mapping: not to the section's, for a
    view that was opened for reading, and neither where blocks beyond the end hide the holes."""
    size = 64 * PAGE
    where = {"page": mnt.path, "disk": place}.get(kind) or new_mount("tmpfs").path
    real = f"{where}/real"
    with opened(real, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        os.pwrite(fd, pattern("data", 16 * PAGE), 8 * PAGE)
        if ahead:
            fallocate(fd, FALLOC_KEEP_SIZE, size, size)
        os.fsync(fd)
    if kind == "page":
        os.rename(real, mnt / "x")
    else:
        define(mnt / "x", real)
    before, used = os.stat(mnt / "x").st_blocks, mnt.stats()["size_used"]
    with opened(mnt.cow("x"), os.O_RDONLY) as fd:
        for flags in mmap.MAP_SHARED, mmap.MAP_PRIVATE:
            view = View(fd, size, flags, prot=mmap.PROT_READ)
            assert view.read(0, size) == bytes(8 * PAGE) + pattern("data", 16 * PAGE) + bytes(40 * PAGE)
            view.close()
    assert os.stat(mnt / "x").st_blocks == before
    assert mnt.stats()["size_used"] == used


def test_16_readers_and_writers_at_once(mnt, place):
    """Opens of one name for reading and for writing race: a reader never gets a writer's bytes, nor
    the base a writer's."""
    made = make_base(mnt, "file", place, pattern("base", SMALL))
    code = """
for turn in range(150):
    writes = (turn + number) % 2
    fd = os.open(path, os.O_RDWR if writes else os.O_RDONLY)
    if writes:
        os.pwrite(fd, pattern((number, turn)), PAGE)
        assert os.pread(fd, PAGE, PAGE) == pattern((number, turn))
        assert os.pread(fd, PAGE, 0) == base[:PAGE]
    else:
        assert os.pread(fd, len(base), 0) == base
    os.close(fd)
"""
    children = [mnt.child() for _ in range(16)]
    for number, child in enumerate(children):
        child.begin(code, path=mnt.cow("base"), number=number, base=made.data)
    for child in children:
        child.finish()
    made.unchanged()


# --- Copies ---------------------------------------------------------------------------------------

@only_passthrough
def test_copy_lives_as_long_as_its_mapping(mnt):
    write(mnt / "x", pattern("x", SMALL))
    before = mnt.stats()
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    assert mode(fd) == "copy" and private(fd) >= SMALL
    view = View(fd, SMALL)
    os.close(fd)
    mnt.settled(before, "handles")
    view.write(0, b"mine")
    os.unlink(mnt / "x")
    assert view.read(0, SMALL) == b"mine" + pattern("x", SMALL)[4:]
    assert mnt.stats()["size_used"] >= SMALL
    view.close()
    eventually(lambda: mnt.stats()["size_used"] == 0)


@only_passthrough
@pytest.mark.options("size=4M")
def test_copies_count_against_the_limit(mnt):
    write(mnt / "x", pattern("x", 200 * KIB))
    fds = []
    for number in range(30):
        fd = os.open(mnt.cow("x"), os.O_RDWR)       # where no copy fits it is an overlay
        fds.append(fd)
        assert os.pread(fd, 300 * KIB, 0) == pattern("x", 200 * KIB)
        assert mnt.stats()["size_used"] <= 4 * MIB
    assert {mode(fd) for fd in fds} == {"copy", "overlay"}
    with refused(errno.ENOSPC):
        done = 0
        while done < 8 * MIB:
            done += os.pwrite(fds[0], bytes(64 * KIB), 200 * KIB + done)
    for fd in fds:
        os.close(fd)
    eventually(lambda: mnt.stats()["size_used"] <= 256 * KIB)


def test_start_of_a_small_view_is_the_section_as_it_is(mnt, place):
    made = make_base(mnt, "file", place, pattern("base", SMALL))
    there = os.stat(mnt / "base")
    with opened(mnt.cow("base")) as fd:
        here = os.fstat(fd)
        assert (here.st_size, here.st_uid, here.st_mtime_ns) == \
            (there.st_size, there.st_uid, there.st_mtime_ns)
        assert here.st_ctime_ns == there.st_ctime_ns
        os.pwrite(fd, b"x", 0)
        eventually(lambda: os.fstat(fd).st_mtime_ns > there.st_mtime_ns)
        assert os.fstat(fd).st_ctime_ns > there.st_ctime_ns
    made.unchanged()


def test_holes_stay_holes_in_a_copy(new_mount, place):
    """But they have their pages: no store to a mapping may fail for want of one."""
    mnt = new_mount("passthrough", "cow_copy_max=64M")
    with opened(f"{place}/sparse", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 64 * MIB)
        os.pwrite(fd, pattern("data", 64 * KIB), 32 * MIB)
    define(mnt / "x", f"{place}/sparse")
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == "copy" and private(fd) == 64 * MIB
        assert os.lseek(fd, 0, os.SEEK_DATA) == 32 * MIB
        assert os.pread(fd, 64 * KIB, 32 * MIB) == pattern("data", 64 * KIB)
        assert os.fstat(fd).st_size == 64 * MIB


# --- Clones ---------------------------------------------------------------------------------------

@pytest.fixture(params=["xfs", "btrfs"])
def cloned(request, mnt, loop):
    """A section over a file on a file system that shares extents, and that file."""
    where = loop(request.param)
    write(f"{where}/real", pattern("real", 8 * MIB))
    run("sync", "-f", where)
    define(mnt / "x", f"{where}/real")
    real = f"{where}/real"
    before = sha(real), os.stat(real).st_mtime_ns, extents(real)
    yield real
    assert (sha(real), os.stat(real).st_mtime_ns, extents(real)) == before
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)


@only_passthrough
def test_large_file_is_cloned_where_the_disk_can(mnt, cloned):
    before, used = mnt.stats(), os.statvfs(cloned).f_bfree
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == "clone"
        view = mapped(fd, 8 * MIB)
        view[PAGE:PAGE + 6] = b"stored"
        os.pwrite(fd, b"written", 4 * MIB)
        punch(fd, 5 * MIB, MIB)
        expected = bytearray(pattern("real", 8 * MIB))
        expected[PAGE:PAGE + 6] = b"stored"
        expected[4 * MIB:4 * MIB + 7] = b"written"
        expected[5 * MIB:6 * MIB] = bytes(MIB)
        assert view[:] == os.pread(fd, 9 * MIB, 0) == expected
        os.fsync(fd)
        assert os.fstat(fd).st_size == 8 * MIB and os.fstat(fd).st_nlink == 1
        assert PAGE <= private(fd) <= 2 * MIB
        os.ftruncate(fd, 10)
        view.close()
    now = mnt.stats()
    assert (now["requests_read"], now["requests_write"]) == \
        (before["requests_read"], before["requests_write"])
    assert now["size_used"] == before["size_used"]
    assert os.listdir(os.path.dirname(cloned)) == ["real"]
    eventually(lambda: os.statvfs(cloned).f_bfree >= used - 256)


@only_passthrough
def test_clone_goes_on_as_long_as_its_mapping(mnt, cloned):
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    view = View(fd, 8 * MIB)
    view.write(0, b"mine")
    os.close(fd)
    eventually(lambda: mnt.stats()["handles"] == 0)
    view.write(MIB, b"more")
    assert view.read(0, 4) == b"mine" and view.read(MIB, 4) == b"more"
    view.close()


@only_passthrough
def test_clone_stays_when_the_worker_dies(mnt, cloned):
    """Open, mapped, cut and grown; its disk has its room back in the end."""
    before, used = mnt.stats(), os.statvfs(cloned).f_bfree
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    view = View(fd, 8 * MIB)
    expected = bytearray(pattern("real", 8 * MIB))
    for n in range(3):
        at = n * MIB
        view.write(at, b"stored%d" % n)
        os.pwrite(fd, b"written%d" % n, at + PAGE)
        expected[at:at + 7], expected[at + PAGE:at + PAGE + 8] = b"stored%d" % n, b"written%d" % n
        worker = mnt.stats()["worker_pid"]
        kill(worker)
        assert view.read(at, 7) == b"stored%d" % n
        assert eventually(lambda: mnt.stats()["worker_pid"]) != worker
        assert mode(fd) == "clone" and os.pread(fd, 9 * MIB, 0) == expected
        assert os.fstat(fd).st_size == 8 * MIB
    os.ftruncate(fd, 10)
    assert mnt.stats()["deaths"] == 3
    os.ftruncate(fd, 2 * PAGE)
    assert os.pread(fd, MIB, 0) == expected[:10] + bytes(2 * PAGE - 10)
    view.close()
    os.close(fd)
    mnt.settled(before)
    eventually(lambda: os.statvfs(cloned).f_bfree >= used - 256)


def test_user_may_clone_what_he_may_read(mnt, cloned, user):
    """He cannot write in the directory, nor the file; the clone counts as his."""
    os.chmod(cloned, 0o400)

    def body():
        with opened(mnt.cow("x")) as fd:
            if mnt.mode == "passthrough":
                assert mode(fd) == "clone"
            os.pwrite(fd, b"mine", 100)
            assert os.pread(fd, 4, 100) == b"mine"
    call(body, user=user)


def test_reflink_off_leaves_the_disk_alone(new_mount, loop):
    mnt = new_mount("passthrough", "reflink=off")
    where = loop("xfs")
    write(f"{where}/real", pattern("real", MIB))
    define(mnt / "x", f"{where}/real")
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == "overlay"
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)


def test_file_that_was_moved_is_cloned_where_it_is(new_mount, loop):
    mnt = new_mount("passthrough")
    where = loop("xfs")
    os.mkdir(f"{where}/a")
    write(f"{where}/a/real", pattern("real", MIB))
    define(mnt / "x", f"{where}/a/real")
    os.rename(f"{where}/a", f"{where}/b")
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == "clone"
    shutil.rmtree(f"{where}/b")
    with opened(mnt.cow("x")) as fd:                # deleted: wherever, it still works
        assert os.pread(fd, MIB, 0) == pattern("real", MIB)
        os.pwrite(fd, b"x", 0)
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)
