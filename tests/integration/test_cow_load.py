# SPDX-License-Identifier: MIT
"""Copy-on-write views at work: many at once, large ones, under real programs.

SECTIONFS_TEST_LONG=1: a thousand views instead of a hundred, and 4 GiB in one."""

import fcntl
import glob
import os
import random
import shutil
import sqlite3
import subprocess
import time

import pytest

from test_verbs import RESET
from test_views import define
from util import (GIB, KIB, MIB, PAGE, Child, eventually, link_fd, opened, pattern, punch, run, sha,
                  write)

LONG = bool(os.environ.get("SECTIONFS_TEST_LONG"))
SLOW = bool(os.environ.get("SECTIONFS_TEST_SLOW"))
EACH = KIB * (80 if SLOW else 8)    # a view may take beside its pages; more by sanitizers


# --- Many, and large ------------------------------------------------------------------------------

def resident(worker):
    """Memory of the worker and the keeper, what both have counted once."""
    with open(f"/proc/{worker}/stat") as file:
        keeper = int(file.read().rsplit(")", 1)[1].split()[1])
    total = 0
    for pid in (worker, keeper):
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total * KIB


@pytest.mark.parametrize("where", ["together", "apart"])
def test_many_views_cost_what_is_written_and_little_more(mnt, place, where):
    """1 GiB, a thousand views (100 unless the run is a long one), 100 pages written in each."""
    count = 1000 if LONG else 100
    with opened(f"{place}/big", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, GIB)
    define(mnt / "big", f"{place}/big")
    pages = range(100) if where == "together" else \
        random.Random(1).sample(range(GIB // PAGE), 100)
    for _ in range(5):                          # what the first ones cost once
        with opened(mnt.cow("big")) as fd:
            for page in pages:
                os.pwrite(fd, b"x", page * PAGE)
    eventually(lambda: mnt.stats()["size_overlays"] == 0)
    before, worker = mnt.stats(), resident(mnt.stats()["worker_pid"])
    fds = []
    for number in range(count):
        fds.append(os.open(mnt.cow("big"), os.O_RDWR))
        for page in pages:
            os.pwrite(fds[-1], b"%d" % number, page * PAGE)
    now = mnt.stats()
    overhead = now["size_overlays"] - before["size_overlays"] - count * 100 * PAGE
    own = resident(now["worker_pid"]) - worker
    if not LONG:
        own -= 256 * KIB                        # what comes with work, not with views, is much for so few
    assert (overhead + max(own, 0)) / count <= EACH, (overhead, own)
    for number in (0, count // 2, count - 1):
        assert os.pread(fds[number], 10, pages[50] * PAGE).rstrip(b"\0") == b"%d" % number
    for fd in fds:
        os.close(fd)
    mnt.settled(before, timeout=60)


HOW = {"drop": "os.close(fd)", "cut": "os.ftruncate(fd, 0)", "punch": "punch(fd, 0, 2 * size)",
       "reset": "fcntl.ioctl(fd, RESET)"}


@pytest.mark.parametrize("how", HOW)
def test_giving_back_a_large_overlay_holds_up_nobody(mnt, how):
    """Whoever waits for the memory to go back is not who asks for something else."""
    size = 4 * GIB if LONG else 512 * MIB
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 2 * size)
    write(mnt / "small", b"small")
    child = mnt.child(names={"fcntl": fcntl, "RESET": RESET})
    child.do("fd = os.open(path, os.O_RDWR)\n"
             "for at in range(0, size, 4 * MIB): os.pwrite(fd, bytes(b'x') * 4 * MIB, at)",
             path=mnt.cow("x"), size=size)
    assert mnt.stats()["size_overlays"] >= size
    start, longest, rounds = time.monotonic(), 0, 0
    child.begin(HOW[how])
    while rounds < 200 or mnt.stats()["size_overlays"] > 16 * MIB:
        before = time.monotonic()
        with opened(mnt.cow("small")) as other:
            os.pwrite(other, b"SMALL", 0)
            assert os.pread(other, 5, 0) == b"SMALL"
        longest = max(longest, time.monotonic() - before)
        rounds += 1
        assert time.monotonic() - start < 60
    child.finish()
    print(f"{time.monotonic() - start:.1f} s, {rounds} rounds meanwhile, the longest {longest:.3f} s")
    assert longest < (10 if SLOW else 1)


@pytest.mark.options("cow_copy_max=0")
def test_memory_goes_back_page_by_page(mnt):
    write(mnt / "x", bytes(PAGE))
    with opened(mnt / "x") as fd:
        os.ftruncate(fd, 64 * MIB)
    with opened(mnt.cow("x")) as fd:
        for page in range(0, 2000, 2):
            os.pwrite(fd, b"x", page * PAGE)
        whole = mnt.stats()["size_overlays"]
        for number, page in enumerate(range(0, 100, 2), 1):
            punch(fd, page * PAGE, PAGE)
            assert mnt.stats()["size_overlays"] == whole - number * PAGE
        for page in range(1998, 1898, -2):
            number += 1
            os.ftruncate(fd, page * PAGE + (page % 4 == 0))    # a byte of it keeps the page
            assert mnt.stats()["size_overlays"] == whole - (number - (page % 4 == 0)) * PAGE
        os.ftruncate(fd, 0)
        assert mnt.stats()["size_overlays"] <= whole - 1000 * PAGE


@pytest.mark.parametrize("options", ["cow_copy_max=0"])
@pytest.mark.parametrize("mode", ["passthrough", "cached"])
def test_stores_to_mappings_do_not_wait_for_the_daemon(new_mount, mode, options):
    """The kernel is told that this filesystem's dirty pages are memory like any other."""
    mnt = new_mount(mode, options)
    device = os.stat(mnt.path).st_dev
    values = {}
    for name in ("max_ratio", "strict_limit"):
        try:
            with open(f"/sys/class/bdi/{os.major(device)}:{os.minor(device)}/{name}") as file:
                values[name] = file.read().strip()
        except FileNotFoundError:
            pytest.skip("this kernel does not tell")
    assert values == {"max_ratio": "100", "strict_limit": "0"}


# --- Real programs --------------------------------------------------------------------------------

def needs(*programs):
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")


def sqlite(database, script):
    return subprocess.run(["sqlite3", "-bail", database], input=script, text=True, check=True,
                          capture_output=True).stdout


def make_database(path, rows=3000):
    sqlite(path, "create table t (id integer primary key, n integer, text blob);"
           f"insert into t (n, text) with recursive c(x) as (select 1 union all select x + 1 from c "
           f"where x < {rows}) select x, randomblob(200) from c;")


@pytest.mark.parametrize("journal", ["memory", "off"])
def test_sqlite_on_a_view(mnt, place, journal):
    needs("sqlite3")
    make_database(f"{place}/db")
    before = sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns
    define(mnt / "db", f"{place}/db")
    out = sqlite(mnt.cow("db"), f"pragma journal_mode={journal}; begin; update t set n = n + 1;"
                 "delete from t where id % 2; commit; select count(*), sum(n) from t; vacuum;"
                 "pragma integrity_check;")
    assert out.split()[-2:] == ["1500|2253000", "ok"]
    assert (sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns) == before


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "wal"])
def test_sqlite_in_several_processes_on_one_shared_scratch_copy(mnt, ctl, place, journal):
    """cow=section: journals lie beside it by name, and all connections are on one view."""
    needs("sqlite3")
    make_database(f"{place}/db")
    before = sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns
    ctl("create", mnt / "db", "--file", f"{place}/db", "--protect", "writecopy", "--cow", "section")
    with opened(mnt / "db") as keep:            # what keeps the scratch copy between the programs
        assert f"{journal}" in sqlite(mnt / "db", f"pragma journal_mode={journal};")
        script = f"pragma busy_timeout=60000; pragma journal_mode={journal};" + \
            "begin immediate; update t set n = n + 1; commit;" * 10
        writers = [subprocess.Popen(["sqlite3", "-bail", mnt / "db"], stdin=subprocess.PIPE, text=True,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                   for _ in range(4)]
        for writer in writers:
            writer.stdin.write(script)
            writer.stdin.close()
        for writer in writers:
            assert writer.wait(80) == 0, writer.stderr.read()
            writer.stderr.close()
        assert sqlite(mnt / "db", "select sum(n) from t; pragma integrity_check;").split() == \
            [str(3000 * 3001 // 2 + 3000 * 40), "ok"]
        assert os.fstat(keep).st_size > 0
    assert (sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns) == before


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_scratch_database_ends_with_its_users_however_they_end(mnt, ctl, place, journal):
    """What was beside it does not, and is to be removed before it starts afresh. Two connections in
    each process."""
    needs("sqlite3")
    make_database(f"{place}/db")
    before = sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns
    os.mkdir(mnt / "scratch")
    ctl("create", mnt / "scratch/db", "--file", f"{place}/db", "--protect", "writecopy",
        "--cow", "section")
    for _ in range(2):
        users = [Child(names={"sqlite3": sqlite3}) for _ in range(2)]
        for user in users:
            user.do("one, two = (sqlite3.connect(path, timeout=60, isolation_level=None) "
                    "for _ in range(2))", path=mnt / "scratch/db")
        assert users[0].get(f"one.execute('pragma journal_mode={journal}').fetchone()") == (journal,)
        for user in users:
            user.do("two.execute('update t set n = n + 1')")
        assert users[0].get("one.execute('select sum(n) from t').fetchone()") == \
            (3000 * 3001 // 2 + 2 * 3000,)
        # With a journal that is needed: pages are in the file before the end of the transaction.
        users[1].do("one.execute('pragma cache_size=5'); one.execute('begin immediate'); "
                    "one.execute('update t set n = 0')")
        assert len(os.listdir(mnt / "scratch")) > 1
        for user in users:
            user.kill()
        eventually(lambda: mnt.stats()["size_overlays"] == 0)
        for name in os.listdir(mnt / "scratch"):
            if name != "db":
                os.unlink(mnt / f"scratch/{name}")
        assert sqlite(mnt / "scratch/db", "select sum(n) from t; pragma integrity_check;").split() == \
            [str(3000 * 3001 // 2), "ok"]
    assert (sha(f"{place}/db"), os.stat(f"{place}/db").st_mtime_ns) == before


def test_qemu_works_on_a_view_of_a_disk_image(mnt, place):
    needs("qemu-img", "qemu-io")
    run("qemu-img", "create", "-q", "-f", "qcow2", f"{place}/disk", "64M")
    run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 8M", f"{place}/disk")
    before = sha(f"{place}/disk"), os.stat(f"{place}/disk").st_mtime_ns
    define(mnt / "disk", f"{place}/disk")
    fd = os.open(mnt.cow("disk"), os.O_RDWR)
    view = f"/proc/{os.getpid()}/fd/{fd}"
    for command in ("write -P 2 4M 8M", "discard 0 1M", "read -P 2 4M 8M", "read -P 1 1M 3M", "flush"):
        assert "failed" not in run("qemu-io", "-f", "qcow2", "-c", command, view).stdout
    run("qemu-img", "check", "-q", "-f", "qcow2", view)
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", view, f"{place}/raw")
    with opened(f"{place}/raw") as raw:
        assert os.pread(raw, MIB, 4 * MIB) == b"\2" * MIB
        assert os.pread(raw, MIB, 2 * MIB) == b"\1" * MIB
    os.close(fd)
    assert (sha(f"{place}/disk"), os.stat(f"{place}/disk").st_mtime_ns) == before


def test_git_works_with_a_packfile_that_is_a_view(mnt, ctl, place):
    """A repository on the mount whose pack is a scratch copy of another's."""
    needs("git")
    repository = f"{place}/repository"
    environment = dict(os.environ, HOME=place, GIT_CONFIG_NOSYSTEM="1", GIT_AUTHOR_NAME="a",
                       GIT_AUTHOR_EMAIL="a@b", GIT_COMMITTER_NAME="a", GIT_COMMITTER_EMAIL="a@b")

    def git(*words, where=repository):
        return subprocess.run(["git", "-c", "safe.directory=*", "-C", where, *words], check=True,
                              env=environment, capture_output=True, text=True).stdout
    os.mkdir(repository)
    git("init", "-q")
    for number in range(5):
        write(f"{repository}/file{number}", pattern(number, 200 * KIB))
        git("add", ".")
        git("commit", "-q", "-m", f"{number}")
    git("gc", "-q")
    packs = f"{repository}/.git/objects/pack"
    before = {name: (sha(f"{packs}/{name}"), os.stat(f"{packs}/{name}").st_mtime_ns)
              for name in os.listdir(packs)}
    shutil.copytree(f"{repository}/.git", mnt / "copy.git",
                    ignore=lambda path, names: names if path.endswith("/pack") else [])
    for name in before:
        path = mnt / f"copy.git/objects/pack/{name}"
        ctl("create", path, "--file", f"{packs}/{name}", "--protect", "writecopy")
    assert "" == git("fsck", "--strict", where=mnt / "copy.git").replace("notice: ", "")
    git("gc", "-q", "--aggressive", "--prune=now", where=mnt / "copy.git")
    git("fsck", "--strict", where=mnt / "copy.git")
    assert len(git("log", "--format=%H", where=mnt / "copy.git").split()) == 5
    assert {name: (sha(f"{packs}/{name}"), os.stat(f"{packs}/{name}").st_mtime_ns)
            for name in os.listdir(packs)} == before


def postgres_directory():
    for path in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True):
        if all(os.access(f"{path}/{name}", os.X_OK) for name in ("initdb", "pg_ctl", "psql")):
            return path
    pytest.skip("there is no initdb (PostgreSQL)")


def test_postgresql_on_shared_scratch_copies_of_its_files(mnt, place, user):
    """Each file of a cluster is a writecopy section that all processes of the server share. As each
    scratch copy goes with its last user, somebody has to keep them open: here this process does."""
    tools, golden, socket = postgres_directory(), f"{place}/golden", f"{place}/s"
    os.mkdir(socket)
    os.chown(socket, user.uid, user.gid)

    def pg(program, *words):
        return subprocess.run([f"{tools}/{program}", *words], user=user.uid, group=user.gid,
                              extra_groups=[], cwd="/", text=True, capture_output=True, timeout=80,
                              check=True, env={"LC_ALL": "C", "HOME": place, "PATH": "/usr/bin:/bin"}).stdout

    def sql(text):
        return pg("psql", "-h", socket, "-U", "golden", "-Atc", text, "postgres").split()
    pg("initdb", "-D", golden, "-U", "golden", "-A", "trust", "--no-sync")
    files = [f"{top}/{name}" for top, _, names in os.walk(golden) for name in names]
    before = {path: (sha(path), os.stat(path).st_mtime_ns) for path in files}
    held = []
    for top, directories, names in os.walk(golden):
        there = os.path.normpath(mnt / f"pg/{os.path.relpath(top, golden)}")
        os.makedirs(there)
        os.chown(there, user.uid, user.gid)
        os.chmod(there, 0o700)
        for name in names:
            with opened(there, os.O_TMPFILE | os.O_RDWR, 0o600) as fd:
                for key, value in ("protect", "writecopy"), ("cow", "section"), ("file", f"{top}/{name}"):
                    os.setxattr(fd, f"user.section.{key}", value.encode())
                os.fchown(fd, user.uid, user.gid)
                link_fd(fd, f"{there}/{name}")
            held.append(os.open(f"{there}/{name}", os.O_RDWR))
    start = ("pg_ctl", "-D", mnt / "pg", "-w", "-l", f"{socket}/log", "-o",
             f"-k {socket} -c listen_addresses=''", "start")
    pg(*start)
    try:
        sql("create table t as select g, md5(g::text) as m from generate_series(1, 50000) g")
        sql("create index on t (g)")
        sql("update t set m = m || 'x' where g % 2 = 0")
        sql("checkpoint")
        pg("pg_ctl", "-D", mnt / "pg", "-w", "-m", "immediate", "stop")     # and it recovers
        pg(*start)
        assert sql("select count(*) from t where m like '%x'") == ["25000"]
        sql("vacuum full t")
        assert sql("select sum(g) from t") == [str(50000 * 50001 // 2)]
    finally:
        pg("pg_ctl", "-D", mnt / "pg", "-w", "-m", "fast", "stop")
    for fd in held:
        os.close(fd)
    assert {path: (sha(path), os.stat(path).st_mtime_ns) for path in files} == before
