/* Certificates and keys on their way from root's files to the agent process. */
#include "agent/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/cur.h"
#include "common/digest.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_cert.h"

enum {
    FILE_MAX = 1 << 20,
    LOOK_MS = 1000,
    /* The memory file: SHA-256 of what follows, then each file's length (u32) and its bytes. */
    MEMORY_MAX = DIGEST_BYTES_MAX + DAEMON_SECRETS * (FILE_MAX + 8),
    MEMORY_HEAD = 32,
};

static const char *const names[DAEMON_SECRETS] = {
    [DAEMON_TLS_CERT] = "http.tls_cert",           [DAEMON_TLS_KEY] = "http.tls_key",
    [DAEMON_TLS_CLIENT_CA] = "http.tls_client_ca", [DAEMON_TLS_CRL] = "http.tls_crl",
    [DAEMON_GOSSIP_KEYS] = "gossip.key_file",
};

/* What tells one version of a file from another. */
struct stamp {
    dev_t dev;
    ino_t ino;
    off_t size;
    struct timespec changed;
};

struct daemon_vault {
    char path[DAEMON_SECRETS][SETTINGS_PATH_MAX * 2]; /* absolute; "": not set */
    struct stamp read[DAEMON_SECRETS];                /* of what is in secrets */
    struct stamp seen[DAEMON_SECRETS];                /* at the last look */
    struct daemon_secrets secrets;
    int memory;
    uint64_t looked_ms;
};

void daemon_secrets_init(struct daemon_secrets *s)
{
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        buf_init(&s->items[i], FILE_MAX);
    }
}

void daemon_secrets_release(struct daemon_secrets *s)
{
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        if (s->items[i].data != NULL) {
            mem_wipe(s->items[i].data, s->items[i].cap);
        }
        buf_release(&s->items[i]);
    }
}

static void secrets_cleanup(struct daemon_secrets *s)
{
    daemon_secrets_release(s);
}
#define AUTO_SECRETS __attribute__((cleanup(secrets_cleanup)))

/* ---- files ---- */

static struct stamp stamp_of(int root, const char *path)
{
    struct stamp s;
    struct stat st;
    memset(&s, 0, sizeof(s));
    AUTO_FD int fd = sys_open_beneath(root, path, O_PATH, 0, SYS_IN_ROOT);
    if (fd >= 0 && fstat(fd, &st) == 0) {
        s.dev = st.st_dev;
        s.ino = st.st_ino;
        s.size = st.st_size;
        s.changed = st.st_ctim;
    }
    return s;
}

static void stamps_take(const struct daemon_vault *v, int root, struct stamp dst[DAEMON_SECRETS])
{
    memset(dst, 0, DAEMON_SECRETS * sizeof(*dst));
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        if (v->path[i][0] != '\0') {
            dst[i] = stamp_of(root, v->path[i]);
        }
    }
}

static int files_read(const struct daemon_vault *v, int root, struct daemon_secrets *ret,
                      struct err *e)
{
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        if (v->path[i][0] == '\0') {
            continue;
        }
        AUTO_FD int fd = sys_open_beneath(root, v->path[i], O_RDONLY | O_NONBLOCK, 0, SYS_IN_ROOT);
        if (fd < 0) {
            return err_set(e, fd, "%s: open '%s'", names[i], v->path[i]);
        }
        ssize_t n = 0;
        char block[16384];
        uint64_t offset = 0;
        while ((n = sys_pread_full(fd, block, sizeof(block), offset)) > 0) {
            offset += (uint64_t)n;
            if (buf_add(&ret->items[i], block, (size_t)n) != 0) {
                n = buf_error(&ret->items[i]);
                break;
            }
        }
        mem_wipe(block, sizeof(block));
        if (n < 0) {
            return err_set(e, (int)n, "%s: read '%s'", names[i], v->path[i]);
        }
        if (ret->items[i].len == 0) {
            return err_say(e, -EINVAL, "%s: '%s' is empty", names[i], v->path[i]);
        }
    }
    return 0;
}

/* ---- the memory file ---- */

static int memory_write(int fd, const struct daemon_secrets *s, struct err *e)
{
    struct buf body = BUF_INIT(MEMORY_MAX);
    struct digest d;
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        (void)buf_add_le32(&body, (uint32_t)s->items[i].len);
        (void)buf_addstr(&body, buf_str(&s->items[i]));
    }
    int rc = buf_error(&body);
    rc = rc == 0 ? digest_of(DIGEST_SHA256, body.data, body.len, &d) : rc;
    if (rc == 0 && (ftruncate(fd, 0) != 0 || lseek(fd, 0, SEEK_SET) != 0)) {
        rc = -errno;
    }
    rc = rc == 0 ? sys_write_full(fd, d.b, MEMORY_HEAD) : rc;
    rc = rc == 0 ? sys_write_full(fd, body.data, body.len) : rc;
    if (body.data != NULL) {
        mem_wipe(body.data, body.cap);
    }
    buf_release(&body);
    return rc == 0 ? 0 : err_set(e, rc, "hand certificates and keys over");
}

static int memory_parse(struct str body, struct daemon_secrets *ret, struct err *e)
{
    struct cur c;
    cur_init(&c, body.p, body.n);
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        uint32_t n = cur_le32(&c);
        struct str item = cur_bytes(&c, n);
        if (!cur_ok(&c)) {
            return err_say(e, -EBADMSG, "certificates and keys were handed over in pieces");
        }
        int rc = buf_addstr(&ret->items[i], item);
        if (rc != 0) {
            return err_set(e, rc, "take certificates and keys");
        }
    }
    return 0;
}

int daemon_secrets_take(int fd, struct daemon_secrets *ret, struct err *e)
{
    AUTO_SECRETS struct daemon_secrets s;
    struct stat st;
    struct digest d;
    daemon_secrets_init(&s);
    if (fstat(fd, &st) != 0 || st.st_size < MEMORY_HEAD || st.st_size > MEMORY_MAX) {
        return err_say(e, -EAGAIN, "certificates and keys are being written");
    }
    size_t n = (size_t)st.st_size;
    char *text = mem_alloc(n);
    if (text == NULL) {
        return err_set(e, -ENOMEM, "take certificates and keys");
    }
    int rc = 0;
    if (sys_pread_full(fd, text, n, 0) != (ssize_t)n ||
        digest_of(DIGEST_SHA256, text + MEMORY_HEAD, n - MEMORY_HEAD, &d) != 0 ||
        memcmp(d.b, text, MEMORY_HEAD) != 0) {
        rc = err_say(e, -EAGAIN, "certificates and keys are being written");
    }
    rc = rc == 0 ? memory_parse((struct str){ text + MEMORY_HEAD, n - MEMORY_HEAD }, &s, e) : rc;
    mem_wipe(text, n);
    mem_free(text);
    if (rc == 0) {
        daemon_secrets_release(ret);
        *ret = s;
        daemon_secrets_init(&s);
    }
    return rc;
}

/* ---- what they mean ---- */

struct tls_config daemon_secrets_tls(const struct daemon_secrets *s, bool server)
{
    return (struct tls_config){ .server = server,
                                .cert = buf_str(&s->items[DAEMON_TLS_CERT]),
                                .key = buf_str(&s->items[DAEMON_TLS_KEY]),
                                .ca = buf_str(&s->items[DAEMON_TLS_CLIENT_CA]),
                                .crl = buf_str(&s->items[DAEMON_TLS_CRL]) };
}

int daemon_secrets_check(const struct daemon_secrets *s, const struct settings *settings,
                         struct err *e)
{
    struct tls_context *c = NULL;
    struct sys_cert_info info;
    if (s->items[DAEMON_TLS_CERT].len == 0) {
        return 0;
    }
    const struct tls_config config = daemon_secrets_tls(s, true);
    int rc = tls_context_new(&config, &c, e);
    (void)tls_context_unref(c);
    if (rc != 0) {
        return err_prefix(e, "http.tls_cert '%s'", settings->http.tls_cert);
    }
    if (s->items[DAEMON_TLS_CLIENT_CA].len == 0) {
        return 0;
    }
    rc = sys_cert_read(config.cert, 0, &info, e);
    if (rc == 0 && strcmp(info.name, settings->node.name) != 0) {
        rc = err_say(e, -EINVAL,
                     "http.tls_cert is for '%s', but this node's name is '%s': other nodes would "
                     "not know it (agent ca issue %s, or set node.name)",
                     info.name, settings->node.name, settings->node.name);
    }
    return rc;
}

/* ---- the vault ---- */

static int vault_path(struct daemon_vault *v, enum daemon_secret which, const char *path)
{
    char dir[SETTINGS_PATH_MAX];
    if (path[0] == '\0' || path[0] == '/') {
        return str_copy(v->path[which], sizeof(v->path[which]), str_of(path));
    }
    if (getcwd(dir, sizeof(dir)) == NULL) {
        return -errno;
    }
    int n = snprintf(v->path[which], sizeof(v->path[which]), "%s/%s", dir, path);
    return n > 0 && (size_t)n < sizeof(v->path[which]) ? 0 : -ENAMETOOLONG;
}

static int vault_paths(struct daemon_vault *v, const struct settings *s, struct err *e)
{
    const char *const paths[DAEMON_SECRETS] = {
        [DAEMON_TLS_CERT] = s->http.tls_cert,           [DAEMON_TLS_KEY] = s->http.tls_key,
        [DAEMON_TLS_CLIENT_CA] = s->http.tls_client_ca, [DAEMON_TLS_CRL] = s->http.tls_crl,
        [DAEMON_GOSSIP_KEYS] = s->gossip.key_file,
    };
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        int rc = vault_path(v, (enum daemon_secret)i, paths[i]);
        if (rc != 0) {
            return err_set(e, rc, "%s", names[i]);
        }
    }
    return 0;
}

/* The memory file's two ends. Only root can open it for writing. */
static int vault_memory(struct daemon_vault *v, int *ret_fd, struct err *e)
{
    char path[40];
    v->memory = memfd_create("agent-secrets", MFD_CLOEXEC);
    (void)snprintf(path, sizeof(path), "/proc/self/fd/%d", v->memory);
    if (v->memory < 0 || fchmod(v->memory, 0400) != 0 ||
        (*ret_fd = open(path, O_RDONLY | O_CLOEXEC)) < 0) {
        return err_set(e, -errno, "make a memory file for certificates and keys");
    }
    return memory_write(v->memory, &v->secrets, e);
}

int daemon_vault_open(const struct settings *s, struct daemon_vault **ret, int *ret_fd,
                      struct err *e)
{
    struct daemon_vault *v = mem_zalloc(sizeof(*v));
    AUTO_FD int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (v == NULL || root < 0) {
        mem_free(v);
        return err_set(e, -ENOMEM, "keep certificates and keys");
    }
    v->memory = -1;
    daemon_secrets_init(&v->secrets);
    int rc = vault_paths(v, s, e);
    if (rc == 0) {
        stamps_take(v, root, v->read);
        memcpy(v->seen, v->read, sizeof(v->seen));
        rc = files_read(v, root, &v->secrets, e);
    }
    rc = rc == 0 ? vault_memory(v, ret_fd, e) : rc;
    if (rc != 0) {
        v->memory = fd_close(v->memory);
        daemon_secrets_release(&v->secrets);
        mem_free(v);
        return rc;
    }
    *ret = v;
    return 0;
}

const struct daemon_secrets *daemon_vault_secrets(const struct daemon_vault *v)
{
    return &v->secrets;
}

static bool secrets_equal(const struct daemon_secrets *a, const struct daemon_secrets *b)
{
    bool same = true;
    for (size_t i = 0; i < DAEMON_SECRETS; i++) {
        same = same && str_eq(buf_str(&a->items[i]), buf_str(&b->items[i]));
    }
    return same;
}

bool daemon_vault_refresh(void *vault, int root, bool asked)
{
    struct daemon_vault *v = vault;
    AUTO_SECRETS struct daemon_secrets next;
    struct stamp now[DAEMON_SECRETS];
    struct err e = { .code = 0 };
    daemon_secrets_init(&next);
    if (!asked && sys_mono_ms() - v->looked_ms < LOOK_MS) {
        return false;
    }
    v->looked_ms = sys_mono_ms();
    stamps_take(v, root, now);
    bool still = memcmp(now, v->seen, sizeof(now)) == 0;
    bool changed = memcmp(now, v->read, sizeof(now)) != 0;
    memcpy(v->seen, now, sizeof(now));
    /* A certificate and its key are two files: both have to be in place. */
    if (!asked && (!changed || !still)) {
        return false;
    }
    memcpy(v->read, now, sizeof(now));
    if (files_read(v, root, &next, &e) != 0) {
        log_error("certificates and keys stay as they were: %s", err_text(&e));
        return false;
    }
    if (secrets_equal(&next, &v->secrets)) {
        return false;
    }
    if (memory_write(v->memory, &next, &e) != 0) {
        log_error("certificates and keys stay as they were: %s", err_text(&e));
        return false;
    }
    struct daemon_secrets old = v->secrets;
    v->secrets = next;
    next = old;
    return true;
}
