/*
 * What a run's secrets travel in: a memory file that begins with SANDBOX_SECRETS_HEAD bytes which
 * say what follows ("AGSE", count; of each the lengths of its name and of its bytes, the name), and
 * has the bytes one after the other behind them. So the launcher reads names and lengths alone: the
 * contents go from file to file. Pure.
 */
#include <errno.h>
#include <string.h>

#include "agent/sandbox/sandbox_internal.h"
#include "common/cur.h"

enum { SECRETS_MAGIC = 0x45534741 };

_Static_assert(8 + SANDBOX_SECRETS_MAX * (8 + SANDBOX_SECRET_NAME_MAX) <= SANDBOX_SECRETS_HEAD,
               "every list of secrets fits into the head");

bool sandbox_secret_name_ok(struct str name)
{
    static const char also[] = "._-";
    if (name.n == 0 || name.n > SANDBOX_SECRET_NAME_MAX || str_eqs(name, ".") ||
        str_eqs(name, "..")) {
        return false;
    }
    for (size_t i = 0; i < name.n; i++) {
        char c = name.p[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && (c == '\0' || strchr(also, c) == NULL)) {
            return false;
        }
    }
    return true;
}

int sandbox_secrets_encode(const struct sandbox_secret *v, size_t n, struct buf *out, struct err *e)
{
    struct buf AUTO_BUF head = BUF_INIT(SANDBOX_SECRETS_HEAD);
    uint64_t total = 0;
    if (n < 1 || n > SANDBOX_SECRETS_MAX) {
        return err_say(e, -EINVAL, "%zu secrets, not 1 to %d", n, SANDBOX_SECRETS_MAX);
    }
    buf_add_le32(&head, SECRETS_MAGIC);
    buf_add_le32(&head, (uint32_t)n);
    for (size_t i = 0; i < n; i++) {
        if (!sandbox_secret_name_ok(v[i].file)) {
            return err_say(e, -EINVAL, "secret %zu has no file name", i + 1);
        }
        total += v[i].bytes.n;
        if (v[i].bytes.n > SANDBOX_SECRETS_BYTES || total > SANDBOX_SECRETS_BYTES) {
            return err_say(e, -E2BIG, "the secrets of a run take more than %d KiB together",
                           SANDBOX_SECRETS_BYTES / 1024);
        }
        buf_add_le32(&head, (uint32_t)v[i].file.n);
        buf_add_le32(&head, (uint32_t)v[i].bytes.n);
        buf_addstr(&head, v[i].file);
    }
    buf_addstr(out, buf_str(&head));
    for (size_t i = head.len; i < SANDBOX_SECRETS_HEAD; i++) {
        buf_addc(out, '\0');
    }
    for (size_t i = 0; i < n; i++) {
        buf_addstr(out, v[i].bytes);
    }
    return buf_error(&head) != 0 || buf_error(out) != 0
               ? err_set(e, -ENOMEM, "encode the run's secrets")
               : 0;
}

int sandbox_secrets_decode(const uint8_t head[SANDBOX_SECRETS_HEAD], uint64_t size,
                           struct sandbox_secret_at v[SANDBOX_SECRETS_MAX], size_t *ret_n)
{
    struct cur c;
    uint64_t at = SANDBOX_SECRETS_HEAD;
    cur_init(&c, head, SANDBOX_SECRETS_HEAD);
    uint32_t magic = cur_le32(&c);
    uint32_t n = cur_le32(&c);
    if (magic != SECRETS_MAGIC || n < 1 || n > SANDBOX_SECRETS_MAX) {
        return -EBADMSG;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t name_len = cur_le32(&c);
        uint32_t len = cur_le32(&c);
        struct str name = cur_bytes(&c, name_len);
        if (!cur_ok(&c) || !sandbox_secret_name_ok(name) || len > SANDBOX_SECRETS_BYTES) {
            return -EBADMSG;
        }
        (void)str_copy(v[i].file, sizeof(v[i].file), name);
        v[i].at = at;
        v[i].len = len;
        at += len;
        for (uint32_t k = 0; k < i; k++) {
            if (strcmp(v[k].file, v[i].file) == 0) {
                return -EBADMSG;
            }
        }
    }
    *ret_n = n;
    return at == size && size - SANDBOX_SECRETS_HEAD <= SANDBOX_SECRETS_BYTES ? 0 : -EBADMSG;
}
