# SPDX-License-Identifier: MIT
"""Programs that never heard of sections, with all they work on inside the mount: the result is the one
that they have on a tmpfs, compared file by file."""

import os
import random
import shutil
import sqlite3
import stat
import sys

import pytest

from util import MIB, Child, opened, pattern, run, sha, write

OWN = "user.section."           # the attributes that every section has, and no file of a tmpfs

GIT_ENVIRONMENT = {
    "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0",
    "GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_COMMITTER_NAME": "C",
    "GIT_COMMITTER_EMAIL": "c@example.org", "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
    "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
}


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program} (run scripts/deps)")


def shell(directory, script, **environment):
    """A script of commands in that directory, all its temporary files there as well."""
    __tracebackhide__ = True
    os.makedirs(f"{directory}/tmp", exist_ok=True)
    return run("sh", "-euc", script, cwd=directory, timeout=80,
               env={"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin",
                    "LC_ALL": "C", "TZ": "UTC", "HOME": str(directory),
                    "TMPDIR": f"{directory}/tmp", **environment}).stdout


def tree(top, times=False, skip=()):
    """All that is below: {path: facts}."""
    found, first_name = {}, {}
    for directory, folders, files in os.walk(top):
        folders[:] = sorted(name for name in folders
                            if os.path.relpath(f"{directory}/{name}", top) not in skip)
        for name in [".", *folders, *sorted(files)]:
            path = os.path.normpath(f"{directory}/{name}")
            if name == "." and directory != str(top) or os.path.relpath(path, top) in skip:
                continue
            key = os.path.relpath(path, top)
            st = os.lstat(path)
            facts = {"mode": oct(st.st_mode), "owner": (st.st_uid, st.st_gid), "links": st.st_nlink}
            if times:
                facts["mtime"] = st.st_mtime_ns
            if stat.S_ISREG(st.st_mode):
                facts["size"], facts["bytes"] = st.st_size, sha(path)
                if st.st_nlink > 1:
                    facts["same as"] = first_name.setdefault(st.st_ino, key)
            elif stat.S_ISLNK(st.st_mode):
                facts["target"] = os.readlink(path)
            elif not stat.S_ISDIR(st.st_mode):
                facts["device"] = st.st_rdev
            facts["attributes"] = {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False) if not name.startswith(OWN)}
            found[key] = facts
    if not times:
        found["."].pop("mtime", None)
    return found


def same(one, other):
    """Compares so that a difference is readable."""
    __tracebackhide__ = True
    assert sorted(one) == sorted(other)
    differing = [f"{key}: {fact} is {one[key].get(fact)!r}, not {other[key].get(fact)!r}"
                 for key in sorted(one) for fact in sorted({*one[key], *other[key]})
                 if one[key].get(fact) != other[key].get(fact)]
    assert not differing, "\n".join(differing[:20])


@pytest.fixture
def reference(new_mount, mnt):
    return new_mount("tmpfs")


def plant(top):
    """A tree with one of everything, with owners and times of its own."""
    os.mkdir(top)
    draw = random.Random(7)
    for number in range(60):
        folder = f"{top}/d{number % 6}/e{number % 4}"
        os.makedirs(folder, exist_ok=True)
        write(f"{folder}/f{number}", pattern(number, draw.choice((0, 1, 100, 4096, 5000, 70000))))
        os.chmod(f"{folder}/f{number}", draw.choice((0o644, 0o600, 0o755, 0o400, 0o4755, 0o2711)))
    os.chown(f"{top}/d1/e1/f1", 1234, 4321)
    os.chmod(f"{top}/d1/e1/f1", 0o6755)
    os.chmod(f"{top}/d2", 0o2775)
    os.chmod(f"{top}/d3", 0o1777)
    os.mkdir(f"{top}/empty", 0o700)
    os.link(f"{top}/d0/e0/f0", f"{top}/link")
    os.link(f"{top}/d0/e0/f0", f"{top}/d5/another")
    os.link(f"{top}/d1/e3/f7", f"{top}/d2/third")
    os.symlink("../d0", f"{top}/d4/to-d0")
    os.symlink("nowhere" * 30, f"{top}/dangling")
    os.lchown(f"{top}/dangling", 77, 88)
    os.mkfifo(f"{top}/fifo", 0o620)
    os.mknod(f"{top}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    write(f"{top}/n\xe4me with\tblanks\nand lines", b"x")
    write(f"{top}/" + "n" * 255, b"long")
    with opened(f"{top}/sparse", os.O_CREAT | os.O_RDWR) as fd:
        os.pwrite(fd, b"middle", 3 * MIB)
        os.ftruncate(fd, 4 * MIB)
    os.setxattr(f"{top}/d0/e0/f0", "user.colour", b"red\0blue")
    os.setxattr(f"{top}/d2", "user.on.directory", b"")
    os.setxattr(f"{top}/d2", "trusted.secret", b"t")
    paths = [f"{directory}/{name}" for directory, folders, files in os.walk(top)
             for name in [*files, *folders]]
    for path in [*sorted(paths), top]:
        when = draw.randrange(10 ** 17, 17 * 10 ** 17)
        os.utime(path, ns=(when, when), follow_symlinks=False)


def test_a_planted_tree_is_the_same(mnt, reference):
    """What the other tests here stand on."""
    plant(reference / "t")
    plant(mnt / "t")
    same(tree(mnt / "t", times=True), tree(reference / "t", times=True))


def test_tar(mnt, reference):
    need("tar")
    options = "--format=posix --xattrs --xattrs-include='*' --xattrs-exclude='user.section.*' " \
              "--pax-option=delete=atime,delete=ctime"
    for place in (reference, mnt):
        plant(place / "t")
        shell(place.path, f"tar {options} -S --sort=name -cf whole.tar t\n"
                          f"mkdir out; tar {options} -xpf whole.tar -C out\n"
                          f"tar {options} -df whole.tar -C out\n"
                          # Through a pipe, without any extension.
                          f"mkdir copy; tar -cf - t | tar -xpf - -C copy\n"
                          f"tar -czf small.tgz t; tar -tzf small.tgz | sort > list\n"
                          f"tar -df small.tgz", GZIP="-n")
    same(tree(mnt / "out/t", times=True), tree(reference / "out/t", times=True))
    same(tree(mnt / "out/t", times=True), tree(mnt / "t", times=True))
    same(tree(mnt / "copy/t"), tree(reference / "copy/t"))
    assert sha(mnt / "list") == sha(reference / "list")
    # An archive from one is unpacked on the other, hole for hole.
    shell(reference.path, f"mkdir crossed; tar {options} -xpf {mnt.path}/whole.tar -C crossed")
    shell(mnt.path, f"mkdir crossed; tar {options} -xpf {reference.path}/whole.tar -C crossed")
    same(tree(mnt / "crossed/t", times=True), tree(reference / "crossed/t", times=True))
    assert os.stat(mnt / "crossed/t/sparse").st_blocks == \
        os.stat(reference / "crossed/t/sparse").st_blocks < 1000


def test_rsync(mnt, reference):
    need("rsync")
    for place in (reference, mnt):
        plant(place / "t")
        shell(place.path, "rsync -aHAX --numeric-ids t/ copy/\n"
                          "rsync -aHAXS --numeric-ids t/ sparse/\n"
                          "echo more >> t/d0/e0/f0; rm t/d1/e1/f1; mkdir t/new; touch -d @5 t/new/x\n"
                          "touch -d @1000 t/new t/d1/e1\n"
                          "rsync -aHAX --numeric-ids --delete --checksum t/ copy/\n"
                          "rsync -aHAX --numeric-ids --inplace --no-whole-file t/ sparse/\n"
                          # What is the same is left alone.
                          "rsync -aHAXi --filter='-x user.section.*' --numeric-ids t/ copy/ > nothing\n")
        assert os.stat(place / "nothing").st_size == 0
        same(tree(place / "copy", times=True), tree(place / "t", times=True) | {
            ".": tree(place / "copy", times=True)["."]})
        assert os.stat(place / "sparse/sparse").st_blocks < 1000
    for name in ("copy", "sparse"):
        ours, theirs = tree(mnt / name), tree(reference / name)
        same(ours, theirs)


def test_rsync_between_mount_and_tmpfs(mnt, reference):
    need("rsync")
    plant(reference / "t")
    shell(reference.path, f"rsync -aHAX --numeric-ids t/ {mnt.path}/in/\n"
                          f"rsync -aHAX --numeric-ids --filter='-x {OWN}*' {mnt.path}/in/ back/")
    same(tree(mnt / "in", times=True), tree(reference / "t", times=True))
    same(tree(reference / "back", times=True), tree(reference / "t", times=True))


def test_cp_and_mv(mnt, reference):
    for place in (reference, mnt):
        plant(place / "t")
        shell(place.path, "cp -a t copy\n"
                          "cp -a --sparse=always t/sparse holes\n"
                          "cp -al t linked\n"
                          "mv copy moved; mkdir into; mv moved into\n"
                          "rm -r t")
    same(tree(mnt.path, skip=["tmp"]), tree(reference.path, skip=["tmp"]))
    # Between filesystems mv copies.
    shell(mnt.path, f"mv into {reference.path}/from-mount")
    assert not os.path.exists(mnt / "into")
    same(tree(reference / "from-mount", times=True), tree(reference / "into", times=True) | {
        ".": tree(reference / "from-mount", times=True)["."]})


GIT = """
git init -q -b main origin
cd origin
for i in $(seq 16); do
    mkdir -p d$((i % 5)); seq $((i * 50)) > d$((i % 5))/f$i
    if [ $((i % 4)) = 0 ]; then git add -A; git commit -q -m "number $i"; fi
done
ln -s d1 link; chmod +x d0/f5; echo x > 'odd name'; git add -A; git commit -q -m last
git tag -a -m tag one
git checkout -q -b side HEAD~3; echo side > side; git add side; git commit -q -m side
git checkout -q main; git merge -q -m merge side
git mv d2 moved; git commit -q -m moved
git stash -q || true
cd ..
git clone -q origin hardlinked
git clone -q --no-hardlinks --no-local origin cloned
git clone -q --bare "file://$PWD/origin" bare.git
cd cloned
git -c pack.threads=1 repack -q -a -d; git gc -q --prune=now
echo changed >> d1/f1; git commit -q -a -m changed; git push -q ../bare.git main
git worktree add -q ../worktree side
test -z "$(git status --porcelain)"
cd ..
for r in origin hardlinked cloned bare.git; do
    git -C $r fsck --full --strict --no-dangling 2>&1
    git -C $r for-each-ref
    git -C $r cat-file --batch-all-objects --batch-check | sha256sum
done
git -C cloned log --stat --format=%H%n%T | sha256sum
"""


@pytest.mark.modes("passthrough")
def test_git(mnt, reference):
    need("git")
    out = [shell(place.path, GIT, **GIT_ENVIRONMENT) for place in (reference, mnt)]
    assert out[0] == out[1]
    assert "error" not in out[0]
    for name in ("origin", "hardlinked", "cloned", "worktree"):
        # .git has times and inode numbers in its index, and a link count for each kind of clone.
        same(tree(mnt / name, skip=[".git"]), tree(reference / name, skip=[".git"]))


SOURCES = {
    "Makefile": """
CFLAGS = -O1 -MMD -pipe
objects = main.o list.o text.o
program: $(objects) libmore.so
\t$(CC) $(CFLAGS) -o $@ $(objects) -L. -lmore -Wl,-rpath,'$$ORIGIN'
libmore.so: more.c
\t$(CC) $(CFLAGS) -shared -fPIC -o $@ more.c
libparts.a: list.o text.o
\t$(AR) rcD $@ list.o text.o
generated.h: generate.sh
\tsh generate.sh > $@.new
\tmv $@.new $@
main.o: generated.h
check: program libparts.a
\t./program > output
\tcmp output expected
clean:
\trm -f *.o *.d *.so *.a program generated.h output
-include *.d
.PHONY: check clean
""",
    "generate.sh": "for i in 1 2 3; do echo \"#define N$i $i\"; done\n",
    "main.c": "#include <stdio.h>\n#include \"generated.h\"\n#include \"parts.h\"\n"
              "int main(void) { printf(\"%d %s %d\\n\", sum(N3), text(), more()); return 0; }\n",
    "parts.h": "int sum(int n);\nconst char *text(void);\nint more(void);\n",
    "list.c": "#include \"parts.h\"\nint sum(int n) { return n ? n + sum(n - 1) : 0; }\n",
    "text.c": "#include \"parts.h\"\nconst char *text(void) { return \"text\"; }\n",
    "more.c": "int more(void) { return 42; }\n",
    "expected": "6 text 42\n",
}


@pytest.mark.modes("cached")
def test_make(mnt, reference):
    need("make", "gcc")
    for place in (reference, mnt):
        os.mkdir(place / "project")
        for name, text in SOURCES.items():
            write(place / f"project/{name}", text.encode())
        shell(place.path, """
            cd project
            make -s -j4 check CC='gcc -no-canonical-prefixes'
            make -q check || test $? = 1            # check is always done, program is not:
            make -q program
            echo 'int more(void) { return 43; }' > more.c; touch -d '+2 seconds' more.c
            if make -q program; then exit 9; fi     # noticed
            make -s program; ./program > second
            strip -o stripped program; size program | wc -l > lines
            mkdir installed; install -m 755 program libmore.so installed; installed/program >> second
            make -s clean; make -s -j2 check MAKEFLAGS= || true
        """)
        with open(place / "project/second") as file:
            assert file.read() == "6 text 43\n" * 2
    same(tree(mnt / "project"), tree(reference / "project"))


def rows(path):
    connection = sqlite3.connect(path, timeout=60)
    assert connection.execute("pragma integrity_check").fetchone() == ("ok",)
    text = "\n".join(connection.iterdump())
    connection.close()
    return text


def fill(path, who, threads):
    """In a child: two connections of one process, and many transactions."""
    connections = [sqlite3.connect(path, timeout=60, isolation_level=None) for _ in range(2)]
    for connection in connections:
        connection.execute("pragma synchronous=normal")
        connection.execute("pragma mmap_size=4000000")
        connection.execute("pragma cache_size=20")
    for turn in range(25):
        connection = connections[turn % 2]
        connection.execute("begin immediate")
        connection.executemany("insert into t values (?, ?, ?)",
                               [(who, turn, pattern((who, turn, i), 700)) for i in range(4)])
        connection.execute("update sums set n = n + 1")
        connection.execute("rollback" if turn % 10 == 9 else "commit")
        connections[(turn + 1) % 2].execute("select count(*), max(length(b)) from t").fetchone()
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "memory", "wal"])
def test_sqlite(mnt, reference, journal):
    dumps = []
    for place in (reference, mnt):
        path = place / "data.db"
        connection = sqlite3.connect(path)
        assert connection.execute(f"pragma journal_mode={journal}").fetchone() == (journal,)
        connection.executescript("create table t (who, turn, b); create index i on t (b);"
                                 "create table sums (n); insert into sums values (0);")
        connection.close()
        children = [Child(names={"fill": fill}) for _ in range(3)]
        for number, child in enumerate(children):
            child.begin("import sqlite3; fill(path, number, 2)", path=path, number=number)
        for child in children:
            child.finish()
        connection = sqlite3.connect(path, isolation_level=None)
        assert connection.execute("select n from sums").fetchone() == (3 * 23,)
        connection.execute("create table sorted as select * from t order by who, turn, b")
        connection.execute("drop table t")
        connection.execute("vacuum")
        connection.execute("vacuum into ?", (place / "copy.db",))
        connection.close()
        dumps.append((rows(path), rows(place / "copy.db")))
    assert dumps[0] == dumps[1]


def test_sqlite_command(mnt, reference):
    need("sqlite3")
    out = [shell(place.path, "sqlite3 x.db 'pragma journal_mode=wal; create table t (n); "
                             "with recursive r(n) as (select 1 union all select n+1 from r limit 9000)"
                             " insert into t select n from r;'\n"
                             "sqlite3 x.db '.backup y.db'; sqlite3 y.db 'pragma integrity_check'\n"
                             "sqlite3 y.db .dump | sha256sum; sqlite3 x.db 'select sum(n) from t'")
           for place in (reference, mnt)]
    assert out[0] == out[1]
    assert "ok" in out[0].split()


def test_python_compileall(mnt, reference):
    for place in (reference, mnt):
        package = place / "package"
        os.mkdir(package)
        for number in range(30):
            os.makedirs(f"{package}/m{number % 3}", exist_ok=True)
            write(f"{package}/m{number % 3}/__init__.py", b"")
            source = f"{package}/m{number % 3}/x{number}.py"
            write(source, "".join(f"def f{i}(a, b={i}):\n    return a + b * {number}\n"
                                  for i in range(50)).encode())
        for directory, _, files in os.walk(package):
            for name in files:
                os.utime(f"{directory}/{name}", (10 ** 9, 10 ** 9))
        shell(place.path, f"{sys.executable} -m compileall -q -d package package\n"
                          f"{sys.executable} -m compileall -q -d package -o 1 -o 2 "
                          f"--invalidation-mode checked-hash package/m0\n"
                          # From the cache alone.
                          f"rm package/m1/x1.py; mv package/m1/__pycache__/x1.*.pyc package/m1/x1.pyc\n"
                          f"{sys.executable} -c 'from package.m1 import x1; print(x1.f3(1))' > said",
              PYTHONHASHSEED="0")
        with open(place / "said") as file:
            assert file.read() == "4\n"
    same(tree(mnt / "package"), tree(reference / "package"))


def test_sort_of_a_large_file(mnt, reference):
    draw = random.Random(3)
    lines = "".join(f"{draw.getrandbits(60):015x} {draw.getrandbits(40)}\n" for _ in range(120_000))
    for place in (reference, mnt):
        write(place / "in", lines.encode())
        shell(place.path, "sort -S 512K -T tmp --parallel=2 in -o out\n"
                          "sort -S 512K -T tmp -k2,2n -o in in\n"           # onto itself
                          "sort -c out; sort -c -k2,2n in; ls tmp > left\n"
                          "split -n l/7 out part; sort -m part?? | cmp - out\n"
                          "comm -12 out out | wc -l > common; tac out | sort | uniq | wc -l >> common")
        assert os.stat(place / "left").st_size == 0
    same(tree(mnt.path, skip=["tmp"]), tree(reference.path, skip=["tmp"]))


def test_dpkg_deb(mnt, reference):
    need("dpkg-deb")
    for place in (reference, mnt):
        root = place / "root"
        plant(root)
        os.unlink(f"{root}/n\xe4me with\tblanks\nand lines")       # dpkg wants no newlines
        os.mkdir(f"{root}/DEBIAN")
        write(f"{root}/DEBIAN/control", b"Package: planted\nVersion: 1\nArchitecture: all\n"
                                        b"Maintainer: nobody <n@example.org>\nDescription: a tree\n")
        write(f"{root}/DEBIAN/postinst", b"#!/bin/sh\nexit 0\n")
        os.chmod(f"{root}/DEBIAN/postinst", 0o755)
        shell(place.path, "dpkg-deb -Zgzip -z1 -b root planted.deb >/dev/null\n"
                          "dpkg-deb -x planted.deb out; dpkg-deb -e planted.deb control\n"
                          "dpkg-deb -c planted.deb | awk '{ print $1, $2, $3, $6 }' | sort > list\n"
                          "dpkg-deb -I planted.deb control > said",
              SOURCE_DATE_EPOCH="1700000000")
    for name in ("out", "control"):
        same(tree(mnt / name), tree(reference / name))
    for name in ("list", "said"):
        assert sha(mnt / name) == sha(reference / name)


def test_programs_on_file_sections(mnt, place, reference):
    """A few of them on sections that are real files elsewhere."""
    need("tar", "gcc")
    write(f"{place}/archive", b"")
    write(f"{place}/program", b"")
    for name in ("archive", "program"):
        os.close(os.open(mnt / name, os.O_CREAT | os.O_EXCL, 0o755))
        os.setxattr(mnt / name, "user.section.file", f"{place}/{name}".encode())
    plant(reference / "t")
    shell(reference.path, f"tar --format=posix -cf {mnt.path}/archive t; mkdir o1 o2\n"
                          f"tar -xpf {mnt.path}/archive -C o1; tar -xpf {place}/archive -C o2\n"
                          f"gzip -n < {mnt.path}/archive > g; gunzip < g | cmp - {mnt.path}/archive")
    same(tree(reference / "o1", times=True).pop("t") and tree(reference / "o1/t", times=True),
         tree(reference / "o2/t", times=True))
    assert sha(mnt / "archive") == sha(f"{place}/archive")
    os.chmod(f"{place}/program", 0o755)
    write(reference / "p.c", b"int main(void) { return 7; }\n")
    # gcc would remove the output first; cp writes into what is there.
    shell(reference.path, f"gcc -o p p.c; cp p {mnt.path}/program; cmp p {place}/program\n"
                          f"{mnt.path}/program || test $? = 7\n"
                          f"cp /bin/sed {mnt.path}/program; echo a | {mnt.path}/program s/a/b/ > b")
    with open(reference / "b") as file:
        assert file.read() == "b\n"
