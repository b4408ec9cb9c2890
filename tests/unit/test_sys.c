#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"

/* Each test works in its own directory, whose descriptor is the state. */
struct place {
    char path[64];
    int fd;
};

static int place_make(void **state)
{
    struct place *p = calloc(1, sizeof *p);
    (void)snprintf(p->path, sizeof p->path, "/tmp/test_sys.XXXXXX");
    if (mkdtemp(p->path) == NULL) {
        return -1;
    }
    p->fd = sys_open_dir(AT_FDCWD, p->path, false);
    *state = p;
    return p->fd < 0 ? -1 : 0;
}

static int place_remove(void **state)
{
    struct place *p = *state;
    fd_close(p->fd);
    int r = sys_remove_tree(AT_FDCWD, p->path, NULL);
    free(p);
    return r;
}

static unsigned open_fds(void)
{
    unsigned n = 0;
    for (int fd = 0; fd < 1024; fd++) {
        n += fcntl(fd, F_GETFD) >= 0;
    }
    return n;
}

static void put(int dir, const char *name, const char *text)
{
    AUTO_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(sys_write_full(fd, text, strlen(text)), 0);
}

static void descriptors(void **state)
{
    int pipe_fds[2];
    char text[8] = "";
    (void)state;
    unsigned before = open_fds();
    assert_int_equal(fd_close(-1), -1);
    {
        assert_int_equal(fd_pipe(pipe_fds), 0);
        AUTO_FD int in = pipe_fds[0];
        AUTO_FD int out = pipe_fds[1];
        assert_true((fcntl(in, F_GETFD) & FD_CLOEXEC) != 0);
        assert_int_equal(fd_set_cloexec(in, 0), 0);
        assert_int_equal(fcntl(in, F_GETFD), 0);
        assert_int_equal(fd_set_nonblock(in, 1), 0);
        assert_int_equal(sys_read(in, text, 1), -EAGAIN);
        assert_int_equal(fd_set_nonblock(in, 0), 0);
        assert_int_equal(sys_write_full(out, "abc", 3), 0);
        AUTO_FD int copy = fd_dup(out, 100);
        assert_true(copy >= 100);
        out = fd_close(out);
        copy = fd_close(copy);
        assert_int_equal(sys_read_full(in, text, sizeof text), 3);
        assert_int_equal(sys_read_full(in, text, sizeof text), 0);
        int taken = fd_take(&in);
        assert_int_equal(in, -1);
        fd_close(taken);
        assert_int_equal(sys_read_full(taken, text, 1), -EBADF);
    }
    assert_int_equal(open_fds(), before);
    errno = 123;
    fd_close(9999);
    assert_int_equal(errno, 123);
}

static void on_alarm(int sig)
{
    (void)sig;
}

/* A signal in the middle of a read or write does not show. */
static void interrupted_calls_go_on(void **state)
{
    struct sigaction act = { .sa_handler = on_alarm };
    struct sigaction old;
    int fds[2];
    (void)state;
    assert_int_equal(fd_pipe(fds), 0);
    sigaction(SIGUSR1, &act, &old);
    pid_t parent = getpid();
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 20; i++) {
            sys_sleep_ms(3);
            kill(parent, SIGUSR1);
        }
        sys_sleep_ms(3);
        _exit(sys_write_full(fds[1], "done", 4) == 0 ? 0 : 1);
    }
    fd_close(fds[1]);
    char text[8];
    uint64_t begin = sys_mono_ms();
    assert_int_equal(sys_read_full(fds[0], text, sizeof text), 4);
    assert_true(sys_mono_ms() - begin >= 50);
    int status;
    while (waitpid(pid, &status, 0) < 0) {
    }
    assert_int_equal(status, 0);
    fd_close(fds[0]);
    sigaction(SIGUSR1, &old, NULL);
}

static void positions(void **state)
{
    struct place *p = *state;
    char text[10];
    AUTO_FD int fd = openat(p->fd, "f", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(sys_pwrite_full(fd, "world", 5, 6), 0);
    assert_int_equal(sys_pwrite_full(fd, "hello ", 6, 0), 0);
    assert_int_equal(sys_pread_full(fd, text, 10, 4), 7);
    assert_memory_equal(text, "o world", 7);
    assert_int_equal(sys_pread_full(fd, text, 10, 100), 0);
    assert_int_equal(sys_pread_full(-1, text, 10, 0), -EBADF);
}

static void files_are_read_whole_or_not(void **state)
{
    struct place *p = *state;
    AUTO_BUF struct buf b = BUF_INIT(1 << 20);
    struct err e;
    char text[8];
    char big[40001];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put(p->fd, "big", big);
    put(p->fd, "small", "1234567\n");
    assert_int_equal(sys_read_file(p->fd, "big", 40000, &b, &e), 0);
    assert_string_equal(buf_cstr(&b), big);
    buf_reset(&b);
    assert_int_equal(sys_read_file(p->fd, "big", 39999, &b, &e), -EFBIG);
    assert_string_equal(err_text(&e), "'big' is larger than 39999 bytes");
    assert_int_equal(sys_read_file(p->fd, "none", 1, &b, &e), -ENOENT);
    assert_string_equal(err_text(&e), "open 'none': No such file or directory");
    AUTO_BUF struct buf little = BUF_INIT(10);
    assert_int_equal(sys_read_file(p->fd, "big", 40000, &little, &e), -ENOBUFS);
    buf_reset(&b);
    assert_int_equal(sys_read_file(AT_FDCWD, "/proc/self/status", 1 << 16, &b, &e), 0);
    assert_non_null(strstr(buf_cstr(&b), "VmRSS"));
    assert_int_equal(sys_read_text(p->fd, "small", text, sizeof text), -EFBIG);
    char enough[9];
    assert_int_equal(sys_read_text(p->fd, "small", enough, sizeof enough), 7);
    assert_string_equal(enough, "1234567");
    assert_int_equal(sys_write_text(p->fd, "none", "x"), -ENOENT);
    assert_int_equal(sys_write_text(p->fd, "small", "abc"), 0);
}

static void replacing_is_atomic(void **state)
{
    struct place *p = *state;
    struct err e;
    char text[16];
    struct stat st;
    assert_int_equal(sys_write_file_atomic(p->fd, "f", "one", 3, 0640, &e), 0);
    assert_int_equal(sys_write_file_atomic(p->fd, "f", "two!", 4, 0640, &e), 0);
    assert_int_equal(sys_read_text(p->fd, "f", text, sizeof text), 4);
    assert_string_equal(text, "two!");
    assert_int_equal(fstatat(p->fd, "f", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0640);
    /* A failure leaves nothing and harms nothing. */
    assert_int_equal(mkdirat(p->fd, "d", 0755), 0);
    assert_int_equal(sys_write_file_atomic(p->fd, "d", "x", 1, 0600, &e), -EISDIR);
    assert_int_equal(sys_write_file_atomic(p->fd, "no/f", "x", 1, 0600, &e), -ENOENT);
    assert_int_equal(sys_write_file_atomic(p->fd, "d/f", "in d", 4, 0600, &e), 0);
    assert_int_equal(sys_read_text(p->fd, "d/f", text, sizeof text), 4);
    char path[100];
    (void)snprintf(path, sizeof path, "%s/g", p->path);
    assert_int_equal(sys_write_file_atomic(AT_FDCWD, path, "abs", 3, 0600, &e), 0);
    put(p->fd, "list", "");
    char command[100];
    (void)snprintf(command, sizeof command, "ls -A %s | grep -q '^.tmp'", p->path);
    assert_int_not_equal(WEXITSTATUS(system(command)), 0);
    /* A link is replaced, not followed. */
    assert_int_equal(symlinkat("g", p->fd, "link"), 0);
    assert_int_equal(sys_write_file_atomic(p->fd, "link", "new", 3, 0600, &e), 0);
    assert_int_equal(sys_read_text(p->fd, "g", text, sizeof text), 3);
    assert_string_equal(text, "abs");
}

static void directories(void **state)
{
    struct place *p = *state;
    struct err e;
    struct stat st;
    assert_int_equal(sys_mkdirs(p->fd, "a/b/c", 0700, &e), 0);
    assert_int_equal(sys_mkdirs(p->fd, "a/b/c", 0755, &e), 0);
    assert_int_equal(sys_mkdirs(p->fd, "a//b/d/", 0750, &e), 0);
    assert_int_equal(fstatat(p->fd, "a/b/c", &st, 0), 0);
    assert_int_equal(st.st_mode & 07777, 0700);
    put(p->fd, "a/file", "");
    assert_int_equal(sys_mkdirs(p->fd, "a/file", 0700, &e), -ENOTDIR);
    assert_int_equal(sys_mkdirs(p->fd, "a/file/x", 0700, &e), -ENOTDIR);
    assert_int_equal(sys_mkdirs(p->fd, "", 0700, &e), -ENOENT);
    assert_int_equal(sys_fsync_dir(p->fd), 0);
    assert_int_equal(sys_fsync_dir(AT_FDCWD), 0);
    struct sys_space space;
    assert_int_equal(sys_space(p->fd, &space), 0);
    assert_true(space.total_bytes > 0 && space.free_bytes <= space.total_bytes);
    assert_int_equal(sys_space(-1, &space), -EBADF);
}

static int try_open(int dir, const char *path, unsigned rules)
{
    int fd = sys_open_beneath(dir, path, O_RDONLY, 0, rules);
    return fd < 0 ? fd : fd_close(fd) + 1;
}

static void nothing_opens_outside(void **state)
{
    struct place *p = *state;
    assert_int_equal(sys_mkdirs(p->fd, "in/sub", 0755, NULL), 0);
    put(p->fd, "outside", "");
    put(p->fd, "in/inside", "");
    put(p->fd, "in/sub/f", "");
    assert_int_equal(symlinkat("../outside", p->fd, "in/out"), 0);
    assert_int_equal(symlinkat("/inside", p->fd, "in/abs"), 0);
    assert_int_equal(symlinkat("inside", p->fd, "in/ok"), 0);
    assert_int_equal(symlinkat("sub", p->fd, "in/dir"), 0);
    assert_int_equal(symlinkat("/proc/self/root/etc", p->fd, "in/magic"), 0);
    AUTO_FD int in = sys_open_dir(p->fd, "in", true);
    assert_int_equal(try_open(in, "inside", 0), 0);
    assert_int_equal(try_open(in, "sub/../inside", 0), 0);
    assert_int_equal(try_open(in, "ok", 0), 0);
    assert_int_equal(try_open(in, "dir/f", 0), 0);
    assert_int_equal(try_open(in, "../outside", 0), -EXDEV);
    assert_int_equal(try_open(in, "out", 0), -EXDEV);
    assert_int_equal(try_open(in, "/inside", 0), -EXDEV);
    assert_int_equal(try_open(in, "abs", 0), -EXDEV);
    assert_int_equal(try_open(in, "abs", SYS_IN_ROOT), 0);
    assert_int_equal(try_open(in, "/inside", SYS_IN_ROOT), 0);
    assert_int_equal(try_open(in, "../../inside", SYS_IN_ROOT), 0);
    assert_int_equal(try_open(in, "out", SYS_IN_ROOT), -ENOENT);
    assert_int_equal(try_open(in, "ok", SYS_NO_SYMLINKS), -ELOOP);
    assert_int_equal(try_open(in, "dir/f", SYS_NO_SYMLINKS), -ELOOP);
    assert_int_equal(try_open(in, "sub/f", SYS_NO_SYMLINKS | SYS_NO_XDEV), 0);
    AUTO_FD int root = sys_open_dir(AT_FDCWD, "/", true);
    assert_int_equal(try_open(root, "proc/self", SYS_NO_XDEV), -EXDEV);
    assert_int_equal(try_open(root, "proc/self/exe", SYS_IN_ROOT), -ELOOP); /* a magic link */
    AUTO_FD int made = sys_open_beneath(in, "new", O_WRONLY | O_CREAT | O_EXCL, 0600, 0);
    assert_true(made >= 0 && (fcntl(made, F_GETFD) & FD_CLOEXEC) != 0);
    assert_int_equal(sys_open_dir(in, "dir", false), -ENOTDIR); /* a link */
}

static void trees_go_and_links_stay(void **state)
{
    struct place *p = *state;
    struct err e = { 0 };
    assert_int_equal(sys_mkdirs(p->fd, "t/a/b", 0755, NULL), 0);
    assert_int_equal(sys_mkdirs(p->fd, "t/empty", 0755, NULL), 0);
    assert_int_equal(sys_mkdirs(p->fd, "keep", 0755, NULL), 0);
    put(p->fd, "keep/file", "x");
    put(p->fd, "t/a/f", "x");
    for (int i = 0; i < 300; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "t/a/b/%d", i);
        put(p->fd, name, "x");
    }
    assert_int_equal(symlinkat("../../keep", p->fd, "t/a/link"), 0);
    assert_int_equal(symlinkat("nowhere", p->fd, "t/dangling"), 0);
    assert_int_equal(mkfifoat(p->fd, "t/fifo", 0600), 0);
    unsigned before = open_fds();
    if (sys_remove_tree(p->fd, "t", &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
    assert_int_equal(open_fds(), before);
    assert_int_equal(faccessat(p->fd, "t", F_OK, 0), -1);
    assert_int_equal(faccessat(p->fd, "keep/file", F_OK, 0), 0);
    assert_int_equal(sys_remove_tree(p->fd, "t", &e), 0); /* gone already */
    assert_int_equal(symlinkat("keep", p->fd, "link"), 0);
    assert_int_equal(sys_remove_tree(p->fd, "link", &e), 0);
    assert_int_equal(faccessat(p->fd, "keep/file", F_OK, 0), 0);
    put(p->fd, "file", "x");
    assert_int_equal(sys_remove_tree(p->fd, "file", &e), 0);
    assert_int_equal(sys_remove_tree(p->fd, "no/such", &e), 0);
}

static void deep_trees_go_with_few_descriptors(void **state)
{
    struct place *p = *state;
    struct err e = { 0 };
    int fd = fd_dup(p->fd, 0);
    for (int i = 0; i < 600; i++) { /* 5,400 characters of path: more than PATH_MAX */
        assert_int_equal(mkdirat(fd, "deep-dir", 0755), 0);
        put(fd, "f", "x");
        int next = sys_open_dir(fd, "deep-dir", false);
        assert_true(next >= 0);
        fd_close(fd);
        fd = next;
    }
    fd_close(fd);
    if (sys_remove_tree(p->fd, "deep-dir", &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
    assert_int_equal(faccessat(p->fd, "deep-dir", F_OK, 0), -1);
    put(p->fd, "x", "");
}

/* As somebody who is not root: directories without permissions are opened up first. */
static void unreadable_trees_go(void **state)
{
    struct place *p = *state;
    assert_int_equal(fchmod(p->fd, 0777), 0);
    pid_t pid = fork();
    if (pid == 0) {
        struct err e = { 0 };
        if (getuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0)) {
            _exit(2);
        }
        int r = sys_mkdirs(p->fd, "t/a/b", 0755, &e);
        put(p->fd, "t/a/b/f", "x");
        put(p->fd, "t/a/f", "x");
        if (r != 0 || fchmodat(p->fd, "t/a/b", 0, 0) != 0 || fchmodat(p->fd, "t/a", 0500, 0) != 0 ||
            fchmodat(p->fd, "t", 0, 0) != 0) {
            _exit(3);
        }
        r = sys_remove_tree(p->fd, "t", &e);
        if (r != 0) {
            printf("%s\n", err_text(&e));
        }
        _exit(r == 0 && faccessat(p->fd, "t", F_OK, 0) != 0 ? 0 : 4);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* Another mount below is not entered, not even a bind mount of the same file system. */
static void mounts_are_not_entered(void **state)
{
    struct place *p = *state;
    char from[100];
    char to[100];
    struct err e;
    if (getuid() != 0) {
        skip();
    }
    assert_int_equal(sys_mkdirs(p->fd, "t/a/m", 0755, NULL), 0);
    assert_int_equal(sys_mkdirs(p->fd, "keep/sub", 0755, NULL), 0);
    put(p->fd, "keep/file", "x");
    (void)snprintf(from, sizeof from, "%s/keep", p->path);
    (void)snprintf(to, sizeof to, "%s/t/a/m", p->path);
    pid_t pid = fork(); /* in a mount namespace of its own */
    if (pid == 0) {
        if (unshare(CLONE_NEWNS) != 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) != 0 ||
            mount(from, to, NULL, MS_BIND, NULL) != 0) {
            _exit(77);
        }
        int dir = sys_open_dir(AT_FDCWD, p->path, false); /* p->fd is in the old namespace */
        _exit(sys_remove_tree(dir, "t", &e) == -EXDEV ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WEXITSTATUS(status) == 77) {
        skip();
    }
    assert_int_equal(status, 0);
    assert_int_equal(faccessat(p->fd, "keep/file", F_OK, 0), 0);
    assert_int_equal(faccessat(p->fd, "keep/sub", F_OK, 0), 0);
}

/* Somebody moves a directory in and out while the tree goes: what is beside it is never touched. */
static void moved_directories_lead_nowhere(void **state)
{
    struct place *p = *state;
    unsigned refused = 0;
    unsigned done = 0;
    assert_int_equal(sys_mkdirs(p->fd, "keep/deep/er", 0755, NULL), 0);
    put(p->fd, "keep/file", "x");
    put(p->fd, "keep/deep/file", "x");
    pid_t pid = fork();
    if (pid == 0) {
        for (;;) {
            (void)renameat(p->fd, "t/a/b", p->fd, "keep/deep/er/b");
            (void)renameat(p->fd, "keep/deep/er/b", p->fd, "t/a/b");
        }
    }
    for (int i = 0; i < 60; i++) {
        (void)sys_mkdirs(p->fd, "t/a/b/c/d/e/f/g", 0755, NULL);
        (void)sys_mkdirs(p->fd, "t/a/b/h/i/j", 0755, NULL);
        int r = sys_remove_tree(p->fd, "t", NULL);
        *(r == 0 ? &done : &refused) += 1;
        assert_int_equal(faccessat(p->fd, "keep/file", F_OK, 0), 0);
        assert_int_equal(faccessat(p->fd, "keep/deep/file", F_OK, 0), 0);
        assert_int_equal(faccessat(p->fd, "keep/deep/er", F_OK, 0), 0);
    }
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    printf("moved directories: %u removed, %u refused\n", done, refused);
    assert_int_equal(done + refused, 60);
}

static void no_memory_in_trees(void **state)
{
    struct place *p = *state;
    long n = 0;
    int r;
    do {
        assert_int_equal(sys_mkdirs(p->fd, "t/1/2/3/4/5/6/7/8/9/0/1/2/3/4/5/6/7/8/9", 0755, NULL),
                         0);
        unsigned before = open_fds();
        mem_fail_after(n++, 0);
        r = sys_remove_tree(p->fd, "t", NULL);
        mem_fail_after(-1, 0);
        assert_true(r == 0 || r == -ENOMEM);
        assert_int_equal(open_fds(), before);
    } while (r != 0);
    assert_true(n > 2);
}

static void descriptors_travel(void **state)
{
    int pair[2];
    int pipes[3][2];
    int send[3];
    int got[4] = { -1, -1, -1, -1 };
    size_t n = 99;
    char text[8];
    (void)state;
    unsigned before = open_fds();
    assert_int_equal(sys_seqpacket_pair(pair), 0);
    for (size_t i = 0; i < 3; i++) {
        assert_int_equal(fd_pipe(pipes[i]), 0);
        send[i] = pipes[i][1];
    }
    assert_int_equal(sys_send_fds(pair[0], "hello", 5, send, 3), 0);
    assert_int_equal(sys_recv_fds(pair[1], text, sizeof text, got, 4, &n), 5);
    assert_memory_equal(text, "hello", 5);
    assert_int_equal(n, 3);
    for (size_t i = 0; i < 3; i++) {
        assert_true((fcntl(got[i], F_GETFD) & FD_CLOEXEC) != 0);
        assert_int_equal(sys_write_full(got[i], "x", 1), 0);
        assert_int_equal(sys_read(pipes[i][0], text, 1), 1);
        fd_close(got[i]);
    }
    /* None at all. */
    assert_int_equal(sys_send_fds(pair[0], "x", 1, NULL, 0), 0);
    assert_int_equal(sys_recv_fds(pair[1], text, sizeof text, got, 4, &n), 1);
    assert_int_equal(n, 0);
    /* Too many, or too long: nothing arrives, nothing leaks. */
    unsigned between = open_fds();
    n = 99;
    assert_int_equal(sys_send_fds(pair[0], "x", 1, send, 3), 0);
    assert_int_equal(sys_recv_fds(pair[1], text, sizeof text, got, 2, &n), -EMSGSIZE);
    assert_int_equal(sys_send_fds(pair[0], "0123456789", 10, send, 3), 0);
    assert_int_equal(sys_recv_fds(pair[1], text, sizeof text, got, 4, &n), -EMSGSIZE);
    assert_int_equal(n, 99);
    assert_int_equal(open_fds(), between);
    /* The end. */
    fd_close(pair[0]);
    assert_int_equal(sys_recv_fds(pair[1], text, sizeof text, got, 4, &n), 0);
    assert_int_equal(sys_send_fds(pair[1], "x", 1, NULL, 0), -EPIPE);
    fd_close(pair[1]);
    for (size_t i = 0; i < 3; i++) {
        fd_close(pipes[i][0]);
        fd_close(pipes[i][1]);
    }
    assert_int_equal(open_fds(), before);
}

static void clocks_and_entropy(void **state)
{
    uint8_t a[32] = { 0 };
    uint8_t b[32] = { 0 };
    (void)state;
    uint64_t us = sys_mono_us();
    sys_sleep_ms(5);
    assert_true(sys_mono_us() - us >= 5000);
    assert_true(sys_wall_us() > 1600000000000000);
    assert_true(sys_mono_ns() / 1000000 - sys_mono_ms() <= 1 ||
                sys_mono_ms() >= sys_mono_ns() / 1000000);
    sys_random(a, sizeof a);
    sys_random(b, sizeof b);
    assert_memory_not_equal(a, b, sizeof a);
    assert_true(sys_random_u64() != sys_random_u64());
}

static void processes(void **state)
{
    uint64_t ticks = 0;
    uint64_t again = 0;
    char boot[37];
    (void)state;
    int hold[2];
    assert_int_equal(fd_pipe(hold), 0);
    pid_t pid = fork();
    if (pid == 0) {
        char c;
        fd_close(hold[1]);
        (void)sys_read(hold[0], &c, 1);
        _exit(0);
    }
    assert_int_equal(sys_proc_start_time(pid, &ticks), 0);
    assert_int_equal(sys_proc_start_time(pid, &again), 0);
    assert_true(ticks != 0 && ticks == again);
    assert_int_equal(sys_pidfd_open_started(pid, ticks + 1), -ESRCH); /* somebody else */
    AUTO_FD int fd = sys_pidfd_open_started(pid, ticks);
    assert_true(fd >= 0);
    assert_true((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
    assert_false(sys_pidfd_ended(fd));
    assert_int_equal(sys_pidfd_signal(fd, 0), 0);
    assert_int_equal(sys_pidfd_signal(fd, SIGKILL), 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(WTERMSIG(status), SIGKILL);
    assert_true(sys_pidfd_ended(fd));
    assert_int_equal(sys_pidfd_signal(fd, SIGKILL), -ESRCH);
    assert_int_equal(sys_proc_start_time(pid, &ticks), -ESRCH);
    assert_int_equal(sys_pidfd_open_started(pid, ticks), -ESRCH);
    assert_int_equal(sys_pidfd_open(pid), -ESRCH);
    assert_int_equal(sys_boot_id(boot), 0);
    assert_int_equal(strlen(boot), 36);
    fd_close(hold[0]);
    fd_close(hold[1]);
}

static void notifications(void **state)
{
    struct place *p = *state;
    for (int abstract = 0; abstract < 2; abstract++) {
        struct sockaddr_un a = { .sun_family = AF_UNIX };
        char name[80];
        char text[32] = "";
        (void)snprintf(name, sizeof name, "%s%s/notify", abstract ? "@" : "", p->path);
        memcpy(a.sun_path, name, strlen(name));
        if (abstract) {
            a.sun_path[0] = '\0';
        }
        AUTO_FD int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name));
        assert_int_equal(bind(sock, (const struct sockaddr *)&a, len), 0);
        setenv("NOTIFY_SOCKET", name, 1);
        assert_int_equal(sys_sd_notify_open(), 1);
        assert_int_equal(sys_sd_notify("READY=1"), 1);
        assert_int_equal(recv(sock, text, sizeof text, 0), 7);
        assert_string_equal(text, "READY=1");
    }
    setenv("NOTIFY_SOCKET", "/tmp/nobody.listens.here", 1);
    assert_int_equal(sys_sd_notify_open(), -ENOENT);
    assert_int_equal(sys_sd_notify("x"), -ENOENT);
    setenv("NOTIFY_SOCKET", "relative", 1);
    assert_int_equal(sys_sd_notify_open(), -EINVAL);
    assert_int_equal(sys_sd_notify("x"), -EINVAL);
    unsetenv("NOTIFY_SOCKET");
    assert_int_equal(sys_sd_notify_open(), 0);
    assert_int_equal(sys_sd_notify("x"), 0);

    char pid[16];
    (void)snprintf(pid, sizeof pid, "%d", getpid());
    unsetenv("WATCHDOG_USEC");
    unsetenv("WATCHDOG_PID");
    assert_int_equal(sys_sd_watchdog_us(), 0);
    setenv("WATCHDOG_USEC", "30000000", 1);
    assert_int_equal(sys_sd_watchdog_us(), 30000000);
    setenv("WATCHDOG_PID", pid, 1);
    assert_int_equal(sys_sd_watchdog_us(), 30000000);
    setenv("WATCHDOG_PID", "1", 1);
    assert_int_equal(sys_sd_watchdog_us(), 0);
}

/* What the sink writes to stderr, with and without the journal. */
static void log_lines(void **state)
{
    struct place *p = *state;
    char text[200];
    for (int journal = 0; journal < 2; journal++) {
        AUTO_FD int saved = fd_dup(2, 3);
        AUTO_FD int file = openat(p->fd, "log", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        struct stat st;
        char stream[64];
        assert_int_equal(fstat(file, &st), 0);
        (void)snprintf(stream, sizeof stream, "%llu:%llu", (unsigned long long)st.st_dev,
                       (unsigned long long)st.st_ino + (journal ? 0 : 1));
        setenv("JOURNAL_STREAM", stream, 1);
        dup2(file, 2);
        sys_log_init(LOG_INFO, LOG_TEXT, "launcher");
        log_warn("careful");
        dup2(saved, 2);
        assert_true(sys_read_text(p->fd, "log", text, sizeof text) > 0);
        if (journal) {
            assert_string_equal(text, "<4>warn launcher: careful");
        } else {
            assert_non_null(strstr(text, "Z warn launcher: careful"));
            assert_int_equal(text[0], '2');
        }
    }
    unsetenv("JOURNAL_STREAM");
}

static void settings_from_a_file(void **state)
{
    static const char *const args[] = { "--node.slots=3" };
    static struct settings s;
    struct place *p = *state;
    struct err e = { 0 };
    char path[100];
    put(p->fd, "agent.conf", "[log]\nlevel = debug\n");
    (void)snprintf(path, sizeof path, "%s/agent.conf", p->path);
    assert_int_equal(sys_settings_load(path, args, 1, &s, &e), 0);
    assert_int_equal(s.log.level, LOG_DEBUG);
    assert_int_equal(s.node.slots, 3);
    char host[256];
    assert_int_equal(gethostname(host, sizeof host), 0);
    assert_string_equal(s.node.name, host);
    put(p->fd, "agent.conf", "[log]\nlevel = debug\nlevel = info\n");
    assert_int_equal(sys_settings_load(path, NULL, 0, &s, &e), -EINVAL);
    assert_non_null(strstr(err_text(&e), "agent.conf:3: log.level was set in line 2 already"));
    assert_int_equal(sys_settings_load("/no/such/file", NULL, 0, &s, &e), -ENOENT);
    assert_int_equal(sys_settings_load(NULL, args, 1, &s, &e), 0);
    assert_int_equal(s.log.level, LOG_INFO);
}

int main(void)
{
#define WITH_PLACE(test) cmocka_unit_test_setup_teardown(test, place_make, place_remove)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(descriptors),
        cmocka_unit_test(interrupted_calls_go_on),
        WITH_PLACE(positions),
        WITH_PLACE(files_are_read_whole_or_not),
        WITH_PLACE(replacing_is_atomic),
        WITH_PLACE(directories),
        WITH_PLACE(nothing_opens_outside),
        WITH_PLACE(trees_go_and_links_stay),
        WITH_PLACE(deep_trees_go_with_few_descriptors),
        WITH_PLACE(unreadable_trees_go),
        WITH_PLACE(mounts_are_not_entered),
        WITH_PLACE(moved_directories_lead_nowhere),
        WITH_PLACE(no_memory_in_trees),
        cmocka_unit_test(descriptors_travel),
        cmocka_unit_test(clocks_and_entropy),
        cmocka_unit_test(processes),
        WITH_PLACE(notifications),
        WITH_PLACE(log_lines),
        WITH_PLACE(settings_from_a_file),
    };
    return cmocka_run_group_tests_name("sys", tests, NULL, NULL);
}
