# SPDX-License-Identifier: MIT
"""Page-file-backed sections: files whose bytes live in memory and swap alone."""

import errno
import fcntl
import hashlib
import mmap
import os
import shutil
import signal
import sqlite3
import subprocess
import threading

import pytest

from util import (GIB, KIB, MADV_PAGEOUT, MIB, PAGE, TIB, ChildDied, View, eventually,
                  fallocate, mapped, meminfo, opened, pattern, punch, read, refused, run, write,
                  write_all)

posix = pytest.mark.posix
every_mode = pytest.mark.modes("passthrough", "cached", "user")


# --- Creating, growing, shrinking -----------------------------------------------------------------

@posix
@every_mode
def test_open_creates_an_empty_section(mnt):
    def body():
        fd = os.open(mnt / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640)
        status = os.fstat(fd)
        assert (status.st_size, status.st_nlink, status.st_mode & 0o7777) == (0, 1, 0o640)
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert os.read(fd, 10) == b""
        os.close(fd)
        assert os.listdir(mnt.path) == ["x"]
    mnt.run(body)


@posix
@every_mode
def test_absent_name_and_existing_name(mnt):
    def body():
        with refused(errno.ENOENT):
            os.open(mnt / "x", os.O_RDWR)
        write(mnt / "x", b"data")
        with refused(errno.EEXIST):
            os.open(mnt / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR)
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            assert os.read(fd, 10) == b"data"
        with refused(errno.ENOENT):         # names are case-sensitive
            os.open(mnt / "X", os.O_RDWR)
    mnt.run(body)


@posix
@every_mode
def test_what_is_written_is_read_back(mnt):
    def body():
        data = pattern("all", 3 * MIB + 123)
        write(mnt / "x", data)
        assert read(mnt / "x") == data
        assert os.stat(mnt / "x").st_size == len(data)
        with opened(mnt / "x") as fd:
            os.pwrite(fd, b"middle", MIB + 7)
            assert os.pread(fd, 8, MIB + 6) == data[MIB + 6:MIB + 7] + b"middle" + \
                data[MIB + 13:MIB + 14]
            assert os.pread(fd, 100, len(data) - 10) == data[-10:]
            assert os.pread(fd, 100, len(data)) == b""
    mnt.run(body)


@posix
@every_mode
def test_truncate_grows_with_zeroes(mnt):
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, 64 * KIB)
        assert read(mnt / "x") == bytes(64 * KIB)
        os.truncate(mnt / "x", MIB)
        assert os.stat(mnt / "x").st_size == MIB
        with opened(mnt / "x") as fd:
            view = mapped(fd, MIB)
            assert view[:] == bytes(MIB)
            view.close()
    mnt.run(body)


@posix
@every_mode
def test_shrunk_bytes_do_not_come_back(mnt):
    def body():
        write(mnt / "x", b"x" * 10000)
        os.truncate(mnt / "x", 5000)
        assert read(mnt / "x") == b"x" * 5000
        os.truncate(mnt / "x", 10000)
        assert read(mnt / "x") == b"x" * 5000 + bytes(5000)
    mnt.run(body)


@posix
def test_open_with_o_trunc_empties(mnt):
    write(mnt / "x", b"x" * 10000)
    with opened(mnt / "x", os.O_RDWR | os.O_TRUNC) as fd:
        assert os.fstat(fd).st_size == 0
        os.pwrite(fd, b"y", 5000)
        assert os.pread(fd, 10000, 0) == bytes(5000) + b"y"


@posix
def test_write_beyond_the_end_leaves_a_hole_of_zeroes(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"end", 1_000_000)
        assert os.fstat(fd).st_size == 1_000_003
        assert os.pread(fd, 1_000_003, 0) == bytes(1_000_000) + b"end"


@posix
def test_cp_brings_a_file_in_and_out(mnt, place):
    data = pattern("file", 2 * MIB + 1)
    write(f"{place}/in", data)
    run("cp", f"{place}/in", mnt / "x")
    run("cp", mnt / "x", f"{place}/out")
    assert read(mnt / "x") == data
    assert read(f"{place}/out") == data


@posix
@every_mode
def test_section_unlinked_while_open_lives_to_the_last_close(mnt):
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, b"before")
            os.unlink(mnt / "x")
            assert os.listdir(mnt.path) == []
            with refused(errno.ENOENT):
                os.stat(mnt / "x")
            assert os.fstat(fd).st_nlink == 0
            os.write(fd, b" and after")
            assert os.pread(fd, 100, 0) == b"before and after"
            os.ftruncate(fd, 3)
            assert os.pread(fd, 100, 0) == b"bef"
            write(mnt / "x", b"another")        # a fresh section under the same name
            assert os.pread(fd, 100, 0) == b"bef"
        assert read(mnt / "x") == b"another"
    mnt.run(body)


@posix
@pytest.mark.parametrize("size", [GIB, TIB, 8 * TIB])
def test_any_size_costs_nothing_until_it_is_touched(mnt, size):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, size)
        assert os.fstat(fd).st_size == size
        assert os.fstat(fd).st_blocks == 0
        os.pwrite(fd, b"last", size - 4)
        assert os.pread(fd, 100, size - 100) == bytes(96) + b"last"
        assert os.pread(fd, PAGE, size // 2) == bytes(PAGE)
        assert os.fstat(fd).st_blocks * 512 <= 4 * MIB      # a huge page at most
        view = mapped(fd, PAGE, offset=size - PAGE)
        assert view[-4:] == b"last"
        view[0:4] = b"frst"
        view.close()
        assert os.pread(fd, 4, size - PAGE) == b"frst"


@posix
def test_size_that_nothing_can_have_is_refused(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        with refused(errno.EINVAL):
            os.ftruncate(fd, -1)
        os.pwrite(fd, b"data", 0)
        assert os.pread(fd, 10, 0) == b"data"


# --- Reading, writing, mapping --------------------------------------------------------------------

@posix
def test_write_read_and_mapping_agree_at_once(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd, opened(mnt / "x") as second:
        os.ftruncate(fd, 16 * PAGE)
        view, other = mapped(fd, 16 * PAGE), mapped(second, 16 * PAGE)
        for page in range(16):
            data = pattern(("written", page), 100)
            os.pwrite(fd, data, page * PAGE + 50)
            assert view[page * PAGE + 50:page * PAGE + 150] == data
            assert other[page * PAGE + 50:page * PAGE + 150] == data
            data = pattern(("stored", page), 100)
            view[page * PAGE + 2000:page * PAGE + 2100] = data
            assert os.pread(second, 100, page * PAGE + 2000) == data
            assert other[page * PAGE + 2000:page * PAGE + 2100] == data
        view.flush()
        view.close()
        other.close()
    assert read(mnt / "x")[50:150] == pattern(("written", 0), 100)


@posix
@every_mode
def test_mapped_stores_survive_close_and_reopen(mnt):
    def body():
        data = pattern("stored", 3 * PAGE + 5)
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, len(data))
            view = mapped(fd, len(data))
            view[:] = data
            view.close()
        assert read(mnt / "x") == data
    mnt.run(body)


@posix
def test_private_mapping_never_reaches_the_section(mnt):
    write(mnt / "x", b"shared" * 1000)
    with opened(mnt / "x") as fd:
        view = mapped(fd, 6000, mmap.MAP_PRIVATE)
        view[:6] = b"mine!!"
        assert view[:6] == b"mine!!"
        assert os.pread(fd, 6, 0) == b"shared"
        os.pwrite(fd, b"SHARED", 4200)          # a page the view has not touched
        view.close()
    assert read(mnt / "x")[:6] == b"shared"


@posix
def test_open_mode_caps_what_a_mapping_may_do(mnt):
    write(mnt / "x", bytes(PAGE))
    rw, ro = mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_READ
    with opened(mnt / "x", os.O_RDONLY) as fd:
        mapped(fd, PAGE, prot=ro).close()
        mapped(fd, PAGE, mmap.MAP_PRIVATE, prot=rw).close()
        with refused(errno.EACCES):
            mapped(fd, PAGE, prot=rw)
        with refused(errno.EBADF):
            os.write(fd, b"x")
    with opened(mnt / "x", os.O_WRONLY) as fd:
        with refused(errno.EACCES):
            mapped(fd, PAGE, prot=ro)
        with refused(errno.EBADF):
            os.read(fd, 1)


@posix
def test_touching_a_mapping_beyond_the_end_is_sigbus(mnt):
    write(mnt / "x", bytes(PAGE))
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, 2 * PAGE)", path=mnt / "x")
    assert child.get("view.read(PAGE - 1, 1)") == b"\0"
    with pytest.raises(ChildDied) as died:
        child.get("view.read(PAGE, 1)")
    assert died.value.status == -signal.SIGBUS


@posix
def test_mapping_follows_the_section_as_it_grows(mnt):
    """A page beyond the end becomes usable as soon as anybody makes the section large enough."""
    write(mnt / "x", bytes(PAGE))
    with opened(mnt / "x") as fd:
        view = View(fd, 4 * PAGE)
        os.truncate(mnt / "x", 4 * PAGE)
        view.write(3 * PAGE, b"\7")
        assert os.pread(fd, 1, 3 * PAGE) == b"\7"
        view.close()


@posix
def test_shrinking_reaches_into_existing_mappings(mnt):
    write(mnt / "x", b"x" * 4 * PAGE)
    with opened(mnt / "x") as fd:
        view = mapped(fd, 4 * PAGE)
        assert view[PAGE] == ord("x")
        os.ftruncate(fd, 100)
        os.ftruncate(fd, 4 * PAGE)
        assert view[:100] == b"x" * 100
        assert view[100:] == bytes(4 * PAGE - 100)
        view.close()


@posix
def test_appends_of_several_processes_do_not_overwrite_each_other(mnt):
    write(mnt / "log", b"")
    children = [mnt.child() for _ in range(4)]
    for number, child in enumerate(children):
        child.begin("fd = os.open(path, os.O_WRONLY | os.O_APPEND)\n"
                    "for line in range(200): os.write(fd, b'%d:%03d\\n' % (number, line))",
                    path=mnt / "log", number=number)
    for child in children:
        child.finish()
    lines = read(mnt / "log").split()
    assert sorted(lines) == [b"%d:%03d" % (n, i) for n in range(4) for i in range(200)]
    for number in range(4):         # and each one's own are in order
        own = [line for line in lines if line.startswith(b"%d:" % number)]
        assert own == sorted(own)


@posix
def test_holes_are_found_and_punched(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 64 * MIB)
        with refused(errno.ENXIO):
            os.lseek(fd, 0, os.SEEK_DATA)
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
        os.pwrite(fd, b"x" * 4 * MIB, 16 * MIB)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 16 * MIB
        assert os.lseek(fd, 16 * MIB, os.SEEK_HOLE) == 20 * MIB
        before = os.fstat(fd).st_blocks
        punch(fd, 16 * MIB, 2 * MIB)
        assert os.pread(fd, 2 * MIB + 1, 16 * MIB) == bytes(2 * MIB) + b"x"
        assert os.lseek(fd, 0, os.SEEK_DATA) == 18 * MIB
        assert os.fstat(fd).st_blocks == before - 2 * MIB // 512
        assert os.fstat(fd).st_size == 64 * MIB


@posix
def test_fallocate_allocates_and_grows(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.posix_fallocate(fd, 0, MIB)
        assert os.fstat(fd).st_size == MIB
        assert os.fstat(fd).st_blocks * 512 >= MIB
        assert os.pread(fd, MIB, 0) == bytes(MIB)
        fallocate(fd, 1, MIB, MIB)              # FALLOC_FL_KEEP_SIZE
        assert os.fstat(fd).st_size == MIB


@posix
def test_times_follow_changes(mnt):
    write(mnt / "x", b"data")
    os.utime(mnt / "x", ns=(1_000_000_000_123_456_789, 1_100_000_000_987_654_321))
    status = os.stat(mnt / "x")
    assert status.st_atime_ns == 1_000_000_000_123_456_789
    assert status.st_mtime_ns == 1_100_000_000_987_654_321
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"new", 0)
        assert os.fstat(fd).st_mtime_ns > 1_600_000_000_000_000_000
    assert os.stat(mnt / "x").st_mtime_ns > 1_600_000_000_000_000_000
    os.utime(mnt / "x", ns=(0, 0))
    os.truncate(mnt / "x", 2)
    assert os.stat(mnt / "x").st_mtime_ns > 1_600_000_000_000_000_000
    before = os.stat(mnt / "x")
    os.chmod(mnt / "x", 0o600)
    after = os.stat(mnt / "x")
    assert after.st_mtime_ns == before.st_mtime_ns
    assert after.st_ctime_ns > before.st_ctime_ns


def assert_reading_moves_the_access_time(path, does, flags=os.O_RDONLY):
    with opened(path, os.O_RDWR) as fd:
        os.utime(fd, ns=(10**18, 2 * 10**18))
        with opened(f"/proc/self/fd/{fd}", flags) as again:     # a view, too, is the same one then
            os.posix_fadvise(again, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.read(again, 10) == b"bytes"
        assert (os.fstat(fd).st_atime_ns != 10**18) == does


@pytest.fixture
def three(mnt, place):
    """A section of each kind and a window, with the same bytes, in the tree and under .cow."""
    write(mnt / "page", b"bytes")
    for name in "file", "window":
        write(f"{place}/{name}", b"bytes")
        with opened(mnt / name, os.O_CREAT | os.O_RDWR) as fd:
            if name == "window":
                write(f"{place}/{name}", bytes(PAGE) + b"bytes")
                os.setxattr(fd, "user.section.offset", b"%d" % PAGE)
            os.setxattr(fd, "user.section.file", f"{place}/{name}".encode())
    names = "page", "file", "window"
    return {**{name: mnt / name for name in names}, **{f"view of {name}": mnt.cow(name) for name in names}}


def test_reading_moves_the_access_time_but_with_o_noatime(three):
    for path in three.values():
        assert_reading_moves_the_access_time(path, True)
        assert_reading_moves_the_access_time(path, False, os.O_RDONLY | os.O_NOATIME)


@pytest.mark.options("noatime")
def test_on_a_mount_without_access_times(mnt, three):
    for name, path in three.items():
        # With passthrough the real file's own filesystem decides.
        assert_reading_moves_the_access_time(path, mnt.mode == "passthrough" and name == "file")


@posix
def test_time_set_while_open_is_not_overwritten_by_close(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.write(fd, b"data")
        os.utime(fd, ns=(5_000_000_000, 6_000_000_000))
    assert os.stat(mnt / "x").st_mtime_ns == 6_000_000_000


@posix
@every_mode
def test_sync_calls_succeed(mnt):
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            os.write(fd, b"data")
            os.fsync(fd)
            os.fdatasync(fd)
            view = mapped(fd, 4)
            view.flush()
            view.close()
        directory = os.open(mnt.path, os.O_RDONLY | os.O_DIRECTORY)
        os.fsync(directory)
        os.close(directory)
    mnt.run(body)


@posix
def test_copy_file_range_and_sendfile(mnt, place):
    data = pattern("copied", MIB + 17)
    write(mnt / "a", data)
    write(f"{place}/outside", data)
    with opened(mnt / "a") as a, opened(mnt / "b", os.O_CREAT | os.O_RDWR) as b, \
            opened(mnt / "c", os.O_CREAT | os.O_RDWR) as c:
        done = 0
        while done < len(data):
            count = os.copy_file_range(a, b, len(data) - done, done, done)
            assert count > 0
            done += count
        done = 0
        while done < len(data):
            count = os.sendfile(c, a, done, len(data) - done)
            assert count > 0
            done += count
    assert read(mnt / "b") == data
    assert read(mnt / "c") == data


@posix
def test_vectored_io(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        parts = [pattern(n, 3000 + n) for n in range(20)]
        assert os.pwritev(fd, parts, 5) == sum(map(len, parts))
        buffers = [bytearray(len(part)) for part in parts]
        assert os.preadv(fd, buffers, 5) == sum(map(len, parts))
        assert list(map(bytes, buffers)) == parts


@posix
def test_locks_hold_between_processes(mnt):
    write(mnt / "x", b"data")
    child = mnt.child()
    child.do("import fcntl; fd = os.open(path, os.O_RDWR)", path=mnt / "x")
    with opened(mnt / "x") as fd:
        for lock, unlock in (("flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)", "flock(fd, fcntl.LOCK_UN)"),
                             ("lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2, 1)",
                              "lockf(fd, fcntl.LOCK_UN, 2, 1)")):
            child.do("fcntl." + lock)
            with refused(errno.EAGAIN, errno.EACCES):
                eval("fcntl." + lock, {"fcntl": fcntl, "fd": fd})
            child.do("fcntl." + unlock)
            eval("fcntl." + lock, {"fcntl": fcntl, "fd": fd})
            eval("fcntl." + unlock, {"fcntl": fcntl, "fd": fd})


@posix
def test_program_runs_from_the_mount(mnt):
    run("cp", "/bin/echo", mnt / "echo")
    os.chmod(mnt / "echo", 0o755)
    assert run(mnt / "echo", "it runs").stdout == "it runs\n"
    write(mnt / "script", b"#!/bin/sh\necho $1\n")
    os.chmod(mnt / "script", 0o755)
    assert run(mnt / "script", "too").stdout == "too\n"


@posix
def test_running_program_cannot_be_written(mnt):
    run("cp", "/bin/sleep", mnt / "sleep")
    os.chmod(mnt / "sleep", 0o755)
    process = subprocess.Popen([mnt / "sleep", "60"])
    try:
        with refused(errno.ETXTBSY):
            os.open(mnt / "sleep", os.O_WRONLY)
    finally:
        process.kill()
        process.wait()


@posix
@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_sqlite_database_lives_on_the_mount(mnt, journal):
    """Shared mappings, locks, truncation and renames in the way a real program uses them."""
    database = mnt / "data.db"
    connection = sqlite3.connect(database)
    assert connection.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
    connection.execute("pragma mmap_size=1000000")
    connection.execute("create table t (n integer primary key, text text)")
    connection.commit()
    connection.close()

    children = [mnt.child() for _ in range(3)]
    for number, child in enumerate(children):
        child.begin("import sqlite3\n"
                    "c = sqlite3.connect(database, timeout=30)\n"
                    "for i in range(100):\n"
                    "    with c: c.execute('insert into t values (?, ?)', (number * 1000 + i, 'x' * i))\n"
                    "c.close()", database=database, number=number)
    for child in children:
        child.finish()
    connection = sqlite3.connect(database)
    assert connection.execute("select count(*), sum(length(text)) from t").fetchone() == (300, 14850)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    connection.close()


@posix
def test_many_threads_on_one_section(mnt):
    write(mnt / "x", bytes(64 * PAGE))
    problems = []

    def work(number):
        try:
            with opened(mnt / "x") as fd:
                for turn in range(50):
                    data = pattern((number, turn))
                    os.pwrite(fd, data, number * PAGE)
                    if os.pread(fd, PAGE, number * PAGE) != data:
                        problems.append((number, turn))
        except OSError as error:
            problems.append(error)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


# --- Shared by processes --------------------------------------------------------------------------

PING_PONG = """
view = mapped(fd, size)
for turn in range(1, 1001):
    while view[mine] != turn % 251: pass
    view[theirs] = turn % 251
"""


@posix
@every_mode
def test_two_processes_see_each_others_stores_without_a_system_call(mnt):
    """Both map the section by its name; from then on they talk through memory alone, and the
    daemon is not asked for anything: the READ and WRITE counters stay where they are."""
    one, two = mnt.child(), mnt.child()
    for child in one, two:
        child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600); size = 2 * PAGE\n"
                 "os.ftruncate(fd, size)", path=mnt / "x")
    one.do("first = mapped(fd, size); first[0] = first[PAGE] = 0")
    if mnt.mode == "passthrough":
        before = mnt.stats()
    one.begin("mine, theirs = 0, PAGE\n" + PING_PONG)
    two.do("view = mapped(fd, size); view[0] = 1\n"
           "for turn in range(1, 1001):\n"
           "    while view[PAGE] != turn % 251: pass\n"
           "    view[0] = (turn + 1) % 251")
    one.finish()
    if mnt.mode == "passthrough":
        after = mnt.stats()
        assert after["requests_read"] == before["requests_read"]
        assert after["requests_write"] == before["requests_write"]


@pytest.mark.modes("passthrough")
def test_passthrough_io_never_reaches_the_daemon(mnt):
    """READ and WRITE counters stay 0 through writing, reading and mapping a page section."""
    data = pattern("bulk", 8 * MIB)
    write(mnt / "x", data)
    assert read(mnt / "x") == data
    with opened(mnt / "x") as fd:
        view = mapped(fd, len(data))
        assert hashlib.sha256(view).digest() == hashlib.sha256(data).digest()
        view[:] = data[::-1]
        view.flush()
        view.close()
    assert read(mnt / "x") == data[::-1]
    figures = mnt.stats()
    assert (figures["requests_read"], figures["requests_write"]) == (0, 0)


@pytest.mark.alone
@pytest.mark.modes("passthrough")
def test_two_mappings_cost_the_memory_once(mnt):
    """Shmem of the whole machine grows by the section's size once, not twice; READ, WRITE stay 0."""
    size = 64 * MIB
    children = [mnt.child(), mnt.child()]
    before = meminfo("Shmem")
    for child in children:
        child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600); os.ftruncate(fd, size)\n"
                 "view = mapped(fd, size)", path=mnt / "x", size=size)
    for number, child in enumerate(children):
        child.do("for page in range(0, size, PAGE): view[page + number] = 7", number=number)
    growth = meminfo("Shmem") - before
    assert size <= growth + 4 * MIB
    assert growth < 1.5 * size
    assert children[0].get("sum(view[::PAGE]) == sum(view[1::PAGE]) == 7 * size // PAGE")
    figures = mnt.stats()
    assert (figures["requests_read"], figures["requests_write"]) == (0, 0)
    used = figures["size_used"]
    assert size <= used < 1.5 * size
    for child in children:
        child.kill()
    os.unlink(mnt / "x")
    eventually(lambda: meminfo("Shmem") - before < size / 2)


@pytest.fixture
def swap(place):
    """A swap file that exists for this test alone. Returns a function: bytes it holds now."""
    path = f"{place}/swap"
    with opened(path, os.O_CREAT | os.O_RDWR, 0o600) as fd:
        os.posix_fallocate(fd, 0, 256 * MIB)

    def used():
        with open("/proc/swaps") as file:
            for line in file:
                if line.split()[0] == path:
                    return int(line.split()[3]) * KIB
        raise AssertionError("the swap file is not in use")
    run("mkswap", path)
    result = run("swapon", "-p", "32767", path, ok=False)
    if result.returncode != 0:
        pytest.skip(f"no swap here: {result.stderr.strip()}")
    try:
        yield used
    finally:
        run("swapoff", path)
        os.unlink(path)


def test_128_mib_go_out_to_swap_and_come_back_intact(mnt, swap):
    """Written through a mapping, pushed out with MADV_PAGEOUT onto a swap file made for this."""
    size = 128 * MIB
    child = mnt.child()
    child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600); os.ftruncate(fd, size)\n"
             "view = mapped(fd, size)\n"
             "for at in range(0, size, MIB): view[at:at + MIB] = pattern(at, MIB)",
             path=mnt / "x", size=size)
    if mnt.mode == "cached":
        child.do("view.flush()")            # else there is nothing that could be dropped
    child.do(f"view.madvise({MADV_PAGEOUT})")
    if mnt.mode == "passthrough":
        assert swap() >= size / 2
    child.do("for at in range(0, size, MIB): assert view[at:at + MIB] == pattern(at, MIB), at")
    child.do("view.close()")
    digest = hashlib.sha256()
    for at in range(0, size, MIB):
        digest.update(pattern(at, MIB))
    found = hashlib.sha256()
    with open(mnt / "x", "rb") as file:
        while chunk := file.read(MIB):
            found.update(chunk)
    assert found.digest() == digest.digest()


# --- The store's limit ----------------------------------------------------------------------------

@pytest.mark.options("size=32M")
@every_mode
def test_write_past_the_limit_is_enospc(mnt):
    """In passthrough mode too, where the daemon sees no write. What was written before is kept."""
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
            done = 0
            with refused(errno.ENOSPC):
                while done < 48 * MIB:
                    done += os.write(fd, pattern(done // MIB, MIB) if done % MIB == 0 else b"tail")
            assert 30 * MIB <= done <= 32 * MIB
            for at in range(0, done // MIB):
                assert os.pread(fd, MIB, at * MIB) == pattern(at, MIB)
            with refused(errno.ENOSPC):
                os.posix_fallocate(fd, 40 * MIB, 4 * MIB)
            os.pwrite(fd, b"overwriting", 0)        # needs no new memory
    mnt.run(body)


@pytest.mark.options("size=32M")
@every_mode
def test_statvfs_and_df_show_the_limit(mnt):
    def body():
        before = os.statvfs(mnt.path)
        assert before.f_blocks * before.f_frsize == 32 * MIB
        assert before.f_bavail * before.f_frsize >= 31 * MIB
        assert before.f_namemax == 255
        write(mnt / "x", bytes(8 * MIB))
        after = os.statvfs(mnt.path)
        used = (before.f_bfree - after.f_bfree) * after.f_frsize
        assert 8 * MIB <= used <= 9 * MIB
        assert after.f_ffree < before.f_ffree
    mnt.run(body)
    line = mnt.tool("df", "-k", "--output=source,size,used", mnt.path).stdout.splitlines()[1].split()
    assert line[0] == "sectionfs"
    assert int(line[1]) == 32 * 1024
    assert 8 * 1024 <= int(line[2]) <= 9 * 1024


@pytest.mark.options("size=32M")
@every_mode
def test_deleted_and_punched_and_truncated_bytes_are_free_again(mnt):
    def body():
        for turn in range(6):
            with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
                def fill():     # what was freed last may not be accounted yet
                    try:
                        write_all(fd, bytes(24 * MIB))
                        return True
                    except OSError as error:
                        assert error.errno == errno.ENOSPC
                        os.lseek(fd, 0, os.SEEK_SET)
                        return False
                eventually(fill)
                if turn % 3 == 0:
                    os.ftruncate(fd, 0)
                elif turn % 3 == 1:
                    punch(fd, 0, 24 * MIB)
            if turn % 3 == 2:
                os.unlink(mnt / "x")
    mnt.run(body)


@pytest.mark.options("size=32M")
def test_space_of_an_unlinked_section_is_free_after_its_last_close(mnt):
    before = mnt.stats()
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        write_all(fd, bytes(24 * MIB))
        os.unlink(mnt / "x")
        assert mnt.stats()["size_used"] >= 24 * MIB
    mnt.settled(before)


@pytest.mark.options("size=32M")
def test_sparse_size_may_be_beyond_the_limit(mnt):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, GIB)
        os.pwrite(fd, b"data", GIB - 4)
        assert os.pread(fd, 4, GIB - 4) == b"data"
    assert mnt.stats()["size_used"] <= 4 * MIB


@pytest.mark.options("size=32M")
def test_many_small_sections_count_against_the_limit_together(mnt):
    with refused(errno.ENOSPC):
        for number in range(40):
            write(mnt / f"x{number}", bytes(MIB))
    assert 30 <= number <= 32


def test_thousand_sections_come_and_go(mnt):
    before = mnt.stats()
    for number in range(1000):
        write(mnt / f"x{number}", b"%d" % number)
    assert mnt.stats()["sections"] == before["sections"] + 1000
    for number in range(0, 1000, 97):
        assert read(mnt / f"x{number}") == b"%d" % number
    shutil.rmtree(mnt.path, ignore_errors=True)         # the root itself stays: it is mounted
    assert os.listdir(mnt.path) == []
    mnt.settled(before)
