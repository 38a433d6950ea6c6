# SPDX-License-Identifier: MIT
"""Temporary sections: gone with their last handle and their last mapping, however those end; not a
moment earlier; and nothing of them is left."""

import errno
import mmap
import os
import random
import stat
import struct
import subprocess
import time
import traceback

import pytest

from sections import key, make, set_keys, unused
from util import (MIB, PAGE, RENAME_EXCHANGE, Child, ChildDied, View, eventually, link_fd, opened,
                  pattern, read, refused, renameat2, write, write_all)

LONG = os.environ.get("SECTIONFS_TEST_LONG", "0") not in ("", "0")
every_mode = pytest.mark.modes("passthrough", "cached", "user")
both_kinds = pytest.mark.parametrize("kind", ["page", "file"])
temporary = pytest.mark.options("lifetime=temporary")


def there(mnt, path):
    return mnt.run(os.path.lexists, path) if mnt.user else os.path.lexists(path)


def stays(mnt, *paths):
    """That they are there, and still are once the daemon has had time to hear of everything."""
    for wait in (0, 0.05):
        time.sleep(wait)
        mnt.stats()
        assert [path for path in paths if not there(mnt, path)] == []


def vanishes(mnt, path):
    eventually(lambda: not there(mnt, path), 15, f"{path} is still there")


@pytest.fixture
def subject(mnt, place):
    """Makes a temporary section of a kind that waits for its first opener: (path, data)."""
    def make_subject(kind, name="x", size=4 * PAGE):
        data = pattern((kind, name), size)
        path = mnt / name
        if kind == "file":
            real = f"{place}/of-{name}"
            write(real, data)
            if mnt.user:
                os.chown(real, mnt.user.uid, mnt.user.gid)
            mnt.run(lambda: make(path, file=real, lifetime="temporary") and None)
        else:
            def body():
                make(path, size=size, lifetime="permanent")
                with opened(path) as fd:
                    write_all(fd, data)
                unused(path)
                set_keys(path, lifetime="temporary")
            mnt.run(body)
        return path, data
    return make_subject


# --- Every way in which a holder ends -------------------------------------------------------------

HOLD = {
    "descriptor": "fd = os.open(path, os.O_RDWR)",
    "for reading": "fd = os.open(path, os.O_RDONLY)",
    "mapping": "fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); os.close(fd); fd = -1",
    "readonly mapping": "fd = os.open(path, os.O_RDONLY)\n"
                        "view = View(fd, PAGE, prot=mmap.PROT_READ); os.close(fd); fd = -1",
    "private mapping": "fd = os.open(path, os.O_RDONLY)\n"
                       "view = View(fd, PAGE, flags=mmap.MAP_PRIVATE); os.close(fd); fd = -1",
    "both": "fd = os.open(path, os.O_RDWR); view = View(fd, PAGE)",
    "duplicate": "fd = os.open(path, os.O_RDWR); other = os.dup(fd); os.close(fd); fd = other",
    "through proc": "fd = os.open(path, os.O_RDWR)\n"
                    "other = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY); os.close(fd); fd = other",
    "several": "fds = [os.open(path, os.O_RDWR) for _ in range(20)]; fd = fds.pop()\n"
               "[os.close(other) for other in fds]",
}
# execve closes descriptors that are made so, as os.open makes them, and unmaps in any case.
END = {
    "close": "view and view.close(); fd >= 0 and os.close(fd)",
    "exit": "os._exit(0)",
    "SIGKILL": "signal.pause()",
    "SIGABRT": "os.abort()",
    "execve": "os.execv('/bin/sleep', ['sleep', '1000'])",
}


@every_mode
@both_kinds
def test_it_goes_with_its_last_user_however_that_ends(mnt, subject, kind):
    """Every way to hold it and every way to end, each with a section of its own."""
    children = {}
    for hold in HOLD:
        for end in END:
            path, _ = subject(kind, f"{hold}, {end}", PAGE)
            children[path] = child = mnt.child()
            child.do("import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); view = None")
            child.do(HOLD[hold], path=path)
    stays(mnt, *children)
    for path, child in children.items():
        child.begin(END[path.rpartition(", ")[2]])
    for path, child in children.items():
        if path.endswith(", SIGKILL"):
            child.kill()
        vanishes(mnt, path)


@every_mode
@both_kinds
def test_its_memory_and_records_go_with_it(mnt, subject, kind):
    before = mnt.stats()
    path, data = subject(kind, size=MIB)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); os.close(fd)", path=path)
    child.do("view.write(0, b'mine')")
    assert mnt.run(read, path)[4:] == data[4:]
    child.kill()
    vanishes(mnt, path)
    mnt.settled(before)


@both_kinds
def test_execve_that_keeps_the_descriptor_keeps_it(mnt, subject, kind):
    path, _ = subject(kind)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); os.set_inheritable(fd, True)", path=path)
    child.begin("os.execv('/bin/sleep', ['sleep', '1000'])")
    eventually(lambda: open(f"/proc/{child.pid}/comm").read() == "sleep\n")
    stays(mnt, path)
    child.kill()
    vanishes(mnt, path)


@every_mode
@pytest.mark.parametrize("what", ["descriptor", "mapping"])
def test_fork_hands_it_on(mnt, subject, what):
    path, data = subject("page")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR)\n"
             "view = View(fd, PAGE, inherited=True)\n"
             "if what == 'mapping': os.close(fd)\n"
             "else: view.close()\n"
             "heir = os.fork()\n"
             "if heir == 0:\n"
             "    signal.pause()", path=path, what=what)
    heir = child.get("heir")
    child.do("view.close() if what == 'mapping' else os.close(fd)", what=what)
    stays(mnt, path)
    assert mnt.run(read, path) == data
    child.do("os.kill(heir, signal.SIGKILL); os.waitpid(heir, 0)")
    assert heir
    vanishes(mnt, path)


@every_mode
def test_a_socket_hands_it_on(mnt, subject):
    path, data = subject("page")
    giver = mnt.child()
    giver.do("fd = os.open(path, os.O_RDWR)\nours, theirs = socket.socketpair()", path=path)
    # While it is on its way no process has it.
    giver.do("socket.send_fds(ours, [b'.'], [fd]); os.close(fd)")
    stays(mnt, path)
    giver.do("fd = socket.recv_fds(theirs, 1, 1)[1][0]")
    assert giver.get("os.pread(fd, size, 0)", size=len(data)) == data
    giver.do("socket.send_fds(ours, [b'.'], [fd]); os.close(fd)")
    stays(mnt, path)
    giver.do("ours.close(); theirs.close()")        # with the socket goes what is in it
    vanishes(mnt, path)


@both_kinds
def test_a_descriptor_that_was_given_away_keeps_it(mnt, subject, kind):
    path, data = subject(kind)
    child = mnt.child()
    fd = os.open(path, os.O_RDWR)
    child.give(fd, "fd")
    os.close(fd)
    stays(mnt, path)
    assert child.get("os.pread(fd, size, 0)", size=len(data)) == data
    child.do("view = View(fd, PAGE); os.close(fd)")
    stays(mnt, path)
    child.kill()
    vanishes(mnt, path)


def test_reopening_another_process_s_descriptor_is_one_more_user(mnt, subject):
    path, data = subject("page")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDONLY)", path=path)
    fd = os.open(f"/proc/{child.pid}/fd/{child.get('fd')}", os.O_RDWR)
    child.kill()
    stays(mnt, path)
    assert os.pread(fd, len(data), 0) == data
    os.close(fd)
    vanishes(mnt, path)


def test_a_program_that_runs_from_it_keeps_it(mnt, place):
    with open("/bin/sleep", "rb") as file:
        program = file.read()
    make(mnt / "x", mode=0o755)
    with opened(mnt / "x", os.O_WRONLY) as fd:
        write_all(fd, program)
    unused(mnt / "x")
    set_keys(mnt / "x", lifetime="temporary")
    child = mnt.child()
    child.begin("os.execv(path, ['sleep', '1000'])", path=mnt / "x")
    eventually(lambda: open(f"/proc/{child.pid}/comm").read() == "x\n")
    stays(mnt, mnt / "x")
    child.kill()
    vanishes(mnt, mnt / "x")


# --- When its time begins -------------------------------------------------------------------------

@every_mode
def test_it_waits_for_its_first_opener(mnt):
    mnt.run(lambda: make(mnt / "x", size=PAGE, lifetime="temporary") and None)
    stays(mnt, mnt / "x")
    mnt.run(read, mnt / "x")
    vanishes(mnt, mnt / "x")


@every_mode
@temporary
def test_creating_by_name_is_opening_by_name(mnt):
    mnt.run(write, mnt / "x", b"data")
    vanishes(mnt, mnt / "x")


@temporary
def test_mknod_is_not(mnt):
    os.mknod(mnt / "x", 0o644 | stat.S_IFREG)
    stays(mnt, mnt / "x")
    read(mnt / "x")
    vanishes(mnt, mnt / "x")


@temporary
def test_nor_is_looking_at_it(mnt):
    make(mnt / "x", size=PAGE)
    os.stat(mnt / "x")
    os.truncate(mnt / "x", 2 * PAGE)
    os.chmod(mnt / "x", 0o600)
    os.utime(mnt / "x")
    os.link(mnt / "x", mnt / "y")
    os.unlink(mnt / "y")
    key(mnt / "x", "holders")
    read(mnt.info("x"))
    os.close(os.open(mnt / "x", os.O_PATH))
    stays(mnt, mnt / "x")


@temporary
def test_nor_is_opening_a_nameless_one(mnt):
    """It may get its name later, and then waits; without one it ends as every nameless file."""
    before = mnt.stats()
    fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR)
    write_all(fd, b"data")
    link_fd(fd, mnt / "x")
    os.close(fd)
    stays(mnt, mnt / "x")
    assert read(mnt / "x") == b"data"
    vanishes(mnt, mnt / "x")
    os.close(os.open(mnt.path, os.O_TMPFILE | os.O_RDWR))
    mnt.settled(before)


@temporary
def test_a_copy_on_write_open_of_it_is_none_of_it(mnt):
    """The view reads the section's bytes as long as it lives, though the section's own name is
    another matter: whoever opens that decides."""
    make(mnt / "x", lifetime="permanent")
    write(mnt / "x", b"data")
    unused(mnt / "x")
    set_keys(mnt / "x", lifetime="temporary")
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    assert os.pread(fd, 4, 0) == b"data"
    os.close(os.open(mnt / "x", os.O_RDONLY))
    time.sleep(0.05)
    assert os.pread(fd, 4, 0) == b"data"
    os.pwrite(fd, b"DATA", 0)
    os.close(fd)
    vanishes(mnt, mnt / "x")


# --- Switching ------------------------------------------------------------------------------------

@every_mode
@both_kinds
def test_switched_to_permanent_while_in_use_it_stays(mnt, subject, kind):
    path, data = subject(kind)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); os.close(fd)", path=path)
    mnt.run(lambda: set_keys(path, lifetime="permanent"))
    child.kill()
    stays(mnt, path)
    assert mnt.run(read, path) == data
    stays(mnt, path)


@every_mode
def test_switched_to_temporary_while_in_use_it_goes_after_that_use(mnt):
    mnt.run(write, mnt / "x", b"data")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, 4); os.close(fd)", path=mnt / "x")
    mnt.run(lambda: set_keys(mnt / "x", lifetime="temporary"))
    stays(mnt, mnt / "x")
    child.kill()
    vanishes(mnt, mnt / "x")


def test_switched_to_temporary_while_not_in_use_it_goes_after_the_next_use(mnt):
    write(mnt / "x", b"data")
    unused(mnt / "x")
    set_keys(mnt / "x", lifetime="temporary")
    stays(mnt, mnt / "x")
    read(mnt / "x")
    vanishes(mnt, mnt / "x")


def test_set_again_it_waits_again(mnt):
    """Setting temporary anew starts the waiting anew, unless it is open."""
    make(mnt / "x", size=PAGE, lifetime="temporary")
    fd = os.open(mnt / "x", os.O_RDWR)
    set_keys(mnt / "x", lifetime="permanent")
    os.close(fd)
    unused(mnt / "x")
    set_keys(mnt / "x", lifetime="temporary")
    stays(mnt, mnt / "x")
    with opened(mnt / "x"):
        set_keys(mnt / "x", lifetime="temporary")
    vanishes(mnt, mnt / "x")


def test_switching_back_and_forth_while_it_is_opened_and_closed(mnt):
    """Whatever comes first, it is there as long as somebody has it, and what is said last counts."""
    for turn in range(12):
        make(mnt / "x", size=PAGE, lifetime="temporary")
        child = mnt.child()
        child.do("fd = os.open(path, os.O_RDWR); os.pwrite(fd, b'here', 0)", path=mnt / "x")
        child.begin("os.close(fd)")
        lived = True
        try:
            set_keys(mnt / "x", lifetime="permanent")
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.ESTALE)
            lived = False
        child.finish()
        child.kill()
        if lived:
            stays(mnt, mnt / "x")
            assert read(mnt / "x")[:4] == b"here"
            unused(mnt / "x")
            os.unlink(mnt / "x")
        else:
            vanishes(mnt, mnt / "x")


# --- Names ----------------------------------------------------------------------------------------

def test_all_its_names_go(mnt):
    make(mnt / "x", size=PAGE, lifetime="temporary")
    os.mkdir(mnt / "d")
    os.mkdir(mnt / "d/e")
    os.link(mnt / "x", mnt / "d/y")
    os.link(mnt / "x", mnt / "d/e/z")
    with opened(mnt / "d/y"):
        assert os.stat(mnt / "x").st_nlink == 3
        stays(mnt, mnt / "x")
    for name in ("x", "d/y", "d/e/z"):
        vanishes(mnt, mnt / name)
    assert os.listdir(mnt / "d") == ["e"]
    os.rmdir(mnt / "d/e")
    os.rmdir(mnt / "d")


def test_renamed_while_it_is_in_use(mnt):
    os.mkdir(mnt / "d")
    make(mnt / "x", size=PAGE, lifetime="temporary")
    with opened(mnt / "x"):
        os.rename(mnt / "x", mnt / "d/y")
        write(mnt / "x", b"another")
        stays(mnt, mnt / "d/y")
    vanishes(mnt, mnt / "d/y")
    assert read(mnt / "x") == b"another"
    os.rmdir(mnt / "d")


def test_exchanged_while_it_is_in_use(mnt):
    make(mnt / "x", size=PAGE, lifetime="temporary")
    write(mnt / "y", b"permanent")
    with opened(mnt / "x"):
        renameat2(mnt / "x", mnt / "y", RENAME_EXCHANGE)
        assert read(mnt / "x") == b"permanent"
    vanishes(mnt, mnt / "y")
    assert read(mnt / "x") == b"permanent"


def test_unlinked_and_linked_again_while_it_is_in_use(mnt):
    make(mnt / "x", size=PAGE, lifetime="temporary")
    with opened(mnt / "x") as fd:
        os.link(mnt / "x", mnt / "y")
        os.unlink(mnt / "x")
        os.pwrite(fd, b"here", 0)
        stays(mnt, mnt / "y")
    vanishes(mnt, mnt / "y")


@both_kinds
def test_unlinked_while_it_is_in_use_it_is_whole_to_the_end(mnt, subject, kind):
    before = mnt.stats()
    path, data = subject(kind)
    fd = os.open(path, os.O_RDWR)
    os.unlink(path)
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fresh:
        assert os.fstat(fresh).st_size == 0
        assert os.pread(fd, len(data), 0) == data
    os.close(fd)
    stays(mnt, path)            # the fresh one is permanent
    os.unlink(path)
    mnt.settled(before)


@temporary
def test_the_same_name_can_be_had_afresh(mnt):
    for turn in range(20):
        with opened(mnt / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
            assert os.fstat(fd).st_size == 0
            os.ftruncate(fd, MIB)
            assert os.pread(fd, MIB, 0) == bytes(MIB)
            os.pwrite(fd, pattern(turn, MIB), 0)
        vanishes(mnt, mnt / "x")


def test_a_directory_with_one_can_be_removed_after_it(mnt):
    os.mkdir(mnt / "d")
    make(mnt / "d/x", size=PAGE, lifetime="temporary")
    with opened(mnt / "d/x"):
        with refused(errno.ENOTEMPTY):
            os.rmdir(mnt / "d")
    vanishes(mnt, mnt / "d/x")
    os.rmdir(mnt / "d")


def test_listing_a_directory_while_they_vanish(mnt):
    """Listings show whole names, each at most once, and end."""
    child = mnt.child()
    child.do("def churn():\n"
             "    end = time.monotonic() + 1\n"
             "    while time.monotonic() < end:\n"
             "        for n in range(30):\n"
             "            os.close(os.open(f'{root}/n{n}', os.O_CREAT | os.O_RDWR))", root=mnt.path)
    set_keys(mnt.path, lifetime="temporary")
    child.begin("churn()")
    end = time.monotonic() + 0.8
    while time.monotonic() < end:
        names = os.listdir(mnt.path)
        assert len(names) == len(set(names)) and set(names) <= {f"n{n}" for n in range(30)}
    child.finish()
    eventually(lambda: os.listdir(mnt.path) == [])


# --- In use again at the very end -----------------------------------------------------------------

@pytest.mark.parametrize("last", ["descriptor", "mapping"])
def test_opened_again_while_its_last_user_goes(mnt, last):
    """Either it is opened, and is whole and stays, or it is gone; never anything between."""
    opened_it = missed = 0
    before = mnt.stats()
    for turn in range(60):
        data = pattern(turn, 64)
        make(mnt / "x", size=PAGE, lifetime="temporary")
        child = mnt.child() if turn == 0 else child
        child.do("fd = os.open(path, os.O_RDWR); os.pwrite(fd, data, 0); view = View(fd, PAGE)\n"
                 "os.close(fd) if last == 'mapping' else view.close()",
                 path=mnt / "x", data=data, last=last)
        child.begin("view.close() if last == 'mapping' else os.close(fd)")
        if turn % 3:
            time.sleep(random.random() / 500)
        try:
            fd = os.open(mnt / "x", os.O_RDWR)
        except OSError as error:
            assert error.errno == errno.ENOENT
            missed += 1
            child.finish()
        else:
            opened_it += 1
            child.finish()
            assert os.pread(fd, 64, 0) == data
            assert os.stat(mnt / "x").st_ino == os.fstat(fd).st_ino
            time.sleep(0.01)
            assert os.stat(mnt / "x").st_ino == os.fstat(fd).st_ino
            os.close(fd)
        vanishes(mnt, mnt / "x")
    print(f"opened {opened_it}, gone {missed}")
    mnt.settled(before)


NAMES, SIZE = 20, 8 * PAGE
MAGIC = b"sectionfs test  "


def visit(root, counts, number, seed):
    """Rounds of creating, opening, mapping and closing temporary names until killed. Slot 0 of
    counts is for rounds of all, 1 for failures; each process has its own after that."""
    random_ = random.Random(seed)

    def whole(content, stamp):
        """Zero, or from this life of the name. (A write may be half done when it is read.)"""
        return all(byte in (0, wanted) for at in range(0, SIZE, PAGE)
                   for byte, wanted in zip(content[at:at + 32], stamp))

    def round_():
        name = f"{root}/name{random_.randrange(NAMES)}"
        create = random_.random() < 0.6
        exclusive = create and random_.random() < 0.5
        try:
            fd = os.open(name, os.O_RDWR | (os.O_CREAT if create else 0) |
                         (os.O_EXCL if exclusive else 0))
        except OSError as error:
            # Between the kernel's looking it up and opening it, it may have come or gone, twice.
            assert error.errno in ((errno.EEXIST,) if exclusive else (errno.ESTALE,) if create
                                   else (errno.ENOENT, errno.ESTALE)), error
            return
        ino = os.fstat(fd).st_ino
        mine = MAGIC + struct.pack("=QQ", ino, random_.getrandbits(63))
        if exclusive:
            # Nobody writes to one that has no stamp yet.
            os.ftruncate(fd, SIZE)
            assert os.pread(fd, SIZE, 0) == bytes(SIZE), "stale bytes in a new section"
            os.pwrite(fd, mine[16:], 16)
            os.pwrite(fd, mine[:16], 0)
        stamp = os.pread(fd, 32, 0)
        if stamp[:16] != MAGIC:
            os.close(fd)                # its creator was killed, or has not come so far
            return
        assert struct.unpack("=Q", stamp[16:24])[0] == ino, \
            f"the bytes of another section: {stamp} in {ino}"
        view = View(fd, SIZE) if random_.random() < 0.7 else None
        if view and random_.random() < 0.7:
            os.close(fd)
            fd = -1
        at = random_.randrange(1, SIZE // PAGE) * PAGE
        if view:
            view.write(at, stamp)
        else:
            os.pwrite(fd, stamp, at)
        if random_.random() < 0.3:
            time.sleep(random_.random() / 200)
        # While it is in use, its name is its own, and its bytes are.
        assert os.stat(name).st_ino == ino, "destroyed while in use"
        content = view.read(0, SIZE) if view else os.pread(fd, SIZE, 0)
        assert whole(content, stamp), "mixed bytes"
        assert content[:32] == stamp and content[at:at + 32] == stamp, "bytes are lost"
        if view and random_.random() < 0.5:
            view.close()
        if fd >= 0:
            os.close(fd)
        if view:
            view.close()

    while True:
        try:
            round_()
        except BaseException:
            traceback.print_exc()
            counts[8:16] = struct.pack("=Q", struct.unpack("=Q", counts[8:16])[0] + 1)
            raise
        at = 16 + 8 * number
        counts[at:at + 8] = struct.pack("=Q", struct.unpack("=Q", counts[at:at + 8])[0] + 1)


@pytest.mark.slow
@temporary
def test_many_processes_many_names_and_sudden_deaths(mnt, session):
    """8 processes create, open, map and close 20 names, and are killed at random moments. No name
    is left in the end, none goes while it is in use, no new one has old bytes, and no memory is
    left. SECTIONFS_TEST_LONG=1: at least 10,000 rounds and 1,000 deaths (else 600 and 40)."""
    wanted, wanted_kills, limit = (10000, 1000, 900) if LONG else (600, 40, 60)
    session.watchdog.arm(limit + 60)
    seed = int(os.environ.get("SECTIONFS_TEST_SEED", random.randrange(1 << 32)))
    print(f"SECTIONFS_TEST_SEED={seed}")
    random_ = random.Random(seed)
    before = mnt.stats()
    counts = mmap.mmap(-1, PAGE)            # shared with the children
    processes = []

    def start(number):
        child = Child(names={"visit": visit, "counts": counts})
        child.begin("visit(root, counts, number, seed)", root=mnt.path, number=number,
                    seed=random_.randrange(1 << 32))
        return child

    def rounds():
        return sum(struct.unpack_from("=8Q", counts, 16))

    kills = 0
    processes = [start(number) for number in range(8)]
    end = time.monotonic() + limit
    while (rounds() < wanted or kills < wanted_kills) and not struct.unpack_from("=Q", counts, 8)[0]:
        time.sleep(random_.random() / 50)
        number = random_.randrange(8)
        processes[number].kill()
        kills += 1
        processes[number] = start(number)
        assert time.monotonic() < end, f"only {rounds()} rounds"
    if struct.unpack_from("=Q", counts, 8)[0]:
        for child in processes:             # one of them says what happened
            child.socket.settimeout(0.5)
            try:
                child.finish()
            except (TimeoutError, ChildDied):
                pass
    for child in processes:
        child.kill()
    print(f"{rounds()} rounds, {kills} deaths")
    assert struct.unpack_from("=Q", counts, 8)[0] == 0
    eventually(lambda: os.listdir(mnt.path) == [], 15)
    mnt.settled(before)


@pytest.mark.modes("passthrough")
def test_file_section_ends_after_a_time_of_very_many_processes(mnt, place):
    """While they come and go it may be impossible to say who has it mapped: that is asked again, for
    who has its file open for reasons of his own does not close it, whereupon it would be."""
    stop, count = f"{place}/stop", 60
    held = []
    for n in range(count):
        write(f"{place}/real{n}", b"data")
        held.append(os.open(f"{place}/real{n}", os.O_RDONLY))
        make(mnt / f"x{n}", file=f"{place}/real{n}", lifetime="temporary")
    for _ in range(4):
        subprocess.Popen(["sh", "-c", f"again() {{ test -e {stop} || again & }}; again"]).wait()
    try:
        for n in range(count):
            os.close(os.open(mnt / f"x{n}", os.O_RDWR))
            time.sleep(0.05)
        time.sleep(3)                   # for all that is looked at by the clock
    finally:
        write(stop, b"")
    eventually(lambda: os.listdir(mnt.path) == [], 20)
    for fd in held:
        os.close(fd)
