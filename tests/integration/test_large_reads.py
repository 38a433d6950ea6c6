# SPDX-License-Identifier: MIT
"""Large reads are answered with the pages themselves, through a pipe, wherever these are; and who
waits for a disk holds nobody else up."""

import contextlib
import fcntl
import os
import random
import shutil
import threading
import time

import pytest

from deaths import killed_within
from sections import COMMIT, RESET, make
from test_large_writes import pipes
from util import KIB, MIB, PAGE, eventually, fallocate, opened, pattern, punch, run, write

pytestmark = [pytest.mark.options("cow_copy_max=0,reflink=off,size=64M"),
              pytest.mark.modes("passthrough", "cached")]
SIZE = 3 * MIB + 1000       # it ends within a page


def forget(fd):
    """What the kernel's page cache has of a view, so that the next to read it ask."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def read_parts(fd, model, rng, times=30):
    for _ in range(times):
        forget(fd)
        at = rng.randrange(len(model))
        length = rng.choice((2 * PAGE, 100 * KIB, 512 * KIB, MIB, len(model)))
        assert os.pread(fd, length, at) == model[at:at + length]


def make_chain(mnt, place, kind):
    """A section for a view of each kind of bytes, and what they are."""
    data = pattern(kind, SIZE)
    real = f"{place}/{kind}"
    if kind == "page":
        write(mnt / "page", data)
        return "page", data
    write(real, data)
    make(mnt / "file", file=real)
    if kind == "file":
        return "file", data
    if kind == "window":
        make(mnt / "window", file=real, offset=3 * PAGE, length=2 * MIB)
        return "window", data[3 * PAGE:3 * PAGE + 2 * MIB]
    make(mnt / "shared", base="file", protect="writecopy", cow="section")
    return "shared", data


@pytest.mark.parametrize("kind", ["page", "file", "window", "chain"])
def test_all_of_it_arrives(mnt, place, kind):
    """Bytes of the base, private ones, holes of both and zeros beyond the base, in one view."""
    name, data = make_chain(mnt, place, kind)
    model, rng = bytearray(data), random.Random(kind)
    with contextlib.ExitStack() as stack:
        if kind == "chain":
            below = stack.enter_context(opened(mnt / name))
            for at in 5 * PAGE, MIB, 2 * MIB + 17:
                os.pwrite(below, pattern(at, 3 * PAGE), at)
                model[at:at + 3 * PAGE] = pattern(at, 3 * PAGE)
        fd = stack.enter_context(opened(mnt.cow(name)))
        read_parts(fd, model, rng)
        for n in range(40):
            at = rng.randrange(len(model) - 20 * PAGE)
            length = rng.choice((1, 100, PAGE, 3 * PAGE, 17 * PAGE))
            os.pwrite(fd, pattern(n, length), at)
            model[at:at + length] = pattern(n, length)
        read_parts(fd, model, rng)
        punch(fd, 300 * KIB, 200 * KIB + 100)
        model[300 * KIB:500 * KIB + 100] = bytes(200 * KIB + 100)
        read_parts(fd, model, rng)
        os.ftruncate(fd, 2 * MIB - 100)
        os.ftruncate(fd, 4 * MIB)
        del model[2 * MIB - 100:]
        model += bytes(4 * MIB - len(model))
        read_parts(fd, model, rng)
        fallocate(fd, 0, 0, 5 * MIB)
        model += bytes(MIB)
        read_parts(fd, model, rng)


def test_they_are_spliced(mnt, place):
    """For which a thread needs a pipe, where it had none for small ones."""
    write(f"{place}/real", pattern("real", SIZE))
    make(mnt / "file", file=f"{place}/real")
    worker = mnt.stats()["worker_pid"]
    before = pipes(worker)
    with opened(mnt.cow("file")) as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for n in range(40):
            os.pread(fd, PAGE, n * PAGE)
        assert pipes(worker) == before
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)
        os.pread(fd, SIZE, 0)
        assert pipes(worker) > before


def test_a_base_that_was_cut(mnt, place):
    """By others, beneath the view: there are zeros then, and the view is as large as it was."""
    real = f"{place}/real"
    write(real, pattern("real", SIZE))
    make(mnt / "file", file=real)
    with opened(mnt.cow("file")) as fd:
        os.pwrite(fd, b"mine", 2 * MIB)
        for cut in 2 * MIB + 5, MIB + 100, 5 * PAGE:
            os.truncate(real, cut)
            forget(fd)
            data = os.pread(fd, SIZE, 0)
            assert len(data) == SIZE and os.fstat(fd).st_size == SIZE
            assert data[:cut] == pattern("real", SIZE)[:cut] or cut > 2 * MIB
            assert data[2 * MIB:2 * MIB + 4] == b"mine"
            assert not any(data[max(cut, 2 * MIB + PAGE):])


@pytest.mark.parametrize("verb", [RESET, COMMIT])
def test_what_goes_back_while_it_is_read(mnt, place, verb):
    """A page shows what the view had or what the base has, and never the hole that is left where it
    was private."""
    real = f"{place}/real"
    write(real, b"b" * SIZE)
    make(mnt / "file", file=real)
    with opened(mnt.cow("file")) as fd:
        failures, end = [], time.monotonic() + 1.5

        def look():
            while time.monotonic() < end and not failures:
                forget(fd)
                data = os.pread(fd, MIB, 0)
                if len(data) != MIB or set(data) - {ord("b"), ord("v")}:
                    failures.append(sorted(set(data)))

        readers = [threading.Thread(target=look) for _ in range(2)]
        for reader in readers:
            reader.start()
        while time.monotonic() < end and not failures:
            os.pwrite(fd, b"v" * MIB, 0)
            fcntl.ioctl(fd, verb)
        for reader in readers:
            reader.join()
        assert not failures


def test_deaths_while_it_is_read(mnt, place):
    data, rng = pattern("file", SIZE), random.Random(4)
    write(f"{place}/real", data)
    make(mnt / "file", file=f"{place}/real")
    with opened(mnt.cow("file")) as fd:
        os.pwrite(fd, b"mine", 2 * MIB)
        model = bytearray(data)
        model[2 * MIB:2 * MIB + 4] = b"mine"
        for _ in range(15):
            with killed_within(mnt, rng.random() / 20):
                read_parts(fd, model, rng, 60)
    assert mnt.stats()["deaths"] > 0


@pytest.fixture
def slow_disk(new_mount, place):
    """A mount that can be stopped, and a file system on a disk that is a file there."""
    slow, where = new_mount("cached", "size=128M"), f"{place}/disk"
    image = slow / "image"
    with opened(image, os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 64 * MIB)
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("there is no mkfs.ext4")
    run("mkfs.ext4", "-q", image)
    os.mkdir(where)
    result = run("mount", "-o", "loop", image, where, ok=False)
    if result.returncode != 0:
        pytest.skip(f"cannot mount a loop device: {result.stderr.strip()}")
    yield slow, where, image
    eventually(lambda: run("umount", where, ok=False).returncode == 0)


def test_who_waits_holds_nobody_up(slow_disk, mnt):
    """Three views wait for a disk that does not answer, and everybody else goes on."""
    slow, where, image = slow_disk
    for n in range(3):
        write(f"{where}/base{n}", pattern(n, MIB))
        make(mnt / f"file{n}", file=f"{where}/base{n}")
    write(mnt / "page", pattern("page", MIB))
    with contextlib.ExitStack() as stack:
        disk = stack.enter_context(opened(image))
        views = [stack.enter_context(opened(mnt.cow(f"file{n}"))) for n in range(3)]
        page = stack.enter_context(opened(mnt.cow("page")))
        beneath = [stack.enter_context(opened(f"{where}/base{n}")) for n in range(3)]
        readers = [threading.Thread(target=os.pread, args=(fd, MIB, 0)) for fd in views]
        os.sync()
        for fd in *views, *beneath, disk:
            forget(fd)
        worst = 0
        with slow.stopped():
            for number, reader in enumerate(readers):
                reader.start()
                for n in range(50):
                    start = time.monotonic()
                    forget(page)
                    assert os.pread(page, 2 * PAGE, n * PAGE) == \
                        pattern("page", MIB)[n * PAGE:(n + 2) * PAGE]
                    os.pwrite(page, b"x", MIB - 1)
                    write(mnt / f"new{number}.{n}", b"y")
                    worst = max(worst, time.monotonic() - start)
            assert all(reader.is_alive() for reader in readers)
        for reader in readers:
            reader.join()
        for n, fd in enumerate(views):
            assert os.pread(fd, MIB, 0) == pattern(n, MIB)
            os.unlink(mnt / f"file{n}")
    print(f"longest: {worst * 1000:.1f} ms")
    assert worst < 2
