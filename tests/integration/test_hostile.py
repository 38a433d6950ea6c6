# SPDX-License-Identifier: MIT
"""What somebody would try who wants to break it: orders and races of definition, protection,
policies and ends that no ordinary program has."""

import ctypes
import errno
import fcntl
import os
import subprocess
import sys
import time

import pytest

import util
from deaths import both_modes, resumed
from sections import gone, key, make, set_keys, unused
from util import (MIB, PAGE, Child, View, eventually, fallocate, opened, pattern, read,
                  refused, write, write_all)

temporary = pytest.mark.options("lifetime=temporary")


def test_a_definers_handle_does_not_disturb_the_count_of_writers(mnt, place):
    real = f"{place}/real"
    write(real, b"x" * PAGE)
    with opened(mnt / "a", os.O_CREAT | os.O_RDWR):
        set_keys(mnt / "a", file=real)
    unused(mnt / "a")
    set_keys(mnt / "a", limit=2 * PAGE)
    with opened(mnt / "a") as fd, refused(errno.EFBIG):
        os.pwrite(fd, b"y", 3 * PAGE)
    # and the other way round: a writer that is there does count
    old = os.open(mnt / "b", os.O_CREAT | os.O_RDWR)
    set_keys(mnt / "b", file=real)
    with opened(mnt / "b") as fd:
        os.close(old)
        mnt.stats()
        time.sleep(0.05)
        try:
            set_keys(mnt / "b", limit=PAGE)
        except OSError as error:
            assert error.errno == errno.EBUSY
        else:
            with refused(errno.EFBIG):
                os.pwrite(fd, b"y", 3 * PAGE)


@both_modes
def test_a_handle_from_before_is_no_writer_to_a_later_worker(new_mount, place, mode):
    mnt = new_mount(mode)
    write(f"{place}/real", b"x" * PAGE)
    with opened(mnt / "a", os.O_CREAT | os.O_RDWR):
        set_keys(mnt / "a", file=f"{place}/real")
        with opened(mnt / "a"):
            resumed(mnt)
        unused(mnt / "a")
        set_keys(mnt / "a", limit=2 * PAGE)
        with opened(mnt / "a") as fd, refused(errno.EFBIG):
            os.pwrite(fd, b"y", 3 * PAGE)


@both_modes
def test_whoever_writes_by_the_daemon_takes_set_id_bits_off_a_file(new_mount, place, user, mode):
    """Mediated handles too: what they write does not come from the kernel."""
    mnt = new_mount(mode, "allow_other")
    write(f"{place}/real", b"x" * PAGE)
    os.chmod(f"{place}/real", 0o6755)
    make(mnt / "a", file=f"{place}/real", limit=2 * PAGE)
    os.chmod(mnt / "a", 0o666)
    Child(user=user).do("fd = os.open(x, os.O_RDWR); os.pwrite(fd, b'mine', 0)", x=mnt / "a")
    assert os.stat(f"{place}/real").st_mode & 0o7777 == 0o755


OVERLAY = """
import os, sys, util
low, none, on = (sys.argv[1] + name for name in ("/low", "/none", "/on"))
for path in (low, none, on):
    os.makedirs(path, exist_ok=True)
util.write(low + "/real", b"theirs")
util.mount("overlay", on, "overlay", 0, f"lowerdir={low}:{none}")
"""
DEFINE = """
fd = os.open(sys.argv[2], os.O_CREAT | os.O_RDWR)
os.setxattr(fd, "user.section.file", os.fsencode(sys.argv[1] + "/on/real"))
"""


def test_a_mount_that_anybody_may_make_is_no_place_for_a_file(new_mount, place, user):
    """An overlay over a FUSE file system of one's own would let the daemon wait for oneself."""
    def python(code, *prefix, **how):
        return subprocess.run([*prefix, sys.executable, "-c", code, there, mnt / "x"], cwd=here,
                              capture_output=True, text=True, **how)
    here, there = os.path.dirname(__file__), f"{place}/there"
    mnt = new_mount("cached", "allow_other")
    os.chmod(mnt.path, 0o1777)
    os.mkdir(there)
    os.chown(there, user.uid, user.gid)
    own = python(OVERLAY + DEFINE, "unshare", "-Urm", user=user.uid, group=user.gid, extra_groups=[])
    if "Operation not permitted" in own.stderr:
        pytest.skip(f"users may not mount overlays: {own.stderr}")
    assert "Errno 19" in own.stderr, own.stderr
    assert key(mnt / "x", "kind") == "page"
    # What root has mounted will do, whether the daemon sees it or not.
    drop = f"os.setgroups([]); os.setgid({user.gid}); os.setuid({user.uid})"
    for prefix in (["unshare", "-m"], []):
        os.unlink(mnt / "x")
        done = python(OVERLAY + drop + DEFINE + "print(os.getxattr(fd, 'user.section.kind'))", *prefix)
        assert (done.returncode, done.stdout) == (0, "b'file'\n"), done.stderr
    util.umount(f"{there}/on", util.MNT_DETACH)        # the section has a file of it


@both_modes
def test_no_overlay_over_this_mount(new_mount, place, mode):
    """Through one a file of this mount could be a section's, which then waits for itself."""
    mnt = new_mount(mode)
    protocol = tuple(int(part) for part in mnt.stats()["protocol"].split("."))
    if protocol < (7, 40):
        pytest.skip("this kernel does not know of stacked FUSE file systems")
    on = f"{place}/on"
    for path in (mnt / "low", on, f"{place}/low", f"{place}/upper", f"{place}/work"):
        os.mkdir(path)
    write(mnt / "low/section", b"x" * PAGE)
    for layers in (f"lowerdir={mnt.path}/low:{place}/low",
                   f"lowerdir={mnt.path}/.cow/low:{place}/low",
                   f"lowerdir={mnt.path}/low,upperdir={place}/upper,workdir={place}/work"):
        with refused(errno.EINVAL):
            util.mount("overlay", on, "overlay", 0, layers)
    util.mount("overlay", on, "overlay", 0, f"lowerdir={place}/low:{place}/upper")
    util.umount(on)


@temporary
def test_defining_is_no_use(mnt, place):
    real = f"{place}/real"
    write(real, b"x" * PAGE)
    with opened(mnt / "a", os.O_CREAT | os.O_RDWR) as fd:
        set_keys(mnt / "a", file=real)
        time.sleep(0.1)
        assert os.fstat(fd).st_size in (0, PAGE)
        with opened(mnt / "a") as again:
            assert os.pread(again, 9, 0) == b"x" * 9
    gone(mnt / "a")


def test_a_temporary_base_outlives_its_name(mnt):
    make(mnt / "base", size=2 * PAGE)
    write_ = os.open(mnt / "base", os.O_RDWR)
    write_all(write_, b"b" * (2 * PAGE))
    set_keys(mnt / "base", lifetime="temporary")
    make(mnt / "copy", base="base")
    os.close(write_)
    gone(mnt / "base")
    assert os.stat(mnt / "copy").st_size == 2 * PAGE
    assert read(mnt / "copy") == b"b" * (2 * PAGE)


@pytest.mark.options("resize=fixed")
def test_an_open_that_is_refused_is_no_use(mnt):
    make(mnt / "a", size=PAGE, lifetime="temporary")
    with refused(errno.EPERM):
        os.open(mnt / "a", os.O_WRONLY | os.O_TRUNC)
    time.sleep(0.2)
    assert os.path.exists(mnt / "a")


@pytest.mark.parametrize("limit", [PAGE])
def test_no_memory_beyond_the_limit(mnt, limit):
    make(mnt / "a", size=PAGE, limit=limit)
    with opened(mnt / "a") as fd, refused(errno.EFBIG):
        fallocate(fd, 1, 0, 64 * PAGE)
    assert os.stat(mnt / "a").st_blocks * 512 <= limit


def test_what_it_is_opened_for_is_what_it_becomes(mnt, new_mount, place, user):
    """A file that the user may only read, and a section that becomes writable while it is opened."""
    real = f"{place}/real"
    write(real, b"theirs")
    os.chmod(real, 0o644)
    os.chmod(mnt.path, 0o1777)
    slow = new_mount("cached", "allow_other")
    os.symlink(place, slow / "way")
    x = mnt / "x"
    child, setter = Child(user=user), Child(user=user)
    child.do("fd = os.open(x, os.O_CREAT | os.O_RDWR)", x=x)
    child.do("os.setxattr(x, 'user.section.protect', b'writecopy')")
    path = f"{slow.path}/way/real"
    worker = mnt.stats()["worker_pid"]
    with slow.stopped():
        setter.begin("os.setxattr(x, 'user.section.file', path.encode())", x=x, path=path)
        eventually(lambda: any(read(f"/proc/{worker}/task/{thread}/syscall").startswith(b"437 ")
                               for thread in os.listdir(f"/proc/{worker}/task")))      # openat2
        child.do("os.setxattr(fd, 'user.section.protect', b'readwrite')")
    with refused(errno.EBUSY):
        setter.finish()
    child.do("os.close(fd)")
    child.do("fd = os.open(x, os.O_RDWR); os.pwrite(fd, b'mine!!', 0)")
    assert read(real) == b"theirs"


def test_setting_and_unlinking_at_once(mnt):
    """The kernel holds the section's lock while it is set, and the directory's and then the
    section's while it is unlinked; telling it to forget a name takes the directory's."""
    os.mkdir(mnt / "d")
    path = mnt / "d/x"
    end = time.monotonic() + 3

    def setter():
        n = 0
        while time.monotonic() < end:
            try:
                os.setxattr(path, "user.section.protect", b"readonly" if n % 2 else b"readwrite")
            except OSError:
                pass
            n += 1

    def unlinker():
        while time.monotonic() < end:
            try:
                os.mknod(path, 0o100644)
            except OSError:
                pass
            try:
                os.unlink(path)
            except OSError:
                pass
    children = []
    for code in (setter, setter, unlinker):
        pid = os.fork()
        if pid == 0:
            code()
            os._exit(0)
        children.append(pid)
    left = set(children)
    limit = time.monotonic() + 10
    while left and time.monotonic() < limit:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                left.discard(pid)
        time.sleep(0.05)
    stuck = {pid: read(f"/proc/{pid}/stack") for pid in left}
    assert not stuck, stuck


@pytest.fixture
def short_queue():
    name = "/proc/sys/fs/inotify/max_queued_events"
    old = read(name)
    write(name, b"8")
    yield
    write(name, old)


@pytest.mark.modes("passthrough")
def test_many_ends_at_once(short_queue, new_mount):
    mnt = new_mount("passthrough")
    child = Child()
    child.do("""
keep = []
for i in range(100):
    fd = os.open(f"{root}/{i}", os.O_CREAT | os.O_RDWR)
    os.setxattr(f"{root}/{i}", "user.section.lifetime", b"temporary")
    os.ftruncate(fd, PAGE)
    keep.append(View(fd, PAGE))
    os.close(fd)
""", root=str(mnt.path))
    time.sleep(0.5)
    assert len(os.listdir(mnt.path)) == 100
    time.sleep(5)        # it looks for itself for a while
    with mnt.stopped():
        child.kill()
    eventually(lambda: os.listdir(mnt.path) == [], 20)


def test_committed_memory_has_no_holes_whoever_resizes(mnt):
    make(mnt / "a", size=MIB, commit="commit")
    end = time.monotonic() + 1
    children = []
    for sizes in ((8 * MIB, MIB), (16 * MIB, 3 * MIB)):
        child = Child()
        child.do("fd = os.open(path, os.O_RDWR)", path=mnt / "a")
        child.begin("""
while time.monotonic() < end:
    for size in sizes:
        os.ftruncate(fd, size)
        st = os.fstat(fd)
""", end=end, sizes=sizes)
        children.append(child)
    for child in children:
        child.finish()
    rounds = 0
    for _ in range(200):
        for child, sizes in zip(children, ((16 * MIB,), (MIB,))):
            child.begin("os.ftruncate(fd, size)", size=sizes[0])
        for child in children:
            child.finish()
        st = os.stat(mnt / "a")
        assert st.st_blocks * 512 >= st.st_size, rounds
        rounds += 1


def cached_pages(fd):
    """Of a file: in memory, and of these dirty or on their way to the disk."""
    libc = ctypes.CDLL(None, use_errno=True)
    what, result = (ctypes.c_uint64 * 2)(0, 0), (ctypes.c_uint64 * 5)()
    if libc.syscall(451, fd, what, result, 0) != 0:
        pytest.skip("the kernel has no cachestat")
    return result[0], result[1] + result[2]


@pytest.mark.parametrize("flag", [os.O_DSYNC, os.O_SYNC])
def test_what_is_written_through_a_window_is_on_the_disk_if_asked_for(mnt, place, flag):
    real = f"{place}/real"
    write(real, pattern(1, 8 * PAGE))
    with opened(real) as file:
        os.fsync(file)
        os.pwrite(file, b"x" * PAGE, 0)
        if cached_pages(file)[1] == 0:
            pytest.skip("this file system does not say what is not written yet")
        os.fsync(file)
        make(mnt / "a", offset=PAGE, length=4 * PAGE, file=real)
        with opened(mnt / "a", os.O_RDWR | flag) as fd:
            os.pwrite(fd, b"y" * PAGE, PAGE)
        assert cached_pages(file)[1] == 0


def test_a_long_lock_on_a_window(mnt, place):
    real = f"{place}/real"
    write(real, pattern(1, 8 * PAGE))
    make(mnt / "a", offset=PAGE, length=4 * PAGE, file=real)
    with opened(mnt / "a") as fd:
        for start, length in ((0, 2**63 - 1), (PAGE, 2**63 - 1 - PAGE), (1, 2**62)):
            fcntl.lockf(fd, fcntl.LOCK_EX, length, start)
            fcntl.lockf(fd, fcntl.LOCK_UN, length, start)


@pytest.mark.modes("passthrough")
def test_a_file_that_others_close_often(mnt, place):
    real = f"{place}/real"
    write(real, pattern(1, 8 * PAGE))
    make(mnt / "a", file=real, lifetime="temporary")
    with opened(mnt / "a") as fd:
        view = View(fd, PAGE)
    for _ in range(5000):
        os.close(os.open(real, os.O_RDONLY))
    view.close()
    gone(mnt / "a", 10)


@pytest.mark.options("resize=grow")
def test_what_is_opened_while_it_is_looked_through_is_not_cut_off(mnt):
    make(mnt / "a", size=16 * PAGE)
    end = time.monotonic() + 2
    user, cutter = Child(), Child()
    cutter.begin("""
while time.monotonic() < end:
    for size in (PAGE, 16 * PAGE):
        try:
            os.truncate(path, size)
        except OSError:
            pass
""", path=mnt / "a", end=end)
    user.begin("""
while time.monotonic() < end:
    fd = os.open(path, os.O_RDWR)
    # In what the kernel has of the other's truncations it may be behind; lseek tells what it has.
    size = min(int(os.getxattr(fd, "user.section.size")), os.lseek(fd, 0, os.SEEK_END))
    view = View(fd, size)
    view.read(size - 1, 1)
    time.sleep(0.002)
    view.read(size - 1, 1)
    view.close()
    os.close(fd)
    time.sleep(0.001)
""", path=mnt / "a", end=end)
    cutter.finish()
    user.finish()


def test_bases_above_each_other(mnt):
    make(mnt / "0", size=PAGE)
    for i in range(1, 41):
        make(mnt / str(i), base=str(i - 1))
    assert os.stat(mnt / "40").st_size == PAGE
    with refused(errno.ELOOP):
        make(mnt / "41", base="40")
    # from below as well
    make(mnt / "low")
    make(mnt / "b0", base="low")
    for i in range(1, 30):
        make(mnt / f"b{i}", base=f"b{i - 1}")
    with refused(errno.ELOOP):
        set_keys(mnt / "low", base="20")
    set_keys(mnt / "low", base="5")
    assert os.stat(mnt / "b29").st_size == PAGE


@pytest.mark.parametrize("protect", ["readonly", "writecopy"])
def test_a_list_with_memory_that_is_protected(new_mount, place, protect):
    write(f"{place}/list", f"[x]\nprotect={protect}\nsize=1M\ncommit=commit\n".encode())
    mnt = new_mount("cached", f"sections={place}/list")
    assert os.stat(mnt / "x").st_size == MIB
    assert key(mnt / "x", "protect") == protect
