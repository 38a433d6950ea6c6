# SPDX-License-Identifier: MIT
"""What is done with an open view as a whole: sectionctl cow diff, reset, commit, export."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct

import pytest

from sections import COMMIT, RESET, key
from test_cow import make_base
from test_views import define, loop  # noqa: F401 (a fixture)
from util import (GIB, KIB, MIB, PAGE, View, call, eventually, kill, libc, mapped, opened, pattern, punch, read,
                  refused, sha, write)

RANGES = 64
DIFF = 3 << 30 | (16 + 16 * RANGES) << 16 | ord("S") << 8 | 0x81
every_mode = pytest.mark.modes("passthrough", "cached", "user")
SIZES = {"small": 100 * KIB + 1000, "large": 2 * MIB + 1000}


def diff(fd):
    """The ranges that are the view's own, as (offset, length) in pages."""
    found, start = [], 0
    while True:
        answer = bytearray(struct.pack("=QII", start, 0, 0) + bytes(16 * RANGES))
        fcntl.ioctl(fd, DIFF, answer)
        start, count, _ = struct.unpack_from("=QII", answer)
        found += [struct.unpack_from("=QQ", answer, 16 + 16 * n) for n in range(count)]
        if count < RANGES:
            return [(offset // PAGE, length // PAGE) for offset, length in found]


@pytest.fixture(params=[("page", "small"), ("page", "large"), ("file", "small"), ("file", "large")],
                ids="-".join)
def base(request, mnt, place):
    kind, size = request.param
    return make_base(mnt, kind, place, pattern("base", SIZES[size]))


@every_mode
def test_diff_lists_what_was_written(mnt, base):
    def body():
        with opened(mnt.cow("base")) as fd:
            assert diff(fd) == []
            os.pwrite(fd, b"x", 5 * PAGE + 7)
            os.pwrite(fd, b"y" * 2 * PAGE, 10 * PAGE + 1)
            view = mapped(fd, len(base.data))
            view[20 * PAGE] ^= 255
            view.flush()
            assert diff(fd) == [(5, 1), (10, 3), (20, 1)]
            punch(fd, 22 * PAGE, PAGE)
            assert diff(fd) == [(5, 1), (10, 3), (20, 1), (22, 1)]
            view.close()
            os.ftruncate(fd, 11 * PAGE)
            assert diff(fd) == [(5, 1), (10, 1)]
    mnt.run(body)
    base.unchanged()


def test_diff_of_more_ranges_than_fit_into_one_answer(mnt):
    write(mnt / "x", bytes(4 * MIB))
    with opened(mnt.cow("x")) as fd:
        for page in range(0, 400, 2):
            os.pwrite(fd, b"x", page * PAGE)
        assert diff(fd) == [(page, 1) for page in range(0, 400, 2)]


def test_only_views_have_them(mnt):
    write(mnt / "x", b"data")
    for path in (mnt / "x", mnt / ".stats", mnt.info("x")):
        with opened(path, os.O_RDONLY) as fd:
            for request in (DIFF, RESET, COMMIT):
                with refused(errno.ENOTTY):
                    fcntl.ioctl(fd, request, bytearray(16 + 16 * RANGES)) if request == DIFF \
                        else fcntl.ioctl(fd, request)
    with opened(mnt.cow("x"), os.O_RDONLY) as fd:
        assert diff(fd) == []
        for request in (RESET, COMMIT):
            with refused(errno.EBADF):
                fcntl.ioctl(fd, request)


# --- reset ----------------------------------------------------------------------------------------

@every_mode
def test_reset_shows_the_section_again(mnt, base):
    def body():
        size = len(base.data)
        with opened(mnt.cow("base")) as fd:
            view = mapped(fd, size)
            os.pwrite(fd, b"written", 100)
            view[PAGE:PAGE + 6] = b"stored"         # not even written back
            os.ftruncate(fd, size + 10 * PAGE)
            punch(fd, 3 * PAGE, PAGE)
            fcntl.ioctl(fd, RESET)
            assert os.fstat(fd).st_size == size
            assert view[:] == os.pread(fd, size + PAGE, 0) == base.data
            assert diff(fd) == []
            view[PAGE:PAGE + 5] = b"again"
            os.pwrite(fd, b"too", 2 * PAGE)
            assert os.pread(fd, 5, PAGE) == b"again" and view[2 * PAGE:2 * PAGE + 3] == b"too"
            view.close()
            os.ftruncate(fd, 10)
            fcntl.ioctl(fd, RESET)
            assert os.pread(fd, size + PAGE, 0) == base.data
    mnt.run(body)
    base.unchanged()


def test_reset_gives_the_memory_back(mnt):
    write(mnt / "x", bytes(PAGE))
    with opened(mnt / "x") as fd:
        os.ftruncate(fd, GIB)
    before = mnt.stats()["size_used"]
    with opened(mnt.cow("x")) as fd:
        for at in range(0, 64 * MIB, MIB):
            os.pwrite(fd, bytes(MIB), 512 * MIB + at)
        fcntl.ioctl(fd, RESET)
        assert mnt.stats()["size_used"] - before <= 2 * MIB
        assert os.getxattr(fd, "user.section.private") == b"0"


# --- commit ---------------------------------------------------------------------------------------

@every_mode
def test_commit_writes_the_view_into_the_section(mnt, base):
    def body():
        size = len(base.data)
        expected = bytearray(base.data)
        with opened(mnt.cow("base")) as fd:
            view = mapped(fd, size)
            os.pwrite(fd, b"written", 100)
            view[PAGE:PAGE + 6] = b"stored"
            punch(fd, 3 * PAGE, PAGE)
            os.pwrite(fd, b"grown", size + 5000)
            expected[100:107], expected[PAGE:PAGE + 6] = b"written", b"stored"
            expected[3 * PAGE:4 * PAGE] = bytes(PAGE)
            expected += bytes(5000) + b"grown"
            assert read(mnt / "base") == base.data
            fcntl.ioctl(fd, COMMIT)
            assert read(mnt / "base") == expected
            assert os.stat(mnt / "base").st_size == len(expected)
            assert os.pread(fd, 2 * len(expected), 0) == expected and view[:] == expected[:size]
            assert diff(fd) == []
            os.pwrite(fd, b"afterwards", 200)       # and it is a view still
            assert read(mnt / "base") == expected
            view.close()
            os.ftruncate(fd, 50)
            os.ftruncate(fd, 100)
            fcntl.ioctl(fd, COMMIT)
            assert read(mnt / "base") == bytes(expected[:50]) + bytes(50)
        if base.real:
            assert read(base.real) == read(mnt / "base")
    mnt.run(body)


def test_commit_is_seen_by_who_has_the_section_open(mnt, base):
    with opened(mnt / "base") as fd, opened(mnt.cow("base")) as own:
        assert os.pread(fd, 10, 0) == base.data[:10]
        os.pwrite(own, b"committed", 0)
        fcntl.ioctl(own, COMMIT)
        assert os.pread(fd, 9, 0) == b"committed"


def grow(mnt, base, verb):
    """Has what is open twice grow by a verb, unseen by whoever has it open: those two, and what is
    in it then."""
    longer = pattern("longer", len(base.data) + 3 * PAGE + 5)
    if verb == COMMIT:
        fds = [os.open(mnt / "base", os.O_RDWR | flag) for flag in (0, os.O_APPEND)]
        with opened(mnt.cow("base")) as view:
            os.pwrite(view, longer, 0)
            fcntl.ioctl(view, verb)
    else:
        fds = [os.open(mnt.cow("base"), os.O_RDWR)]
        fds.append(os.open(f"/proc/self/fd/{fds[0]}", os.O_RDWR | os.O_APPEND))
        os.pwrite(fds[0], b"its own", 0)        # or there is nothing to be told of
        write(mnt / "base", longer)
        fcntl.ioctl(fds[0], verb)
    return *fds, longer


def grow_and_append(mnt, base, verb):
    fd, appending, longer = grow(mnt, base, verb)
    os.write(appending, b"appended")
    assert os.pread(fd, 2 * len(longer), 0) == longer + b"appended"


@every_mode
@pytest.mark.parametrize("verb", [COMMIT, RESET], ids=["commit", "reset"])
@pytest.mark.options("cow_copy_max=0")
def test_what_is_appended_goes_behind_what_has_come(mnt, base, verb):
    mnt.run(grow_and_append, mnt, base, verb)


@every_mode
def test_what_is_appended_through_the_daemon_goes_behind_what_was_committed(mnt, base):
    def body():
        os.setxattr(mnt / "base", "user.section.limit", b"8M")
        grow_and_append(mnt, base, COMMIT)
    mnt.run(body)


@every_mode
@pytest.mark.parametrize("verb", [COMMIT, RESET], ids=["commit", "reset"])
@pytest.mark.options("cow_copy_max=0")
def test_pipes_get_what_has_come(mnt, base, verb):
    def body():
        source, into = os.pipe()
        fd, _, longer = grow(mnt, base, verb)
        start = len(longer) - PAGE
        assert os.splice(fd, into, PAGE, offset_src=start) == PAGE
        assert os.read(source, PAGE) == longer[start:]
    mnt.run(body)


@every_mode
@pytest.mark.parametrize("verb", [COMMIT, RESET], ids=["commit", "reset"])
@pytest.mark.options("cow_copy_max=0")
def test_mappings_show_what_has_come(mnt, base, verb):
    def body():
        fd, _, longer = grow(mnt, base, verb)
        view = libc.mmap(None, len(longer), mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        assert ctypes.string_at(view, len(longer)) == longer    # and no SIGBUS
    mnt.run(body)


@every_mode
@pytest.mark.parametrize("size", [100, 2 * MIB])
def test_verbs_on_a_view_of_what_was_empty(mnt, size):
    def body():
        data = pattern("view", size)
        write(mnt / "x", b"")
        eventually(lambda: key(mnt / "x", "opens") == "0")
        with opened(mnt.cow("x")) as fd:
            fcntl.ioctl(fd, RESET)
            os.pwrite(fd, data, 0)
            assert os.stat(mnt / "x").st_size == 0
            fcntl.ioctl(fd, COMMIT)
            assert read(mnt / "x") == data
            write(mnt / "x", b"others'")
            fcntl.ioctl(fd, RESET)
            assert os.pread(fd, 10, 0) == b"others'"
    mnt.run(body)


def test_commit_is_for_those_who_may_write_the_section(mnt, base, user):
    os.chmod(mnt / "base", 0o644)
    base.before = base.facts()

    def body():
        with opened(mnt.cow("base")) as fd:
            os.pwrite(fd, b"mine", 0)
            with refused(errno.EACCES):
                fcntl.ioctl(fd, COMMIT)
            assert os.pread(fd, 4, 0) == b"mine"
    call(body, user=user)
    base.unchanged()
    os.setxattr(mnt / "base", "user.section.protect", b"readonly")
    base.before = base.facts()
    with opened(mnt.cow("base")) as fd:
        os.pwrite(fd, b"mine", 0)
        with refused(errno.EACCES):
            fcntl.ioctl(fd, COMMIT)
    base.unchanged()


@pytest.mark.options("size=8M")
def test_commit_that_does_not_fit_changes_nothing(mnt, place):
    write(mnt / "x", pattern("x", 64 * KIB))
    with opened(mnt / "x") as fd:
        os.ftruncate(fd, 64 * MIB)
    write(mnt / "other", bytes(3 * MIB))
    before = sha(mnt / "x")
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, pattern("new", 3 * MIB), MIB)
        os.pwrite(fd, b"new", 0)
        with refused(errno.ENOSPC):
            fcntl.ioctl(fd, COMMIT)
        assert sha(mnt / "x") == before
        assert os.pread(fd, 3 * MIB, MIB) == pattern("new", 3 * MIB)
        os.unlink(mnt / "other")
        eventually(lambda: not os.path.exists(mnt / "other") and mnt.stats()["size_used"] < 6 * MIB)


@pytest.mark.parametrize("policy, code", [("limit=2100000", errno.EFBIG), ("resize=fixed", errno.EPERM)])
def test_commit_keeps_to_the_policies(mnt, policy, code):
    key, value = policy.split("=")
    write(mnt / "x", pattern("x", 2 * MIB))
    os.setxattr(mnt / "x", f"user.section.{key}", value.encode())
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"grown", 3 * MIB)
        with refused(code):
            fcntl.ioctl(fd, COMMIT)
        assert read(mnt / "x") == pattern("x", 2 * MIB)
        os.ftruncate(fd, 2 * MIB)
        os.pwrite(fd, b"changed", 0)
        fcntl.ioctl(fd, COMMIT)
        assert read(mnt / "x") == b"changed" + pattern("x", 2 * MIB)[7:]


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_verbs_on_a_clone(new_mount, loop, kind):
    mnt = new_mount("passthrough")
    where = loop(kind)
    write(f"{where}/real", pattern("real", 4 * MIB))
    define(mnt / "x", f"{where}/real")
    with opened(mnt.cow("x")) as fd:
        assert os.getxattr(fd, "user.section.mode") == b"clone"
        assert diff(fd) == []
        os.pwrite(fd, b"x", 100 * PAGE)
        os.fsync(fd)
        assert (100, 1) in diff(fd) or any(a <= 100 < a + n for a, n in diff(fd))
        fcntl.ioctl(fd, RESET)
        assert os.pread(fd, 5 * MIB, 0) == pattern("real", 4 * MIB) and diff(fd) == []
        os.pwrite(fd, b"committed", 100 * PAGE)
        os.ftruncate(fd, 3 * MIB)
        fcntl.ioctl(fd, COMMIT)
        expected = bytearray(pattern("real", 4 * MIB)[:3 * MIB])
        expected[100 * PAGE:100 * PAGE + 9] = b"committed"
        assert read(f"{where}/real") == expected == read(mnt / "x")
    with opened(mnt.cow("x")) as fd:            # ends within a block, of either
        os.ftruncate(fd, 2 * MIB + 7)
        fcntl.ioctl(fd, COMMIT)
        assert read(mnt / "x") == expected[:2 * MIB + 7]
        os.pwrite(fd, b"grown", 3 * MIB)
        fcntl.ioctl(fd, RESET)
        assert os.pread(fd, 4 * MIB, 0) == expected[:2 * MIB + 7]
        os.pwrite(fd, b"grown", 3 * MIB)
        fcntl.ioctl(fd, COMMIT)
        assert read(mnt / "x") == expected[:2 * MIB + 7] + bytes(MIB - 7) + b"grown"
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)


# --- Shared views ---------------------------------------------------------------------------------

def test_shared_view_can_be_looked_at_reset_and_committed_by_name(mnt, ctl):
    write(mnt / "base", pattern("base", 2 * MIB))
    ctl("create", mnt / "scratch", "--base", "base", "--cow", "section")
    with opened(mnt / "scratch") as fd:
        os.pwrite(fd, b"x", 7 * PAGE)
        assert ctl("cow", "diff", mnt / "scratch").stdout == f"{7 * PAGE} {PAGE}\n"
        ctl("cow", "reset", mnt / "scratch")
        assert os.pread(fd, 1, 7 * PAGE) == pattern("base", 2 * MIB)[7 * PAGE:7 * PAGE + 1]
        os.pwrite(fd, b"committed", 8 * PAGE)
        ctl("cow", "commit", mnt / "scratch")
        assert read(mnt / "base")[8 * PAGE:8 * PAGE + 9] == b"committed"


# --- The command ----------------------------------------------------------------------------------

def test_command(mnt, ctl, place):
    write(mnt / "x", pattern("x", 2 * MIB + 100))
    with opened(mnt.cow("x")) as fd:
        view = f"/proc/{os.getpid()}/fd/{fd}"
        assert ctl("cow", "diff", view).stdout == ""
        os.pwrite(fd, b"x" * 3 * PAGE, 8 * PAGE)
        os.pwrite(fd, b"end", 2 * MIB + 97)
        assert ctl("cow", "diff", view).stdout == f"{8 * PAGE} {3 * PAGE}\n{2 * MIB} 100\n"
        ctl("cow", "export", view, f"{place}/out")
        expected = bytearray(pattern("x", 2 * MIB + 100))
        expected[8 * PAGE:11 * PAGE], expected[-3:] = b"x" * 3 * PAGE, b"end"
        assert read(f"{place}/out") == expected
        result = ctl("cow", "export", view, f"{place}/out", ok=False)       # never over another file
        assert result.returncode == 1 and "exists" in result.stderr
        ctl("cow", "commit", view)
        assert read(mnt / "x") == expected
        os.pwrite(fd, b"y", 0)
        ctl("cow", "reset", view)
        assert os.pread(fd, 3 * MIB, 0) == expected


@pytest.mark.parametrize("name", ["/proc/self/fd/{fd}", "/dev/fd/{fd}", "/proc/{pid}/fd/{fd}"])
def test_command_takes_every_name_of_an_open_view(mnt, ctl, name):
    write(mnt / "x", b"data")
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"own!", 0)
        view = name.format(pid=os.getpid(), fd=fd)
        assert ctl("cow", "diff", view, pass_fds=[fd]).stdout == "0 4\n"
        ctl("cow", "commit", view, pass_fds=[fd])
        assert read(mnt / "x") == b"own!"
        os.pwrite(fd, b"more", 0)
        ctl("cow", "reset", "/dev/stdin", stdin=fd)
        assert os.pread(fd, 4, 0) == b"own!"


# --- Its mistakes ---------------------------------------------------------------------------------

@pytest.mark.parametrize("words, status, said", [
    (("cow",), 2, "missing"), (("cow", "diff"), 2, "missing"), (("cow", "undo", "x"), 2, "verbs"),
    (("cow", "export", "x"), 2, "FILE"), (("cow", "diff", "x", "y"), 2, "too many"),
    (("cow", "diff", "/etc/passwd"), 1, "not an open copy-on-write view"),
    (("cow", "diff", "/none"), 1, "No such file"),
])
def test_mistakes_are_told(ctl, words, status, said):
    result = ctl(*words, ok=False)
    assert result.returncode == status and said in result.stderr


def check_refused(ctl, verb, view, said, **options):
    """With this one sentence, which names the view."""
    words = [view, f"{view}.out"] if verb == "export" else [view]
    result = ctl("cow", verb, *words, ok=False, **options)
    assert result.stderr == f"sectionctl: {verb} {view}: {said}\n"
    assert result.returncode == 1 and result.stdout == ""


VERBS = pytest.mark.parametrize("verb", ["diff", "reset", "commit", "export"])
NO_VIEW = "it is not an open copy-on-write view (name one by /proc/PID/fd/N)"
NOT_OPEN = "nobody has this view open (name one that is open by /proc/PID/fd/N)"
CLOSED = {
    "x": NO_VIEW, ".info/x": NO_VIEW, ".stats": NO_VIEW, "dir": NO_VIEW, "fifo": NO_VIEW,
    ".cow/x": NOT_OPEN, "own": NOT_OPEN, "shared": NOT_OPEN,
}


@VERBS
def test_only_open_views_have_verbs(mnt, ctl, verb):
    """Whoever else has the section open, or another view of it."""
    write(mnt / "x", pattern("x", 2 * MIB))
    os.mkdir(mnt / "dir")
    os.mkfifo(mnt / "fifo")
    for name, cow in (("own", "open"), ("shared", "section")):
        ctl("create", mnt / name, "--base", "x", "--cow", cow, "--lifetime", "temporary")
    for name in CLOSED:
        check_refused(ctl, verb, mnt / name, CLOSED[name])
    with opened(mnt / "x"), opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"own", 0)
        for name in CLOSED:
            check_refused(ctl, verb, mnt / name, CLOSED[name])
        assert os.pread(fd, 3, 0) == b"own" and diff(fd) == [(0, 1)]
    assert read(mnt / "x") == pattern("x", 2 * MIB)
    for name in ("own", "shared"):              # nor was that a use of them, which would be over
        assert os.path.exists(mnt / name) and os.getxattr(mnt / name, "user.section.opens") == b"0"


@VERBS
def test_view_that_is_only_mapped(mnt, ctl, place, verb):
    """Without passthrough it is open as long as that; with it, its bytes are all that is left."""
    write(mnt / "x", bytes(100 * KIB))
    with opened(mnt.cow("x")) as fd:
        view = View(fd, PAGE)
    name = f"/proc/{os.getpid()}/map_files/{view.address:x}-{view.address + PAGE:x}"
    if mnt.mode == "passthrough":
        eventually(lambda: mnt.stats()["views"] == 0)
        check_refused(ctl, verb, name, NOT_OPEN)
    else:
        ctl("cow", verb, name, *([f"{place}/out"] if verb == "export" else []))
    view.close()


@pytest.mark.parametrize("size", [100 * KIB, 2 * MIB])
def test_view_for_reading_only_is_told(mnt, ctl, place, size):
    write(mnt / "x", bytes(size))
    with opened(mnt.cow("x"), os.O_RDONLY) as fd:
        view = f"/proc/{os.getpid()}/fd/{fd}"
        for verb in ("reset", "commit"):
            check_refused(ctl, verb, view, "the view is open for reading only")
        assert ctl("cow", "diff", view).stdout == ""
        ctl("cow", "export", view, f"{place}/out")
        assert sha(f"{place}/out") == sha(mnt / "x")


@pytest.mark.parametrize("mode, verb, said", [
    (0o600, "diff", "you have no permission to read it"),
    (0o600, "commit", "you have no permission to read it"),
    (0o666, "commit", "the section may not be written, or not by you"),
])
def test_missing_permission_is_told(mnt, ctl, user, mode, verb, said):
    write(mnt / "base", b"data")
    ctl("create", mnt / "shared", "--base", "base", "--cow", "section")
    with opened(mnt / "shared") as fd:
        os.pwrite(fd, b"own", 0)
        os.fchmod(fd, mode)
        check_refused(ctl, verb, mnt / "shared", said, user=user)
        check_refused(ctl, verb, f"/proc/{os.getpid()}/fd/{fd}",
                      "you have no permission to reach it", user=user)
        assert os.pread(fd, 4, 0) == b"owna" and read(mnt / "base") == b"data"


@pytest.mark.parametrize("mode, said", [(0o444, "you have no permission to write it"),
                                        (0o222, "you have no permission to read it")])
def test_view_is_for_whom_its_mode_allows(mnt, ctl, user, mode, said):
    write(mnt / "x", b"data")
    with opened(mnt.cow("x")) as fd:
        os.fchmod(fd, mode)
        check_refused(ctl, "reset", f"/dev/fd/{fd}", said, pass_fds=[fd], user=user)
        ctl("cow", "reset", f"/dev/fd/{fd}", pass_fds=[fd])


@pytest.mark.options("size=8M")
@pytest.mark.parametrize("policy, size, said", [
    ("protect=readonly", 2 * MIB, "the section may not be written, or not by you"),
    ("limit=2100000", 3 * MIB, "the view is larger than the section may become"),
    ("resize=fixed", 3 * MIB, "the view has another size, which the section may not take"),
    ("resize=grow", MIB, "the view is shorter than the section, which is in use (resize=grow)"),
    ("limit=0", 2 * MIB, "there is no room in the section for all of it, and the view is as it was"),
])
def test_why_a_commit_is_refused_is_told(mnt, ctl, policy, size, said):
    key, value = policy.split("=")
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 2 * MIB)
    eventually(lambda: os.getxattr(mnt / "x", "user.section.opens") == b"0")
    os.setxattr(mnt / "x", f"user.section.{key}", value.encode())
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"own", 5)
        os.ftruncate(fd, size)
        if "no room" in said:
            os.pwrite(fd, pattern("own", 2 * MIB), 0)
            write(mnt / "other", bytes(5 * MIB))
        before = sha(f"/proc/self/fd/{fd}")
        with opened(mnt / "x", os.O_RDONLY):
            check_refused(ctl, "commit", f"/proc/{os.getpid()}/fd/{fd}", said)
        assert sha(f"/proc/self/fd/{fd}") == before
    assert read(mnt / "x") == bytes(2 * MIB)


@VERBS
def test_mount_that_has_ended_is_told(mnt, ctl, verb):
    mnt.log_is_fine = "the keeper is gone"
    write(mnt / "x", b"data")
    child = mnt.child()
    fd = child.get("os.open(path, os.O_RDWR)", path=mnt.cow("x"))
    mnt.note_processes()
    kill(mnt.keeper)
    assert mnt.wait_gone() == []
    check_refused(ctl, verb, f"/proc/{child.pid}/fd/{fd}",
                  "the sectionfs daemon of its mount is gone")
