/*
 * base64 - bytes as text and back (RFC 4648, section 4: with padding, without line breaks).
 *
 * Pure.
 */
#ifndef COMMON_BASE64_H
#define COMMON_BASE64_H

#include <stddef.h>

#include "common/buf.h"
#include "common/str.h"

/* Appends the text of n bytes. 0, or the buf's sticky error. */
int base64_encode(struct buf *out, const void *data, size_t n);
/* *ret (NUL-terminated, the caller frees it) and its length. One text per content: -EINVAL for
 * anything else. -ENOMEM. */
int base64_decode(struct str text, char **ret, size_t *ret_len);

#endif
