/*
 * The head: lexical checks line by line, then http-parser over the whole, then what the fields say
 * together (framing, Host). http-parser sees only bytes that passed the checks and never a body.
 */
#include <errno.h>
#include <http_parser.h>

#include "common/http1_internal.h"
#include "common/insist.h"

/* RFC 9110, 5.6.2 */
static bool token_char(unsigned char c)
{
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9')) {
        return true;
    }
    return c != '\0' && strchr("!#$%&'*+-.^_`|~", c) != NULL;
}

static bool is_token(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!token_char((unsigned char)s.p[i])) {
            return false;
        }
    }
    return s.n != 0;
}

/* Index of the first byte that no field value or reason phrase may hold, or -1. */
static ptrdiff_t find_control(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        unsigned char c = (unsigned char)s.p[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            return (ptrdiff_t)i;
        }
    }
    return -1;
}

static int check_version(struct http1 *h, struct str version, struct err *e)
{
    if (str_eqs(version, "HTTP/1.1") || str_eqs(version, "HTTP/1.0")) {
        return 0;
    }
    if (version.n == 8 && str_starts(version, "HTTP/") && version.p[6] == '.' &&
        version.p[5] >= '0' && version.p[5] <= '9' && version.p[7] >= '0' && version.p[7] <= '9') {
        return http1_fail(h, -EBADMSG, 505, e, "%.*s is not spoken here", STR_ARG(version));
    }
    return http1_fail(h, -EBADMSG, 400, e, "malformed HTTP version");
}

static int check_target(struct http1 *h, struct str method, struct str target, struct err *e)
{
    if (target.n > HTTP1_TARGET_MAX) {
        return http1_fail(h, -E2BIG, 414, e, "the request target is longer than %d bytes",
                          HTTP1_TARGET_MAX);
    }
    for (size_t i = 0; i < target.n; i++) {
        unsigned char c = (unsigned char)target.p[i];
        if (c <= 0x20 || c >= 0x7f || c == '#') {
            return http1_fail(h, -EBADMSG, 400, e, "byte 0x%02x in the request target", c);
        }
    }
    if (str_eqs(target, "*")) {
        return str_eqs(method, "OPTIONS")
                   ? 0
                   : http1_fail(h, -EBADMSG, 400, e, "target '*' is for OPTIONS only");
    }
    if (str_starts(target, "/")) {
        return 0;
    }
    if (str_ieqs(str_slice(target, 0, 7), "http://") ||
        str_ieqs(str_slice(target, 0, 8), "https://")) {
        return 0;
    }
    return http1_fail(h, -EBADMSG, 400, e, "malformed request target");
}

static int check_request_line(struct http1 *h, struct str line, struct err *e)
{
    ptrdiff_t first = str_find(line, ' ');
    ptrdiff_t last = str_rfind(line, ' ');
    if (first <= 0 || last <= first + 1) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed request line");
    }
    struct str method = str_slice(line, 0, (size_t)first);
    struct str target = str_slice(line, (size_t)first + 1, (size_t)(last - first - 1));
    if (!is_token(method)) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed method");
    }
    int r = check_version(h, str_slice(line, (size_t)last + 1, SIZE_MAX), e);
    if (r != 0) {
        return r;
    }
    if (str_eqs(method, "CONNECT")) {
        return http1_fail(h, -EBADMSG, 501, e, "CONNECT is not served here");
    }
    return check_target(h, method, target, e);
}

static int check_status_line(struct http1 *h, struct str line, struct err *e)
{
    uint64_t status;
    int r = check_version(h, str_slice(line, 0, 8), e);
    if (r != 0) {
        return r;
    }
    /* The blank before an empty reason is missing in practice. */
    if (line.n < 12 || line.p[8] != ' ' ||
        str_u64_in(str_slice(line, 9, 3), 100, 599, &status) != 0 ||
        (line.n > 12 && line.p[12] != ' ') || find_control(line) >= 0) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed status line");
    }
    return 0;
}

int http1_check_first_line(struct http1 *h, struct str line, struct err *e)
{
    return h->side == HTTP1_REQUEST ? check_request_line(h, line, e)
                                    : check_status_line(h, line, e);
}

int http1_check_header_line(struct http1 *h, struct str line, struct err *e)
{
    if (line.p[0] == ' ' || line.p[0] == '\t') {
        return http1_fail(h, -EBADMSG, 400, e, "a folded header line");
    }
    ptrdiff_t colon = str_find(line, ':');
    if (colon < 0) {
        return http1_fail(h, -EBADMSG, 400, e, "a header line without a colon");
    }
    struct str name = str_slice(line, 0, (size_t)colon);
    if (name.n != 0 && (name.p[name.n - 1] == ' ' || name.p[name.n - 1] == '\t')) {
        return http1_fail(h, -EPROTO, 400, e, "a blank between a header's name and its colon");
    }
    if (!is_token(name)) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed header name");
    }
    struct str value = str_slice(line, (size_t)colon + 1, SIZE_MAX);
    ptrdiff_t bad = find_control(value);
    if (bad >= 0) {
        return http1_fail(h, -EBADMSG, 400, e, "byte 0x%02x in header %.*s",
                          (unsigned)(unsigned char)value.p[bad], STR_ARG(str_slice(name, 0, 64)));
    }
    return 0;
}

/* --- http-parser --- */

static int on_url(http_parser *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    h->head.target = (struct str){ at, n };
    return 0;
}

static int on_field(http_parser *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    if (h->head.headers_len == h->lines) {
        return -1; /* more fields than lines were counted */
    }
    h->headers[h->head.headers_len++] = (struct http1_header){ { at, n }, { "", 0 } };
    return 0;
}

static int on_value(http_parser *p, const char *at, size_t n)
{
    struct http1 *h = p->data;
    if (h->head.headers_len == 0) {
        return -1;
    }
    h->headers[h->head.headers_len - 1].value = str_trim((struct str){ at, n });
    return 0;
}

static int on_complete(http_parser *p)
{
    struct http1 *h = p->data;
    h->head.minor = p->http_minor;
    h->head.status = h->side == HTTP1_RESPONSE ? (int)p->status_code : 0;
    h->head.headers = h->headers;
    h->complete = true;
    return h->side == HTTP1_RESPONSE ? 1 : 0; /* 1: no body, which it would wait for */
}

static int parser_error(struct http1 *h, enum http_errno number, struct err *e)
{
    if (number == HPE_INVALID_METHOD) {
        return http1_fail(h, -EBADMSG, 501, e, "unknown method");
    }
    bool framing = number == HPE_UNEXPECTED_CONTENT_LENGTH ||
                   number == HPE_INVALID_CONTENT_LENGTH || number == HPE_INVALID_TRANSFER_ENCODING;
    return http1_fail(h, framing ? -EPROTO : -EBADMSG, 400, e, "%s",
                      http_errno_description(number));
}

static int run_parser(struct http1 *h, struct err *e)
{
    static const http_parser_settings settings = {
        .on_url = on_url,
        .on_header_field = on_field,
        .on_header_value = on_value,
        .on_headers_complete = on_complete,
    };
    http_parser p;
    ptrdiff_t blank = str_find((struct str){ h->buf, h->len }, ' ');

    h->head = (struct http1_head){ .headers = NULL };
    http_parser_init(&p, h->side == HTTP1_REQUEST ? HTTP_REQUEST : HTTP_RESPONSE);
    p.data = h;
    (void)http_parser_execute(&p, &settings, h->buf, h->len);
    if (HTTP_PARSER_ERRNO(&p) != HPE_OK) {
        return parser_error(h, HTTP_PARSER_ERRNO(&p), e);
    }
    /* Two readers of the same bytes must have seen the same fields. */
    if (!h->complete || h->head.headers_len != h->lines) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed head");
    }
    if (h->side == HTTP1_REQUEST) {
        h->head.method = (struct str){ h->buf, (size_t)blank };
    }
    return 0;
}

/* --- what the fields say --- */

/* How many fields of that name; the first one's value. */
static size_t count_header(const struct http1_head *head, const char *name, struct str *ret_first)
{
    struct str value;
    size_t n = 0;
    for (size_t i = 0; http1_header_next(head, name, &i, &value);) {
        if (n++ == 0) {
            *ret_first = value;
        }
    }
    return n;
}

/* Only "chunked" alone: nobody needs more, and each combination is a trick. */
static int parse_coding(struct http1 *h, struct str value, size_t fields, struct err *e)
{
    if (h->head.minor == 0) {
        return http1_fail(h, -EPROTO, 400, e, "Transfer-Encoding in HTTP/1.0");
    }
    if (fields > 1) {
        return http1_fail(h, -EPROTO, 400, e, "more than one Transfer-Encoding");
    }
    if (str_ieqs(value, "chunked")) {
        h->head.chunked = true;
        return 0;
    }
    struct str rest = value;
    struct str piece;
    struct str last = { "", 0 };
    size_t chunked = 0;
    while (str_split(&rest, ',', &piece)) {
        last = str_trim(piece);
        chunked += str_ieqs(last, "chunked") ? 1 : 0;
    }
    if (chunked == 1 && str_ieqs(last, "chunked") && !str_ends(value, ",")) {
        return http1_fail(h, -EPROTO, 501, e, "only the transfer coding 'chunked' is understood");
    }
    return http1_fail(h, -EPROTO, 400, e, "Transfer-Encoding must be 'chunked'");
}

static int parse_framing(struct http1 *h, struct err *e)
{
    struct str coding = { NULL, 0 };
    struct str length = { NULL, 0 };
    size_t codings = count_header(&h->head, "transfer-encoding", &coding);
    size_t lengths = count_header(&h->head, "content-length", &length);

    if (codings != 0 && lengths != 0) {
        return http1_fail(h, -EPROTO, 400, e, "both Content-Length and Transfer-Encoding");
    }
    if (lengths > 1) {
        return http1_fail(h, -EPROTO, 400, e, "more than one Content-Length");
    }
    if (lengths == 1) {
        if (str_u64(length, &h->head.length) != 0) {
            return http1_fail(h, -EPROTO, 400, e, "malformed Content-Length");
        }
        h->head.has_length = true;
    }
    return codings != 0 ? parse_coding(h, coding, codings, e) : 0;
}

static bool same_host(struct str a, struct str b)
{
    if (a.n != b.n) {
        return false;
    }
    for (size_t i = 0; i < a.n; i++) {
        /* Setting bit 5 folds letters; of what host_ok() lets through it mixes up only "[{", "]}",
         * "^~",
         * "_DEL": none of them names a host that exists. */
        if ((a.p[i] | 0x20) != (b.p[i] | 0x20)) {
            return false;
        }
    }
    return true;
}

static bool host_ok(struct str host)
{
    for (size_t i = 0; i < host.n; i++) {
        unsigned char c = (unsigned char)host.p[i];
        if (c <= 0x20 || c >= 0x7f || strchr("/?#@\\,\"<>", c) != NULL) {
            return false;
        }
    }
    return true;
}

/* Splits the target; with an absolute one the authority must be what Host says, or two parts of the
 * program could believe different names. */
static int parse_target(struct http1 *h, struct err *e)
{
    struct str host = { NULL, 0 };
    size_t hosts = count_header(&h->head, "host", &host);
    struct str rest = h->head.target;

    if (hosts > 1 || (hosts == 0 && h->head.minor == 1)) {
        return http1_fail(h, -EPROTO, 400, e, hosts > 1 ? "more than one Host" : "no Host");
    }
    if (!host_ok(host)) {
        return http1_fail(h, -EBADMSG, 400, e, "malformed Host");
    }
    if (rest.p[0] != '/' && rest.p[0] != '*') {
        size_t scheme = (size_t)str_find(rest, ':') + 3; /* "http://", "https://": checked before */
        rest = str_slice(rest, scheme, SIZE_MAX);
        size_t n = 0;
        while (n < rest.n && rest.p[n] != '/' && rest.p[n] != '?') {
            n++;
        }
        struct str authority = str_slice(rest, 0, n);
        if (n == 0 || !host_ok(authority) || (hosts == 1 && !same_host(authority, host))) {
            return http1_fail(h, -EPROTO, 400, e, "the target's authority is not Host");
        }
        rest = str_slice(rest, n, SIZE_MAX);
    }
    ptrdiff_t mark = str_find(rest, '?');
    h->head.path = str_slice(rest, 0, mark < 0 ? SIZE_MAX : (size_t)mark);
    h->head.query = mark < 0 ? STR("") : str_slice(rest, (size_t)mark + 1, SIZE_MAX);
    if (h->head.path.n == 0) {
        h->head.path = STR("/");
    }
    return 0;
}

/* RFC 9112, 6.3 */
static enum http1_state body_state(struct http1 *h)
{
    const struct http1_head *head = &h->head;
    if (h->side == HTTP1_RESPONSE &&
        (h->no_body || head->status < 200 || head->status == 204 || head->status == 304)) {
        return HTTP1_S_DONE;
    }
    if (head->chunked) {
        return HTTP1_S_CHUNK_SIZE;
    }
    if (head->has_length) {
        h->left = head->length;
        return head->length != 0 ? HTTP1_S_BODY_LENGTH : HTTP1_S_DONE;
    }
    return h->side == HTTP1_RESPONSE ? HTTP1_S_BODY_CLOSE : HTTP1_S_DONE;
}

int http1_parse_head(struct http1 *h, struct err *e)
{
    int r = run_parser(h, e);
    if (r == 0) {
        r = parse_framing(h, e);
    }
    if (r == 0 && h->side == HTTP1_REQUEST) {
        r = parse_target(h, e);
    }
    if (r != 0) {
        return r;
    }
    struct http1_head *head = &h->head;
    h->state = body_state(h);
    bool close = http1_has_token(head, "connection", "close");
    bool stay = head->minor == 1 || http1_has_token(head, "connection", "keep-alive");
    head->keep_alive = stay && !close && h->state != HTTP1_S_BODY_CLOSE;
    head->expect_continue = head->minor == 1 && http1_has_token(head, "expect", "100-continue");
    head->upgrade =
        http1_has_token(head, "connection", "upgrade") && http1_header(head, "upgrade").n != 0;
    return 0;
}
