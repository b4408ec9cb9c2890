/*
 * conf - INI text and --section.key=value overrides into a struct, driven by a table; over inih.
 *
 * Pure: the caller reads the file (sys_settings_load does). The table says for each key where it
 * goes, its type, default, range and help; the same table prints the example file and the manual,
 * so they cannot disagree. Refused, with file, line, key and what is allowed: unknown sections and
 * keys (the nearest known one is suggested), duplicates, lines without '=', over-long lines,
 * byte-order mark, NUL, invalid UTF-8, values that do not parse or are out of range.
 *
 * Syntax: "[section]" once or more, "key = value"; blanks around both are dropped, leading blanks
 * of a line too; comments are whole lines that begin with '#' or ';', and what follows " ;" in a
 * line.
 */
#ifndef COMMON_CONF_H
#define COMMON_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/err.h"
#include "common/str.h"

enum {
    CONF_FILE_MAX = 1024 * 1024, /* bytes of a file */
    CONF_LINE_MAX = 4096,        /* bytes of a line */
    CONF_KEYS_MAX = 256,         /* rows of a table */
};

enum conf_type {
    CONF_TEXT,     /* char[size] */
    CONF_PATH,     /* char[size]: absolute path, or empty where the default is empty */
    CONF_ADDR,     /* char[size]: host:port, [v6]:port, :port; empty where the default is empty */
    CONF_LIST,     /* char[size]: comma-separated pieces, kept as "a,b,c" without blanks */
    CONF_BOOL,     /* bool */
    CONF_INT,      /* uint64_t */
    CONF_SIZE,     /* uint64_t, bytes */
    CONF_DURATION, /* uint64_t, milliseconds */
    CONF_MILLI,    /* uint64_t, thousandths: "0.5" is 500 */
    CONF_CHOICE,   /* unsigned: the index in choices */
};

struct conf_key {
    const char *section;
    const char *key;
    enum conf_type type;
    size_t offset;   /* of the member in the struct */
    size_t size;     /* of a char[] member; else sizeof of the member */
    const char *def; /* the default, as one would write it; NULL: must be given */
    /* Numbers: in the member's unit. Text: least and most bytes (max 0: size - 1). */
    uint64_t min, max;
    const char *zero;           /* numbers: the word that stands for 0 ("auto", "none"), or NULL */
    const char *unit;           /* for people: "a size", … NULL takes the type's */
    bool reloadable;            /* SIGHUP applies it */
    bool secret;                /* the value is never printed */
    const char *const *choices; /* CONF_CHOICE: NULL-terminated */
    const char *help;           /* sentences; '\n' starts a new line */
};

struct conf_section {
    const char *name;
    const char *help;
};

struct conf_table {
    const char *about; /* heads the example file */
    const struct conf_section *sections;
    size_t sections_len;
    const struct conf_key *keys; /* those of one section together */
    size_t keys_len;
    size_t object_size; /* of the struct */
};

/* Which keys were given, by index. */
struct conf_seen {
    uint32_t line[CONF_KEYS_MAX]; /* 0: not given; UINT32_MAX: by an override */
};

/* obj is set to the table's defaults. A default that does not parse is an INSIST. */
void conf_defaults(const struct conf_table *t, void *obj);
/* Takes in one file's text; name is for messages. obj may be partly written on failure. seen may
 * be NULL; else it is zeroed by the caller before the first call. -EINVAL, -E2BIG, -ENOMEM. */
int conf_parse(const struct conf_table *t, const char *name, struct str text, void *obj,
               struct conf_seen *seen, struct err *e);
/* "--section.key=value" or "section.key=value". The last one wins over earlier ones and the
 * file. */
int conf_override(const struct conf_table *t, const char *arg, void *obj, struct conf_seen *seen,
                  struct err *e);
/* Does the argument look like an override: "--word.…"? */
bool conf_is_override(const char *arg);

/* NULL when unknown. */
const struct conf_key *conf_find(const struct conf_table *t, struct str section, struct str key);
/* One value as text, as one would write it ("(secret)" for a secret one). */
void conf_print(const struct conf_key *k, const void *obj, struct buf *out);
/* What the key takes, for people: "a size in bytes (…), 1MiB to 1TiB". */
void conf_allowed(const struct conf_key *k, struct buf *out);
bool conf_equal(const struct conf_key *k, const void *a, const void *b);
/* The example file: every key, commented out, with help, default, unit, range. */
void conf_example(const struct conf_table *t, struct buf *out);

#endif
