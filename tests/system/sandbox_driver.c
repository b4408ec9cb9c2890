/*
 * sandbox_driver - a launcher with a stand-in for the agent process, for tests of the sandbox
 * alone.
 *
 *   sandbox_driver launcher SOCKET [--section.key=value …]
 *
 * listens on the Unix socket SOCKET and is the launcher. Its agent process gives whoever connects
 * there the launcher's socket itself (SCM_RIGHTS) and otherwise only waits; the test then speaks
 * the launcher's protocol, or breaks it. Layers are "unpacked" by the image module's code when it
 * is linked in (see DRIVER_IMAGE), else by copying the stream to a file.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "agent/sandbox/sandbox.h"
#include "common/sys/sys.h"
#include "common/sys/sys_settings.h"

static int copy_decompress(int in_fd, int out_fd, enum digest_algo algo,
                           const struct sandbox_unpack_limits *limits, struct digest *ret,
                           struct err *e)
{
    static char piece[65536];
    struct digest_ctx AUTO_DIGEST_CTX *ctx = NULL;
    uint64_t total = 0;
    ssize_t n;
    int rc = digest_ctx_new(algo, &ctx);
    while (rc == 0 && (n = sys_read(in_fd, piece, sizeof(piece))) > 0) {
        total += (uint64_t)n;
        digest_ctx_update(ctx, piece, (size_t)n);
        rc = total > limits->bytes ? -E2BIG : sys_write_full(out_fd, piece, (size_t)n);
    }
    if (rc < 0) {
        return err_set(e, rc, "copy");
    }
    digest_ctx_final(ctx, ret);
    return 0;
}

/* One file "content", one opaque directory "opaque". */
static int copy_unpack(int in_fd, int root_fd, const struct sandbox_unpack_limits *limits,
                       struct buf *opaque, struct buf *index, uint64_t *ret_bytes,
                       uint64_t *ret_entries, struct err *e)
{
    static char piece[65536];
    ssize_t n;
    (void)limits;
    (void)index;
    AUTO_FD int fd = sys_open_beneath(root_fd, "content", O_WRONLY | O_CREAT | O_EXCL, 0644, 0);
    if (fd < 0 || mkdirat(root_fd, "opaque", 0755) < 0) {
        return err_set(e, fd < 0 ? fd : -errno, "make files");
    }
    while ((n = sys_read(in_fd, piece, sizeof(piece))) > 0) {
        int rc = sys_write_full(fd, piece, (size_t)n);
        if (rc < 0) {
            return err_set(e, rc, "write");
        }
        *ret_bytes += (uint64_t)n;
    }
    *ret_entries = 2;
    return buf_add(opaque, "opaque", 7);
}

static const struct sandbox_unpack_ops ops = { .decompress = copy_decompress,
                                               .unpack = copy_unpack };

/* The agent process: hands its socket out until the launcher hangs up. */
static int agent_main(void)
{
    for (;;) {
        struct pollfd p[2] = { { .fd = SANDBOX_AGENT_FD, .events = POLLRDHUP },
                               { .fd = SANDBOX_LISTEN_FD, .events = POLLIN } };
        if (poll(p, 2, -1) < 0) {
            continue;
        }
        if ((p[0].revents & (POLLRDHUP | POLLHUP)) != 0) {
            return 0;
        }
        if ((p[1].revents & POLLIN) != 0) {
            AUTO_FD int c = accept(SANDBOX_LISTEN_FD, NULL, NULL);
            int fd = SANDBOX_AGENT_FD;
            char pid[32];
            int n = snprintf(pid, sizeof(pid), "%d %d", (int)getpid(), (int)getuid());
            if (c >= 0) {
                (void)sys_send_fds(c, pid, (size_t)n, &fd, 1);
            }
        }
    }
}

static int listen_at(const char *path)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (str_copy(a.sun_path, sizeof(a.sun_path), str_of(path)) < 0) {
        return -1;
    }
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    (void)unlink(path);
    return fd >= 0 && bind(fd, (struct sockaddr *)(void *)&a, sizeof(a)) == 0 &&
                   chmod(path, 0777) == 0 && listen(fd, 8) == 0
               ? fd
               : -1;
}

int main(int argc, char **argv)
{
    static struct settings settings;
    sandbox_main_hook(argc, argv);
    struct err e = { 0 };
    char role[] = "agent";
    char name[] = "sandbox_driver";
    char *agent_argv[] = { name, role, NULL };
    if (argc == 2 && strcmp(argv[1], "agent") == 0) {
        return agent_main();
    }
    if (argc < 3 || strcmp(argv[1], "launcher") != 0) {
        fprintf(stderr, "usage: sandbox_driver launcher SOCKET [--section.key=value ...]\n");
        return 2;
    }
    sys_log_init(LOG_DEBUG, LOG_TEXT, "launcher");
    const char *overrides[64];
    size_t n = 0;
    for (int i = 3; i < argc && n < 64; i++) {
        overrides[n++] = argv[i];
    }
    if (sys_settings_load(NULL, overrides, n, &settings, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        return 2;
    }
    struct sandbox_launcher_config config = {
        .settings = &settings,
        .listen_fds = { listen_at(argv[2]) },
        .listen_fds_len = 1,
        .agent_argv = agent_argv,
        .unpack = &ops,
    };
    return sandbox_launcher_main(&config);
}
