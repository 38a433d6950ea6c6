# SPDX-License-Identifier: MIT
"""What test_compare.py tries, and the differences that are meant to be.

A case is Python, in which the recorded calls of test_compare.World, the constants of os, stat,
fcntl, mmap and select, and P (a page) have their plain names. A call that fails does not end the
case: its error is recorded. The working directory is empty and the case's own.
"""

import collections

ALL = ("page", "file", "cow", "cowfile")
REAL = ("page", "file")
PAGE = ("page",)

GROUPS = {}


def group(name, kinds, cases):
    GROUPS[name] = (kinds, cases)


# --- Opening --------------------------------------------------------------------------------------

OPEN_FLAGS = [
    "O_RDONLY", "O_WRONLY", "O_RDWR", "O_WRONLY | O_RDWR", "O_RDWR | O_CREAT", "O_RDWR | O_CREAT | O_EXCL",
    "O_RDONLY | O_CREAT | O_EXCL", "O_RDONLY | O_TRUNC", "O_WRONLY | O_TRUNC", "O_WRONLY | O_CREAT | O_TRUNC",
    "O_RDWR | O_APPEND", "O_WRONLY | O_APPEND | O_TRUNC", "O_DIRECTORY", "O_DIRECTORY | O_RDWR", "O_NOFOLLOW",
    "O_RDWR | O_NOFOLLOW | O_CREAT", "O_DIRECTORY | O_NOFOLLOW", "O_DIRECTORY | O_CREAT", "O_PATH",
    "O_PATH | O_NOFOLLOW", "O_PATH | O_DIRECTORY", "O_NOATIME", "O_WRONLY | O_SYNC", "O_WRONLY | O_DSYNC",
    "O_RDWR | O_DIRECT", "O_RDWR | O_TMPFILE", "O_RDONLY | O_TMPFILE", "O_WRONLY | O_TMPFILE | O_EXCL",
    "O_RDWR | O_NONBLOCK",
]

OPEN_TARGETS = {
    "a file": ("base('x', b'content')", "x"),
    "an empty file": ("base('x')", "x"),
    "a file of no permissions": ("base('x', b'content', mode=0)", "x"),
    "a file with a slash after it": ("base('x', b'content')", "x/"),
    "below a file": ("base('x', b'content')", "x/y"),
    "the empty path": ("", ""),
}
NEW_TARGETS = {
    "nothing": ("", "x"),
    "nothing with a slash": ("", "x/"),
    "in a missing directory": ("", "d/x"),
    "a directory": ("mkdir('x')", "x"),
    "a directory with a slash": ("mkdir('x')", "x/"),
    "dot": ("", "."),
    "a link to a file": ("base('f', b'content'); symlink('f', 'x')", "x"),
    "a link to nothing": ("symlink('f', 'x')", "x"),
    "a link to a directory": ("mkdir('d'); symlink('d', 'x')", "x"),
    "a link to itself": ("symlink('x', 'x')", "x"),
    "a fifo": ("mknod('x', S_IFIFO | 0o644); fd = open('x', O_RDWR)", "x"),
    "a socket": ("mknod('x', S_IFSOCK | 0o644)", "x"),
}


def opens(targets, tree):
    return {f"{target}, {flags}": f"""
        {setup}
        fd = open({path!r}, {flags} | O_NONBLOCK, 0o640)
        getfl(fd)
        fstat(fd)
        read(fd, 3)
        write(fd, b"AB")
        fstat(fd)
        {tree}
    """ for target, (setup, path) in targets.items() for flags in OPEN_FLAGS}


group("open", ALL, {k: v for k, v in opens(OPEN_TARGETS, "pass").items()
                    if "TMPFILE" not in k and ("CREAT" not in k or "a file," in k)})
group("open names", PAGE, opens(NEW_TARGETS, "tree()"))

group("open more", ALL, {
    "as a user who may not": """
        base("x", b"content", mode=0o640)
        become("user")
        open("x", O_RDONLY); open("x", O_WRONLY); open("x", O_PATH); open("x", O_RDONLY | O_TRUNC)
    """,
    "as a user who may read": """
        base("x", b"content", mode=0o604)
        become("user")
        fd = open("x", O_RDONLY)
        read(fd, 100)
        open("x", O_RDONLY | O_NOATIME)
    """,
    "as the owner": """
        base("x", b"content", mode=0o400, owner=USER)
        become("user")
        fd = open("x", O_RDONLY | O_NOATIME); read(fd, 3)
    """,
    "a descriptor open only for reading": """
        base("x", b"content")
        fd = open("x", O_RDONLY)
        write(fd, b"a"); pwrite(fd, b"a", 0); ftruncate(fd, 1); fallocate(fd, 0, 0, P); writev(fd, [b"a"])
        fsync(fd); fdatasync(fd); fchmod(fd, 0o600); fstat(fd); contents(fd)
    """,
    "a descriptor open only for writing": """
        base("x", b"content")
        fd = open("x", O_WRONLY)
        read(fd, 1); pread(fd, 1, 0); readv(fd, [1]); lseek(fd, 0, SEEK_END); write(fd, b"more"); fstat(fd)
        map(fd, P, MAP_SHARED, PROT_READ); map(fd, P, MAP_PRIVATE, PROT_READ); map(fd, P, MAP_SHARED, PROT_WRITE)
    """,
    "a descriptor that is only a path": """
        base("x", b"content")
        fd = open("x", O_PATH)
        read(fd, 1); write(fd, b"a"); ftruncate(fd, 0); fallocate(fd, 0, 0, P); fchmod(fd, 0o600); fchown(fd, 1, 1)
        utime(fd, (1, 1), (1, 1)); fsync(fd); lseek(fd, 0); getfl(fd); fstat(fd); flock(fd, LOCK_EX); poll(fd)
        map(fd, P); setxattr(fd, "user.a", b"b"); getxattr(fd, "user.a"); dup(fd)
    """,
    "the same again": """
        base("x", b"content")
        a = open("x"); b = open("x", O_RDONLY); same(a, b)
        read(a, 4); read(b, 7); lseek(a, 0, SEEK_CUR)
    """,
    "a duplicate shares the position": """
        base("x", b"content")
        a = open("x"); b = dup(a)
        read(a, 4); read(b, 2); lseek(b, 1); read(a, 2); close(a); read(b, 1)
    """,
    "trunc sets times": """
        base("x", b"content")
        fd = open("x", O_RDONLY); times(fd); close(fd)
        fd = open("x", O_WRONLY | O_TRUNC); times(fd); fstat(fd)
    """,
    "noatime is noted": """
        base("x", b"content")
        fd = open("x", O_RDWR | O_NOATIME | O_SYNC); getfl(fd)
        fd = open("x", O_WRONLY | O_DSYNC | O_APPEND | O_DIRECT); getfl(fd)
    """,
})

group("open and names", PAGE, {
    "an unlinked file by its descriptor": """
        base("x", b"content")
        fd = open("x"); unlink("x"); fstat(fd)
        write(fd, b"CON"); pread(fd, 10, 0); ftruncate(fd, 5); fstat(fd)
        again = reopen(fd, O_RDWR); read(again, 10); write(again, b"more"); contents(fd)
        link_fd(fd, "y"); stat("x"); fchmod(fd, 0o600); fchown(fd, 1, 2); utime(fd, (5, 6), (7, 8)); times(fd)
        setxattr(fd, "user.a", b"b"); getxattr(fd, "user.a"); fstat(fd)
    """,
    "a renamed file by its descriptor": """
        base("x", b"content")
        fd = open("x"); rename("x", "y"); fstat(fd); write(fd, b"CON")
        other = open("y", O_RDONLY); read(other, 10); same(fd, "y"); stat("x")
    """,
    "a replaced file by its descriptor": """
        base("x", b"content"); base("y", b"other")
        fd = open("x"); rename("y", "x"); fstat(fd); read(fd, 10)
        other = open("x"); read(other, 10); same(fd, other)
    """,
    "a file made for reading can be written by its maker": """
        fd = open("x", O_RDWR | O_CREAT | O_EXCL, 0); write(fd, b"abc"); fstat(fd); stat("x")
        become("user"); open("x", O_RDONLY)
    """,
    "a user makes a file without write permission": """
        mkdir("d"); chmod("d", 0o777); become("user")
        fd = open("d/x", O_RDWR | O_CREAT | O_EXCL, 0o444); write(fd, b"abc"); fstat(fd)
        open("d/x", O_RDWR); open("d/x", O_RDWR | O_CREAT); open("d/x", O_RDONLY | O_CREAT); open("d/x", O_RDONLY | O_TRUNC)
        open("d/x", O_CREAT | O_EXCL)
    """,
    "a user may not make a file": """
        mkdir("d", 0o755); become("user")
        open("d/x", O_RDWR | O_CREAT); open("d", O_RDWR | O_TMPFILE); mkdir("d/y"); symlink("a", "d/s"); mknod("d/f", S_IFIFO)
        listdir("d")
    """,
    "a user who may write but not search": """
        mkdir("d", 0o777); base("x"); rename("x", "d/x"); chmod("d", 0o666); become("user")
        open("d/x"); stat("d/x"); open("d/new", O_CREAT | O_RDWR); unlink("d/x"); listdir("d"); access("d/x", F_OK)
    """,
    "a user who may search but not read": """
        mkdir("d", 0o777); base("x", mode=0o666); rename("x", "d/x"); chmod("d", 0o711); become("user")
        open("d/x"); stat("d/x"); listdir("d"); open("d", O_RDONLY); open("d", O_PATH); chdir("d"); unlink("d/x")
    """,
    "exclusive through a link": """
        symlink("target", "x"); open("x", O_RDWR | O_CREAT | O_EXCL); listdir(); open("x", O_RDWR | O_CREAT); listdir()
    """,
    "tmpfile": """
        fd = open(".", O_RDWR | O_TMPFILE, 0o640); fstat(fd); write(fd, b"abc"); fstat(fd); listdir()
        link_fd(fd, "x"); fstat(fd); listdir(); link_fd(fd, "y"); link_fd(fd, "y"); fstat(fd); same("x", "y"); contents(fd)
    """,
    "tmpfile linked by AT_EMPTY_PATH": """
        fd = open(".", O_RDWR | O_TMPFILE, 0o640); link_empty(fd, "x"); fstat(fd); listdir()
    """,
    "tmpfile, exclusive": """
        fd = open(".", O_RDWR | O_TMPFILE | O_EXCL, 0o640); write(fd, b"abc"); link_fd(fd, "x"); link_empty(fd, "x"); listdir(); fstat(fd)
    """,
    "tmpfile, linked, unlinked, linked again": """
        fd = open(".", O_RDWR | O_TMPFILE, 0o640); link_fd(fd, "x"); unlink("x"); fstat(fd); link_fd(fd, "z"); listdir()
    """,
    "tmpfile, linked twice after one unlinked": """
        fd = open(".", O_RDWR | O_TMPFILE); link_fd(fd, "x"); link("x", "y"); unlink("x"); link_fd(fd, "x"); tree()
    """,
    "tmpfile, linked over a name": """
        base("x", b"old"); fd = open(".", O_RDWR | O_TMPFILE); link_fd(fd, "x"); fstat(fd); stat("x")
    """,
    "tmpfile in an unwritable directory": """
        mkdir("d", 0o755); mkdir("e", 0o777); chmod("e", 0o777); become("user")
        open("d", O_RDWR | O_TMPFILE); fd = open("e", O_RDWR | O_TMPFILE, 0o600); fstat(fd); link_fd(fd, "d/x"); link_fd(fd, "e/x")
    """,
    "tmpfile in a missing directory": """open("d", O_RDWR | O_TMPFILE); base("f"); open("f", O_RDWR | O_TMPFILE); open("f/", O_RDWR | O_TMPFILE)""",
    "tmpfile in a set-group-ID directory": """
        mkdir("d"); chown("d", 0, 1234); chmod("d", 0o2777); fd = open("d", O_RDWR | O_TMPFILE, 0o2770); fstat(fd)
        link_fd(fd, "d/x"); stat("d/x")
    """,
    "by a directory descriptor": """
        mkdir("d"); d = open("d", O_RDONLY | O_DIRECTORY)
        fd = open("x", O_RDWR | O_CREAT, dir_fd=d); write(fd, b"1"); listdir("d"); open("../d/x", dir_fd=d); open("y", dir_fd=d)
        read(d, 10); write(d, b"a"); ftruncate(d, 0); fallocate(d, 0, 0, 1); lseek(d, 0, SEEK_SET); fsync(d); fdatasync(d); syncfs(d)
        map(d, P, MAP_SHARED, PROT_READ); poll(d); getfl(d); pread(d, 5, 0); flock(d, LOCK_EX); lock(d, F_RDLCK)
    """,
    "a directory as a path": """
        mkdir("d"); truncate("d", 0); truncate("d", -1); unlink("d"); readlink("d"); open("d", O_WRONLY); execute("./d"); link("d", "e")
    """,
    "a directory that was removed": """
        mkdir("d"); d = open("d", O_RDONLY | O_DIRECTORY); chdir("d"); rmdir("../d"); fstat(d); listdir(d)
        open("x", O_RDWR | O_CREAT); mkdir("x"); symlink("a", "x"); stat("."); stat(".."); open("..", O_RDONLY); listdir(".")
        open(".", O_RDWR | O_TMPFILE); fchmod(d, 0o700); utime(d, (1, 1), (1, 1)); mknod("f", S_IFIFO); setxattr(d, "user.a", b"b"); fsync(d)
        rename("x", "y"); fstat(d)
    """,
    "a directory that was replaced": """
        mkdir("a"); mkdir("b"); base("x"); rename("x", "a/x"); d = open("b", O_RDONLY | O_DIRECTORY); rename("a", "b"); fstat(d); tree(); listdir(d)
        open("y", O_RDWR | O_CREAT, dir_fd=d)
    """,
})

# --- Reading and writing --------------------------------------------------------------------------

OFFSETS = ["0", "1", "4095", "9995", "10000", "10001", "12288", "1 << 20", "-1", "-MAX - 1"]
HUGE = ["1 << 31", "1 << 32", "(1 << 43) - P", "(1 << 44) - P", "1 << 44", "1 << 52", "(1 << 62) - 1", "1 << 62", "MAX - P", "MAX - 1", "MAX"]

cases = {}
for offset in OFFSETS + HUGE:
    cases[f"pread at {offset}"] = f"""
        base("x", pattern(1, 10000)); fd = open("x")
        pread(fd, 10, {offset}); pread(fd, 0, {offset}); pread(fd, 9000, {offset}); preadv2(fd, [3, 4, 5], {offset}, 0); fstat(fd)
    """
    cases[f"pwrite at {offset}"] = f"""
        base("x", pattern(1, 10000)); fd = open("x")
        pwrite(fd, b"0123456789", {offset}); fstat(fd); pwrite(fd, b"", {offset}); pread(fd, 20, max({offset}, 5) - 5); fstat(fd); contents(fd)
    """
    cases[f"ftruncate to {offset}"] = f"""
        base("x", pattern(1, 10000)); fd = open("x")
        ftruncate(fd, {offset}); fstat(fd); times(fd); contents(fd); pread(fd, 10, max({offset}, 5) - 5); ftruncate(fd, 20000); contents(fd); fstat(fd)
    """
    cases[f"lseek by {offset}"] = f"""
        base("x", pattern(1, 10000)); fd = open("x")
        lseek(fd, {offset}, SEEK_SET); read(fd, 10); lseek(fd, 0, SEEK_CUR); write(fd, b"abc"); lseek(fd, 0, SEEK_CUR); contents(fd); lseek(fd, 7)
        lseek(fd, {offset}, SEEK_CUR); lseek(fd, {offset}, SEEK_END); lseek(fd, {offset}, SEEK_DATA); lseek(fd, {offset}, SEEK_HOLE); lseek(fd, {offset}, 7); lseek(fd, 0, SEEK_CUR)
    """
# A view has another limit than what is under it.
group("offsets", ALL, {name: code for name, code in cases.items() if not name.endswith(tuple(HUGE[2:]))})
group("huge offsets", REAL, {name: code for name, code in cases.items() if name.endswith(tuple(HUGE[2:]))})

cases = {}
for offset in OFFSETS + HUGE:
    cases[f"to {offset}"] = f"""
        base("x", pattern(1, 10000)); truncate("x", {offset}); stat("x"); times("x")
        fd = open("x"); fstat(fd); contents(fd)
    """
cases.update({
    "by a link, a fifo, a missing name": """
        base("x", b"content"); symlink("x", "l"); truncate("l", 3); stat("x"); lstat("l")
        mknod("f", S_IFIFO | 0o644); truncate("f", 0); truncate("none", 0); truncate("x/", 0); truncate("", 0); truncate("x/y", 0)
        symlink("none", "m"); truncate("m", 1); mknod("s", S_IFSOCK | 0o644); truncate("s", 0)
    """,
    "by a user": """
        base("a", b"content", mode=0o644); base("b", b"content", mode=0o666); base("c", b"content", mode=0o200, owner=USER); become("user")
        truncate("a", 1); truncate("b", 1); truncate("c", 1); truncate("a", -1); stat("a"); stat("b"); stat("c")
    """,
    "to the same size": """base("x", b"content"); times("x"); truncate("x", 7); times("x"); fd = open("x"); ftruncate(fd, 7); times("x")""",
    "nothing to nothing": """base("x"); times("x"); truncate("x", 0); times("x"); fd = open("x"); times("x"); ftruncate(fd, 0); times("x"); close(fd); open("x", O_WRONLY | O_TRUNC); times("x")""",
    "takes set-id bits": """
        base("x", b"content"); chmod("x", 0o6777); become("user"); truncate("x", 3); stat("x")
    """,
    "takes set-id bits by a descriptor": """
        base("x", b"content"); chmod("x", 0o6777); become("user"); fd = open("x"); ftruncate(fd, 3); stat("x"); ftruncate(fd, 10); stat("x")
    """,
    "as root leaves set-id bits": """base("x", b"content"); chmod("x", 0o6777); truncate("x", 3); stat("x")""",
    "O_TRUNC takes set-id bits": """
        base("x", b"content"); chmod("x", 0o6777); become("user"); fd = open("x", O_WRONLY | O_TRUNC); stat("x")
    """,
    "within a page and grow": """
        base("x", "DD100"); truncate("x", 5000); truncate("x", 9000); fd = open("x"); contents(fd); fstat(fd); data_ranges(fd)
    """,
})
group("truncate", REAL, cases)

group("data", ALL, {
    "reading on": """
        base("x", pattern(1, 10000)); fd = open("x")
        read(fd, 0); read(fd, 4000); read(fd, 4000); read(fd, 4000); read(fd, 4000); readv(fd, [1, 2]); lseek(fd, 9990); readv(fd, [4, 0, 4, 40])
    """,
    "vectors": """
        base("x"); fd = open("x")
        writev(fd, [b"ab", b"", b"cdef", pattern(2, 5000)]); lseek(fd, 0, SEEK_CUR); pwritev2(fd, [b"x", b"y"], 3); lseek(fd, 0, SEEK_CUR)
        preadv2(fd, [3, 3, 6000], 1); writev(fd, []); readv(fd, []); writev(fd, [b"a"] * 1024); writev(fd, [b"a"] * 1025); fstat(fd); contents(fd)
    """,
    "at the position": """
        base("x", b"content"); fd = open("x"); lseek(fd, 3); preadv2(fd, [2], -1); pwritev2(fd, [b"XY"], -1); lseek(fd, 0, SEEK_CUR); contents(fd)
        preadv2(fd, [2], -2); pwritev2(fd, [b"XY"], -2)
    """,
    "RWF_DSYNC and RWF_SYNC": """
        base("x", b"content"); fd = open("x"); pwritev2(fd, [b"ab"], 0, 2); pwritev2(fd, [b"ab"], 3, 4); contents(fd); preadv2(fd, [2], 0, 2)
    """,
    "RWF_HIPRI": """base("x", b"content"); fd = open("x"); preadv2(fd, [4], 0, 1); pwritev2(fd, [b"ab"], 0, 1); contents(fd)""",
    "RWF_NOWAIT": """
        base("x", b"content"); fd = open("x"); pread(fd, 4, 0); preadv2(fd, [4], 0, 8)
    """,
    "RWF_NOWAIT, writing": """base("x", b"content"); fd = open("x"); pwritev2(fd, [b"ab"], 0, 8); contents(fd)""",
    "RWF_APPEND": """
        base("x", b"content"); fd = open("x"); pwritev2(fd, [b"ab"], 0, 16); contents(fd); lseek(fd, 0, SEEK_CUR); pwritev2(fd, [b"cd"], -1, 16)
        lseek(fd, 0, SEEK_CUR); contents(fd)
    """,
    "RWF_NOAPPEND": """base("x", b"content"); fd = open("x", O_RDWR | O_APPEND); pwritev2(fd, [b"ab"], 0, 32); contents(fd); pwritev2(fd, [b"ab"], 0, 48)""",
    "RWF_ATOMIC": """base("x", "D"); fd = open("x"); pwritev2(fd, [b"a" * P], 0, 64)""",
    "RWF_DONTCACHE": """base("x", "D"); fd = open("x"); preadv2(fd, [4], 0, 128); pwritev2(fd, [b"ab"], 0, 128)""",
    "RWF unknown": """base("x", b"content"); fd = open("x"); preadv2(fd, [4], 0, 1 << 20); pwritev2(fd, [b"ab"], 0, 1 << 20)""",
    "appending": """
        base("x", b"content"); fd = open("x", O_RDWR | O_APPEND); write(fd, b"1"); lseek(fd, 0, SEEK_CUR); pwrite(fd, b"2", 0); lseek(fd, 0)
        write(fd, b"3"); ftruncate(fd, 3); write(fd, b"4"); contents(fd); fstat(fd); pread(fd, 2, 0); fallocate(fd, 0, 0, 2 * P); write(fd, b"5"); fstat(fd)
    """,
    "F_SETFL O_APPEND": """
        base("x", b"content"); fd = open("x"); getfl(fd); setfl(fd, O_APPEND); getfl(fd); write(fd, b"1"); pwrite(fd, b"2", 0); setfl(fd, 0)
        getfl(fd); lseek(fd, 0); write(fd, b"3"); contents(fd); setfl(fd, O_NONBLOCK | O_APPEND); getfl(fd); write(fd, b"4"); contents(fd)
    """,
    "F_SETFL, appending no more": """base("x", b"content"); fd = open("x", O_RDWR | O_APPEND); setfl(fd, 0); pwrite(fd, b"2", 0); contents(fd)""",
    "F_SETFL O_NOATIME and others": """
        base("x", b"content"); fd = open("x"); setfl(fd, O_NOATIME); getfl(fd); setfl(fd, O_RDONLY | O_CREAT | O_TRUNC); getfl(fd); fstat(fd)
        setfl(fd, O_SYNC); getfl(fd)
    """,
    "F_SETFL O_DIRECT": """base("x", "DD"); fd = open("x"); setfl(fd, O_DIRECT); getfl(fd); pread_aligned(fd, P, 0); pwrite_aligned(fd, P, P); setfl(fd, 0); contents(fd)""",
    "two who append": """
        base("x", b"content"); a = open("x", O_WRONLY | O_APPEND); b = dup(a); write(a, b"1"); write(b, b"2"); elsewhere(lambda: write(a, b"3")); fstat(a)
        lseek(b, 0, SEEK_CUR)
    """,
    "sync": """
        base("x", b"content"); fd = open("x", O_RDWR | O_SYNC); write(fd, b"a"); fsync(fd); fdatasync(fd); syncfs(fd); sync_file_range(fd, 0, 100, 7)
        sync_file_range(fd, -1, 100, 7); sync_file_range(fd, 0, -1, 7); sync_file_range(fd, 0, 1, 8); fd2 = open("x", O_RDONLY); fsync(fd2); fdatasync(fd2)
    """,
    "advice": """
        base("x", "DDDD"); fd = open("x"); fadvise(fd, 0, 0, POSIX_FADV_SEQUENTIAL); fadvise(fd, 0, 0, POSIX_FADV_RANDOM); fadvise(fd, 0, P, POSIX_FADV_WILLNEED)
        fadvise(fd, 0, 0, POSIX_FADV_DONTNEED); fadvise(fd, 0, -1, POSIX_FADV_NORMAL); fadvise(fd, -1, 0, POSIX_FADV_NORMAL); fadvise(fd, 0, 0, 77); contents(fd)
    """,
    "direct, aligned": """
        base("x", "DDDD"); fd = open("x", O_RDWR | O_DIRECT); pread_aligned(fd, P, P); pread_aligned(fd, 3 * P, 2 * P); pread_aligned(fd, P, 8 * P)
        pwrite_aligned(fd, P, 2 * P); pwrite_aligned(fd, 2 * P, 4 * P); fstat(fd); pread_aligned(fd, 8 * P, 0); other = open("x", O_RDONLY); contents(other)
    """,
    "direct and cached agree": """
        base("x", "DDDD"); a = open("x"); pread(a, 4 * P, 0); b = reopen(a, O_RDWR | O_DIRECT); pwrite_aligned(b, P, P); pread(a, 4 * P, 0)
        pwrite(a, pattern(9), 0); pread_aligned(b, 2 * P, 0)
    """,
    "large": """
        base("x"); fd = open("x"); data = pattern(3, 1 << 20); write(fd, data); pwrite(fd, data, 5 << 20); fstat(fd); pread(fd, 3 << 20, 1 << 19)
        pread(fd, 1 << 20, (5 << 20) + 77); ftruncate(fd, 1 << 19); fstat(fd); contents(fd)
    """,
    "overwriting holes": """
        base("x", "D.D..D"); fd = open("x"); pwrite(fd, b"abc", P + 7); pwrite(fd, b"abc", 4 * P - 1); fstat(fd); data_ranges(fd); contents(fd)
    """,
    "a page at a time, backwards": """
        base("x"); fd = open("x")
        for i in reversed(range(6)):
            pwrite(fd, pattern(i), i * 2 * P)
        fstat(fd); data_ranges(fd); contents(fd)
    """,
    "bad memory": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); mprotect(m, 0)
        elsewhere(lambda: load(m, 0, 1))
    """,
    "limit on the size of files": """
        base("x", pattern(1, 10000)); fd = open("x"); limit(20000); pwrite(fd, b"ab", 19999); pwrite(fd, b"ab", 20000); ftruncate(fd, 20001); ftruncate(fd, 20000)
        fallocate(fd, 0, 0, 24576); fallocate(fd, KEEP, 0, 24576); truncate("x", 30000); fstat(fd); pwrite(fd, b"a" * 5000, 16000); pwritev2(fd, [b"ab"], 20000)
        fstat(fd); pwrite(fd, b"", 30000)
    """,
    "a file above the limit": """
        base("x", pattern(1, 10000)); fd = open("x"); limit(5000); pwrite(fd, b"ab", 9000); pwrite(fd, b"ab", 4999); ftruncate(fd, 9000); ftruncate(fd, 4000); fstat(fd); contents(fd)
    """,
    "copying above the limit": """
        base("x", pattern(1, 10000)); base("y"); a = open("x"); b = open("y"); limit(5000); copy(a, b, 10000, 0, 0); fstat(b); copy(a, b, 10, 0, 5000)
        lseek(b, 0); sendfile(b, a, 0, 10000); fstat(b)
    """,
    "ioctl": """
        base("x", b"content"); fd = open("x"); ioctl(fd, 0x541B, 4); ioctl(fd, 2, 4); ioctl(fd, 0x1234)
    """,
    "ioctl FS_IOC_GETFLAGS": """base("x", b"content"); fd = open("x"); ioctl(fd, 0x80086601)""",
    "ioctl FS_IOC_SETFLAGS": """base("x", b"content"); fd = open("x"); ioctl(fd, 0x40086602)""",
    "set-id bits go when a user writes": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o6777); fstat(fd); write(fd, b"r"); fstat(fd); become("user"); write(fd, b"u"); fstat(fd)
    """,
    "set-id bits go when a user opens and writes": """
        base("x", b"content", mode=0o6666); become("user"); fd = open("x"); fstat(fd); write(fd, b"u"); fstat(fd); stat("x")
    """,
    "set-id bits go when a user punches": """
        base("x", "DD", mode=0o6777); become("user"); fd = open("x"); fallocate(fd, PUNCH | KEEP, 0, P); fstat(fd)
    """,
    "set-id bits stay when a mapping is stored to": """
        base("x", "DD", mode=0o6777); become("user"); fd = open("x"); m = map(fd, P); store(m, 0, b"a"); msync(m); fstat(fd)
    """,
    "a mapping from before set-id bits": """
        base("x", pattern(1, 10000)); fd = open("x"); m = map(fd, P); close(fd); chmod("x", 0o2755); fd = open("x"); pread(fd, 3, 0); store(m, 0, b"one"); pread(fd, 3, 0); pwrite(fd, b"two", 0); load(m, 0, 3)
        n = map(fd, P); load(n, 0, 3); store(m, 0, b"three"); load(n, 0, 5); pread(fd, 5, 0)
    """,
    "set-id bits go when a user truncates": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o6777); become("user"); ftruncate(fd, 3); fstat(fd)
    """,
    "set-id bits go when a user allocates": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o6777); become("user"); fallocate(fd, 0, 0, 10000); fstat(fd)
    """,
    "set-group-ID without group execution stays": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o2767); become("user"); write(fd, b"a"); fstat(fd)
    """,
    "set-group-ID without group execution stays when a member writes": """
        base("x", b"content", owner=OTHER); fd = open("x"); fchmod(fd, 0o2767); become("user", [OTHERGROUP]); write(fd, b"a"); fstat(fd); fd = open("x"); write(fd, b"b"); fstat(fd); ftruncate(fd, 3); fstat(fd); fallocate(fd, 0, 0, P); fstat(fd)
    """,
    "set-group-ID without group execution when strangers truncate and own": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o2767); become("user"); ftruncate(fd, 3); fstat(fd); become("root"); chown("x", USER, OTHERGROUP); chmod("x", 0o2767); become("user"); chown("x", -1, -1); stat("x"); become("root"); chmod("x", 0o2767); become("user"); chown("x", -1, USERGROUP); stat("x")
    """,
    "set-id bits go when a user copies": """
        base("x", b"content"); base("y", b"other"); fd = open("x"); a = open("y", O_RDONLY); fchmod(fd, 0o6777); become("user"); copy(a, fd, 3, 0, 0); fstat(fd)
    """,
    "security.capability goes with a write": """
        base("x", b"content"); fd = open("x"); setxattr(fd, "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")); write(fd, b"a"); listxattr(fd)
    """,
    "security.capability goes with other changes": """
        base("x", "DD"); fd = open("x"); c = bytes.fromhex("0100000200040000000000000000000000000000"); setxattr(fd, "security.capability", c); ftruncate(fd, P); listxattr(fd); setxattr(fd, "security.capability", c); fallocate(fd, 0, 0, P); listxattr(fd); setxattr(fd, "security.capability", c); m = map(fd, P); store(m, 0, b"a"); msync(m); listxattr(fd); chown("x", 5, 5); listxattr(fd)
    """,
})

# --- Allocation and holes -------------------------------------------------------------------------

MODES = {"0": "plainly", "KEEP": "keeping the size", "PUNCH": "punching without keeping", "PUNCH | KEEP": "punching",
         "ZERO": "zeroing", "ZERO | KEEP": "zeroing, keeping the size", "COLLAPSE": "collapsing", "INSERT": "inserting",
         "COLLAPSE | KEEP": "collapsing, keeping", "PUNCH | ZERO | KEEP": "punching and zeroing", "UNSHARE": "unsharing",
         "UNSHARE | KEEP": "unsharing, keeping", "4": "with a reserved bit", "1 << 10": "with an unknown bit", "-1": "with all bits"}
RANGES = ["0, P", "P, P", "100, 50", "P - 1, 2", "P, 3 * P", "5 * P, 4 * P", "10 * P, P", "0, 100 * P", "0, 0", "-1, P", "P, -5", "0, MAX", "MAX - P, P", "MAX, 1"]
cases = {}
for mode, said in MODES.items():
    for where in RANGES:
        if mode in ("0", "KEEP") and where == "0, MAX":         # a disk would try
            continue
        cases[f"{said}, {where}"] = f"""
            base("x", "D.DD..77"); fd = open("x"); lseek(fd, 5); fallocate(fd, {mode}, {where})
            fstat(fd); data_ranges(fd); contents(fd); lseek(fd, 0, SEEK_CUR)
        """
group("fallocate", ALL, cases)

group("holes", ALL, {
    **{f"seeking in {layout or 'nothing'}": f"""
        base("x", {layout!r}); fd = open("x", O_RDONLY); fstat(fd); data_ranges(fd)
        for at in (0, 1, P - 1, P, P + 1, 2 * P, 3 * P - 1, 3 * P, 4 * P, 6 * P):
            lseek(fd, at, SEEK_DATA); lseek(fd, at, SEEK_HOLE); lseek(fd, 0, SEEK_CUR)
    """ for layout in ("", "7", "D", "D7", ".", ".7", ".D", "D.", "D.D", "DD.D..D.5", "....", "..D..", "D...7", "." * 300 + "D" + "." * 400 + "9")},
    "after writing": """
        base("x"); fd = open("x"); pwrite(fd, b"a", 3 * P); data_ranges(fd); pwrite(fd, b"a", 8 * P + 5); data_ranges(fd); pwrite(fd, bytes(P), P); data_ranges(fd); fstat(fd)
    """,
    "after truncating": """
        base("x", "DDDD"); fd = open("x"); ftruncate(fd, P + 5); data_ranges(fd); ftruncate(fd, 4 * P); data_ranges(fd); fstat(fd); ftruncate(fd, 0); ftruncate(fd, P); data_ranges(fd); fstat(fd)
    """,
    "after punching everything": """
        base("x", "DDDD33"); fd = open("x"); fallocate(fd, PUNCH | KEEP, 0, 5 * P); data_ranges(fd); fstat(fd); contents(fd); pwrite(fd, b"q", 2 * P); data_ranges(fd); contents(fd)
    """,
    "allocated and not written": """
        base("x"); fd = open("x"); fallocate(fd, 0, 0, 4 * P); fstat(fd); data_ranges(fd); pwrite(fd, b"a", P); data_ranges(fd); contents(fd)
    """,
    "allocated beyond the end": """
        base("x", "D"); fd = open("x"); fallocate(fd, KEEP, 0, 8 * P); fstat(fd); data_ranges(fd); ftruncate(fd, 4 * P); fstat(fd); contents(fd); ftruncate(fd, P); fstat(fd)
    """,
    "posix_fallocate": """
        base("x", "D.D"); fd = open("x"); posix_fallocate(fd, 0, 5 * P); fstat(fd); contents(fd); posix_fallocate(fd, 0, 0); posix_fallocate(fd, -1, 5)
        ro = reopen(fd, O_RDONLY); posix_fallocate(ro, 0, 5)
    """,
    "punching under two descriptors": """
        base("x", "DDDD"); a = open("x"); b = dup(a); pread(b, 4 * P, 0); fallocate(a, PUNCH | KEEP, P, P); contents(b); fallocate(a, ZERO, 100, 100); contents(b)
    """,
    "on what is not a file": """
        a, b = pipe(); fallocate(a, 0, 0, P); fallocate(b, 0, 0, P); fallocate(-1, 0, 0, P); fd = open(".", O_RDONLY); fallocate(fd, 0, 0, P)
        lseek(fd, 0, SEEK_DATA); lseek(fd, 0, SEEK_HOLE)
    """,
    "times of allocation": """
        base("x", "D"); fd = open("x"); times(fd); fallocate(fd, 0, 0, P); times(fd); fallocate(fd, KEEP, 0, 4 * P); times(fd); fallocate(fd, PUNCH | KEEP, 0, P); times(fd)
    """,
})

# --- Between files --------------------------------------------------------------------------------

cases = {}
KINDS = ("page", "file", "cow", "cowfile", "outside")
for one in KINDS:
    for two in KINDS:
        if one == two == "outside":
            continue
        setup = f"""
        a = open_kind({one!r}, "a", pattern(1, 10000)); b = open_kind({two!r}, "b", pattern(2, 3000))
        """
        cases[f"copy_file_range, {one} to {two}"] = setup + """
        copy(a, b, 5000, 0, 0); contents(b); copy(a, b, 20000, 100, 2000); contents(b); copy(a, b, 20000); lseek(a, 0, SEEK_CUR); lseek(b, 0, SEEK_CUR)
        copy(a, b, 10, 10000, 0); copy(a, b, 10, 9995, 50000); fstat(b); contents(b); copy(a, b, 0, 0, 0); copy(a, b, 10, -1, 0); copy(a, b, 10, 0, -1)
        contents(a)
        """
        cases[f"sendfile, {one} to {two}"] = setup + """
        sendfile(b, a, 0, 5000); contents(b); sendfile(b, a, 9000, 5000); lseek(b, 0, SEEK_CUR); sendfile(b, a, None, 100); lseek(a, 0, SEEK_CUR); contents(b)
        sendfile(b, a, 10000, 5); sendfile(b, a, 0, 0)
        """
        cases[f"splice, {one} to {two}"] = setup + """
        r, w = pipe(); splice(a, w, 3000, at=100); splice(r, b, 3000, to=1000); contents(b); splice(a, w, 10); splice(r, b, 10); lseek(a, 0, SEEK_CUR); lseek(b, 0, SEEK_CUR)
        splice(a, b, 10); splice(a, w, 10, at=10000); splice(r, b, 10); contents(b); splice(a, w, 10, at=-1)
        """
    cases[f"mapped and read into itself, {one}"] = f"""
        a = open_kind({one!r}, "a", pattern(1, 10000)); copy(a, a, 100, 0, 50); copy(a, a, 100, 0, 5000); contents(a); copy(a, a, 5000, 0, 10000); contents(a)
        m = map(a, 8192); load(m, 5000, 100); pwrite(a, pattern(7, 50), 4090); load(m, 4080, 70); sendfile(a, a, 0, 100); contents(a)
    """
    cases[f"sendfile to a pipe, {one}"] = f"""
        a = open_kind({one!r}, "a", pattern(1, 10000)); r, w = pipe(); sendfile(w, a, 5000, 100); read(r, 200); write(w, b"abc"); splice(r, a, 3); contents(a); sendfile(a, r, None, 3)
        ap = reopen(a, O_RDWR | O_APPEND); write(w, b"abc"); splice(r, ap, 3); sendfile(ap, a, 0, 10); copy(a, ap, 3, 0, 0)
    """
del cases["mapped and read into itself, outside"], cases["sendfile to a pipe, outside"]
group("copies", PAGE, cases)

group("copies, refused", ALL, {
    "descriptors": """
        base("x", b"content"); ro = open("x", O_RDONLY); wo = open("x", O_WRONLY); d = open(".", O_RDONLY); r, w = pipe(); p = open("x", O_PATH)
        copy(ro, ro, 3, 0, 0); copy(wo, wo, 3, 0, 0); copy(ro, wo, 3, 0, 5); copy(d, wo, 3); copy(ro, d, 3); copy(r, wo, 3); copy(ro, w, 3); copy(p, wo, 3)
        sendfile(ro, ro, 0, 3); sendfile(wo, wo, 0, 3); sendfile(wo, d, 0, 3); sendfile(d, ro, 0, 3)
    """,
    "appending": """base("x", b"content"); base("y", b"other"); a = open("x", O_RDONLY); b = open("y", O_WRONLY | O_APPEND); copy(a, b, 3, 0, 0); sendfile(b, a, 0, 3); fstat(b)""",
    "sizes": """
        base("x", b"content"); base("y", b"other"); a = open("x"); b = open("y"); copy(a, b, MAX, 0, 0); fstat(b); copy(a, b, 3, MAX, 0); copy(a, b, 3, 0, MAX - 1); copy(a, b, 3, 0, MAX)
        copy(a, b, 3, 0, 100000); fstat(b); contents(b)
    """,
    "times of the target": """
        base("x", b"content"); base("y", b"other"); a = open("x"); b = open("y"); times(a); times(b); copy(a, b, 3, 0, 0); times(b); sendfile(b, a, 0, 3); times(b)
    """,
    "holes": """
        base("x", "D..D5"); base("y"); a = open("x"); b = open("y"); copy(a, b, 5 * P, 0, 0); contents(b)
    """,
})

# --- Mappings -------------------------------------------------------------------------------------

group("mappings", ALL, {
    "shared": """
        base("x", "DD100"); fd = open("x"); m = map(fd, 3 * P); load(m, 0, 3 * P); store(m, 10, b"abc"); pread(fd, 20, 0); pwrite(fd, b"XYZ", 11); load(m, 8, 10)
        n = map(fd, P, offset=P); store(m, P, b"second"); load(n, 0, 10); msync(m); contents(fd); close(fd); load(n, 0, 10); store(n, 1, b"q"); load(m, P, 5)
    """,
    "private": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P, MAP_PRIVATE); store(m, 0, b"private"); load(m, 0, 10); pread(fd, 10, 0); pwrite(fd, b"F", P); load(m, P, 4); contents(fd)
    """,
    "private of a descriptor for reading": """
        base("x", "D"); fd = open("x", O_RDONLY); m = map(fd, P, MAP_PRIVATE); store(m, 0, b"p"); load(m, 0, 4); map(fd, P, MAP_SHARED, PROT_READ | PROT_WRITE)
        r = map(fd, P, MAP_SHARED, PROT_READ); mprotect(r, PROT_READ | PROT_WRITE); elsewhere(lambda: store(r, 0, b"a")); contents(fd)
    """,
    "the rest of the last page": """
        base("x", b"content"); fd = open("x"); m = map(fd, P); load(m, 0, P); store(m, 100, b"beyond"); load(m, 100, 6); fstat(fd); contents(fd); ftruncate(fd, 200); contents(fd)
        load(m, 90, 30)
    """,
    "past the end": """
        base("x", "D7"); fd = open("x"); m = map(fd, 4 * P); elsewhere(lambda: load(m, P + 100, 5)); elsewhere(lambda: load(m, 2 * P, 1)); elsewhere(lambda: store(m, 3 * P, b"a"))
        ftruncate(fd, 4 * P); load(m, 3 * P, 4); store(m, 3 * P, b"now"); contents(fd)
    """,
    "an empty file": """
        base("x"); fd = open("x"); m = map(fd, P); elsewhere(lambda: load(m, 0, 1)); elsewhere(lambda: store(m, 0, b"a")); write(fd, b"abc"); load(m, 0, 5)
    """,
    "cut off under it": """
        base("x", "DDDD"); fd = open("x"); m = map(fd, 4 * P); load(m, 0, 4 * P); store(m, 3 * P, b"stored"); ftruncate(fd, P + 100); load(m, 0, 2 * P); elsewhere(lambda: load(m, 2 * P, 1))
        elsewhere(lambda: store(m, 3 * P, b"a")); ftruncate(fd, 4 * P); load(m, 0, 4 * P); contents(fd); store(m, 3 * P, b"again"); pread(fd, 8, 3 * P); msync(m); contents(fd)
    """,
    "cut off in its page after a store": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); store(m, P + 50, b"stored"); ftruncate(fd, P + 52); load(m, P + 48, 20); ftruncate(fd, 2 * P); load(m, P + 48, 20); contents(fd)
    """,
    "cut off to nothing and grown": """
        base("x", "DDD"); fd = open("x"); m = map(fd, 3 * P); load(m, 0, P); store(m, P, b"x"); ftruncate(fd, 0); elsewhere(lambda: load(m, 0, 1)); ftruncate(fd, 3 * P); load(m, 0, 3 * P); store(m, 0, b"new")
        contents(fd)
    """,
    "private pages cut off": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P, MAP_PRIVATE); store(m, P, b"mine"); ftruncate(fd, P); elsewhere(lambda: load(m, P, 1)); ftruncate(fd, 2 * P); load(m, P, 8)
    """,
    "punched under it": """
        base("x", "DDDD"); fd = open("x"); m = map(fd, 4 * P); load(m, 0, 4 * P); store(m, P, b"stored"); fallocate(fd, PUNCH | KEEP, P, P); load(m, 0, 4 * P); fallocate(fd, PUNCH | KEEP, 100, 100)
        load(m, 0, 300); store(m, P + 5, b"new"); contents(fd); fallocate(fd, ZERO, 2 * P, P); load(m, 2 * P, P); contents(fd)
    """,
    "a store to a hole": """
        base("x", "...."); fd = open("x"); m = map(fd, 4 * P); load(m, 0, 100); store(m, 2 * P + 5, b"data"); msync(m); contents(fd); data_ranges(fd); fstat(fd)
    """,
    "MADV_REMOVE": """base("x", "DDD"); fd = open("x"); m = map(fd, 3 * P); load(m, 0, 3 * P); madvise(m, 9, P, P); load(m, 0, 3 * P); contents(fd); data_ranges(fd); fstat(fd)""",
    "MADV_DONTNEED": """base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); store(m, 0, b"stored"); madvise(m, MADV_DONTNEED); load(m, 0, 8); contents(fd)""",
    "MADV_PAGEOUT, COLD, WILLNEED, RANDOM": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); store(m, 0, b"stored"); madvise(m, 21); madvise(m, 20); madvise(m, MADV_WILLNEED); madvise(m, MADV_RANDOM); madvise(m, MADV_SEQUENTIAL); load(m, 0, 8); contents(fd)
    """,
    "MADV_POPULATE": """base("x", "D."); fd = open("x"); m = map(fd, 2 * P); madvise(m, 22); madvise(m, 23); load(m, 0, 2 * P); madvise(m, 12345)""",
    "MADV_POPULATE past the end": """base("x", "D"); fd = open("x"); m = map(fd, 2 * P); madvise(m, 22); madvise(m, 23)""",
    "MAP_POPULATE": """base("x", "D.D"); fd = open("x"); m = map(fd, 3 * P, MAP_SHARED | MAP_POPULATE); load(m, 0, 3 * P); n = map(fd, 3 * P, MAP_PRIVATE | MAP_POPULATE); load(n, 0, 3 * P)""",
    "locked": """base("x", "D.D"); fd = open("x"); m = map(fd, 3 * P); mlock(m); load(m, 0, 3 * P); store(m, P, b"a"); munlock(m); contents(fd); l = map(fd, 3 * P, MAP_SHARED | 0x2000); load(l, 0, 3 * P)""",
    "locked past the end": """base("x", "D"); fd = open("x"); m = map(fd, 3 * P); mlock(m)""",
    "msync": """base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); store(m, 0, b"a"); msync(m, 1); msync(m, 4); msync(m, 2); msync(m, 5); msync(m, 4, offset=1); msync(m, 4, P, 4 * P); contents(fd)""",
    "offsets and lengths": """
        base("x", "DDD"); fd = open("x"); map(fd, 0); map(fd, P, offset=100); map(fd, P, offset=100 * P); map(fd, P, offset=-P); map(fd, P, offset=MAX - P + 1); m = map(fd, 1, offset=P); load(m, 0, 10)
        map(fd, P, 0); map(fd, P, MAP_SHARED | MAP_PRIVATE); map(fd, P, 3); map(fd, P, 3 | 0x80000)
    """,
    "MAP_SHARED_VALIDATE and huge pages": """base("x", "D"); fd = open("x"); map(fd, P, 3); map(fd, P, 3 | 1 << 25); map(fd, P, MAP_SHARED | 0x40000)""",
    "executable": """base("x", "D"); fd = open("x"); m = map(fd, P, MAP_PRIVATE, PROT_READ | PROT_EXEC); load(m, 0, 4); n = map(fd, P, MAP_SHARED, PROT_READ | PROT_WRITE | PROT_EXEC); store(n, 0, b"a"); load(m, 0, 4)""",
    "run from it": """
        base("x", b"\\xb8\\x2a\\x00\\x00\\x00\\xc3"); fd = open("x"); m = map(fd, P, MAP_PRIVATE, PROT_READ | PROT_EXEC)
        import ctypes
        elsewhere(lambda: ctypes.CFUNCTYPE(ctypes.c_int)(m.address)())
    """,
    "grown with mremap": """base("x", "DDD"); fd = open("x"); m = map(fd, P); store(m, 0, b"a"); mremap(m, 3 * P); load(m, 0, 3 * P); store(m, 2 * P, b"b"); contents(fd)""",
    "in a child": """base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); elsewhere(lambda: store(m, 5, b"child")); load(m, 0, 12); pread(fd, 12, 0); p = map(fd, P, MAP_PRIVATE); elsewhere(lambda: store(p, 0, b"child")); load(p, 0, 12)""",
    "after unlink and close": """
        base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); close(fd); load(m, 0, 2 * P); store(m, 3, b"stored"); load(m, 0, 10); fork(lambda: store(m, 8, b"forked")); load(m, 0, 20)
    """,
    "times of a store": """base("x", "DD"); fd = open("x"); times(fd); m = map(fd, 2 * P); times(fd); load(m, 0, 1); store(m, 0, b"a"); msync(m); times(fd)""",
    "times of loads": """base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); times(fd); load(m, 0, 1); times(fd)""",
    "reading a file into its own mapping": """base("x", "DD"); fd = open("x"); m = map(fd, 2 * P); pwrite(fd, bytes(load(m, 0, P)), P); contents(fd)""",
    "writing from its own untouched mapping": """
        base("x", "DD"); base("y", "DD"); a = open("x"); b = open("y"); m = map(a, 2 * P)
        import ctypes
        view = (ctypes.c_char * (2 * P)).from_address(m.address) if m.address else b""
        pwritev2(b, [view], 0); pwritev2(a, [view], 2 * P); preadv2(b, [5], 0); contents(a); contents(b)
    """,
    "O_APPEND and mapped": """base("x", "D"); fd = open("x", O_RDWR | O_APPEND); m = map(fd, 2 * P); store(m, 0, b"a"); write(fd, b"end"); load(m, P, 5); contents(fd)""",
    "two views of a descriptor opened again": """base("x", "D"); a = open("x"); b = reopen(a, O_RDWR); m = map(a, P); n = map(b, P); store(m, 0, b"one"); load(n, 0, 5); pwrite(b, b"two", 0); load(m, 0, 5)""",
    "O_DIRECT and mapped": """base("x", "DD"); a = open("x"); m = map(a, 2 * P); load(m, 0, P); b = reopen(a, O_RDWR | O_DIRECT); store(m, 0, b"stored"); pread_aligned(b, P, 0); pwrite_aligned(b, P, P); load(m, P, 100); map(b, P)""",
})

# --- Attributes -----------------------------------------------------------------------------------

group("attributes of open files", ALL, {
    "fchmod": """
        base("x", b"content"); fd = open("x")
        for mode in (0, 0o7777, 0o644, 0o4755, 0o2755, 0o1777, 0o2644, 0o100600):
            fchmod(fd, mode); fstat(fd)
        times(fd); fchmod(fd, 0o600); times(fd)
    """,
    "fchmod by a user": """
        base("x", b"content", mode=0o666); base("y", b"content", mode=0o666, owner=USER); a = open("x"); b = open("y"); become("user"); fchmod(a, 0o600); fchmod(b, 0o600); fstat(a); fstat(b)
        fchmod(b, 0o6755); fstat(b)
    """,
    "fchmod set-group-ID by a user of another group": """
        base("x", b"content", mode=0o666, owner=USER); fd = open("x"); fchown(fd, USER, 1234); become("user"); fchmod(fd, 0o2755); fstat(fd)
        become("user", [1234]); fchmod(fd, 0o2755); fstat(fd)
    """,
    "fchown": """
        base("x", b"content"); fd = open("x"); fchown(fd, 1, 2); fstat(fd); fchown(fd, -1, 3); fstat(fd); fchown(fd, 4, -1); fstat(fd); times(fd); fchown(fd, -1, -1); times(fd); fchown(fd, 4, 3); times(fd)
        fchown(fd, 0xfffffffe, 0xfffffffe); fstat(fd)
    """,
    "fchown takes set-id bits": """
        base("x", b"content"); fd = open("x"); fchmod(fd, 0o6755); fchown(fd, 1, 1); fstat(fd); fchmod(fd, 0o6745); fchown(fd, 2, -1); fstat(fd); fchmod(fd, 0o6755); fchown(fd, -1, -1); fstat(fd)
    """,
    "fchown by a user": """
        base("x", b"content", owner=USER); fd = open("x"); become("user"); fchown(fd, 0, -1); fchown(fd, USER, USERGROUP); fchown(fd, -1, 0); fchown(fd, OTHER, -1); fstat(fd); become("user", [1234])
        fchown(fd, -1, 1234); fstat(fd); fchown(fd, -1, 1235); fchmod(fd, 0o6755); fchown(fd, -1, USERGROUP); fstat(fd)
    """,
    "futimens": """
        base("x", b"content"); fd = open("x"); utime(fd, (1, 2), (3, 4)); times(fd); utime(fd, (5, OMIT), (6, 7)); times(fd); utime(fd, (8, 9), (0, OMIT)); times(fd); utime(fd, (0, OMIT), (0, OMIT)); times(fd)
        utime(fd, (0, NOW), (0, OMIT)); times(fd); utime(fd, (1, 2), (0, NOW)); times(fd); utime(fd); times(fd)
    """,
    "futimens, odd": """
        base("x", b"content"); fd = open("x"); utime(fd, (1, 10**9), (1, 1)); utime(fd, (1, -1), (1, 1)); utime(fd, (1, 1), (1, 10**9 + 5)); times(fd); utime(fd, (-1, 5), (-1000000, 999999999)); times(fd)
        utime(fd, (1 << 32, 5), ((1 << 33) + 7, 999999999)); times(fd); utime(fd, (0, 0), (0, 0)); times(fd)
    """,
    "futimens by a user": """
        base("x", b"content", mode=0o666); base("y", b"content", mode=0o644); a = open("x"); b = open("y"); become("user"); utime(a); times(a); utime(a, (1, 1), (1, 1)); utime(a, (0, NOW), (0, NOW)); utime(a, (0, NOW), (0, OMIT)); utime(a, (0, OMIT), (0, OMIT))
        utime(b); utime(b, (0, OMIT), (0, OMIT)); times(b)
    """,
    "times of reading": """base("x", b"content"); fd = open("x"); times(fd); read(fd, 0); times(fd); read(fd, 3); times(fd); pread(fd, 3, 100); times(fd)""",
    "times of reading without noting": """base("x", b"content"); fd = open("x", O_RDONLY | O_NOATIME); times(fd); read(fd, 3); times(fd)""",
    "times of writing": """base("x", b"content"); fd = open("x"); times(fd); write(fd, b""); times(fd); write(fd, b"a"); times(fd); utime(fd, (1, 1), (1, 1)); times(fd); pwrite(fd, b"a", 100); times(fd); fsync(fd); times(fd)""",
    "times of truncating": """base("x", b"content"); fd = open("x"); times(fd); ftruncate(fd, 7); times(fd); utime(fd, (1, 1), (1, 1)); ftruncate(fd, 3); times(fd); utime(fd, (1, 1), (1, 1)); ftruncate(fd, 30); times(fd)""",
    "times of closing": """base("x", b"content"); fd = open("x"); write(fd, b"a"); utime(fd, (1, 1), (2, 2)); d = dup(fd); close(fd); times(d); fsync(d); times(d)""",
    "times of attributes": """base("x", b"content"); fd = open("x"); times(fd); setxattr(fd, "user.a", b"1"); times(fd); removexattr(fd, "user.a"); times(fd)""",
    "statx of a descriptor": """base("x", b"content"); fd = open("x"); statx("", 0x1000, 0x7ff, fd); statx("", 0x1000 | 0x2000, 0x7ff, fd); statx("", 0x1000 | 0x4000, 0x7ff, fd); statx("", 0x1000 | 0x6000, 0x7ff, fd); statx("", 0, 0x7ff, fd)""",
    "statx, the birth": """base("x", b"content"); fd = open("x"); statx("", 0x1000, 0xfff, fd)""",
    "statvfs": """base("x", b"content"); statvfs("."); statvfs("x")""",
    "xattrs of a descriptor": """
        base("x", b"content"); fd = open("x"); setxattr(fd, "user.a", b"1"); setxattr(fd, "user.a", b"2", XATTR_CREATE); setxattr(fd, "user.a", b"3", XATTR_REPLACE); setxattr(fd, "user.b", b"3", XATTR_REPLACE)
        getxattr(fd, "user.a"); getxattr(fd, "user.none"); listxattr(fd); removexattr(fd, "user.a"); removexattr(fd, "user.a"); listxattr(fd)
    """,
})

group("attributes", PAGE, {
    "chmod": """
        base("x", b"content"); mkdir("d"); symlink("x", "l"); mknod("f", S_IFIFO)
        for mode in (0, 0o7777, 0o644):
            chmod("x", mode); chmod("d", mode); chmod("l", mode); chmod("f", mode); tree()
        chmod("none", 0o644); chmod("x/", 0o644); chmod("", 0o644); times("x"); chmod("x", 0o600); times("x")
    """,
    "chmod by a user": """
        base("x", owner=USER); base("y"); become("user"); chmod("x", 0o7777); stat("x"); chmod("y", 0o777); chmod("none", 0o777)
    """,
    "chown": """
        base("x"); mkdir("d"); symlink("x", "l"); chown("x", 1, 2); chown("d", 3, 4); lchown("l", 5, 6); tree(); chown("l", 7, -1); tree(); chown("none", 1, 1); chown("x", -1, -1); stat("x")
        mknod("f", S_IFIFO | 0o644); chown("f", 8, 9); stat("f")
    """,
    "chown takes set-id bits": """
        base("x"); mkdir("d"); chmod("x", 0o6755); chown("x", 1, -1); stat("x"); chmod("x", 0o6745); chown("x", -1, 1); stat("x"); chmod("d", 0o6755); chown("d", 1, 1); stat("d"); chmod("x", 0o6755); chown("x", -1, -1); stat("x")
        chmod("x", 0o6755); chown("x", 1, 1); stat("x")
    """,
    "chown by a user": """
        base("x", owner=USER); base("y"); mkdir("d"); chown("d", USER, USERGROUP); become("user", [1234]); chmod("x", 0o6755); chown("x", -1, 1234); stat("x"); chown("x", USER, -1); chown("x", OTHER, -1); chown("y", USER, -1); chown("y", -1, 1234); chown("y", -1, -1)
        chown("d", -1, 1234); chown("d", -1, 1235); tree()
    """,
    "utime": """
        base("x"); mkdir("d"); symlink("x", "l"); utime("x", (1, 2), (3, 4)); times("x"); utime("d", (1, 2), (3, 4)); times("d"); utime("l", (5, 6), (7, 8), nofollow=True); times("l"); times("x")
        utime("l", (9, 10), (11, 12)); times("l"); times("x"); utime("none", (1, 1), (1, 1)); utime("", (1, 1), (1, 1)); utime("d"); times("d"); mknod("f", S_IFIFO); utime("f", (1, 999999999), (2, OMIT)); times("f")
    """,
    "utime by a user": """
        base("x", mode=0o666); base("y", mode=0o644); base("z", owner=USER, mode=0o400); become("user"); utime("x"); utime("x", (1, 1), (1, 1)); utime("y"); utime("z", (1, 1), (1, 1)); times("z"); utime("z"); utime("y", (0, OMIT), (0, OMIT)); utime("y", (0, NOW), (0, NOW)); utime("y", (0, NOW), (0, OMIT))
        utime("x", (0, NOW), (0, NOW)); utime("x", (0, OMIT), (0, NOW))
    """,
    "times of names": """
        mkdir("d"); base("x"); utime("d", (1, 1), (1, 1)); times("d"); times("x"); link("x", "d/y"); times("x"); times("d"); utime("d", (1, 1), (1, 1)); rename("d/y", "d/z"); times("x"); times("d"); utime("d", (1, 1), (1, 1)); unlink("d/z"); times("x"); times("d")
        utime("d", (1, 1), (1, 1)); mkdir("d/e"); times("d"); utime("d", (1, 1), (1, 1)); rmdir("d/e"); times("d")
    """,
    "times of a failed call": """
        mkdir("d"); base("x"); times("d"); utime("d", (1, 1), (1, 1)); times("d"); unlink("d/none"); rename("d/none", "d/a"); mkdir("d/../d"); rmdir("d/none"); link("none", "d/y"); times("d")
    """,
    "times of renaming a directory": """
        mkdir("a"); mkdir("b"); mkdir("a/d"); times("a/d"); utime("a", (1, 1), (1, 1)); utime("b", (1, 1), (1, 1)); rename("a/d", "b/d"); times("a"); times("b"); times("b/d"); utime("b/d", (1, 1), (1, 1)); rename("b/d", "b/e"); times("b/e")
    """,
    "times of replacing": """base("x"); base("y"); fd = open("y", O_RDONLY); times(fd); times("x"); rename("x", "y"); times(fd); times("y")""",
    "times of exchanging": """base("x"); base("y"); times("x"); times("y"); rename("x", "y", EXCHANGE); times("x"); times("y")""",
    "times of listing": """mkdir("d"); utime("d", (1, 1), (1, 1)); listdir("d"); times("d"); listdir("d"); times("d")""",
    "times of following": """base("x"); symlink("x", "l"); utime("l", (1, 1), (1, 1), nofollow=True); readlink("l"); times("l"); stat("l"); times("l")""",
    "times of making": """mkdir("d"); times("d"); fd = open("x", O_RDWR | O_CREAT); times("x"); symlink("x", "l"); times("l"); mknod("f", S_IFIFO); times("f")""",
    "access": """
        base("x", mode=0o640); base("y", mode=0o604, owner=USER); mkdir("d", 0o700); mkdir("e", 0o711); symlink("none", "l"); base("z", mode=0o755)
        for who in ("root", "user", "other"):
            become(who)
            for path in ("x", "y", "z", "d", "e", "l", "d/x", "e/x", "none", "x/", "x/y", ""):
                for mode in (F_OK, R_OK, W_OK, X_OK, R_OK | W_OK | X_OK):
                    access(path, mode)
    """,
    "faccessat2": """
        base("x", mode=0o640); symlink("none", "l"); faccessat("l", 4, 0x100); faccessat("l", 4, 0); faccessat("x", 4, 0x200); faccessat("x", 1, 0x200); faccessat("x", 8, 0); faccessat("x", 4, 0x10); become("user"); faccessat("x", 4, 0x200); faccessat("x", 4, 0x300); faccessat("x", 0, 0x200)
    """,
    "supplementary groups": """
        base("x", b"content", mode=0o060); chown("x", 0, 1234); mkdir("d", 0o770); chown("d", 0, 1234); become("user"); open("x"); listdir("d"); become("user", [1234]); fd = open("x"); read(fd, 4); listdir("d"); open("d/n", O_CREAT | O_RDWR); stat("d/n"); truncate("x", 1)
        become("other", [1233, 1234, 1235]); open("x"); become("other", [1233]); open("x")
    """,
    "an owner without permission": """base("x", b"content", mode=0o077, owner=USER); become("user"); open("x", O_RDONLY); access("x", R_OK); become("other"); open("x", O_RDWR)""",
    "umask": """
        umask(0o077); open("a", O_CREAT | O_RDWR, 0o777); mkdir("d", 0o777); mknod("f", S_IFIFO | 0o666); umask(0); open("b", O_CREAT | O_RDWR, 0o777); mkdir("e", 0o777); open("c", O_CREAT | O_RDWR, 0o7777); mkdir("g", 0o7777); mknod("h", S_IFREG | 0o7777); tree()
        umask(0o027); fd = open(".", O_TMPFILE | O_RDWR, 0o666); fstat(fd); umask(0o777); open("z", O_CREAT | O_RDWR, 0o666); stat("z"); bind("s"); lstat("s")
    """,
    "set-group-ID directories": """
        mkdir("d"); chown("d", 0, 1234); chmod("d", 0o2777); open("d/x", O_CREAT | O_RDWR, 0o2755); mkdir("d/e", 0o755); mknod("d/f", S_IFIFO | 0o644); symlink("a", "d/l"); tree(); mkdir("d/e/g"); stat("d/e/g")
        become("user"); open("d/u", O_CREAT | O_RDWR, 0o2775); mkdir("d/v", 0o775); open("d/w", O_CREAT | O_RDWR, 0o2644); mknod("d/y", S_IFREG | 0o2775); tree()
        become("user", [1234]); open("d/u2", O_CREAT | O_RDWR, 0o2775); open("d/u3", O_CREAT | O_RDWR, 0o6775); chmod("d/u", 0o2775); tree(); base("q"); rename("q", "d/q"); chmod("d/v", 0o755); stat("d/v")
    """,
    "sticky directories": """
        mkdir("d"); chmod("d", 0o1777); mkdir("e"); chmod("e", 0o777); become("user"); open("d/u", O_CREAT | O_RDWR, 0o666); mkdir("d/ud"); become("other"); open("d/o", O_CREAT | O_RDWR, 0o666); mkdir("d/od", 0o777)
        unlink("d/u"); rmdir("d/ud"); rename("d/u", "d/v"); rename("d/u", "e/v"); rename("d/o", "d/u"); rename("d/o", "d/u", EXCHANGE); open("d/u"); link("d/u", "d/ul"); rename("d/od", "d/ud"); open("e/o", O_CREAT | O_RDWR); rename("e/o", "d/u"); rename("d/o", "e/q")
        unlink("e/o"); open("d/u", O_CREAT | O_RDWR); open("d/new", O_CREAT | O_RDWR); become("user"); unlink("e/q"); unlink("d/u"); rmdir("d/ud"); become("root"); unlink("d/new"); tree()
    """,
    "sticky directory of the user": """
        mkdir("d"); chmod("d", 0o1777); chown("d", USER, USERGROUP); become("other"); open("d/o", O_CREAT | O_RDWR, 0o600); mkdir("d/od"); become("user"); rename("d/o", "d/p"); unlink("d/p"); rmdir("d/od"); tree()
    """,
    "links count": """
        base("x"); link("x", "y"); stat("x"); stat("y"); mkdir("d"); link("x", "d/z"); stat("x"); unlink("x"); stat("y"); stat("d"); mkdir("d/e"); mkdir("d/f"); stat("d"); rmdir("d/e"); stat("d"); rename("d/f", "f"); stat("d"); stat(".")
    """,
    "statx": """
        base("x", b"content"); mkdir("d"); symlink("x", "l"); statx("x", 0, 0x7ff); statx("d", 0, 0x7ff); statx("l", 0x100, 0x7ff); statx("l", 0, 0x7ff); statx("x", 0, 0); statx("x", 0, 0x200); statx("x", 0, 1); statx("x", 0x800, 0x7ff); statx("none"); statx("", 0); statx("x", 0x10000); statx("x", 0, 1 << 31)
        statx("x", 0x2000, 0x7ff); statx("x", 0x4000, 0x7ff); statx("x", 0x6000, 0x7ff)
    """,
    "statx, births": """mkdir("d"); statx("d"); symlink("x", "l"); statx("l", 0x100); mknod("f", S_IFIFO); statx("f")""",
    "blocks follow the data": """
        fd = open("x", O_CREAT | O_RDWR); fstat(fd); write(fd, b"a"); fstat(fd); stat("x"); pwrite(fd, b"a", 10 * P); stat("x"); ftruncate(fd, 1); stat("x"); ftruncate(fd, 1 << 30); stat("x"); fallocate(fd, 0, 0, 20 * P); stat("x"); fallocate(fd, PUNCH | KEEP, 0, 10 * P); stat("x"); ftruncate(fd, 0); stat("x")
    """,
    "size of a link": """symlink("a" * 100, "l"); lstat("l"); symlink("b" * 4000, "m"); readlink("m")""",
    "directories": """mkdir("d"); dir_size("d"); open("d/a", O_CREAT | O_RDWR); dir_size("d")""",
})

cases = {
    "user, trusted, security": """
        base("x")
        for name in ("user.a", "trusted.a", "security.a", "security.selinux", "user.", "user", "a", "other.a", "system.a", "", "user.section", "user." + "n" * 250, "user." + "n" * 251, "user.\\u00e9 =/"):
            setxattr("x", name, b"value"); getxattr("x", name); getxattr_into("x", name, 0); removexattr("x", name)
        listxattr("x")
    """,
    "sizes": """
        base("x"); setxattr("x", "user.a", b""); getxattr("x", "user.a"); getxattr_into("x", "user.a", 0); setxattr("x", "user.b", b"0123456789"); getxattr_into("x", "user.b", 0); getxattr_into("x", "user.b", 9); getxattr_into("x", "user.b", 10); getxattr_into("x", "user.b", 11)
        listxattr_into("x", 3); listxattr_into("x", 0); setxattr("x", "user.c", b"\\0binary\\0\\xff"); getxattr("x", "user.c"); setxattr("x", "user.big", bytes(3000)); getxattr("x", "user.big"); setxattr("x", "user.d", bytes(65537))
    """,
    "64 KiB": """base("x"); setxattr("x", "user.a", pattern(1, 65536)); getxattr("x", "user.a")""",
    "flags": """
        base("x"); setxattr("x", "user.a", b"1", XATTR_REPLACE); setxattr("x", "user.a", b"1", XATTR_CREATE); setxattr("x", "user.a", b"2", XATTR_CREATE); setxattr("x", "user.a", b"3", XATTR_REPLACE); getxattr("x", "user.a"); setxattr("x", "user.a", b"4", 3); setxattr("x", "user.a", b"4", 8); getxattr("x", "user.a")
        setxattr("x", "trusted.a", b"1", XATTR_REPLACE); setxattr("x", "trusted.a", b"1", XATTR_CREATE); setxattr("x", "trusted.a", b"2", XATTR_CREATE)
    """,
    "many": """
        base("x")
        for i in range(50):
            setxattr("x", f"user.n{i}", b"v" * i)
        listxattr("x")
        for i in range(0, 50, 2):
            removexattr("x", f"user.n{i}")
        listxattr("x"); getxattr("x", "user.n49")
    """,
    "of links": """
        base("x"); symlink("x", "l"); setxattr("l", "user.a", b"1"); getxattr("x", "user.a"); setxattr("l", "user.b", b"1", nofollow=True); getxattr("l", "user.b", nofollow=True); setxattr("l", "trusted.b", b"1", nofollow=True); getxattr("l", "trusted.b", nofollow=True); listxattr("l", nofollow=True); getxattr("x", "trusted.b")
        setxattr("l", "security.b", b"1", nofollow=True); listxattr("l", nofollow=True); removexattr("l", "trusted.b", nofollow=True); listxattr("l", nofollow=True); symlink("none", "m"); setxattr("m", "user.a", b"1"); listxattr("m")
    """,
    "of directories and others": """
        mkdir("d"); setxattr("d", "user.a", b"1"); getxattr("d", "user.a"); listxattr("d"); removexattr("d", "user.a"); mknod("f", S_IFIFO | 0o666); setxattr("f", "user.a", b"1"); getxattr("f", "user.a"); setxattr("f", "trusted.a", b"1"); getxattr("f", "trusted.a"); listxattr("f")
        mknod("s", S_IFSOCK | 0o666); setxattr("s", "user.a", b"1"); setxattr("s", "security.a", b"1"); listxattr("s"); setxattr("none", "user.a", b"1"); getxattr("none", "user.a"); listxattr("none"); removexattr("none", "user.a")
    """,
    "by a user": """
        base("x", mode=0o644); base("y", mode=0o666); base("z", mode=0o600); setxattr("x", "user.a", b"1"); setxattr("z", "user.a", b"1"); setxattr("x", "trusted.a", b"1"); setxattr("x", "security.a", b"1"); become("user")
        getxattr("x", "user.a"); getxattr("x", "trusted.a"); getxattr("x", "security.a"); listxattr("x"); setxattr("x", "user.a", b"2"); removexattr("x", "user.a"); getxattr("z", "user.a"); listxattr("z"); setxattr("y", "user.a", b"1"); setxattr("y", "trusted.a", b"1"); setxattr("y", "security.a", b"1"); removexattr("x", "trusted.a"); removexattr("x", "security.a")
        getxattr("y", "user.a"); getxattr("y", "user.none")
    """,
    "of a sticky directory": """mkdir("d"); chmod("d", 0o1777); become("user"); setxattr("d", "user.a", b"1"); getxattr("d", "user.a"); become("root"); setxattr("d", "user.a", b"1"); getxattr("d", "user.a")""",
    "of hard links, renamed, unlinked": """
        base("x"); setxattr("x", "user.a", b"1"); link("x", "y"); getxattr("y", "user.a"); rename("x", "z"); getxattr("z", "user.a"); fd = open("y"); unlink("y"); unlink("z"); getxattr(fd, "user.a"); setxattr(fd, "user.b", b"2"); listxattr(fd); base("x"); listxattr("x")
    """,
    "times": """base("x"); mkdir("d"); times("x"); times("d"); setxattr("x", "user.a", b"1"); times("x"); setxattr("d", "user.a", b"1"); times("d"); getxattr("x", "user.a"); times("x"); removexattr("x", "user.a"); times("x"); removexattr("x", "user.a"); times("x")""",
    "capability": """base("x", mode=0o755); setxattr("x", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")); getxattr("x", "security.capability"); listxattr("x"); chown("x", 1, 1); listxattr("x"); removexattr("x", "security.capability")""",
    "capability, malformed": """base("x", mode=0o755); setxattr("x", "security.capability", b"junk"); listxattr("x")""",
    "capability and truncate": """base("x", b"content", mode=0o755); setxattr("x", "security.capability", bytes.fromhex("0100000200040000000000000000000000000000")); truncate("x", 2); listxattr("x")""",
    "access control lists": """
        base("x"); mkdir("d"); good = bytes.fromhex("020000000100060000000000040004000000000020000400ffffffff".replace("0100060000000000", "01000600ffffffff").replace("0400040000000000", "04000400ffffffff"))
        getxattr("x", "system.posix_acl_access"); setxattr("x", "system.posix_acl_access", good); getxattr("d", "system.posix_acl_default"); setxattr("d", "system.posix_acl_default", good); setxattr("x", "system.posix_acl_default", good); removexattr("x", "system.posix_acl_access"); removexattr("d", "system.posix_acl_default"); listxattr("x")
        setxattr("x", "system.posix_acl_access", b"junk"); setxattr("x", "system.nothing", b"junk")
    """,
}
group("xattrs", PAGE, cases)
group("xattrs of files", ("file",), {name: cases[name] for name in (
    "sizes", "flags", "many", "by a user", "of hard links, renamed, unlinked", "times", "capability")})

# --- Names ----------------------------------------------------------------------------------------

THINGS = {
    "nothing": "pass",
    "a file": "base('{0}', b'content of {0}')",
    "an empty directory": "mkdir('{0}')",
    "a full directory": "mkdir('{0}'); mkdir('{0}/in')",
    "a link": "symlink('target', '{0}')",
    "a fifo": "mknod('{0}', S_IFIFO | 0o644)",
}
cases = {}
for one, make_one in THINGS.items():
    for two, make_two in THINGS.items():
        for flags in ("0", "NOREPLACE", "EXCHANGE"):
            cases[f"{one} to {two}, {flags}"] = f"""
                mkdir('d'); {make_one.format('a')}; {make_two.format('d/b')}; rename('a', 'd/b', {flags}); tree()
            """
cases.update({
    "to itself": """base("x"); mkdir("d"); rename("x", "x"); rename("d", "d"); rename("x", "x", NOREPLACE); rename("x", "x", EXCHANGE); rename("none", "none"); link("x", "y"); rename("x", "y"); tree(); rename("x", "y", EXCHANGE); tree()""",
    "into itself": """mkdir("d"); mkdir("d/e"); rename("d", "d/e/f"); rename("d", "d/e"); rename("d", "d/x"); rename("d/e", "d"); rename("d", "d/e", EXCHANGE); rename("d/e", "d", EXCHANGE); tree()""",
    "dots": """mkdir("d"); rename(".", "x"); rename("d", "."); rename("d/..", "x"); rename("x", ".."); rename("d/.", "x"); rename("d", "d/."); rename("..", "d"); rmdir("d/."); rmdir("."); rmdir(".."); rmdir("d/.."); unlink("."); unlink(".."); mkdir("."); mkdir(".."); tree()""",
    "slashes": """base("x"); mkdir("d"); rename("x/", "y"); rename("x", "y/"); rename("d/", "e/"); rename("e", "f/"); rename("f/", "d"); mkdir("g/"); rmdir("g/"); unlink("x/"); unlink("d/"); rmdir("x/"); link("x", "z/"); symlink("a", "s/"); mknod("t/", S_IFIFO); tree(); stat("x/"); stat("d/")""",
    "flags": """base("x"); base("y"); rename("x", "y", NOREPLACE | EXCHANGE); rename("x", "z", 8); rename("x", "z", EXCHANGE); rename("none", "x", EXCHANGE); tree()""",
    "whiteout": """base("x"); rename("x", "y", WHITEOUT); tree()""",
    "missing": """base("x"); rename("none", "y"); rename("x", "none/y"); rename("x/y", "z"); rename("x", "x/y"); rename("", "y"); rename("x", ""); tree()""",
    "by a user": """
        mkdir("d", 0o755); mkdir("e"); chmod("e", 0o777); mkdir("f"); chmod("f", 0o777); base("x"); rename("x", "d/x"); become("user"); rename("d/x", "e/x"); rename("d/x", "d/y"); open("e/u", O_CREAT | O_RDWR); rename("e/u", "d/u"); rename("e/u", "f/u"); mkdir("e/ud"); rename("e/ud", "f/ud"); tree()
        become("other"); rename("f/u", "e/o"); rename("f/ud", "e/od"); rename("f/ud", "f/od"); tree()
    """,
    "of a directory that one may not write": """
        mkdir("e"); chmod("e", 0o777); mkdir("f"); chmod("f", 0o777); mkdir("e/d", 0o555); become("user"); rename("e/d", "e/c"); rename("e/c", "f/c"); become("root"); chown("e/c", USER, USERGROUP); become("user"); rename("e/c", "f/c"); tree()
    """,
    "over an open file": """base("x", b"one"); base("y", b"two"); fd = open("y"); rename("x", "y"); read(fd, 5); fstat(fd); write(fd, b"more"); fstat(fd); stat("y")""",
    "exchanging while open": """base("x", b"one"); mkdir("d"); fd = open("x"); d = open("d", O_RDONLY); rename("x", "d", EXCHANGE); read(fd, 5); tree(); open("new", O_CREAT | O_RDWR, dir_fd=d); tree()""",
    "parents after a move": """mkdir("a"); mkdir("b"); mkdir("a/d"); base("x"); rename("x", "a/d/x"); chdir("a/d"); rename("../../a/d", "../../b/e"); stat("x"); listdir(".."); stat("../e/x"); getcwd(); chdir(".."); getcwd(); listdir()""",
    "deep into another": """
        mkdir("a"); mkdir("a/b"); mkdir("a/b/c"); mkdir("z"); rename("a/b", "z/b"); rename("z", "a/z"); tree(); rename("a", "a/z/b/c/a"); rename("a/z/b/c", "c"); tree()
    """,
})
group("rename", PAGE, cases)

LONG = "n" * 255
group("names", PAGE, {
    "mkdir and rmdir": """
        mkdir("d", 0o700); mkdir("d"); stat("d"); mkdir("d/e/f"); mkdir("d/e"); rmdir("d"); rmdir("d/e"); rmdir("d"); rmdir("d"); base("x"); mkdir("x"); mkdir("x/y"); rmdir("x"); rmdir("x/y"); rmdir(""); mkdir(""); mkdir("/"); symlink("none", "l"); mkdir("l"); rmdir("l"); symlink(".", "m"); rmdir("m"); mkdir("m/d"); tree()
    """,
    "unlink": """base("x"); unlink("x"); unlink("x"); mkdir("d"); unlink("d"); unlink("none/x"); unlink(""); symlink("d", "l"); unlink("l/"); unlink("l"); mknod("f", S_IFIFO); unlink("f"); tree()""",
    "link": """
        base("x", b"content"); link("x", "y"); tree(); same("x", "y"); link("x", "y"); link("none", "z"); link("x", "none/z"); mkdir("d"); link("d", "e"); link("x", "d"); link("x", "d/x"); symlink("x", "l"); link("l", "m"); lstat("m"); link("l", "n", follow=True); same("n", "x")
        link("x", ""); link("", "q"); mknod("f", S_IFIFO); link("f", "g"); symlink("none", "h"); link("h", "i", follow=True); tree(); link("/dev/null", "null"); link("/proc/self/exe", "exe", follow=True)
    """,
    "link to an open, unlinked file": """base("x", b"content"); fd = open("x"); unlink("x"); link_fd(fd, "y"); listdir(); base("z"); fd = open("z"); link_fd(fd, "w"); tree()""",
    "link by a user": """
        mkdir("d"); chmod("d", 0o777); base("x", mode=0o644); base("y", mode=0o666); base("z", mode=0o4755); base("w", owner=USER); become("user"); link("x", "d/x"); link("y", "d/y"); link("z", "d/z"); link("w", "d/w"); tree()
    """,
    "symlink": """
        symlink("none", "l"); readlink("l"); stat("l"); lstat("l"); symlink("x", "l"); symlink("", "e"); symlink("x", ""); symlink("x", "none/l"); symlink("a" * 4095, "long"); symlink("a" * 4096, "longer"); lstat("long"); mkdir("d"); readlink("d"); base("f"); readlink("f"); readlink("none"); readlink("")
        symlink("d", "ld"); listdir("ld"); mkdir("ld/e"); tree("d"); lstat("ld/"); symlink("../f", "d/up"); stat("d/up"); symlink(b"\\xff\\n\\x01", "odd"); readlink("odd"); umask(0o077); symlink("a", "m"); lstat("m")
    """,
    "chains of links": """
        base("f", b"x"); symlink("f", "l0")
        for i in range(42):
            symlink(f"l{i}", f"l{i + 1}")
        stat("l38"); stat("l39"); stat("l40"); stat("l41"); symlink("b", "a"); symlink("a", "b"); stat("a"); open("a"); lstat("a"); symlink("self/self", "self"); stat("self")
    """,
    "links in a sticky directory": """mkdir("d"); chmod("d", 0o1777); become("user"); base_ = open("d/f", O_CREAT | O_RDWR); symlink("f", "d/l"); become("other"); readlink("d/l"); stat("d/l"); unlink("d/l"); link("d/f", "d/g")""",
    "special files": """
        mknod("f", S_IFIFO | 0o640); mknod("s", S_IFSOCK | 0o640); mknod("c", S_IFCHR | 0o640, 1, 3); mknod("b", S_IFBLK | 0o640, 7, 200); mknod("r", S_IFREG | 0o640); mknod("d", S_IFDIR | 0o640); mknod("l", S_IFLNK | 0o640); mknod("z", 0o600); tree(); mknod("f", S_IFIFO); mknod("none/f", S_IFIFO)
        mknod("big", S_IFCHR | 0o640, 4095, 1048575); stat("big"); become("user")
        mknod("uc", S_IFCHR | 0o640, 1, 3); mknod("uf", S_IFIFO)
    """,
    "devices by a user": """mkdir("d"); chmod("d", 0o777); become("user"); mknod("d/c", S_IFCHR | 0o666, 1, 3); mknod("d/b", S_IFBLK | 0o666, 1, 3); mknod("d/f", S_IFIFO | 0o666); mknod("d/s", S_IFSOCK | 0o666); mknod("d/w", S_IFCHR | 0o666, 0, 0); tree()""",
    "a device": """mknod("c", S_IFCHR | 0o666, 1, 3); fd = open("c"); write(fd, b"abc"); read(fd, 5); fstat(fd); mknod("z", S_IFCHR | 0o666, 1, 5); fd = open("z"); read(fd, 5); times("z"); mknod("none", S_IFCHR | 0o666, 200, 200); open("none")""",
    "a fifo": """mknod("f", S_IFIFO | 0o666); w = open("f", O_WRONLY | O_NONBLOCK); r = open("f", O_RDONLY | O_NONBLOCK); w = open("f", O_WRONLY | O_NONBLOCK); write(w, b"abc"); read(r, 10); read(r, 1); close(w); read(r, 1); lseek(r, 0); ftruncate(r, 0); fstat(r); poll(r); link("f", "g"); w = open("g", O_WRONLY | O_NONBLOCK); write(w, b"de"); unlink("f"); unlink("g"); read(r, 5); fstat(r); fchmod(r, 0o600); fstat(r)""",
    "a socket": """bind("s"); bind("s"); lstat("s"); open("s"); link("s", "t"); rename("s", "u"); tree(); chmod("u", 0o600); lstat("u"); unlink("u")""",
    "long": f"""
        open("{LONG}", O_CREAT | O_RDWR); open("{LONG}x", O_CREAT | O_RDWR); mkdir("{LONG}y"); stat("{LONG}"); stat("{LONG}x"); rename("{LONG}", "{LONG}x"); rename("{LONG}", "{LONG[1:]}m"); link("{LONG[1:]}m", "{LONG}"); symlink("a", "s{LONG}"); unlink("{LONG}x"); rmdir("{LONG}x"); mknod("{LONG}x", S_IFIFO); listdir()
        mkdir("d"); rename("{LONG}", "d/{LONG}"); listdir("d"); stat("d/{LONG}"); open("d/{LONG}x"); access("{LONG}x", F_OK); fd = open("d", O_TMPFILE | O_RDWR); link_fd(fd, "{LONG}x")
    """,
    "of two bytes a letter": """open("\\u00e9" * 127, O_CREAT | O_RDWR); open("\\u00e9" * 128, O_CREAT | O_RDWR); listdir()""",
    "odd bytes": """
        for name in (b"\\xff", b"\\xc3(", b"a\\nb", b" ", b"\\x01", b"*", b"-rf", b"\\\\", b"...", b". ", b".hidden", b"..x", b"\\x7f", b"a" * 200 + b"\\xfe", b".cow", b".info", b".stats", "\\u0065\\u0301".encode(), "\\u00e9".encode()):
            open(name, O_CREAT | O_EXCL | O_RDWR); open(name, O_CREAT | O_EXCL | O_RDWR); stat(name); link(name, name + b"~"); rename(name + b"~", name + b"!")
        listdir(); open("UPPER", O_CREAT | O_RDWR); stat("upper")
    """,
    "every byte": """
        for byte in range(1, 256):
            if byte not in (46, 47):
                mknod(bytes([byte]), S_IFREG | 0o600)
        listdir(); unlink(b"\\xfe"); unlink(b"\\xfe")
    """,
    "deep": """
        for i in range(100):
            mkdir("deep-directory"); chdir("deep-directory")
        open("x", O_CREAT | O_RDWR); stat("../x"); stat("../deep-directory/x"); getcwd()
    """,
    "long paths": """
        mkdir("d"); stat("d/" * 2000); stat("./" * 2040 + "d"); stat("./" * 2047 + "d"); stat("./" * 2048); open("./" * 2040 + "x", O_CREAT | O_RDWR); mkdir("./" * 2048 + "e"); symlink("./" * 2000 + "d", "l"); stat("l"); symlink("a/" * 2046, "m"); stat("m"); stat("d//.///../d/./")
    """,
    "through a file": """base("x"); stat("x/."); stat("x/.."); open("x/../x"); mkdir("x/d"); rename("x/a", "b"); link("x/a", "b"); symlink("a", "x/b"); readlink("x/l"); chmod("x/a", 0o600); unlink("x/a"); rmdir("x/a"); mknod("x/f", S_IFIFO); truncate("x/a", 0); getxattr("x/a", "user.a"); utime("x/a"); statvfs("x/a"); chdir("x"); access("x/a", F_OK); statx("x/a")""",
    "made and removed over and over": """
        for i in range(20):
            fd = open("x", O_CREAT | O_EXCL | O_RDWR); write(fd, b"a"); unlink("x"); mkdir("x"); rmdir("x"); symlink("a", "x"); unlink("x"); close(fd)
        listdir(); stat(".")
    """,
    "looked up before": """stat("x"); open("x", O_CREAT | O_RDWR); stat("x"); unlink("x"); stat("x"); mkdir("x"); stat("x"); rmdir("x"); stat("x"); symlink("a", "x"); lstat("x"); stat("d/x"); mkdir("d"); open("d/x", O_CREAT | O_RDWR); rename("d/x", "y"); stat("d/x"); stat("y"); link("y", "z"); stat("z"); rename("y", "z"); stat("y"); rename("y", "q"); stat("y"); rename("z", "q", EXCHANGE); stat("q")""",
    "owners of what is made": """mkdir("d"); chmod("d", 0o777); become("user"); open("d/f", O_CREAT | O_RDWR); mkdir("d/d"); symlink("a", "d/l"); mknod("d/p", S_IFIFO | 0o600); become("other", [USERGROUP]); open("d/g", O_CREAT | O_RDWR); tree()""",
})

group("directories", PAGE, {
    "types": """open("f", O_CREAT | O_RDWR); mkdir("d"); symlink("a", "l"); mknod("p", S_IFIFO); mknod("s", S_IFSOCK); mknod("c", S_IFCHR, 1, 3); mknod("b", S_IFBLK, 7, 7); readdir(opendir("."))""",
    "empty": """mkdir("d"); h = opendir("d"); readdir(h); readdir(h); rewinddir(h); readdir(h); seeks_right(h)""",
    "refused": """base("x"); opendir("x"); opendir("none"); symlink("none", "l"); opendir("l"); mkdir("d", 0o300); opendir("d"); become("user"); opendir("d"); listdir("d")""",
    "seeking": """
        for i in range(60):
            mknod(f"name{i}", S_IFREG)
        seeks_right(opendir("."))
    """,
    "seeking among many": """
        for i in range(300):
            mknod("n" * 100 + str(i), S_IFREG)
        seeks_right(opendir("."))
    """,
    "rewinding shows what is new": """
        mkdir("d"); h = opendir("d"); readdir(h); mknod("d/a", S_IFREG); rewinddir(h); readdir(h); unlink("d/a"); mkdir("d/b"); rewinddir(h); readdir(h); rename("d/b", "d/c"); rewinddir(h); readdir(h)
    """,
    "removed while reading": """
        mkdir("d")
        for i in range(200):
            mknod(f"d/{i}", S_IFREG)
        h = opendir("d"); readdir_count(h, 10)
        for i in range(200):
            unlink(f"d/{i}")
        rewinddir(h); readdir(h); rmdir("d"); rewinddir(h); readdir(h)
    """,
    "all removed as they are listed": """
        mkdir("d")
        for i in range(150):
            mknod(f"d/{i}", S_IFREG)
        h = opendir("d"); import_ = 0
        names = listdir("d")
        for name in names:
            unlink(b"d/" + name)
        listdir("d"); rmdir("d"); stat("d")
    """,
    "two at once": """
        for i in range(40):
            mknod(f"{i}", S_IFREG)
        a = opendir("."); b = opendir("."); readdir_count(a, 20); readdir_count(b, 42); readdir_count(a, 100); readdir_count(b, 1); rewinddir(a); readdir_count(a, 100)
    """,
    "seeking a descriptor": """mkdir("d"); mknod("d/a", S_IFREG); fd = open("d", O_RDONLY); lseek(fd, 0); lseek(fd, -1); lseek(fd, -5, SEEK_CUR); lseek(fd, 0, 9); read(fd, 5); listdir(fd); listdir(fd)""",
    "names of a removed directory": """mkdir("d"); h = opendir("d"); rmdir("d"); readdir(h); rewinddir(h); readdir(h)""",
    "no permission after opening": """mkdir("d"); mknod("d/a", S_IFREG); h = opendir("d"); chmod("d", 0); become("user"); readdir(h)""",
    "watched": """mkdir("d"); i = inotify("d", 0xfff); mknod("d/a", S_IFREG); events(i); fd = open("d/a"); write(fd, b"a"); close(fd); events(i); rename("d/a", "d/b"); events(i); chmod("d/b", 0o600); unlink("d/b"); events(i); mkdir("d/e"); rmdir("d/e"); events(i); listdir("d"); events(i); rmdir("d"); events(i)""",
    "watched renames between directories": """mkdir("d"); mkdir("e"); i = inotify("d", 0xfff); j = inotify("e", 0xfff); mknod("d/a", S_IFREG); link("d/a", "e/b"); symlink("a", "e/l"); rename("d/a", "e/c"); events(i); events(j); rename("e/c", "e/b", EXCHANGE); events(j)""",
    "watched, refused": """base("x"); inotify("none", 0xfff); inotify("x", 0x1000000); inotify("x", 0)""",
})

# --- Programs, locks, waiting ---------------------------------------------------------------------

group("programs", ALL, {
    "a script": """base("x", b"#!/bin/sh\\nexit 7\\n", mode=0o755); execute("./x"); become("user"); execute("./x")""",
    "a binary": """
        import builtins
        base("x", builtins.open("/bin/true", "rb").read(), mode=0o755); execute("./x"); base("y", builtins.open("/bin/false", "rb").read(), mode=0o755); execute("./y"); fd = open("x", O_RDONLY); fexecute(fd)
    """,
    "not allowed": """base("x", b"#!/bin/sh\\nexit 7\\n", mode=0o644); execute("./x"); base("y", b"#!/bin/sh\\nexit 7\\n", mode=0o744); become("user"); execute("./y"); execute("./none"); execute("./x/y"); execute(".")""",
    "not a program": """base("x", b"junk", mode=0o755); execute("./x"); base("y", b"", mode=0o755); execute("./y"); base("z", b"#!/none\\n", mode=0o755); execute("./z"); base("w", b"\\x7fELF junk", mode=0o755); execute("./w")""",
    "open for writing": """base("x", b"#!/bin/sh\\nexit 7\\n", mode=0o755); fd = open("x"); path = reopen(fd, O_RDONLY); fexecute(path); close(fd); fexecute(path)""",
})
group("running programs", REAL, {
    "is busy": """
        import builtins
        base("x", builtins.open("/bin/sleep", "rb").read(), mode=0o755); run_on("./x", "60"); open("x", O_RDWR); open("x", O_WRONLY | O_TRUNC); truncate("x", 0); fd = open("x", O_RDONLY); chmod("x", 0o700); rename("x", "y"); stat("y"); unlink("y"); fstat(fd); kill()
        reopen(fd, O_RDWR)
    """,
    "set-user-ID": """
        import builtins
        base("x", builtins.open("/usr/bin/id", "rb").read(), mode=0o755); chown("x", OTHER, OTHERGROUP); chmod("x", 0o6755); become("user"); execute("./x"); stat("x")
    """,
    "written meanwhile": """base("x", b"#!/bin/sh\\nexit 7\\n", mode=0o755); fd = open("x"); execute("./x"); close(fd); execute("./x"); m = open("x"); pwrite(m, b"3", 15); close(m); execute("./x")""",
})

group("locks", ALL, {
    "flock": """
        base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); flock(a, LOCK_SH); flock(b, LOCK_SH | LOCK_NB); flock(a, LOCK_EX | LOCK_NB); flock(b, LOCK_UN); flock(a, LOCK_EX | LOCK_NB); flock(b, LOCK_SH | LOCK_NB); flock(b, LOCK_EX | LOCK_NB); close(a); flock(b, LOCK_EX | LOCK_NB)
    """,
    "flock is the open's": """
        base("x", b"content"); a = open("x"); b = dup(a); c = reopen(a, O_RDWR); flock(a, LOCK_EX); flock(b, LOCK_EX | LOCK_NB); elsewhere(lambda: flock(b, LOCK_EX | LOCK_NB)); elsewhere(lambda: flock(c, LOCK_EX | LOCK_NB)); close(a); flock(c, LOCK_EX | LOCK_NB); close(b); flock(c, LOCK_EX | LOCK_NB)
    """,
    "flock on a descriptor for reading": """base("x", b"content"); a = open("x", O_RDONLY); flock(a, LOCK_EX | LOCK_NB); flock(a, 77); flock(a, 0); flock(a, LOCK_UN); flock(a, LOCK_UN)""",
    "flock, unlocked by a child": """base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); flock(a, LOCK_EX); elsewhere(lambda: flock(a, LOCK_UN)); flock(b, LOCK_EX | LOCK_NB)""",
    "flock kept by a child": """base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); flock(a, LOCK_EX); fork(lambda: None); close(a); flock(b, LOCK_EX | LOCK_NB)""",
    "records": """
        base("x", b"content"); fd = open("x"); lock(fd, F_WRLCK, 0, 10); lock(fd, F_RDLCK, 5, 10); getlock(fd, F_WRLCK); elsewhere(lambda: getlock(fd, F_WRLCK)); elsewhere(lambda: getlock(fd, F_WRLCK, 5, 1)); elsewhere(lambda: lock(fd, F_RDLCK, 0, 1)); elsewhere(lambda: lock(fd, F_RDLCK, 5, 1)); elsewhere(lambda: lock(fd, F_WRLCK, 5, 1))
        elsewhere(lambda: lock(fd, F_WRLCK, 15, 100)); lock(fd, F_UNLCK, 2, 6); elsewhere(lambda: getlock(fd, F_WRLCK)); elsewhere(lambda: getlock(fd, F_WRLCK, 2, 6)); elsewhere(lambda: getlock(fd, F_WRLCK, 2)); lock(fd, F_UNLCK); elsewhere(lambda: getlock(fd, F_WRLCK))
    """,
    "records, to the end": """base("x", b"content"); fd = open("x"); lock(fd, F_WRLCK, 100); elsewhere(lambda: getlock(fd, F_RDLCK, 1 << 40, 1)); elsewhere(lambda: getlock(fd, F_RDLCK, 99, 1)); lock(fd, F_WRLCK, 0, 0, whence=2); lock(fd, F_WRLCK, -3, 3, whence=2); elsewhere(lambda: getlock(fd, F_RDLCK)); lseek(fd, 50); lock(fd, F_WRLCK, -1, 1, whence=1); elsewhere(lambda: getlock(fd, F_RDLCK, 49, 1)); lock(fd, F_WRLCK, 70, -5); elsewhere(lambda: getlock(fd, F_RDLCK, 60, 20))""",
    "records, refused": """base("x", b"content"); fd = open("x"); lock(fd, F_WRLCK, -1, 1); lock(fd, 9); lock(fd, F_WRLCK, 0, 1, whence=9); lock(fd, F_WRLCK, MAX, 2); lock(fd, F_WRLCK, 5, -6); ro = reopen(fd, O_RDONLY); lock(ro, F_WRLCK); wo = reopen(fd, O_WRONLY); lock(wo, F_RDLCK); getlock(fd, F_UNLCK); lock(ro, F_RDLCK); lock(ro, F_WRLCK, command=F_OFD_SETLK)""",
    "records go with any close": """base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); lock(a, F_WRLCK); elsewhere(lambda: lock(a, F_WRLCK)); close(b); elsewhere(lambda: lock(a, F_WRLCK)); lock(a, F_WRLCK); elsewhere(lambda: close(a)); elsewhere(lambda: lock(a, F_WRLCK))""",
    "records go with the process": """base("x", b"content"); fd = open("x"); fork(lambda: lock(fd, F_WRLCK, 3, 4)); getlock(fd, F_WRLCK); lock(fd, F_WRLCK); lock(fd, F_WRLCK, 0, 3); kill(); lock(fd, F_WRLCK)""",
    "open file description locks": """
        base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); lock(a, F_WRLCK, 0, 5, F_OFD_SETLK); lock(b, F_WRLCK, 4, 5, F_OFD_SETLK); lock(b, F_RDLCK, 5, 5, F_OFD_SETLK); lock(a, F_WRLCK, 5, 1, F_OFD_SETLK); getlock(b, F_WRLCK, 0, 0, F_OFD_GETLK); lock(a, F_WRLCK, 0, 5); getlock(a, F_WRLCK, 0, 5)
        elsewhere(lambda: lock(a, F_WRLCK, 0, 2, F_OFD_SETLK)); elsewhere(lambda: lock(b, F_WRLCK, 0, 2, F_OFD_SETLK)); close(a); lock(b, F_WRLCK, 0, 0, F_OFD_SETLK)
    """,
    "open file description locks, kept by a child": """base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); lock(a, F_WRLCK, 0, 0, F_OFD_SETLK); fork(lambda: None); close(a); lock(b, F_WRLCK, 0, 0, F_OFD_SETLK); kill(); lock(b, F_WRLCK, 0, 0, F_OFD_SETLK)""",
    "flock and records do not meet": """base("x", b"content"); a = open("x"); b = reopen(a, O_RDWR); flock(a, LOCK_EX); lock(b, F_WRLCK); lock(b, F_WRLCK, 0, 0, F_OFD_SETLK); elsewhere(lambda: lock(a, F_WRLCK))""",
    "deadlock": """
        base("x", b"content"); fd = open("x"); lock(fd, F_WRLCK, 0, 1); lock(fd, F_WRLCK, 0, 1, F_SETLKW); lock(fd, F_WRLCK, 0, 5, F_SETLKW)
    """,
    "poll": """base("x", b"content"); fd = open("x"); poll(fd); poll(fd, POLLIN); poll(fd, POLLPRI); poll(fd, 0); selects(fd); epoll(fd); ro = reopen(fd, O_RDONLY); poll(ro); lseek(fd, 0, SEEK_END); poll(fd); close(fd); poll(fd)""",
    "leases": """base("x", b"content"); fd = open("x", O_RDONLY); getlease(fd); setlease(fd, F_RDLCK); getlease(fd); setlease(fd, F_UNLCK); getlease(fd); setlease(fd, F_WRLCK); getlease(fd); setlease(fd, F_UNLCK); setlease(fd, 9)""",
    "leases of a writer": """base("x", b"content"); fd = open("x"); setlease(fd, F_RDLCK); setlease(fd, F_WRLCK); getlease(fd); setlease(fd, F_UNLCK); become("user"); setlease(fd, F_WRLCK)""",
})
group("watches", REAL, {
    "a file": """base("x", b"content"); i = inotify("x", 0xfff); fd = open("x"); events(i); read(fd, 3); events(i); write(fd, b"a"); events(i); ftruncate(fd, 3); events(i); fchmod(fd, 0o600); events(i); utime(fd, (1, 1), (1, 1)); events(i); close(fd); events(i); setxattr("x", "user.a", b"1"); events(i); link("x", "y"); events(i); rename("y", "z"); events(i); unlink("z"); events(i)""",
    "its end": """base("x", b"content"); i = inotify("x", 0xfff); unlink("x"); events(i); base("y", b"content"); i = inotify("y", 0xfff); fd = open("y"); unlink("y"); events(i); close(fd); events(i)""",
    "a mapping and copies": """base("x", "DD"); base("y", "DD"); a = open("x"); b = open("y"); i = inotify("y", 0xfff); copy(a, b, 10, 0, 0); events(i); sendfile(b, a, 0, 10); events(i); fallocate(b, 0, 0, P); events(i); m = map(b, P); store(m, 0, b"a"); msync(m); events(i)""",
})

# --- Differences that are meant to be -------------------------------------------------------------
#
# line: a pattern for the lines of test_compare.differences: "NUMBER CALL: REFERENCE here MOUNT".
# Each entry has to fit at least one difference in each kind and mode that it is for, unless it
# comes and goes (sometimes).

Known = collections.namedtuple("Known", "cases line reason kinds modes sometimes")
BOTH = ("passthrough", "cached")
VIEWS = ("cow", "cowfile", "cowcopy")
OVERLAYS = ("cow", "cowfile")                    # with cow_copy_max=0
OWN_FILE = REAL + ("cowcopy",)
KNOWN = []


def known(reason, cases, line=".", kinds=ALL + ("cowcopy",), modes=BOTH, sometimes=False):
    for pattern in [cases] if isinstance(cases, str) else cases:
        KNOWN.append(Known(pattern, line, reason, kinds, modes, sometimes))


# The kernel decides these before it asks anybody.

known("FUSE knows no largest size: lseek goes anywhere, and what follows says EFBIG or EINVAL",
      ["huge offsets: lseek by " + offset for offset in ("(1 << 44) - P", *HUGE[4:])], kinds=("file",))
known("FUSE takes any number for the largest size, so that an overflow in lseek has another error",
      "huge offsets: lseek by MAX - P", r"(9223372036854771711, 4|0, 1)\): ", kinds=("page",))
known("directories have no holes and no data in FUSE", "holes: on what is not a file", "lseek")
known("FUSE has a poll operation, and so epoll takes its files", "locks: poll", r"epoll.*: EPERM here None")
known("FUSE does not offer RWF_NOWAIT nor RWF_DONTCACHE", ["data: RWF_NOWAIT", "data: RWF_DONTCACHE"], "here ENOTSUP",
      kinds=("file", "cowfile"))
known("the kernel opens the backing file with the flags of the open, and they stay", "data: RWF_NOAPPEND", "contents",
      kinds=OWN_FILE, modes=("passthrough",))
known("the kernel opens the backing file with the flags of the open, and they stay", "data: F_SETFL, appending no more",
      "contents", kinds=OWN_FILE, modes=("passthrough",))
known("FUSE does not pass RWF_NOAPPEND on", "data: RWF_NOAPPEND", "contents", kinds=("file",), modes=("cached",))
known("FUSE does not check the limit for what is beyond the end and stays there", "data: limit on the size of files",
      r"fallocate\(.*, 1, 0, 24576\): EFBIG here None|blocks=(32|40) .* here .* blocks=48", kinds=("page", "cow", "cowcopy"))
known("there are no inode flags", ["data: ioctl FS_IOC_GETFLAGS", "data: ioctl FS_IOC_SETFLAGS"], "here ENOTTY")
known("FUSE has no operation for a mapping, so that nobody can note one", ["mappings: times of a store", "mappings: times of loads"],
      r"times\(.*: now, (.*) here 1000000001, \1", kinds=REAL, modes=("cached",))
known("FUSE has no operation for a mapping, so that nobody can note one", ["mappings: times of a store", "mappings: times of loads"],
      r"times\(.*: now, (.*) here 1000000001, \1", kinds=OVERLAYS)
known("FUSE does not ask for a read of no bytes, nor does it read through then", "attributes of open files: times of reading",
      r"^5 times\(.*: now, (.*) here 1000000001, \1", kinds=("page", "cow", "cowcopy"))
known("FUSE does not tell an open file description's lock from a process's", "locks: open file description locks",
      r"getlock.*-1] here .*me]")

# What the documentation says.

known("each open of a section under .cow has the same inode number", "open more: the same again", "same", kinds=VIEWS)
known("names and extended attributes cannot be changed under .cow",
      ["data: security.capability goes with *", "attributes of open files: times of attributes",
       "attributes of open files: xattrs of a descriptor"], kinds=VIEWS)
known("a view cannot be larger than 4 EiB", ["fallocate: plainly, MAX - P, P", "fallocate: keeping the size, MAX - P, P",
      "copies, refused: sizes"], kinds=("cow",))
known("a view cannot be larger than 4 EiB", ["fallocate: plainly, MAX - P, P", "fallocate: keeping the size, MAX - P, P"],
      kinds=("cowcopy",))
known("views can be punched and zeroed anywhere, a disk's files up to their largest size",
      ["fallocate: punching*, MAX", "fallocate: punching*, MAX - P, P", "fallocate: zeroing, keeping the size, *MAX*"],
      "EFBIG here None|contents", kinds=("cowfile",))
known("the holes of a copy have their pages; when they are allocated once more, tmpfs takes them for data",
      ["fallocate: plainly, *", "fallocate: keeping the size, *"], "data_ranges", kinds=("cowcopy",), modes=("passthrough",))
known("views can be zeroed on any filesystem", ["fallocate: zeroing*", "holes: punching under two descriptors", "mappings: punched under it"],
      kinds=("cow", "cowcopy"))
known("zeroing beyond the greatest size", ["fallocate: zeroing*, 0, MAX", "fallocate: zeroing*, MAX - P, P"], "EFBIG", kinds=("cow", "cowcopy"))
known("which pages of a view are private is the view's affair, and so where it has holes",
      ["fallocate: p*", "mappings: a store to a hole", "mappings: MADV_REMOVE"], "data_ranges", kinds=("cow",))
known("which pages of a view are private is the view's affair, and so where it has holes",
      ["fallocate: *", "holes: allocated and not written"], "data_ranges", kinds=("cowfile",))
known("views have no set-user-ID and set-group-ID bits",
      ["data: set-id bits go when a user writes", "data: set-id bits go when a user opens and writes",
       "data: set-id bits stay when a mapping is stored to", "attributes of open files: fchmod*",
       "attributes of open files: fchown takes set-id bits"], r"mode=10[1-7]\d\d\d .* here mode=10[01]\d\d\d ", kinds=VIEWS)
known("no collapsing, no inserting", ["fallocate: collapsing*", "fallocate: inserting*"], kinds=("file", "cowfile"))
known("no unsharing", "fallocate: unsharing*, MAX*", "EFBIG here ENOTSUP", kinds=("file", "cowfile"))
known("sections are never as strict about O_DIRECT as a disk", "open: a*file*O_DIRECT", kinds=("cowfile",))
known("sections are never as strict about O_DIRECT as a disk", "open: a*file*O_DIRECT", kinds=("file",), modes=("cached",))
known("no POSIX ACLs", "xattrs: access control lists", "here ENOTSUP", kinds=PAGE)
known("no RENAME_WHITEOUT", "rename: whiteout", kinds=PAGE)
known("the text of a symbolic link takes no block", "names: symlink", r"lstat\(long\).*blocks=8 .* here .*blocks=0 ", kinds=PAGE)
known("the size of a directory is that of its names alone", "attributes: directories", "dir_size", kinds=PAGE)
known("a tmpfs does not note stores to mappings, though POSIX wants it", "mappings: times of a store", "msync|times",
      kinds=("page",), modes=("cached",))
known("a tmpfs does not note stores to mappings, though POSIX wants it", "mappings: times of a store",
      "now, 2000000002, same here now, now, changed", kinds=("cow",))
known("what is stored beyond the end shows when the view grows, as on a tmpfs but not on a disk",
      "mappings: the rest of the last page", "contents|load", kinds=("cowfile",))
known("a tmpfs takes a page for a hole that is read through a mapping", ["mappings: a store to a hole", "mappings: MADV_REMOVE"],
      "data_ranges|blocks", kinds=("page",), modes=("cached",))
known("a tmpfs changes no times of a file without a page that is truncated by path to the size it has",
      "truncate: nothing to nothing", "times", kinds=PAGE)
