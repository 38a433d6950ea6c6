# SPDX-License-Identifier: MIT
"""File-backed sections: another name for a real file's own bytes."""

import ctypes
import errno
import fcntl
import os
import platform
import shutil
import socket
import stat
import struct

import pytest

from sections import COMMIT
from util import (GIB, MIB, PAGE, call, eventually, extents, fallocate, libc, link_fd, mapped,
                  opened, pairs, pattern, prctl, punch, read, refused, run, sha, write, write_all)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
FILE = "user.section.file"
IO_SETUP, IO_SUBMIT, IO_GETEVENTS = {"x86_64": (206, 209, 208)}.get(platform.machine(), (0, 2, 4))


def back_by(section, file, mode=0o644):
    """Defines a file-backed section in the way any language can."""
    with opened(section, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode) as fd:
        os.setxattr(fd, FILE, os.fsencode(file))


@pytest.fixture
def real(place):
    """A real file of 1 MiB and a bit, owned by root, readable by all."""
    path = f"{place}/real"
    write(path, pattern("real", MIB + 100))
    return path


# --- Defining -------------------------------------------------------------------------------------

@every_mode
def test_section_has_the_files_content_and_size(mnt, real):
    def body():
        back_by(mnt / "x", real)
        assert os.stat(mnt / "x").st_size == MIB + 100
        assert stat.S_ISREG(os.stat(mnt / "x").st_mode)
        assert read(mnt / "x") == pattern("real", MIB + 100)
        with opened(mnt / "x", os.O_RDONLY) as fd:
            view = mapped(fd, MIB + 100, prot=1)
            assert view[:] == pattern("real", MIB + 100)
            view.close()
        assert os.getxattr(mnt / "x", "user.section.kind") == b"file"
        assert os.fsdecode(os.getxattr(mnt / "x", FILE)) == real
    mnt.run(body)


@every_mode
def test_sectionctl_creates_it(mnt, ctl, real):
    ctl("create", mnt / "x", "--file", real, user=mnt.user)
    assert mnt.run(read, mnt / "x") == read(real)


def test_nameless_file_is_defined_and_then_named(mnt, real):
    """O_TMPFILE, set the attribute, linkat: nobody ever sees it half made."""
    fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.setxattr(fd, FILE, os.fsencode(real))
    assert os.listdir(mnt.path) == []
    link_fd(fd, mnt / "x")
    os.close(fd)
    assert read(mnt / "x") == read(real)


def test_descriptor_open_while_defining_stays_an_empty_page_section(mnt, real):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.setxattr(fd, FILE, os.fsencode(real))
        assert os.read(fd, 100) == b""
        with opened(mnt / "x") as other:
            assert os.pread(other, 100, 0) == pattern("real", MIB + 100)[:100]
        assert os.read(fd, 100) == b""
    assert sha(real) == sha(mnt / "x")


def test_several_sections_over_one_file_agree(mnt, real):
    back_by(mnt / "a", real)
    back_by(mnt / "b", real)
    with opened(mnt / "a") as a, opened(mnt / "b") as b:
        os.pwrite(a, b"through a", 10)
        assert os.pread(b, 9, 10) == b"through a"
        os.pwrite(b, b"through b", MIB)
        assert os.pread(a, 9, MIB) == b"through b"


def test_backing_file_through_a_symbolic_link(mnt, real, place):
    os.symlink(real, f"{place}/link")
    back_by(mnt / "x", f"{place}/link")
    assert read(mnt / "x") == read(real)


def test_path_with_odd_bytes(mnt, place):
    path = os.fsencode(place) + b"/\xff odd\n\xe2\x82\xac name"
    write(path, b"odd content")
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.setxattr(fd, FILE, path)
    assert read(mnt / "x") == b"odd content"
    assert os.getxattr(mnt / "x", FILE) == path
    os.unlink(path)


def test_empty_file_backs_an_empty_section(mnt, place):
    write(f"{place}/empty", b"")
    back_by(mnt / "x", f"{place}/empty")
    assert os.stat(mnt / "x").st_size == 0
    with opened(mnt / "x") as fd:
        os.write(fd, b"now it has some")
    assert read(f"{place}/empty") == b"now it has some"


def test_file_on_tmpfs_backs_a_section(mnt):
    path = f"/dev/shm/sectionfs-test-{os.getpid()}"
    write(path, b"in memory")
    try:
        back_by(mnt / "x", path)
        assert read(mnt / "x") == b"in memory"
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"IN", 0)
        assert read(path) == b"IN memory"
    finally:
        os.unlink(path)


# --- Both directions at once ----------------------------------------------------------------------

def test_write_to_the_file_is_read_through_the_section_at_once(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section, opened(real) as file:
        for turn in range(20):
            at, data = turn * 50_000, pattern(turn, 5000)
            assert os.pread(section, 5000, at) == os.pread(file, 5000, at)  # now it is cached
            os.pwrite(file, data, at)
            assert os.pread(section, 5000, at) == data


def test_write_to_the_section_is_read_from_the_file_at_once(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section, opened(real) as file:
        for turn in range(20):
            at, data = turn * 50_000, pattern(turn, 5000)
            os.pwrite(section, data, at)
            assert os.pread(file, 5000, at) == data


@pytest.mark.modes("passthrough")
def test_mappings_of_file_and_section_are_the_same_memory(mnt, real):
    """Passthrough: a store in either is a load in the other, with nothing in between."""
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section, opened(real) as file:
        ours, theirs = mapped(section, MIB), mapped(file, MIB)
        for at in range(0, MIB, 65536):
            ours[at:at + 5] = b"ours!"
            assert theirs[at:at + 5] == b"ours!"
            assert os.pread(file, 5, at) == b"ours!"
            theirs[at + 8:at + 13] = b"their"
            assert ours[at + 8:at + 13] == b"their"
            assert os.pread(section, 5, at + 8) == b"their"
        os.pwrite(file, b"written", 100)
        assert ours[100:107] == b"written"
        os.pwrite(section, b"WRITTEN", 100)
        assert theirs[100:107] == b"WRITTEN"
        ours.close()
        theirs.close()
    figures = mnt.stats()
    assert (figures["requests_read"], figures["requests_write"]) == (0, 0)


@pytest.mark.modes("cached")
def test_mapped_stores_reach_the_file_with_msync(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section, opened(real) as file:
        view = mapped(section, MIB)
        view[5000:5005] = b"store"
        view.flush()
        assert os.pread(file, 5, 5000) == b"store"
        view.close()


@pytest.mark.modes("cached")
def test_write_to_the_file_is_in_a_mapping_made_after_reopening(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section:
        view = mapped(section, MIB)
        assert view[:10] == pattern("real", 10)
        view.close()
    with opened(real) as file:
        os.pwrite(file, b"changed by its owner", 0)
    with opened(mnt / "x") as section:
        view = mapped(section, MIB)
        assert view[:20] == b"changed by its owner"
        view.close()


def test_size_follows_the_file_at_once(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x") as section:
        for size in (2 * MIB, 100, 0, MIB):
            os.truncate(real, size)
            assert os.fstat(section).st_size == size
            assert os.stat(mnt / "x").st_size == size
        with opened(real, os.O_WRONLY | os.O_APPEND) as file:
            os.write(file, b"appended")
        assert os.stat(mnt / "x").st_size == MIB + 8
        assert os.pread(section, 100, MIB) == b"appended"


def test_truncating_the_section_truncates_the_file(mnt, real):
    back_by(mnt / "x", real)
    os.truncate(mnt / "x", 1000)
    assert os.stat(real).st_size == 1000
    with opened(mnt / "x") as fd:
        os.ftruncate(fd, 5000)
        assert os.stat(real).st_size == 5000
        assert os.pread(fd, 5000, 0) == pattern("real", 1000) + bytes(4000)
    with opened(mnt / "x", os.O_RDWR | os.O_TRUNC):
        assert os.stat(real).st_size == 0


def test_appending_through_the_section(mnt, real):
    back_by(mnt / "x", real)
    with opened(mnt / "x", os.O_WRONLY | os.O_APPEND) as fd:
        os.write(fd, b"at the end")
    assert read(real) == pattern("real", MIB + 100) + b"at the end"


def test_appends_on_both_sides_do_not_overwrite_each_other(mnt, place):
    write(f"{place}/log", b"")
    back_by(mnt / "log", f"{place}/log")
    children = [mnt.child() for _ in range(4)]
    for number, child in enumerate(children):
        child.begin("fd = os.open(path, os.O_WRONLY | os.O_APPEND)\n"
                    "for line in range(200): os.write(fd, b'%d:%03d\\n' % (number, line))",
                    path=mnt / "log" if number % 2 else f"{place}/log", number=number)
    for child in children:
        child.finish()
    lines = read(f"{place}/log").split()
    assert sorted(lines) == [b"%d:%03d" % (n, i) for n in range(4) for i in range(200)]


def test_modification_time_is_the_files(mnt, real):
    back_by(mnt / "x", real)
    os.utime(real, ns=(3_000_000_000, 4_000_000_000))
    assert os.stat(mnt / "x").st_mtime_ns == 4_000_000_000
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"now", 0)
    assert os.stat(real).st_mtime_ns > 4_000_000_000
    assert os.stat(mnt / "x").st_mtime_ns == os.stat(real).st_mtime_ns


def test_holes_and_allocation_are_the_files(mnt, place):
    path = f"{place}/sparse"
    with opened(path, os.O_CREAT | os.O_RDWR) as file:
        os.ftruncate(file, GIB)
        os.pwrite(file, b"x" * PAGE, 512 * MIB)
        back_by(mnt / "x", path)
        with opened(mnt / "x") as fd:
            assert os.lseek(fd, 0, os.SEEK_DATA) == 512 * MIB
            assert os.lseek(fd, 512 * MIB, os.SEEK_HOLE) == 512 * MIB + PAGE
            fallocate(fd, 3, 512 * MIB, PAGE)           # punch, keeping the size
            assert os.pread(file, PAGE, 512 * MIB) == bytes(PAGE)
            with refused(errno.ENXIO):
                os.lseek(fd, 0, os.SEEK_DATA)
            fallocate(fd, 1, 0, MIB)
            assert os.fstat(file).st_blocks * 512 >= MIB
            assert os.fstat(fd).st_blocks == os.fstat(file).st_blocks
            os.fsync(fd)


def test_holds_nothing_in_the_store(mnt, real):
    before = mnt.stats()
    back_by(mnt / "x", real)
    with opened(mnt / "x") as fd:
        write_all(fd, pattern("much", 8 * MIB))
        view = mapped(fd, 8 * MIB)
        view[:PAGE] = pattern("store")
        view.flush()
        now = mnt.stats()
        assert now["size_used"] == before["size_used"]
        assert now["size_overlays"] == before["size_overlays"]
        view.close()
    assert read(real) == pattern("store") + pattern("much", 8 * MIB)[PAGE:]


# --- Names and lifetimes --------------------------------------------------------------------------

def test_unlinking_the_section_leaves_the_file(mnt, real):
    before, map_before = sha(real), extents(real)
    back_by(mnt / "x", real)
    os.unlink(mnt / "x")
    assert (sha(real), extents(real)) == (before, map_before)
    with refused(errno.ENOENT):
        os.stat(mnt / "x")


def test_section_keeps_its_file_when_that_is_renamed_or_replaced(mnt, real, place):
    back_by(mnt / "x", real)
    os.rename(real, f"{place}/elsewhere")
    write(real, b"an impostor")
    assert read(mnt / "x") == pattern("real", MIB + 100)
    os.unlink(f"{place}/elsewhere")
    assert read(mnt / "x") == pattern("real", MIB + 100)


def test_renaming_and_linking_the_section_keeps_its_file(mnt, real):
    back_by(mnt / "x", real)
    os.rename(mnt / "x", mnt / "y")
    os.link(mnt / "y", mnt / "z")
    with opened(mnt / "z") as fd:
        os.pwrite(fd, b"via z", 0)
    assert read(mnt / "y")[:5] == read(real)[:5] == b"via z"


def test_section_permissions_are_its_own_not_the_files(mnt, real):
    back_by(mnt / "x", real, mode=0o640)
    assert os.stat(mnt / "x").st_mode & 0o7777 == 0o640
    os.chmod(mnt / "x", 0o604)
    assert os.stat(real).st_mode & 0o7777 == 0o644
    os.chown(mnt / "x", 12345, 12346)
    assert os.stat(real).st_uid == 0


# --- The caller's rights decide -------------------------------------------------------------------

def test_file_that_the_caller_cannot_read_is_refused(mnt, real, user):
    os.chmod(real, 0o600)
    with refused(errno.EACCES):
        call(back_by, mnt / "x", real, user=user)


def test_file_in_a_directory_that_the_caller_cannot_search_is_refused(mnt, place, user):
    os.mkdir(f"{place}/private", 0o700)
    write(f"{place}/private/file", b"secret")
    os.chmod(f"{place}/private/file", 0o666)
    with refused(errno.EACCES):
        call(back_by, mnt / "x", f"{place}/private/file", user=user)


def test_write_only_file_is_refused(mnt, place, user):
    write(f"{place}/drop", b"")
    os.chmod(f"{place}/drop", 0o622)
    with refused(errno.EACCES):
        call(back_by, mnt / "x", f"{place}/drop", user=user)


def test_file_that_the_caller_may_write_gives_a_readwrite_section(mnt, real, user):
    os.chown(real, user.uid, user.gid)

    def body():
        back_by(mnt / "x", real)
        assert os.getxattr(mnt / "x", "user.section.protect") == b"readwrite"
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"by its owner", 0)
    call(body, user=user)
    assert read(real)[:12] == b"by its owner"


def test_file_that_the_caller_may_only_read_gives_a_readonly_section(mnt, real, user):
    """Nobody can open it for writing, whatever its permission bits say: not even root."""
    before = sha(real)

    def body():
        back_by(mnt / "x", real, mode=0o666)
        os.chmod(mnt / "x", 0o666)
        assert os.getxattr(mnt / "x", "user.section.protect") == b"readonly"
        assert read(mnt / "x") == read(real)
    call(body, user=user)

    def attempts():
        with opened(mnt / "x", os.O_RDONLY) as fd:
            view = mapped(fd, PAGE, prot=1)
            assert view[:] == pattern("real", PAGE)
            view.close()
            with refused(errno.EACCES):
                mapped(fd, PAGE)
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC, os.O_WRONLY | os.O_APPEND):
            with refused(errno.EACCES):
                os.open(mnt / "x", flags)
        with refused(errno.EACCES):
            os.truncate(mnt / "x", 0)
    call(attempts, user=user)
    attempts()
    assert sha(real) == before


@pytest.mark.modes("user")
def test_user_mounts_sections_over_what_the_user_may_read(mnt, real, place):
    os.chmod(real, 0o644)
    write(f"{place}/secret", b"secret")
    os.chmod(f"{place}/secret", 0o600)

    def body():
        back_by(mnt / "x", real)
        assert os.getxattr(mnt / "x", "user.section.protect") == b"readonly"
        assert read(mnt / "x") == read(real)
        with refused(errno.EACCES):
            os.open(mnt / "x", os.O_RDWR)
        with refused(errno.EACCES):
            back_by(mnt / "y", f"{place}/secret")
    mnt.run(body)


@pytest.mark.modes("user")
@pytest.mark.parametrize("hidden", [False, True])
def test_who_is_locked_in_a_folder_does_not_get_out_by_the_daemon(mnt, real, place, hidden):
    jail = f"{place}/jail"
    os.mkdir(jail, 0o755)

    def body():
        clone_newuser, set_dumpable = 0x10000000, 4
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            if libc.unshare(clone_newuser) != 0:
                return False
            os.chroot(jail)
            os.chdir("/")
            prctl(set_dumpable, 0 if hidden else 1)
            assert not os.path.exists(real)
            with refused(errno.EACCES if hidden else errno.ENOENT):
                os.setxattr(fd, FILE, os.fsencode(real))
            assert os.getxattr(fd, "user.section.kind") == b"page"
        return True
    if not mnt.run(body):
        pytest.skip("no user namespace of one's own is to be had")


def test_callers_groups_count(mnt, real, user):
    """A file that only a supplementary group may read: in the group it works, outside it does not."""
    os.chown(real, 0, 54321)
    os.chmod(real, 0o640)
    with refused(errno.EACCES):
        call(back_by, mnt / "no", real, user=user)

    def body():
        back_by(mnt / "yes", real)
        assert os.getxattr(mnt / "yes", "user.section.protect") == b"readonly"
        assert read(mnt / "yes") == pattern("real", MIB + 100)
    call(body, user=user, groups=(54321,))

    os.chmod(real, 0o660)

    def writer():
        back_by(mnt / "rw", real)
        assert os.getxattr(mnt / "rw", "user.section.protect") == b"readwrite"
    call(writer, user=user, groups=(11111, 54321, 22222))


def test_daemon_keeps_nothing_of_the_callers_identity(mnt, real, user):
    """After it has opened a file as a user, what it does for root it does as root."""
    os.chmod(real, 0o600)
    for _ in range(20):
        with refused(errno.EACCES):
            call(back_by, mnt / f"u{_}", real, user=user)
        back_by(mnt / f"r{_}", real)
        assert os.stat(mnt / f"r{_}").st_uid == 0


def test_section_lets_others_reach_the_file_by_the_sections_own_bits(mnt, real, user, place):
    """Like a descriptor that was handed over: who defined it decides who may use it."""
    os.chmod(real, 0o600)
    back_by(mnt / "open", real, mode=0o644)
    back_by(mnt / "closed", real, mode=0o600)

    def body():
        assert read(mnt / "open") == pattern("real", MIB + 100)
        with refused(errno.EACCES):
            os.open(mnt / "closed", os.O_RDONLY)
        with refused(errno.EACCES):
            os.open(mnt / "open", os.O_RDWR)
    call(body, user=user)


# --- What cannot back a section -------------------------------------------------------------------

@pytest.mark.parametrize("what,code", [
    ("missing", errno.ENOENT), ("directory", errno.ENODEV), ("fifo", errno.ENODEV),
    ("device", errno.ENODEV), ("socket", errno.ENODEV), ("relative", errno.EINVAL),
    ("empty", errno.EINVAL), ("below a file", errno.ENOTDIR), ("dangling", errno.ENOENT),
    ("loop", errno.ELOOP), ("long", errno.ENAMETOOLONG), ("same mount", errno.ELOOP),
    ("same mount link", errno.ELOOP), ("same mount cow", errno.ELOOP), ("same mount stats", errno.ELOOP),
    ("NUL", errno.EINVAL),
])
def test_unsuitable_backing_file(mnt, place, what, code):
    """The errno says what is wrong; the section stays an empty page section that can be used."""
    path = f"{place}/file"
    if what == "directory":
        os.mkdir(path)
    elif what == "fifo":
        os.mkfifo(path)             # and the daemon must not hang in opening it
    elif what == "device":
        path = "/dev/null"
    elif what == "socket":
        path = f"{place}/s"
        unix = socket.socket(socket.AF_UNIX)
        directory = os.open(place, os.O_PATH)
        unix.bind(f"/proc/self/fd/{directory}/s")
        unix.close()
        os.close(directory)
    elif what == "relative":
        path = "etc/passwd"
    elif what == "empty":
        path = ""
    elif what == "below a file":
        write(path, b"")
        path += "/below"
    elif what == "dangling":
        os.symlink(f"{place}/nothing", path)
    elif what == "loop":
        os.symlink(path, path)
    elif what == "long":
        path = "/" + "x" * 300
    elif what.startswith("same mount"):
        write(mnt / "inside", b"data")
        path = mnt / "inside"
        if what.endswith("link"):
            os.symlink(path, f"{place}/link")
            path = f"{place}/link"
        elif what.endswith("cow"):
            path = mnt.cow("inside")
        elif what.endswith("stats"):
            path = mnt / ".stats"
    elif what == "NUL":
        write(path, b"")
        path += "\0after"
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        with refused(code):
            os.setxattr(fd, FILE, os.fsencode(path))
    assert os.getxattr(mnt / "x", "user.section.kind") == b"page"
    write(mnt / "x", b"usable")
    assert read(mnt / "x") == b"usable"


def test_section_with_content_cannot_become_file_backed(mnt, real):
    write(mnt / "x", b"content")
    with refused(errno.EBUSY):
        os.setxattr(mnt / "x", FILE, os.fsencode(real))
    assert read(mnt / "x") == b"content"


def test_file_is_set_only_once(mnt, real, place):
    back_by(mnt / "x", real)
    write(f"{place}/second", b"second")
    with refused(errno.EBUSY):
        os.setxattr(mnt / "x", FILE, os.fsencode(f"{place}/second"))
    assert read(mnt / "x") == read(real)


def test_section_that_others_have_open_cannot_become_file_backed(mnt, real):
    write(mnt / "x", b"")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    with opened(mnt / "x") as fd:
        with refused(errno.EBUSY):
            os.setxattr(fd, FILE, os.fsencode(real))
    child.do("os.write(fd, b'mine')")
    assert read(mnt / "x") == b"mine"


def test_only_the_owner_may_define(mnt, real, user, other):
    write(mnt / "x", b"")
    os.chmod(mnt / "x", 0o666)
    os.chown(mnt / "x", user.uid, user.gid)
    with refused(errno.EPERM):
        call(os.setxattr, mnt / "x", FILE, os.fsencode(real), user=other)
    call(os.setxattr, mnt / "x", FILE, os.fsencode(real), user=user)
    assert os.getxattr(mnt / "x", "user.section.kind") == b"file"


def test_directory_cannot_be_file_backed(mnt, real):
    os.mkdir(mnt / "d")
    with refused(errno.EINVAL):
        os.setxattr(mnt / "d", FILE, os.fsencode(real))


@pytest.mark.parametrize("what,says", [("missing", "not exist"), ("directory", "regular file"),
                                       ("same mount", "same mount")])
def test_sectionctl_says_in_one_sentence_why_not(mnt, ctl, place, what, says):
    path = {"missing": f"{place}/missing", "directory": place, "same mount": mnt / "a"}[what]
    write(mnt / "a", b"")
    result = ctl("create", mnt / "x", "--file", path, ok=False)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("sectionctl: ")
    assert says in result.stderr
    assert os.listdir(mnt.path) == ["a"]


def test_info_tells_the_file(mnt, real):
    back_by(mnt / "x", real)
    info = pairs(read(mnt.info("x")).decode())
    assert info["kind"] == "file"
    assert info["file"] == real
    assert info["protect"] == "readwrite"
    assert info["size"] == MIB + 100


def test_read_only_bind_mount_gives_a_readonly_section(mnt, real, place):
    """Root may write everything, but not on a read-only mount."""
    os.mkdir(f"{place}/ro")
    run("mount", "--bind", place, f"{place}/ro")
    run("mount", "-o", "remount,bind,ro", f"{place}/ro")
    back_by(mnt / "x", f"{place}/ro/real")
    assert os.getxattr(mnt / "x", "user.section.protect") == b"readonly"
    with refused(errno.EACCES):
        os.open(mnt / "x", os.O_RDWR)
    assert read(mnt / "x") == read(real)


def test_the_file_itself_cannot_be_run_while_it_may_be_written(mnt, place):
    programs = f"{place}/programs"
    os.mkdir(programs)
    for name in "writable", "readonly":
        shutil.copy("/bin/true", f"{programs}/{name}")
    run("mount", "--bind", "-o", "ro", programs, programs)      # root may write everything else
    back_by(mnt / "readonly", f"{programs}/readonly", 0o755)
    run("umount", "-l", programs)
    back_by(mnt / "writable", f"{programs}/writable", 0o755)
    run(mnt / "writable")
    run(mnt / "readonly")
    run(f"{programs}/readonly")
    with refused(errno.ETXTBSY):
        run(f"{programs}/writable")
    os.unlink(mnt / "writable")

    def runs():
        try:
            return run(f"{programs}/writable").returncode == 0
        except OSError as error:
            assert error.errno == errno.ETXTBSY
    eventually(runs)



def commits(mnt):
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"new", 0)
        fcntl.ioctl(fd, COMMIT)


def copies(mnt):
    with opened(mnt / "from", os.O_RDONLY) as source, opened(mnt / "x") as fd:
        assert os.copy_file_range(source, fd, 3) == 3


def changes_with(flags, change):
    def by_handle(mnt):
        with opened(mnt / "x", os.O_RDWR | flags) as fd:
            change(fd)
    return by_handle


CHANGES = {
    "write": changes_with(0, lambda fd: os.pwrite(fd, b"new", 0)),
    "commit": commits,
    "copy_file_range": copies,
    "truncate": lambda mnt: os.truncate(mnt / "x", 3),
    "ftruncate": changes_with(0, lambda fd: os.ftruncate(fd, 3)),
    "O_TRUNC": changes_with(os.O_TRUNC, lambda fd: None),
    "punch": changes_with(0, lambda fd: punch(fd, 0, PAGE)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_user_changes_loses_the_set_id_bits_of_the_file(mnt, real, user, change):
    """However it is done: the daemon, as root, could leave them."""
    os.chmod(real, 0o6755)
    back_by(mnt / "x", real)
    os.chmod(mnt / "x", 0o666)
    write(mnt / "from", b"new")
    if change != "write":       # which the kernel does in passthrough, for whoever defined it
        CHANGES[change](mnt)
        assert stat.S_IMODE(os.stat(real).st_mode) == 0o6755    # root leaves them
    write(real, pattern("real", MIB + 100))
    call(CHANGES[change], mnt, user=user)
    assert stat.S_IMODE(os.stat(real).st_mode) == 0o755
    assert read(real) != pattern("real", MIB + 100)


def write_asynchronously(fd, data):
    """As io_submit(2) does; how much was written."""
    context, event = ctypes.c_ulong(0), (ctypes.c_int64 * 4)()
    place = ctypes.create_string_buffer(data, len(data))
    request = ctypes.create_string_buffer(struct.pack(
        "=QIIHhIQQqQII", 0, 0, 0, 1, 0, fd, ctypes.addressof(place), len(data), 0, 0, 0, 0))
    pointer = ctypes.c_void_p(ctypes.addressof(request))
    assert libc.syscall(IO_SETUP, 1, ctypes.byref(context)) == 0
    assert libc.syscall(IO_SUBMIT, context, ctypes.c_long(1), ctypes.byref(pointer)) == 1
    assert libc.syscall(IO_GETEVENTS, context, ctypes.c_long(1), ctypes.c_long(1), event, None) == 1
    return event[2]


@pytest.mark.parametrize("limit", [None, b"1G"])
def test_what_is_appended_asynchronously_stays_in_order(mnt, real, limit):
    """The kernel sends it in pieces, all at once."""
    data, expected = pattern("appended", 16 * MIB + 1000), read(real)
    back_by(mnt / "x", real)
    if limit:
        os.setxattr(mnt / "x", "user.section.limit", limit)     # so that the daemon is asked
    with opened(mnt / "x", os.O_WRONLY | os.O_APPEND) as fd, \
            opened(real, os.O_WRONLY | os.O_APPEND) as past:
        for _ in range(3):
            assert write_asynchronously(fd, data) == len(data)
            os.write(past, b"and others")
            expected += data + b"and others"
            assert read(real) == expected
        size = 10 * PAGE
        os.truncate(real, size)                                 # so do they
        assert write_asynchronously(fd, data) == len(data)
        assert read(real) == expected[:size] + data
