/*
 * http1 - HTTP/1.1 messages, both sides, over http-parser, with the checks that its Debian build
 * does not make (specs: RFC 9112).
 *
 * Pull model: the owner feeds bytes and takes one event at a time, so that it can stop reading at
 * any point (back-pressure) and nothing is buffered here beyond the head. The head is scanned
 * before parsing: bare LF or CR, obs-fold, space before the colon, NUL or control characters, bytes
 * >= 0x80 in the target, a missing or second Host on HTTP/1.1, a version other than 1.0 or 1.1 are
 * refused; so are Content-Length with Transfer-Encoding, repeated lengths, any coding but a single
 * final "chunked". Chunks are decoded here: strict CRLF, size <= 16 hex digits, extensions and
 * trailers bounded and dropped. After an error the connection must be closed.
 */
#ifndef COMMON_HTTP1_H
#define COMMON_HTTP1_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/err.h"
#include "common/str.h"

enum {
    HTTP1_HEAD_MAX = 32 * 1024, /* request line and headers */
    HTTP1_HEADERS_MAX = 100,
    HTTP1_TARGET_MAX = 8 * 1024,
    HTTP1_CHUNK_OVERHEAD_MAX = 4096, /* one chunk's size line with extensions; all trailers */
};

enum http1_side { HTTP1_REQUEST, HTTP1_RESPONSE };
enum http1_event { HTTP1_MORE, HTTP1_HEAD, HTTP1_BODY, HTTP1_END };

struct http1_header {
    struct str name;  /* as sent */
    struct str value; /* trimmed */
};

struct http1_head {
    struct str method; /* request: "GET"; token characters only */
    struct str target; /* request: as sent; origin-form, absolute-form or "*" */
    struct str path;   /* request: the target's path, still percent-encoded */
    struct str query;  /* request: without '?', may be empty */
    int status;        /* response */
    int minor;         /* HTTP/1.<minor> */
    bool keep_alive;   /* after version and Connection */
    bool chunked;
    bool has_length;
    bool expect_continue;
    bool upgrade;
    uint64_t length; /* with has_length */
    const struct http1_header *headers;
    size_t headers_len;
};

struct http1;

/* Allocates one connection's parser. -ENOMEM. */
int http1_new(enum http1_side side, struct http1 **ret);
struct http1 *http1_free(struct http1 *h);
/* Ready for the next message on the same connection. Bytes of a pipelined one are not held here. */
void http1_reset(struct http1 *h);
/* Response side: the request was HEAD: no body follows, whatever the head says. Holds until the
 * next http1_reset(): say it again after an interim (1xx) response. */
void http1_expect_no_body(struct http1 *h);

/* Takes up to n bytes at p. Sets *ret_used (bytes consumed) and returns an enum http1_event:
 * HTTP1_MORE  all consumed, nothing to say yet;
 * HTTP1_HEAD  http1_head() is complete; body events follow (or END at once);
 * HTTP1_BODY  *ret_body is a slice of the caller's bytes;
 * HTTP1_END   the message is over.
 * Or negative: -EBADMSG malformed, -E2BIG a limit, -EPROTO smuggling trick, -ENOMEM; e has the
 * reason and http1_status() the status to answer (400, 413, 414, 431, 501, 505). Call again with
 * the rest. */
int http1_feed(struct http1 *h, const char *p, size_t n, size_t *ret_used, struct str *ret_body,
               struct err *e);
/* The peer closed: 0 when that ends a response body, -EPIPE in the middle of a message. */
int http1_finish(struct http1 *h, struct err *e);
int http1_status(const struct http1 *h);
/* Bytes of a message were seen but its head is not complete yet. */
bool http1_in_head(const struct http1 *h);

/* Valid from HTTP1_HEAD until http1_reset(). */
const struct http1_head *http1_head(const struct http1 *h);
/* The first header of that name (any case), or an empty slice with p == NULL. */
struct str http1_header(const struct http1_head *head, const char *name);
/* All headers of that name, in turn: start with *i = 0. */
bool http1_header_next(const struct http1_head *head, const char *name, size_t *i, struct str *ret);
/* Does a comma-separated header list hold the token (any case)? Looks at all headers of the
 * name. */
bool http1_has_token(const struct http1_head *head, const char *name, const char *token);

/* Percent-decodes src into dst (cap with NUL). '+' stays. -EINVAL: bad escape, NUL or control
 * character; -ENAMETOOLONG. */
int http1_unescape(struct str src, char *dst, size_t cap, size_t *ret_len);
/* The decoded value of a query parameter: 0, -ENOENT, -EINVAL, -ENAMETOOLONG. '+' is a space. nth
 * selects among repeated ones. */
int http1_query(struct str query, const char *name, size_t nth, char *dst, size_t cap);
const char *http1_reason(int status);

#endif
