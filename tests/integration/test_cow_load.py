# SPDX-License-Identifier: MIT
"""Copy-on-write views at work: against plain bytes as the model, many at once, under real programs.

SECTIONFS_TEST_LONG=1: two million random operations instead of some thousands.
SECTIONFS_TEST_SEED: repeats a run."""

import glob
import os
import random
import shutil
import subprocess
import time

import pytest

from test_cow import make_base
from test_views import define, loop, runs  # noqa: F401 (a fixture)
from util import (GIB, KIB, MIB, PAGE, View, eventually, link_fd, opened, pattern, punch, run, sha,
                  write)

LONG = bool(os.environ.get("SECTIONFS_TEST_LONG"))


# --- Random operations against a model ------------------------------------------------------------

class Modelled:
    """A view and the bytes that it should have."""

    def __init__(self, path, data, most):
        self.fd = os.open(path, os.O_RDWR)
        self.model, self.most = bytearray(data), most
        self.view = View(self.fd, most)

    def check(self, at, length):
        expected = bytes(self.model[at:at + length])
        found = os.pread(self.fd, length, at)
        assert found == expected, f"read at {at}: {len(found)} bytes, first difference at " \
            f"{next((i for i, (a, b) in enumerate(zip(found, expected)) if a != b), 'the end')}"

    def put(self, at, data):
        if at > len(self.model):
            self.model.extend(bytes(at - len(self.model)))
        self.model[at:at + len(data)] = data

    def cut(self, size):
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    def close(self):
        self.view.close()
        os.close(self.fd)


def one_step(rng, views):
    one = rng.choice(views)
    size = len(one.model)
    at = rng.randrange(one.most)
    length = min(rng.choice((1, 100, PAGE, 3 * PAGE + 5, 64 * KIB)), one.most - at)
    if rng.random() < 0.4:
        at -= at % PAGE
    kind = rng.choices(("write", "read", "store", "load", "truncate", "punch", "copy", "whole"),
                       (25, 25, 20, 15, 4, 5, 5, 1))[0]
    if kind == "write":
        data = rng.randbytes(length)
        assert os.pwrite(one.fd, data, at) == length
        one.put(at, data)
    elif kind == "read":
        one.check(at, length)
    elif kind in ("store", "load") and at < size:
        length = min(length, size - at)
        if kind == "store":
            data = rng.randbytes(length)
            one.view.write(at, data)
            one.put(at, data)
        else:
            assert one.view.read(at, length) == one.model[at:at + length], f"load at {at}"
    elif kind == "truncate":
        size = rng.choice((at, size - min(size, length), min(one.most, size + length)))
        os.ftruncate(one.fd, size)
        one.cut(size)
    elif kind == "punch":
        punch(one.fd, at, length)
        end = min(at + length, size)
        if at < end:
            one.model[at:end] = bytes(end - at)
    elif kind == "copy":
        two = rng.choice([view for view in views if view is not one])
        to = rng.randrange(two.most)
        length = min(length, max(0, size - at), two.most - to)
        done = 0
        while done < length:
            count = os.copy_file_range(one.fd, two.fd, length - done, at + done, to + done)
            assert count > 0
            two.put(to + done, one.model[at + done:at + done + count])
            done += count
    elif kind == "whole":
        one.check(0, one.most + 1)
        assert os.fstat(one.fd).st_size == size
    return kind


def run_steps(rng, views, steps):
    for number in range(steps):
        try:
            kind = "?"
            kind = one_step(rng, views)
        except AssertionError as error:
            error.add_note(f"in step {number} ({kind})")
            raise
    for view in views:
        view.check(0, view.most + 1)


@pytest.mark.modes("passthrough", "cached", "user")
@pytest.mark.parametrize("mechanism", ["page copy", "page overlay", "file overlay", "clone"])
def test_random_operations(request, mnt, place, mechanism):
    """Four views of one section, each against plain bytes; the section never changes."""
    seed = int(os.environ.get("SECTIONFS_TEST_SEED", time.time_ns() % 1_000_000_007))
    print(f"SECTIONFS_TEST_SEED={seed}")
    size = 200_000 if "copy" in mechanism else 1_000_003
    if mechanism == "clone":
        if mnt.mode != "passthrough":
            pytest.skip("there are clones in passthrough only")
        where = request.getfixturevalue("loop")("xfs")
        write(f"{where}/real", pattern("base", size))
        run("sync", "-f", where)
        define(mnt / "base", f"{where}/real")
        before = sha(f"{where}/real"), os.stat(f"{where}/real").st_mtime_ns, runs(f"{where}/real")
    else:
        made = make_base(mnt, mechanism.split()[0], place, pattern("base", size))

    def body():
        rng = random.Random(seed)
        views = [Modelled(mnt.cow("base"), pattern("base", size), 2 * size) for _ in range(4)]
        if mnt.mode == "passthrough":
            assert os.getxattr(views[0].fd, "user.section.mode").decode() in mechanism
        run_steps(rng, views, 200_000 if LONG else 1500)
        for view in views:
            view.close()
    if LONG:
        request.getfixturevalue("session").watchdog.arm(3600)
    mnt.run(body, timeout=3600)
    if mechanism == "clone":
        assert (sha(f"{where}/real"), os.stat(f"{where}/real").st_mtime_ns,
                runs(f"{where}/real")) == before
        os.unlink(mnt / "base")
        eventually(lambda: mnt.stats()["sections"] == 0)
    else:
        made.unchanged()


# --- Many, and large ------------------------------------------------------------------------------

def resident(pid):
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return sum(int(line.split()[1]) for line in file
                   if line.startswith(("Private_Dirty", "Private_Clean"))) * KIB


@pytest.mark.parametrize("where", ["together", "apart"])
def test_many_views_cost_what_is_written_and_little_more(mnt, place, where):
    """1 GiB, a thousand views (100 unless the run is a long one), 100 pages written in each."""
    count = 1000 if LONG else 100
    with opened(f"{place}/big", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, GIB)
    define(mnt / "big", f"{place}/big")
    pages = range(100) if where == "together" else \
        random.Random(1).sample(range(GIB // PAGE), 100)
    with opened(mnt.cow("big")) as fd:          # what the first one costs once
        os.pwrite(fd, b"x", 0)
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
    assert (overhead + max(own, 0)) / count <= 8 * KIB, (overhead, own)
    for number in (0, count // 2, count - 1):
        assert os.pread(fds[number], 10, pages[50] * PAGE).rstrip(b"\0") == b"%d" % number
    for fd in fds:
        os.close(fd)
    mnt.settled(before, timeout=60)


def test_dropping_a_large_overlay_holds_up_nobody(mnt):
    """Whoever waits for the memory to go back is not who asks for something else."""
    size = 4 * GIB if LONG else 512 * MIB
    with opened(mnt / "x", os.O_CREAT | os.O_RDWR) as fd:
        os.ftruncate(fd, 2 * size)
    write(mnt / "small", b"small")
    fd = os.open(mnt.cow("x"), os.O_RDWR)
    chunk = bytes(b"x") * 4 * MIB
    for at in range(0, size, len(chunk)):
        os.pwrite(fd, chunk, at)
    start = time.monotonic()
    os.close(fd)
    for _ in range(200):
        with opened(mnt.cow("small")) as other:
            assert os.pread(other, 5, 0) == b"small"
    eventually(lambda: mnt.stats()["size_used"] < 16 * MIB, 60)
    assert time.monotonic() - start < 30


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
