# SPDX-License-Identifier: MIT
"""Open views as wholes: what diff tells, and what reset and commit do beside everything else."""

import contextlib
import errno
import fcntl
import os
import random
import signal
import threading
import time

import pytest

from sections import COMMIT, RESET, key
from test_verbs import diff
from test_views import define, loop, mode  # noqa: F401 (loop: a fixture)
from util import (KIB, MIB, PAGE, Child, View, eventually, fallocate, opened, pattern, punch, read,
                  refused, run, write)

KEEP_SIZE, ZERO_RANGE = 1, 16
SIZE = 2 * MIB + 123


def sparse(path, size=SIZE):
    """Data and holes in turns."""
    with opened(path, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        for number, at in enumerate(range(0, size, 256 * KIB)):
            if number % 2 == 0:
                os.pwrite(fd, pattern(str(number), min(200 * KIB, size - at)), at)


@pytest.fixture(params=["page overlay", "file overlay", "page copy", "file copy", "xfs clone",
                        "btrfs clone"])
def base(request, loop, new_mount, place):  # noqa: F811
    """The path of a section, and the mode that a view of it has."""
    where, expected = request.param.split()
    if expected == "clone":
        place = loop(where)
    mnt = new_mount("passthrough", f"cow_copy_max={'64M' if expected == 'copy' else 0}")
    if where == "page":
        sparse(mnt / "base")
    else:
        sparse(f"{place}/real")
        define(mnt / "base", f"{place}/real")
    return mnt, expected


def child_fd(child):
    """The number of its only view."""
    for name in os.listdir(f"/proc/{child.pid}/fd"):
        if "/.cow/" in os.readlink(f"/proc/{child.pid}/fd/{name}"):
            return int(name)
    raise AssertionError("it has none")


# --- What is the view's own -----------------------------------------------------------------------

def rebuilt(path, fd):
    """What the section and the differences come to."""
    size = os.fstat(fd).st_size
    found = bytearray(read(path)[:size].ljust(size, b"\0"))
    end = 0
    for first, pages in diff(fd):
        assert first * PAGE >= end and pages > 0
        end = (first + pages) * PAGE
        found[first * PAGE:end] = os.pread(fd, pages * PAGE, first * PAGE)
    return bytes(found)


def change(fd, chance):
    """Something at random."""
    size = os.fstat(fd).st_size
    at = chance.randrange(max(size, 1))
    length = chance.choice((1, PAGE, 3 * PAGE + 5, 300 * KIB))
    kind = chance.choice(("write", "punch", "zero", "cut", "grow", "ahead", "store"))
    if kind == "write":
        os.pwrite(fd, chance.randbytes(length), at)
    elif kind == "punch":
        punch(fd, at, length)
    elif kind == "zero":
        fallocate(fd, ZERO_RANGE, at, length)
    elif kind == "cut":
        os.ftruncate(fd, at)
    elif kind == "grow":
        os.ftruncate(fd, size + length)
    elif kind == "ahead":
        fallocate(fd, KEEP_SIZE, at, length)
    elif size > 0:
        view = View(fd, size)
        view.write(at, b"stored"[:size - at])
        view.sync()
        view.close()


def test_section_and_differences_make_the_view(base):
    mnt, expected = base
    seed = int(os.environ.get("SECTIONFS_TEST_SEED", time.time_ns() % 1_000_000_007))
    print(f"SECTIONFS_TEST_SEED={seed}")
    chance = random.Random(seed)
    for _ in range(6):
        with opened(mnt.cow("base")) as fd:
            assert mode(fd) == expected
            assert diff(fd) == []
            for _ in range(12):
                change(fd, chance)
                assert rebuilt(mnt / "base", fd) == read(f"/proc/self/fd/{fd}")


def test_what_was_cut_off_and_grew_again_differs(base):
    mnt, expected = base
    with opened(mnt.cow("base")) as fd:
        os.ftruncate(fd, 10 * PAGE + 5)
        assert [] == [pages for first, pages in diff(fd) if first > 10]
        os.ftruncate(fd, 20 * PAGE)
        assert sum(pages for first, pages in diff(fd) if first >= 10) in (9, 10)
        assert rebuilt(mnt / "base", fd) == os.pread(fd, SIZE, 0)
        fcntl.ioctl(fd, RESET)
        assert diff(fd) == []


@pytest.mark.modes("passthrough")
@pytest.mark.options("cow_copy_max=0")
def test_clone_of_a_file_that_others_share(loop, mnt):  # noqa: F811
    """That an extent is shared does not say with whom: here the section has another one by now."""
    place = loop("xfs")
    write(f"{place}/real", pattern("real", MIB))
    run("cp", "--reflink=always", f"{place}/real", f"{place}/backup")
    define(mnt / "x", f"{place}/real")
    with opened(mnt.cow("x")) as fd:
        assert mode(fd) == "clone" and diff(fd) == []
        with opened(mnt / "x") as section:
            os.pwrite(section, b"changed", 40 * PAGE)
            os.fsync(section)
        assert rebuilt(mnt / "x", fd) == os.pread(fd, MIB, 0) == pattern("real", MIB)


# --- Of a part of a file, and of views of views ---------------------------------------------------

@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("cow_copy_max=0,reflink=off")
def test_view_of_a_window(mnt, ctl, place):
    data = pattern("real", MIB)
    write(f"{place}/real", data)
    ctl("create", mnt / "x", "--file", f"{place}/real", "--offset", "256K", "--size", "128K")
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"new" * PAGE, 5 * PAGE)
        os.pwrite(fd, b"lost", 0)
        assert diff(fd) == [(0, 1), (5, 3)]
        fcntl.ioctl(fd, RESET)
        assert diff(fd) == [] and os.pread(fd, MIB, 0) == data[256 * KIB:384 * KIB]
        os.pwrite(fd, b"new" * PAGE, 5 * PAGE)
        fcntl.ioctl(fd, COMMIT)
        assert diff(fd) == []
    at = 256 * KIB + 5 * PAGE
    assert read(f"{place}/real") == data[:at] + b"new" * PAGE + data[at + 3 * PAGE:]


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("cow_copy_max=0")
def test_views_of_views(mnt, ctl):
    """x, a scratch copy of it that is shared, and a private copy of that."""
    data = pattern("x", MIB)
    write(mnt / "x", data)
    ctl("create", mnt / "shared", "--base", "x", "--cow", "section")
    ctl("create", mnt / "own", "--base", "shared")
    with opened(mnt / "shared") as shared, opened(mnt / "own") as own:
        os.pwrite(shared, b"shared", 3 * PAGE)
        os.pwrite(own, b"own", 7 * PAGE)
        assert diff(shared) == [(3, 1)] and diff(own) == [(7, 1)]
        with refused(errno.EACCES):
            fcntl.ioctl(own, COMMIT)                    # a scratch copy stays what its users make it
        assert os.pread(own, 6, 3 * PAGE) == b"shared" and os.pread(own, 3, 7 * PAGE) == b"own"
        fcntl.ioctl(own, RESET)
        assert diff(own) == []
        assert os.pread(own, MIB, 0) == os.pread(shared, MIB, 0) != data
        os.ftruncate(own, 2 * PAGE)
        os.ftruncate(own, 4 * PAGE)
        assert diff(own) == [(2, 2)]
        fcntl.ioctl(shared, COMMIT)
        assert diff(shared) == [] and diff(own) == [(2, 2)]
        assert read(mnt / "x") == os.pread(shared, MIB, 0)


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("cow_copy_max=0")
def test_reset_to_a_shared_view_that_has_gone(mnt, ctl):
    """There is nothing to reset to: what the section shows now is somebody else's scratch copy."""
    write(mnt / "x", pattern("x", MIB))
    ctl("create", mnt / "shared", "--base", "x", "--cow", "section")
    with opened(mnt / "shared") as shared:
        os.pwrite(shared, b"shared", 0)
        own = os.open(mnt / ".cow/shared", os.O_RDWR)
        os.pwrite(own, b"own", PAGE)
    try:
        eventually(lambda: key(mnt / "shared", "opens") == "1")
        with refused(errno.ESTALE):
            fcntl.ioctl(own, RESET)
        assert os.pread(own, 6, 0) == b"shared" and os.pread(own, 3, PAGE) == b"own"
    finally:
        os.close(own)


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.parametrize("verb", ["reset", "commit"])
def test_base_that_becomes_another_while_a_copy_is_open(mnt, place, ctl, verb):
    """The view is one of what the base was, which was empty, and nobody's any more."""
    write(f"{place}/real", pattern("real", PAGE))
    ctl("create", mnt / "base")
    ctl("create", mnt / "copy", "--base", "base")
    with opened(mnt / "copy") as fd:
        os.pwrite(fd, b"own", 0)
        os.setxattr(mnt / "base", "user.section.file", os.fsencode(f"{place}/real"))
        result = ctl("cow", verb, f"/proc/{os.getpid()}/fd/{fd}", ok=False)
        assert result.returncode == 1
        assert result.stderr.endswith(": what it is a view of is another one by now\n")
        assert os.pread(fd, PAGE, 0) == b"own" and read(f"{place}/real") == pattern("real", PAGE)
    assert read(mnt / "copy") == pattern("real", PAGE)


# --- Holes that a mapping was stored to -----------------------------------------------------------

@pytest.mark.modes("passthrough", "cached", "user")
@pytest.mark.options("cow_copy_max=0")
@pytest.mark.parametrize("kind", ["section", "view"])
def test_store_to_a_hole_is_data_at_once(mnt, kind):
    """As on tmpfs: whoever copies a file without its holes must not leave it out."""
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 64 * PAGE)
        with opened(mnt / "x" if kind == "section" else mnt.cow("x")) as fd:
            view = View(fd, 64 * PAGE)
            with refused(errno.ENXIO):
                os.lseek(fd, 0, os.SEEK_DATA)
            for page in (40, 7, 20, 19):
                view.write(page * PAGE, b"stored")
                assert os.lseek(fd, 0, os.SEEK_DATA) == min(page, 7 if page != 40 else 40) * PAGE
            assert [os.lseek(fd, page * PAGE, os.SEEK_HOLE) // PAGE for page in (0, 7, 19, 40)] == \
                [0, 8, 21, 41]
            view.write(8 * PAGE, b"stored")
            view.write(21 * PAGE, b"stored")
            assert os.lseek(fd, 7 * PAGE, os.SEEK_HOLE) == 9 * PAGE
            assert os.lseek(fd, 19 * PAGE, os.SEEK_HOLE) == 22 * PAGE
            view.close()
    mnt.run(body)


# --- Room -----------------------------------------------------------------------------------------

@pytest.mark.modes("passthrough")
@pytest.mark.options("size=2M,cow_copy_max=256K")
def test_copy_of_a_sparse_section_has_its_pages(mnt):
    """A store to its mapping cannot find the store full."""
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 200 * KIB)
    child = Child(names={"View": View})
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, 200 << 10)", path=mnt.cow("x"))
    assert child.get("os.getxattr(fd, 'user.section.mode')") == b"copy"
    with opened(mnt / "filler", os.O_CREAT | os.O_RDWR) as fd, refused(errno.ENOSPC):
        for at in range(0, 4 * MIB, PAGE):
            os.pwrite(fd, b"x", at)
    child.do("for at in range(0, 200 << 10, 4096): view.write(at, b'stored')")
    with opened(f"/proc/{child.pid}/fd/{child_fd(child)}") as fd:
        fcntl.ioctl(fd, RESET)
    child.do("for at in range(0, 200 << 10, 4096): view.write(at, b'stored')")
    child.kill()


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("size=32M,cow_copy_max=0")
@pytest.mark.parametrize("how", ["reset", "commit", "truncate"])
def test_room_taken_ahead_goes_back(mnt, how):
    write(mnt / "x", pattern("x", 4 * MIB))
    used = mnt.stats()["size_used"]
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"x", 0)
        fallocate(fd, KEEP_SIZE, MIB, 8 * MIB)
        assert mnt.stats()["size_used"] >= used + 8 * MIB
        if how == "truncate":
            os.ftruncate(fd, MIB)
        else:
            fcntl.ioctl(fd, RESET if how == "reset" else COMMIT)
        assert mnt.stats()["size_used"] <= used + 64 * KIB


# --- Reset and commit beside others ---------------------------------------------------------------

@pytest.mark.modes("passthrough")
def test_reset_of_a_copy_leaves_its_mappings_alive(mnt, place):
    """They must not meet its end, which is SIGBUS, not even for a moment."""
    data = pattern("base", 200 * KIB)
    write(f"{place}/real", data)
    define(mnt / "x", f"{place}/real")
    child = Child(names={"View": View})
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, 200 << 10)", path=mnt.cow("x"))
    assert child.get("os.getxattr(fd, 'user.section.mode')") == b"copy"
    child.begin("while view.read(0, 4) != b'stop':\n"
                " for at in range(4096, 200 << 10, 4096): view.write(at, view.read(at + 8, 8))")
    fd = os.open(f"/proc/{child.pid}/fd/{child_fd(child)}", os.O_RDWR)
    for _ in range(300):
        fcntl.ioctl(fd, RESET)
        assert os.fstat(fd).st_size == len(data)
        assert len(os.pread(fd, MIB, 0)) == len(data)
    os.pwrite(fd, b"stop", 0)
    child.finish()
    fcntl.ioctl(fd, RESET)
    assert os.pread(fd, MIB, 0) == data
    os.close(fd)
    child.kill()


@pytest.mark.modes("passthrough", "cached")
def test_section_that_a_commit_has_shortened_can_be_opened(mnt):
    """Whose policy is to be cut by its only user at most: nobody has to wait for that for ever."""
    write(mnt / "x", pattern("x", MIB))
    os.setxattr(mnt / "x", "user.section.resize", b"grow")
    os.close(os.open(mnt / "copy", os.O_CREAT | os.O_RDWR))
    os.setxattr(mnt / "copy", "user.section.protect", b"writecopy")
    os.setxattr(mnt / "copy", "user.section.base", b"x")
    with opened(mnt / "copy") as fd:
        os.ftruncate(fd, 10 * PAGE)
        fcntl.ioctl(fd, COMMIT)
    for path in (mnt / "x", mnt.cow("x"), mnt / "copy"):
        child = Child()
        child.begin("len(os.read(os.open(path, os.O_RDWR), 1 << 30))", _kind="get", path=path)
        assert child.finish() == 10 * PAGE
        child.kill()
    os.unlink(mnt / "x")


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("cow_copy_max=0")
@pytest.mark.parametrize("verb", [COMMIT, RESET])
@pytest.mark.parametrize("held", [True, False])
def test_section_that_is_emptied_and_filled_again(mnt, ctl, held, verb):
    """A copy takes from it what it has now, whether or not somebody had it open meanwhile."""
    write(mnt / "x", pattern("x", 8 * PAGE))
    ctl("create", mnt / "copy", "--base", "x")
    with opened(mnt / "copy") as fd, contextlib.ExitStack() as stack:
        os.pwrite(fd, b"own", 0)
        if held:
            stack.enter_context(opened(mnt / "x", os.O_RDONLY))
        os.close(os.open(mnt / "x", os.O_WRONLY | os.O_TRUNC))
        time.sleep(0.3)                                 # in which it is found to have no user
        new = pattern("new", 6 * PAGE)
        write(mnt / "x", new)
        assert os.pread(fd, PAGE, 4 * PAGE) == new[4 * PAGE:5 * PAGE]
        assert os.pread(fd, 3, 0) == b"own"
        fcntl.ioctl(fd, verb)
        # The page that was written is the view's own, with all that it had then.
        first = b"own" + pattern("x", PAGE)[3:] if verb == COMMIT else new[:PAGE]
        assert os.pread(fd, PAGE, 0) == first
        assert read(mnt / "x")[:6 * PAGE] == first + new[PAGE:]


@pytest.mark.modes("passthrough", "cached")
@pytest.mark.options("cow_copy_max=0")
def test_commits_and_resets_of_one_view_take_turns(mnt):
    """What is written to the section after a commit of it is not written over by that."""
    write(mnt / "x", pattern("x", MIB))
    stop, wrong = threading.Event(), []
    with opened(mnt.cow("x")) as fd, opened(mnt / "x") as section:
        def repeat(request):
            while not stop.is_set():
                fcntl.ioctl(fd, request)

        def look():
            for number in range(300):
                stamp = number.to_bytes(8, "little")
                os.pwrite(section, stamp, 77 * PAGE)
                time.sleep(0.001)
                if os.pread(section, 8, 77 * PAGE) != stamp:
                    wrong.append(number)
            stop.set()
        threads = [threading.Thread(target=repeat, args=(request,))
                   for request in (COMMIT, COMMIT, RESET)] + [threading.Thread(target=look)]
        for thread in threads:
            thread.start()
        while not stop.is_set():
            os.pwrite(fd, os.urandom(16 * PAGE), 0)
        for thread in threads:
            thread.join()
    assert not wrong


@pytest.mark.parametrize("io", ["passthrough", "cached"])
def test_holes_are_not_guessed(faulty, place, io):
    """Where the file that is below cannot be asked, a punch says so, and a seek finds nothing."""
    write(f"{place}/real", pattern("real", MIB))
    mnt = faulty(io, "cow_copy_max=0,reflink=off")
    define(mnt / "x", f"{place}/real")
    with opened(mnt.cow("x")) as fd:
        mnt.failures.plan("seeks", 1, 1 << 60, serving=True)
        before = mnt.stats()["worker_pid"]
        os.kill(before, signal.SIGKILL)
        eventually(lambda: mnt.stats()["worker_pid"] != before)
        with refused(errno.EIO):
            punch(fd, 0, 4 * PAGE)
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with refused(errno.EIO):
                os.lseek(fd, 0, whence)
        assert mnt.failures.failed > 0
        assert os.pread(fd, MIB, 0) == pattern("real", MIB)
