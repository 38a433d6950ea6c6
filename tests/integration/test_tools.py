# SPDX-License-Identifier: MIT
"""The everyday tools, run as programs, do what a person expects."""

import os
import re
import stat

import pytest

from util import KIB, MIB, opened, pattern, read, write

posix = pytest.mark.posix
every_mode = pytest.mark.modes("passthrough", "cached", "user")


@pytest.fixture
def files(mnt):
    """A small tree: x (10000 bytes), d/y (5 bytes), a link to x."""
    def body():
        write(mnt / "x", pattern("x", 10000))
        os.mkdir(mnt / "d")
        write(mnt / "d/y", b"five\n")
        os.symlink("x", mnt / "link")
    mnt.run(body)


@posix
@every_mode
def test_ls_lists_names_but_no_dot_names(mnt, files):
    assert mnt.tool("ls", mnt.path).stdout == "d\nlink\nx\n"
    assert mnt.tool("ls", "-A", mnt.path).stdout == "d\nlink\nx\n"
    assert mnt.tool("ls", "-a", mnt.path).stdout == ".\n..\nd\nlink\nx\n"
    line = mnt.tool("ls", "-ln", mnt / "x").stdout.split()
    assert line[0] == "-rw-r--r--"
    assert line[4] == "10000"
    assert "link -> x" in mnt.tool("ls", "-l", mnt.path).stdout


@posix
@every_mode
def test_stat_prints_the_facts(mnt, files):
    out = mnt.tool("stat", "-c", "%F %s %a %h %u", mnt / "x").stdout
    owner = mnt.user.uid if mnt.user else 0
    assert out == f"regular file 10000 644 1 {owner}\n"
    assert mnt.tool("stat", "-c", "%F", mnt / "d").stdout == "directory\n"
    assert mnt.tool("stat", "-c", "%F", mnt / "link").stdout == "symbolic link\n"
    assert mnt.tool("stat", "-L", "-c", "%s", mnt / "link").stdout == "10000\n"


def test_stat_f_says_fuse(mnt):
    assert mnt.tool("stat", "-f", "-c", "%T", mnt.path).stdout.startswith("fuse")


@posix
@every_mode
def test_cat_and_shell_redirection(mnt, files):
    assert mnt.tool("cat", mnt / "d/y").stdout == "five\n"
    mnt.tool("sh", "-c", 'cd "$0" && echo hello > new && echo again >> new && cat < new > copy',
             mnt.path)
    assert mnt.run(read, mnt / "copy") == b"hello\nagain\n"


@posix
@every_mode
def test_cp_copies_and_cmp_agrees(mnt, files):
    mnt.tool("cp", mnt / "x", mnt / "y")
    mnt.tool("cmp", mnt / "x", mnt / "y")
    mnt.tool("cp", "-p", mnt / "x", mnt / "p")
    assert mnt.run(os.stat, mnt / "p").st_mtime_ns == mnt.run(os.stat, mnt / "x").st_mtime_ns
    mnt.run(write, mnt / "y", pattern("x", 9999) + b"?")
    assert mnt.tool("cmp", mnt / "x", mnt / "y", ok=False).returncode == 1


@posix
@every_mode
def test_cp_a_copies_a_tree(mnt, files):
    mnt.tool("mkdir", mnt / "to")
    mnt.tool("cp", "-a", mnt / "x", mnt / "d", mnt / "link", mnt / "to")
    mnt.tool("diff", "-r", mnt / "d", mnt / "to/d")
    mnt.tool("cmp", mnt / "x", mnt / "to/link")
    assert mnt.run(os.readlink, mnt / "to/link") == "x"


@posix
def test_cp_a_from_and_to_another_filesystem(mnt, files, place):
    mnt.tool("cp", "-a", mnt / "d", f"{place}/out")
    mnt.tool("cp", "-a", f"{place}/out", mnt / "back")
    assert read(mnt / "back/y") == b"five\n"


@posix
def test_tar_packs_and_unpacks(mnt, files):
    mnt.tool("tar", "-C", mnt.path, "-cf", mnt / "../all.tar", "x", "d", "link")
    mnt.tool("mkdir", mnt / "un")
    mnt.tool("tar", "-C", mnt / "un", "-xpf", mnt / "../all.tar")
    mnt.tool("cmp", mnt / "x", mnt / "un/x")
    assert read(mnt / "un/d/y") == b"five\n"


@posix
@every_mode
def test_dd_writes_blocks_in_place(mnt, files):
    mnt.tool("dd", "if=/dev/zero", f"of={mnt / 'x'}", "bs=1000", "seek=2", "count=3", "conv=notrunc")
    data = pattern("x", 10000)
    assert mnt.run(read, mnt / "x") == data[:2000] + bytes(3000) + data[5000:]
    mnt.tool("dd", f"if={mnt / 'x'}", f"of={mnt / 'copy'}", "bs=4096", "conv=fsync")
    mnt.tool("cmp", mnt / "x", mnt / "copy")
    mnt.tool("dd", "if=/dev/zero", f"of={mnt / 'big'}", "bs=1M", "count=8")
    assert mnt.run(os.stat, mnt / "big").st_size == 8 * MIB


@pytest.mark.options("size=64M")
@every_mode
def test_df_shows_size_use_and_type(mnt):
    mnt.tool("dd", "if=/dev/zero", f"of={mnt / 'x'}", "bs=1M", "count=16")
    line = mnt.tool("df", "-Tk", mnt.path).stdout.splitlines()[1].split()
    assert line[:2] == ["sectionfs", "fuse.sectionfs"]
    assert int(line[2]) == 64 * 1024
    assert 16 * 1024 <= int(line[3]) < 18 * 1024
    assert int(line[4]) == int(line[2]) - int(line[3])
    assert line[6] == mnt.path
    line = mnt.tool("df", "-i", mnt.path).stdout.splitlines()[1].split()
    assert int(line[1]) > 1000 and int(line[2]) >= 1


@posix
@every_mode
def test_du_counts_what_is_really_there(mnt):
    mnt.tool("mkdir", mnt / "d")
    mnt.tool("dd", "if=/dev/zero", f"of={mnt / 'd/x'}", "bs=1M", "count=4")
    mnt.tool("truncate", "-s", "1G", mnt / "d/sparse")
    amount = int(mnt.tool("du", "-sk", mnt / "d").stdout.split()[0])
    assert 4096 <= amount < 4096 + 64
    amount = int(mnt.tool("du", "-sk", "--apparent-size", mnt / "d").stdout.split()[0])
    assert amount >= 4096 + 1024 * 1024


def test_du_and_find_do_not_walk_into_the_dot_names(mnt, files):
    found = mnt.tool("find", mnt.path).stdout.split()
    assert sorted(found) == sorted([mnt.path, mnt / "x", mnt / "d", mnt / "d/y", mnt / "link"])
    assert ".cow" not in mnt.tool("du", "-a", mnt.path).stdout


@posix
@every_mode
def test_truncate_tool(mnt):
    mnt.tool("truncate", "-s", "64M", mnt / "x")
    assert mnt.run(os.stat, mnt / "x").st_size == 64 * MIB
    mnt.tool("truncate", "-s", "-1M", mnt / "x")
    assert mnt.run(os.stat, mnt / "x").st_size == 63 * MIB
    mnt.tool("truncate", "-r", mnt / "x", mnt / "y")
    assert mnt.run(os.stat, mnt / "y").st_size == 63 * MIB


@posix
@every_mode
def test_fallocate_tool(mnt):
    mnt.tool("fallocate", "-l", "1M", mnt / "x")
    status = mnt.run(os.stat, mnt / "x")
    assert status.st_size == MIB and status.st_blocks * 512 >= MIB
    mnt.tool("fallocate", "-p", "-o", "0", "-l", "512K", mnt / "x")
    status = mnt.run(os.stat, mnt / "x")
    assert status.st_size == MIB and status.st_blocks * 512 < MIB


@pytest.mark.parametrize("tree", ["", ".cow/"])
@every_mode
def test_getfattr_shows_what_a_section_is(mnt, files, tree):
    out = mnt.tool("getfattr", "--absolute-names", "-d", mnt / f"{tree}x").stdout
    assert 'user.section.kind="page"' in out
    assert mnt.tool("getfattr", "--absolute-names", "--only-values", "-n", "user.section.size",
                    mnt / "x").stdout == "10000"


@posix
@every_mode
def test_mv_renames_and_replaces(mnt, files):
    mnt.tool("mv", mnt / "x", mnt / "d/z")
    assert mnt.run(read, mnt / "d/z") == pattern("x", 10000)
    mnt.tool("mv", mnt / "d/z", mnt / "d/y")
    assert mnt.run(read, mnt / "d/y") == pattern("x", 10000)
    assert mnt.run(os.listdir, mnt / "d") == ["y"]
    mnt.tool("mv", mnt / "d", mnt / "e")
    assert mnt.run(os.listdir, mnt / "e") == ["y"]


@posix
def test_mv_from_and_to_another_filesystem(mnt, files, place):
    mnt.tool("mv", mnt / "x", f"{place}/x")
    assert read(f"{place}/x") == pattern("x", 10000)
    mnt.tool("mv", f"{place}/x", mnt / "y")
    assert read(mnt / "y") == pattern("x", 10000)


@posix
@every_mode
def test_ln_makes_hard_and_symbolic_links(mnt, files):
    mnt.tool("ln", mnt / "x", mnt / "hard")
    mnt.tool("ln", "-s", "d/y", mnt / "soft")
    assert mnt.run(os.stat, mnt / "x").st_nlink == 2
    assert mnt.run(read, mnt / "soft") == b"five\n"
    mnt.tool("rm", mnt / "x")
    assert mnt.run(read, mnt / "hard") == pattern("x", 10000)


@posix
@every_mode
def test_mkdir_p_find_and_rm_r(mnt, files):
    mnt.tool("mkdir", "-p", mnt / "a/b/c/d")
    mnt.tool("touch", mnt / "a/b/c/file")
    out = mnt.tool("find", mnt / "a", "-type", "f").stdout
    assert out == mnt / "a/b/c/file\n"
    mnt.tool("rm", "-r", mnt / "a", mnt / "d", mnt / "x", mnt / "link")
    assert mnt.run(os.listdir, mnt.path) == []


def test_rm_r_of_everything_leaves_a_working_mount(mnt, files):
    """rm -rf MNT removes what is listed and fails only on the mountpoint itself."""
    mnt.tool("find", mnt.path, "-mindepth", "1", "-delete")
    assert os.listdir(mnt.path) == []
    assert read(mnt / ".stats")
    write(mnt / "x", b"again")
    assert read(mnt.cow("x")) == b"again"


@posix
@every_mode
def test_touch_and_chmod(mnt, files):
    mnt.tool("touch", "-d", "2001-02-03 04:05:06 UTC", mnt / "x")
    assert mnt.run(os.stat, mnt / "x").st_mtime == 981173106
    mnt.tool("chmod", "u+x,go-r", mnt / "x")
    assert stat.S_IMODE(mnt.run(os.stat, mnt / "x").st_mode) == 0o700


@posix
def test_sort_grep_sed_in_place(mnt):
    write(mnt / "lines", b"c\nb\na\n")
    mnt.tool("sort", "-o", mnt / "lines", mnt / "lines")
    mnt.tool("sed", "-i", "s/b/B/", mnt / "lines")
    assert read(mnt / "lines") == b"a\nB\nc\n"
    assert mnt.tool("grep", "-c", ".", mnt / "lines").stdout == "3\n"


def test_tools_on_a_copy_on_write_name(mnt, files):
    """cat, cp, cmp and sha256sum read it; a program given the name may write into its own view."""
    assert mnt.tool("cat", mnt.cow("d/y")).stdout == "five\n"
    mnt.tool("cmp", mnt / "x", mnt.cow("x"))
    mnt.tool("cp", mnt.cow("x"), mnt / "copy")
    mnt.tool("cmp", mnt / "x", mnt / "copy")
    mnt.tool("sh", "-c", 'exec 3<> "$0"; echo scribble >&3; cat "$0" | cmp - "$1" && '
             'head -c 8 /proc/self/fd/3 | grep -q scribble', mnt.cow("x"), mnt / "x")
    mnt.tool("dd", "if=/dev/zero", f"of={mnt.cow('x')}", "bs=4096", "count=2", "conv=notrunc")
    assert read(mnt / "x") == pattern("x", 10000)


def test_text_files_for_people_end_in_a_newline(mnt, files):
    for name in (mnt / ".stats", mnt.info("x"), mnt.info("d/y")):
        text = mnt.tool("cat", name).stdout
        assert text.endswith("\n")
        for line in text.splitlines():
            assert re.match(r"[a-z0-9_]+:( |$)", line), line


@posix
def test_large_copy_with_dd_direct_sizes(mnt, place):
    """Odd block sizes from and to a disk."""
    write(f"{place}/in", pattern("large", 5 * MIB + 321))
    mnt.tool("dd", f"if={place}/in", f"of={mnt / 'x'}", "bs=100001")
    mnt.tool("dd", f"if={mnt / 'x'}", f"of={place}/out", "bs=7777")
    mnt.tool("cmp", f"{place}/in", f"{place}/out")
    with opened(mnt / "x") as fd:
        assert os.fstat(fd).st_size == 5 * MIB + 321
        assert os.fstat(fd).st_blksize >= 4 * KIB
