# SPDX-License-Identifier: MIT
"""Sections that are copy-on-write as such: by their own name, for each opener (cow=open) or for all
of them together (cow=section), over a file, over memory, and over other sections (base)."""

import errno
import os
import threading

import pytest

from sections import PREFIX, key, make, patiently, set_keys, unused
from util import (MIB, PAGE, View, call, eventually, extents, opened, pattern, punch, read, refused,
                  sha, write)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
both_kinds = pytest.mark.parametrize("kind", ["page", "file"])
SIZE = 8 * PAGE


@pytest.fixture
def section(mnt, place):
    """Makes a writecopy section of a kind: its path. Its bytes are data(kind)."""
    def make_section(kind, name="x", cow="open"):
        real = f"{place}/real-{name}"
        if kind == "file":
            write(real, data(kind))
            if mnt.user:
                os.chown(real, mnt.user.uid, mnt.user.gid)

        def body():
            if kind == "file":
                make(mnt / name, file=real, protect="writecopy", cow=cow)
            else:
                write(mnt / name, data(kind))
                unused(mnt / name)
                patiently(lambda: set_keys(mnt / name, protect="writecopy", cow=cow))
        mnt.run(body)
        return mnt / name
    return make_section


def data(kind):
    return pattern(kind, SIZE)


# --- cow=open -------------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_each_open_has_a_copy_of_its_own(mnt, section, kind):
    path = section(kind)
    before = mnt.stats()

    def body():
        assert (key(path, "protect"), key(path, "cow")) == ("writecopy", "open")
        with opened(path) as one, opened(path) as two, opened(path, os.O_RDONLY) as three:
            os.pwrite(one, b"one", 0)
            view = View(two, SIZE)
            view.write(0, b"two")
            view.write(5 * PAGE, b"stored")
            assert os.pread(one, 3, 0) == b"one"
            assert os.pread(two, 3, 0) == b"two" and os.pread(two, 6, 5 * PAGE) == b"stored"
            assert os.pread(three, SIZE, 0) == data(kind)
            assert read(path) == data(kind)
            os.ftruncate(one, 10)
            os.pwrite(two, b"end", 2 * SIZE)
            punch(two, PAGE, PAGE)
            assert (os.fstat(one).st_size, os.fstat(two).st_size) == (10, 2 * SIZE + 3)
            assert os.fstat(three).st_size == os.stat(path).st_size == SIZE
            # st_ino is what programs compare.
            assert len({os.fstat(fd).st_ino for fd in (one, two, three)}) == 1
            view.close()
        assert read(path) == data(kind)
        with opened(path, os.O_RDWR | os.O_TRUNC) as fd:
            assert os.fstat(fd).st_size == 0
        assert os.stat(path).st_size == SIZE
    mnt.run(body)
    mnt.settled(before)


@both_kinds
def test_descriptors_that_come_from_one_open_share_its_copy(mnt, section, kind):
    path = section(kind)
    with opened(path) as fd:
        os.pwrite(fd, b"shared", 0)
        child = mnt.child()
        child.give(fd, "fd")
        assert child.get("os.pread(fd, 6, 0)") == b"shared"
        child.do("os.pwrite(fd, b'theirs', PAGE)\nother = os.open(f'/proc/self/fd/{fd}', os.O_RDWR)\n"
                 "os.pwrite(other, b'reopened', 2 * PAGE)")
        assert os.pread(fd, 6, PAGE) == b"theirs"
        assert os.pread(fd, 8, 2 * PAGE) == b"reopened"
        child.kill()


@both_kinds
def test_a_copy_goes_with_its_last_mapping(mnt, section, kind):
    path = section(kind)
    before = mnt.stats()
    fd = os.open(path, os.O_RDWR)
    view = View(fd, SIZE)
    view.write(0, b"private")
    os.close(fd)
    assert view.read(0, 7) == b"private"
    assert read(path) == data(kind)
    view.close()
    mnt.settled(before)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, size); view.write(0, bytes(size))\n"
             "os.close(fd)", path=path, size=SIZE)
    child.kill()
    mnt.settled(before)
    assert read(path) == data(kind)


def test_opening_for_writing_needs_the_right_to_read(mnt, section, user):
    path = section("file")
    os.chmod(path, 0o644)

    def body():
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_APPEND, os.O_RDWR | os.O_TRUNC):
            with opened(path, flags) as fd:
                os.write(fd, b"scribbled")
    call(body, user=user)
    os.chmod(path, 0o600)

    def denied():
        for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY):
            with refused(errno.EACCES):
                os.open(path, flags)
    call(denied, user=user)
    assert read(path) == data("file")


@both_kinds
def test_setting_its_attributes_needs_the_right_to_write(mnt, section, user, kind):
    # Its permission bits show writing for whoever may read: that is of their views.
    path = section(kind)
    os.chmod(path, 0o644)
    os.setxattr(path, "user.kept", b"by its owner")

    def denied():
        with refused(errno.EACCES):
            os.setxattr(path, "user.foreign", b"value")
        with refused(errno.EACCES):
            os.removexattr(path, "user.kept")
        with opened(path) as view:
            with refused(errno.EACCES):
                os.setxattr(view, "user.foreign", b"value")
        assert os.getxattr(path, "user.kept") == b"by its owner"
    call(denied, user=user)
    os.chmod(path, 0o646)
    call(lambda: os.setxattr(path, "user.foreign", b"value"), user=user)
    os.removexattr(path, "user.foreign")
    os.chmod(path, 0o644)
    os.chown(path, user.uid, user.gid)
    call(lambda: os.removexattr(path, "user.kept"), user=user)


def test_linking_what_is_anothers_needs_the_right_to_write(mnt, section, user):
    with open("/proc/sys/fs/protected_hardlinks", encoding="ascii") as file:
        if file.read().strip() == "0":
            pytest.skip("the kernel lets everybody link everything")
    path = section("page")

    def link():
        os.link(path, mnt / "link")
        os.unlink(mnt / "link")

    for mode in 0o644, 0o4646, 0o2676:
        os.chmod(path, mode)
        with refused(errno.EPERM):
            call(link, user=user)
    link()
    os.chmod(path, 0o646)
    os.chmod(mnt.path, 0o777)       # else only root can take the link away
    call(link, user=user)
    os.chmod(path, 0o644)
    os.chown(path, user.uid, user.gid)
    call(link, user=user)


def test_threads_that_open_at_once_have_each_their_own(mnt, section):
    path = section("page")
    wrong = []

    def work(number):
        for turn in range(15):
            mine = f"{number:4}{turn:4}".encode()
            with opened(path) as fd:
                if os.pread(fd, SIZE, 0) != data("page"):
                    wrong.append("not the section's bytes")
                os.pwrite(fd, mine, PAGE)
                view = View(fd, SIZE)
                view.write(2 * PAGE, mine)
                if os.pread(fd, 8, PAGE) != mine or view.read(2 * PAGE, 8) != mine:
                    wrong.append("another's bytes")
                view.close()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == [] and read(path) == data("page")


@both_kinds
def test_what_is_done_by_name_is_done_to_the_section(mnt, section, kind):
    """Names, permissions and attributes are its own; bytes and times by path are those of a copy
    that ends with the call. (Whoever may read may write, which is what its mode shows.)"""
    path = section(kind)
    os.chmod(path, 0o640)
    os.chown(path, 12, 34)
    os.setxattr(path, "user.colour", b"green")
    os.link(path, mnt / "y")
    os.rename(path, mnt / "z")
    status = os.stat(mnt / "z")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777, status.st_nlink) == (12, 34, 0o660, 2)
    assert os.getxattr(mnt / "y", "user.colour") == b"green"
    os.truncate(mnt / "y", 3)
    os.utime(mnt / "y", (1, 2))
    assert os.stat(mnt / "y").st_size == SIZE and os.stat(mnt / "y").st_mtime != 2
    assert read(mnt / "y") == data(kind)
    os.unlink(mnt / "y")
    os.unlink(mnt / "z")


@both_kinds
def test_under_cow_it_is_one_more_copy(mnt, section, kind):
    section(kind)
    with opened(mnt.cow("x")) as fd, opened(mnt / "x") as own:
        os.pwrite(own, b"own", 0)
        os.pwrite(fd, b"cow", PAGE)
        assert os.pread(fd, 3, 0) == data(kind)[:3]
        assert os.pread(own, 3, PAGE) == data(kind)[PAGE:PAGE + 3]


# --- cow=section ----------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_all_openers_share_one_copy_until_the_last_is_gone(mnt, section, kind):
    path = section(kind, cow="section")
    before = mnt.stats()
    one, two = mnt.child(), mnt.child()
    one.do("fd = os.open(path, os.O_RDWR); view = View(fd, size)", path=path, size=SIZE)
    two.do("fd = os.open(path, os.O_RDWR); view = View(fd, size)", path=path, size=SIZE)
    one.do("view.write(0, b'from one')")
    assert two.get("os.pread(fd, 8, 0)") == b"from one" == two.get("view.read(0, 8)")
    two.do("os.pwrite(fd, b'from two', PAGE)")
    assert one.get("view.read(PAGE, 8)") == b"from two"
    two.do("os.ftruncate(fd, size + 5)", size=SIZE)
    assert one.get("os.fstat(fd).st_size") == SIZE + 5
    one.kill()
    assert mnt.run(read, path)[:8] == b"from one"           # a third one comes, and goes
    two.do("os.close(fd)")
    assert mnt.run(read, path)[:8] == b"from one"           # a mapping is left
    two.do("view.close()")
    mnt.settled(before)
    assert mnt.run(read, path) == data(kind)                # afresh
    assert int(mnt.run(key, path, "private")) == 0


def test_truncating_when_it_is_opened_is_seen_by_all(mnt, section):
    path = section("file", cow="section")
    with opened(path) as fd:
        os.pwrite(fd, b"here", 0)
        with opened(path, os.O_RDWR | os.O_TRUNC) as other:
            assert os.fstat(fd).st_size == 0
            os.pwrite(other, b"new", 0)
        assert os.pread(fd, 10, 0) == b"new"
    unused(path)
    eventually(lambda: read(path) == data("file"))


def test_private_tells_what_the_shared_copy_takes(mnt, section):
    path = section("page", cow="section")
    with opened(path) as fd:
        os.pwrite(fd, b"x", 0)
        os.pwrite(fd, b"x", 3 * PAGE)
        assert key(path, "private") == str(2 * PAGE)
        assert os.getxattr(fd, PREFIX + "private") == b"8192"


def test_opened_and_closed_at_once_by_many(mnt, section):
    """Each sees the section's bytes or those of the copy that lives then, whole; it is dropped
    between any two, and never under anybody."""
    path = section("page", cow="section")
    before = mnt.stats()
    wrong = []

    def work(number):
        for turn in range(25):
            fd = os.open(path, os.O_RDWR)
            mine = number.to_bytes(1, "little") * 64
            at = number * PAGE
            os.pwrite(fd, mine, at)
            if os.pread(fd, 64, at) != mine:
                wrong.append("lost")
            for other in range(8):
                if os.pread(fd, 64, other * PAGE) not in (
                        data("page")[other * PAGE:other * PAGE + 64],
                        other.to_bytes(1, "little") * 64):
                    wrong.append("mixed")
            os.close(fd)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert wrong == []
    mnt.settled(before)
    assert read(path) == data("page")


# --- Switching ------------------------------------------------------------------------------------

@both_kinds
def test_it_is_switched_while_nobody_has_it_open(mnt, place, kind):
    if kind == "file":
        write(f"{place}/real", data(kind))
        make(mnt / "x", file=f"{place}/real")
    else:
        write(mnt / "x", data(kind))
    with opened(mnt / "x", os.O_RDONLY) as fd:
        with refused(errno.EBUSY):
            set_keys(mnt / "x", protect="writecopy")
        set_keys(mnt / "x", protect="readonly")
        set_keys(mnt / "x", protect="readwrite")
    patiently(lambda: set_keys(mnt / "x", protect="writecopy"))
    fd = os.open(mnt / "x", os.O_RDWR)
    os.pwrite(fd, b"copy", 0)
    for values in (dict(protect="readwrite"), dict(protect="readonly"), dict(cow="section")):
        with refused(errno.EBUSY):
            set_keys(mnt / "x", **values)
    os.close(fd)
    patiently(lambda: set_keys(mnt / "x", cow="section"))
    patiently(lambda: set_keys(mnt / "x", protect="readwrite"))
    assert read(mnt / "x") == data(kind)
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"real", 0)
    assert read(mnt / "x")[:4] == b"real"


def test_a_mapping_alone_forbids_it_as_well(mnt):
    """What is stored to it later would still go to the section."""
    write(mnt / "x", data("page"))
    fd = os.open(mnt / "x", os.O_RDWR)
    view = View(fd, PAGE)
    os.close(fd)
    if mnt.mode == "passthrough":
        unused(mnt / "x")
    with refused(errno.EBUSY):
        set_keys(mnt / "x", protect="writecopy")
    view.close()
    patiently(lambda: set_keys(mnt / "x", protect="writecopy"))


# --- base -----------------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_a_section_over_another(mnt, place, kind):
    if kind == "file":
        write(f"{place}/real", data(kind))
        if mnt.user:
            os.chown(f"{place}/real", mnt.user.uid, mnt.user.gid)

    def body():
        os.mkdir(mnt / "d")
        if kind == "file":
            make(mnt / "d/golden", file=f"{place}/real")
        else:
            write(mnt / "d/golden", data(kind))
        make(mnt / "x", base="d/golden")
        make(mnt / "y", base="/d/golden", cow="section")
        for name in ("x", "y"):
            path = mnt / name
            assert key(path, "protect") == "writecopy"
            assert key(path, "base").lstrip("/") == "d/golden"
            assert os.stat(path).st_size == SIZE and read(path) == data(kind)
            with opened(path) as fd:
                os.pwrite(fd, b"over", 0)
                view = View(fd, SIZE)
                view.write(PAGE, b"stored")
                assert os.pread(fd, 6, PAGE) == b"stored" and os.pread(fd, 4, 0) == b"over"
                view.close()
            with refused(errno.EACCES):
                set_keys(path, protect="readwrite")
        assert read(mnt / "d/golden") == data(kind)
        assert os.stat(mnt / "x").st_ino != os.stat(mnt / "d/golden").st_ino
    mnt.run(body)
    eventually(lambda: mnt.run(read, mnt / "y") == data(kind))


def test_what_cannot_be_a_base(mnt, place, user):
    write(f"{place}/real", b"data")
    write(mnt / "golden", b"golden")
    os.mkdir(mnt / "d")
    os.symlink("golden", mnt / "link")
    os.mkfifo(mnt / "fifo")
    make(mnt / "x")
    for base, codes in (("none", [errno.ENOENT]), ("d", [errno.ENODEV]), ("fifo", [errno.ENODEV]),
                        ("x", [errno.ELOOP]), ("", [errno.EINVAL, errno.ENODEV, errno.ENOENT]),
                        ("golden/x", [errno.ENOTDIR, errno.ENOENT, errno.ENODEV])):
        with refused(*codes):
            set_keys(mnt / "x", base=base)
    assert read(mnt / "x") == b"" and key(mnt / "x", "kind") == "page"
    # What has bytes, or a file, has no base; and the other way round.
    with refused(errno.EBUSY):
        set_keys(mnt / "golden", base="x")
    make(mnt / "y", file=f"{place}/real")
    with refused(errno.EBUSY):
        set_keys(mnt / "y", base="golden")
    make(mnt / "z", base="golden")
    for values in (dict(file=f"{place}/real"), dict(base="x")):
        with refused(errno.EBUSY):
            set_keys(mnt / "z", **values)


def test_a_base_must_be_readable_and_reachable(mnt, user):
    os.mkdir(mnt / "d", 0o755)
    write(mnt / "d/golden", b"golden")
    call(make, mnt / "x", user=user)

    def attempt():
        set_keys(mnt / "x", base="d/golden")
    os.chmod(mnt / "d/golden", 0o600)
    with refused(errno.EACCES):
        call(attempt, user=user)
    os.chmod(mnt / "d/golden", 0o644)
    os.chmod(mnt / "d", 0o700)
    with refused(errno.EACCES):
        call(attempt, user=user)
    os.chmod(mnt / "d", 0o711)
    call(attempt, user=user)
    os.chmod(mnt / "d/golden", 0o600)                   # rights are settled when it is made
    assert call(read, mnt / "x", user=user) == b"golden"


def test_chains_of_bases_and_no_rings(mnt):
    write(mnt / "n0", data("page"))
    for number in range(1, 6):
        make(mnt / f"n{number}", base=f"n{number - 1}")
    with opened(mnt / "n5") as top, opened(mnt / "n3") as middle:
        os.pwrite(middle, b"middle", 0)
        os.pwrite(top, b"top", PAGE)
        assert os.pread(top, SIZE, 0) == data("page")[:PAGE] + b"top" + data("page")[PAGE + 3:]
        assert os.pread(middle, 6, 0) == b"middle"
    assert all(read(mnt / f"n{number}") == data("page") for number in range(6))
    os.rename(mnt / "n5", mnt / "again")                # names do not matter once it is made
    make(mnt / "n5", base="again")
    assert read(mnt / "n5") == data("page")
    make(mnt / "a")
    make(mnt / "b", base="a")
    with refused(errno.ELOOP):
        set_keys(mnt / "a", base="b")


def test_a_base_lives_as_long_as_it_is_used(mnt, place):
    """Its name may go, and the file of a file section too; what is over it stays whole."""
    before = mnt.stats()
    write(mnt / "golden", data("page"))
    write(f"{place}/real", data("file"))
    make(mnt / "over-file", file=f"{place}/real")
    make(mnt / "x", base="golden")
    make(mnt / "y", base="over-file")
    for name in ("golden", "over-file"):
        os.unlink(mnt / name)
    os.unlink(f"{place}/real")
    write(mnt / "golden", b"another one of that name")
    assert read(mnt / "x") == data("page") and read(mnt / "y") == data("file")
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"over", 0)
        assert os.pread(fd, SIZE, 0) == b"over" + data("page")[4:]
    os.unlink(mnt / "x")
    os.unlink(mnt / "y")
    os.unlink(mnt / "golden")
    mnt.settled(before)


def test_a_temporary_base_and_a_temporary_copy(mnt):
    before = mnt.stats()
    make(mnt / "golden", size=SIZE, lifetime="permanent")
    with opened(mnt / "golden") as fd:
        os.pwrite(fd, data("page"), 0)
    unused(mnt / "golden")
    make(mnt / "x", base="golden", lifetime="temporary", cow="section")
    set_keys(mnt / "golden", lifetime="temporary")
    fd = os.open(mnt / "x", os.O_RDWR)
    os.pwrite(fd, b"over", 0)
    os.close(os.open(mnt / "golden", os.O_RDONLY))      # its own last user
    assert os.pread(fd, SIZE, 0) == b"over" + data("page")[4:]
    assert os.path.exists(mnt / "x")
    os.close(fd)
    eventually(lambda: not os.path.exists(mnt / "x"))
    eventually(lambda: not os.path.exists(mnt / "golden"))
    mnt.settled(before)


@both_kinds
def test_the_section_is_never_written(mnt, place, kind):
    """Not its bytes, its size, its times or its file's extents, by a lifetime of copies."""
    if kind == "file":
        write(f"{place}/real", data(kind))
        os.sync()
        make(mnt / "golden", file=f"{place}/real")
    else:
        write(mnt / "golden", data(kind))
        unused(mnt / "golden")
    make(mnt / "x", base="golden")
    make(mnt / "y", base="golden", cow="section")

    def state():
        status = os.stat(mnt / "golden")
        return (sha(mnt / "golden"), status.st_size, status.st_mtime_ns, status.st_blocks,
                extents(f"{place}/real") if kind == "file" else None)
    before = state()
    for name in ("x", "y"):
        with opened(mnt / name) as fd:
            view = View(fd, SIZE)
            view.write(0, bytes(SIZE))
            view.sync()
            os.fsync(fd)
            view.close()
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"new", MIB)
            os.utime(fd, (1, 2))
        os.truncate(mnt / name, 0)
        os.utime(mnt / name, (3, 4))
    assert state() == before
