# SPDX-License-Identifier: MIT
"""What the tests of Wine and ReactOS check of section objects, asked of a filesystem.

Each test names the check that it ports; doc/NT.md has the table of all of them, and says why the
rest cannot be asked here. All run under semantics=nt: sections are temporary, committed, do not
shrink under others, and cannot be deleted while in use.

A section's handle is an open of it, its view a mapping; CreateFileMapping with a file is setting
user.section.file, OpenFileMapping is open(2)."""

import errno
import mmap
import os
import re
import shutil
import stat

import pytest

from sections import gone, key, make, patiently, set_keys, unused
from util import (GIB, MIB, PAGE, TIB, RENAME_EXCHANGE, View, call, eventually, opened, pattern,
                  read, refused, renameat2, run, sha, write, write_all)

pytestmark = pytest.mark.options("semantics=nt")

R, RW = mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE
kinds = pytest.mark.parametrize("kind", ["page", "file"])


@pytest.fixture
def file(place):
    """Makes a real file with these bytes (or this many of its own)."""
    def make_file(content, name="real"):
        path = f"{place}/{name}"
        write(path, content if isinstance(content, bytes) else pattern(name, content))
        return path
    return make_file


def section(mnt, kind, file, size=4 * PAGE, name="x", lifetime="temporary"):
    """A section of either kind with data of its own, not opened since; (path, data)."""
    data = pattern(kind, size)
    if kind == "file":
        make(mnt / name, file=file(data, "of-" + name))
    else:
        make(mnt / name, size=size, lifetime="permanent")
        with opened(mnt / name) as fd:
            write_all(fd, data)
        unused(mnt / name)
    set_keys(mnt / name, lifetime=lifetime)
    return mnt / name, data


@pytest.mark.modes("cached")
def test_the_table_of_checks_is_complete(mnt):
    """doc/NT.md has W1 to W27, and says "not" or "here" of each as the tests below do."""
    with open(os.path.join(os.path.dirname(__file__), "../../doc/NT.md")) as file:
        rows = dict(re.findall(r"^\| W(\d+) \|(.*)$", file.read(), re.MULTILINE))
    assert list(map(int, rows)) == list(range(1, 28))
    asked = {name[6:8] for name in globals() if re.match(r"test_w\d\d_", name)}
    assert asked == {f"{int(number):02}" for number, row in rows.items()
                     if f"test_w{int(number):02}_" in row}
    assert set(range(1, 28)) - set(map(int, asked)) == {27}


def test_the_mount_has_nt_semantics(mnt):
    for name, value in (("lifetime", "temporary"), ("commit", "commit"), ("resize", "grow"),
                        ("delete", "busy")):
        assert key(mnt.path, name) == value
        make(mnt / name)
        assert key(mnt / name, name) == value


# --- Creation, sizes, names -----------------------------------------------------------------------

def test_w01_sections_over_files_have_exactly_the_size_asked_for(mnt, file):
    """W1, kernel32 virtual.c, NtQuerySection on file mappings."""
    real = file(0x4000)
    for size in (36, 0x3456, 0x3452):
        path = make(mnt / f"x{size}", file=real, length=size)
        assert os.stat(path).st_size == size
        assert key(path, "size") == str(size)
        assert read(path) == read(real)[:size]


def test_w02_page_sections_take_whole_pages(mnt):
    """W2, kernel32 virtual.c and ReactOS NtQuerySection.c. There the size that is told is rounded
    as well; here a size is what was asked for, and the memory is what is rounded."""
    for size, whole in (4090, 4096), (0x3452, 0x4000), (0x123, 0x1000):
        before = mnt.stats()["size_used"]
        path = make(mnt / f"x{size}", size=size, lifetime="permanent")
        assert os.stat(path).st_size == size
        assert os.stat(path).st_blocks * 512 == whole
        assert mnt.stats()["size_used"] - before == whole
        with opened(path) as fd:
            view = View(fd, whole)
            view.write(whole - 1, b"!")         # the whole page is there to be touched
            view.close()


def test_w03_without_a_size_it_has_the_files(mnt, file):
    """W3, kernel32 virtual.c and ReactOS ZwCreateSection.c."""
    for size in (1, 36, PAGE, 0x3456):
        make(mnt / f"x{size}", file=file(size))
        assert os.stat(mnt / f"x{size}").st_size == size


def test_w04_without_a_size_an_empty_file_is_refused(mnt, file):
    """W4, kernel32 virtual.c and file.c, ReactOS NtMapViewOfSection.c: FILE_INVALID."""
    real = file(b"")
    with refused(errno.EINVAL):
        make(mnt / "x", file=real)
    with refused(errno.EINVAL):
        make(mnt / "x", file=real, length=0)
    assert os.listdir(mnt.path) == [] and read(real) == b""


def test_w05_a_readonly_section_longer_than_its_file_is_refused(mnt, file):
    """W5, kernel32 virtual.c and ReactOS ZwCreateSection.c: SECTION_TOO_BIG."""
    real = file(36)
    for protect in ("readonly", "writecopy"):
        with refused(errno.EFBIG):
            make(mnt / "x", file=real, length=37, protect=protect)
    assert os.listdir(mnt.path) == []
    assert os.stat(real).st_size == 36 and read(real) == pattern("real", 36)


def test_w06_a_writable_section_longer_than_its_file_makes_it_longer(mnt, file):
    """W6, kernel32 virtual.c and ReactOS NtCreateSection.c: new bytes are zero and all of it can be
    written."""
    real = file(36)
    make(mnt / "x", file=real, length=3 * PAGE)
    assert os.stat(real).st_size == 3 * PAGE            # before the section is there
    assert read(real) == pattern("real", 36) + bytes(3 * PAGE - 36)
    with opened(mnt / "x") as fd:
        view = View(fd, 3 * PAGE)
        assert view.read(36, 1) == b"\0"
        for at in (36, PAGE, 3 * PAGE - 1):
            view.write(at, b"#")
        view.sync()
        view.close()
    content = read(real)
    assert len(content) == 3 * PAGE and content.count(b"#") - pattern("real", 36).count(b"#") == 3


def test_w07_a_section_shorter_than_its_file_does_not_shorten_it(mnt, file):
    """W7, kernel32 file.c and ReactOS ZwCreateSection.c."""
    real = file(b"sixsix")
    make(mnt / "x", file=real, length=4)
    assert read(mnt / "x") == b"sixs"
    assert read(real) == b"sixsix"


@pytest.mark.options("semantics=nt,size=64M")
def test_w08_too_large_not_enough_memory_and_huge_but_reserved(mnt, file):
    """W8, ReactOS ZwCreateSection.c and NtMapViewOfSection.c: each has an error of its own."""
    with refused(errno.EFBIG):                          # larger than any file
        make(mnt / "a", file=file(1), offset=1, length=(1 << 63) - 1)
    with refused(errno.ENOSPC):                         # promised memory that is not there
        make(mnt / "b", size=512 * GIB)
    with refused(errno.ENOSPC):
        make(mnt / "c", size=65 * MIB)
    assert os.listdir(mnt.path) == []
    make(mnt / "d", size=8 * TIB, commit="reserve")     # nothing is promised
    assert os.stat(mnt / "d").st_size == 8 * TIB


def test_w09_names_are_case_sensitive(mnt):
    """W9, kernel32 virtual.c."""
    make(mnt / "Foo", size=PAGE)
    for name in ("foo", "FOO"):
        with refused(errno.ENOENT):
            os.open(mnt / name, os.O_RDWR)
        make(mnt / name, size=2 * PAGE)
    assert sorted(os.listdir(mnt.path)) == ["FOO", "Foo", "foo"]


def test_w09_creating_an_existing_name_opens_it_with_the_size_it_has(mnt):
    """W9, kernel32 virtual.c: ALREADY_EXISTS comes with a handle of the existing object."""
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 3 * PAGE)
        os.pwrite(fd, b"first", 0)
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as second:
            assert os.fstat(second).st_size == 3 * PAGE
            assert os.pread(second, 5, 0) == b"first"
            assert os.path.sameopenfile(fd, second)


def test_w09_creating_an_existing_name_exclusively_collides(mnt):
    """W9, ReactOS NtCreateSection.c: NAME_COLLISION, and no handle."""
    make(mnt / "x", size=PAGE)
    with refused(errno.EEXIST):
        os.open(mnt / "x", os.O_CREAT | os.O_EXCL | os.O_RDWR)
    with refused(errno.EEXIST):
        make(mnt / "x", size=PAGE)


def test_w10_opening_a_name_that_is_not_there(mnt):
    """W10, kernel32 virtual.c and ReactOS CAtlFileMapping.cpp."""
    for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
        with refused(errno.ENOENT):
            os.open(mnt / "none", flags)


def test_w11_a_name_that_something_else_has(mnt):
    """W11, ntdll om.c: OBJECT_TYPE_MISMATCH."""
    os.mkdir(mnt / "d")
    make(mnt / "x", size=PAGE)
    with refused(errno.EISDIR):
        os.open(mnt / "d", os.O_CREAT | os.O_RDWR)
    with refused(errno.ENOTDIR):
        os.open(mnt / "x/y", os.O_CREAT | os.O_RDWR)
    with refused(errno.ENOTDIR):
        os.open(mnt / "x", os.O_RDONLY | os.O_DIRECTORY)
    with refused(errno.EEXIST):
        os.mkdir(mnt / "x")


def test_w11_created_without_any_access_it_can_be_created_but_not_opened_again(mnt, user):
    """W11, ntdll om.c: whoever creates has all rights by the handle, whatever the object grants."""
    def body():
        with opened(mnt / "x", os.O_CREAT | os.O_RDWR, 0) as fd:
            os.ftruncate(fd, PAGE)
            view = View(fd, PAGE)
            view.write(0, b"mine")
            for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
                with refused(errno.EACCES):
                    os.open(mnt / "x", flags)
            view.close()
    call(body, user=user)
    gone(mnt / "x")


# --- Sharing --------------------------------------------------------------------------------------

def test_w12_what_one_process_stores_another_reads_by_name(mnt):
    """W12, kernel32 virtual.c: a named page section from parent to child."""
    with opened(mnt / "winetest", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, PAGE)
        view = View(fd, PAGE)
        view.write(0, (0x1A2B3C4D).to_bytes(4, "little"))
        child = mnt.child()
        child.do("fd = os.open(path, os.O_RDONLY)\n"
                 "view = View(fd, PAGE, prot=mmap.PROT_READ)", path=mnt / "winetest")
        assert child.get("view.read(0, 4)") == bytes.fromhex("4d3c2b1a")
        child.kill()
        view.close()


@kinds
def test_w12_both_directions_and_through_two_mappings(mnt, file, kind):
    """W12, ReactOS ZwMapViewOfSection.c (a second process) and CAtlFileMapping.cpp (two mappings of
    one name in one process)."""
    path, _ = section(mnt, kind, file)
    with opened(path) as fd, opened(path) as again:
        one, two = View(fd, PAGE), View(again, PAGE)
        one.write(10, b"from one")
        assert two.read(10, 8) == b"from one"
        two.write(10, b"from two")
        assert one.read(10, 8) == b"from two"
        child = mnt.child()
        child.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE)", path=path)
        child.do("view.write(100, b'from the child')")
        assert one.read(100, 14) == b"from the child"
        two.write(100, b"FROM THE PARENT")
        assert child.get("view.read(100, 15)") == b"FROM THE PARENT"
        child.kill()
        one.close()
        two.close()


@kinds
def test_w12_a_store_is_read_at_once_and_a_view_begins_with_the_bytes(mnt, file, kind):
    """ReactOS ZwMapViewOfSection.c: the view starts with the file's content, a store in it is what
    ReadFile returns, and another process's store appears in it."""
    path, data = section(mnt, kind, file)
    with opened(path) as fd:
        view = View(fd, len(data))
        assert view.read(0, len(data)) == data
        view.write(PAGE, b"stored")
        assert os.pread(fd, 6, PAGE) == b"stored"
        child = mnt.child()
        child.do("fd = os.open(path, os.O_RDWR)\n"
                 "assert os.pread(fd, 6, PAGE) == b'stored'\n"
                 "view = View(fd, 2 * PAGE); view.write(5, b'theirs')", path=path)
        assert view.read(5, 6) == b"theirs"
        os.pwrite(fd, b"written", 50)
        assert view.read(50, 7) == b"written"
        child.kill()
        view.close()


def test_w12_a_store_that_was_not_flushed_is_in_the_next_section_over_the_file(mnt, file):
    """ReactOS NtMapViewOfSection.c: a new section over the file sees it, after the view is gone."""
    real = file(2 * PAGE)
    make(mnt / "x", file=real)
    with opened(mnt / "x") as fd:
        view = View(fd, PAGE)
        view.write(0, b"not flushed")
        view.close()
    make(mnt / "y", file=real)
    with opened(mnt / "y") as fd:
        view = View(fd, PAGE, prot=R)
        assert view.read(0, 11) == b"not flushed"
        view.close()


def test_w12_memory_that_one_view_touches_is_there_in_every_view(mnt):
    """kernel32 virtual.c and ReactOS NtMapViewOfSection.c: a page of a reserved section that is
    committed through one view is committed in all."""
    make(mnt / "x", size=16 * PAGE, commit="reserve")
    with opened(mnt / "x") as fd, opened(mnt / "x") as again:
        one, two = View(fd, 16 * PAGE), View(again, 16 * PAGE)
        one.write(7 * PAGE, b"there")
        assert two.read(7 * PAGE, 5) == b"there"
        assert two.read(8 * PAGE, PAGE) == bytes(PAGE)
        one.close()
        two.close()


@kinds
def test_w13_a_shared_write_is_seen_and_a_copy_on_write_is_not(mnt, file, kind):
    """W13, kernel32 virtual.c: a child with FILE_MAP_WRITE changes the parent's read-only view, one
    with FILE_MAP_COPY does not."""
    path, data = section(mnt, kind, file, lifetime="permanent")
    with opened(path, os.O_RDONLY) as fd:
        view = View(fd, len(data), prot=R)
        writer, copier = mnt.child(), mnt.child()
        writer.do("fd = os.open(path, os.O_RDWR); view = View(fd, PAGE)\n"
                  "view.write(0, b'shared')", path=path)
        copier.do("fd = os.open(path, os.O_RDWR); view = View(fd, 2 * PAGE)\n"
                  "view.write(PAGE, b'copied'); os.pwrite(fd, b'copied', 100)", path=mnt.cow("x"))
        assert view.read(0, 6) == b"shared"
        assert view.read(6, len(data) - 6) == data[6:]
        assert copier.get("view.read(PAGE, 6)") == b"copied"
        view.close()
        writer.kill()
        copier.kill()
    # The other kind that NT has, private to one mapping.
    with opened(path, os.O_RDONLY) as fd:
        private = View(fd, PAGE, flags=mmap.MAP_PRIVATE)
        private.write(0, b"private")
        assert os.pread(fd, 6, 0) == b"shared"
        private.close()


# --- Copy-on-write --------------------------------------------------------------------------------

def test_w14_a_copy_on_write_store_never_reaches_the_file(mnt, file):
    """W14, kernel32 virtual.c, where Wine itself fails: ReadFile still returns what was there after
    stores through a WRITECOPY view of a committed file section."""
    real = file(bytes(4 * PAGE))
    make(mnt / "x", file=real, protect="writecopy")
    before = sha(real), os.stat(real).st_mtime_ns
    with opened(mnt / "x") as fd:
        view = View(fd, 4 * PAGE)
        view.write(0, b"into the copy")
        view.write(2 * PAGE + 17, b"and here")
        os.pwrite(fd, b"written", 3 * PAGE)
        view.sync()
        os.fsync(fd)
        assert read(real) == bytes(4 * PAGE)
        assert view.read(0, 13) == b"into the copy"
        view.close()
    assert (sha(real), os.stat(real).st_mtime_ns) == before
    # A view that was for writing does not become another's: the file itself is still shared.
    make(mnt / "y", file=real)
    with opened(mnt / "y") as fd:
        view = View(fd, PAGE)
        assert view.read(0, 13) == bytes(13)
        view.close()


def test_w14_a_writable_view_turned_copy_on_write_does_not_leak(mnt, file):
    """W14, kernel32 virtual.c: the view that leaks in Wine was READWRITE and became WRITECOPY. Here
    the whole section is turned, which is refused while anybody has the other kind."""
    real = file(bytes(2 * PAGE))
    make(mnt / "x", file=real, lifetime="permanent")
    with opened(mnt / "x") as fd:
        with refused(errno.EBUSY):
            set_keys(mnt / "x", protect="writecopy")
        os.pwrite(fd, b"shared", 0)
    patiently(lambda: set_keys(mnt / "x", protect="writecopy"))
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"PRIVATE", 0)
        view = View(fd, PAGE)
        view.write(100, b"PRIVATE")
        view.close()
    assert read(real) == b"shared" + bytes(2 * PAGE - 6)


def test_w15_one_store_makes_one_page_private(mnt, file):
    """W15, kernel32 virtual.c: the next page is WRITECOPY still."""
    data = pattern("real", 8 * PAGE)
    make(mnt / "x", file=file(data), protect="writecopy")
    with opened(mnt / "x") as fd:
        view = View(fd, 8 * PAGE)
        view.write(3 * PAGE + 5, b"!")
        view.sync()
        assert os.getxattr(fd, "user.section.private") == b"4096"
        assert view.read(2 * PAGE, PAGE) == data[2 * PAGE:3 * PAGE]
        assert view.read(4 * PAGE, PAGE) == data[4 * PAGE:5 * PAGE]
        assert view.read(3 * PAGE, 6) == data[3 * PAGE:3 * PAGE + 5] + b"!"
        os.pwrite(fd, b"?", 6 * PAGE)
        assert os.getxattr(fd, "user.section.private") == b"8192"
        view.close()


@pytest.mark.parametrize("protect", ["readwrite", "readonly", "writecopy"])
@kinds
def test_w16_a_copy_on_write_view_is_allowed_on_every_section(mnt, file, kind, protect):
    """W16, kernel32 virtual.c and ReactOS ZwMapViewOfSection.c: FILE_MAP_COPY needs no more than
    reading; FILE_MAP_WRITE is refused unless the section is readwrite."""
    path, data = section(mnt, kind, file, lifetime="permanent")
    patiently(lambda: set_keys(path, protect=protect))
    with opened(mnt.cow("x")) as fd:
        view = View(fd, PAGE)
        view.write(0, b"copied")
        assert os.pread(fd, 6, 0) == b"copied"
        view.close()
    with opened(path, os.O_RDONLY) as fd:
        private = View(fd, PAGE, flags=mmap.MAP_PRIVATE)
        private.write(0, b"copied")
        private.close()
    if protect == "readonly":
        with refused(errno.EACCES):
            os.open(path, os.O_RDWR)
    assert read(path) == data
    if kind == "file":
        assert read(key(path, "file")) == data


# --- Protection -----------------------------------------------------------------------------------

def attempt(function):
    try:
        function()
    except OSError as error:
        return error.errno
    return 0


@kinds
def test_w17_a_handle_allows_what_it_was_opened_for(mnt, file, kind):
    """W17, kernel32 virtual.c: a handle with MAP_READ alone gives no writable view, one with
    MAP_WRITE alone no view at all (a view for writing is one for reading as well, there too)."""
    path, data = section(mnt, kind, file, lifetime="permanent")
    with opened(path, os.O_RDONLY) as fd:
        View(fd, PAGE, prot=R).close()
        with refused(errno.EACCES):
            View(fd, PAGE, prot=RW)
        with refused(errno.EBADF):
            os.pwrite(fd, b"x", 0)
    with opened(path, os.O_WRONLY) as fd:
        for prot in (R, mmap.PROT_WRITE, RW):
            with refused(errno.EACCES):
                View(fd, PAGE, prot=prot)
        with refused(errno.EBADF):
            os.pread(fd, 1, 0)
        os.pwrite(fd, data[:1], 0)
    with opened(path, os.O_RDWR) as fd:
        View(fd, PAGE, prot=RW).close()


def test_w17_without_any_access_there_is_no_handle(mnt, user):
    """W17, kernel32 virtual.c and advapi32 security.c."""
    make(mnt / "x", size=PAGE, mode=0o600)
    make(mnt / "r", size=PAGE, mode=0o644)

    def body():
        for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR):
            with refused(errno.EACCES):
                os.open(mnt / "x", flags)
        with refused(errno.EACCES):                     # nor may one query it
            key(mnt / "x", "size")
        for flags in (os.O_WRONLY, os.O_RDWR):
            with refused(errno.EACCES):
                os.open(mnt / "r", flags)
        with opened(mnt / "r", os.O_RDONLY) as fd:
            with refused(errno.EACCES):
                View(fd, PAGE)
    call(body, user=user)


def test_w18_a_file_that_may_only_be_read_backs_no_writable_section(mnt, file, user):
    """W18, kernel32 virtual.c: ACCESS_DENIED for PAGE_READWRITE over a file opened for reading, and
    for everything over one opened without access."""
    readable, closed = file(PAGE, "readable"), file(PAGE, "closed")
    os.chmod(readable, 0o644)
    os.chmod(closed, 0o600)

    def body():
        with refused(errno.EACCES):
            make(mnt / "x", file=readable, protect="readwrite")
        for protect in ("readwrite", "readonly", "writecopy"):
            with refused(errno.EACCES):
                make(mnt / "x", file=closed, protect=protect)
        for protect in ("readonly", "writecopy"):
            make(mnt / protect, file=readable, protect=protect)
        with refused(errno.EACCES):
            set_keys(mnt / "readonly", protect="readwrite")
    call(body, user=user)
    assert sorted(os.listdir(mnt.path)) == ["readonly", "writecopy"]


def test_w19_protections_that_do_not_exist_are_refused(mnt):
    """W19, kernel32 virtual.c and ReactOS ZwCreateSection.c: NOACCESS, bare EXECUTE, 0 and
    combinations."""
    make(mnt / "x", size=PAGE)
    for value in ("", "noaccess", "execute", "0", "writeonly", "READONLY", "readonly|readwrite",
                  "readonly,writecopy", "readonly\n", "readonly writecopy", "guard", "nocache",
                  "writecombine"):
        with refused(errno.EINVAL):
            set_keys(mnt / "x", protect=value)
        assert key(mnt / "x", "protect") == "readwrite"


ACCESS = {"r": os.O_RDONLY, "w": os.O_WRONLY, "rw": os.O_RDWR}
VIEWS = {"shared r": (mmap.MAP_SHARED, R), "shared w": (mmap.MAP_SHARED, mmap.PROT_WRITE),
         "shared rw": (mmap.MAP_SHARED, RW), "private r": (mmap.MAP_PRIVATE, R),
         "private rw": (mmap.MAP_PRIVATE, RW),
         "shared rx": (mmap.MAP_SHARED, R | mmap.PROT_EXEC),
         "private rwx": (mmap.MAP_PRIVATE, RW | mmap.PROT_EXEC)}


@kinds
def test_w20_the_matrix_of_protection_access_and_view(mnt, file, kind):
    """W20, kernel32 virtual.c, ReactOS ZwCreateSection.c and ZwMapViewOfSection.c: every view that
    goes beyond the section is refused, every other is allowed."""
    found, expected = {}, {}
    for protect in ("readwrite", "readonly", "writecopy"):
        path, _ = section(mnt, kind, file, name=protect, lifetime="permanent")
        patiently(lambda: set_keys(path, protect=protect))
        for access, flags in ACCESS.items():
            may_open = access == "r" or protect != "readonly"
            expected[protect, access] = 0 if may_open else errno.EACCES
            found[protect, access] = attempt(lambda: os.close(os.open(path, flags)))
            if not may_open:
                continue
            for view, (how, prot) in VIEWS.items():
                ok = "r" in access and ("w" in access or "private" in view or "w" not in
                                        view.split()[1])
                expected[protect, access, view] = 0 if ok else errno.EACCES
                with opened(path, flags) as fd:
                    found[protect, access, view] = attempt(
                        lambda: View(fd, PAGE, flags=how, prot=prot).close())
    assert found == expected


@pytest.mark.parametrize("access", ["read", "write"])
def test_w20_a_store_into_a_readonly_view_faults(mnt, access):
    """ReactOS ZwMapViewOfSection.c: as does a load from one without access."""
    make(mnt / "x", size=PAGE, lifetime="permanent")
    child = mnt.child()
    child.do("fd = os.open(path, os.O_RDONLY); view = View(fd, PAGE, prot=prot)", path=mnt / "x",
             prot=R if access == "write" else 0)
    child.begin("view.write(0, b'x')" if access == "write" else "view.read(0, 1)")
    assert child.wait() == -11                          # SIGSEGV


def test_w21_commit_and_reserve(mnt, file):
    """W21, kernel32 virtual.c, the rows of the flag matrix that are about COMMIT and RESERVE: both
    are accepted, also over a file, where they change nothing, and told afterwards."""
    for commit in ("commit", "reserve"):
        before = mnt.stats()["size_used"]
        real = file(PAGE, commit)
        path = make(mnt / f"file-{commit}", file=real, commit=commit)
        assert os.stat(real).st_blocks == os.stat(path).st_blocks
        assert key(path, "commit") == commit
        assert mnt.stats()["size_used"] == before
        path = make(mnt / f"page-{commit}", size=MIB, commit=commit)
        assert key(path, "commit") == commit
        assert mnt.stats()["size_used"] - before == (MIB if commit == "commit" else 0)


def test_w21_what_does_not_exist_here_is_refused(mnt):
    """W21, kernel32 virtual.c, the other rows: image, large-page, uncached and based sections."""
    make(mnt / "x", size=PAGE)
    for name in ("image", "nocache", "writecombine", "largepages", "based"):
        with refused(errno.EINVAL):
            set_keys(mnt / "x", **{name: "1"})
        with refused(errno.EINVAL):
            set_keys(mnt / "x", commit=name)


# --- Lifetime -------------------------------------------------------------------------------------

@kinds
def test_w22_memory_lives_as_long_as_the_last_view(mnt, file, place, kind):
    """W22, kernel32 virtual.c: all handles closed, the view is read and written still; with it
    memory and name go, and the same name can be created afresh. (There the name goes with the last
    handle; here with the view, or earlier by renaming it away.)"""
    path, data = section(mnt, kind, file)
    fd = os.open(path, os.O_RDWR)
    view = View(fd, len(data))
    os.close(fd)
    eventually(lambda: key(path, "opens") == "0" or mnt.mode == "cached")
    assert view.read(0, len(data)) == data
    view.write(0, b"alive")
    with opened(path) as again:                         # by name, while only the view is left
        assert os.pread(again, 5, 0) == b"alive"
    assert view.read(0, 5) == b"alive"
    view.close()
    gone(path)
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        assert os.fstat(fd).st_size == 0
        os.ftruncate(fd, len(data))
        assert os.pread(fd, len(data), 0) == bytes(len(data))
    if kind == "file":
        assert read(f"{place}/of-x")[:5] == b"alive"


@kinds
def test_w22_the_name_is_free_while_a_view_lives(mnt, file, kind):
    """W22, kernel32 virtual.c: the name can be created afresh while the old view lives. NT does it
    by itself, here it takes a rename, which delete=busy allows where unlinking is refused."""
    path, data = section(mnt, kind, file)
    fd = os.open(path, os.O_RDWR)
    view = View(fd, len(data))
    os.close(fd)
    with refused(errno.EBUSY):
        os.unlink(path)
    os.rename(path, mnt / "old")
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fresh:
        os.ftruncate(fresh, PAGE)
        assert os.pread(fresh, PAGE, 0) == bytes(PAGE)
        assert view.read(0, len(data)) == data
    gone(path)
    assert view.read(0, len(data)) == data
    view.close()
    gone(mnt / "old")


def test_w23_a_view_reads_the_file_after_every_handle_is_closed(mnt, file):
    """W23, ReactOS CAtlFileMapping.cpp: the file's handle and the section's are closed."""
    real = file(2 * PAGE)
    make(mnt / "x", file=real)
    fd = os.open(mnt / "x", os.O_RDONLY)
    view = View(fd, 2 * PAGE, prot=R)
    os.close(fd)
    os.unlink(real)
    assert view.read(0, 2 * PAGE) == pattern("real", 2 * PAGE)
    view.close()


PERMANENCE = [
    # what is done while it is open (o) or not (-), and whether it is there after that
    ("temporary", "o", False),
    ("permanent", "o", True),
    ("temporary permanent", "oo", True),
    ("permanent temporary", "oo", False),
    ("permanent temporary permanent", "ooo", True),
    ("temporary", "-", True),                   # waits for its first opener
    ("permanent", "-", True),
    ("permanent temporary", "--", True),
]


def test_w23_the_matrix_of_permanence(mnt):
    """W23, ntdll om.c: temporary objects vanish with their last handle, permanent ones stay, and
    either becomes the other."""
    for number, (steps, when, _) in enumerate(PERMANENCE):
        path = make(mnt / f"x{number}", size=PAGE)
        handles = []
        for value, open_now in zip(steps.split(), when):
            if open_now == "o" and not handles:
                handles.append(os.open(path, os.O_RDWR))
            set_keys(path, lifetime=value)
            assert key(path, "lifetime") == value
        for fd in handles:
            os.close(fd)
    eventually(lambda: mnt.stats()["handles"] == 0)
    eventually(lambda: set(os.listdir(mnt.path)) == {
        f"x{number}" for number, case in enumerate(PERMANENCE) if case[2]})
    # What is there now: permanent, or not yet opened.
    for name in os.listdir(mnt.path):
        os.close(os.open(mnt / name, os.O_RDONLY))
    eventually(lambda: set(os.listdir(mnt.path)) == {
        f"x{number}" for number, case in enumerate(PERMANENCE)
        if case[2] and case[0].endswith("permanent")})


def test_w23_only_its_owner_changes_its_permanence(mnt, user, other):
    """W23, ntdll om.c: NtMakeTemporaryObject needs the DELETE right."""
    call(make, mnt / "x", PAGE, 0o666, user=user)
    for lifetime in ("permanent", "temporary"):
        def body():
            with refused(errno.EPERM):
                set_keys(mnt / "x", lifetime=lifetime)
        call(body, user=other)
    assert key(mnt / "x", "lifetime") == "temporary"
    call(lambda: set_keys(mnt / "x", lifetime="permanent"), user=user)
    set_keys(mnt / "x", lifetime="temporary")           # root may


def test_w23_mapping_takes_no_handle(mnt):
    """ReactOS ZwMapViewOfSection.c: a view does not change the number of handles."""
    make(mnt / "x", size=PAGE)
    with opened(mnt / "x") as fd:
        view = View(fd, PAGE)
        assert key(mnt / "x", "opens") == "1"
        view.close()
        assert key(mnt / "x", "opens") == "1"


# --- Truncating, overwriting, deleting ------------------------------------------------------------

@kinds
@pytest.mark.parametrize("view_prot", [R, RW], ids=["read", "write"])
def test_w24_truncation_script(mnt, file, place, kind, view_prot):
    """W24, kernel32 file.c and ReactOS NtMapViewOfSection.c, step by step: with a section or a view
    alive the file may grow or keep its size, and no shrinking is allowed, however little; closing
    the section does not help while a view lives, unmapping does."""
    path, _ = section(mnt, kind, file, size=6)
    handle = os.open(path, os.O_RDWR)                   # the file, as it were
    mapping = os.open(path, os.O_RDONLY if view_prot == R else os.O_RDWR)   # its section

    def size():
        return os.fstat(handle).st_size

    # The section alone.
    os.ftruncate(handle, 8)                             # growing is allowed
    assert size() == 8
    os.ftruncate(handle, 8)                             # so is the size it has
    assert size() == 8
    for smaller in (7, 4, 0):                           # and nothing below it
        with refused(errno.ETXTBSY):
            os.ftruncate(handle, smaller)
        with refused(errno.ETXTBSY):
            os.truncate(path, smaller)
        assert size() == 8

    # The section and a view of 4 of its bytes: larger sizes than those are refused as well.
    view = View(mapping, 4, prot=view_prot)
    for smaller in (7, 3):
        with refused(errno.ETXTBSY):
            os.ftruncate(handle, smaller)
    os.ftruncate(handle, 9)
    assert size() == 9

    # The view alone.
    os.close(mapping)
    for smaller in (8, 3):
        with refused(errno.ETXTBSY):
            os.ftruncate(handle, smaller)
        with refused(errno.ETXTBSY):
            os.truncate(path, smaller)
    os.ftruncate(handle, 9)
    os.ftruncate(handle, 10)
    assert size() == 10

    # Neither.
    view.close()
    patiently(os.ftruncate, handle, 6)
    assert size() == 6
    os.ftruncate(handle, 0)
    assert size() == 0
    os.close(handle)

    if kind == "file":
        assert os.path.getsize(f"{place}/of-x") == 0


def test_w24_a_view_of_ones_own_forbids_it_as_well(mnt):
    """W24, kernel32 file.c: it is one process throughout, and its own view is what is in the way."""
    make(mnt / "x", size=2 * PAGE)
    with opened(mnt / "x") as fd:
        view = View(fd, PAGE)
        with refused(errno.ETXTBSY):
            os.ftruncate(fd, PAGE)
        view.close()
        patiently(os.ftruncate, fd, PAGE)


@kinds
def test_w25_what_is_mapped_cannot_be_overwritten_from_scratch(mnt, file, kind):
    """W25, kernel32 file.c: CREATE_ALWAYS and CopyFile onto a mapped file are USER_MAPPED_FILE."""
    path, data = section(mnt, kind, file, lifetime="permanent")
    fd = os.open(path, os.O_RDWR)
    view = View(fd, PAGE)
    os.close(fd)
    for flags in (os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_TRUNC | os.O_CREAT):
        with refused(errno.ETXTBSY):
            os.open(path, flags)
    source = file(b"other", "source")
    with refused(errno.ETXTBSY):
        shutil.copyfile(source, path)
    result = run("cp", source, path, ok=False)
    assert result.returncode != 0 and "busy" in result.stderr.lower()
    assert os.stat(path).st_size == len(data)
    assert view.read(0, PAGE) == data[:PAGE]
    view.close()
    patiently(shutil.copyfile, source, path)
    assert read(path) == b"other"


@kinds
@pytest.mark.parametrize("holds", ["handle", "view"])
def test_w26_what_is_in_use_cannot_be_deleted(mnt, file, kind, holds):
    """W26, ntdll file.c: the four cases, CANNOT_DELETE with a section or a view, allowed after."""
    path, data = section(mnt, kind, file, lifetime="permanent")
    fd = os.open(path, os.O_RDWR)
    view = View(fd, PAGE) if holds == "view" else None
    if view:
        os.close(fd)
    make(mnt / "y", size=PAGE, lifetime="permanent")
    with refused(errno.EBUSY):
        os.unlink(path)
    with refused(errno.EBUSY):
        os.rename(mnt / "y", path)                      # which would delete it too
    assert read(path) == data and os.path.exists(mnt / "y")
    if view:
        view.close()
    else:
        os.close(fd)
    patiently(os.unlink, path)
    with refused(errno.ENOENT):
        os.stat(path)


def test_w26_what_is_in_use_can_be_renamed_and_exchanged(mnt):
    """kernel32 file.c refuses to rename a mapped file unless its opener shares deleting. Sharing
    modes do not exist here: all share all, and only losing the name altogether is refused."""
    make(mnt / "x", size=PAGE, lifetime="permanent")
    make(mnt / "y", size=2 * PAGE, lifetime="permanent")
    with opened(mnt / "x") as fd:
        os.pwrite(fd, b"x", 0)
        os.rename(mnt / "x", mnt / "z")
        renameat2(mnt / "y", mnt / "z", RENAME_EXCHANGE)
        assert os.stat(mnt / "y").st_ino == os.fstat(fd).st_ino
        assert stat.S_ISREG(os.stat(mnt / "z").st_mode)
        assert os.stat(mnt / "z").st_size == 2 * PAGE
