/* Any bytes as a schemata file, as last_cmd_status and as a group's name. What is written for the
 * schemata that were read is read again as what was meant. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "agent/sandbox/sandbox_rdt.h"
#include "common/insist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void schemata(struct str text)
{
    static struct rdt_schemata s;
    static struct rdt_schemata again;
    const struct rdt_class c = { .mask = 0x3c, .percent = 40 };
    AUTO_BUF struct buf out = BUF_INIT(65536);
    if (sandbox_rdt_schemata_parse(text, &s) != 0) {
        return;
    }
    (void)sandbox_rdt_bandwidth(&s);
    sandbox_rdt_schemata_write(&s, &c, &out);
    INSIST(buf_error(&out) == 0 && out.len > 0 && out.data[out.len - 1] == '\n');
    INSIST(sandbox_rdt_schemata_parse(str_slice(buf_str(&out), 0, RDT_TEXT_MAX), &again) == 0);
    for (size_t r = 0; r < RDT_RESOURCES && out.len < RDT_TEXT_MAX; r++) {
        INSIST(again.has[r] == s.has[r]);
        INSIST(!s.has[r] || again.len[r] == s.len[r]);
        for (uint32_t i = 0; s.has[r] && i < s.len[r]; i++) {
            INSIST(again.id[r][i] == s.id[r][i]);
            INSIST(again.value[r][i] == (r == RDT_MB ? c.percent : c.mask));
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str text = { (const char *)data, size };
    char line[64];
    char name[80];
    uint32_t group;
    schemata(text);
    INSIST(sandbox_rdt_answer(-(int)(size % 140), text) <= RDT_BROKEN);
    sandbox_rdt_status_line(text, line, sizeof line);
    for (size_t i = 0; line[i] != '\0'; i++) {
        INSIST(line[i] >= ' ' && line[i] < 127);
    }
    size_t n = size < sizeof name - 1 ? size : sizeof name - 1;
    memcpy(name, data, n);
    name[n] = '\0';
    if (sandbox_rdt_name_ours("agent-1", name, &group)) {
        INSIST(group < RDT_GROUPS_MAX || group == UINT32_MAX);
    }
    return 0;
}
