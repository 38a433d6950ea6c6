# SPDX-License-Identifier: MIT
"""How long data lives: to the last close and the last munmap, through every kind of end."""

import errno
import os
import signal

import pytest

from util import (MIB, PAGE, ChildDied, View, eventually, opened, pattern, read, refused, write,
                  write_all)

FILE = "user.section.file"
SIZE = 4 * MIB
kinds = pytest.mark.parametrize("kind", ["page", "file", "cow of page", "cow of file"])
every_mode = pytest.mark.modes("passthrough", "cached", "user")


class Subject:
    """A section of one kind, the path to open it by, and the section's own and real file's path."""

    def __init__(self, mnt, kind, place):
        self.kind, self.section, self.real = kind, mnt / "x", None
        self.path = mnt.cow("x") if kind.startswith("cow") else self.section
        self.data = pattern(kind, SIZE)
        if kind.endswith("file"):
            self.real = f"{place}/real"
            write(self.real, self.data)
            if mnt.user:
                os.chown(self.real, mnt.user.uid, mnt.user.gid)
        mnt.run(self._make)

    def _make(self):
        if self.real:
            with opened(self.section, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
                os.setxattr(fd, FILE, os.fsencode(self.real))
        else:
            write(self.section, self.data)


@kinds
@every_mode
def test_data_stays_from_close_to_munmap(mnt, place, kind):
    """Close the descriptor, keep the mapping: everything can be read and written until munmap."""
    subject = Subject(mnt, kind, place)
    before = mnt.stats()
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, size)\n"
             "view.write(PAGE, b'before the close')\n"
             "os.pwrite(fd, b'written', 2 * PAGE)\n"
             "os.close(fd)", path=subject.path, size=SIZE)
    child.do("view.write(3 * PAGE, b'after the close')")
    expected = bytearray(subject.data)
    for at, data in (PAGE, b"before the close"), (2 * PAGE, b"written"), (3 * PAGE, b"after the close"):
        expected[at:at + len(data)] = data
    assert child.get("view.read(0, size)") == expected

    # Others come and go meanwhile, which must not disturb it.
    def visit():
        for _ in range(5):
            with opened(subject.path) as fd:
                os.pread(fd, PAGE, 0)
    mnt.run(visit)
    assert child.get("view.read(0, size)") == expected

    child.do("view.sync()")
    child.do("view.close()")
    if kind.startswith("cow"):
        assert mnt.run(read, subject.path) == subject.data
        assert mnt.run(read, subject.section) == subject.data
        mnt.settled(before)
    else:
        assert mnt.run(read, subject.path) == expected
    if kind == "file":
        assert read(subject.real) == expected


@kinds
@every_mode
def test_data_stays_from_unlink_to_munmap(mnt, place, kind):
    """Nothing but a mapping is left: no name, no descriptor, and no name of a real file either."""
    empty = mnt.stats()
    subject = Subject(mnt, kind, place)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, size); view.write(PAGE, b'mine')\n"
             "os.close(fd)", path=subject.path, size=SIZE)
    mnt.run(os.unlink, subject.section)
    if subject.real:
        os.unlink(subject.real)
    expected = bytearray(subject.data)
    expected[PAGE:PAGE + 4] = b"mine"
    assert child.get("view.read(0, size)") == expected
    child.do("view.write(0, b'more')")
    mnt.run(write, mnt / "x", b"a fresh section of that name")
    expected[:4] = b"more"
    assert child.get("view.read(0, size)") == expected
    child.do("view.close()")
    assert mnt.run(read, mnt / "x") == b"a fresh section of that name"
    mnt.run(os.unlink, mnt / "x")
    mnt.settled(empty)


@kinds
def test_data_of_an_unlinked_section_stays_to_the_last_of_several_users(mnt, place, kind):
    empty = mnt.stats()
    subject = Subject(mnt, kind, place)
    holders = [mnt.child(), mnt.child(), mnt.child()]
    fd = os.open(subject.path, os.O_RDWR)
    holders[0].give(fd, "fd")
    holders[1].give(fd, "fd")
    holders[1].do("view = View(fd, size); os.close(fd)", size=SIZE)
    if kind.startswith("cow"):
        holders[2].do("fd = os.open(path, os.O_RDWR)", path=f"/proc/{os.getpid()}/fd/{fd}")
    else:
        holders[2].do("fd = os.open(path, os.O_RDWR)", path=subject.path)
    os.unlink(subject.section)
    os.pwrite(fd, b"shared", PAGE)
    os.close(fd)
    assert holders[0].get("os.pread(fd, 6, PAGE)") == b"shared"
    holders[0].kill()
    assert holders[2].get("os.pread(fd, 6, PAGE)") == b"shared"
    holders[2].do("os.close(fd)")
    assert holders[1].get("view.read(PAGE, 6)") == b"shared"
    assert holders[1].get("view.read(2 * PAGE, PAGE)") == subject.data[2 * PAGE:3 * PAGE]
    holders[1].kill()
    if subject.real:
        os.unlink(subject.real)
    mnt.settled(empty)


@kinds
@every_mode
def test_sigkill_of_the_holder_leaves_nothing(mnt, place, kind):
    """A process with open and mapped sections is killed in the middle, again and again: no handle,
    no view, no private page and no nameless section stays."""
    subject = Subject(mnt, kind, place)
    before = mnt.stats()
    for turn in range(10):
        child = mnt.child()
        child.do("fds = [os.open(path, os.O_RDWR) for _ in range(4)]\n"
                 "views = [View(fd, size) for fd in fds]\n"
                 "os.close(fds[1]); views[2].close()\n"
                 "for view in views[0], views[1], views[3]: view.write(turn * PAGE, bytes(8 * PAGE))\n"
                 "os.pwrite(fds[2], b'x' * MIB, 0)\n"
                 "tmp = os.open(root, os.O_TMPFILE | os.O_RDWR)\n"
                 "os.write(tmp, bytes(2 * MIB)); other = View(tmp, 2 * MIB)\n"
                 "gone = os.open(root + '/gone', os.O_CREAT | os.O_RDWR); os.write(gone, bytes(MIB))\n"
                 "os.unlink(root + '/gone')",
                 path=subject.path, size=SIZE, turn=turn, root=mnt.path)
        child.kill()
    mnt.settled(before, "handles", "views", "sections", "size_overlays", "size_used")
    if kind.startswith("cow"):
        assert mnt.run(read, subject.section) == subject.data


def test_sigkill_in_the_middle_of_work(mnt, place):
    """Killed at any moment, not at a step's end: eight writers each, fifteen times."""
    write(mnt / "x", bytes(SIZE))
    before = mnt.stats()
    code = """
while True:
    fd = os.open(path, os.O_RDWR)
    view = View(fd, size)
    view.write(PAGE, bytes(PAGE))
    os.pwrite(fd, bytes(16 * PAGE), 64 * PAGE)
    os.ftruncate(fd, size + PAGE)
    other = os.open(name, os.O_CREAT | os.O_RDWR)
    os.write(other, bytes(4 * PAGE))
    os.unlink(name)
    os.close(other)
    view.close()
    os.close(fd)
"""
    for turn in range(15):
        children = [mnt.child() for _ in range(8)]
        for number, child in enumerate(children):
            child.begin(code, path=mnt.cow("x"), size=SIZE, name=mnt / f"own{number}")
        eventually(lambda: mnt.stats()["handles"] > before["handles"], 5)
        for child in children:
            child.kill()
        for number in range(8):
            if os.path.exists(mnt / f"own{number}"):
                os.unlink(mnt / f"own{number}")
    mnt.settled(before)
    assert read(mnt / "x") == bytes(SIZE)


def test_sections_without_users_stay_by_default(mnt):
    """permanent: the last close of a named section is not its end."""
    child = mnt.child()
    child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR); os.write(fd, b'kept'); view = View(fd, 4)",
             path=mnt / "x")
    child.kill()
    eventually(lambda: mnt.stats()["handles"] == 0)
    assert read(mnt / "x") == b"kept"


@kinds
def test_handles_and_views_are_counted_and_go_to_zero(mnt, place, kind):
    subject = Subject(mnt, kind, place)
    eventually(lambda: mnt.stats()["handles"] == 0)
    fds = [os.open(subject.path, os.O_RDWR) for _ in range(5)]
    assert mnt.stats()["handles"] == 5
    for fd in fds:
        os.close(fd)
    eventually(lambda: mnt.stats()["handles"] == 0)
    eventually(lambda: mnt.stats()["views"] == 0)


@kinds
def test_execed_program_holds_what_it_inherits(mnt, place, kind):
    """A descriptor without close-on-exec goes on through exec and keeps the data."""
    empty = mnt.stats()
    subject = Subject(mnt, kind, place)
    child = mnt.child()
    child.do("import subprocess\n"
             "fd = os.open(path, os.O_RDWR); os.set_inheritable(fd, True)\n"
             "os.pwrite(fd, b'inherited', 0)\n"
             "p = subprocess.Popen(['cat'], stdin=subprocess.PIPE, pass_fds=[fd])\n"
             "os.close(fd)", path=subject.path)
    os.unlink(subject.section)
    pid, number = child.get("p.pid, fd")
    with opened(f"/proc/{pid}/fd/{number}") as fd:
        assert os.pread(fd, 9, 0) == b"inherited"
    child.do("p.stdin.close(); p.wait()")
    child.kill()
    mnt.settled(empty, "handles", "sections", "views", "size_used", "size_overlays")


def test_nameless_file_vanishes_with_its_descriptor(mnt):
    before = mnt.stats()
    fd = os.open(mnt.path, os.O_TMPFILE | os.O_RDWR)
    write_all(fd, bytes(4 * MIB))
    assert mnt.stats()["size_used"] >= before["size_used"] + 4 * MIB
    view = View(fd, 4 * MIB)
    os.close(fd)
    view.write(0, b"alive")
    assert view.read(0, 5) == b"alive"
    view.close()
    mnt.settled(before)


def test_truncated_backing_file_is_sigbus_for_the_mapping_as_everywhere(mnt, place):
    """The one lottery that a file section cannot take away: its file is anybody's."""
    subject = Subject(mnt, "file", place)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, size)", path=subject.path, size=SIZE)
    os.truncate(subject.section, PAGE)
    with pytest.raises(ChildDied) as died:
        child.get("view.read(2 * PAGE, 1)")
    assert died.value.status == -signal.SIGBUS
    with refused(errno.ENOENT):
        os.stat(mnt / "nothing else broke")
