/* The agent's side of the launcher's socket. Messages that the socket has no room for wait in
 * order. */
#include "agent/sandbox/uv_sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "agent/sandbox/sandbox_msg.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/mem.h"
#include "common/sys/sys.h"

enum { WAITING_MAX = 4096, MESSAGES_PER_TURN = 64, CLIENT_MAGIC = 0x53434c49 };

struct waiting {
    struct list link;
    int fd[2]; /* -1: none */
    uint8_t bytes[SANDBOX_MSG_SIZE];
};

struct sandbox_client {
    unsigned magic;
    struct loop_owner owner;
    uv_poll_t poll;
    struct loop_defer hang_up; /* lost() comes from the loop, never from a call */
    int fd;
    bool gone; /* nothing more is sent or told */
    const char *why;
    struct list waiting;
    size_t waiting_len;
    const struct sandbox_client_events *events;
    void *arg;
    void (*on_closed)(void *arg);
    void *closed_arg;
};

const char *sandbox_start_kind_name(enum sandbox_start_kind k)
{
    switch (k) {
    case SANDBOX_COLD:
        return "cold";
    case SANDBOX_CACHED:
        return "cached";
    case SANDBOX_WARM:
        return "warm";
    default:
        return "unknown";
    }
}

/* ---- sending ---- */

static void client_on_poll(uv_poll_t *poll, int status, int events);

static void waiting_free(struct sandbox_client *c, struct waiting *w)
{
    list_remove(&w->link);
    fd_close(w->fd[0]);
    fd_close(w->fd[1]);
    mem_free(w);
    c->waiting_len--;
}

static void client_hang_up(struct sandbox_client *c, const char *why)
{
    if (c->gone) {
        return;
    }
    c->gone = true;
    c->why = why;
    (void)uv_poll_stop(&c->poll);
    loop_defer_post(c->owner.loop, &c->hang_up);
}

static void client_hung_up(struct loop_defer *d)
{
    struct sandbox_client *c = CONTAINER_OF(d, struct sandbox_client, hang_up);
    c->events->lost(c->arg, c->why);
}

static int client_queue(struct sandbox_client *c, const uint8_t *bytes, const int fd[2])
{
    if (c->waiting_len >= WAITING_MAX) {
        return -ENOBUFS;
    }
    struct waiting *w = mem_zalloc(sizeof(*w));
    if (w == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < 2; i++) {
        w->fd[i] = fd[i] < 0 ? -1 : fd_dup(fd[i], 3);
        if (fd[i] >= 0 && w->fd[i] < 0) {
            int rc = w->fd[i];
            fd_close(i > 0 ? w->fd[0] : -1);
            mem_free(w);
            return rc;
        }
    }
    memcpy(w->bytes, bytes, SANDBOX_MSG_SIZE);
    list_push_back(&c->waiting, &w->link);
    c->waiting_len++;
    return -uv_poll_start(&c->poll, UV_READABLE | UV_WRITABLE | UV_DISCONNECT, client_on_poll);
}

/* A second descriptor only behind a first. */
static size_t fds_of(const int fd[2])
{
    return fd[0] < 0 ? 0 : fd[1] < 0 ? 1 : 2;
}

static int client_send_two(struct sandbox_client *c, const struct sandbox_msg *m, const int fd[2])
{
    uint8_t bytes[SANDBOX_MSG_SIZE];
    REQUIRE(c->magic == CLIENT_MAGIC);
    if (c->gone) {
        return -EPIPE;
    }
    sandbox_msg_encode(m, bytes);
    if (!list_empty(&c->waiting)) {
        return client_queue(c, bytes, fd);
    }
    int rc = sys_send_fds(c->fd, bytes, sizeof(bytes), fd, fds_of(fd));
    if (rc == -EAGAIN) {
        return client_queue(c, bytes, fd);
    }
    if (rc < 0) {
        client_hang_up(c, "the launcher's socket fails");
        return -EPIPE;
    }
    return 0;
}

static int client_send(struct sandbox_client *c, const struct sandbox_msg *m, int fd)
{
    const int fds[2] = { fd, -1 };
    return client_send_two(c, m, fds);
}

static void client_flush(struct sandbox_client *c)
{
    while (!list_empty(&c->waiting)) {
        struct waiting *w = LIST_ITEM(c->waiting.next, struct waiting, link);
        int rc = sys_send_fds(c->fd, w->bytes, sizeof(w->bytes), w->fd, fds_of(w->fd));
        if (rc == -EAGAIN) {
            return;
        }
        waiting_free(c, w);
        if (rc < 0) {
            client_hang_up(c, "the launcher's socket fails");
            return;
        }
    }
    (void)uv_poll_start(&c->poll, UV_READABLE | UV_DISCONNECT, client_on_poll);
}

/* ---- receiving ---- */

static void tell_hello(struct sandbox_client *c, const struct sandbox_msg *m)
{
    uint64_t flags = m->number[SANDBOX_H_FLAGS];
    const struct sandbox_hello h = {
        .slots = (uint32_t)m->number[SANDBOX_H_SLOTS],
        .cgroup_version = (uint32_t)m->number[SANDBOX_H_CGROUP_VERSION],
        .cgroup_memory = (flags & SANDBOX_HELLO_MEMORY) != 0,
        .cgroup_cpu = (flags & SANDBOX_HELLO_CPU) != 0,
        .cgroup_pids = (flags & SANDBOX_HELLO_PIDS) != 0,
        .cgroup_io = (flags & SANDBOX_HELLO_IO) != 0,
        .cgroup_freezer = (flags & SANDBOX_HELLO_FREEZER) != 0,
        .memory_peak_exact = (flags & SANDBOX_HELLO_PEAK) != 0,
        .landlock = (flags & SANDBOX_HELLO_LANDLOCK) != 0,
        .memory_bytes = m->number[SANDBOX_H_MEMORY],
        .cpus_milli = (uint32_t)m->number[SANDBOX_H_CPUS_MILLI],
        .uid_base = m->number[SANDBOX_H_UID_BASE],
    };
    c->events->hello(c->arg, &h);
}

/* The descriptors, in the order of the bits, become the event's. */
static void tell_started(struct sandbox_client *c, const struct sandbox_msg *m, int *fds, size_t n)
{
    struct sandbox_started s = {
        .run = m->run,
        .attempt = m->attempt,
        .slot = (uint32_t)m->number[SANDBOX_N_SLOT],
        .pid = (int64_t)m->number[SANDBOX_N_PID],
        .kind = m->number[SANDBOX_N_KIND] <= SANDBOX_WARM
                    ? (enum sandbox_start_kind)m->number[SANDBOX_N_KIND]
                    : SANDBOX_COLD,
        .setup_us = m->number[SANDBOX_N_SETUP_US],
        .started_wall_us = (int64_t)m->number[SANDBOX_N_WALL_US],
        .adopted = m->number[SANDBOX_N_ADOPTED] == 1,
        .peak_was_reset = m->number[SANDBOX_N_PEAK_RESET] == 1,
        .rdt_free = (uint32_t)m->number[SANDBOX_N_RDT],
        .cache = m->number[SANDBOX_N_CACHE] < SANDBOX_CACHE_CLASSES
                     ? (enum sandbox_cache_class)m->number[SANDBOX_N_CACHE]
                     : SANDBOX_CACHE_DEFAULT,
        .base = m->base,
    };
    size_t next = 0;
    for (size_t i = 0; i < TELEMETRY_FILE_COUNT; i++) {
        bool there = (m->number[SANDBOX_N_FILES] & (UINT64_C(1) << i)) != 0 && next < n;
        s.fds.fd[i] = there ? fd_take(&fds[next]) : -1;
        next += there ? 1 : 0;
    }
    s.dns_fd = m->number[SANDBOX_N_DNS] == 1 && next < n ? fd_take(&fds[next]) : -1;
    c->events->started(c->arg, &s);
}

static void tell_ended(struct sandbox_client *c, const struct sandbox_msg *m)
{
    struct sandbox_ended s = {
        .run = m->run,
        .attempt = m->attempt,
        .adopted = m->value == 1,
        .rdt_free = (uint32_t)m->number[SANDBOX_N_RDT],
        .usage = { .base = m->base,
                   .end = m->end,
                   .peak_was_reset = m->number[SANDBOX_N_PEAK_RESET] == 1 },
    };
    if (sandbox_record_decode(m->record, SANDBOX_RECORD_SIZE, &s.result) < 0) {
        client_hang_up(c, "the launcher sent a broken record");
        return;
    }
    c->events->ended(c->arg, &s);
}

static void client_tell(struct sandbox_client *c, const struct sandbox_msg *m, int *fds, size_t n)
{
    const struct sandbox_client_events *ev = c->events;
    switch ((enum sandbox_msg_type)m->type) {
    case SANDBOX_MSG_HELLO:
        tell_hello(c, m);
        break;
    case SANDBOX_MSG_STARTED:
        tell_started(c, m, fds, n);
        break;
    case SANDBOX_MSG_ENDED:
        tell_ended(c, m);
        break;
    case SANDBOX_MSG_FAILED:
        ev->failed(c->arg, m->run, m->attempt, m->rc, m->text);
        break;
    case SANDBOX_MSG_UNPACKED:
        ev->unpacked(c->arg, &m->digest, m->rc, m->text, m->number[0], m->number[1],
                     n == 1 ? fd_take(&fds[0]) : -1);
        break;
    case SANDBOX_MSG_RUN_REMOVED:
        ev->run_removed(c->arg, m->run, m->attempt, m->rc, m->text);
        break;
    case SANDBOX_MSG_LAYER_REMOVED:
        ev->layer_removed(c->arg, &m->digest, m->rc, m->text);
        break;
    case SANDBOX_MSG_ADOPTED:
        ev->adopted(c->arg);
        break;
    case SANDBOX_MSG_EGRESS_SET:
        ev->egress_set(c->arg, m->run, m->attempt, m->rc, m->text);
        break;
    case SANDBOX_MSG_EGRESS:
    case SANDBOX_MSG_READY:
    case SANDBOX_MSG_PING:
    case SANDBOX_MSG_RUN:
    case SANDBOX_MSG_STOP:
    case SANDBOX_MSG_SIGNAL:
    case SANDBOX_MSG_UNPACK:
    case SANDBOX_MSG_REMOVE_RUN:
    case SANDBOX_MSG_REMOVE_LAYER:
    case SANDBOX_MSG_ADOPT:
    case SANDBOX_MSG_KEEP_LAYERS:
    default:
        break; /* sandbox_msg_decode() refused them */
    }
}

/* One message. False: none is there, or the end came. */
static bool client_receive(struct sandbox_client *c)
{
    uint8_t bytes[SANDBOX_MSG_SIZE + 1];
    int fds[SYS_FDS_MAX];
    size_t n = 0;
    struct sandbox_msg m;
    ssize_t len = sys_recv_fds(c->fd, bytes, sizeof(bytes), fds, SYS_FDS_MAX, &n);
    if (len == -EAGAIN) {
        return false;
    }
    if (len <= 0) {
        client_hang_up(c, "the launcher is gone");
        return false;
    }
    if (sandbox_msg_decode(bytes, (size_t)len, n, SANDBOX_FROM_LAUNCHER, &m) < 0) {
        client_hang_up(c, "the launcher sent a message that is none");
    } else {
        client_tell(c, &m, fds, n);
    }
    for (size_t i = 0; i < n; i++) {
        fd_close(fds[i]);
    }
    return true;
}

static void client_on_poll(uv_poll_t *poll, int status, int events)
{
    struct sandbox_client *c = CONTAINER_OF(poll, struct sandbox_client, poll);
    if (status < 0) {
        client_hang_up(c, "the launcher's socket fails");
        return;
    }
    if ((events & UV_WRITABLE) != 0) {
        client_flush(c);
    }
    for (int i = 0; i < MESSAGES_PER_TURN && !c->gone && !c->owner.closing; i++) {
        if (!client_receive(c)) {
            break;
        }
    }
}

/* ---- life ---- */

static void client_closed(struct loop_owner *o)
{
    struct sandbox_client *c = CONTAINER_OF(o, struct sandbox_client, owner);
    void (*on_closed)(void *) = c->on_closed;
    void *arg = c->closed_arg;
    while (!list_empty(&c->waiting)) {
        waiting_free(c, LIST_ITEM(c->waiting.next, struct waiting, link));
    }
    fd_close(c->fd);
    c->magic = 0;
    mem_free(c);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int sandbox_client_start(struct loop *l, int fd, const struct sandbox_client_events *events,
                         void *arg, struct sandbox_client **ret, struct err *e)
{
    struct sandbox_client *c = mem_zalloc(sizeof(*c));
    if (c == NULL) {
        fd_close(fd);
        return err_set(e, -ENOMEM, "start the launcher's client");
    }
    int rc = fd_set_nonblock(fd, 1);
    if (rc == 0) {
        (void)fd_set_cloexec(fd, 1);
        rc = uv_poll_init(l->uv, &c->poll, fd);
    }
    if (rc < 0) {
        fd_close(fd);
        mem_free(c);
        return err_set(e, rc, "watch the launcher's socket");
    }
    c->fd = fd;
    c->events = events;
    c->arg = arg;
    list_init(&c->waiting);
    loop_owner_init(&c->owner, l, client_closed);
    loop_hold(&c->owner);
    loop_defer_init(&c->hang_up, client_hung_up);
    (void)uv_poll_start(&c->poll, UV_READABLE | UV_DISCONNECT, client_on_poll);
    c->magic = CLIENT_MAGIC;
    *ret = c;
    return 0;
}

void sandbox_client_close(struct sandbox_client *c, void (*on_closed)(void *arg), void *arg)
{
    REQUIRE(c->magic == CLIENT_MAGIC);
    c->gone = true;
    c->on_closed = on_closed;
    c->closed_arg = arg;
    loop_defer_cancel(&c->hang_up);
    loop_owner_close(&c->owner);
    loop_handle_close(&c->owner, (uv_handle_t *)&c->poll);
}

/* ---- requests ---- */

/* The spec in a sealed memory file: what the launcher checks is what it will use. */
static int seal_spec(const struct sandbox_spec *spec, int *ret, struct err *e)
{
    struct buf AUTO_BUF blob = BUF_INIT(SANDBOX_SPEC_MAX);
    int rc = sandbox_spec_encode(spec, &blob, e);
    if (rc < 0) {
        return rc;
    }
    AUTO_FD int fd = memfd_create("spec", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return err_set(e, -errno, "make a memory file");
    }
    rc = sys_write_full(fd, blob.data, blob.len);
    if (rc < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
        return err_set(e, rc < 0 ? rc : -errno, "seal the sandbox's spec");
    }
    *ret = fd_take(&fd);
    return 0;
}

/* Sealed in size only: the launcher overwrites it when it was copied. */
static int seal_secrets(struct str secrets, int *ret, struct err *e)
{
    AUTO_FD int fd = memfd_create("secrets", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0) {
        return err_set(e, -errno, "make a memory file");
    }
    int rc = sys_write_full(fd, secrets.p, secrets.n);
    if (rc < 0 || fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW) < 0) {
        return err_set(e, rc < 0 ? rc : -errno, "seal the run's secrets");
    }
    *ret = fd_take(&fd);
    return 0;
}

int sandbox_client_run(struct sandbox_client *c, const struct sandbox_spec *spec,
                       struct str secrets, struct err *e)
{
    AUTO_FD int fd = -1;
    AUTO_FD int secrets_fd = -1;
    const struct sandbox_msg m = { .type = SANDBOX_MSG_RUN,
                                   .run = spec->run,
                                   .attempt = spec->attempt };
    int rc = seal_spec(spec, &fd, e);
    if (rc < 0) {
        return rc;
    }
    if (secrets.n != 0 && (rc = seal_secrets(secrets, &secrets_fd, e)) < 0) {
        return rc;
    }
    const int fds[2] = { fd, secrets_fd };
    rc = client_send_two(c, &m, fds);
    return rc < 0 ? err_set(e, rc, "ask the launcher") : 0;
}

static int client_ask_run(struct sandbox_client *c, enum sandbox_msg_type type, struct ulid run,
                          uint32_t attempt, uint32_t value)
{
    const struct sandbox_msg m = { .type = type, .run = run, .attempt = attempt, .value = value };
    return client_send(c, &m, -1);
}

int sandbox_client_stop(struct sandbox_client *c, struct ulid run, uint32_t attempt)
{
    return client_ask_run(c, SANDBOX_MSG_STOP, run, attempt, 0);
}

int sandbox_client_egress(struct sandbox_client *c, struct ulid run, uint32_t attempt,
                          const struct egress_net *nets, size_t n)
{
    struct sandbox_msg m = { .type = SANDBOX_MSG_EGRESS, .run = run, .attempt = attempt };
    sandbox_msg_nets_put(&m, nets, n);
    return client_send(c, &m, -1);
}

int sandbox_client_signal(struct sandbox_client *c, struct ulid run, uint32_t attempt, int sig)
{
    REQUIRE(sig >= 1 && sig <= 64);
    return client_ask_run(c, SANDBOX_MSG_SIGNAL, run, attempt, (uint32_t)sig);
}

int sandbox_client_unpack(struct sandbox_client *c, const struct digest *diff_id, int blob_fd)
{
    const struct sandbox_msg m = { .type = SANDBOX_MSG_UNPACK, .digest = *diff_id };
    return client_send(c, &m, blob_fd);
}

int sandbox_client_remove_run(struct sandbox_client *c, struct ulid run, uint32_t attempt)
{
    return client_ask_run(c, SANDBOX_MSG_REMOVE_RUN, run, attempt, 0);
}

int sandbox_client_remove_layer(struct sandbox_client *c, const struct digest *diff_id)
{
    const struct sandbox_msg m = { .type = SANDBOX_MSG_REMOVE_LAYER, .digest = *diff_id };
    return client_send(c, &m, -1);
}

int sandbox_client_keep_layers(struct sandbox_client *c, const struct digest *diff_ids, size_t n)
{
    const struct sandbox_msg m = { .type = SANDBOX_MSG_KEEP_LAYERS };
    AUTO_BUF struct buf text = BUF_INIT(SANDBOX_KEEP_MAX);
    AUTO_FD int fd = memfd_create("layers", MFD_CLOEXEC);
    char line[DIGEST_TEXT_CAP];
    for (size_t i = 0; i < n; i++) {
        (void)buf_addf(&text, "%s\n", digest_format(&diff_ids[i], line));
    }
    int rc = fd < 0 ? -errno : buf_error(&text);
    if (rc == 0 && text.len > 0) {
        rc = sys_write_full(fd, text.data, text.len);
    }
    return rc < 0 ? rc : client_send(c, &m, fd);
}

int sandbox_client_adopt(struct sandbox_client *c)
{
    const struct sandbox_msg m = { .type = SANDBOX_MSG_ADOPT };
    return client_send(c, &m, -1);
}

int sandbox_client_ready(struct sandbox_client *c, const char *status)
{
    struct sandbox_msg m = { .type = SANDBOX_MSG_READY };
    (void)str_copy(m.text, sizeof(m.text), str_slice(str_of(status), 0, SANDBOX_TEXT_MAX - 1));
    return client_send(c, &m, -1);
}

int sandbox_client_ping(struct sandbox_client *c)
{
    const struct sandbox_msg m = { .type = SANDBOX_MSG_PING };
    return client_send(c, &m, -1);
}
