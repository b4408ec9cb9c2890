/*
 * token - API tokens: their text, the file that holds their hashes, and what each one may do.
 *
 * Pure. A token is "agt_", 52 characters of base 32 (a-z, 2-7) that hold 32 random bytes, and 4
 * characters that check the rest, so that a mistyped one is told apart from an unknown one. A node
 * keeps only the SHA-256 of the whole text: with 256 random bits no slower hash is needed.
 *
 * The file (auth.tokens_file), one token per line, '#' begins a comment line:
 *
 *   NAME SCOPE,... [prefix=PREFIX] [expires=2027-01-31T00:00:00Z] [created=TIME] [by=NAME]
 *   sha256:HEX
 *
 * The cluster's own tokens are rows of the shared table: one such line each, by NAME.
 *
 * Secrets on the caller's stack are the caller's to wipe (mem_wipe()).
 */
#ifndef COMMON_TOKEN_H
#define COMMON_TOKEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    TOKEN_SECRET_BYTES = 32,
    TOKEN_HASH_BYTES = 32,
    TOKEN_TEXT_LEN = 4 + 52 + 4,
    TOKEN_TEXT_CAP = TOKEN_TEXT_LEN + 1,
    TOKEN_NAME_CAP = 65,
    TOKEN_PREFIX_CAP = 129,
    TOKEN_ENTRIES_MAX = 4096,
    TOKEN_FILE_MAX = 1024 * 1024,
};

/* None implies another one, but admin, which has them all. */
enum token_scope {
    TOKEN_READ = 1,   /* see jobs, runs, outputs, logs, nodes, metrics; pull images */
    TOKEN_SUBMIT = 2, /* start, cancel and retry runs */
    TOKEN_APPLY = 4,  /* create, change and delete jobs */
    TOKEN_PUSH = 8,   /* push, pull and delete images */
    TOKEN_ADMIN = 16, /* all that, and drain and prune */
    TOKEN_ALL = 31,
};

/* A value. */
struct token {
    char name[TOKEN_NAME_CAP];
    char prefix[TOKEN_PREFIX_CAP]; /* "": every job and repository */
    unsigned scopes;               /* enum token_scope */
    int64_t expires_us;            /* microseconds since 1970; 0: never */
    int64_t created_us;            /* 0: not known */
    char by[TOKEN_NAME_CAP];       /* whose token made it; "": not known */
    uint8_t hash[TOKEN_HASH_BYTES];
};

/* -- text -- */

/* The text of a token out of 32 random bytes. Returns dst. -ENOMEM can not be told: a token without
 * its check is "". */
char *token_format(const uint8_t secret[TOKEN_SECRET_BYTES], char dst[TOKEN_TEXT_CAP]);
/* Is this a token? 0; -EINVAL: another text; -EILSEQ: one with a wrong character. */
int token_text_check(struct str text);
/* -ENOMEM. */
int token_hash(struct str text, uint8_t ret[TOKEN_HASH_BYTES]);
/* The token in an Authorization header: "Bearer TOKEN", or (with basic) "Basic BASE64" of
 * "anything:TOKEN". The scheme in any case. -EINVAL: neither, or longer than a token. */
int token_from_header(struct str value, bool basic, char dst[TOKEN_TEXT_CAP]);

/* -- scopes -- */

/* "read,submit". -EINVAL names the unknown one. */
int token_scopes_parse(struct str text, unsigned *ret, struct err *e);
/* Appends "read,submit". */
void token_scopes_write(struct buf *out, unsigned set);
/* 1 to 64 of letters, digits and "._@-", the first one a letter or a digit; no
 * "agt_" in it. */
bool token_name_ok(struct str name);
/* 1 to 128 of letters, digits and "._/-": the beginning of names of jobs and repositories. */
bool token_prefix_ok(struct str prefix);
/* Has it one of these scopes, or admin? needs == 0: yes. */
bool token_has(const struct token *t, unsigned needs);
/* Does its prefix let it touch the job or repository of this name? */
bool token_covers(const struct token *t, struct str name);

/* -- the file -- */

struct token_table;

/* name is for messages. "FILE:LINE: what is wrong"; -EINVAL, -E2BIG, -ENOMEM. An empty file is a
 * table that knows nobody. */
int token_table_parse(const char *name, struct str text, struct token_table **ret, struct err *e);
struct token_table *token_table_free(struct token_table *t); /* NULL is fine; returns NULL */
size_t token_table_len(const struct token_table *t);
/* In the file's order; i < token_table_len(). */
const struct token *token_table_at(const struct token_table *t, size_t i);
/* The token of this hash, or NULL. Looks at every entry, whatever it finds. Expired ones are found:
 * ask token_expired(). Valid until the table goes. */
const struct token *token_table_find(const struct token_table *t,
                                     const uint8_t hash[TOKEN_HASH_BYTES]);
bool token_expired(const struct token *t, int64_t now_us);
/* The token of one line. -EINVAL, with the sentence. */
int token_line_parse(struct str line, struct token *ret, struct err *e);
/* An empty table. NULL: no memory. */
struct token_table *token_table_new(void);
/* -EEXIST: the name or the hash is there already; -E2BIG, -ENOMEM. */
int token_table_add(struct token_table *t, const struct token *token, struct err *e);
/* The token of this name, or NULL. Valid until the table changes. */
const struct token *token_table_named(const struct token_table *t, struct str name);
/* Appends the token's line with its newline. */
void token_line_write(struct buf *out, const struct token *t);

static inline void token_table_cleanup(struct token_table **t)
{
    *t = token_table_free(*t);
}
#define AUTO_TOKEN_TABLE __attribute__((cleanup(token_table_cleanup)))

#endif
