# SPDX-License-Identifier: MIT
"""What a section object promises, one test a promise: P1 to P13, from what Microsoft's text on
file-backed and page-file-backed sections says of them. A section is a file of the mount; a view is
a mapping of it."""

import errno
import mmap
import os
import struct

import pytest

from sections import gone, key, make
from util import (MIB, PAGE, View, descendants, extents, opened, pattern, read,
                  refused, run, sha, write)

R = mmap.PROT_READ
both_kinds = pytest.mark.parametrize("kind", ["page", "file"])


@pytest.fixture
def real(place):
    path = f"{place}/real"
    write(path, pattern("real", MIB))
    return path


def test_p01_every_section_is_backed_by_a_file_or_by_the_paging_file(mnt, real):
    """P1: by a file where one is named, by RAM and swap where none is; and it can be told which."""
    make(mnt / "memory", size=PAGE)
    make(mnt / "file", file=real)
    assert key(mnt / "memory", "kind") == "page"
    assert key(mnt / "file", "kind") == "file" and key(mnt / "file", "file") == real


def test_p02_what_is_written_to_a_file_backed_section_is_on_disk(mnt, real):
    """P2: and is there after the mount is gone."""
    make(mnt / "x", file=real)
    with opened(mnt / "x") as fd:
        view = View(fd, MIB)
        view.write(5 * PAGE, b"by a view")
        view.sync()
        view.close()
        os.pwrite(fd, b"by write", 0)
        os.fsync(fd)
    assert mnt.stop() == []
    expected = bytearray(pattern("real", MIB))
    expected[5 * PAGE:5 * PAGE + 9], expected[:8] = b"by a view", b"by write"
    assert read(real) == expected


def test_p03_what_is_in_a_page_file_backed_section_is_never_in_a_file(mnt, new_mount):
    """P3: no descriptor of the daemon is on a file of a disk, and a new mount knows nothing."""
    secret = pattern("secret", MIB)
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, secret, 0)
        with opened(mnt.cow("x")) as copy:
            os.pwrite(copy, b"a copy", 5)
            kinds = {}
            for pid, _ in descendants(mnt.keeper) | {(mnt.keeper, 0)}:
                for number in os.listdir(f"/proc/{pid}/fd"):
                    target = os.readlink(f"/proc/{pid}/fd/{number}")
                    if os.path.isabs(target) and "/dev/" not in target and target != mnt.log:
                        name = f"/proc/{pid}/fd/{number}"
                        if os.stat(name).st_size >= MIB:
                            kinds[target] = run("stat", "-L", "-f", "-c", "%T", name).stdout.strip()
            assert kinds and set(kinds.values()) == {"tmpfs"}, kinds
    assert mnt.stop() == []
    again = new_mount(mnt.mode)
    assert os.listdir(again.path) == []


def test_p04_an_access_to_the_section_is_one_to_the_same_place_of_the_file(mnt, real):
    """P4: byte by byte, in both directions."""
    make(mnt / "x", file=real)
    with opened(mnt / "x") as fd, opened(real) as file:
        for at in (0, 1, 4095, 4096, 12345, MIB - 5):
            os.pwrite(fd, b"12345", at)
            assert os.pread(file, 5, at) == b"12345"
            os.pwrite(file, b"54321", at)
            assert os.pread(fd, 5, at) == b"54321"
        assert os.fstat(fd).st_size == os.fstat(file).st_size
    assert read(mnt / "x") == read(real)


def test_p05_a_readonly_view_reads_the_file_and_cannot_be_stored_to(mnt, real):
    """P5."""
    make(mnt / "x", file=real)
    with opened(mnt / "x", os.O_RDONLY) as fd:
        view = View(fd, MIB, prot=R)
        assert view.read(0, MIB) == read(real)
        view.close()
        with refused(errno.EACCES):
            View(fd, MIB)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDONLY); view = View(fd, PAGE, prot=mmap.PROT_READ)",
             path=mnt / "x")
    child.begin("view.write(0, b'x')")
    assert child.wait() == -11                          # SIGSEGV
    assert read(real) == pattern("real", MIB)


@pytest.mark.parametrize("flush", ["msync", "unmapped", "nothing"])
def test_p06_a_writable_view_reads_and_writes_the_file(mnt, real, flush):
    """P6: at once with passthrough; elsewhere once it is flushed, or unmapped."""
    if flush == "nothing" and mnt.mode != "passthrough":
        pytest.skip("without passthrough a store reaches the file with msync")
    make(mnt / "x", file=real)
    with opened(mnt / "x") as fd:
        view = View(fd, MIB)
        view.write(3 * PAGE, b"stored")
        if flush == "msync":
            view.sync()
        elif flush == "unmapped":
            view.close()
        assert read(real)[3 * PAGE:3 * PAGE + 6] == b"stored"
        view.close()


def test_p07_views_of_a_file_take_no_page_file_space(mnt, real):
    """P7: neither for reading nor for writing."""
    make(mnt / "x", file=real)
    before = mnt.stats()
    data = read(real)
    with opened(mnt / "x") as fd:
        reads, writes = View(fd, MIB, prot=R), View(fd, MIB)
        for at in range(0, MIB, PAGE):
            assert reads.read(at, 1) == data[at:at + 1]
            writes.write(at, b"!")
        during = mnt.stats()
        assert during["size_used"] == before["size_used"]
        assert during["size_overlays"] == before["size_overlays"]
        assert key(mnt / "x", "private") == "0"
        reads.close()
        writes.close()


def test_p08_a_copy_on_write_view_begins_with_the_bytes_of_the_file(mnt, real):
    """P8: and takes no memory for it."""
    make(mnt / "x", file=real, protect="writecopy")
    before = mnt.stats()
    with opened(mnt / "x") as fd:
        view = View(fd, MIB)
        assert view.read(0, MIB) == pattern("real", MIB)
        assert mnt.stats()["size_overlays"] == before["size_overlays"]
        view.close()


def test_p09_copy_on_write_stores_never_reach_the_file(mnt, real):
    """P9: not its bytes, its size, its times or its extents."""
    make(mnt / "x", file=real, protect="writecopy")
    status = os.stat(real)
    before = sha(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns, extents(real)
    with opened(mnt / "x") as fd:
        view = View(fd, MIB)
        view.write(0, bytes(MIB))
        view.sync()
        view.close()
        os.pwrite(fd, b"more", 2 * MIB)
        os.ftruncate(fd, 100)
        os.fsync(fd)
    with opened(mnt / "x", os.O_RDWR | os.O_TRUNC):
        pass
    status = os.stat(real)
    assert before == (sha(real), status.st_size, status.st_mtime_ns, status.st_ctime_ns,
                      extents(real))


def test_p10_copy_on_write_stores_go_with_the_last_view_and_the_last_handle(mnt, real):
    """P10: after both, and not before. The words are about a section, so all openers share one copy
    here (cow=section)."""
    make(mnt / "x", file=real, protect="writecopy", cow="section")
    before = mnt.stats()
    fd = os.open(mnt / "x", os.O_RDWR)
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE); view.write(0, b'private')\n"
             "os.close(fd)", path=mnt / "x")
    assert os.pread(fd, 7, 0) == b"private"
    os.close(fd)                                        # the last handle, but not the last view
    assert child.get("view.read(0, 7)") == b"private"
    with opened(mnt / "x", os.O_RDONLY) as again:
        assert os.pread(again, 7, 0) == b"private"
    child.do("fd = os.open(path, os.O_RDWR); view.close()", path=mnt / "x")
    assert child.get("os.pread(fd, 7, 0)") == b"private"        # the last view, but not the handle
    child.do("os.close(fd)")
    mnt.settled(before)
    assert read(mnt / "x") == pattern("real", MIB)
    assert read(real) == pattern("real", MIB)


@pytest.mark.parametrize("end", ["close", "unmap", "SIGKILL"])
def test_p11_a_page_file_backed_section_is_gone_with_its_last_user(mnt, end):
    """P11: name, bytes and memory, however the last user ends; the next one of that name is new."""
    before = mnt.stats()
    make(mnt / "x", size=MIB, lifetime="temporary")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDWR); view = View(fd, size); view.write(0, data)\n"
             "os.close(fd) if end == 'unmap' else None",
             path=mnt / "x", size=MIB, data=pattern("x", MIB), end=end)
    assert os.path.exists(mnt / "x")
    if end == "SIGKILL":
        child.kill()
    else:
        child.do("view.close(); os.close(fd) if end == 'close' else None")
    gone(mnt / "x")
    mnt.settled(before)
    with opened(mnt / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.ftruncate(fd, MIB)
        assert os.pread(fd, MIB, 0) == bytes(MIB)


def test_p12_page_file_backed_sections_are_shared_memory(mnt):
    """P12: between processes that have nothing but the name in common."""
    make(mnt / "x", size=PAGE, lifetime="permanent")
    one, two = mnt.child(), mnt.child()
    for child in (one, two):
        child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE)", path=mnt / "x")
    one.do("view.write(0, b'from one')")
    assert two.get("view.read(0, 8)") == b"from one"
    two.do("view.write(0, b'from two')")
    assert one.get("view.read(0, 8)") == b"from two"


def frame(pid, address):
    """The number of the physical page at an address of a process, 0 where the kernel hides it."""
    with open(f"/proc/{pid}/pagemap", "rb") as file:
        file.seek(address // PAGE * 8)
        entry, = struct.unpack("=Q", file.read(8))
    return entry & ((1 << 55) - 1) if entry >> 63 else 0


@both_kinds
def test_p13_views_are_the_same_physical_memory(mnt, real, kind):
    """P13: at different addresses in two processes; with passthrough also that of the file."""
    make(mnt / "x", **({"file": real} if kind == "file" else {"size": MIB}))
    one, two = mnt.child(), mnt.child()
    one.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE)", path=mnt / "x")
    two.do("fd = os.open(path, os.O_RDWR); other = View(fd, 64 * PAGE); view = View(fd, PAGE)",
           path=mnt / "x")
    one.do("view.write(0, b'shared')")
    assert two.get("view.read(0, 6)") == b"shared"
    addresses = {child: child.get("view.address") for child in (one, two)}
    frames = {frame(child.pid, addresses[child]) for child in (one, two)}
    if 0 in frames:
        pytest.skip("the kernel does not tell which physical page it is")
    assert len(frames) == 1
    if kind == "file" and mnt.mode == "passthrough":
        with opened(real) as fd:
            view = View(fd, PAGE)
            assert view.read(0, 6) == b"shared"
            assert frame(os.getpid(), view.address) in frames
            view.close()
