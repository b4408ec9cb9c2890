/*
 * http1's own: the connection's state, shared by http1.c (framing) and http1_head.c (the head).
 */
#ifndef COMMON_HTTP1_INTERNAL_H
#define COMMON_HTTP1_INTERNAL_H

#include "common/http1.h"

enum http1_state {
    HTTP1_S_HEAD,
    HTTP1_S_BODY_LENGTH,
    HTTP1_S_BODY_CLOSE,
    HTTP1_S_CHUNK_SIZE,
    HTTP1_S_CHUNK_DATA,
    HTTP1_S_CHUNK_END,
    HTTP1_S_TRAILER,
    HTTP1_S_DONE,
    HTTP1_S_FAILED,
};

struct http1 {
    enum http1_side side;
    enum http1_state state;
    bool no_body;
    int status;  /* after a failure: what to answer */
    int failure; /* after a failure: its code */

    /* The head: all of its bytes are in buf, which the slices of `head` point into. */
    char *buf;
    size_t len;
    size_t buf_cap;
    size_t scan;       /* searched for LF up to here */
    size_t line_start; /* of the line that is not complete yet */
    size_t lines;      /* header lines so far */
    bool blank_line;   /* the CR of an empty line before the request was taken */
    bool blank_done;   /* and its LF */
    bool complete;     /* http-parser saw the end of the head */
    struct http1_header *headers;
    size_t headers_cap;
    struct http1_head head;

    /* The body. */
    uint64_t left;   /* bytes of the body or of the chunk; while reading a size: its value so far */
    uint64_t waste;  /* chunk overhead that the data does not justify */
    size_t overhead; /* bytes of this size line, or of all trailers */
    unsigned digits;
    bool in_extension;
    bool saw_cr;
    bool in_line; /* a trailer line is not empty */
};

/* Marks the connection as failed. Returns code. */
int http1_fail(struct http1 *h, int code, int status, struct err *e, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

/* Lexical checks of one line (without CR LF), before anything parses it. */
int http1_check_first_line(struct http1 *h, struct str line, struct err *e);
int http1_check_header_line(struct http1 *h, struct str line, struct err *e);

/* buf[0, len) is a whole head of checked lines: fills h->head and chooses the next state. */
int http1_parse_head(struct http1 *h, struct err *e);

#endif
