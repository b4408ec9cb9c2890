/* The DNS questions of runs on network nat: with the names that their jobs' egress lists allow. */
#include "agent/node/uv_node_internal.h"
#include "common/egress.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys_fd.h"

/* After a restart of the agent the document of a live run is not at hand: its questions are
 * answered all the same, and what was opened stays open, but nothing more is opened. */
static size_t rules_of(const struct node_live *l, struct egress_rule **ret)
{
    const struct job_list *list = l->doc != NULL ? &l->doc->job->egress : NULL;
    size_t n = 0;

    *ret = list != NULL && list->n != 0 ? mem_calloc(list->n, sizeof **ret) : NULL;
    for (size_t i = 0; *ret != NULL && i < list->n; i++) {
        n += egress_parse(str_of(list->v[i]), &(*ret)[n], NULL) == 0 ? 1 : 0;
    }
    return n;
}

void node_dns_started(struct node *n, const struct node_live *l, int fd)
{
    struct egress_rule *rules = NULL;

    if (fd < 0) {
        return;
    }
    if (l == NULL || n->dns == NULL) {
        (void)fd_close(fd);
        return;
    }
    size_t len = rules_of(l, &rules);
    int rc = sandbox_dns_serve(n->dns, l->id, l->attempt, fd, rules, len);
    if (rc != 0) {
        log_warn("the DNS questions of a run stay without answer: %s", err_name(rc));
    }
    mem_free(rules);
}

void node_dns_egress_set(void *arg, struct ulid run, uint32_t attempt, int rc, const char *text)
{
    struct node *n = arg;

    if (rc != 0) {
        log_debug("a run's addresses: %s", text);
    }
    if (n->dns != NULL) {
        sandbox_dns_egress_set(n->dns, run, attempt, rc);
    }
}
