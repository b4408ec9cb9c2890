#include "agent/sandbox/uv_sandbox_dns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>

#include "common/dns.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/sys/sys.h"
#include "common/sys/sys_random.h"

enum { RESOLVERS_MAX = 4, TRY_MS = 1600, LOOK_MS = 5000 };

struct dns_run {
    struct list link;
    struct sandbox_dns *dns;
    struct loop_owner owner;
    uv_udp_t udp; /* the run's side */
    struct ulid run;
    uint32_t attempt;
    unsigned under_way;
    uint64_t asked, set; /* requests to the launcher, and its answers */
    struct egress_rule *rules;
    size_t rules_len;
    struct egress_net *open; /* what was asked for: nobody asks twice */
    size_t open_len;
};

/* One question: from a run to a resolver, its answer to the launcher, and back. */
struct dns_query {
    struct list link;
    struct sandbox_dns *dns;
    struct dns_run *run; /* NULL: the run is over */
    struct loop_owner owner;
    struct loop_timer timer;
    uv_udp_t up; /* to the resolver asked last */
    bool up_open;
    unsigned tries;
    uint16_t id; /* on the way up */
    struct dns_question question;
    struct sockaddr_storage from;
    uint64_t waits_for; /* the answer waits for this many of run->set; 0: there is none yet */
    size_t len;         /* of the message: the question, then the answer */
    uint8_t message[DNS_MESSAGE_MAX];
};

struct sandbox_dns {
    struct loop *loop;
    struct loop_owner owner;
    struct sandbox_client *client;
    const char *configured;
    struct sockaddr_storage resolvers[RESOLVERS_MAX];
    size_t resolvers_len;
    uint64_t looked_ms; /* at resolv.conf; 0: never */
    struct list runs, queries;
    unsigned queries_len;
    void (*on_closed)(void *arg);
    void *arg;
    char buffer[DNS_MESSAGE_MAX + 1];
};

/* ---- the node's resolvers ---- */

static void add_resolver(struct sandbox_dns *d, struct str text)
{
    struct sockaddr_storage *a = &d->resolvers[d->resolvers_len];
    struct sockaddr_in *four = (struct sockaddr_in *)(void *)a;
    struct sockaddr_in6 *six = (struct sockaddr_in6 *)(void *)a;
    uint8_t addr[16];

    if (d->resolvers_len == RESOLVERS_MAX) {
        return;
    }
    memset(a, 0, sizeof(*a));
    if (egress_ip4_parse(text, addr) == 0) {
        four->sin_family = AF_INET;
        four->sin_port = htons(53);
        memcpy(&four->sin_addr, addr, 4);
    } else if (egress_ip6_parse(text, addr) == 0) {
        six->sin6_family = AF_INET6;
        six->sin6_port = htons(53);
        memcpy(&six->sin6_addr, addr, 16);
    } else {
        return;
    }
    d->resolvers_len++;
}

static void look_for_resolvers(struct sandbox_dns *d)
{
    struct buf AUTO_BUF text = BUF_INIT(65536);
    uint64_t now = loop_now_ms(d->loop);
    struct str line;
    struct str rest = str_of(d->configured);

    if (d->looked_ms != 0 && (d->configured[0] != '\0' || now - d->looked_ms < LOOK_MS)) {
        return;
    }
    d->looked_ms = now != 0 ? now : 1;
    d->resolvers_len = 0;
    while (str_split(&rest, ',', &line)) {
        add_resolver(d, line);
    }
    if (d->configured[0] != '\0' ||
        sys_read_file(AT_FDCWD, "/etc/resolv.conf", 65535, &text, NULL) < 0) {
        return;
    }
    rest = buf_str(&text);
    while (str_split(&rest, '\n', &line)) {
        if (str_starts(line, "nameserver")) {
            add_resolver(d, str_trim(str_slice(line, 10, line.n)));
        }
    }
}

/* ---- questions ---- */

static void query_closed(struct loop_owner *o)
{
    struct dns_query *q = CONTAINER_OF(o, struct dns_query, owner);
    struct sandbox_dns *d = q->dns;

    d->queries_len--;
    loop_drop(&d->owner);
    mem_free(q);
}

static void up_close(struct dns_query *q)
{
    if (q->up_open) {
        q->up_open = false;
        loop_handle_close(&q->owner, (uv_handle_t *)&q->up);
    }
}

static void query_end(struct dns_query *q)
{
    list_remove(&q->link);
    if (q->run != NULL) {
        q->run->under_way--;
        q->run = NULL;
    }
    up_close(q);
    loop_timer_close(&q->timer);
    loop_owner_close(&q->owner);
}

/* To the run; a lost answer is asked for again. */
static void query_answer(struct dns_query *q)
{
    if (q->run != NULL) {
        uv_buf_t b = uv_buf_init((char *)q->message, (unsigned)q->len);
        q->message[0] = (uint8_t)(q->question.id >> 8);
        q->message[1] = (uint8_t)q->question.id;
        (void)uv_udp_try_send(&q->run->udp, &b, 1, (const struct sockaddr *)&q->from);
    }
    query_end(q);
}

static void query_fail(struct dns_query *q, uint8_t rcode)
{
    q->len = dns_error(q->message, &q->question, rcode, q->message);
    query_answer(q);
}

static bool is_open(const struct dns_run *r, const struct egress_net *net)
{
    for (size_t i = 0; i < r->open_len; i++) {
        const struct egress_net *o = &r->open[i];
        if (o->kind == net->kind && o->proto == net->proto && o->port_first == net->port_first &&
            o->port_last == net->port_last && memcmp(o->addr, net->addr, sizeof(o->addr)) == 0) {
            return true;
        }
    }
    return false;
}

/* Asks for what is new of the answer's addresses. */
static void open_addresses(struct dns_run *r, const struct dns_question *question,
                           const struct dns_addr *addrs, size_t n)
{
    struct egress_net fresh[SANDBOX_MSG_NETS];
    size_t count = 0;

    for (size_t k = 0; k < r->rules_len; k++) {
        if (!egress_name_matches(&r->rules[k], str_of(question->name))) {
            continue;
        }
        for (size_t i = 0; i < n; i++) {
            struct egress_net net = r->rules[k].net;
            net.kind = addrs[i].six ? EGRESS_IP6 : EGRESS_IP4;
            net.prefix = addrs[i].six ? 128 : 32;
            memcpy(net.addr, addrs[i].addr, sizeof(net.addr));
            if (r->open_len == SANDBOX_EGRESS_MAX || is_open(r, &net)) {
                continue;
            }
            r->open[r->open_len++] = net;
            fresh[count++] = net;
            if (count == SANDBOX_MSG_NETS) {
                r->asked +=
                    sandbox_client_egress(r->dns->client, r->run, r->attempt, fresh, count) == 0;
                count = 0;
            }
        }
    }
    if (count > 0) {
        r->asked += sandbox_client_egress(r->dns->client, r->run, r->attempt, fresh, count) == 0;
    }
}

static void take_answer(struct dns_query *q, const char *p, size_t n)
{
    struct dns_addr addrs[DNS_ADDRS_MAX];
    size_t count = 0;

    if (n < DNS_HEADER || n > DNS_MESSAGE_MAX || (uint8_t)p[0] != q->id >> 8 ||
        (uint8_t)p[1] != (q->id & 0xff) ||
        dns_answer_parse(p, n, &q->question, addrs, &count) != 0) {
        return; /* not the answer: that may still come */
    }
    up_close(q);
    memcpy(q->message, p, n);
    q->len = n;
    if (q->run == NULL) {
        query_end(q);
        return;
    }
    open_addresses(q->run, &q->question, addrs, count);
    if (q->run->asked == q->run->set) {
        query_answer(q);
    } else {
        q->waits_for = q->run->asked;
    }
}

static void on_alloc(uv_handle_t *h, size_t wanted, uv_buf_t *ret)
{
    struct loop_owner *o = h->data;
    (void)wanted;
    /* The first member of both owners' structs that are reached so is their dns. */
    struct sandbox_dns *d = o->on_closed == query_closed
                                ? CONTAINER_OF(o, struct dns_query, owner)->dns
                                : CONTAINER_OF(o, struct dns_run, owner)->dns;
    *ret = uv_buf_init(d->buffer, sizeof(d->buffer));
}

static void on_up(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from,
                  unsigned flags)
{
    struct dns_query *q = CONTAINER_OF(h, struct dns_query, up);
    (void)flags;
    if (n > 0 && from != NULL) {
        take_answer(q, b->base, (size_t)n);
    }
}

/* To the next resolver. A socket of its own for each try: the kernel chooses the port, and only
 * that resolver's datagrams come in. */
static int query_send(struct dns_query *q)
{
    struct sandbox_dns *d = q->dns;
    const struct sockaddr_storage *to = &d->resolvers[q->tries++ % d->resolvers_len];
    uv_buf_t b = uv_buf_init((char *)q->message, (unsigned)q->len);

    int rc = uv_udp_init(d->loop->uv, &q->up);
    if (rc != 0) {
        return rc;
    }
    loop_hold(&q->owner);
    q->up.data = &q->owner;
    q->up_open = true;
    rc = uv_udp_connect(&q->up, (const struct sockaddr *)to);
    rc = rc == 0 ? uv_udp_recv_start(&q->up, on_alloc, on_up) : rc;
    return rc == 0 ? uv_udp_try_send(&q->up, &b, 1, NULL) : rc;
}

static void on_try(struct loop_timer *t)
{
    struct dns_query *q = CONTAINER_OF(t, struct dns_query, timer);
    struct sandbox_dns *d = q->dns;

    if (q->waits_for != 0 || q->run == NULL || d->resolvers_len == 0 ||
        (uint64_t)q->tries * TRY_MS >= SANDBOX_DNS_WAIT_MS - TRY_MS) {
        if (q->waits_for == 0) {
            query_fail(q, DNS_SERVFAIL);
        } else {
            query_end(q); /* the launcher does not answer: neither do we */
        }
        return;
    }
    if (q->up_open) { /* its handle must be gone before the next one takes its place */
        up_close(q);
        loop_timer_start(&q->timer, 1, 0);
        return;
    }
    (void)query_send(q);
    loop_timer_start(&q->timer, TRY_MS, 0);
}

static void on_question(uv_udp_t *h, ssize_t n, const uv_buf_t *b, const struct sockaddr *from,
                        unsigned flags)
{
    struct dns_run *r = CONTAINER_OF(h, struct dns_run, udp);
    struct sandbox_dns *d = r->dns;
    struct dns_question question;
    uint64_t random = 0;

    if (n <= 0 || from == NULL || (flags & UV_UDP_PARTIAL) != 0 ||
        r->under_way >= SANDBOX_DNS_RUN_MAX || d->queries_len >= SANDBOX_DNS_MAX ||
        dns_query_parse(b->base, (size_t)n, &question) != 0) {
        return;
    }
    sys_random(&random, sizeof(random));
    struct dns_query *q = mem_zalloc(sizeof(*q));
    if (q == NULL) {
        return;
    }
    q->dns = d;
    q->run = r;
    q->question = question;
    q->id = (uint16_t)random;
    q->len = (size_t)n;
    memcpy(q->message, b->base, q->len);
    q->message[0] = (uint8_t)(q->id >> 8);
    q->message[1] = (uint8_t)q->id;
    memcpy(&q->from, from,
           from->sa_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
    loop_owner_init(&q->owner, d->loop, query_closed);
    loop_timer_init(&q->timer, &q->owner, on_try);
    loop_hold(&d->owner);
    list_push_back(&d->queries, &q->link);
    d->queries_len++;
    r->under_way++;
    look_for_resolvers(d);
    if (d->resolvers_len == 0) {
        query_fail(q, DNS_SERVFAIL);
        return;
    }
    (void)query_send(q);
    loop_timer_start(&q->timer, TRY_MS, 0);
}

/* ---- runs ---- */

static struct dns_run *find_run(struct sandbox_dns *d, struct ulid run, uint32_t attempt)
{
    for (struct list *at = d->runs.next; at != &d->runs; at = at->next) {
        struct dns_run *r = LIST_ITEM(at, struct dns_run, link);
        if (r->attempt == attempt && ulid_eq(r->run, run)) {
            return r;
        }
    }
    return NULL;
}

static void run_closed(struct loop_owner *o)
{
    struct dns_run *r = CONTAINER_OF(o, struct dns_run, owner);
    loop_drop(&r->dns->owner);
    mem_free(r->rules);
    mem_free(r->open);
    mem_free(r);
}

static void run_end(struct dns_run *r)
{
    struct sandbox_dns *d = r->dns;
    for (struct list *at = d->queries.next; at != &d->queries; at = at->next) {
        struct dns_query *q = LIST_ITEM(at, struct dns_query, link);
        if (q->run == r) {
            q->run = NULL; /* it ends with its answer or its time */
        }
    }
    list_remove(&r->link);
    loop_handle_close(&r->owner, (uv_handle_t *)&r->udp);
    loop_owner_close(&r->owner);
}

static int copy_rules(struct dns_run *r, const struct egress_rule *rules, size_t n)
{
    size_t names = 0;
    for (size_t i = 0; i < n; i++) {
        names += rules[i].net.kind == EGRESS_NAME ? 1 : 0;
    }
    if (names == 0) {
        return 0;
    }
    r->rules = mem_calloc(names, sizeof(*r->rules));
    r->open = mem_calloc(SANDBOX_EGRESS_MAX, sizeof(*r->open));
    if (r->rules == NULL || r->open == NULL) {
        return -ENOMEM;
    }
    for (size_t i = 0; i < n; i++) {
        if (rules[i].net.kind == EGRESS_NAME) {
            r->rules[r->rules_len++] = rules[i];
        }
    }
    return 0;
}

int sandbox_dns_serve(struct sandbox_dns *d, struct ulid run, uint32_t attempt, int fd,
                      const struct egress_rule *rules, size_t n)
{
    AUTO_FD int socket_fd = fd;
    struct dns_run *r = mem_zalloc(sizeof(*r));
    if (r == NULL || copy_rules(r, rules, n) < 0 || uv_udp_init(d->loop->uv, &r->udp) != 0) {
        if (r != NULL) {
            mem_free(r->rules);
            mem_free(r->open);
        }
        mem_free(r);
        return -ENOMEM;
    }
    r->dns = d;
    r->run = run;
    r->attempt = attempt;
    loop_owner_init(&r->owner, d->loop, run_closed);
    loop_hold(&r->owner);
    loop_hold(&d->owner);
    r->udp.data = &r->owner;
    list_push_back(&d->runs, &r->link);
    int rc = uv_udp_open(&r->udp, socket_fd);
    if (rc == 0) {
        (void)fd_take(&socket_fd);
        rc = uv_udp_recv_start(&r->udp, on_alloc, on_question);
    }
    if (rc != 0) {
        run_end(r);
    }
    return rc;
}

void sandbox_dns_end(struct sandbox_dns *d, struct ulid run, uint32_t attempt)
{
    struct dns_run *r = find_run(d, run, attempt);
    if (r != NULL) {
        run_end(r);
    }
}

void sandbox_dns_egress_set(struct sandbox_dns *d, struct ulid run, uint32_t attempt, int rc)
{
    struct dns_run *r = find_run(d, run, attempt);
    if (r == NULL) {
        return;
    }
    if (rc < 0) {
        log_debug("addresses of a run's names: %s", err_name(rc));
    }
    r->set++;
    struct list *at = d->queries.next;
    while (at != &d->queries) {
        struct dns_query *q = LIST_ITEM(at, struct dns_query, link);
        at = at->next;
        if (q->run == r && q->waits_for != 0 && q->waits_for <= r->set) {
            query_answer(q);
        }
    }
}

/* ---- the whole ---- */

static void dns_closed(struct loop_owner *o)
{
    struct sandbox_dns *d = CONTAINER_OF(o, struct sandbox_dns, owner);
    void (*on_closed)(void *arg) = d->on_closed;
    void *arg = d->arg;
    mem_free(d);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int sandbox_dns_start(struct loop *l, struct sandbox_client *client, const char *resolvers,
                      struct sandbox_dns **ret, struct err *e)
{
    struct sandbox_dns *d = mem_zalloc(sizeof(*d));
    if (d == NULL) {
        return err_set(e, -ENOMEM, "start answering runs' DNS questions");
    }
    d->loop = l;
    d->client = client;
    d->configured = resolvers;
    list_init(&d->runs);
    list_init(&d->queries);
    loop_owner_init(&d->owner, l, dns_closed);
    *ret = d;
    return 0;
}

void sandbox_dns_close(struct sandbox_dns *d, void (*on_closed)(void *arg), void *arg)
{
    d->on_closed = on_closed;
    d->arg = arg;
    while (!list_empty(&d->runs)) {
        run_end(LIST_ITEM(d->runs.next, struct dns_run, link));
    }
    while (!list_empty(&d->queries)) {
        query_end(LIST_ITEM(d->queries.next, struct dns_query, link));
    }
    loop_owner_close(&d->owner);
}
