/* The list of issued certificates. */
#include "agent/cli/cli_ca.h"

#include <errno.h>

#include "common/ids.h"
#include "common/mem.h"

static bool serial_ok(struct str s)
{
    for (size_t i = 0; i < s.n; i++) {
        bool hex = (s.p[i] >= '0' && s.p[i] <= '9') || (s.p[i] >= 'A' && s.p[i] <= 'F');
        if (!hex) {
            return false;
        }
    }
    return s.n > 0 && s.n < CLI_CA_SERIAL_CAP;
}

static int take_time(struct str text, int64_t *ret_s)
{
    int64_t us;
    if (time_parse(text, &us) != 0 || us <= 0) {
        return -EINVAL;
    }
    *ret_s = us / 1000000;
    return 0;
}

static int take_option(struct str word, struct cli_ca_entry *entry)
{
    if (str_starts(word, "until=")) {
        return take_time(str_slice(word, 6, word.n), &entry->until_s);
    }
    if (str_starts(word, "revoked=")) {
        return take_time(str_slice(word, 8, word.n), &entry->revoked_s);
    }
    if (str_starts(word, "by=") && serial_ok(str_slice(word, 3, word.n))) {
        return str_copy(entry->by, sizeof(entry->by), str_slice(word, 3, word.n));
    }
    return -EINVAL;
}

static int take_line(struct str line, struct cli_ca_entry *entry, struct err *e)
{
    struct str word;
    memset(entry, 0, sizeof(*entry));
    if (!str_split(&line, ' ', &word) || !serial_ok(word) ||
        str_copy(entry->serial, sizeof(entry->serial), word) != 0) {
        return err_say(e, -EINVAL, "a line begins with a serial number in hex");
    }
    if (!str_split(&line, ' ', &word) || word.n == 0 ||
        str_copy(entry->name, sizeof(entry->name), word) != 0) {
        return err_say(e, -EINVAL, "behind the serial number a name is wanted");
    }
    while (str_split(&line, ' ', &word)) {
        if (word.n > 0 && take_option(word, entry) != 0) {
            return err_say(e, -EINVAL, "'%.*s' is not until=, by= or revoked= with a value",
                           (int)(word.n < 40 ? word.n : 40), word.p);
        }
    }
    if (entry->until_s == 0 || entry->by[0] == '\0') {
        return err_say(e, -EINVAL, "until= and by= are wanted");
    }
    return 0;
}

int cli_ca_add(struct cli_ca_list *list, const struct cli_ca_entry *entry, struct err *e)
{
    if (list->len == CLI_CA_ENTRIES_MAX) {
        return err_say(e, -E2BIG, "more than %d certificates", CLI_CA_ENTRIES_MAX);
    }
    if (list->len == list->cap) {
        size_t cap = list->cap == 0 ? 16 : list->cap * 2;
        struct cli_ca_entry *items = mem_realloc(list->items, cap * sizeof(*items));
        if (items == NULL) {
            return err_set(e, -ENOMEM, "list certificates");
        }
        list->items = items;
        list->cap = cap;
    }
    list->items[list->len++] = *entry;
    return 0;
}

int cli_ca_parse(struct str text, struct cli_ca_list *ret, struct err *e)
{
    struct cli_ca_list list = { NULL, 0, 0 };
    struct cli_ca_entry entry;
    struct str line;
    size_t number = 0;
    *ret = list;
    while (str_split(&text, '\n', &line)) {
        struct err why = { .code = 0 };
        number++;
        line = str_trim(line);
        if (line.n == 0 || line.p[0] == '#') {
            continue;
        }
        int rc = take_line(line, &entry, &why);
        rc = rc == 0 ? cli_ca_add(&list, &entry, &why) : rc;
        if (rc != 0) {
            cli_ca_release(&list);
            return err_say(e, rc, "issued:%zu: %s", number, err_text(&why));
        }
    }
    *ret = list;
    return 0;
}

void cli_ca_drop(struct cli_ca_list *list, const char *by)
{
    size_t kept = 0;
    for (size_t i = 0; i < list->len; i++) {
        if (strcmp(list->items[i].by, by) != 0) {
            list->items[kept++] = list->items[i];
        }
    }
    list->len = kept;
}

size_t cli_ca_revoke(struct cli_ca_list *list, struct str which, int64_t now_s)
{
    size_t n = 0;
    for (size_t i = 0; i < list->len; i++) {
        struct cli_ca_entry *entry = &list->items[i];
        struct str begins = str_slice(str_of(entry->serial), 0, which.n);
        bool meant = str_eqs(which, entry->name) ||
                     (which.n >= 8 && begins.n == which.n && str_eq(begins, which));
        if (meant && entry->revoked_s == 0) {
            entry->revoked_s = now_s;
            n++;
        }
    }
    return n;
}

void cli_ca_write(const struct cli_ca_list *list, struct buf *out)
{
    char time[TIME_TEXT_CAP];
    (void)buf_adds(out, "# Certificates that were issued here; 'agent ca' keeps this file.\n");
    for (size_t i = 0; i < list->len; i++) {
        const struct cli_ca_entry *entry = &list->items[i];
        (void)buf_addf(out, "%s %s until=%s by=%s", entry->serial, entry->name,
                       time_format(entry->until_s * 1000000, time), entry->by);
        if (entry->revoked_s != 0) {
            (void)buf_addf(out, " revoked=%s", time_format(entry->revoked_s * 1000000, time));
        }
        (void)buf_addc(out, '\n');
    }
}

void cli_ca_release(struct cli_ca_list *list)
{
    mem_free(list->items);
    *list = (struct cli_ca_list){ NULL, 0, 0 };
}
