/*
 * err - an error number with the sentence that a person reads.
 *
 * Functions return 0 or -Exxx; the last parameter, `struct err *e`, may be NULL and is written only
 * on failure. The sentence names the thing that failed ("open blob 'sha256:ab..'"); the errno text
 * is appended by err_set() when the code is one of errno's.
 */
#ifndef COMMON_ERR_H
#define COMMON_ERR_H

#include <stdarg.h>

enum { ERR_TEXT_MAX = 512 };

struct err {
    int code; /* -Exxx, 0 when nothing failed */
    char text[ERR_TEXT_MAX];
};

/* Sets *e (if not NULL) to the formatted sentence, followed by ": " and the errno text of code.
 * code is negative. Returns code, so that a failing function can `return err_set(...)`. The text is
 * cut at ERR_TEXT_MAX - 1 bytes. */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* As err_set(), without the errno text: the sentence is whole as it stands. */
int err_say(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "<formatted>: " before the text that *e already has. Returns e->code (0 if e is NULL). */
int err_prefix(struct err *e, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The text, or "" when e is NULL or nothing failed. */
const char *err_text(const struct err *e);

/* The name of an errno value, positive or negative: "ENOENT". Never NULL. */
const char *err_name(int code);

#endif
