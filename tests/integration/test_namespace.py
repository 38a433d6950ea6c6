# SPDX-License-Identifier: MIT
"""Names: directories, links, renames and permissions, all as on tmpfs."""

import errno
import fcntl
import os
import shutil
import socket
import stat
import time

import pytest

from util import (RENAME_EXCHANGE, RENAME_NOREPLACE, call, eventually, link_fd, opened, read, refused,
                  renameat2, write)

posix = pytest.mark.posix
every_mode = pytest.mark.modes("passthrough", "cached", "user")


# --- Directories ----------------------------------------------------------------------------------

@posix
@every_mode
def test_directories_nest_and_count_their_links(mnt):
    def body():
        top = os.stat(mnt.path).st_nlink
        os.mkdir(mnt / "a", 0o750)
        status = os.stat(mnt / "a")
        assert stat.S_ISDIR(status.st_mode) and stat.S_IMODE(status.st_mode) == 0o750
        assert status.st_nlink == 2
        assert os.stat(mnt.path).st_nlink == top + 1
        os.makedirs(mnt / "a/b/c/d/e/f")
        assert os.stat(mnt / "a").st_nlink == 3
        assert os.stat(mnt / "a/b/../../a/b/c/d/e/f/..").st_ino == os.stat(mnt / "a/b/c/d/e").st_ino
        shutil.rmtree(mnt / "a/b")
        assert os.stat(mnt / "a").st_nlink == 2
        os.rmdir(mnt / "a")
        assert os.stat(mnt.path).st_nlink == top
        assert os.listdir(mnt.path) == []
    mnt.run(body)


@posix
@every_mode
def test_refusals_of_directories(mnt):
    def body():
        os.makedirs(mnt / "a/b")
        write(mnt / "x", b"")
        with refused(errno.EEXIST):
            os.mkdir(mnt / "a")
        with refused(errno.EEXIST):
            os.mkdir(mnt / "x")
        with refused(errno.ENOTEMPTY):
            os.rmdir(mnt / "a")
        with refused(errno.ENOTDIR):
            os.rmdir(mnt / "x")
        with refused(errno.EISDIR):
            os.unlink(mnt / "a")
        with refused(errno.ENOENT):
            os.mkdir(mnt / "none/b")
        with refused(errno.ENOTDIR):
            os.mkdir(mnt / "x/b")
        with refused(errno.ENOTDIR):
            os.stat(mnt / "x/b")
        with refused(errno.EISDIR):
            os.open(mnt / "a", os.O_RDWR)
        with refused(errno.EINVAL):
            os.rename(mnt / "a", mnt / "a/b/c")
        with refused(errno.EPERM):
            os.link(mnt / "a", mnt / "hard")
        with refused(errno.ENOENT):
            os.rmdir(mnt / "none")
        with refused(errno.ENOENT):
            os.unlink(mnt / "none")
    mnt.run(body)


@posix
def test_removed_directory_that_is_still_open_takes_no_new_names(mnt):
    os.mkdir(mnt / "d")
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    os.rmdir(mnt / "d")
    assert os.fstat(fd).st_nlink == 0
    assert os.listdir(fd) == []
    with refused(errno.ENOENT):
        os.open("x", os.O_CREAT | os.O_RDWR, dir_fd=fd)
    with refused(errno.ENOENT):
        os.mkdir("x", dir_fd=fd)
    os.close(fd)


@posix
def test_parents_times_follow_their_content(mnt):
    os.mkdir(mnt / "d")
    write(mnt / "outside", b"")

    def changes(action):
        os.utime(mnt / "d", ns=(1, 1))
        action()
        return os.stat(mnt / "d").st_mtime_ns > 1
    assert changes(lambda: write(mnt / "d/x", b""))
    assert changes(lambda: os.mkdir(mnt / "d/d"))
    assert changes(lambda: os.rename(mnt / "d/x", mnt / "d/y"))
    assert changes(lambda: os.link(mnt / "outside", mnt / "d/z"))
    assert changes(lambda: os.symlink("x", mnt / "d/s"))
    assert changes(lambda: os.unlink(mnt / "d/y"))
    assert changes(lambda: os.rmdir(mnt / "d/d"))
    assert not changes(lambda: write(mnt / "d/z", b"content"))


@posix
def test_5000_entries_are_listed_once_each(mnt):
    names = {f"entry-{number:05d}" for number in range(5000)}
    for name in names:
        os.close(os.open(mnt / name, os.O_CREAT | os.O_WRONLY))
    listed = os.listdir(mnt.path)
    assert len(listed) == 5000
    assert set(listed) == names
    with os.scandir(mnt.path) as entries:
        assert all(entry.is_file(follow_symlinks=False) for entry in entries)


@posix
def test_deleting_while_reading_a_directory_of_5000_entries(mnt):
    """What is deleted or created meanwhile may show or not; what stays is shown exactly once."""
    os.mkdir(mnt / "d")
    for number in range(5000):
        os.close(os.open(mnt / f"d/{number}", os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir(mnt / "d") as entries:
        for entry in entries:
            seen.append(entry.name)
            if entry.name.isdigit() and int(entry.name) % 2:
                os.unlink(entry.path)
            elif entry.name.isdigit() and int(entry.name) % 500 == 0:
                write(mnt / f"d/new{entry.name}", b"")
    old = [name for name in seen if name.isdigit()]
    assert len(old) == len(set(old))
    assert {int(name) for name in old} == set(range(5000))
    left = {name for name in os.listdir(mnt / "d") if name.isdigit()}
    assert left == {str(number) for number in range(0, 5000, 2)}
    with os.scandir(mnt / "d") as entries:       # rm -r does it this way
        for entry in entries:
            os.unlink(entry.path)
    os.rmdir(mnt / "d")


@posix
def test_rewound_directory_shows_new_names(mnt):
    os.mkdir(mnt / "d")
    write(mnt / "d/a", b"")
    fd = os.open(mnt / "d", os.O_RDONLY | os.O_DIRECTORY)
    assert os.listdir(fd) == ["a"]
    write(mnt / "d/b", b"")
    os.lseek(fd, 0, os.SEEK_SET)
    assert sorted(os.listdir(fd)) == ["a", "b"]
    os.close(fd)


@posix
@every_mode
def test_long_names(mnt):
    def body():
        name = "n" * 255
        write(mnt / name, b"long")
        assert os.listdir(mnt.path) == [name]
        assert read(mnt / name) == b"long"
        os.rename(mnt / name, mnt / ("m" * 255))
        for attempt in (os.mkdir, os.mkfifo, os.stat, lambda path: write(path, b""),
                        lambda path: os.rename(mnt / ("m" * 255), path),
                        lambda path: os.link(mnt / ("m" * 255), path)):
            with refused(errno.ENAMETOOLONG):
                attempt(mnt / ("n" * 256))
        os.unlink(mnt / ("m" * 255))
        assert os.listdir(mnt.path) == []
    mnt.run(body)


@posix
def test_names_are_any_bytes(mnt):
    root = os.fsencode(mnt.path)
    names = [b"\xff\xfe", b"new\nline", b"tab\t", b" ", b"\xe2\x82\xac", b"...", b"-", b"\x01", b"\\",
             b"88" * 44, b"89" * 44 + b"x", b"s" * 87]
    for name in names:
        write(root + b"/" + name, name)
    assert sorted(os.listdir(root)) == sorted(names)
    for name in names:
        assert read(root + b"/" + name) == name
        os.unlink(root + b"/" + name)
    assert os.listdir(root) == []


def test_dot_names_of_the_root_are_ordinary_names_elsewhere(mnt):
    os.mkdir(mnt / "d")
    for name in (".cow", ".info", ".stats"):
        with refused(errno.ENOENT):
            os.stat(mnt / f"d/{name}")
        write(mnt / f"d/{name}", b"ordinary")
        assert read(mnt / f"d/{name}") == b"ordinary"
    assert sorted(os.listdir(mnt / "d")) == [".cow", ".info", ".stats"]


# --- Renaming -------------------------------------------------------------------------------------

@posix
@every_mode
def test_rename_moves_and_replaces(mnt):
    def body():
        write(mnt / "x", b"x")
        write(mnt / "y", b"y")
        os.mkdir(mnt / "d")
        number = os.stat(mnt / "x").st_ino
        os.rename(mnt / "x", mnt / "d/x")
        assert os.stat(mnt / "d/x").st_ino == number
        with refused(errno.ENOENT):
            os.stat(mnt / "x")
        os.rename(mnt / "d/x", mnt / "y")
        assert read(mnt / "y") == b"x"
        assert os.listdir(mnt / "d") == []
        os.rename(mnt / "y", mnt / "y")
        assert read(mnt / "y") == b"x"
        with refused(errno.ENOENT):
            os.rename(mnt / "none", mnt / "y")
    mnt.run(body)


@posix
def test_replaced_file_lives_on_while_open(mnt):
    write(mnt / "x", b"old")
    write(mnt / "y", b"new")
    with opened(mnt / "x") as fd:
        os.rename(mnt / "y", mnt / "x")
        assert os.pread(fd, 10, 0) == b"old"
        assert os.fstat(fd).st_nlink == 0
    assert read(mnt / "x") == b"new"


@posix
def test_rename_of_directories(mnt):
    top = os.stat(mnt.path).st_nlink
    os.makedirs(mnt / "a/sub")
    os.mkdir(mnt / "b")
    write(mnt / "a/sub/x", b"x")
    os.rename(mnt / "a/sub", mnt / "b/moved")
    assert (os.stat(mnt / "a").st_nlink, os.stat(mnt / "b").st_nlink) == (2, 3)
    assert read(mnt / "b/moved/x") == b"x"
    assert os.stat(mnt / "b/moved/..").st_ino == os.stat(mnt / "b").st_ino
    os.rename(mnt / "b", mnt / "a")                 # over an empty directory
    assert read(mnt / "a/moved/x") == b"x"
    assert os.stat(mnt.path).st_nlink == top + 1
    os.mkdir(mnt / "empty")
    write(mnt / "f", b"")
    with refused(errno.ENOTEMPTY):
        os.rename(mnt / "empty", mnt / "a")
    with refused(errno.ENOTDIR):
        os.rename(mnt / "empty", mnt / "f")
    with refused(errno.EISDIR):
        os.rename(mnt / "f", mnt / "empty")
    with refused(errno.EINVAL):
        os.rename(mnt / "a", mnt / "a/moved/deeper")


@posix
def test_rename_flags(mnt):
    write(mnt / "x", b"x")
    write(mnt / "y", b"y")
    os.makedirs(mnt / "d/sub")
    with refused(errno.EEXIST):
        renameat2(mnt / "x", mnt / "y", RENAME_NOREPLACE)
    assert (read(mnt / "x"), read(mnt / "y")) == (b"x", b"y")
    renameat2(mnt / "x", mnt / "z", RENAME_NOREPLACE)
    assert read(mnt / "z") == b"x"

    renameat2(mnt / "z", mnt / "y", RENAME_EXCHANGE)
    assert (read(mnt / "z"), read(mnt / "y")) == (b"y", b"x")
    top = os.stat(mnt.path).st_nlink
    renameat2(mnt / "d/sub", mnt / "y", RENAME_EXCHANGE)    # a directory for a file
    assert os.path.isdir(mnt / "y") and read(mnt / "d/sub") == b"x"
    assert os.stat(mnt.path).st_nlink == top + 1
    assert os.stat(mnt / "d").st_nlink == 2
    assert os.stat(mnt / "y/..").st_ino == os.stat(mnt.path).st_ino
    with refused(errno.ENOENT):
        renameat2(mnt / "z", mnt / "none", RENAME_EXCHANGE)
    with refused(errno.EINVAL):
        renameat2(mnt / "z", mnt / "y", RENAME_EXCHANGE | RENAME_NOREPLACE)
    with refused(errno.EINVAL):
        renameat2(mnt / "z", mnt / "y", 1 << 10)


@posix
def test_rename_between_hard_links_of_one_file_does_nothing(mnt):
    write(mnt / "x", b"x")
    os.link(mnt / "x", mnt / "y")
    os.rename(mnt / "x", mnt / "y")
    assert sorted(os.listdir(mnt.path)) == ["x", "y"]
    assert os.stat(mnt / "x").st_nlink == 2


@posix
def test_rename_storm_never_loses_the_name(mnt):
    """One process replaces the name for ever, another must find it at every moment."""
    write(mnt / "target", b"%08d" % 0)
    child = mnt.child()
    child.begin("""
for turn in range(2000):
    write(root + '/next', b'%08d' % turn)
    os.rename(root + '/next', root + '/target')
""", root=mnt.path)
    end = time.monotonic() + 30
    last = 0
    while last != 1999 and time.monotonic() < end:
        now = int(read(mnt / "target"))
        assert now >= last
        last = now
    child.finish()
    assert int(read(mnt / "target")) == 1999


# --- Links and other kinds of file ----------------------------------------------------------------

@posix
@every_mode
def test_hard_links_are_one_file(mnt):
    def body():
        write(mnt / "x", b"data")
        os.link(mnt / "x", mnt / "y")
        os.mkdir(mnt / "d")
        os.link(mnt / "y", mnt / "d/z")
        one, two = os.stat(mnt / "x"), os.stat(mnt / "d/z")
        assert one.st_ino == two.st_ino and one.st_nlink == two.st_nlink == 3
        with opened(mnt / "y") as fd:
            os.pwrite(fd, b"DATA", 0)
            os.unlink(mnt / "y")
            assert os.fstat(fd).st_nlink == 2
        assert read(mnt / "d/z") == b"DATA"
        os.chmod(mnt / "x", 0o600)
        assert stat.S_IMODE(os.stat(mnt / "d/z").st_mode) == 0o600
        with refused(errno.EEXIST):
            os.link(mnt / "x", mnt / "d/z")
        with refused(errno.ENOENT):
            os.link(mnt / "none", mnt / "q")
        os.unlink(mnt / "x")
        assert os.stat(mnt / "d/z").st_nlink == 1
    mnt.run(body)


@posix
@every_mode
def test_symbolic_links(mnt):
    def body():
        write(mnt / "x", b"data")
        os.symlink("x", mnt / "link")
        assert os.readlink(mnt / "link") == "x"
        status = os.lstat(mnt / "link")
        assert stat.S_ISLNK(status.st_mode) and status.st_size == 1
        assert read(mnt / "link") == b"data"
        os.symlink("nowhere", mnt / "dangling")
        with refused(errno.ENOENT):
            os.stat(mnt / "dangling")
        os.symlink("loop", mnt / "loop")
        with refused(errno.ELOOP):
            os.stat(mnt / "loop")
        with refused(errno.ELOOP):
            os.open(mnt / "link", os.O_RDONLY | os.O_NOFOLLOW)
        target = "t" * 4000
        os.symlink(target, mnt / "long")
        assert os.readlink(mnt / "long") == target
        assert os.lstat(mnt / "long").st_size == 4000
        os.unlink(mnt / "link")
        assert read(mnt / "x") == b"data"
        with refused(errno.EINVAL):
            os.readlink(mnt / "x")
        os.link(mnt / "dangling", mnt / "second", follow_symlinks=False)
        assert os.readlink(mnt / "second") == "nowhere"
    mnt.run(body)


@posix
@every_mode
def test_fifo_connects_two_processes(mnt):
    mnt.run(os.mkfifo, mnt / "fifo", 0o644)
    assert stat.S_ISFIFO(mnt.run(os.stat, mnt / "fifo").st_mode)
    child = mnt.child()
    child.begin("fd = os.open(path, os.O_RDONLY); data = os.read(fd, 100); os.close(fd)",
                path=mnt / "fifo")

    def send():
        with opened(mnt / "fifo", os.O_WRONLY) as fd:
            os.write(fd, b"through the fifo")
    mnt.run(send)
    child.finish()
    assert child.get("data") == b"through the fifo"


def test_device_nodes_on_a_mount_without_devices(mnt):
    """They can be made and looked at; opening is what the kernel refuses, unless mounted with "dev"."""
    os.mknod(mnt / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(mnt / "loop", stat.S_IFBLK | 0o666, os.makedev(7, 0))
    assert os.stat(mnt / "null").st_rdev == os.makedev(1, 3)
    assert stat.S_ISBLK(os.stat(mnt / "loop").st_mode)
    for name in "null", "loop":
        with refused(errno.EACCES):
            os.open(mnt / name, os.O_RDONLY)
        os.unlink(mnt / name)


def test_every_file_has_an_inode_number_of_its_own_that_stays(mnt):
    def numbers():
        found = {}
        for folder, names, files in os.walk(mnt.path):
            for name in names + files:
                found[name] = os.lstat(os.path.join(folder, name)).st_ino
        return found
    for folder in "d", "d/e", "f":
        os.mkdir(mnt / folder)
    for n in range(50):
        write(mnt / f"d/section{n}", b"x" * (n % 3))
        os.symlink("none", mnt / f"d/e/link{n}")
        os.mkfifo(mnt / f"f/fifo{n}")
    before = numbers()
    assert len(set(before.values()) | {os.stat(mnt.path).st_ino}) == len(before) + 1 == 154
    for n in range(0, 50, 2):
        os.rename(mnt / f"d/section{n}", mnt / f"f/section{n}")
        write(mnt / f"f/section{n}", b"more")
        os.truncate(mnt / f"d/section{n + 1}", n)
    os.rename(mnt / "d/e", mnt / "e")
    assert numbers() == before
    # What is made in the place of another is another.
    os.unlink(mnt / "f/section0")
    write(mnt / "f/section0", b"")
    after = numbers()
    assert after.pop("section0") not in before.values()
    del before["section0"]
    assert after == before


@posix
def test_unix_socket_connects_two_processes(mnt):
    server = socket.socket(socket.AF_UNIX)
    directory = os.open(mnt.path, os.O_PATH)
    server.bind(f"/proc/self/fd/{directory}/s")
    os.close(directory)
    server.listen()
    assert stat.S_ISSOCK(os.stat(mnt / "s").st_mode)
    client = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    try:
        os.chdir(mnt.path)
        client.connect("s")
    finally:
        os.chdir(here)
    served, _ = server.accept()
    client.sendall(b"hello")
    assert served.recv(5) == b"hello"
    for sock in (client, served, server):
        sock.close()


# --- Files without a name -------------------------------------------------------------------------

@posix
@every_mode
def test_nameless_file_is_given_a_name(mnt):
    def body():
        os.mkdir(mnt / "d")
        fd = os.open(mnt / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
        os.write(fd, b"made in peace")
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(mnt / "d") == []
        write(mnt / "taken", b"")
        with refused(errno.EEXIST):
            link_fd(fd, mnt / "taken")
        link_fd(fd, mnt / "d/x")
        assert os.fstat(fd).st_nlink == 1
        os.write(fd, b" and finished")
        os.close(fd)
        assert read(mnt / "d/x") == b"made in peace and finished"
        assert stat.S_IMODE(os.stat(mnt / "d/x").st_mode) == 0o640
    mnt.run(body)


@posix
def test_nameless_file_made_exclusive_gets_no_name(mnt):
    fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR | os.O_EXCL)
    with refused(errno.ENOENT):
        link_fd(fd, mnt / "x")
    os.close(fd)
    assert os.listdir(mnt.path) == []


@posix
def test_unlinked_file_gets_no_name_again(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.unlink(mnt / "x")
        with refused(errno.ENOENT):
            link_fd(fd, mnt / "y")


# --- Permissions ----------------------------------------------------------------------------------

@posix
def test_owner_group_and_mode_of_what_is_created(mnt, user):
    def body():
        old = os.umask(0o027)
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR, 0o666):
            pass
        os.mkdir(mnt / "d", 0o777)
        os.umask(old)
        for name, mode in (("x", 0o640), ("d", 0o750)):
            status = os.stat(mnt / name)
            assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
            assert stat.S_IMODE(status.st_mode) == mode
    call(body, user=user)


@posix
def test_group_of_a_setgid_directory_is_inherited(mnt, user):
    os.mkdir(mnt / "d")
    os.chown(mnt / "d", 0, 54321)
    os.chmod(mnt / "d", 0o2777)

    def body():
        write(mnt / "d/x", b"")
        os.mkdir(mnt / "d/sub")
        assert os.stat(mnt / "d/x").st_gid == 54321
        assert os.stat(mnt / "d/sub").st_gid == 54321
        assert os.stat(mnt / "d/sub").st_mode & stat.S_ISGID
    call(body, user=user)


@posix
def test_mode_bits_keep_another_user_out(mnt, user):
    write(mnt / "secret", b"secret")
    os.chmod(mnt / "secret", 0o600)
    write(mnt / "public", b"public")
    os.chmod(mnt / "public", 0o644)
    os.mkdir(mnt / "closed", 0o700)
    write(mnt / "closed/x", b"")
    os.mkdir(mnt / "listed", 0o755)
    os.chmod(mnt / "listed", 0o744)
    write(mnt / "listed/x", b"")

    def body():
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            with refused(errno.EACCES):
                os.open(mnt / "secret", flags)
        assert read(mnt / "public") == b"public"
        with refused(errno.EACCES):
            os.open(mnt / "public", os.O_WRONLY)
        with refused(errno.EACCES):
            os.truncate(mnt / "public", 0)
        with refused(errno.EACCES):
            os.stat(mnt / "closed/x")
        with refused(errno.EACCES):
            os.listdir(mnt / "closed")
        assert os.listdir(mnt / "listed") == ["x"]
        with refused(errno.EACCES):
            os.stat(mnt / "listed/x")
        with refused(errno.EACCES):
            write(mnt / "listed/new", b"")
        for action in (lambda: os.chmod(mnt / "public", 0o666),
                       lambda: os.chown(mnt / "public", os.getuid(), -1),
                       lambda: os.utime(mnt / "public", ns=(1, 1))):
            with refused(errno.EPERM):
                action()
        assert os.access(mnt / "public", os.R_OK)
        assert not os.access(mnt / "public", os.W_OK)
        assert not os.access(mnt / "secret", os.R_OK)
    call(body, user=user)
    assert read(mnt / "public") == b"public"


@posix
def test_group_bits_count_for_supplementary_groups(mnt, user):
    write(mnt / "x", b"for the group")
    os.chown(mnt / "x", 0, 54321)
    os.chmod(mnt / "x", 0o660)
    with refused(errno.EACCES):
        call(read, mnt / "x", user=user)
    assert call(read, mnt / "x", user=user, groups=(54321,)) == b"for the group"
    call(os.truncate, mnt / "x", 3, user=user, groups=(54321,))
    assert read(mnt / "x") == b"for"


@posix
def test_sticky_directory_protects_each_users_files(mnt, user, other):
    """The root is sticky, as that of /dev/shm: everybody may create, nobody may remove another's."""
    call(write, mnt / "x", b"the user's", user=user)

    def body():
        write(mnt / "mine", b"")
        for action in (lambda: os.unlink(mnt / "x"),
                       lambda: os.rename(mnt / "x", mnt / "y"),
                       lambda: os.rename(mnt / "mine", mnt / "x")):
            with refused(errno.EPERM, errno.EACCES):
                action()
        os.unlink(mnt / "mine")
    os.chmod(mnt.path, 0o1777)
    call(body, user=other)
    assert read(mnt / "x") == b"the user's"
    call(os.unlink, mnt / "x", user=user)


@posix
def test_owner_may_hand_over_only_as_chown_allows(mnt, user):
    write(mnt / "x", b"")
    os.chown(mnt / "x", user.uid, user.gid)
    assert os.stat(mnt / "x").st_uid == user.uid

    def body():
        os.chmod(mnt / "x", 0o711)
        with refused(errno.EPERM):
            os.chown(mnt / "x", 0, -1)
        with refused(errno.EPERM):
            os.chown(mnt / "x", -1, 54321)
    call(body, user=user)
    assert stat.S_IMODE(os.stat(mnt / "x").st_mode) == 0o711


@posix
def test_set_uid_bit_does_not_survive_a_write_or_chown(mnt, user):
    write(mnt / "x", b"program")
    os.chmod(mnt / "x", 0o4777)
    assert os.stat(mnt / "x").st_mode & stat.S_ISUID

    def body():
        with opened(mnt / "x", os.O_WRONLY) as fd:
            os.write(fd, b"evil")
    call(body, user=user)
    assert not os.stat(mnt / "x").st_mode & stat.S_ISUID
    os.chmod(mnt / "x", 0o4755)
    os.chown(mnt / "x", user.uid, user.gid)
    assert not os.stat(mnt / "x").st_mode & stat.S_ISUID


@posix
def test_open_descriptor_keeps_its_rights(mnt):
    write(mnt / "x", b"data")
    with opened(mnt / "x") as fd:
        os.chmod(mnt / "x", 0)
        os.pwrite(fd, b"DATA", 0)
        assert os.pread(fd, 4, 0) == b"DATA"


@posix
def test_file_created_without_rights_is_open_to_its_maker(mnt, user):
    def body():
        fd = os.open(mnt / "x", os.O_CREAT | os.O_RDWR, 0o000)
        os.write(fd, b"data")
        assert os.pread(fd, 4, 0) == b"data"
        os.close(fd)
        with refused(errno.EACCES):
            os.open(mnt / "x", os.O_RDONLY)
    call(body, user=user)


# --- Many at once ---------------------------------------------------------------------------------

@posix
def test_processes_creating_the_same_names_exactly_one_wins(mnt):
    children = [mnt.child() for _ in range(6)]
    for child in children:
        child.begin("""
won = 0
for number in range(200):
    try:
        os.close(os.open(f'{root}/{number}', os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        won += 1
    except FileExistsError:
        pass
""", root=mnt.path)
    for child in children:
        child.finish()
    assert sum(child.get("won") for child in children) == 200
    assert len(os.listdir(mnt.path)) == 200


@posix
def test_processes_working_in_one_directory(mnt):
    """Creating, linking, renaming and deleting side by side, without errors that none should see."""
    children = [mnt.child() for _ in range(6)]
    for number, child in enumerate(children):
        child.begin("""
for turn in range(100):
    a, b, d = (f'{root}/{number}-{turn}-{x}' for x in 'abd')
    write(a, pattern(turn, 100))
    os.link(a, b)
    os.mkdir(d)
    os.rename(a, d + '/a')
    assert read(d + '/a') == read(b) == pattern(turn, 100)
    os.unlink(b)
    if turn % 2:
        os.unlink(d + '/a')
        os.rmdir(d)
""", root=mnt.path, number=number)
    for child in children:
        child.finish()
    assert len(os.listdir(mnt.path)) == 6 * 50
    assert os.stat(mnt.path).st_nlink >= 2 + 6 * 50


def test_number_of_sections_is_exact_after_all_that(mnt):
    before = mnt.stats()["sections"]
    os.makedirs(mnt / "a/b")
    write(mnt / "a/b/x", b"")
    os.link(mnt / "a/b/x", mnt / "y")
    os.symlink("y", mnt / "l")
    os.rename(mnt / "a/b/x", mnt / "y")
    shutil.rmtree(mnt / "a")
    os.unlink(mnt / "y")
    os.unlink(mnt / "l")
    eventually(lambda: mnt.stats()["sections"] == before)


@posix
def test_a_directory_is_no_terminal(mnt):
    os.mkdir(mnt / "d")
    for path in mnt.path, mnt / "d":
        with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
            with refused(errno.ENOTTY):
                os.ttyname(fd)
            with refused(errno.ENOTTY):
                fcntl.ioctl(fd, 0x5401, bytes(64))      # TCGETS
