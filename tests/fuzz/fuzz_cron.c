/* Schedule expressions and zones: whatever is accepted has a next time that comes after, twice the
 * same, and a zone's offsets and wall clocks agree. The first line is a zone's rule. */
#include <stddef.h>
#include <stdint.h>

#include "agent/triggers/cron.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void clocks(const struct trigger_zone *z, int64_t t)
{
    struct trigger_offset o = trigger_zone_offset(z, t);
    INSIST(o.since <= t && t < o.until);
    struct trigger_local l = trigger_zone_local(z, t + o.seconds);
    INSIST(l.n >= 1 && (l.first == t || l.last == t || l.n == 2));
}

static void zone_file(const uint8_t *data, size_t size)
{
    struct trigger_zone *z;

    if (trigger_zone_parse(STR("fuzz"), data, size, &z, NULL) == 0) {
        for (int64_t t = -4000000000; t < 8000000000; t += 98765432) {
            struct trigger_offset o = trigger_zone_offset(z, t);
            INSIST(o.since <= t && t < o.until);
        }
        trigger_zone_free(z);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str rest = { (const char *)data, size };
    struct str rule;
    struct trigger_zone *made = NULL;
    const struct trigger_zone *z = trigger_zone_utc();
    struct trigger_cron c;
    struct str name;

    zone_file(data, size);
    if (!str_split(&rest, '\n', &rule)) {
        return 0;
    }
    if (trigger_zone_rule(STR("fuzz"), rule, &made, NULL) == 0) {
        z = made;
        clocks(z, 1795651200);
    }
    if (trigger_cron_parse(rest, size, &c, &name, NULL) == 0) {
        int64_t t = 1795651200;
        for (int i = 0; i < 20; i++) {
            int64_t next = 0;
            int64_t again = 0;
            if (!trigger_cron_next(&c, z, 1795000000, t, &next)) {
                break;
            }
            INSIST(next > t);
            INSIST(trigger_cron_next(&c, z, 1795000000, next - 1, &again) && again == next);
            t = next;
        }
    }
    trigger_zone_free(made);
    return 0;
}
