# SPDX-License-Identifier: MIT
"""The control interface: extended attributes, .info, .stats, and sectionctl over them."""

import errno
import os
import re
import stat
import subprocess

import pytest

from util import (MIB, call, clean_environment, eventually, opened, pairs, pattern, read, refused,
                  write)

posix = pytest.mark.posix
every_mode = pytest.mark.modes("passthrough", "cached", "user")


def attribute(path, key):
    return os.getxattr(path, "user.section." + key).decode()


def listed(path):
    return {name for name in os.listxattr(path) if name.startswith("user.section.")}


# --- user.section.* -------------------------------------------------------------------------------

@every_mode
def test_attributes_of_a_page_section(mnt):
    def body():
        write(mnt / "x", bytes(10000))
        assert attribute(mnt / "x", "kind") == "page"
        assert attribute(mnt / "x", "protect") == "readwrite"
        assert attribute(mnt / "x", "size") == "10000"
        assert attribute(mnt / "x", "private") == "0"
        assert attribute(mnt / "x", "mode") in ("passthrough", "cached")
        assert {"user.section.kind", "user.section.protect"} <= listed(mnt / "x")
        for name in listed(mnt / "x"):
            os.getxattr(mnt / "x", name)            # all that is listed can be read
    mnt.run(body)


@every_mode
def test_opens_counts_the_handles(mnt):
    def body():
        write(mnt / "x", b"data")
        eventually(lambda: attribute(mnt / "x", "opens") == "0")
        with opened(mnt / "x"), opened(mnt / "x", os.O_RDONLY):
            assert attribute(mnt / "x", "opens") == "2"
        eventually(lambda: attribute(mnt / "x", "opens") == "0")
    mnt.run(body)


@every_mode
def test_viewers_counts_the_handles_of_one_view(mnt):
    def body():
        write(mnt / "x", b"data")
        assert attribute(mnt.cow("x"), "viewers") == "0"
        with opened(mnt.cow("x")) as one, opened(mnt.cow("x")) as two:
            assert attribute(one, "viewers") == attribute(two, "viewers") == "1"
            assert attribute(mnt.cow("x"), "viewers") == "0"        # that would be a third view
            with opened(f"/proc/self/fd/{one}", os.O_RDONLY) as again:
                assert attribute(one, "viewers") == attribute(again, "viewers") == "2"
                assert attribute(two, "viewers") == "1"
            eventually(lambda: attribute(one, "viewers") == "1")
        assert "user.section.viewers" not in listed(mnt / "x")
        with refused(errno.ENODATA):
            attribute(mnt / "x", "viewers")
        os.setxattr(mnt / "x", "user.section.protect", b"writecopy")
        os.setxattr(mnt / "x", "user.section.cow", b"section")
        assert attribute(mnt / "x", "viewers") == "0"
        with opened(mnt / "x"), opened(mnt / "x"):
            assert attribute(mnt / "x", "viewers") == "2"
        eventually(lambda: attribute(mnt / "x", "viewers") == "0")
    mnt.run(body)


def test_attributes_can_be_read_through_a_descriptor(mnt):
    write(mnt / "x", bytes(5000))
    with opened(mnt / "x", os.O_RDONLY) as fd:
        assert os.getxattr(fd, "user.section.size") == b"5000"
        assert os.getxattr(fd, "user.section.opens") == b"1"
        os.truncate(mnt / "x", 6000)
        assert os.getxattr(fd, "user.section.size") == b"6000"


@every_mode
def test_unknown_key_is_einval_to_set(mnt):
    def body():
        write(mnt / "x", b"")
        for key in ("nonsense", "", "Kind", "kind.x", "file "):
            with refused(errno.EINVAL):
                os.setxattr(mnt / "x", "user.section." + key, b"1")
        for key in ("nonsense", "", "file"):        # a page section has no file
            with refused(errno.ENODATA):
                os.getxattr(mnt / "x", "user.section." + key)
    mnt.run(body)


@every_mode
def test_read_only_facts_cannot_be_set(mnt):
    def body():
        write(mnt / "x", b"")
        before = {name: os.getxattr(mnt / "x", name) for name in listed(mnt / "x")}
        # Tools that copy attributes write facts as well: what could be one is taken and has no effect.
        for key, value in (("kind", b"page"), ("mode", b"direct"), ("opens", b"7"),
                           ("private", b"1"), ("size", b"123456")):
            os.setxattr(mnt / "x", "user.section." + key, value)
            os.removexattr(mnt / "x", "user.section." + key)
            with refused(errno.EINVAL):
                os.setxattr(mnt / "x", "user.section." + key, b"nonsense")
        with refused(errno.EPERM):              # what it is does not change by saying so
            os.setxattr(mnt / "x", "user.section.kind", b"file")
        assert {name: os.getxattr(mnt / "x", name) for name in listed(mnt / "x")} == before
    mnt.run(body)


def test_protect_can_be_set_and_caps_later_opens(mnt):
    write(mnt / "x", b"data")
    with opened(mnt / "x") as fd:
        os.setxattr(mnt / "x", "user.section.protect", b"readonly")
        for flags in (os.O_RDWR, os.O_WRONLY, os.O_RDWR | os.O_TRUNC):
            with refused(errno.EACCES):
                os.open(mnt / "x", flags)
        assert read(mnt / "x") == b"data"
        os.pwrite(fd, b"DATA", 0)               # who has it open already keeps what it has
    with refused(errno.EINVAL):
        os.setxattr(mnt / "x", "user.section.protect", b"sometimes")
    os.setxattr(mnt / "x", "user.section.protect", b"readwrite")
    write(mnt / "x", b"new")
    assert read(mnt / "x") == b"new"


def test_attributes_cannot_be_set_through_the_dot_names(mnt):
    write(mnt / "x", b"")
    for path in (mnt.cow("x"), mnt.info("x")):
        for name in ("user.section.protect", "user.colour"):
            with refused(errno.EROFS, errno.EACCES):
                os.setxattr(path, name, b"readonly")
    assert attribute(mnt / "x", "protect") == "readwrite"


def test_removing_an_attribute_sets_what_is_normal(mnt, place):
    write(mnt / "x", b"")
    os.setxattr(mnt / "x", "user.section.protect", b"readonly")
    os.removexattr(mnt / "x", "user.section.protect")
    assert attribute(mnt / "x", "protect") == "readwrite"
    with refused(errno.ENODATA):
        os.removexattr(mnt / "x", "user.section.nonsense")
    write(f"{place}/real", b"data")
    os.setxattr(mnt / "x", "user.section.file", f"{place}/real".encode())
    with refused(errno.EPERM):                  # what it is does not go
        os.removexattr(mnt / "x", "user.section.file")


def test_only_the_owner_may_set(mnt, user, other):
    """Not the owner: EPERM where the bits allow writing, EACCES where they do not."""
    call(write, mnt / "x", b"", user=user)
    call(os.chmod, mnt / "x", 0o666, user=user)

    def attempt(code):
        with refused(code):
            os.setxattr(mnt / "x", "user.section.file", b"/etc/passwd")
    call(attempt, errno.EPERM, user=other)
    call(os.chmod, mnt / "x", 0o644, user=user)
    call(attempt, errno.EACCES, user=other)
    assert attribute(mnt / "x", "kind") == "page"


def test_whoever_cannot_read_the_section_cannot_read_its_attributes(mnt, user):
    write(mnt / "x", b"")
    os.chmod(mnt / "x", 0o600)

    def body():
        with refused(errno.EACCES):
            os.getxattr(mnt / "x", "user.section.kind")
    call(body, user=user)
    os.chmod(mnt / "x", 0o644)
    assert call(attribute, mnt / "x", "kind", user=user) == "page"


@pytest.mark.parametrize("value", [b"x" * 65536, b"\0", b"/" * 5000, b"\xff" * 300])
def test_odd_values_are_refused_without_harm(mnt, value):
    write(mnt / "x", b"")
    with opened(mnt / "x") as fd:
        with pytest.raises(OSError):
            os.setxattr(fd, "user.section.file", value)
    assert attribute(mnt / "x", "kind") == "page"
    write(mnt / "x", b"usable")
    assert read(mnt / "x") == b"usable"


# --- Other extended attributes --------------------------------------------------------------------

@posix
@every_mode
def test_other_user_attributes_are_kept_as_on_any_filesystem(mnt):
    def body():
        write(mnt / "x", b"")
        os.mkdir(mnt / "d")
        for path in (mnt / "x", mnt / "d"):
            os.setxattr(path, "user.colour", b"green")
            os.setxattr(path, "user.binary", bytes(range(256)))
            os.setxattr(path, "user.empty", b"")
            os.setxattr(path, "user.long", pattern("long", 3000))
            assert {"user.colour", "user.binary", "user.empty", "user.long"} <= set(os.listxattr(path))
            assert os.getxattr(path, "user.colour") == b"green"
            assert os.getxattr(path, "user.binary") == bytes(range(256))
            assert os.getxattr(path, "user.empty") == b""
            assert os.getxattr(path, "user.long") == pattern("long", 3000)
            os.setxattr(path, "user.colour", b"red")
            assert os.getxattr(path, "user.colour") == b"red"
            with refused(errno.EEXIST):
                os.setxattr(path, "user.colour", b"blue", os.XATTR_CREATE)
            with refused(errno.ENODATA):
                os.setxattr(path, "user.new", b"blue", os.XATTR_REPLACE)
            os.removexattr(path, "user.colour")
            with refused(errno.ENODATA):
                os.getxattr(path, "user.colour")
            with refused(errno.ENODATA):
                os.removexattr(path, "user.colour")
            assert "user.colour" not in os.listxattr(path)
            assert os.getxattr(path, "user.binary") == bytes(range(256))
        os.rename(mnt / "x", mnt / "y")
        assert os.getxattr(mnt / "y", "user.long") == pattern("long", 3000)
    mnt.run(body)


@posix
def test_many_attributes_on_one_file(mnt):
    write(mnt / "x", b"")
    names = {f"user.number-{number}" for number in range(100)}
    for name in names:
        os.setxattr(mnt / "x", name, name.encode() * 3)
    assert names <= set(os.listxattr(mnt / "x"))
    for name in names:
        assert os.getxattr(mnt / "x", name) == name.encode() * 3
    for name in list(names)[::2]:
        os.removexattr(mnt / "x", name)
    assert len([n for n in os.listxattr(mnt / "x") if n.startswith("user.number-")]) == 50


@posix
def test_attributes_of_others_need_the_right_to_write(mnt, user):
    write(mnt / "x", b"")
    os.setxattr(mnt / "x", "user.colour", b"green")

    def body():
        assert os.getxattr(mnt / "x", "user.colour") == b"green"
        with refused(errno.EACCES):
            os.setxattr(mnt / "x", "user.colour", b"red")
        with refused(errno.EACCES):
            os.removexattr(mnt / "x", "user.colour")
    call(body, user=user)


def test_attributes_live_and_die_with_their_file(mnt):
    before = mnt.stats()
    for turn in range(50):
        write(mnt / "x", b"")
        os.setxattr(mnt / "x", "user.long", pattern(turn, 2000))
        os.unlink(mnt / "x")
    write(mnt / "x", b"")
    with refused(errno.ENODATA):
        os.getxattr(mnt / "x", "user.long")
    os.unlink(mnt / "x")
    mnt.settled(before)


# --- .info and .stats -----------------------------------------------------------------------------

@every_mode
def test_info_tells_what_a_section_is(mnt):
    def body():
        os.mkdir(mnt / "d")
        write(mnt / "d/x", bytes(12345))
        info = pairs(read(mnt.info("d/x")).decode())
        assert info["kind"] == "page"
        assert info["size"] == 12345
        assert info["protect"] == "readwrite"
        assert os.listdir(mnt.info("d")) == ["x"]
        assert os.listdir(mnt.info(".")) == ["d"]
        with refused(errno.ENOENT):
            os.stat(mnt.info("d/none"))
        assert stat.S_ISREG(os.stat(mnt.info("d/x")).st_mode)
    mnt.run(body)


def test_info_is_fresh_at_every_read(mnt):
    write(mnt / "x", b"1")
    for size in (1, 1000, 100000, 0, 12):
        os.truncate(mnt / "x", size)
        assert pairs(read(mnt.info("x")).decode())["size"] == size


@every_mode
def test_info_and_stats_cannot_be_written(mnt):
    def body():
        write(mnt / "x", b"data")
        for path in (mnt.info("x"), mnt / ".stats"):
            for flags in (os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_TRUNC):
                with refused(errno.EROFS, errno.EACCES, errno.EPERM):
                    os.open(path, flags)
            with refused(errno.EROFS, errno.EACCES, errno.EPERM):
                os.truncate(path, 0)
            assert read(path)
        for action in (lambda: os.unlink(mnt / ".stats"),
                       lambda: os.rename(mnt / ".stats", mnt / "y"),
                       lambda: os.rename(mnt / "x", mnt / ".stats"),
                       lambda: os.rename(mnt / "x", mnt / ".cow")):
            with pytest.raises(OSError):
                action()
        assert read(mnt / "x") == b"data"
    mnt.run(body)


def test_info_of_a_section_that_another_user_may_not_read(mnt, user):
    """The text tells no more than the attributes would."""
    write(mnt / "x", b"")
    os.chmod(mnt / "x", 0o600)

    def body():
        with refused(errno.EACCES):
            read(mnt.info("x"))
    call(body, user=user)


@every_mode
def test_stats_count(mnt):
    before = mnt.stats()

    def body():
        fds = [os.open(mnt / f"x{n}", os.O_CREAT | os.O_RDWR) for n in range(3)]
        os.write(fds[0], bytes(3 * MIB))
        inside = pairs(read(mnt / ".stats").decode())
        assert inside["sections"] == before["sections"] + 3
        assert inside["handles"] >= 3
        assert 3 * MIB <= inside["size_used"] - before["size_used"] <= 6 * MIB
        assert inside["requests_create"] - before.get("requests_create", 0) == 3
        for fd in fds:
            os.close(fd)
        for n in range(3):
            os.unlink(mnt / f"x{n}")
    mnt.run(body)
    mnt.settled(before)


@pytest.mark.modes("cached")
def test_request_counters_count_io_in_cached_mode(mnt):
    before = mnt.stats()
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        for number in range(10):
            os.pwrite(fd, b"x" * 100, number * 100)
    after = mnt.stats()
    assert after["requests_write"] - before["requests_write"] == 10


def test_reading_stats_a_thousand_times_leaves_nothing(mnt):
    before = mnt.stats()
    for _ in range(1000):
        after = mnt.stats()
    for key in ("sections", "size_used", "size_overlays"):
        assert after[key] == before[key]
    assert after["handles"] <= before["handles"] + 2    # releases may be on their way


# --- sectionctl -----------------------------------------------------------------------------------

@every_mode
def test_ctl_creates_a_page_section(mnt, ctl):
    ctl("create", mnt / "x", "--size", "64M", "--mode", "0640", user=mnt.user)
    status = mnt.run(os.stat, mnt / "x")
    assert status.st_size == 64 * MIB
    assert status.st_mode & 0o7777 == 0o640
    ctl("create", mnt / "empty", user=mnt.user)
    status = mnt.run(os.stat, mnt / "empty")
    assert (status.st_size, status.st_mode & 0o7777) == (0, 0o644)


@every_mode
def test_ctl_creates_a_file_section(mnt, ctl, place):
    write(f"{place}/real", b"content of a real file")
    ctl("create", mnt / "x", "--file", "real", user=mnt.user, cwd=place)
    assert mnt.run(read, mnt / "x") == b"content of a real file"
    assert ctl("get", mnt / "x", "file", user=mnt.user).stdout == f"{place}/real\n"


@every_mode
def test_ctl_info_get_and_stats(mnt, ctl):
    ctl("create", mnt / "x", "--size", "12345", user=mnt.user)
    info = pairs(ctl("info", mnt / "x", user=mnt.user).stdout)
    assert info["kind"] == "page" and info["size"] == 12345
    assert ctl("get", mnt / "x", "kind", "size", user=mnt.user).stdout == "page\n12345\n"
    figures = pairs(ctl("stats", mnt.path, user=mnt.user).stdout)
    assert figures.keys() >= {"version", "mode", "mode_reason", "size_limit", "keeper_pid"}
    assert figures["keeper_pid"] == mnt.stats()["keeper_pid"]


def test_ctl_set_defines_a_file_section(mnt, ctl, place):
    write(f"{place}/real", b"content")
    write(mnt / "x", b"")
    ctl("set", mnt / "x", f"file={place}/real")
    assert read(mnt / "x") == b"content"


@pytest.mark.parametrize("arguments,status,says", [
    (["create", "{mnt}/there"], 1, "exist"),
    (["create", "{mnt}/none/x"], 1, "does not exist"),
    (["create", "{mnt}/x", "--size", "wrong"], 2, "size"),
    (["create", "{mnt}/x", "--mode", "9"], 2, "mode|octal"),
    (["create", "{mnt}/x", "--file", "relative-and-missing"], 1, "exist"),
    (["create", "{mnt}/x", "-o", "nonsense=1"], 1, "nonsense"),
    (["create", "{mnt}/x", "--file", "/etc/passwd", "--base", "there"], 2, "--base"),
    (["create", "{mnt}/x", "-o", "file=/etc/passwd", "-o", "base=there"], 2, "--base"),
    (["create", "{mnt}/x", "--base", "there", "--size", "1"], 2, "--size"),
    (["create", "{mnt}/x", "--offset", "4K"], 2, "--offset"),
    (["create", "{mnt}/x", "--file", "/etc/passwd", "--offset", "-1"], 2, "size"),
    (["create", "{mnt}/x", "--commit", "--reserve"], 2, "--reserve"),
    (["create", "{mnt}/x", "--limit", "lots"], 2, "size"),
    (["create", "{mnt}/x", "--limit", "4K", "--size", "8K"], 1, "limit"),
    (["create", "{mnt}/x", "--base", "none"], 1, "no such section"),
    (["create", "{mnt}/x", "--base", "d"], 1, "not a section"),
    (["create", "{mnt}/x", "--base", ""], 1, "name of a section"),
    (["create", "{mnt}/.cow/x"], 1, "read-only.*\\.cow"),
    (["set", "{mnt}/.info/there", "limit=1M"], 1, "read-only.*\\.info"),
    (["create", "{mnt}/x", "--protect", "sometimes"], 1, "protect=sometimes"),
    (["create", "{mnt}/x", "--cow", "never"], 1, "cow=never"),
    (["create", "{mnt}/x", "--lifetime", "short"], 1, "lifetime=short"),
    (["create", "{mnt}/x", "--resize", "shrink"], 1, "resize=shrink"),
    (["create", "{mnt}/x", "--delete", "never"], 1, "delete=never"),
    (["create", "{mnt}/x", "--file", "{place}/short", "--size", "8K", "--protect", "readonly"], 1,
     "ends before"),
    (["set", "{mnt}/there", "limit=-1"], 1, "limit=-1"),
    (["set", "{mnt}/there", "offset=4K"], 1, "before file"),
    (["create", "{place}/x"], 1, "sectionfs mount"),
    (["create"], 2, "PATH"),
    (["info", "{mnt}/none"], 1, "no such|does not exist"),
    (["get", "{mnt}/there", "nonsense"], 1, "nonsense"),
    (["set", "{mnt}/there", "nonsense=1"], 1, "nonsense"),
    (["set", "{mnt}/there", "kind=file"], 1, "kind"),
    (["set", "{mnt}/there", "file"], 2, "KEY=VALUE"),
    (["stats", "{place}"], 1, "sectionfs mount"),
    (["stats", "{mnt}/d"], 1, "root"),
    (["nonsense"], 2, "nonsense"),
    ([], 2, "command"),
])
@pytest.mark.modes("cached")
def test_ctl_refuses_in_one_sentence(mnt, ctl, place, arguments, status, says):
    write(mnt / "there", b"data")
    write(f"{place}/short", b"short")
    os.mkdir(mnt / "d")
    words = [word.format(mnt=mnt.path, place=place) for word in arguments]
    result = ctl(*words, ok=False)
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    line, = result.stderr.splitlines()
    assert line.startswith("sectionctl: ")
    assert re.search(says, line, re.IGNORECASE)
    assert sorted(os.listdir(mnt.path)) == ["d", "there"]
    assert not os.path.exists(f"{place}/x")
    assert read(mnt / "there") == b"data"
    assert read(f"{place}/short") == b"short"


@every_mode
def test_ctl_creates_with_every_policy(mnt, ctl):
    ctl("create", mnt / "x", "--size", "1M", "--limit", "2M", "--commit", "--resize", "grow",
        "--delete", "busy", "--lifetime", "temporary", "--protect", "readonly", "--mode", "600",
        user=mnt.user)
    got = ctl("get", mnt / "x", "size", "limit", "commit", "resize", "delete", "lifetime", "protect",
              user=mnt.user).stdout
    assert got == f"{MIB}\n{2 * MIB}\ncommit\ngrow\nbusy\ntemporary\nreadonly\n"
    # It waits for its first opener, whose end is its own.
    assert mnt.run(read, mnt / "x") == bytes(MIB)
    eventually(lambda: not mnt.run(os.path.exists, mnt / "x"))


@every_mode
def test_ctl_creates_with_a_fixed_size(mnt, ctl):
    """The size is given before resize=fixed forbids it, in whatever order they are written."""
    ctl("create", mnt / "x", "--resize", "fixed", "--size", "4K", user=mnt.user)

    def body():
        with refused(errno.EPERM):
            os.truncate(mnt / "x", 0)
        assert os.stat(mnt / "x").st_size == 4096
    mnt.run(body)


@every_mode
def test_ctl_creates_a_window(mnt, ctl, place):
    data = pattern("image", 64 * 1024)
    write(f"{place}/image", data)
    ctl("create", mnt / "x", "--file", f"{place}/image", "--offset", "4K", "--size", "8K",
        user=mnt.user)
    ctl("create", mnt / "rest", "-o", "offset=60K", "-o", f"file={place}/image", user=mnt.user)
    assert mnt.run(read, mnt / "x") == data[4096:12288]
    assert mnt.run(read, mnt / "rest") == data[60 * 1024:]
    got = ctl("get", mnt / "x", "offset", "length", "size", user=mnt.user).stdout
    assert got == "4096\n8192\n8192\n"


@every_mode
def test_ctl_makes_a_copy_of_a_section(mnt, ctl):
    mnt.run(write, mnt / "golden", b"golden")
    ctl("create", mnt / "x", "--base", "golden", "--cow", "section", user=mnt.user)
    got = ctl("get", mnt / "x", "base", "protect", "cow", "size", user=mnt.user).stdout
    assert got.splitlines()[1:] == ["writecopy", "section", "6"]
    assert got.splitlines()[0].lstrip("/") == "golden"

    def body():
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"changed", 0)
            assert read(mnt / "x") == b"changed"
        assert read(mnt / "golden") == b"golden"
    mnt.run(body)


def test_ctl_sets_what_needs_setting_before_the_file(mnt, ctl, place, user):
    """A readonly section needs no right to write its file; an explicit readwrite one does."""
    write(f"{place}/real", b"content")
    os.chmod(f"{place}/real", 0o644)
    result = ctl("create", mnt / "x", "--protect", "readwrite", "--file", f"{place}/real", user=user,
                 ok=False)
    assert result.returncode == 1 and "permission" in result.stderr
    assert os.listdir(mnt.path) == []
    for protect in ("readonly", "writecopy"):
        ctl("create", mnt / protect, "--protect", protect, "--file", f"{place}/real", user=user)
        assert attribute(mnt / protect, "protect") == protect
    ctl("create", mnt / "y", "--file", f"{place}/real", user=user)
    assert attribute(mnt / "y", "protect") == "readonly"


@every_mode
def test_ctl_sets_policies_with_sizes_as_people_write_them(mnt, ctl):
    mnt.run(write, mnt / "x", b"data")
    ctl("set", mnt / "x", "limit=1G", "delete=busy", "lifetime=permanent", user=mnt.user)
    assert ctl("get", mnt / "x", "limit", "delete", user=mnt.user).stdout == f"{1024 * MIB}\nbusy\n"
    mnt.run(os.mkdir, mnt / "d")
    ctl("set", mnt / "d", "limit=64k", "resize=grow", user=mnt.user)
    info = pairs(ctl("info", mnt / "d", user=mnt.user).stdout)
    assert info["limit"] == 65536 and info["resize"] == "grow"
    ctl("create", mnt / "d/x", "--size", "64K", user=mnt.user)
    assert ctl("get", mnt / "d/x", "limit", "resize", user=mnt.user).stdout == "65536\ngrow\n"
    result = ctl("create", mnt / "d/y", "--size", "65K", ok=False, user=mnt.user)
    assert result.returncode == 1 and "limit" in result.stderr


@every_mode
def test_ctl_shows_who_holds_a_section(mnt, ctl):
    child = mnt.child()
    child.do("prctl(4, 1)    # PR_SET_DUMPABLE: becoming a user has hidden it from that user's daemon\n"
             "fd = os.open(path, os.O_RDWR | os.O_CREAT)", path=mnt / "x")
    text = ctl("get", mnt / "x", "holders", user=mnt.user).stdout
    pid, _command, uid, access, age = text.split()
    assert (int(pid), access) == (child.pid, "rw")
    assert age == "-" or int(age) >= 0
    assert int(uid) == (mnt.user.uid if mnt.user else 0)
    lines = ctl("info", mnt / "x", user=mnt.user).stdout.splitlines()
    assert len([line for line in lines if line.startswith("holders: ")]) == 1


def test_ctl_create_in_a_directory_of_others_leaves_nothing(mnt, ctl, user):
    os.mkdir(mnt / "d", 0o755)
    result = ctl("create", mnt / "d/x", "--size", "1M", user=user, ok=False)
    assert result.returncode == 1
    assert "permission" in result.stderr
    assert os.listdir(mnt / "d") == []


@pytest.mark.parametrize("program,words", [
    ("sectionctl", ["--help"]), ("sectionctl", ["--version"]), ("sectionctl", ["create", "--help"]),
    ("sectionctl", ["stats", "{mnt}"]), ("sectionfs", ["--help"]), ("sectionfs", ["--version"]),
])
@pytest.mark.modes("cached")
def test_output_that_cannot_be_written_is_a_failure(session, mnt, program, words):
    """Were it that of a help, which GLib prints and then exits."""
    with open("/dev/full", "w") as full:
        result = subprocess.run([getattr(session.programs, program),
                                 *(word.format(mnt=mnt.path) for word in words)], stdout=full,
                                stderr=subprocess.PIPE, text=True, env=clean_environment())
    assert result.returncode == 1
    assert result.stderr == f"{program}: cannot write the output\n"


@pytest.mark.modes("cached")
def test_ctl_says_how_many_bases_there_may_be(mnt, ctl):
    ctl("create", mnt / "0")
    for n in range(40):
        ctl("create", mnt / f"{n + 1}", "--base", n)
    result = ctl("create", mnt / "41", "--base", "40", ok=False)
    assert result.returncode == 1 and "more than 40" in result.stderr


def test_looking_with_sectionctl_is_no_use_of_the_section(mnt, ctl):
    write(mnt / "x", b"data")
    eventually(lambda: mnt.stats()["handles"] == 0)
    before = mnt.stats()
    ctl("info", mnt / "x")
    ctl("get", mnt.cow("x"), "kind")
    after = mnt.stats()
    assert after.get("requests_open", 0) - before.get("requests_open", 0) <= 2      # .stats itself
    assert after["views"] == before["views"]
