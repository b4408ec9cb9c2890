/* agent.conf: what is accepted, printed and read again is the same; what is refused names its line.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/insist.h"
#include "common/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void print_all(const struct settings *s, struct buf *out)
{
    for (size_t i = 0; i < settings_table.keys_len; i++) {
        const struct conf_key *k = &settings_table.keys[i];
        buf_addf(out, "[%s]\n%s = ", k->section, k->key);
        conf_print(k, s, out);
        buf_addc(out, '\n');
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct settings s;
    static struct settings again;
    AUTO_BUF struct buf text = BUF_INIT(1 << 20);
    struct err e = { 0 };

    settings_defaults(&s);
    int r =
        conf_parse(&settings_table, "f", (struct str){ (const char *)data, size }, &s, NULL, &e);
    if (r != 0) {
        INSIST(strncmp(err_text(&e), "f:", 2) == 0 || strncmp(err_text(&e), "f is", 4) == 0);
        return 0;
    }
    (void)settings_check(&s, &e);
    print_all(&s, &text);
    settings_defaults(&again);
    /* A ';' behind a blank would begin a comment: no value that was read can hold one. */
    INSIST(conf_parse(&settings_table, "again", buf_str(&text), &again, NULL, &e) == 0);
    for (size_t i = 0; i < settings_table.keys_len; i++) {
        INSIST(conf_equal(&settings_table.keys[i], &s, &again));
    }
    return 0;
}
