# SPDX-License-Identifier: MIT
"""Windows: a part of a file as a file of its own, of which exactly that part can be reached."""

import errno
import fcntl
import os

import pytest

from sections import COMMIT, key, make, patiently, set_keys
from util import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, KIB, MIB, PAGE, View, call, eventually,
                  fallocate, opened, pattern, punch, read, refused, run, write)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
AT, SIZE, WHOLE = 3 * PAGE + 100, 2 * PAGE + 50, 16 * PAGE
DATA = pattern("real", WHOLE)


@pytest.fixture
def real(mnt, place):
    path = f"{place}/real"
    write(path, DATA)
    if mnt.user:
        os.chown(path, mnt.user.uid, mnt.user.gid)
    return path


@pytest.fixture
def window(mnt, real):
    """AT to AT + SIZE of the file."""
    mnt.run(lambda: make(mnt / "x", file=real, offset=AT, length=SIZE) and None)
    return mnt / "x"


def outside(path):
    """What the window does not show, of the file."""
    content = read(path)
    return content[:AT], content[AT + SIZE:]


OUTSIDE = DATA[:AT], DATA[AT + SIZE:]


# --- What it shows --------------------------------------------------------------------------------

@every_mode
def test_it_has_exactly_its_size_and_its_bytes(mnt, real, window):
    def body():
        status = os.stat(window)
        assert status.st_size == SIZE
        assert (key(window, "offset"), key(window, "length"), key(window, "size")) == \
            (str(AT), str(SIZE), str(SIZE))
        assert read(window) == DATA[AT:AT + SIZE]
        with opened(window) as fd:
            assert os.fstat(fd).st_size == SIZE
            assert os.lseek(fd, 0, os.SEEK_END) == SIZE
            assert os.pread(fd, 100, SIZE - 10) == DATA[AT + SIZE - 10:AT + SIZE]
            assert os.pread(fd, 100, SIZE) == b"" == os.pread(fd, 100, 10 * SIZE)
            assert key(window, "mode") == "direct"
    mnt.run(body)


@every_mode
def test_what_is_written_lands_at_its_place_and_nowhere_else(mnt, real, window):
    def body():
        with opened(window) as fd:
            for at, data in ((0, b"start"), (PAGE - 3, b"across"), (SIZE - 3, b"end")):
                assert os.pwrite(fd, data, at) == len(data)
                assert os.pread(fd, len(data), at) == data
    mnt.run(body)
    content = read(real)
    assert content[AT:AT + 5] == b"start"
    assert content[AT + PAGE - 3:AT + PAGE + 3] == b"across"
    assert content[AT + SIZE - 3:AT + SIZE] == b"end"
    assert outside(real) == OUTSIDE and len(content) == WHOLE


@pytest.mark.parametrize("offset", [0, PAGE, 3 * PAGE + 100, 512, 1])
def test_mappings_show_it_wherever_it_begins(mnt, real, offset):
    """Pages of a mapping need not be pages of the file."""
    make(mnt / "x", file=real, offset=offset, length=SIZE)
    with opened(mnt / "x") as fd:
        view = View(fd, SIZE)
        assert view.read(0, SIZE) == DATA[offset:offset + SIZE]
        view.write(0, b"first")
        view.write(SIZE - 4, b"last")
        view.sync()
        content = read(real)
        assert content[offset:offset + 5] == b"first"
        assert content[offset + SIZE - 4:offset + SIZE] == b"last"
        assert content[:offset] == DATA[:offset]
        assert content[offset + SIZE:] == DATA[offset + SIZE:]
        assert os.pread(fd, 5, 0) == b"first"
        view.close()


def test_stores_beyond_its_end_in_its_last_page_stay_out_of_the_file(mnt, real, window):
    """As with every file: they are not part of it."""
    with opened(window) as fd:
        view = View(fd, 3 * PAGE)
        view.write(SIZE, b"x" * (3 * PAGE - SIZE))
        view.write(0, b"stored")
        view.sync()
        view.close()
        os.fsync(fd)
    assert outside(real) == OUTSIDE and read(real)[AT:AT + 6] == b"stored"


def test_windows_and_the_file_agree(mnt, real, window):
    """Two that overlap, the whole, and the file itself: reads and writes at once, mappings with
    msync."""
    make(mnt / "y", file=real, offset=AT + PAGE, length=SIZE)
    make(mnt / "whole", file=real)
    with opened(window) as x, opened(mnt / "y") as y, opened(mnt / "whole") as whole, \
            opened(real) as file:
        os.pwrite(x, b"from x", PAGE + 10)
        assert os.pread(y, 6, 10) == os.pread(whole, 6, AT + PAGE + 10) == b"from x"
        os.pwrite(y, b"from y", 10)
        assert os.pread(x, 6, PAGE + 10) == os.pread(file, 6, AT + PAGE + 10) == b"from y"
        os.pwrite(file, b"from the file", AT + PAGE)
        assert os.pread(x, 13, PAGE) == os.pread(y, 13, 0) == b"from the file"
        view = View(x, SIZE)
        view.write(PAGE + 20, b"stored")
        view.sync()
        assert os.pread(y, 6, 20) == os.pread(file, 6, AT + PAGE + 20) == b"stored"
        assert os.pread(x, 6, PAGE + 20) == b"stored"
        view.close()


def test_holes_of_the_file_are_holes_of_it(mnt, place):
    with opened(f"{place}/sparse", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 4 * MIB)
        os.pwrite(fd, b"data", 2 * MIB)
    make(mnt / "x", file=f"{place}/sparse", offset=MIB, length=2 * MIB)
    with opened(mnt / "x", os.O_RDONLY) as fd:
        at = os.lseek(fd, 0, os.SEEK_DATA)
        assert MIB - 64 * KIB <= at <= MIB
        assert MIB < os.lseek(fd, MIB, os.SEEK_HOLE) <= 2 * MIB
        with refused(errno.ENXIO):
            os.lseek(fd, 2 * MIB, os.SEEK_DATA)
    make(mnt / "y", file=f"{place}/sparse", length=MIB)     # all of it is a hole
    with opened(mnt / "y", os.O_RDONLY) as fd:
        with refused(errno.ENXIO):                          # what comes after it is none of its
            os.lseek(fd, 0, os.SEEK_DATA)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0


def test_partitions_of_a_disk_image_are_files(mnt, place, ctl):
    """Filesystems are made and checked in two partitions; neither touches what is around them."""
    image = f"{place}/disk.img"
    with opened(image, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 40 * MIB)
        for at in (0, MIB - 4, 17 * MIB - 4, 17 * MIB, 18 * MIB - 4, 34 * MIB):
            os.pwrite(fd, b"#" * 4, at)
    ctl("create", mnt / "part1", "--file", image, "--offset", "1M", "--size", "16M")
    ctl("create", mnt / "part2", "--file", image, "--offset", "18M", "--size", "16M")
    for name in ("part1", "part2"):
        assert os.stat(mnt / name).st_size == 16 * MIB
        result = run("mke2fs", "-q", "-F", "-t", "ext4", mnt / name, ok=False)
        if "not found" in result.stderr:
            pytest.skip("no mke2fs")
        assert result.returncode == 0, result.stderr
        run("e2fsck", "-fn", mnt / name)
    with opened(image, os.O_RDONLY) as fd:
        for at in (0, MIB - 4, 17 * MIB, 18 * MIB - 4, 34 * MIB):
            assert os.pread(fd, 4, at) == b"#" * 4, at
        assert os.pread(fd, 2, MIB + 1024 + 56) == b"\x53\xef"      # ext4's mark
        assert os.pread(fd, 2, 18 * MIB + 1024 + 56) == b"\x53\xef"


# --- Its ends -------------------------------------------------------------------------------------

@every_mode
def test_a_bounded_window_neither_grows_nor_shrinks(mnt, real, window):
    def body():
        with opened(window) as fd:
            for size in (0, 1, SIZE - 1):
                with refused(errno.EPERM):
                    os.ftruncate(fd, size)
                with refused(errno.EPERM):
                    os.truncate(window, size)
            with refused(errno.EPERM):
                os.open(window, os.O_RDWR | os.O_TRUNC)
            for size in (SIZE + 1, WHOLE, 10 * WHOLE):
                with refused(errno.EFBIG):
                    os.ftruncate(fd, size)
                with refused(errno.EFBIG):
                    os.truncate(window, size)
            os.ftruncate(fd, SIZE)
            assert os.pwrite(fd, b"123456", SIZE - 2) == 2
            for at in (SIZE, SIZE + 1, WHOLE):
                with refused(errno.EFBIG):
                    os.pwrite(fd, b"beyond", at)
            with opened(window, os.O_WRONLY | os.O_APPEND) as end:
                with refused(errno.EFBIG):
                    os.write(end, b"more")
            for mode in (0, FALLOC_KEEP_SIZE):
                fallocate(fd, mode, 0, SIZE)
                for at, length in ((0, SIZE + 1), (SIZE, 1), (SIZE - 1, 2), (WHOLE, PAGE)):
                    with refused(errno.EFBIG):
                        fallocate(fd, mode, at, length)
            assert os.fstat(fd).st_size == SIZE
    mnt.run(body)
    assert outside(real) == OUTSIDE and os.path.getsize(real) == WHOLE


def test_punching_stays_inside(mnt, real, window):
    with opened(window) as fd:
        punch(fd, 0, SIZE)
        for at, length in ((PAGE, WHOLE), (SIZE, PAGE), (SIZE - 1, 10)):
            try:
                fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at, length)
            except OSError as error:
                assert error.errno == errno.EFBIG
        assert os.pread(fd, SIZE, 0) == bytes(SIZE)
    assert outside(real) == OUTSIDE


def test_copies_stay_inside(mnt, real, window):
    write(mnt / "source", b"s" * SIZE)
    with opened(mnt / "source") as source, opened(window) as fd:
        assert os.copy_file_range(source, fd, SIZE, 0, SIZE - 10) == 10
        with refused(errno.EFBIG):
            os.copy_file_range(source, fd, SIZE, 0, SIZE)
        assert os.copy_file_range(fd, source, WHOLE, PAGE, 0) == SIZE - PAGE
    assert outside(real) == OUTSIDE
    assert read(real)[AT + SIZE - 10:AT + SIZE] == b"s" * 10
    assert read(mnt / "source")[:100] == DATA[AT + PAGE:AT + PAGE + 100]


@every_mode
def test_an_open_ended_window_goes_to_the_end_of_the_file_now_and_later(mnt, real):
    def body():
        path = make(mnt / "x", file=real, offset=AT)
        assert os.stat(path).st_size == WHOLE - AT and read(path) == DATA[AT:]
        with opened(path) as fd:
            assert os.pwrite(fd, b"more", WHOLE - AT) == 4          # it grows the file
            assert os.fstat(fd).st_size == WHOLE - AT + 4
            with opened(path, os.O_WRONLY | os.O_APPEND) as end:
                os.write(end, b"!")
            os.ftruncate(fd, WHOLE - AT + 100)
            fallocate(fd, 0, 0, WHOLE - AT + 200)
            for size in (0, 1, WHOLE - AT + 199):                   # but never shrinks it
                with refused(errno.EPERM):
                    os.ftruncate(fd, size)
            with refused(errno.EPERM):
                os.open(path, os.O_WRONLY | os.O_TRUNC)
        assert os.stat(real).st_size == WHOLE + 200
        assert read(real) == DATA + b"more!" + bytes(195)
    mnt.run(body)
    os.truncate(real, WHOLE + PAGE)                                 # the file's own changes show
    assert mnt.run(os.stat, mnt / "x").st_size == WHOLE + PAGE - AT
    os.truncate(real, AT + 10)
    assert mnt.run(os.stat, mnt / "x").st_size == 10


def test_a_file_cut_short_behind_its_back(mnt, real, window):
    """It has the size it has; what is not there reads as nothing, or zero, and harms nobody."""
    os.truncate(real, AT + 100)
    with opened(window) as fd:
        got = os.pread(fd, SIZE, 0)
        assert got[:100] == DATA[AT:AT + 100] and got[100:] == bytes(len(got) - 100)
        os.pwrite(fd, b"again", PAGE)
        assert read(real)[AT + PAGE:AT + PAGE + 5] == b"again"
    assert os.path.getsize(real) <= AT + SIZE


# --- Definition -----------------------------------------------------------------------------------

@pytest.mark.parametrize("values,code", [
    (dict(offset=AT, length=WHOLE), 0),                             # makes the file longer
    (dict(offset=WHOLE + 5, length=10), 0),
    (dict(offset=AT, length=WHOLE, protect="readonly"), errno.EFBIG),
    (dict(offset=AT, length=WHOLE, protect="writecopy"), errno.EFBIG),
    (dict(offset=WHOLE, length=0), errno.EINVAL),                   # nothing is left
    (dict(offset=WHOLE + 1), errno.EINVAL),
    (dict(offset=(1 << 63) - 1, length=1), errno.EFBIG),
    (dict(offset=1 << 62, length=1 << 62), errno.EFBIG),
    (dict(offset=-1), errno.EINVAL),
    (dict(offset="1M1"), errno.EINVAL),
    (dict(offset=""), errno.EINVAL),
    (dict(length="0x10"), errno.EINVAL),
    (dict(length=1 << 64), errno.EINVAL),
], ids=str)
def test_what_can_be_a_window(mnt, real, values, code):
    if code:
        with refused(code, *([errno.ERANGE, errno.EFBIG] if values == dict(length=1 << 64) else [])):
            make(mnt / "x", file=real, **values)
        assert os.listdir(mnt.path) == [] and read(real) == DATA
        return
    make(mnt / "x", file=real, **values)
    end = values["offset"] + values["length"]
    assert read(real) == DATA + bytes(end - WHOLE)
    assert os.stat(mnt / "x").st_size == values["length"]


def test_it_is_settled_with_the_file(mnt, real, window):
    for values in (dict(offset=0), dict(length=0), dict(offset=AT + 1), dict(length=SIZE - 1)):
        with refused(errno.EBUSY):
            set_keys(window, **values)
    assert (key(window, "offset"), key(window, "length")) == (str(AT), str(SIZE))
    with refused(errno.EBUSY, errno.EPERM):
        os.removexattr(window, "user.section.offset")
    make(mnt / "y")
    set_keys(mnt / "y", offset=10, length=20)
    set_keys(mnt / "y", offset=AT, length=SIZE)                     # until then it can be changed
    set_keys(mnt / "y", file=real)
    assert read(mnt / "y") == DATA[AT:AT + SIZE]


def test_a_file_that_may_not_be_written_is_not_made_longer(mnt, real, user):
    os.chmod(real, 0o644)

    def body():
        with refused(errno.EFBIG):
            make(mnt / "x", file=real, length=WHOLE + 1)
        make(mnt / "y", file=real, length=WHOLE)
        assert key(mnt / "y", "protect") == "readonly"
    call(body, user=user)
    assert read(real) == DATA


def test_a_full_disk_makes_no_window(mnt, place):
    """The file cannot be made as long as that: ENOSPC or EFBIG, and it is as it was."""
    write(f"{place}/real", b"short")
    with refused(errno.EFBIG, errno.ENOSPC):
        make(mnt / "x", file=f"{place}/real", length=(1 << 62))
    assert read(f"{place}/real") == b"short" and os.listdir(mnt.path) == []


@pytest.mark.parametrize("protect", ["readonly", "writecopy"])
def test_protected_windows(mnt, real, protect):
    make(mnt / "x", file=real, offset=AT, length=SIZE, protect=protect)
    assert read(mnt / "x") == DATA[AT:AT + SIZE]
    if protect == "readonly":
        with refused(errno.EACCES):
            os.open(mnt / "x", os.O_RDWR)
    else:
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"copy", 0)
            os.pwrite(fd, b"grown", SIZE)
            view = View(fd, PAGE)
            assert view.read(0, 4) == b"copy"
            view.close()
            os.ftruncate(fd, 1)
    assert read(real) == DATA


def test_a_copy_on_write_view_of_a_window(mnt, real, window):
    with opened(mnt.cow("x")) as fd:
        assert os.pread(fd, 2 * SIZE, 0) == DATA[AT:AT + SIZE]
        view = View(fd, SIZE)
        view.write(PAGE, b"private")
        assert os.pread(fd, SIZE, 0) == (DATA[AT:AT + PAGE] + b"private" +
                                         DATA[AT + PAGE + 7:AT + SIZE])
        view.close()
    assert read(real) == DATA


@every_mode
def test_a_view_is_committed_into_a_window_that_ends_within_a_page(mnt, real, window):
    def body():
        expected = bytearray(DATA[AT:AT + SIZE])
        with opened(mnt.cow("x")) as fd:
            for at in (0, PAGE + 7, SIZE - 5):
                os.pwrite(fd, b"mine!", at)
                expected[at:at + 5] = b"mine!"
            fcntl.ioctl(fd, COMMIT)
        assert read(window) == expected
        assert read(real) == OUTSIDE[0] + expected + OUTSIDE[1]
    mnt.run(body)


def test_locks_are_on_the_bytes_of_the_file(mnt, real, window):
    """A record lock of a window is one on its part of the file, for those who use that as well."""
    child = mnt.child()
    child.do("import fcntl, struct\nfd = os.open(path, os.O_RDWR)\n"
             "def lock(at, length): fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, length, at)",
             path=real)
    with opened(window) as fd:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5)
        for at, length, free in ((AT + 5, 1, False), (AT + 14, 1, False), (AT + 15, 10, True),
                                 (AT, 5, True), (0, 100, True)):
            if free:
                child.do("lock(at, length)", at=at, length=length)
            else:
                with refused(errno.EAGAIN, errno.EACCES):
                    child.do("lock(at, length)", at=at, length=length)
        with refused(errno.EAGAIN, errno.EACCES):                   # and the other way round
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 15)
        child.do("fcntl.lockf(fd, fcntl.LOCK_UN)")
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 15)
        fcntl.lockf(fd, fcntl.LOCK_UN)
        child.do("lock(AT, 100)", AT=AT)


def test_policies_hold_for_windows_as_well(mnt, real, window):
    set_keys(window, resize="fixed", delete="busy", limit=SIZE)
    with opened(window) as fd:
        assert os.pwrite(fd, b"123456", SIZE - 3) == 3
        with refused(errno.EBUSY):
            os.unlink(window)
    patiently(os.unlink, window)
    make(mnt / "open", file=real, offset=AT, limit=WHOLE)
    with opened(mnt / "open") as fd:
        os.ftruncate(fd, WHOLE)
        with refused(errno.EFBIG):
            os.ftruncate(fd, WHOLE + 1)
    make(mnt / "temporary", file=real, offset=AT, length=SIZE, lifetime="temporary")
    with opened(mnt / "temporary") as fd:
        view = View(fd, PAGE)
    assert view.read(0, 10) == os.pread(os.open(real, os.O_RDONLY), 10, AT)
    assert os.path.exists(mnt / "temporary")
    view.close()
    eventually(lambda: not os.path.exists(mnt / "temporary"))
