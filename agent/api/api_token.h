/*
 * api_token - the document of a new token, and how tokens are shown. Pure.
 */
#ifndef AGENT_API_API_TOKEN_H
#define AGENT_API_API_TOKEN_H

#include <stdbool.h>

#include "common/json.h"
#include "common/token.h"

enum { API_TOKEN_DOCUMENT_MAX = 8192 };

/* {"name": "ci", "scopes": ["read", "submit"], "prefix": "team/", "expires": "90d" or a time,
 *  "sha256": "HEX" of a token that the client made itself}
 * Without sha256 *ret_hashed is false and the hash is the caller's to fill in. -EINVAL with the
 * sentence, which never shows a secret; -ENOMEM. */
int api_token_parse(struct str text, int64_t now_us, struct token *ret, bool *ret_hashed,
                    struct err *e);
/* The members of one token's object: all but the hash. source: "cluster", or "file". */
void api_token_write(struct json_w *w, const struct token *t, const char *source);

#endif
