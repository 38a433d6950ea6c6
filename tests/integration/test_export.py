# SPDX-License-Identifier: MIT
"""sectionctl cow export: a view as a new file, which is there as a whole or not at all."""

import contextlib
import os
import pty
import re
import select
import shutil
import signal
import subprocess

import pytest

from test_views import define, loop  # noqa: F401 (a fixture)
from util import (GIB, KIB, MIB, MNT_DETACH, MS_NOSUID, PAGE, clean_environment, eventually, kill, mount,
                  mounts_at, opened, pattern, punch, read, sha, umount, write)

PIECES = 1 << 14        # of data, between holes: each of them is asked for


def path_of(fd):
    return f"/proc/{os.getpid()}/fd/{fd}"


@pytest.fixture
def pieces(mnt):
    """A view that takes a while to export, by its path."""
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        for piece in range(PIECES):
            os.pwrite(fd, b"%d" % piece, 4 * PAGE * piece)
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    os.pwrite(fd, b"own", PAGE)
    yield path_of(fd)
    with contextlib.suppress(OSError):      # of a mount that is gone
        os.close(fd)


@pytest.fixture
def out(place):
    """FILE, alone in its directory."""
    os.mkdir(f"{place}/out")
    return f"{place}/out/file"


def left_in_place_of(file):
    return os.listdir(os.path.dirname(file))


@pytest.fixture
def begin(session):
    """Starts an export and waits until some of it is copied."""
    def start(view, file):
        process = subprocess.Popen([session.programs.sectionctl, "cow", "export", view, file],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=clean_environment())

        def has_begun():
            return int(re.search(r"wchar: (\d+)", read(f"/proc/{process.pid}/io").decode())[1]) > 0
        eventually(has_begun)
        return process
    return start


def test_export_is_as_the_view_is(mnt, ctl, pieces, out):
    ctl("cow", "export", pieces, out)
    assert sha(out) == sha(pieces)
    assert os.stat(out).st_size == os.stat(pieces).st_size
    assert os.stat(out).st_mode & 0o777 == 0o644


def interrupt(process, number):
    process.send_signal(number)
    assert process.communicate() == ("", "") and process.returncode == -number


# --- Its end --------------------------------------------------------------------------------------

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_export_that_is_interrupted_leaves_nothing(mnt, ctl, pieces, out, begin, number):
    interrupt(begin(pieces, out), number)
    assert left_in_place_of(out) == []
    ctl("cow", "export", pieces, out)
    assert sha(out) == sha(pieces)


@pytest.mark.parametrize("size", ["256k", "1m"])
def test_export_without_room_leaves_nothing(mnt, ctl, place, size):
    write(mnt / "x", pattern("x", 2 * MIB))
    where = f"{place}/small"
    os.mkdir(where)
    mount("tmpfs", where, "tmpfs", MS_NOSUID, f"size={size}")
    with opened(mnt.cow("x")) as fd:
        result = ctl("cow", "export", path_of(fd), f"{where}/out", ok=False)
        assert result.returncode == 1
        assert result.stderr == f"sectionctl: export {where}/out: there is no room for it\n"
        assert os.listdir(where) == [] and os.statvfs(where).f_bfree == os.statvfs(where).f_blocks
    umount(where)


def test_export_of_a_mount_that_ends_leaves_nothing(mnt, pieces, out, begin):
    mnt.log_is_fine = "the keeper is gone"
    process = begin(pieces, out)
    mnt.note_processes()
    kill(mnt.keeper)
    said = process.communicate()[1]
    assert process.returncode == 1 and said.startswith(f"sectionctl: export {pieces}: "), said
    assert left_in_place_of(out) == []
    assert mnt.wait_gone() == []


def test_export_of_a_mount_that_is_taken_off_goes_on(mnt, pieces, out, begin):
    """With -l it stays for those who have its files open."""
    mnt.note_processes()
    process = begin(pieces, out)
    umount(mnt.path, MNT_DETACH)
    assert process.communicate() == ("", "") and process.returncode == 0
    assert sha(out) == sha(pieces)


def test_export_of_a_view_that_is_cut_leaves_nothing(mnt, pieces, out, begin):
    process = begin(pieces, out)
    os.truncate(pieces, PAGE)
    said = process.communicate()[1]
    assert said == f"sectionctl: export {pieces}: it was made shorter meanwhile\n"
    assert process.returncode == 1 and left_in_place_of(out) == []


def test_export_of_a_view_that_grows_is_as_large_as_it_was(mnt, pieces, out, begin):
    size = os.stat(pieces).st_size
    process = begin(pieces, out)
    os.truncate(pieces, 2 * size)
    assert process.wait() == 0
    assert os.stat(out).st_size == size
    os.truncate(pieces, size)
    assert sha(out) == sha(pieces)


@pytest.mark.parametrize("where, said", [
    ("out", "it exists already"), ("link", "it exists already"),
    ("none/out", "its directory does not exist"),
    ("", "must end in the name of a file"), ("..", "must end in the name of a file"),
    ("out/out", "Not a directory"), (300 * "n", "File name too long")])
def test_export_names_the_file_where_that_is_wrong(mnt, ctl, place, where, said):
    write(mnt / "x", b"data")
    write(f"{place}/out", b"there")
    os.symlink("nowhere", f"{place}/link")
    before = sorted(os.listdir(place))
    with opened(mnt.cow("x")) as fd:
        result = ctl("cow", "export", path_of(fd), f"{place}/{where}", ok=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"sectionctl: export {place}/{where}: ") and said in result.stderr
    assert sorted(os.listdir(place)) == before and read(f"{place}/out") == b"there"


def test_export_does_not_replace_what_was_made_meanwhile(mnt, pieces, out, begin):
    process = begin(pieces, out)
    write(out, b"somebody else's")
    said = process.communicate()[1]
    assert process.returncode == 1 and said == f"sectionctl: export {out}: it exists already\n"
    assert left_in_place_of(out) == ["file"] and read(out) == b"somebody else's"


def test_export_needs_the_right_to_make_the_file(mnt, ctl, place, user):
    os.mkdir(f"{place}/closed", 0o755)
    write(mnt / "x", b"data")
    os.setxattr(mnt / "x", "user.section.protect", b"writecopy")
    os.setxattr(mnt / "x", "user.section.cow", b"section")
    with opened(mnt / "x"):
        result = ctl("cow", "export", mnt / "x", f"{place}/closed/out", user=user, ok=False)
        assert result.returncode == 1 and f"closed/out: you have no permission" in result.stderr
        ctl("cow", "export", mnt / "x", f"{place}/out", user=user)
    assert read(f"{place}/out") == b"data" and os.stat(f"{place}/out").st_uid == user.uid


# --- Where files have a name from the start -------------------------------------------------------

@pytest.fixture
def named(place):
    """FILE on a file system without O_TMPFILE."""
    program = shutil.which("fuse-overlayfs")
    if program is None:
        pytest.skip("there is no fuse-overlayfs")
    for name in ("lower", "upper", "work", "merged"):
        os.mkdir(f"{place}/{name}")
    where = f"{place}/merged"
    process = subprocess.Popen([program, "-f", "-o", f"lowerdir={place}/lower,upperdir={place}/upper,"
                                f"workdir={place}/work", where], env=clean_environment())
    eventually(lambda: mounts_at(where) or process.poll() is not None)
    if process.poll() is not None:
        pytest.skip("fuse-overlayfs does not run here")
    try:
        with contextlib.suppress(OSError), opened(where, os.O_TMPFILE | os.O_RDWR):
            pytest.skip("fuse-overlayfs has O_TMPFILE")
        yield f"{where}/file"
    finally:
        umount(where)
        process.wait(10)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_export_without_nameless_files(mnt, ctl, pieces, named, begin, number):
    interrupt(begin(pieces, named), number)
    assert left_in_place_of(named) == []
    process = begin(pieces, named)
    os.truncate(pieces, PAGE)
    assert "shorter" in process.communicate()[1] and left_in_place_of(named) == []
    ctl("cow", "export", pieces, named)
    assert sha(named) == sha(pieces)
    result = ctl("cow", "export", pieces, named, ok=False)
    assert result.returncode == 1 and f"export {named}: it exists already" in result.stderr
    assert left_in_place_of(named) == ["file"]


# --- Holes ----------------------------------------------------------------------------------------

def check_holes(ctl, fd, out, most):
    """The file has holes, and reads as the view does."""
    ctl("cow", "export", path_of(fd), out)
    assert sha(out) == sha(path_of(fd)) and os.stat(out).st_size == os.fstat(fd).st_size
    assert os.stat(out).st_blocks * 512 <= most


def test_export_keeps_holes(mnt, ctl, out):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, GIB)
        os.pwrite(fd, b"base", 512 * MIB)
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"own", 700 * MIB)
        ctl("cow", "export", path_of(fd), out)
    with opened(out) as copy:
        assert os.fstat(copy).st_size == GIB and os.fstat(copy).st_blocks * 512 <= MIB
        assert os.pread(copy, 4, 512 * MIB) == b"base" and os.pread(copy, 3, 700 * MIB) == b"own"


def test_export_keeps_holes_of_a_small_view(mnt, ctl, out):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 200 * KIB + 1)
        os.pwrite(fd, b"base", 100 * KIB)
    with opened(mnt.cow("x")) as fd:
        os.pwrite(fd, b"own", 150 * KIB)
        assert mnt.mode != "passthrough" or os.getxattr(fd, "user.section.mode") == b"copy"
        check_holes(ctl, fd, out, 32 * KIB)


@pytest.mark.parametrize("size", [200 * KIB, 4 * MIB])
def test_export_keeps_holes_that_were_punched(mnt, ctl, out, size):
    write(mnt / "x", pattern("x", size))
    with opened(mnt.cow("x")) as fd:
        punch(fd, 4 * PAGE, size - 8 * PAGE)
        check_holes(ctl, fd, out, 64 * KIB)
        os.ftruncate(fd, PAGE)
        os.ftruncate(fd, 64 * MIB)
        os.unlink(out)
        check_holes(ctl, fd, out, 64 * KIB)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_export_keeps_holes_of_a_clone(new_mount, ctl, out, loop, kind):  # noqa: F811
    mnt = new_mount("passthrough")
    where = loop(kind)
    with opened(f"{where}/real", os.O_CREAT | os.O_RDWR) as real:
        os.ftruncate(real, 64 * MIB)
        os.pwrite(real, pattern("real", MIB), 32 * MIB)
    define(mnt / "x", f"{where}/real")
    with opened(mnt.cow("x")) as fd:
        assert os.getxattr(fd, "user.section.mode") == b"clone"
        os.pwrite(fd, b"own", 50 * MIB)
        punch(fd, 32 * MIB, 512 * KIB)
        check_holes(ctl, fd, out, MIB)
    os.unlink(mnt / "x")
    eventually(lambda: mnt.stats()["sections"] == 0)


# --- Progress -------------------------------------------------------------------------------------

def on_terminal(program, *words):
    """What it says on a terminal, and its status."""
    pid, master = pty.fork()
    if pid == 0:
        os.execve(program, [program, *words], clean_environment())
    shown = b""
    with contextlib.suppress(OSError):              # EIO: nobody has the other end any more
        while select.select([master], [], [], 10)[0]:
            shown += os.read(master, 65536)
    os.close(master)
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_export_shows_its_progress_on_a_terminal_alone(mnt, session, ctl, place):
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, bytes(64 * MIB), 0)
    with opened(mnt.cow("x")) as fd:
        view = path_of(fd)
        shown, status = on_terminal(session.programs.sectionctl, "cow", "export", view, f"{place}/out")
        assert status == 0
        assert re.fullmatch(r"(\r\[#* *\] +\d+%)+\r\n", shown), shown
        steps = [int(part) for part in re.findall(r"(\d+)%", shown)]
        assert steps == [0, 25, 50, 75, 100]
        assert {len(bar) for bar in re.findall(r"\[(.*?)\]", shown)} == {40}
        assert ctl("cow", "export", view, f"{place}/quiet").stderr == ""


def test_export_ends_the_line_of_its_progress_before_it_complains(mnt, session, place):
    write(mnt / "x", pattern("x", 2 * MIB))
    where = f"{place}/small"
    os.mkdir(where)
    mount("tmpfs", where, "tmpfs", MS_NOSUID, "size=1m")
    with opened(mnt.cow("x")) as fd:
        shown, status = on_terminal(session.programs.sectionctl, "cow", "export", path_of(fd),
                                    f"{where}/out")
        assert status == 1
        assert re.fullmatch(r"(\r\[#* *\] +\d+%)+\r\nsectionctl: export [^\r]* no room for it\r\n", shown)
        write(f"{where}/there", b"")                # without one there is none to end
        shown, status = on_terminal(session.programs.sectionctl, "cow", "export", path_of(fd),
                                    f"{where}/there")
        assert status == 1 and shown.startswith("sectionctl: ")
    umount(where)


def test_export_of_nothing(mnt, session, ctl, place):
    write(mnt / "x", b"")
    with opened(mnt.cow("x")) as fd:
        shown, status = on_terminal(session.programs.sectionctl, "cow", "export", path_of(fd),
                                    f"{place}/out")
        assert status == 0 and shown.endswith("] 100%\r\n") and read(f"{place}/out") == b""
