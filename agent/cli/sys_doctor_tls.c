/* doctor: the node's certificate, its key, and the authorities that it trusts. */
#include <fcntl.h>
#include <string.h>

#include "agent/cli/sys_doctor.h"
#include "common/digest.h"
#include "common/sys/sys.h"
#include "common/sys/sys_cert.h"

enum { SOON_DAYS = 30 };

struct files {
    struct buf cert, key, ca;
};

static void files_release(struct files *f)
{
    if (f->key.data != NULL) {
        mem_wipe(f->key.data, f->key.cap);
    }
    buf_release(&f->cert);
    buf_release(&f->key);
    buf_release(&f->ca);
}

/* -Exxx of the file that cannot be read, with the sentence. */
static int files_read(const struct settings *s, struct files *f, struct err *e)
{
    int rc = sys_read_file(AT_FDCWD, s->http.tls_cert, SYS_CERT_PEM_MAX, &f->cert, e);
    rc = rc == 0 ? sys_read_file(AT_FDCWD, s->http.tls_key, SYS_CERT_PEM_MAX, &f->key, e) : rc;
    if (rc == 0 && s->http.tls_client_ca[0] != '\0') {
        rc = sys_read_file(AT_FDCWD, s->http.tls_client_ca, SYS_CERT_PEM_MAX, &f->ca, e);
    }
    return rc;
}

static void judge(struct cli_doctor *d, const struct settings *s, const struct files *f,
                  const struct sys_cert_info *own)
{
    struct sys_cert_info ca = { .not_after_s = INT64_MAX };
    int64_t now = sys_wall_us() / 1000000;
    int64_t days = (own->not_after_s - now) / 86400;
    struct err e = { .code = 0 };
    if (!sys_cert_matches(buf_str(&f->cert), buf_str(&f->key))) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "http.tls_key is not the certificate's");
    } else if (f->ca.len > 0 && sys_cert_read(buf_str(&f->ca), 0, &ca, &e) != 0) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "http.tls_client_ca: %s", err_text(&e));
    } else if (f->ca.len > 0 && strcmp(own->name, s->node.name) != 0) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "it is for '%s', this node is '%s'", own->name,
                        s->node.name);
    } else if (own->not_after_s <= now) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "'%s' has expired", own->name);
    } else if (own->not_before_s > now) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "'%s' is not valid yet", own->name);
    } else if (days < SOON_DAYS || ca.not_after_s - now < (int64_t)SOON_DAYS * 86400) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_WARN, "'%s' ends in %lld days%s", own->name,
                        (long long)days, days < SOON_DAYS ? "" : ", its authority before long");
    } else {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_OK, "'%s' of %s, %lld days left", own->name,
                        own->issuer, (long long)days);
    }
}

void cli_doctor_tls(struct cli_doctor *d, const struct settings *s)
{
    __attribute__((cleanup(files_release))) struct files f = { BUF_INIT(SYS_CERT_PEM_MAX),
                                                               BUF_INIT(SYS_CERT_PEM_MAX),
                                                               BUF_INIT(SYS_CERT_PEM_MAX) };
    struct sys_cert_info own;
    struct err e = { .code = 0 };
    if (s->http.tls_cert[0] == '\0') {
        bool loopback = settings_addr_is_loopback(s->http.listen);
        cli_doctor_note(d, CLI_CHECK_TLS, loopback ? CLI_OK : CLI_WARN, "none: plain HTTP%s",
                        loopback ? " on loopback" : "");
    } else if (files_read(s, &f, &e) != 0 || sys_cert_read(buf_str(&f.cert), 0, &own, &e) != 0) {
        cli_doctor_note(d, CLI_CHECK_TLS, CLI_BAD, "%s", err_text(&e));
    } else {
        judge(d, s, &f, &own);
    }
}
