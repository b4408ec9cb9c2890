/* What peers say about runs, and what they say of themselves: any bytes; what is taken reads back
 * the same. */
#include <stddef.h>
#include <stdint.h>

#include "agent/node/node_copy_msg.h"
#include "agent/node/node_msg.h"
#include "agent/node/node_rows.h"
#include "common/insist.h"
#include "common/mem.h"

static void copies(struct str s)
{
    struct node_copies c;
    struct node_copy_answer *answers = NULL;
    size_t n = 0;

    if (node_copy_parse(s, 64, &c, NULL) == 0) {
        INSIST(c.n <= 64);
        node_copies_release(&c);
    }
    if (node_copy_answer_parse(s, 64, &answers, &n, NULL) == 0) {
        INSIST(n <= 64);
        mem_free(answers);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void offer(struct str s)
{
    AUTO_BUF struct buf out = BUF_INIT(2 * NODE_MSG_MAX);
    struct node_offer o;
    struct node_offer again;

    if (node_offer_parse(s, &o, NULL) != 0) {
        return;
    }
    INSIST(o.run.state == RUN_QUEUED && o.run.attempt >= 1);
    node_offer_write(&out, &o.run, o.job, (struct str){ o.payload, o.payload_len });
    INSIST(buf_error(&out) == 0 && node_offer_parse(buf_str(&out), &again, NULL) == 0);
    INSIST(again.payload_len == o.payload_len && ulid_eq(again.run.id, o.run.id));
    node_offer_release(&again);
    node_offer_release(&o);
}

static void report(struct str s)
{
    AUTO_BUF struct buf out = BUF_INIT(4 * NODE_MSG_MAX);
    struct node_report r;
    struct node_report again;

    if (node_report_parse(s, &r, NULL) != 0) {
        return;
    }
    node_report_write(&out, &r);
    INSIST(buf_error(&out) == 0 && node_report_parse(buf_str(&out), &again, NULL) == 0);
    INSIST(again.files[0].n == r.files[0].n && again.innocent == r.innocent);
    node_report_release(&again);
    node_report_release(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct str s = { (const char *)data, size };
    struct node_answer answer;
    struct node_about about[4];
    struct node_load load;
    struct node_tag tag;
    struct job *job = NULL;
    size_t n = 0;
    static struct node_capability capability;

    offer(s);
    report(s);
    copies(s);
    (void)node_answer_parse(s, &answer, NULL);
    (void)node_about_parse(s, about, 4, &n, NULL);
    INSIST(n <= 4);
    (void)node_load_parse(s, &load, NULL);
    (void)node_tag_parse(s, &tag, NULL);
    if (node_capability_parse(s, &capability, NULL) == 0) {
        node_capability_release(&capability);
    }
    if (node_job_row_parse(STR("j"), s, &job, NULL) == 0) {
        job_free(job);
    }
    return 0;
}
