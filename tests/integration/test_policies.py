# SPDX-License-Identifier: MIT
"""What a section allows: protection, resizing, deleting, a limit. (Committed memory is in
test_commit.py, who inherits what in test_keys.py, that nothing reaches a file in
test_untouched.py.)

A policy is enforced wherever the bytes go, so each test runs in both modes and on both kinds of
section; where a policy needs to see writes, the daemon sees them."""

import errno
import mmap
import os
import stat

import pytest

from sections import PREFIX, key, make, patiently, set_keys, unused
from util import (PAGE, RENAME_EXCHANGE, View, call, eventually, fallocate, link_fd, opened, pattern,
                  punch, read, refused, renameat2, write)

R = mmap.PROT_READ
both_kinds = pytest.mark.parametrize("kind", ["page", "file"])
every_mode = pytest.mark.modes("passthrough", "cached", "user")
SIZE = 4 * PAGE


@pytest.fixture
def section(mnt, place):
    """Makes a section of a kind, with bytes, that nobody has open: its path."""
    def make_section(kind, size=SIZE, name="x", **values):
        path = mnt / name
        data = pattern(kind, size)
        if kind == "file":
            real = f"{place}/real-{name}"
            write(real, data)
            if mnt.user:
                os.chown(real, mnt.user.uid, mnt.user.gid)

        def body():
            if kind == "file":
                make(path, file=real)
            else:
                write(path, data)
                unused(path)
            set_keys(path, **values)
        mnt.run(body)
        return path
    return make_section


def data_of(kind, size=SIZE):
    return pattern(kind, size)


# --- protect --------------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_readonly_refuses_whatever_would_write(mnt, section, kind):
    """Root as well, and whatever the permission bits say."""
    path = section(kind, protect="readonly")

    def body():
        os.chmod(path, 0o777)
        for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDONLY | os.O_TRUNC, os.O_WRONLY | os.O_APPEND,
                      os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC | os.O_CREAT):
            with refused(errno.EACCES):
                os.open(path, flags)
        for size in (0, SIZE, SIZE + 1):
            with refused(errno.EACCES):
                os.truncate(path, size)
        with opened(path, os.O_RDONLY) as fd:
            with refused(errno.EACCES):
                View(fd, PAGE)
            with refused(errno.EINVAL, errno.EBADF):
                os.ftruncate(fd, 0)
            with refused(errno.EBADF):
                fallocate(fd, 0, 0, PAGE)
            with refused(errno.EACCES):                 # nor by way of the descriptor
                os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
            with refused(errno.EACCES):
                os.truncate(f"/proc/self/fd/{fd}", 0)
            assert os.pread(fd, SIZE, 0) == data_of(kind)
            View(fd, PAGE, prot=R).close()
            View(fd, PAGE, flags=mmap.MAP_PRIVATE).close()
        # Everything but its bytes is as ever.
        os.link(path, path + "-link")
        with refused(errno.EACCES):
            os.open(path + "-link", os.O_RDWR)
        os.rename(path + "-link", path + "-other")
        os.setxattr(path, "user.colour", b"green")
        os.unlink(path + "-other")
    mnt.run(body)


@both_kinds
def test_readonly_leaves_handles_that_are_open_the_rights_they_have(mnt, section, kind):
    path = section(kind)
    with opened(path) as fd:
        view = View(fd, PAGE)
        set_keys(path, protect="readonly")
        with refused(errno.EACCES):
            os.open(path, os.O_RDWR)
        os.pwrite(fd, b"written", 0)
        view.write(100, b"stored")
        os.ftruncate(fd, SIZE + 10)
        fallocate(fd, 0, 0, SIZE + PAGE)
        punch(fd, PAGE, PAGE)
        second = View(fd, PAGE)
        second.write(200, b"later")
        second.close()
        assert os.fstat(fd).st_size == SIZE + PAGE
        assert os.pread(fd, 5, 200) == b"later"
        os.ftruncate(fd, SIZE)
        view.close()
    assert read(path)[:7] == b"written"
    set_keys(path, protect="readwrite")
    with opened(path) as fd:
        os.pwrite(fd, b"again", 0)


def test_readonly_forbids_the_times_of_a_file(mnt, section, place):
    """Of a writecopy section they can be set, as all of it: for the moment of the call."""
    for protect in ("readonly", "writecopy"):
        path = section("file", name=protect)
        set_keys(path, protect=protect)
        before = os.stat(f"{place}/real-{protect}")
        for times in (None, (1, 2)):
            if protect == "readonly":
                with refused(errno.EACCES):
                    os.utime(path, times)
            else:
                os.utime(path, times)
        after = os.stat(f"{place}/real-{protect}")
        assert (before.st_atime_ns, before.st_mtime_ns, before.st_ctime_ns) == \
            (after.st_atime_ns, after.st_mtime_ns, after.st_ctime_ns)


def test_a_file_that_was_opened_for_reading_stays_readonly(mnt, place, user):
    write(f"{place}/real", b"data")
    os.chmod(f"{place}/real", 0o644)

    def body():
        make(mnt / "x", file=f"{place}/real")
        assert key(mnt / "x", "protect") == "readonly"
        with refused(errno.EACCES):
            set_keys(mnt / "x", protect="readwrite")
        with refused(errno.EACCES):
            os.removexattr(mnt / "x", PREFIX + "protect")
        with refused(errno.EACCES):
            os.open(mnt / "x", os.O_RDWR)
        set_keys(mnt / "x", protect="writecopy")        # a copy needs no more than reading
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"copy", 0)
    call(body, user=user)
    os.chmod(f"{place}/real", 0o666)                    # too late
    with refused(errno.EACCES):
        set_keys(mnt / "x", protect="readwrite")
    assert read(f"{place}/real") == b"data"


def test_what_protect_asks_of_the_file(mnt, place, user):
    """Set before the file: readonly and writecopy ask for the right to read it, readwrite for both,
    and without a word it is as much as there is."""
    write(f"{place}/real", b"data")

    def attempt(protect):
        values = {"protect": protect} if protect else {}
        try:
            make(mnt / "x", file=f"{place}/real", **values)
        except PermissionError:
            return None
        result = key(mnt / "x", "protect")
        os.unlink(mnt / "x")
        return result
    expected = {
        0o666: {None: "readwrite", "readwrite": "readwrite", "readonly": "readonly",
                "writecopy": "writecopy"},
        0o644: {None: "readonly", "readwrite": None, "readonly": "readonly",
                "writecopy": "writecopy"},
        0o622: {None: None, "readwrite": None, "readonly": None, "writecopy": None},
        0o600: {None: None, "readwrite": None, "readonly": None, "writecopy": None},
    }
    for mode, results in expected.items():
        os.chmod(f"{place}/real", mode)
        found = {protect: call(attempt, protect, user=user) for protect in results}
        assert found == results, oct(mode)


def test_a_readonly_section_of_a_file_with_a_program_can_be_run(mnt, place):
    make(mnt / "x", file="/bin/true", protect="readonly", mode=0o755)
    child = mnt.child()
    child.begin("os.execv(path, ['true'])", path=mnt / "x")
    assert child.wait() == 0
    os.chmod(mnt / "x", 0o644)
    with refused(errno.EACCES):
        os.execv(mnt / "x", ["true"])


# --- resize ---------------------------------------------------------------------------------------

def shrinks(path, fd):
    """Every way to make it smaller."""
    return {
        "ftruncate": lambda: os.ftruncate(fd, SIZE - 1),
        "ftruncate to nothing": lambda: os.ftruncate(fd, 0),
        "truncate": lambda: os.truncate(path, SIZE - 1),
        "O_TRUNC": lambda: os.close(os.open(path, os.O_RDWR | os.O_TRUNC)),
        "O_CREAT and O_TRUNC": lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_CREAT)),
    }


IN_THE_WAY = {
    "a handle": "fd = os.open(path, os.O_RDWR)",
    "a handle for reading": "fd = os.open(path, os.O_RDONLY)",
    "a mapping": "fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); os.close(fd)",
    "a mapping for reading": "fd = os.open(path, os.O_RDONLY)\n"
                             "view = View(fd, PAGE, prot=mmap.PROT_READ); os.close(fd)",
    "a private mapping": "fd = os.open(path, os.O_RDONLY)\n"
                         "view = View(fd, PAGE, flags=mmap.MAP_PRIVATE); os.close(fd)",
}


@both_kinds
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_grow_refuses_to_shrink_under_others(mnt, section, kind, what):
    path = section(kind, resize="grow")
    child = mnt.child()
    child.do(IN_THE_WAY[what], path=path)
    with opened(path) as fd:
        for way, shrink in shrinks(path, fd).items():
            with refused(errno.ETXTBSY):
                shrink()
            assert os.fstat(fd).st_size == SIZE, way
        assert os.pread(fd, SIZE, 0) == data_of(kind)
        os.ftruncate(fd, SIZE)                          # the same size
        os.ftruncate(fd, SIZE + 10)                     # and a larger one
        os.truncate(path, 2 * SIZE)
        os.pwrite(fd, b"end", 2 * SIZE)
        punch(fd, 0, PAGE)                              # is no shrinking
    child.kill()
    patiently(os.truncate, path, 1)
    assert os.stat(path).st_size == 1


@both_kinds
def test_grow_lets_its_only_user_shrink_it(mnt, section, kind):
    path = section(kind, resize="grow")
    with opened(path) as fd:
        os.ftruncate(fd, PAGE)
        view = View(fd, PAGE)
        with refused(errno.ETXTBSY):                    # its own mapping is in the way as well
            os.ftruncate(fd, 10)
        view.close()
        patiently(os.ftruncate, fd, 10)
    unused(path)
    os.truncate(path, 5)
    with opened(path, os.O_RDWR | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0


def test_grow_a_refused_open_leaves_no_handle(mnt, section):
    path = section("page", resize="grow")
    with opened(path, os.O_RDONLY):
        for _ in range(5):
            with refused(errno.ETXTBSY):
                os.open(path, os.O_RDWR | os.O_TRUNC)
        eventually(lambda: key(path, "opens") == "1")
    patiently(os.truncate, path, 0)


def test_grow_can_be_set_and_taken_back_while_it_is_open(mnt, section):
    path = section("page")
    with opened(path) as fd, opened(path, os.O_RDONLY):
        os.ftruncate(fd, SIZE - 1)
        set_keys(path, resize="grow")
        with refused(errno.ETXTBSY):
            os.ftruncate(fd, SIZE - 2)
        set_keys(path, resize="free")
        os.ftruncate(fd, SIZE - 2)


@both_kinds
def test_fixed_never_changes_its_size(mnt, section, kind):
    path = section(kind, resize="fixed")
    with opened(path) as fd:
        for size in (0, 1, SIZE - 1, SIZE + 1, 10 * SIZE):
            with refused(errno.EPERM):
                os.ftruncate(fd, size)
            with refused(errno.EPERM):
                os.truncate(path, size)
        for flags in (os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_TRUNC | os.O_CREAT):
            with refused(errno.EPERM):
                os.open(path, flags)
        for at, length in ((0, SIZE + 1), (SIZE, PAGE), (10 * SIZE, 1)):
            with refused(errno.EPERM):
                fallocate(fd, 0, at, length)
        for at in (SIZE, SIZE + 1, 10 * SIZE):
            with refused(errno.EPERM):
                os.pwrite(fd, b"beyond", at)
        with opened(path, os.O_WRONLY | os.O_APPEND) as end:
            with refused(errno.EPERM):
                os.write(end, b"more")
        assert os.fstat(fd).st_size == SIZE
        # All of it is there to be used, and what it says is what happens.
        assert os.pwrite(fd, b"123456", SIZE - 2) == 2
        os.ftruncate(fd, SIZE)
        fallocate(fd, 0, 0, SIZE)
        os.pwrite(fd, b"start", 0)
        punch(fd, PAGE, PAGE)
        view = View(fd, SIZE)
        view.write(2 * PAGE, b"stored")
        assert os.pread(fd, 6, 2 * PAGE) == b"stored"
        view.close()
        assert os.fstat(fd).st_size == SIZE
    content = read(path)
    assert len(content) == SIZE and content[:5] == b"start" and content[-2:] == b"12"
    assert content[PAGE:2 * PAGE] == bytes(PAGE)


@pytest.mark.parametrize("how", ["ftruncate", "truncate", "write", "fallocate"])
def test_fixed_is_fixed_once_it_is_not_empty(mnt, how):
    make(mnt / "x", resize="fixed")
    with opened(mnt / "x", os.O_RDWR | os.O_TRUNC) as fd:       # nothing is cut off
        os.ftruncate(fd, 0)
        if how == "ftruncate":
            os.ftruncate(fd, 100)
        elif how == "truncate":
            os.truncate(mnt / "x", 100)
        elif how == "write":
            assert os.pwrite(fd, bytes(100), 0) == 100
        else:
            fallocate(fd, 0, 0, 100)
        assert os.fstat(fd).st_size == 100
        for size in (0, 99, 101):
            with refused(errno.EPERM):
                os.ftruncate(fd, size)
        with refused(errno.EPERM):
            os.pwrite(fd, b"x", 100)


def copy_into(path, at, size):
    with opened(path) as fd, opened(path + "-source", os.O_RDWR | os.O_CREAT) as source:
        os.ftruncate(source, size)
        return os.copy_file_range(source, fd, size, 0, at)


@both_kinds
def test_fixed_and_limited_for_copies_too(mnt, section, kind):
    """copy_file_range is a write: what does not fit is not copied."""
    path = section(kind, resize="fixed")
    assert copy_into(path, SIZE - 10, 100) == 10
    with refused(errno.EPERM):
        copy_into(path, SIZE, 100)
    path = section(kind, name="y", limit=SIZE + 10)
    assert copy_into(path, SIZE, 100) == 10
    with refused(errno.EFBIG):
        copy_into(path, SIZE + 10, 100)
    assert os.stat(path).st_size == SIZE + 10


# --- limit ----------------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_limit_is_the_most_it_grows_to(mnt, section, kind):
    limit = 2 * SIZE
    path = section(kind, limit=limit)

    def body():
        with opened(path) as fd:
            for size in (limit + 1, 10 * limit):
                with refused(errno.EFBIG):
                    os.ftruncate(fd, size)
                with refused(errno.EFBIG):
                    os.truncate(path, size)
            with refused(errno.EFBIG):
                fallocate(fd, 0, 0, limit + 1)
            for at in (limit, limit + 1, 10 * limit):
                with refused(errno.EFBIG):
                    os.pwrite(fd, b"beyond", at)
            assert os.fstat(fd).st_size == SIZE
            assert os.pwrite(fd, b"123456", limit - 2) == 2
            assert os.fstat(fd).st_size == limit
            with opened(path, os.O_WRONLY | os.O_APPEND) as end:
                with refused(errno.EFBIG):
                    os.write(end, b"more")
            os.ftruncate(fd, 0)
            os.ftruncate(fd, limit)
            view = View(fd, limit)
            view.write(limit - 6, b"stored")
            assert os.pread(fd, 6, limit - 6) == b"stored"
            view.close()
            os.ftruncate(fd, 1)
            fallocate(fd, 0, 0, limit)
    mnt.run(body)


@both_kinds
def test_limit_below_the_size_cuts_nothing_off(mnt, section, kind):
    path = section(kind, limit=10)
    assert read(path) == data_of(kind)
    with opened(path) as fd:
        os.pwrite(fd, b"inside", SIZE - 6)              # is there, so can be used
        with refused(errno.EFBIG):
            os.ftruncate(fd, SIZE + 1)
        os.ftruncate(fd, SIZE - 1)                      # shrinking is allowed
        with refused(errno.EFBIG):
            os.ftruncate(fd, SIZE)
        os.ftruncate(fd, 5)
        os.ftruncate(fd, 10)
        with refused(errno.EFBIG):
            os.ftruncate(fd, 11)
    unused(path)
    set_keys(path, limit=0)                             # none
    os.truncate(path, 10 * SIZE)


def test_limit_does_not_hold_for_copies_of_the_section(mnt, section):
    path = section("page", limit=SIZE)
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"more", SIZE)
        assert os.fstat(fd).st_size == SIZE + 4
    assert os.stat(path).st_size == SIZE


@pytest.mark.modes("passthrough")
@pytest.mark.parametrize("kind,policy", [("page", {"limit": 2 * SIZE}), ("page", {"resize": "fixed"}),
                                         ("page", {"commit": "commit"}), ("file", {"limit": 2 * SIZE}),
                                         ("file", {"resize": "fixed"})])
def test_what_must_see_writes_sees_them_and_mappings_stay_native(mnt, section, kind, policy):
    """Handles that can write are mediated then (mode mapped); those for reading are not."""
    path = section(kind)
    with opened(path) as fd:
        with refused(errno.EBUSY):                      # it writes past the daemon
            set_keys(path, **policy)
    patiently(lambda: set_keys(path, **policy))
    with opened(path, os.O_RDONLY) as fd:
        before = mnt.stats()
        os.pread(fd, SIZE, 0)
        assert mnt.stats()["requests_read"] == before["requests_read"]
    unused(path)
    with opened(path) as fd:
        assert key(path, "mode") == "mapped"
        before = mnt.stats()
        os.pwrite(fd, b"seen", 0)
        assert mnt.stats()["requests_write"] == before["requests_write"] + 1
        view = View(fd, SIZE)
        for at in range(0, SIZE, PAGE):
            view.write(at, b"not seen")
        view.sync()
        after = mnt.stats()
        assert after["requests_write"] == before["requests_write"] + 1
        assert os.pread(fd, 8, PAGE) == b"not seen"     # the two agree at once
        os.pwrite(fd, b"written", 2 * PAGE)
        assert view.read(2 * PAGE, 7) == b"written"
        view.close()


def test_policies_can_be_set_on_a_nameless_section_that_is_open(mnt):
    """As sectionctl create does, but with the descriptor it writes through."""
    fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR)
    for name, value in (("limit", "100"), ("resize", "fixed"), ("commit", "commit"),
                        ("delete", "busy"), ("lifetime", "temporary")):
        os.setxattr(fd, PREFIX + name, value.encode())
    with refused(errno.EFBIG):
        os.ftruncate(fd, 101)
    os.pwrite(fd, b"data", 0)
    link_fd(fd, mnt / "x")
    os.close(fd)
    assert read(mnt / "x") == b"data"


@pytest.mark.modes("passthrough")
def test_a_section_in_the_making_is_mediated_and_one_that_gets_no_name_is_native(mnt):
    for flags, seen in (0, 1), (os.O_EXCL, 0):
        fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR | flags)
        before = mnt.stats()["requests_write"]
        os.pwrite(fd, b"data", 0)
        assert mnt.stats()["requests_write"] == before + seen
        os.close(fd)


# --- delete ---------------------------------------------------------------------------------------

@both_kinds
@pytest.mark.parametrize("what", IN_THE_WAY)
def test_busy_cannot_lose_its_name_while_it_is_in_use(mnt, section, kind, what):
    path = section(kind, delete="busy")
    write(mnt / "y", b"another")
    os.mkdir(mnt / "d")
    child = mnt.child()
    child.do(IN_THE_WAY[what], path=path)
    for _ in range(2):
        with refused(errno.EBUSY):
            os.unlink(path)
        with refused(errno.EBUSY):
            os.rename(mnt / "y", path)
        assert os.stat(path).st_size == SIZE and read(mnt / "y") == b"another"
    # Moving it is no loss, nor is an exchange; more names are welcome.
    os.rename(path, mnt / "d/x")
    renameat2(mnt / "d/x", mnt / "y", RENAME_EXCHANGE)
    with refused(errno.EBUSY):
        os.unlink(mnt / "y")
    renameat2(mnt / "d/x", mnt / "y", RENAME_EXCHANGE)
    os.rename(mnt / "d/x", path)
    with refused(errno.ENOTDIR):
        os.rmdir(path)
    child.kill()
    patiently(os.rename, mnt / "y", path)
    assert read(path) == b"another"
    os.unlink(path)                                     # this one is posix
    os.rmdir(mnt / "d")


def test_busy_is_patient_with_a_close_on_its_way(mnt, section):
    """close and then unlink, in sequence: the one arrives a moment after the other was asked."""
    at_once = 0
    for turn in range(30):
        path = section("page", name=f"x{turn}", delete="busy")
        with opened(path) as fd:
            view = View(fd, PAGE)
            view.write(0, b"used")
            view.close()
        try:
            os.unlink(path)
            at_once += 1
        except OSError as error:                        # on a machine with much else to do
            assert error.errno == errno.EBUSY
            patiently(os.unlink, path)
    assert at_once >= 20


def test_busy_lets_directories_and_other_names_be_as_they_are(mnt, section):
    path = section("page", delete="busy")
    os.link(path, mnt / "y")
    unused(path)
    os.unlink(mnt / "y")
    os.unlink(path)


def test_posix_can_lose_its_name_at_any_time(mnt, section):
    path = section("page", delete="posix")
    with opened(path) as fd:
        os.unlink(path)
        assert os.pread(fd, SIZE, 0) == data_of("page")


def test_busy_can_be_set_and_taken_back_while_it_is_open(mnt, section):
    path = section("page")
    with opened(path):
        set_keys(path, delete="busy")
        with refused(errno.EBUSY):
            os.unlink(path)
        set_keys(path, delete="posix")
        os.unlink(path)


def test_set_id_bits_of_a_writecopy_section(mnt, user):
    """A view has none, and writing to one leaves the section's alone; a new owner does not."""
    def bits():
        os.setxattr(mnt / "x", "user.section.protect", b"readwrite")
        found = stat.S_IMODE(os.stat(mnt / "x").st_mode)
        os.setxattr(mnt / "x", "user.section.protect", b"writecopy")
        return found
    write(mnt / "x", b"bytes")
    os.chmod(mnt / "x", 0o6755)
    os.setxattr(mnt / "x", "user.section.protect", b"writecopy")
    assert stat.S_IMODE(os.stat(mnt / "x").st_mode) & 0o6000 == 0
    with opened(mnt / "x") as fd:
        call(os.write, fd, b"more", user=user, keep=[fd])
    assert bits() == 0o6755
    os.chown(mnt / "x", user.uid, user.gid)
    assert bits() == 0o755
