/*
 * base64 - bytes as text and back (RFC 4648).
 *
 * Pure.
 */
#ifndef COMMON_BASE64_H
#define COMMON_BASE64_H

#include <stddef.h>

#include "common/buf.h"
#include "common/str.h"

/* Appends the text of n bytes (section 4, with padding). 0, or the buf's sticky error. */
int base64_encode(struct buf *out, const void *data, size_t n);
/* Section 4: with padding, without line breaks. *ret (NUL-terminated, the caller frees it) and its
 * length. One text per content: -EINVAL for anything else. -ENOMEM. */
int base64_decode(struct str text, char **ret, size_t *ret_len);
/* What others send: either alphabet (section 5's too), with or without padding, but strict beyond
 * that. Into dst[cap], which may be where the text is; 0 and *ret_n, -EINVAL, -ENOBUFS (over cap).
 */
int base64_read(struct str text, void *dst, size_t cap, size_t *ret_n);

#endif
