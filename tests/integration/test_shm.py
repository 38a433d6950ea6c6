# SPDX-License-Identifier: MIT
"""sectionfs on /dev/shm: what the C library and Python make of it.

The session has a mount namespace of its own, so nobody else sees that mount.
"""

import ctypes
import errno
import os
import stat
import sys

import pytest

import util
from util import Child, PAGE, call, check, eventually, libc, refused, run

libc.sem_open.restype = ctypes.c_void_p
for name in ("sem_post", "sem_wait", "sem_trywait", "sem_close"):
    getattr(libc, name).argtypes = [ctypes.c_void_p]
libc.sem_getvalue.argtypes = [ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)]
libc.sem_timedwait.argtypes = [ctypes.c_void_p, ctypes.c_void_p]


@pytest.fixture(params=["passthrough", "cached"])
def shm(request, session, place):
    """A sectionfs mounted on /dev/shm."""
    if request.config.getoption("--reference"):
        pytest.skip("has the system's own /dev/shm under it")
    if request.param == "passthrough" and session.refused_passthrough:
        pytest.skip(f"no passthrough: {session.refused_passthrough}")
    if not os.path.isdir("/dev/shm"):
        pytest.skip("there is no /dev/shm")
    for _ in util.mounts_at("/dev/shm"):                # the system's, which this namespace sees no more
        util.umount("/dev/shm", util.MNT_DETACH)
    mount = util.Mount(session.programs, "/dev/shm", f"{place}/log", request.param,
                       "size=50%,nosuid,nodev")
    mount.start()
    try:
        if request.param == "passthrough" and mount.stats()["mode"] != "passthrough":
            pytest.skip("no passthrough: " + mount.stats().get("mode_reason", ""))
        yield mount
    finally:
        problems = mount.stop() + mount.log_problems()
    assert not problems, "\n".join(problems)


def shm_open(name, flags, mode=0o600):
    return check(libc.shm_open(name.encode(), flags, mode), name)


def shm_unlink(name):
    check(libc.shm_unlink(name.encode()), name)


def sem_open(name, flags=0, mode=0o600, value=0):
    pointer = libc.sem_open(name.encode(), flags, mode, value)
    if not pointer:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name)
    return pointer


def sem(operation, pointer):
    check(getattr(libc, "sem_" + operation)(pointer))


def sem_value(pointer):
    value = ctypes.c_int()
    check(libc.sem_getvalue(pointer, ctypes.byref(value)))
    return value.value


NAMES = {"shm_open": shm_open, "shm_unlink": shm_unlink, "sem_open": sem_open, "sem": sem,
         "sem_value": sem_value}


def test_it_is_there_as_dev_shm_should_be(shm):
    assert stat.S_IMODE(os.stat("/dev/shm").st_mode) == 0o1777
    assert util.mounts_at("/dev/shm")[-1][0] == "fuse.sectionfs"
    assert os.listdir("/dev/shm") == []


def test_shm_open_shares_memory(shm):
    first, second = Child(names=NAMES), Child(names=NAMES)
    first.do("fd = shm_open('/memory', os.O_CREAT | os.O_EXCL | os.O_RDWR)\n"
             "os.ftruncate(fd, 3 * PAGE)\n"
             "view = View(fd, 3 * PAGE)\n"
             "os.close(fd)")
    assert os.listdir("/dev/shm") == ["memory"]
    with refused(errno.EEXIST):
        second.do("shm_open('/memory', os.O_CREAT | os.O_EXCL | os.O_RDWR)")
    second.do("fd = shm_open('/memory', os.O_RDWR)\n"
              "view = View(fd, os.fstat(fd).st_size)")
    first.do("view.write(PAGE, b'hello')")
    assert second.get("view.read(PAGE, 5)") == b"hello"
    second.do("view.write(0, b'and back')")
    assert first.get("view.read(0, 8)") == b"and back"
    first.do("shm_unlink('/memory')")
    assert os.listdir("/dev/shm") == []
    with refused(errno.ENOENT):
        first.do("shm_open('/memory', os.O_RDWR)")
    with refused(errno.ENOENT):
        first.do("shm_unlink('/memory')")
    second.do("view.write(2 * PAGE, b'still')")         # the memory outlives its name
    assert first.get("view.read(2 * PAGE, 5)") == b"still"
    first.do("view.close()")
    second.do("view.close(); os.close(fd)")
    eventually(lambda: shm.stats()["size_used"] == 0)


def test_shm_open_truncates_and_checks(shm):
    fd = shm_open("/m", os.O_CREAT | os.O_RDWR, 0o640)
    os.ftruncate(fd, PAGE)
    assert os.fstat(fd).st_mode == stat.S_IFREG | 0o640
    other = shm_open("/m", os.O_RDWR | os.O_TRUNC)
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    os.close(other)
    with refused(errno.EINVAL, errno.ENOENT):
        shm_open("/no/slashes", os.O_CREAT | os.O_RDWR)
    with refused(errno.ENAMETOOLONG, errno.EINVAL):
        shm_open("/" + "n" * 256, os.O_CREAT | os.O_RDWR)


def test_shm_belongs_to_who_made_it(shm, user, other):
    call(lambda: os.close(shm_open("/private", os.O_CREAT | os.O_RDWR, 0o600)), user=user)
    call(lambda: os.close(shm_open("/public", os.O_CREAT | os.O_RDWR, 0o644)), user=user)
    with refused(errno.EACCES):
        call(shm_open, "/private", os.O_RDONLY, user=other)
    with refused(errno.EACCES):
        call(shm_open, "/public", os.O_RDWR, user=other)
    call(lambda: os.close(shm_open("/public", os.O_RDONLY)), user=other)
    with refused(errno.EPERM, errno.EACCES):
        call(shm_unlink, "/public", user=other)         # the sticky directory
    call(shm_unlink, "/public", user=user)
    call(shm_unlink, "/private", user=user)


def test_named_semaphores_across_processes(shm):
    first, second = Child(names=NAMES), Child(names=NAMES)
    first.do("s = sem_open('/s', os.O_CREAT | os.O_EXCL, 0o600, 2)")
    assert os.listdir("/dev/shm") == ["sem.s"]          # no temporary name is left
    assert os.stat("/dev/shm/sem.s").st_nlink == 1
    with refused(errno.EEXIST):
        second.do("sem_open('/s', os.O_CREAT | os.O_EXCL, 0o600, 7)")
    with refused(errno.ENOENT):
        second.do("sem_open('/t')")
    second.do("s = sem_open('/s', os.O_CREAT, 0o600, 7)")       # there already: keeps its value
    assert second.get("sem_value(s)") == 2
    first.do("sem('wait', s); sem('wait', s)")
    with refused(errno.EAGAIN):
        second.do("sem('trywait', s)")
    second.begin("sem('wait', s)")                      # sleeps until the other posts
    first.do("time.sleep(0.1); sem('post', s)")
    second.finish()
    assert first.get("sem_value(s)") == 0
    check(libc.sem_unlink(b"/s"))
    assert os.listdir("/dev/shm") == []
    second.do("sem('post', s)")                         # works on without its name
    first.do("sem('wait', s); sem('close', s)")
    second.do("sem('close', s)")
    assert check(libc.sem_unlink(b"/s") + 1) == 0       # -1: there is none any more


def test_many_processes_open_one_semaphore_at_once(shm):
    """Only one of the temporary files can be linked to the name."""
    children = [Child(names=NAMES) for _ in range(12)]
    for turn in range(5):
        for child in children:
            child.begin("s = sem_open('/race', os.O_CREAT, 0o600, 0)\nsem('post', s)")
        for child in children:
            child.finish()
        assert children[0].get("sem_value(s)") == 12
        assert os.listdir("/dev/shm") == ["sem.race"]
        check(libc.sem_unlink(b"/race"))
        for child in children:
            child.do("sem('close', s)")


def test_semaphore_as_a_lock(shm):
    """Counting under a semaphore, in memory that is shared by a section as well."""
    sem("close", sem_open("/lock", os.O_CREAT, 0o600, 1))
    fd = shm_open("/count", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, PAGE)
    children = [Child(names=NAMES) for _ in range(4)]
    for child in children:
        child.do("s = sem_open('/lock')\n"
                 "fd = shm_open('/count', os.O_RDWR)\n"
                 "view = View(fd, PAGE)\n"
                 "os.close(fd)")
    for child in children:
        child.begin("for i in range(500):\n"
                    "    sem('wait', s)\n"
                    "    view.write(0, (int.from_bytes(view.read(0, 4), 'little') + 1)"
                    ".to_bytes(4, 'little'))\n"
                    "    sem('post', s)")
    for child in children:
        child.finish()
    assert int.from_bytes(os.pread(fd, 4, 0), "little") == 2000
    os.close(fd)


UNNAMED = """
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared { sem_t sem; pthread_mutex_t mutex, robust; pthread_cond_t cond; pthread_barrier_t barrier;
                int count, ready; };

int
main(void)
{
    int fd = shm_open("/unnamed", O_CREAT | O_EXCL | O_RDWR, 0600);
    struct shared *s;
    pthread_mutexattr_t ma;
    pthread_condattr_t ca;
    pthread_barrierattr_t ba;
    int bad = 0;

    if (fd < 0 || ftruncate(fd, sizeof *s) != 0)
        return 1;
    s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (s == MAP_FAILED)
        return 2;
    sem_init(&s->sem, 1, 1);
    pthread_mutexattr_init(&ma);
    pthread_mutexattr_setpshared(&ma, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&s->mutex, &ma);
    pthread_mutexattr_setrobust(&ma, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&s->robust, &ma);
    pthread_condattr_init(&ca);
    pthread_condattr_setpshared(&ca, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&s->cond, &ca);
    pthread_barrierattr_init(&ba);
    pthread_barrierattr_setpshared(&ba, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&s->barrier, &ba, 4);
    for (int i = 0; i < 4; i++) {
        if (fork() == 0) {
            /* A mapping of its own, at another address. */
            int mine = shm_open("/unnamed", O_RDWR, 0);
            struct shared *t = mmap(NULL, sizeof *t, PROT_READ | PROT_WRITE, MAP_SHARED, mine, 0);

            munmap(s, sizeof *s);
            pthread_barrier_wait(&t->barrier);
            for (int n = 0; n < 20000; n++) {
                if (n & 1) {
                    sem_wait(&t->sem);
                    pthread_mutex_lock(&t->mutex);
                    t->count++;
                    pthread_mutex_unlock(&t->mutex);
                    sem_post(&t->sem);
                } else {
                    pthread_mutex_lock(&t->mutex);
                    t->count++;
                    pthread_mutex_unlock(&t->mutex);
                }
            }
            pthread_mutex_lock(&t->mutex);
            t->ready++;
            pthread_cond_broadcast(&t->cond);
            while (t->ready < 4)
                pthread_cond_wait(&t->cond, &t->mutex);
            pthread_mutex_unlock(&t->mutex);
            if (i == 0)
                pthread_mutex_lock(&t->robust);
            _exit(0);           /* the first one dies with that mutex */
        }
    }
    for (int i = 0, status; i < 4; i++)
        bad |= wait(&status) < 0 || status != 0;
    shm_unlink("/unnamed");
    printf("%d %d %d %d\\n", s->count, s->ready, bad, pthread_mutex_lock(&s->robust) == EOWNERDEAD);
    return 0;
}
"""


def test_posix_synchronisation_in_c(shm, place):
    """Process-shared semaphores, mutexes, condition variables and barriers: futexes on section pages."""
    with open(f"{place}/unnamed.c", "w") as file:
        file.write(UNNAMED)
    run("gcc", "-O1", "-o", f"{place}/unnamed", f"{place}/unnamed.c", "-pthread", "-lrt")
    assert run(f"{place}/unnamed", timeout=40).stdout == "80000 4 0 1\n"
    assert os.listdir("/dev/shm") == []


SHARED_MEMORY = """
import os
from multiprocessing import Process, shared_memory, get_context

def work(name, number):
    block = shared_memory.SharedMemory(name=name)
    block.buf[number * 1000:(number + 1) * 1000] = bytes([number + 1]) * 1000
    block.close()

def add(lock, values, how_often):
    for _ in range(how_often):
        with lock:
            values[0] += 1

if __name__ == "__main__":
    block = shared_memory.SharedMemory(create=True, size=8000)
    assert os.listdir("/dev/shm") == [block.name], os.listdir("/dev/shm")
    context = get_context("spawn")
    workers = [context.Process(target=work, args=(block.name, n)) for n in range(3)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert [w.exitcode for w in workers] == [0] * 3
    assert bytes(block.buf[:3000]) == b"".join(bytes([n + 1]) * 1000 for n in range(3))
    again = shared_memory.SharedMemory(name=block.name)
    assert again.size >= 8000
    again.close()
    try:
        shared_memory.SharedMemory(name=block.name, create=True, size=1)
    except FileExistsError:
        pass
    else:
        raise SystemExit("was made twice")
    block.close()
    block.unlink()

    several = shared_memory.ShareableList([1, 2.5, "three", None])
    seen = shared_memory.ShareableList(name=several.shm.name)
    seen[0] = 17
    assert list(several) == [17, 2.5, "three", None]
    seen.shm.close()
    several.shm.close()
    several.shm.unlink()

    context = get_context("fork")                       # Lock, Queue, Pool: named semaphores
    lock, values = context.Lock(), context.Array("i", 1)
    workers = [context.Process(target=add, args=(lock, values, 300)) for _ in range(3)]
    [w.start() for w in workers]
    [w.join() for w in workers]
    assert values[0] == 900, values[0]
    with context.Pool(2) as pool:
        assert pool.map(abs, range(-50, 0)) == list(range(50, 0, -1))
    queue = context.Queue()
    worker = context.Process(target=queue.put, args=(["over"],))
    worker.start()
    assert queue.get(timeout=20) == ["over"]
    worker.join()
    assert os.listdir("/dev/shm") == [], os.listdir("/dev/shm")
    print("fine")
"""


def test_python_multiprocessing(shm, place):
    with open(f"{place}/script.py", "w") as file:
        file.write(SHARED_MEMORY)
    result = run(sys.executable, f"{place}/script.py", timeout=60)
    assert (result.stdout, result.stderr) == ("fine\n", "")


def test_python_shared_memory_of_another_user(shm, place, user):
    """The whole script as an ordinary user on root's mount."""
    with open(f"{place}/script.py", "w") as file:
        file.write(SHARED_MEMORY)
    result = run(sys.executable, f"{place}/script.py", user=user, timeout=60)
    assert (result.stdout, result.stderr) == ("fine\n", "")
    assert os.listdir("/dev/shm") == []
