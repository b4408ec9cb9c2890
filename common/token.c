#include "common/token.h"

#include <errno.h>

#include "common/base64.h"
#include "common/digest.h"
#include "common/ids.h"
#include "common/insist.h"
#include "common/mem.h"

_Static_assert(TOKEN_ALL == (TOKEN_READ | TOKEN_SUBMIT | TOKEN_APPLY | TOKEN_PUSH | TOKEN_ADMIN),
               "every scope");

static const char mark[] = "agt_";
enum { MARK_LEN = 4, BODY_LEN = 52, CHECK_LEN = 4, CHECKED_LEN = MARK_LEN + BODY_LEN };
static const char letters[] = "abcdefghijklmnopqrstuvwxyz234567";

/* Could there be a secret in it? Then it is not for messages. */
static bool has_mark(struct str s)
{
    return s.n >= MARK_LEN && memmem(s.p, s.n, mark, MARK_LEN) != NULL;
}

/* --- text --- */

/* The 20 bits that stand at a token's end. They follow from the rest, so they tell nothing. */
static int check_of(const char *p, char ret[CHECK_LEN])
{
    struct digest d;
    int r = digest_of(DIGEST_SHA256, p, CHECKED_LEN, &d);
    if (r == 0) {
        uint32_t bits = ((uint32_t)d.b[0] << 12) | ((uint32_t)d.b[1] << 4) | (d.b[2] >> 4);
        for (unsigned i = 0; i < CHECK_LEN; i++) {
            ret[i] = letters[(bits >> (15 - 5 * i)) & 31];
        }
    }
    return r;
}

char *token_format(const uint8_t secret[TOKEN_SECRET_BYTES], char dst[TOKEN_TEXT_CAP])
{
    uint32_t bits = 0;
    unsigned have = 0;
    size_t at = 0;
    memcpy(dst, mark, MARK_LEN);
    for (size_t i = 0; i < BODY_LEN; i++) {
        if (have < 5) {
            /* Behind the last byte come four zero bits. */
            bits = (bits << 8) | (at < TOKEN_SECRET_BYTES ? secret[at] : 0);
            at++;
            have += 8;
        }
        have -= 5;
        dst[MARK_LEN + i] = letters[(bits >> have) & 31];
    }
    dst[TOKEN_TEXT_LEN] = '\0';
    if (check_of(dst, dst + CHECKED_LEN) != 0) {
        dst[0] = '\0';
    }
    return dst;
}

int token_text_check(struct str text)
{
    char check[CHECK_LEN];
    if (text.n != TOKEN_TEXT_LEN || !str_starts(text, mark)) {
        return -EINVAL;
    }
    for (size_t i = MARK_LEN; i < text.n; i++) {
        if (text.p[i] == '\0' || strchr(letters, text.p[i]) == NULL) {
            return -EILSEQ;
        }
    }
    int r = check_of(text.p, check);
    if (r == 0 && memcmp(check, text.p + CHECKED_LEN, CHECK_LEN) != 0) {
        r = -EILSEQ;
    }
    return r;
}

int token_hash(struct str text, uint8_t ret[TOKEN_HASH_BYTES])
{
    struct digest d;
    int r = digest_of(DIGEST_SHA256, text.p, text.n, &d);
    if (r == 0) {
        memcpy(ret, d.b, TOKEN_HASH_BYTES);
    }
    return r;
}

int token_from_header(struct str value, bool basic, char dst[TOKEN_TEXT_CAP])
{
    char pair[512];
    size_t n = 0;
    ptrdiff_t blank = str_find(value, ' ');
    if (blank < 0) {
        return -EINVAL;
    }
    struct str scheme = str_slice(value, 0, (size_t)blank);
    struct str rest = str_trim(str_slice(value, (size_t)blank, value.n));
    if (str_ieqs(scheme, "Bearer")) {
        return str_copy(dst, TOKEN_TEXT_CAP, rest) == 0 && rest.n > 0 ? 0 : -EINVAL;
    }
    if (!basic || !str_ieqs(scheme, "Basic")) {
        return -EINVAL;
    }
    int r = rest.n % 4 != 0 ? -EINVAL : base64_read(rest, pair, sizeof(pair), &n);
    if (r == 0) {
        struct str s = { pair, n };
        ptrdiff_t colon = str_find(s, ':');
        struct str password = str_slice(s, colon < 0 ? n : (size_t)colon + 1, n);
        r = password.n > 0 ? str_copy(dst, TOKEN_TEXT_CAP, password) : -EINVAL;
    }
    mem_wipe(pair, sizeof(pair));
    return r == 0 ? 0 : -EINVAL;
}

/* --- scopes --- */

static const struct {
    const char *name;
    unsigned scope;
} scopes[] = { { "read", TOKEN_READ },
               { "submit", TOKEN_SUBMIT },
               { "apply", TOKEN_APPLY },
               { "push", TOKEN_PUSH },
               { "admin", TOKEN_ADMIN } };

int token_scopes_parse(struct str text, unsigned *ret, struct err *e)
{
    unsigned found = 0;
    struct str piece;
    while (str_split(&text, ',', &piece)) {
        size_t i = 0;
        while (i < ARRAY_LEN(scopes) && !str_eqs(piece, scopes[i].name)) {
            i++;
        }
        if (i == ARRAY_LEN(scopes)) {
            piece = has_mark(piece) ? STR("agt_...") : piece; /* never show a secret */
            return err_say(e, -EINVAL,
                           "'%.*s' is no scope; read, submit, apply, push and admin are",
                           (int)(piece.n < 32 ? piece.n : 32), piece.p);
        }
        found |= scopes[i].scope;
    }
    if (found == 0) {
        return err_say(e, -EINVAL,
                       "no scope is named; read, submit, apply, push and admin are known");
    }
    *ret = found;
    return 0;
}

void token_scopes_write(struct buf *out, unsigned set)
{
    const char *comma = "";
    for (size_t i = 0; i < ARRAY_LEN(scopes); i++) {
        if ((set & scopes[i].scope) != 0) {
            (void)buf_addf(out, "%s%s", comma, scopes[i].name);
            comma = ",";
        }
    }
}

static bool is_word(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool made_of(struct str s, const char *more)
{
    for (size_t i = 0; i < s.n; i++) {
        if (!is_word(s.p[i]) && (s.p[i] == '\0' || strchr(more, s.p[i]) == NULL)) {
            return false;
        }
    }
    return true;
}

bool token_name_ok(struct str name)
{
    /* Names get into logs: a token that was put in a name's place must not. */
    return name.n > 0 && name.n < TOKEN_NAME_CAP && is_word(name.p[0]) && made_of(name, "._@-") &&
           !has_mark(name);
}

bool token_prefix_ok(struct str prefix)
{
    return prefix.n > 0 && prefix.n < TOKEN_PREFIX_CAP && made_of(prefix, "._/-");
}

bool token_has(const struct token *t, unsigned needs)
{
    return needs == 0 || (t->scopes & (needs | TOKEN_ADMIN)) != 0;
}

bool token_covers(const struct token *t, struct str name)
{
    return str_starts(name, t->prefix);
}

/* --- the file --- */

struct token_table {
    struct token *items;
    size_t len, cap;
};

struct token_table *token_table_free(struct token_table *t)
{
    if (t != NULL) {
        mem_free(t->items);
        mem_free(t);
    }
    return NULL;
}

size_t token_table_len(const struct token_table *t)
{
    return t->len;
}

const struct token *token_table_at(const struct token_table *t, size_t i)
{
    REQUIRE(i < t->len);
    return &t->items[i];
}

const struct token *token_table_find(const struct token_table *t,
                                     const uint8_t hash[TOKEN_HASH_BYTES])
{
    const struct token *found = NULL;
    for (size_t i = 0; i < t->len; i++) {
        if (mem_equal_ct(t->items[i].hash, hash, TOKEN_HASH_BYTES)) {
            found = &t->items[i];
        }
    }
    return found;
}

bool token_expired(const struct token *t, int64_t now_us)
{
    return t->expires_us != 0 && now_us >= t->expires_us;
}

/* The next word of a line; false at its end. */
static bool word_next(struct str *rest, struct str *ret)
{
    *rest = str_trim(*rest);
    size_t n = 0;
    while (n < rest->n && rest->p[n] != ' ' && rest->p[n] != '\t') {
        n++;
    }
    *ret = str_slice(*rest, 0, n);
    *rest = str_slice(*rest, n, rest->n);
    return n > 0;
}

static int take_option(struct str word, struct token *t, bool *hashed, struct err *e)
{
    if (str_starts(word, "prefix=") && t->prefix[0] == '\0') {
        struct str prefix = str_slice(word, 7, word.n);
        if (!token_prefix_ok(prefix)) {
            return err_say(e, -EINVAL, "a prefix has 1 to 128 letters, digits, '.', '_', '/', '-'");
        }
        return str_copy(t->prefix, sizeof(t->prefix), prefix);
    }
    if (str_starts(word, "expires=") && t->expires_us == 0) {
        if (time_parse(str_slice(word, 8, word.n), &t->expires_us) != 0 || t->expires_us <= 0) {
            return err_say(e, -EINVAL, "expires= takes a time such as 2027-01-31T00:00:00Z");
        }
        return 0;
    }
    if (str_starts(word, "created=") && t->created_us == 0) {
        if (time_parse(str_slice(word, 8, word.n), &t->created_us) != 0 || t->created_us <= 0) {
            return err_say(e, -EINVAL, "created= takes a time such as 2027-01-31T00:00:00Z");
        }
        return 0;
    }
    if (str_starts(word, "by=") && t->by[0] == '\0') {
        struct str by = str_slice(word, 3, word.n);
        return token_name_ok(by) ? str_copy(t->by, sizeof(t->by), by)
                                 : err_say(e, -EINVAL, "by= takes the name of a token");
    }
    if (str_starts(word, "sha256:") && !*hashed) {
        if (word.n != 7 + (size_t)2 * TOKEN_HASH_BYTES ||
            str_unhex(str_slice(word, 7, word.n), t->hash, TOKEN_HASH_BYTES) != 0) {
            return err_say(e, -EINVAL, "sha256: takes 64 hex digits");
        }
        *hashed = true;
        return 0;
    }
    /* The word is not shown: somebody may have put the token itself here. */
    return err_say(e, -EINVAL,
                   "a word that is not prefix=, expires=, created=, by= or sha256:, or is there "
                   "twice");
}

int token_line_parse(struct str line, struct token *ret, struct err *e)
{
    struct token token;
    struct token *t = &token;
    struct str word;
    bool hashed = false;
    memset(t, 0, sizeof(*t));
    if (str_find(line, '\n') >= 0) {
        return err_say(e, -EINVAL, "more than one line");
    }
    (void)word_next(&line, &word);
    if (!token_name_ok(word)) {
        return err_say(e, -EINVAL,
                       "a token's name has 1 to 64 letters, digits, '.', '_', '@', '-' and begins "
                       "with a letter or digit");
    }
    (void)str_copy(t->name, sizeof(t->name), word);
    (void)word_next(&line, &word);
    int r = token_scopes_parse(word, &t->scopes, e);
    while (r == 0 && word_next(&line, &word)) {
        r = take_option(word, t, &hashed, e);
    }
    if (r == 0 && !hashed) {
        r = err_say(e, -EINVAL, "there is no sha256:HEX ('agent token new' prints the line)");
    }
    if (r == 0 && t->prefix[0] != '\0' && (t->scopes & TOKEN_ADMIN) != 0) {
        r = err_say(e, -EINVAL, "admin reaches everything: it takes no prefix");
    }
    if (r == 0) {
        *ret = token;
    }
    return r;
}

struct token_table *token_table_new(void)
{
    return mem_zalloc(sizeof(struct token_table));
}

const struct token *token_table_named(const struct token_table *t, struct str name)
{
    for (size_t i = 0; i < t->len; i++) {
        if (str_eqs(name, t->items[i].name)) {
            return &t->items[i];
        }
    }
    return NULL;
}

int token_table_add(struct token_table *t, const struct token *token, struct err *e)
{
    for (size_t i = 0; i < t->len; i++) {
        if (strcmp(t->items[i].name, token->name) == 0) {
            return err_say(e, -EEXIST, "the name '%s' is there twice", token->name);
        }
        if (memcmp(t->items[i].hash, token->hash, TOKEN_HASH_BYTES) == 0) {
            return err_say(e, -EEXIST, "'%s' is the same token as '%s'", token->name,
                           t->items[i].name);
        }
    }
    if (t->len == TOKEN_ENTRIES_MAX) {
        return err_say(e, -E2BIG, "more than %d tokens", TOKEN_ENTRIES_MAX);
    }
    if (t->len == t->cap) {
        size_t cap = t->cap == 0 ? 8 : t->cap * 2;
        struct token *items = mem_realloc(t->items, cap * sizeof(*items));
        if (items == NULL) {
            return err_set(e, -ENOMEM, "read the tokens");
        }
        t->items = items;
        t->cap = cap;
    }
    t->items[t->len++] = *token;
    return 0;
}

int token_table_parse(const char *name, struct str text, struct token_table **ret, struct err *e)
{
    AUTO_TOKEN_TABLE struct token_table *table = NULL;
    struct token t;
    struct str line;
    size_t number = 0;
    if (text.n > TOKEN_FILE_MAX) {
        return err_say(e, -E2BIG, "%s: longer than %d bytes", name, TOKEN_FILE_MAX);
    }
    table = mem_zalloc(sizeof(*table));
    if (table == NULL) {
        return err_set(e, -ENOMEM, "read %s", name);
    }
    while (str_split(&text, '\n', &line)) {
        number++;
        line = str_trim(line);
        if (line.n == 0 || line.p[0] == '#') {
            continue;
        }
        struct err why = { .code = 0 };
        int r = token_line_parse(line, &t, &why);
        if (r == 0) {
            r = token_table_add(table, &t, &why);
        }
        if (r != 0) {
            r = r == -EEXIST ? -EINVAL : r;
            return err_say(e, r, "%s:%zu: %s", name, number, err_text(&why));
        }
    }
    *ret = table;
    table = NULL;
    return 0;
}

void token_line_write(struct buf *out, const struct token *t)
{
    char hex[2 * TOKEN_HASH_BYTES + 1];
    char time[TIME_TEXT_CAP];
    (void)buf_addf(out, "%s ", t->name);
    token_scopes_write(out, t->scopes);
    if (t->prefix[0] != '\0') {
        (void)buf_addf(out, " prefix=%s", t->prefix);
    }
    if (t->expires_us != 0) {
        (void)buf_addf(out, " expires=%s", time_format(t->expires_us, time));
    }
    if (t->created_us != 0) {
        (void)buf_addf(out, " created=%s", time_format(t->created_us, time));
    }
    if (t->by[0] != '\0') {
        (void)buf_addf(out, " by=%s", t->by);
    }
    str_hex(hex, t->hash, sizeof(t->hash));
    (void)buf_addf(out, " sha256:%s\n", hex);
}
