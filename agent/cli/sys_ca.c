/*
 * `agent ca`: a small authority in a directory.
 *
 *   ca.pem   its certificate; during a rotation the new one, then the old one
 *   ca.key   its key (0600); old.key: the old one's, during a rotation
 *   crl.pem  what is revoked, one list for each authority
 *   issued   what was issued (cli_ca.h)
 *
 * Files are replaced whole, and the directory is locked while they are.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/cli/cli_ca.h"
#include "agent/cli/sys_cli.h"
#include "common/digest.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_cert.h"

enum { CA_DAYS = 3650, CERT_DAYS = 397, SOON_DAYS = 30, DAYS_MAX = 36500 };

struct ca {
    struct cli_ctx *ctx;
    const char *path;
    int dir; /* locked */
    struct buf cert, key, old_key;
    struct sys_cert_info own, old; /* old.serial "": no rotation is under way */
    struct cli_ca_list list;
};

static void secret_release(struct buf *b)
{
    if (b->data != NULL) {
        mem_wipe(b->data, b->cap);
    }
    buf_release(b);
}

static void ca_release(struct ca *ca)
{
    buf_release(&ca->cert);
    secret_release(&ca->key);
    secret_release(&ca->old_key);
    cli_ca_release(&ca->list);
    ca->dir = fd_close(ca->dir);
}
#define AUTO_CA __attribute__((cleanup(ca_release)))

static int days_of(const struct cli_ctx *ctx, unsigned fallback, unsigned *ret, struct err *e)
{
    const char *text = cli_args_value(&ctx->args, "days");
    uint64_t n = fallback;
    if (text != NULL && str_u64_in(str_of(text), 1, DAYS_MAX, &n) != 0) {
        return err_say(e, -EINVAL, "--days '%s': 1 to %d is wanted", text, DAYS_MAX);
    }
    *ret = (unsigned)n;
    return 0;
}

/* ---- the directory ---- */

static int ca_lock(struct ca *ca, struct err *e)
{
    ca->dir = open(ca->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (ca->dir < 0) {
        return err_set(e, -errno, "open '%s' ('agent ca init' makes an authority)", ca->path);
    }
    return flock(ca->dir, LOCK_EX) == 0 ? 0 : err_set(e, -errno, "lock '%s'", ca->path);
}

static int ca_open(struct ca *ca, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(CLI_CA_FILE_MAX);
    int rc = ca_lock(ca, e);
    rc = rc == 0 ? sys_read_file(ca->dir, "ca.pem", SYS_CERT_PEM_MAX, &ca->cert, e) : rc;
    rc = rc == 0 ? sys_cert_read(buf_str(&ca->cert), 0, &ca->own, e) : rc;
    if (rc == 0 && sys_cert_read(buf_str(&ca->cert), 1, &ca->old, NULL) != 0) {
        ca->old.serial[0] = '\0';
    }
    rc = rc == 0 ? sys_read_file(ca->dir, "issued", CLI_CA_FILE_MAX, &text, e) : rc;
    rc = rc == 0 ? cli_ca_parse(buf_str(&text), &ca->list, e) : rc;
    return rc == 0 ? 0 : err_prefix(e, "the authority in '%s'", ca->path);
}

/* For what needs the keys. */
static int ca_keys(struct ca *ca, struct err *e)
{
    int rc = sys_read_file(ca->dir, "ca.key", SYS_CERT_PEM_MAX, &ca->key, e);
    if (rc == 0 && ca->old.serial[0] != '\0') {
        rc = sys_read_file(ca->dir, "old.key", SYS_CERT_PEM_MAX, &ca->old_key, e);
    }
    return rc == 0 ? 0 : err_prefix(e, "the authority in '%s'", ca->path);
}

static int list_write(const struct ca *ca, struct err *e)
{
    AUTO_BUF struct buf text = BUF_INIT(CLI_CA_FILE_MAX);
    cli_ca_write(&ca->list, &text);
    return buf_error(&text) != 0
               ? err_set(e, buf_error(&text), "list certificates")
               : sys_write_file_atomic(ca->dir, "issued", text.data, text.len, 0600, e);
}

static int crl_of(const struct ca *ca, const char *serial, struct str cert, struct str key,
                  struct buf *crl, struct err *e)
{
    struct sys_cert_revoked *list = mem_calloc(ca->list.len + 1, sizeof(*list));
    size_t n = 0;
    if (list == NULL) {
        return err_set(e, -ENOMEM, "make a revocation list");
    }
    for (size_t i = 0; i < ca->list.len; i++) {
        const struct cli_ca_entry *entry = &ca->list.items[i];
        if (entry->revoked_s != 0 && strcmp(entry->by, serial) == 0) {
            memcpy(list[n].serial, entry->serial, sizeof(list[n].serial));
            list[n++].at_s = entry->revoked_s;
        }
    }
    int rc = sys_cert_crl(cert, key, list, n, crl, e);
    mem_free(list);
    return rc;
}

/* The second certificate's own text. */
static struct str second_of(struct str pem)
{
    static const char end[] = "-----END CERTIFICATE-----";
    const char *at = memmem(pem.p, pem.n, end, sizeof(end) - 1);
    INSIST(at != NULL);
    return str_slice(pem, (size_t)(at - pem.p) + sizeof(end) - 1, pem.n);
}

static int crl_write(const struct ca *ca, struct err *e)
{
    AUTO_BUF struct buf crl = BUF_INIT(CLI_CA_FILE_MAX);
    struct str cert = buf_str(&ca->cert);
    int rc = crl_of(ca, ca->own.serial, cert, buf_str(&ca->key), &crl, e);
    if (rc == 0 && ca->old.serial[0] != '\0') {
        rc = crl_of(ca, ca->old.serial, second_of(cert), buf_str(&ca->old_key), &crl, e);
    }
    return rc == 0 ? sys_write_file_atomic(ca->dir, "crl.pem", crl.data, crl.len, 0644, e) : rc;
}

static bool exists(int dir, const char *name)
{
    struct stat st;
    return fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* ---- init ---- */

static int ca_init(struct ca *ca, struct err *e)
{
    const char *name = cli_args_value(&ca->ctx->args, "name");
    unsigned days = 0;
    int rc = days_of(ca->ctx, CA_DAYS, &days, e);
    rc = rc == 0 ? sys_mkdirs(AT_FDCWD, ca->path, 0700, e) : rc;
    rc = rc == 0 ? ca_lock(ca, e) : rc;
    if (rc == 0 && (exists(ca->dir, "ca.key") || exists(ca->dir, "ca.pem"))) {
        return err_say(e, -EEXIST, "there is an authority in '%s' already", ca->path);
    }
    rc = rc == 0 ? sys_cert_ca(name != NULL ? name : "agent-cluster", days, &ca->cert, &ca->key, e)
                 : rc;
    rc = rc == 0 ? sys_cert_read(buf_str(&ca->cert), 0, &ca->own, e) : rc;
    rc = rc == 0 ? crl_write(ca, e) : rc;
    rc = rc == 0 ? list_write(ca, e) : rc;
    rc =
        rc == 0 ? sys_write_file_atomic(ca->dir, "ca.key", ca->key.data, ca->key.len, 0600, e) : rc;
    rc = rc == 0 ? sys_write_file_atomic(ca->dir, "ca.pem", ca->cert.data, ca->cert.len, 0644, e)
                 : rc;
    if (rc == 0) {
        (void)buf_addf(&ca->ctx->out,
                       "%s/ca.pem   for http.tls_client_ca of every node, and for clients "
                       "(AGENT_CA)\n"
                       "%s/crl.pem  for http.tls_crl of every node\n"
                       "%s/ca.key   stays here: whoever has it can be any node\n",
                       ca->path, ca->path, ca->path);
    }
    return rc;
}

/* ---- issue ---- */

static int issued_write(const struct ca *ca, const char *out_dir, const char *name,
                        const struct buf *cert, const struct buf *key, struct err *e)
{
    char file[SYS_CERT_NAME_CAP + 8];
    int rc = sys_mkdirs(AT_FDCWD, out_dir, 0700, e);
    AUTO_FD int dir = rc == 0 ? open(out_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (rc != 0 || dir < 0) {
        return rc != 0 ? rc : err_set(e, -errno, "open '%s'", out_dir);
    }
    (void)snprintf(file, sizeof(file), "%s.key", name);
    rc = sys_write_file_atomic(dir, file, key->data, key->len, 0600, e);
    (void)snprintf(file, sizeof(file), "%s.pem", name);
    rc = rc == 0 ? sys_write_file_atomic(dir, file, cert->data, cert->len, 0644, e) : rc;
    if (rc == 0) {
        /* agent.conf is read from anywhere. */
        char *at = realpath(out_dir, NULL);
        char *home = realpath(ca->path, NULL);
        const char *dir_text = at != NULL ? at : out_dir;
        const char *home_text = home != NULL ? home : ca->path;
        (void)buf_addf(&ca->ctx->out,
                       "[http]\n"
                       "tls_cert = %s/%s.pem\n"
                       "tls_key = %s/%s.key\n"
                       "tls_client_ca = %s/ca.pem\n"
                       "tls_crl = %s/crl.pem\n",
                       dir_text, name, dir_text, name, home_text, home_text);
        free(at);
        free(home);
    }
    return rc;
}

static int ca_issue(struct ca *ca, struct err *e)
{
    static const char *const always[] = { "localhost", "127.0.0.1", "::1" };
    const struct cli_args *a = &ca->ctx->args;
    const char *sans[SYS_CERT_SANS_MAX];
    const char *out_dir = cli_args_value(a, "out");
    AUTO_BUF struct buf cert = BUF_INIT(SYS_CERT_PEM_MAX);
    struct buf key = BUF_INIT(SYS_CERT_PEM_MAX);
    struct sys_cert_request r = { .sans = sans };
    if (a->pos_len < 2) {
        return err_say(e, -EINVAL, "'agent ca issue' needs a node's name");
    }
    if (a->pos_len - 2 + ARRAY_LEN(always) > SYS_CERT_SANS_MAX) {
        return err_say(e, -EINVAL, "more than %zu names and addresses",
                       SYS_CERT_SANS_MAX - ARRAY_LEN(always));
    }
    r.name = a->pos[1];
    for (size_t i = 2; i < a->pos_len; i++) {
        sans[r.sans_len++] = a->pos[i];
    }
    for (size_t i = 0; i < ARRAY_LEN(always); i++) {
        sans[r.sans_len++] = always[i];
    }
    struct sys_cert_info info;
    struct cli_ca_entry entry = { .revoked_s = 0 };
    int rc = days_of(ca->ctx, CERT_DAYS, &r.days, e);
    rc = rc == 0 ? ca_open(ca, e) : rc;
    rc = rc == 0 ? ca_keys(ca, e) : rc;
    rc = rc == 0 ? sys_cert_issue(buf_str(&ca->cert), buf_str(&ca->key), &r, &cert, &key, e) : rc;
    rc = rc == 0 ? sys_cert_read(buf_str(&cert), 0, &info, e) : rc;
    if (rc == 0) {
        (void)str_copy(entry.serial, sizeof(entry.serial), str_of(info.serial));
        (void)str_copy(entry.name, sizeof(entry.name), str_of(r.name));
        (void)str_copy(entry.by, sizeof(entry.by), str_of(ca->own.serial));
        entry.until_s = info.not_after_s;
        rc = cli_ca_add(&ca->list, &entry, e);
    }
    /* First known, then given away: so that it can be revoked whatever happens. */
    rc = rc == 0 ? list_write(ca, e) : rc;
    rc = rc == 0 ? issued_write(ca, out_dir != NULL ? out_dir : ".", r.name, &cert, &key, e) : rc;
    secret_release(&key);
    return rc;
}

/* ---- revoke, rotate ---- */

static int ca_revoke(struct ca *ca, struct err *e)
{
    const struct cli_args *a = &ca->ctx->args;
    size_t n = 0;
    int rc = a->pos_len >= 2
                 ? 0
                 : err_say(e, -EINVAL, "'agent ca revoke' needs a name or a serial number");
    rc = rc == 0 ? ca_open(ca, e) : rc;
    rc = rc == 0 ? ca_keys(ca, e) : rc;
    for (size_t i = 1; i < a->pos_len && rc == 0; i++) {
        size_t found = cli_ca_revoke(&ca->list, str_of(a->pos[i]), ca->ctx->view.now_us / 1000000);
        n += found;
        if (found == 0) {
            rc = err_say(e, -ENOENT, "'%s': no certificate of that name or number is in use",
                         a->pos[i]);
        }
    }
    rc = rc == 0 ? list_write(ca, e) : rc;
    rc = rc == 0 ? crl_write(ca, e) : rc;
    if (rc == 0) {
        (void)buf_addf(&ca->ctx->out,
                       "%zu revoked. Copy %s/crl.pem to every node (http.tls_crl): nodes see it "
                       "within seconds.\n",
                       n, ca->path);
    }
    return rc;
}

/* "cluster" becomes "cluster-2", "cluster-2" "cluster-3": people tell authorities by their names.
 */
static void next_name(const char *name, char *dst, size_t cap)
{
    struct str s = str_of(name);
    ptrdiff_t dash = str_rfind(s, '-');
    uint64_t n = 1;
    if (dash > 0 && str_u64_in(str_slice(s, (size_t)dash + 1, s.n), 1, 1000000, &n) == 0) {
        s.n = (size_t)dash;
    }
    (void)snprintf(dst, cap, "%.*s-%llu", (int)(s.n < 56 ? s.n : 56), s.p,
                   (unsigned long long)n + 1);
}

static int rotate_begin(struct ca *ca, struct err *e)
{
    char next[SYS_CERT_NAME_CAP];
    AUTO_BUF struct buf both = BUF_INIT(SYS_CERT_PEM_MAX);
    struct buf key = BUF_INIT(SYS_CERT_PEM_MAX);
    const char *name = cli_args_value(&ca->ctx->args, "name");
    unsigned days = 0;
    int rc = days_of(ca->ctx, CA_DAYS, &days, e);
    next_name(ca->own.name, next, sizeof(next));
    rc = rc == 0 ? sys_cert_ca(name != NULL ? name : next, days, &both, &key, e) : rc;
    rc = rc == 0 ? buf_addstr(&both, buf_str(&ca->cert)) : rc;
    /* The old key is saved first; ca.pem, which says that there are two, comes last. */
    rc = rc == 0 ? sys_write_file_atomic(ca->dir, "old.key", ca->key.data, ca->key.len, 0600, e)
                 : rc;
    rc = rc == 0 ? sys_write_file_atomic(ca->dir, "ca.key", key.data, key.len, 0600, e) : rc;
    rc = rc == 0 ? sys_write_file_atomic(ca->dir, "ca.pem", both.data, both.len, 0644, e) : rc;
    if (rc == 0) {
        secret_release(&ca->old_key);
        ca->old_key = ca->key;
        ca->key = key;
        ca->old = ca->own;
        buf_reset(&ca->cert);
        rc = buf_addstr(&ca->cert, buf_str(&both));
        rc = rc == 0 ? sys_cert_read(buf_str(&ca->cert), 0, &ca->own, e) : rc;
        rc = rc == 0 ? crl_write(ca, e) : rc;
    } else {
        secret_release(&key);
    }
    if (rc == 0) {
        (void)buf_addf(&ca->ctx->out,
                       "There is a new authority; both are trusted by %s/ca.pem.\n"
                       "1. Copy ca.pem and crl.pem to every node and client.\n"
                       "2. agent ca issue NAME ... for every node, and put the files in place.\n"
                       "3. agent ca rotate --finish, and copy ca.pem and crl.pem again.\n",
                       ca->path);
    }
    return rc;
}

static int rotate_finish(struct ca *ca, struct err *e)
{
    if (ca->old.serial[0] == '\0') {
        return err_say(e, -EINVAL, "no rotation is under way in '%s'", ca->path);
    }
    struct str own =
        str_slice(buf_str(&ca->cert), 0, (size_t)(second_of(buf_str(&ca->cert)).p - ca->cert.data));
    AUTO_BUF struct buf one = BUF_INIT(SYS_CERT_PEM_MAX);
    (void)buf_addstr(&one, own);
    (void)buf_addc(&one, '\n');
    cli_ca_drop(&ca->list, ca->old.serial);
    ca->old.serial[0] = '\0';
    int rc = buf_error(&one);
    rc = rc == 0 ? sys_write_file_atomic(ca->dir, "ca.pem", one.data, one.len, 0644, e) : rc;
    rc = rc == 0 ? list_write(ca, e) : rc;
    rc = rc == 0 ? crl_write(ca, e) : rc;
    if (rc == 0 && unlinkat(ca->dir, "old.key", 0) != 0) {
        rc = err_set(e, -errno, "remove '%s/old.key'", ca->path);
    }
    if (rc == 0) {
        (void)buf_addf(&ca->ctx->out,
                       "The old authority is gone. Copy %s/ca.pem and crl.pem to every node and "
                       "client.\n",
                       ca->path);
    }
    return rc;
}

static int ca_rotate(struct ca *ca, struct err *e)
{
    bool finish = cli_args_has(&ca->ctx->args, "finish");
    int rc = ca_open(ca, e);
    rc = rc == 0 ? ca_keys(ca, e) : rc;
    if (rc == 0 && !finish && ca->old.serial[0] != '\0') {
        return err_say(e, -EINVAL,
                       "a rotation is under way in '%s': end it first (agent ca rotate --finish)",
                       ca->path);
    }
    return rc != 0 ? rc : finish ? rotate_finish(ca, e) : rotate_begin(ca, e);
}

/* ---- show ---- */

struct shown {
    const char *kind;
    const char *name;
    const char *serial;
    const char *state;
    int64_t until_s;
    enum cli_colour colour;
};

static struct shown judge(const struct cli_ctx *ctx, const char *kind, const char *name,
                          const char *serial, int64_t until_s, int64_t revoked_s)
{
    int64_t left = until_s - ctx->view.now_us / 1000000;
    struct shown s = { kind, name, serial, "valid", until_s, CLI_GREEN };
    if (revoked_s != 0) {
        s.state = "revoked";
        s.colour = CLI_DIM;
    } else if (left <= 0) {
        s.state = "expired";
        s.colour = CLI_RED;
    } else if (left < (int64_t)SOON_DAYS * 86400) {
        s.state = "expires soon";
        s.colour = CLI_YELLOW;
    }
    return s;
}

static void show_row(struct cli_ctx *ctx, struct cli_table *t, struct json_w *w,
                     const struct shown *s)
{
    char time[TIME_TEXT_CAP];
    (void)time_format(s->until_s * 1000000, time);
    if (ctx->view.format == CLI_FORMAT_JSON) {
        json_w_obj(w);
        json_kv_cstr(w, "kind", s->kind);
        json_kv_cstr(w, "name", s->name);
        json_kv_cstr(w, "state", s->state);
        json_kv_cstr(w, "expires", time);
        json_kv_cstr(w, "serial", s->serial);
        json_w_end(w);
        return;
    }
    int64_t days = (s->until_s - ctx->view.now_us / 1000000) / 86400;
    cli_table_cell(t, CLI_PLAIN, str_of(s->kind));
    cli_table_cell(t, CLI_BOLD, str_of(s->name));
    cli_table_cell(t, s->colour, str_of(s->state));
    cli_table_cell(t, CLI_PLAIN, str_slice(str_of(time), 0, 10));
    cli_table_cellf(t, CLI_PLAIN, "%lld", (long long)days);
    cli_table_cell(t, CLI_DIM, str_slice(str_of(s->serial), 0, 16));
}

static void show_all(const struct ca *ca, struct cli_table *t, struct json_w *w)
{
    struct cli_ctx *ctx = ca->ctx;
    struct shown s = judge(ctx, "authority", ca->own.name, ca->own.serial, ca->own.not_after_s, 0);
    show_row(ctx, t, w, &s);
    if (ca->old.serial[0] != '\0') {
        s = judge(ctx, "old authority", ca->old.name, ca->old.serial, ca->old.not_after_s, 0);
        show_row(ctx, t, w, &s);
    }
    for (size_t i = 0; i < ca->list.len; i++) {
        const struct cli_ca_entry *entry = &ca->list.items[i];
        bool old = ca->old.serial[0] != '\0' && strcmp(entry->by, ca->old.serial) == 0;
        s = judge(ctx, old ? "certificate, old" : "certificate", entry->name, entry->serial,
                  entry->until_s, entry->revoked_s);
        show_row(ctx, t, w, &s);
    }
}

static int ca_show(struct ca *ca, struct err *e)
{
    static const char *const heads[] = {
        "KIND", "NAME", "STATE", "UNTIL", ">DAYS", "SERIAL", NULL
    };
    struct cli_ctx *ctx = ca->ctx;
    struct cli_table t;
    struct json_w w;
    int rc = ca_open(ca, e);
    if (rc != 0) {
        return rc;
    }
    cli_table_init(&t, heads);
    if (ctx->view.format == CLI_FORMAT_JSON) {
        json_w_init(&w, &ctx->out, true);
        json_w_obj(&w);
        json_w_key(&w, "certificates");
        json_w_arr(&w);
        show_all(ca, &t, &w);
        json_w_end(&w);
        json_w_end(&w);
        (void)buf_addc(&ctx->out, '\n');
    } else {
        show_all(ca, &t, NULL);
        rc = cli_table_render(&t, ctx->view.heads, ctx->view.colour, &ctx->out);
    }
    cli_table_release(&t);
    return rc == 0 ? 0 : err_set(e, rc, "print the list");
}

/* ---- the command ---- */

static const struct {
    const char *word;
    int (*run)(struct ca *ca, struct err *e);
    unsigned args_max;
} verbs[] = {
    { "init", ca_init, 1 },
    { "issue", ca_issue, CLI_POS_MAX },
    { "revoke", ca_revoke, CLI_POS_MAX },
    { "rotate", ca_rotate, 1 },
    { "show", ca_show, 1 },
};

int cli_cmd_ca(struct cli_ctx *ctx)
{
    const char *dir = cli_args_value(&ctx->args, "dir");
    AUTO_CA struct ca ca = { .ctx = ctx, .path = dir != NULL ? dir : "ca", .dir = -1 };
    struct err e = { .code = 0 };
    buf_init(&ca.cert, SYS_CERT_PEM_MAX);
    buf_init(&ca.key, SYS_CERT_PEM_MAX);
    buf_init(&ca.old_key, SYS_CERT_PEM_MAX);
    for (size_t i = 0; i < ARRAY_LEN(verbs); i++) {
        if (strcmp(ctx->args.pos[0], verbs[i].word) != 0) {
            continue;
        }
        if (ctx->args.pos_len > verbs[i].args_max) {
            return cli_fail(CLI_EXIT_USAGE, "'agent ca %s' takes no '%s'", verbs[i].word,
                            ctx->args.pos[verbs[i].args_max]);
        }
        int rc = verbs[i].run(&ca, &e);
        if (rc != 0) {
            return cli_fail(rc == -EINVAL ? CLI_EXIT_USAGE : CLI_EXIT_FAILED, "%s", e.text);
        }
        return cli_print(ctx, CLI_EXIT_OK);
    }
    return cli_fail(CLI_EXIT_USAGE, "'agent ca %s': init, issue, revoke, rotate and show are known",
                    ctx->args.pos[0]);
}

/* A key for gossip.key_file: 32 bytes, in the form that memberlist's and Serf's keygen print. */
int cli_cmd_keygen(struct cli_ctx *ctx)
{
    static const char set[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t key[33];
    sys_random(key, sizeof(key));
    key[32] = 0; /* fills the last group of three */
    for (size_t i = 0; i < sizeof(key); i += 3) {
        uint32_t bits = ((uint32_t)key[i] << 16) | ((uint32_t)key[i + 1] << 8) | key[i + 2];
        for (int shift = 18; shift >= 0; shift -= 6) {
            bool pad = i + 3 == sizeof(key) && shift == 0;
            (void)buf_addc(&ctx->out, pad ? '=' : set[(bits >> shift) & 63]);
        }
    }
    (void)buf_addc(&ctx->out, '\n');
    mem_wipe(key, sizeof(key));
    return cli_print(ctx, CLI_EXIT_OK);
}
