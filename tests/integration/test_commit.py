# SPDX-License-Identifier: MIT
"""Memory that is promised: a committed section gets it when it grows, or does not grow."""

import errno
import os
import time

import pytest

from sections import key, make, patiently, set_keys, unused
from util import (FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE, GIB, MIB, PAGE, ChildDied,
                  eventually, fallocate, opened, pattern, punch, read, refused, write)

every_mode = pytest.mark.modes("passthrough", "cached", "user")
committed = pytest.mark.options("size=64M,commit=commit")


def used(mnt):
    return mnt.stats()["size_used"]


@every_mode
@committed
@pytest.mark.parametrize("how", ["truncate", "ftruncate", "fallocate", "write at the end",
                                 "write past the end"])
def test_growing_takes_all_of_it(mnt, how):
    before = used(mnt)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR)", path=mnt / "x")
    child.do({"truncate": "os.truncate(path, 8 * MIB)",
              "ftruncate": "os.ftruncate(fd, 8 * MIB)",
              "fallocate": "fallocate(fd, 0, 0, 8 * MIB)",
              "write at the end": "write_all(fd, bytes(8 * MIB))",
              "write past the end": "os.pwrite(fd, b'end', 8 * MIB - 3)"}[how])
    assert used(mnt) - before == 8 * MIB
    assert mnt.run(os.stat, mnt / "x").st_blocks * 512 == 8 * MIB
    child.do("view = View(fd, 8 * MIB)\n"
             "for at in range(0, 8 * MIB, PAGE): view.write(at, b'touched')")
    assert used(mnt) - before == 8 * MIB
    child.do("view.close(); os.close(fd); os.unlink(path)")
    eventually(lambda: used(mnt) == before)


@every_mode
@committed
def test_what_cannot_be_promised_is_enospc_at_that_call(mnt):
    child = mnt.child()
    child.do("fd = os.open(path, os.O_CREAT | os.O_RDWR); os.ftruncate(fd, 4 * MIB)\n"
             "os.pwrite(fd, b'kept', 0)", path=mnt / "x")
    before = used(mnt)
    for attempt in ("os.ftruncate(fd, 65 * MIB)", "os.truncate(path, 65 * MIB)",
                    "fallocate(fd, 0, 0, 65 * MIB)", "os.pwrite(fd, b'x', 65 * MIB)",
                    "os.ftruncate(fd, 8 * 1024 * GIB)"):
        with refused(errno.ENOSPC):
            child.do(attempt)
        assert child.get("os.fstat(fd).st_size") == 4 * MIB, attempt
        assert used(mnt) == before, attempt
    assert child.get("os.pread(fd, 4, 0)") == b"kept"
    child.do("os.ftruncate(fd, 8 * MIB)")


@committed
def test_holes_that_are_punched_keep_their_memory(mnt):
    make(mnt / "x", size=8 * MIB)
    before = used(mnt)
    with opened(mnt / "x") as fd:
        os.pwrite(fd, pattern("x", MIB), MIB)
        punch(fd, MIB, MIB)
        assert os.pread(fd, MIB, MIB) == bytes(MIB)
        assert os.fstat(fd).st_size == 8 * MIB
        assert used(mnt) == before


@committed
def test_shrinking_gives_back_and_growing_takes_again(mnt):
    before = used(mnt)
    make(mnt / "x", size=8 * MIB)
    with opened(mnt / "x") as fd:
        os.pwrite(fd, pattern("x", 8 * MIB), 0)
        os.ftruncate(fd, 2 * MIB)
        assert used(mnt) - before == 2 * MIB
        os.ftruncate(fd, 4 * MIB)
        assert used(mnt) - before == 4 * MIB
        assert os.pread(fd, 4 * MIB, 0) == pattern("x", 8 * MIB)[:2 * MIB] + bytes(2 * MIB)


@pytest.mark.options("size=64M")
def test_a_section_with_holes_can_be_committed(mnt):
    make(mnt / "x", size=8 * MIB)
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"data", 4 * MIB)
    unused(mnt / "x")
    before = used(mnt)
    assert before < 2 * MIB
    patiently(lambda: set_keys(mnt / "x", commit="commit"))
    assert used(mnt) >= 8 * MIB
    assert read(mnt / "x")[4 * MIB:4 * MIB + 4] == b"data"
    make(mnt / "y", size=GIB)
    before = used(mnt)
    with refused(errno.ENOSPC):
        set_keys(mnt / "y", commit="commit")
    assert key(mnt / "y", "commit") == "reserve"
    assert used(mnt) == before and os.stat(mnt / "y").st_size == GIB


@pytest.mark.options("size=64M")
def test_reserve_takes_nothing_before_it_is_used(mnt):
    before = used(mnt)
    make(mnt / "x", size=GIB)
    assert used(mnt) == before
    with opened(mnt / "x") as fd:
        fallocate(fd, 0, 0, 8 * MIB)                    # which commits, here as everywhere
        assert used(mnt) - before == 8 * MIB
        fallocate(fd, FALLOC_KEEP_SIZE | FALLOC_PUNCH_HOLE, 0, 8 * MIB)
    eventually(lambda: used(mnt) == before)


def test_a_file_section_takes_the_word_and_nothing_else(mnt, place):
    write(f"{place}/real", b"")
    os.truncate(f"{place}/real", 8 * MIB)
    make(mnt / "x", file=f"{place}/real", commit="commit")
    assert key(mnt / "x", "commit") == "commit"
    os.truncate(mnt / "x", 16 * MIB)
    assert os.stat(f"{place}/real").st_blocks == 0      # it stays sparse
    assert used(mnt) == 0 or used(mnt) < MIB


FILL = """
def fill():
    '''Takes what there is, by write, until the end is told; lets go of it now and then.'''
    buffer = bytes(64 * 1024)
    turns = 0
    while not os.path.exists(stop):
        fd = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            while not os.path.exists(stop):
                os.write(fd, buffer)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
        turns += 1
        os.close(fd)
        time.sleep(0.02)
        os.unlink(path)
    return turns
"""

COPY = """
def fill():
    '''Stores to a copy-on-write mapping, which is always accepted, above the limit if need be.'''
    turns = 0
    while not os.path.exists(stop):
        fd = os.open(path, os.O_RDWR)
        view = View(fd, 16 * MIB)
        os.close(fd)
        for at in range(0, 16 * MIB, PAGE):
            view.write(at, b'private')
        view.sync()
        view.close()
        turns += 1
    return turns
"""

TOUCH = """
def touch(sections):
    for path, size, seed in sections:
        fd = os.open(path, os.O_RDWR)
        view = View(fd, size)
        for at in range(0, size, PAGE):
            view.write(at, pattern((seed, at), 64))
        view.close()
        os.close(fd)
"""


@pytest.mark.slow
@pytest.mark.options("size=64M")
def test_what_was_granted_can_be_touched_whatever_others_do(mnt, place):
    """Sections are committed until there is no more; then every page of every one of them is stored
    to through mappings, while others fill the store by write, and by copy-on-write mappings. Nobody
    gets SIGBUS, and no byte is lost."""
    stop = f"{place}/stop"
    write(mnt / "base", bytes(16 * MIB))
    fillers = [mnt.child() for _ in range(3)]
    for number, child in enumerate(fillers[:2]):
        child.do(FILL, path=mnt / f"filler{number}", stop=stop)
    fillers[2].do(COPY, path=mnt.cow("base"), stop=stop)
    granted = []
    refusals = 0
    for number in range(400):
        size = (1 + number * 7 % 5) * 256 * 1024 + number % 3 * PAGE
        if number == 4:                                 # some are there before the trouble starts
            for child in fillers:
                child.begin("last = fill()")
        try:
            make(mnt / f"granted{number}", size=size, commit="commit")
            granted.append((mnt / f"granted{number}", size, number))
        except OSError as error:
            assert error.errno == errno.ENOSPC
            assert not os.path.exists(mnt / f"granted{number}")
            refusals += 1
            time.sleep(0.01)
        if refusals >= 20:
            break
    assert refusals and len(granted) > 4
    touchers = [mnt.child() for _ in range(2)]
    for number, child in enumerate(touchers):
        child.do(TOUCH)
        child.begin("touch(sections)", sections=granted[number::2])
    for child in touchers:
        try:
            child.finish()
        except ChildDied as death:
            raise AssertionError(f"it died of {death.status}") from None
    for path, size, seed in granted:
        content = read(path)
        assert len(content) == size
        for at in range(0, size, PAGE):
            assert content[at:at + 64] == pattern((seed, at), 64), (path, at)
    write(stop, b"")
    for child in fillers:
        child.finish()
        assert child.get("last") > 0
