# SPDX-License-Identifier: MIT
"""Starting and ending: exit statuses, signals, unmounting, wrong options, and nothing left behind."""

import contextlib
import errno
import os
import re
import resource
import signal
import stat
import time

import pytest

from util import (MIB, MNT_DETACH, MS_BIND, MS_MOVE, MS_NOSUID, alive, call, descendants, eventually,
                  identity, kill, mount, mounts_at, mounts_below, opened, pattern, process_table, read,
                  reap, refused, run, umount, write)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
IGNORING_CHILDREN = "env", "--ignore-signal=CHLD"


def ended_well(mount):
    """The daemon has ended by itself: status 0, nothing mounted, no process, no complaint."""
    problems = mount.wait_gone() + mount.log_problems()
    assert not problems, "\n".join(problems)
    if mount.process:
        assert mount.status == 0, mount.log_text()
    assert os.listdir(mount.path) == []
    return True


# --- Coming up ------------------------------------------------------------------------------------

@every_mode
def test_mount_type_and_source_are_sectionfs(mnt):
    (kind, source, options), = mounts_at(mnt.path)
    assert kind == "fuse.sectionfs"
    assert source == "sectionfs"
    assert "default_permissions" in options.split(",")


@every_mode
def test_fresh_mount_is_empty_and_its_dot_names_are_there(mnt):
    def body():
        assert os.listdir(mnt.path) == []
        assert stat.S_ISDIR(os.stat(mnt / ".cow").st_mode)
        assert stat.S_ISDIR(os.stat(mnt / ".info").st_mode)
        assert stat.S_ISREG(os.stat(mnt / ".stats").st_mode)
        assert os.listdir(mnt / ".cow") == []
        assert os.listdir(mnt / ".info") == []
    mnt.run(body)


@every_mode
def test_stats_say_which_mode_and_why(mnt):
    figures = mnt.stats()
    if mnt.mode == "passthrough":
        assert figures["mode"] == "passthrough"
        assert figures["store"] == "tmpfs"
    else:
        assert figures["mode"] == "cached"
    if mnt.mode == "user":
        assert figures["store"] == "memfd"
    assert figures["mode_reason"]
    assert figures["keeper_pid"] == mnt.keeper
    assert identity(figures["worker_pid"]) in descendants(mnt.keeper)
    for key in ("version", "size_limit", "size_used", "size_overlays", "sections_limit", "sections",
                "handles", "views", "requests_read", "requests_write"):
        assert key in figures


@pytest.mark.parametrize("mode", ["passthrough", "cached", "user"])
def test_background_start_returns_zero_only_once_mounted(new_mount, mode):
    """start() runs the command to its end and then requires the mount; the first use must work."""
    mount = new_mount(mode, background=True)

    def body():
        write(mount / "x", b"here")
        assert read(mount / "x") == b"here"
    mount.run(body)
    assert mount.stats()["keeper_pid"] != os.getpid()


def test_background_daemon_lets_go_of_the_terminal(new_mount):
    """Its output pipes are closed (or start() would have hung) and it leads a session of its own."""
    mount = new_mount("cached", background=True)
    assert os.getsid(mount.keeper) != os.getsid(0)
    for number in (0, 1, 2):
        assert os.readlink(f"/proc/{mount.keeper}/fd/{number}") == "/dev/null"


def test_background_daemon_prints_nothing(new_mount):
    assert new_mount("cached", background=True).log_text() == ""


def test_debug_stays_in_the_foreground_and_talks(new_mount):
    mount = new_mount("cached", arguments=("-d",))
    write(mount / "x", b"")
    assert mount.log_text()


def test_relative_mountpoint_with_a_space(session, place, new_mount):
    mount = new_mount("cached", background=True, start=False)
    os.rename(mount.path, f"{place}/a name")
    mount.path = f"{place}/a name"
    mount.command = [session.programs.sectionfs, "a name", "-o", "passthrough=off"]
    result = run(*mount.command, cwd=place)
    assert result.stderr == ""
    mount.keeper = mount.stats()["keeper_pid"]
    mount.note_processes()
    write(mount / "x", b"1")
    assert read(mount / "x") == b"1"


def test_mountpoint_through_a_symbolic_link_and_a_slash(session, place, new_mount):
    mount = new_mount("cached", start=False)
    os.symlink(mount.path, f"{place}/link")
    mount.command[1] = f"{place}/link/"
    mount.start()
    write(mount / "x", b"1")
    assert read(f"{place}/link/x") == b"1"


def test_source_argument_is_accepted_before_the_mountpoint(new_mount):
    mount = new_mount("cached", start=False)
    mount.command[1:2] = ["anything", mount.path]
    mount.start()
    assert mounts_at(mount.path)[0][0] == "fuse.sectionfs"


def lift_hard_limit():
    resource.setrlimit(resource.RLIMIT_FSIZE, (MIB, MIB))
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


@pytest.mark.parametrize("mode,limit", [("passthrough", "soft"), ("cached", "soft"), ("user", "soft"),
                                        ("passthrough", "hard"), ("cached", "hard")])
def test_limit_on_the_size_of_files_is_lifted(new_mount, mode, limit):
    """That of whoever mounts; root may lift the hard one, too."""
    most = "unlimited"
    if limit == "hard":
        most = MIB
        try:
            call(lift_hard_limit)
        except (OSError, ValueError) as error:
            pytest.skip(f"this root may not lift a hard limit: {error}")
    mount = new_mount(mode, start=False)
    mount.command = ["prlimit", f"--fsize={MIB}:{most}", *mount.command]
    mount.start()

    def body():
        data = pattern("x", 3 * MIB)
        write(mount / "x", data)
        with opened(mount.cow("x")) as fd:
            os.pwrite(fd, b"mine", 2 * MIB)
            assert os.pread(fd, 6, 2 * MIB) == b"mine" + data[2 * MIB + 4:2 * MIB + 6]
            os.ftruncate(fd, 5 * MIB)
        os.truncate(mount / "x", 9 * MIB)
        with opened(mount / "x") as fd:
            os.posix_fallocate(fd, 0, 10 * MIB)
        assert os.stat(mount / "x").st_size == 10 * MIB
        assert read(mount / "x") == data + bytes(7 * MIB)
    mount.run(body)
    assert mount.stats()["deaths"] == 0


@every_mode
def test_limit_on_the_size_of_files_of_who_uses_it_holds(mnt):
    def body():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        write(mnt / "x", pattern("x", 2 * MIB))
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * MIB, 3 * MIB))
        for path in mnt / "x", mnt.cow("x"):
            with opened(path) as fd:
                assert os.pwrite(fd, bytes(MIB), 2 * MIB + 1) == MIB - 1
                with refused(errno.EFBIG):
                    os.pwrite(fd, b"x", 3 * MIB)
                with refused(errno.EFBIG):
                    os.ftruncate(fd, 3 * MIB + 1)
                assert os.fstat(fd).st_size == 3 * MIB
    mnt.run(body)
    assert mnt.stats()["deaths"] == 0


def test_two_mounts_know_nothing_of_each_other(new_mount):
    one, two = new_mount("cached"), new_mount("cached")
    write(one / "x", b"one")
    assert os.listdir(two.path) == []
    assert one.stop() == []
    write(two / "x", b"two")
    assert read(two / "x") == b"two"


# --- Options that work ----------------------------------------------------------------------------

def test_root_directory_is_1777_and_roots(mnt):
    status = os.stat(mnt.path)
    assert stat.S_IMODE(status.st_mode) == 0o1777
    assert (status.st_uid, status.st_gid) == (0, 0)


@pytest.mark.modes("user")
def test_users_mount_is_the_users_alone(mnt, other):
    with refused(errno.EACCES):
        os.stat(mnt.path)
    with refused(errno.EACCES):
        call(os.listdir, mnt.path, user=other)
    assert mnt.run(lambda: os.stat(mnt.path).st_uid) == mnt.user.uid


@pytest.mark.options("mode=0750,uid=12345,gid=23456")
def test_mode_uid_gid_options_are_the_root_directorys(mnt):
    status = os.stat(mnt.path)
    assert stat.S_IMODE(status.st_mode) == 0o750
    assert (status.st_uid, status.st_gid) == (12345, 23456)


@pytest.mark.parametrize("text,size", [("33554432", 32 * MIB), ("64M", 64 * MIB), ("65536K", 64 * MIB),
                                       ("1G", 1024 * MIB)])
def test_size_option(new_mount, text, size):
    mount = new_mount("cached", f"size={text}")
    assert mount.stats()["size_limit"] == size


def test_size_option_in_percent_of_ram_and_its_default(new_mount):
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for options, share in (("size=25%", 0.25), ("", 0.5)):
        limit = new_mount("cached", options).stats()["size_limit"]
        assert abs(limit / ram - share) < 0.02


@pytest.mark.options("ro")
def test_read_only_mount_refuses_to_create(mnt):
    with refused(errno.EROFS):
        os.open(mnt / "x", os.O_CREAT | os.O_RDWR)
    with refused(errno.EROFS):
        os.mkdir(mnt / "d")
    assert "ro" in mounts_at(mnt.path)[0][2].split(",")


@pytest.mark.options("nosuid,nodev,noexec")
def test_generic_mount_options_reach_the_kernel(mnt):
    assert {"nosuid", "nodev", "noexec"} <= set(mounts_at(mnt.path)[0][2].split(","))


@pytest.mark.options("nr_sections=20")
def test_nr_sections_limits_the_number_of_names(mnt):
    write(mnt / "x", b"data")
    with refused(errno.ENOSPC):
        for n in range(1000):
            os.link(mnt / "x", mnt / f"link{n}")
    assert os.stat(mnt / "x").st_nlink == len(os.listdir(mnt.path)) == 20
    os.rename(mnt / "link0", mnt / "renamed")
    os.rename(mnt / "link1", mnt / "renamed")       # of one file, so nothing happens
    os.unlink(mnt / "link1")
    os.link(mnt / "x", mnt / "link1")


@pytest.mark.options("nr_sections=20")
def test_nr_sections_limits_the_number_of_files(mnt):
    assert mnt.stats()["sections_limit"] == 20
    made = 0
    with refused(errno.ENOSPC):
        for made in range(21):
            write(mnt / f"f{made}", b"")
    assert made >= 18           # the root directory may count as one
    os.unlink(mnt / "f0")

    def again():                # the number comes back with the inode
        try:
            write(mnt / "again", b"")
            return True
        except OSError:
            return False
    eventually(again)


# --- Ending ---------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@every_mode
def test_signal_ends_it_cleanly(mnt, number):
    mnt.run(write, mnt / "x", b"data")
    assert mnt.stop(number) == []
    assert ended_well(mnt)


@every_mode
def test_umount_ends_it_cleanly(mnt):
    mnt.run(write, mnt / "x", b"data")
    run("umount", mnt.path)
    assert ended_well(mnt)


@every_mode
def test_fusermount_ends_it_cleanly(mnt):
    mnt.run(write, mnt / "x", b"data")
    mnt.tool("fusermount3", "-u", mnt.path)
    assert ended_well(mnt)


@pytest.mark.parametrize("how", ["SIGTERM", "umount"])
@pytest.mark.parametrize("mode", ["passthrough", "cached", "user"])
def test_background_daemon_ends_cleanly(new_mount, mode, how):
    mount = new_mount(mode, background=True)
    mount.run(write, mount / "x", b"data")
    if how == "SIGTERM":
        assert mount.stop() == []
    else:
        run("umount", mount.path)
    assert ended_well(mount)


def test_immediate_end_after_start(new_mount):
    for _ in range(5):
        mount = new_mount("cached", start=False)
        mount.start()
        assert mount.stop() == []
        assert mount.status == 0


def test_busy_umount_is_refused_and_harms_nothing(mnt):
    write(mnt / "x", b"data")
    with opened(mnt / "x") as fd:
        result = run("umount", mnt.path, ok=False)
        assert result.returncode != 0
        assert os.pread(fd, 4, 0) == b"data"
    assert mnt.process.poll() is None
    assert read(mnt / "x") == b"data"


def test_sigterm_while_busy_detaches_at_once_and_serves_the_holders_to_their_end(mnt):
    """The name is gone at once; whoever has a section open goes on until it closes it."""
    write(mnt / "x", pattern("x", 65536))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    child.do("view = mapped(fd, 65536)")
    mnt.note_processes()
    kill(mnt.keeper, signal.SIGTERM)
    eventually(lambda: not mounts_at(mnt.path), 5, "the mount was not detached")
    assert os.listdir(mnt.path) == []

    child.do("os.pwrite(fd, b'still', 0)")
    assert child.get("view[:5]") == b"still"
    child.do("view[4096:4101] = b'alive'")
    assert child.get("os.pread(fd, 5, 4096)") == b"alive"
    assert child.get("os.fstat(fd).st_size") == 65536
    assert mnt.process.poll() is None

    child.do("view.close(); os.close(fd)")
    assert ended_well(mnt)


def test_sigterm_while_a_copy_on_write_view_is_mapped(mnt):
    write(mnt / "x", pattern("x", 65536))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, 65536); os.close(fd)", path=mnt.cow("x"))
    child.do("view.write(0, b'mine')")
    mnt.note_processes()
    kill(mnt.keeper, signal.SIGTERM)
    eventually(lambda: not mounts_at(mnt.path), 5, "the mount was not detached")
    assert child.get("view.read(0, 4)") == b"mine"
    assert child.get("view.read(8192, 4096)") == pattern("x", 65536)[8192:12288]
    child.do("view.close()")
    assert ended_well(mnt)


@pytest.mark.options("drain_timeout=1")
def test_sigterm_while_busy_waits_no_longer_than_drain_timeout(mnt):
    mnt.log_is_fine = "."           # it may well complain about who was in its way
    write(mnt / "x", b"data")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    mnt.note_processes()
    kill(mnt.keeper, signal.SIGTERM)
    assert mnt.wait_gone(10) == []
    assert child.get("os.getpid()") == child.pid     # the holder is left alone
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        child.do("os.fsync(fd)")


def killed(mount):
    """Kills keeper and worker, neither of which gets to clean up after the other; what is left is a
    mountpoint that nobody serves."""
    mount.note_processes()
    worker = int(mount.stats()["worker_pid"])
    kill(mount.keeper, signal.SIGSTOP)
    kill(worker)
    kill(mount.keeper)
    if mount.process:
        mount.process.wait(10)

    def gone():
        reap(pid for pid, _ in mount.known)
        return not any(alive(process) for process in mount.known)
    eventually(gone, 10, "the worker outlived its keeper")
    with refused(errno.ENOTCONN, errno.ECONNABORTED):       # stat may be answered from the kernel's cache
        os.listdir(mount.path) if not mount.user else mount.run(os.listdir, mount.path)


@pytest.mark.parametrize("mode", ["passthrough", "cached", "user"])
def test_stale_mountpoint_is_cleaned_up_at_start(new_mount, mode):
    """Keeper and worker killed with SIGKILL leave ENOTCONN; starting again on the same mountpoint
    just works, with a single mount there."""
    mount = new_mount(mode)
    mount.run(write, mount / "x", b"old")
    killed(mount)
    mount.start()
    assert len(mounts_at(mount.path)) == 1
    assert mount.run(os.listdir, mount.path) == []
    mount.run(write, mount / "x", b"new")
    assert mount.run(read, mount / "x") == b"new"


def test_stale_mountpoint_is_cleaned_up_by_a_background_start(new_mount):
    mount = new_mount("cached", background=True)
    killed(mount)
    mount.start()
    assert len(mounts_at(mount.path)) == 1
    write(mount / "x", b"new")


@pytest.mark.parametrize("target,path", [(".", "link/mnt0"), ("mnt0", "link"), ("mnt0", "link/")])
def test_stale_mountpoint_is_cleaned_up_through_a_symbolic_link(place, new_mount, target, path):
    mount = new_mount("cached")
    killed(mount)
    os.symlink(target, f"{place}/link")
    mount.command[1] = f"{place}/{path}"
    mount.start()
    assert len(mounts_at(mount.path)) == 1
    write(mount / "x", b"new")


# --- Where it is mounted by now -------------------------------------------------------------------

@pytest.mark.options("drain_timeout=1")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_others_have_mounted_on_top_is_left_alone(mnt, number):
    mnt.log_is_fine = "."
    mnt.note_processes()
    mount("tmpfs", mnt.path, "tmpfs", MS_NOSUID, "size=64k")
    write(mnt / "theirs", b"data")
    kill(mnt.keeper, number)
    mnt.process.wait(10)
    eventually(lambda: not any(alive(process) for process in mnt.known))
    assert [kind for kind, _, _ in mounts_at(mnt.path)] == ["fuse.sectionfs", "tmpfs"]
    assert read(mnt / "theirs") == b"data"
    umount(mnt.path)
    umount(mnt.path, MNT_DETACH)


def rename_parent(mnt, place):
    os.rename(f"{place}/above", f"{place}/renamed")
    return f"{place}/renamed/mnt"


def move_mount(mnt, place):
    os.mkdir(f"{place}/moved")
    mount(mnt.path, f"{place}/moved", None, MS_MOVE)
    return f"{place}/moved"


def bind_mount(mnt, place):
    os.mkdir(f"{place}/bound")
    mount(mnt.path, f"{place}/bound", None, MS_BIND)
    return f"{place}/bound"


@pytest.mark.parametrize("mode", ["cached", "user"])
@pytest.mark.parametrize("how", [rename_parent, move_mount, bind_mount])
def test_sigterm_takes_it_off_wherever_it_is_by_now(place, new_mount, mode, how):
    """At once, and whoever has a file of it open goes on."""
    mnt = new_mount(mode, start=False)
    os.mkdir(f"{place}/above")
    mnt.path = mnt.command[1] = f"{os.path.realpath(place)}/above/mnt"
    os.rename(f"{place}/mnt0", mnt.path)
    mnt.start()
    mnt.run(write, mnt / "x", b"data")
    where = how(mnt, os.path.realpath(place))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)", path=f"{where}/x")
    kill(mnt.keeper, signal.SIGTERM)
    eventually(lambda: not mounts_at(where) and not mounts_at(mnt.path), 5)
    assert child.get("os.pread(fd, 4, 0)") == b"data"
    child.do("os.close(fd)")
    assert mnt.wait_gone() == []


# --- Ending while workers die, and other ends ----------------------------------------------------

BY_NAME = {"SIGTERM": lambda mnt: kill(mnt.keeper, signal.SIGTERM),
           "umount -l": lambda mnt: run("umount", "-l", mnt.path),
           "fusermount3 -u -z": lambda mnt: run("fusermount3", "-u", "-z", mnt.path)}


def worker_of(mnt):
    """The present worker, which is not the only child that the keeper may have."""
    def found():
        for pid, row in process_table().items():
            with contextlib.suppress(OSError):
                if (row[0] == mnt.keeper and row[1] not in "ZX"
                        and read(f"/proc/{pid}/comm") == b"sectionfs-serve\n"):
                    return pid
    return eventually(found)


def begin_use(mnt):
    """A child with a section, a mapping, a view and a lock; and how it asks for them all."""
    write(mnt / "x", pattern("x", 65536))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)\n"
             "fcntl.flock(fd, fcntl.LOCK_EX)\n"
             "view = View(fd, 65536)\n"
             "own = os.open(cow, os.O_RDWR)\n"
             "os.pwrite(own, b'mine', 8192)", path=mnt / "x", cow=mnt.cow("x"))
    return child


def check_use(child):
    child.do("view.write(0, b'still'); os.pwrite(fd, b'here', 4096)")
    assert child.get("os.pread(fd, 5, 0)") == b"still"
    assert child.get("view.read(4096, 4)") == b"here"
    assert child.get("os.pread(own, 4, 8192)") == b"mine"
    assert child.get("os.fstat(fd).st_size") == 65536


@pytest.mark.parametrize("how", BY_NAME)
def test_workers_die_while_a_detached_mount_is_in_use(mnt, how):
    """Whoever has its files open notices neither; with the last of them it ends."""
    child = begin_use(mnt)
    mnt.note_processes()
    BY_NAME[how](mnt)
    eventually(lambda: not mounts_at(mnt.path), 5, "the mount was not detached")
    for n in range(3):
        kill(worker_of(mnt))
        check_use(child)
        eventually(lambda: mnt.log_text().count("was ended by signal 9") == n + 1)
        mnt.note_processes()
    assert mnt.process.poll() is None
    child.do("view.close(); os.close(fd); os.close(own)")
    assert ended_well(mnt)


def test_worker_dies_while_the_mount_is_taken_off(mnt):
    """Whichever comes first."""
    child = begin_use(mnt)
    mnt.note_processes()
    kill(worker_of(mnt))
    kill(mnt.keeper, signal.SIGTERM)
    kill(worker_of(mnt))
    eventually(lambda: not mounts_at(mnt.path), 10, "the mount was not detached")
    check_use(child)
    mnt.note_processes()
    child.kill()
    assert ended_well(mnt)


def test_second_signal_ends_it_at_once(mnt):
    child = begin_use(mnt)
    mnt.note_processes()
    kill(mnt.keeper, signal.SIGTERM)
    eventually(lambda: not mounts_at(mnt.path), 5, "the mount was not detached")
    kill(mnt.keeper, signal.SIGTERM)
    assert ended_well(mnt)
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        child.do("os.ftruncate(fd, 5)")


def test_aborted_connection_ends_it(mnt, place):
    """As an administrator does it, in the filesystem that is there for that."""
    child = begin_use(mnt)
    mnt.note_processes()
    where = f"{place}/connections"
    os.mkdir(where)
    mount("fusectl", where, "fusectl")
    with opened(f"{where}/{os.minor(os.stat(mnt.path).st_dev)}/abort", os.O_WRONLY) as fd:
        os.write(fd, b"1")
    umount(where)
    assert ended_well(mnt)
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        child.do("os.ftruncate(fd, 5)")


def test_keeper_can_abort_where_nobody_has_mounted_what_that_takes(mnt):
    """Else it could not get rid of a worker that waits for its own mount."""
    assert any(os.readlink(f"/proc/{mnt.keeper}/fd/{fd}").endswith("/abort")
               for fd in os.listdir(f"/proc/{mnt.keeper}/fd"))


@every_mode
def test_keeper_dies(mnt):
    """The worker takes the mount off and ends; whoever has its files open is told."""
    mnt.log_is_fine = "the keeper is gone"
    mnt.run(write, mnt / "x", b"data")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    mnt.note_processes()
    kill(mnt.keeper)
    assert mnt.wait_gone() == []
    assert "the keeper is gone: the mount ends" in mnt.log_text()
    assert os.listdir(mnt.path) == []
    with refused(errno.ENOTCONN, errno.ECONNABORTED, errno.EIO):
        child.do("os.ftruncate(fd, 5)")


def test_unmounting_where_children_are_ignored(new_mount):
    mnt = new_mount("cached", start=False)
    mnt.command = [*IGNORING_CHILDREN, *mnt.command]
    mnt.start()
    kill(worker_of(mnt))
    eventually(lambda: "was ended by signal 9" in mnt.log_text())
    mnt.note_processes()
    umount(mnt.path)
    assert ended_well(mnt)


@pytest.mark.parametrize("signals", [(), (signal.SIGTERM, signal.SIGTERM)])
def test_keeper_without_descriptors_ends_it_when_the_worker_dies(new_mount, signals):
    """It tries for a while to start another, and says so. Whoever wants can end it meanwhile."""
    mnt = new_mount("cached")
    child = begin_use(mnt)
    mnt.note_processes()
    resource.prlimit(mnt.keeper, resource.RLIMIT_NOFILE, (9, 9))
    check_use(child)
    kill(worker_of(mnt))
    eventually(lambda: "another worker cannot be started yet" in mnt.log_text())
    for number in signals:
        kill(mnt.keeper, number)
        time.sleep(0.1)
    assert mnt.wait_gone(3 if signals else 40) == []
    assert mnt.status == (0 if signals else 1)
    assert ("no other worker can be started" in mnt.log_text()) == (not signals)
    assert os.listdir(mnt.path) == []


def test_keeper_without_descriptors_for_a_while(mnt):
    os.mkdir(mnt / "d")                         # nothing that it would have to keep open
    resource.prlimit(mnt.keeper, resource.RLIMIT_NOFILE, (9, 4096))
    kill(worker_of(mnt))
    eventually(lambda: "another worker cannot be started yet" in mnt.log_text())
    time.sleep(0.5)
    resource.prlimit(mnt.keeper, resource.RLIMIT_NOFILE, (4096, 4096))
    assert os.listdir(mnt.path) == ["d"]


def test_keeper_that_cannot_keep_a_descriptor_says_so(mnt):
    """And the next worker does not show sections without their bytes."""
    write(mnt / "x", b"data")
    resource.prlimit(mnt.keeper, resource.RLIMIT_NOFILE, (9, 4096))
    write(mnt / "y", b"lost")
    assert read(mnt / "y") == b"lost"
    eventually(lambda: "could not be kept" in mnt.log_text())
    resource.prlimit(mnt.keeper, resource.RLIMIT_NOFILE, (4096, 4096))
    mnt.note_processes()
    kill(worker_of(mnt))
    assert mnt.wait_gone() == []
    assert mnt.status == 1 and "cannot be found again" in mnt.log_text()


# --- Refusing to start ----------------------------------------------------------------------------

def daemons():
    """Processes of sectionfs that this test run has started."""
    found = set()
    for pid, _ in descendants(os.getpid()):
        with contextlib.suppress(OSError):
            if read(f"/proc/{pid}/comm").startswith(b"sectionfs"):
                found.add(pid)
    return found


@pytest.fixture
def start_refused(session, place):
    """Runs sectionfs with arguments that it must refuse: one sentence, non-zero, nothing left."""
    def attempt(*arguments, says, user=None, prefix=(), mountpoint=None):
        program = session.programs.sectionfs
        if user:
            program = session.programs.for_user(program)
        before, processes = mounts_below("/"), daemons()
        result = run(*prefix, program, *arguments, user=user, ok=False, timeout=20)
        assert result.returncode > 0, (result.returncode, result.stderr)
        lines = result.stderr.splitlines()
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("sectionfs: ")
        assert re.search(says, lines[0]), f"no {says!r} in {lines[0]!r}"
        assert result.stdout == ""
        assert mounts_below("/") == before
        if mountpoint:
            assert os.listdir(mountpoint) == []
        eventually(lambda: daemons() <= processes, 5, "a process is left")
        return lines[0]
    return attempt


@pytest.fixture
def directory(place):
    path = f"{place}/target"
    os.mkdir(path)
    os.chmod(path, 0o777)
    return path


@pytest.mark.parametrize("option,says", [
    ("nonsense", "nonsense"), ("nonsense=1", "nonsense"),
    ("size=abc", "size"), ("size=", "size"), ("size=-1", "size"), ("size=12Q", "size"),
    ("size=12%%", "size"), ("size=99999999999999999999999", "size"),
    ("nr_sections=many", "nr_sections"), ("nr_sections=-5", "nr_sections"),
    ("mode=9", "mode"), ("mode=77777", "mode"), ("mode=rwx", "mode"),
    ("uid=nobody-of-that-name", "uid"), ("gid=x", "gid"), ("uid=-1", "uid"),
    ("passthrough=maybe", "passthrough"), ("drain_timeout=soon", "drain_timeout"),
])
@pytest.mark.parametrize("where", ["background", "foreground"])
def test_wrong_option_is_named(start_refused, directory, option, says, where):
    arguments = ["-f"] if where == "foreground" else []
    start_refused(*arguments, directory, "-o", option, says=re.escape(says), mountpoint=directory)


def test_unknown_short_option_is_refused(start_refused, directory):
    start_refused(directory, "-Z", says="-?Z", mountpoint=directory)


def test_no_mountpoint_given(start_refused):
    start_refused(says="(?i)mount ?point")


def test_too_many_arguments(start_refused, directory):
    start_refused("source", directory, "third", says="third|argument", mountpoint=directory)


@pytest.mark.parametrize("where", ["background", "foreground"])
def test_missing_mountpoint(start_refused, place, where):
    path = f"{place}/not there"
    arguments = ["-f"] if where == "foreground" else []
    start_refused(*arguments, path, says="not there")
    assert not os.path.exists(path)


def test_mountpoint_that_is_no_directory(start_refused, place):
    path = f"{place}/plain"
    write(path, b"content")
    start_refused(path, says="plain.*directory")
    assert read(path) == b"content"


def test_mountpoint_that_the_user_does_not_own(start_refused, user, place):
    path = f"{place}/roots"
    os.mkdir(path)
    start_refused(path, says="roots|permission|permitted", user=user, mountpoint=path)


def test_no_fuse_device(start_refused, directory):
    """In a mount namespace whose /dev has no fuse."""
    script = ("mount -t tmpfs tmpfs /dev && mknod -m 666 /dev/null c 1 3 && "
              "mknod -m 666 /dev/zero c 1 5 && mknod -m 666 /dev/urandom c 1 9 && exec \"$@\"")
    start_refused(directory, says="/dev/fuse", mountpoint=directory,
                  prefix=("unshare", "-m", "sh", "-c", script, "sh"))


def test_passthrough_on_where_it_is_not_allowed(start_refused, user, place):
    """passthrough=on is a demand: without the capability the mount does not come up."""
    path = f"{place}/target"
    os.mkdir(path)
    os.chown(path, user.uid, user.gid)
    start_refused(path, "-o", "passthrough=on", says="passthrough", user=user, mountpoint=path)


def test_refusal_where_children_are_ignored(start_refused, user, place):
    """As whoever starts it may have it: SIGCHLD, which is inherited as ignored."""
    path = f"{place}/target"
    os.mkdir(path)
    os.chown(path, user.uid, user.gid)
    start_refused(path, "-o", "passthrough=on", says="passthrough", user=user, mountpoint=path,
                  prefix=IGNORING_CHILDREN)


@pytest.mark.parametrize("where", ["background", "foreground"])
def test_limit_on_the_size_of_files_that_cannot_be_lifted(start_refused, user, place, where):
    path = f"{place}/target"
    os.mkdir(path)
    os.chown(path, user.uid, user.gid)
    arguments = ["-f"] if where == "foreground" else []
    start_refused(*arguments, path, says=f"target: .*RLIMIT_FSIZE.* {MIB} bytes", user=user,
                  mountpoint=path, prefix=("prlimit", f"--fsize={MIB}"))


def test_passthrough_on_where_it_is_allowed(new_mount):
    new_mount("passthrough")            # skips where the kernel refuses
    mount = new_mount("passthrough", "passthrough=on")
    assert mount.stats()["mode"] == "passthrough"


def test_refused_start_leaves_an_existing_mount_alone(new_mount, start_refused):
    mount = new_mount("cached")
    write(mount / "x", b"data")
    start_refused(mount.path, "-o", "nonsense", says="nonsense")
    assert read(mount / "x") == b"data"
