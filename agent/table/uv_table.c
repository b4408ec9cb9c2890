#include "agent/table/uv_table.h"

#include <errno.h>

#include "agent/table/uv_table_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/sys/sys.h"

static int64_t wall_ms(void)
{
    return sys_wall_us() / 1000;
}

/* --- the disk --- */

static void begin_batch(struct table_shell *s);

static void batch_work(struct loop_work *w)
{
    struct table_shell *s = CONTAINER_OF(w, struct table_shell, work);

    s->batch_status =
        table_db_apply(s->db, s->batch, s->batch_len, s->batch_has_life ? &s->batch_life : NULL);
}

static void answer_up_to(struct table_shell *s, uint64_t seq, int status)
{
    LIST_EACH_SAFE (i, &s->waiters) {
        struct table_waiter *w = LIST_ITEM(i, struct table_waiter, link);
        if (w->seq > seq) {
            break;
        }
        w->status = status;
        list_remove(i);
        list_push_back(&s->answers, i);
    }
    if (!list_empty(&s->answers)) {
        loop_defer_post(s->loop, &s->answer);
    }
}

static void answers_run(struct loop_defer *d)
{
    struct table_shell *s = CONTAINER_OF(d, struct table_shell, answer);

    while (!list_empty(&s->answers)) {
        struct table_waiter *w = LIST_ITEM(s->answers.next, struct table_waiter, link);
        list_remove(&w->link);
        if (w->done != NULL) {
            w->done(w->arg, w->status);
        }
        mem_free(w);
    }
}

static void close_if_over(struct table_shell *s)
{
    if (!s->closing || s->work.busy || !list_empty(&s->kept)) {
        return;
    }
    loop_timer_close(&s->tick);
    loop_timer_close(&s->retry);
    loop_timer_close(&s->life);
    loop_owner_close(&s->owner);
}

static void step(struct table_shell *s, struct table_event *ev);
static void write_later(struct table_shell *s, const struct table_later *l);

static void batch_failed(struct table_shell *s)
{
    unsigned more = 0;

    s->commit_failures++;
    if (log_limit_ok(&s->fail_limit, loop_now_ms(s->loop), &more)) {
        log_error("the shared table is not kept on disk for now: %s", table_db_error(s->db));
    }
    answer_up_to(s, s->batch_seq, s->batch_status);
    if (s->closing) {
        /* What could not be written is lost with this process; the others have most of it. */
        LIST_EACH_SAFE (i, &s->kept) {
            list_remove(i);
            mem_free(LIST_ITEM(i, struct table_kept, link));
            s->records_lost++;
        }
        answer_up_to(s, UINT64_MAX, s->batch_status);
        return;
    }
    loop_timer_start(&s->retry, TABLE_RETRY_MS, 0);
}

static void batch_done(struct loop_work *w, int status)
{
    struct table_shell *s = CONTAINER_OF(w, struct table_shell, work);

    (void)status; /* never cancelled */
    if (s->batch_status != 0) {
        batch_failed(s);
        close_if_over(s);
        return;
    }
    s->commits++;
    for (size_t i = 0; i < s->batch_len; i++) {
        struct list *first = s->kept.next;
        list_remove(first);
        mem_free(LIST_ITEM(first, struct table_kept, link));
        s->kept_len--;
    }
    s->durable_seq = s->batch_seq;
    answer_up_to(s, s->durable_seq, 0);
    struct table_event ev = { .type = TABLE_EV_PERSISTED, .persist_seq = s->durable_seq };
    step(s, &ev);
    begin_batch(s);
    close_if_over(s);
}

/* What the next start needs to know: how long this node was away. Said only while it knows what the
 * cluster deleted, or when there is nobody else who could have. A node that was away long and hears
 * nobody yet must not look, after another start, as if it had been there. */
static bool life_now(struct table_shell *s)
{
    struct table_sizes sizes;

    table_sizes(s->core, &sizes);
    bool alone = s->was_alone && !s->had_peer;
    s->batch_life = (struct table_db_life){ .alive_ms = wall_ms(), .alone = alone };
    return sizes.settled || alone;
}

static void begin_batch(struct table_shell *s)
{
    if (s->db == NULL || s->work.busy || loop_timer_active(&s->retry) ||
        (list_empty(&s->kept) && !s->life_due)) {
        return;
    }
    s->batch_len = 0;
    s->batch_seq = s->durable_seq;
    LIST_EACH (i, &s->kept) {
        const struct table_kept *k = LIST_ITEM(i, struct table_kept, link);
        if (s->batch_len == TABLE_BATCH_MAX) {
            break;
        }
        s->batch[s->batch_len++] = &k->r;
        s->batch_seq = k->seq;
    }
    s->batch_has_life = s->life_due && life_now(s);
    s->life_due = false;
    if (loop_work_start(&s->work, &s->owner, batch_work, batch_done) != 0) {
        loop_timer_start(&s->retry, TABLE_RETRY_MS, 0);
    }
}

static void on_retry(struct loop_timer *t)
{
    begin_batch(CONTAINER_OF(t, struct table_shell, retry));
}

static void on_life(struct loop_timer *t)
{
    struct table_shell *s = CONTAINER_OF(t, struct table_shell, life);

    s->life_due = true;
    begin_batch(s);
}

static void keep(struct table_shell *s, const struct table_record *r, uint64_t seq)
{
    struct table_kept *k =
        mem_alloc(sizeof *k + r->writer.n + r->owner.n + r->key.n + r->value.n + 1);

    if (k == NULL) {
        /* Leaving it out would tell the next start that it has what it has not. */
        log_error("no memory to keep the shared table on disk: leaving");
        insist_failed("INSIST", "memory", __FILE__, __LINE__);
    }
    k->r = *r;
    k->seq = seq;
    struct str *slices[] = { &k->r.writer, &k->r.owner, &k->r.key, &k->r.value };
    char *p = k->bytes;
    for (size_t i = 0; i < ARRAY_LEN(slices); i++) {
        memcpy(p, slices[i]->n != 0 ? slices[i]->p : "", slices[i]->n);
        slices[i]->p = p;
        p += slices[i]->n;
    }
    list_push_back(&s->kept, &k->link);
    s->kept_len++;
}

/* --- effects --- */

static void tell_watches(struct table_shell *s, const struct table_effect *fx)
{
    const struct table_row_view *row = fx->has_row ? &fx->row : NULL;
    const struct table_row_view *old = fx->has_old ? &fx->old : NULL;
    unsigned type = fx->has_row ? fx->row.type : fx->old.type;

    for (size_t i = 0; i < s->watches_len; i++) {
        const struct table_watcher *w = &s->watches[i];
        if (w->type == 0 || w->type == type) {
            w->fn(w->arg, row, old);
        }
    }
}

/* Writes that came from inside watches, each with its own round of watches. */
static void catch_up(struct table_shell *s)
{
    if (s->catching_up) {
        return;
    }
    s->catching_up = true;
    while (!list_empty(&s->later)) {
        struct table_later *l = LIST_ITEM(s->later.next, struct table_later, link);
        list_remove(&l->link);
        write_later(s, l);
        mem_free(l);
    }
    s->catching_up = false;
}

static void carry_out(struct table_shell *s, const struct table_effects *fx)
{
    uint64_t now = loop_now_ms(s->loop);
    uint64_t seq = s->persist_seq;

    s->telling = true;
    for (size_t i = 0; i < fx->n; i++) {
        switch (fx->v[i].type) {
        case TABLE_FX_SEND:
            if (s->send != NULL) {
                s->send(s->send_arg, fx->v[i].peer, fx->v[i].bytes, fx->v[i].reliable);
            }
            break;
        case TABLE_FX_PERSIST:
            keep(s, &fx->v[i].record, ++seq);
            break;
        case TABLE_FX_CHANGED:
        default:
            tell_watches(s, &fx->v[i]);
            break;
        }
    }
    s->telling = false;
    s->persist_seq = fx->persist_seq;
    begin_batch(s);
    uint64_t at = table_deadline_ms(s->core);
    loop_timer_start(&s->tick, at > now ? at - now : 1, 0);
    catch_up(s);
}

static void step(struct table_shell *s, struct table_event *ev)
{
    struct table_effects fx;

    REQUIRE(!s->telling);
    ev->now_ms = loop_now_ms(s->loop);
    ev->wall_ms = wall_ms();
    table_step(s->core, ev, &fx);
    carry_out(s, &fx);
}

static void on_tick(struct loop_timer *t)
{
    struct table_event ev = { .type = TABLE_EV_TICK };

    step(CONTAINER_OF(t, struct table_shell, tick), &ev);
}

void table_on_member(struct table_shell *s, struct str name, enum table_member state, bool speaks)
{
    struct table_event ev = {
        .type = TABLE_EV_MEMBER, .peer = name, .member = state, .speaks = speaks
    };

    if (!s->closing) {
        s->had_peer = s->had_peer || (speaks && state == TABLE_MEMBER_UP);
        step(s, &ev);
    }
}

void table_on_message(struct table_shell *s, struct str from, struct str bytes)
{
    struct table_event ev = { .type = TABLE_EV_MESSAGE, .peer = from, .bytes = bytes };

    if (!s->closing) {
        step(s, &ev);
    }
}

/* --- writes --- */

static int keep_for_later(struct table_shell *s, const struct table_later *what, struct str key,
                          struct str value, struct err *e)
{
    struct table_later *l = mem_alloc(sizeof *l + key.n + value.n);

    if (l == NULL) {
        return err_set(e, -ENOMEM, "write into the shared table");
    }
    *l = *what;
    l->key_n = key.n;
    l->value_n = value.n;
    memcpy(l->bytes, key.n != 0 ? key.p : "", key.n);
    memcpy(l->bytes + key.n, value.n != 0 ? value.p : "", value.n);
    list_push_back(&s->later, &l->link);
    return 0;
}

int table_write_node(struct table_shell *s, unsigned type, struct str key, struct str value,
                     struct err *e)
{
    struct table_effects fx;

    if (s->closing) {
        return err_set(e, -ECANCELED, "write into the shared table");
    }
    if (s->telling) {
        const struct table_later later = { .op = TABLE_LATER_NODE, .type = type };
        return keep_for_later(s, &later, key, value, e);
    }
    int rc = table_put_node(s->core, loop_now_ms(s->loop), wall_ms(), type, key, value, &fx, e);
    carry_out(s, &fx);
    return rc;
}

/* Durable already, or when the disk has come so far. */
static void wait_for_disk(struct table_shell *s, struct table_waiter *w, uint64_t seq)
{
    w->seq = seq;
    list_push_back(&s->waiters, &w->link);
    if (s->db == NULL || seq <= s->durable_seq) {
        answer_up_to(s, seq, 0);
    }
}

typedef int write_fn(struct table *t, uint64_t now_ms, int64_t wall, unsigned type, struct str key,
                     struct str value, struct table_effects *fx, struct err *e);

static int delete_row(struct table *t, uint64_t now_ms, int64_t wall, unsigned type, struct str key,
                      struct str value, struct table_effects *fx, struct err *e)
{
    (void)value;
    return table_delete(t, now_ms, wall, type, key, fx, e);
}

static int write_shared(struct table_shell *s, write_fn *fn, unsigned type, struct str key,
                        struct str value, table_done_fn *done, void *arg, struct err *e)
{
    struct table_effects fx;

    if (s->closing) {
        return err_set(e, -ECANCELED, "write into the shared table");
    }
    if (s->telling) {
        const struct table_later later = {
            .op = fn == table_put ? TABLE_LATER_PUT : TABLE_LATER_REMOVE,
            .type = type,
            .done = done,
            .arg = arg,
        };
        return keep_for_later(s, &later, key, value, e);
    }
    struct table_waiter *w = mem_zalloc(sizeof *w);
    if (w == NULL) {
        return err_set(e, -ENOMEM, "write into the shared table");
    }
    list_init(&w->link);
    w->done = done;
    w->arg = arg;
    int rc = fn(s->core, loop_now_ms(s->loop), wall_ms(), type, key, value, &fx, e);
    carry_out(s, &fx);
    if (rc != 0) {
        mem_free(w);
        return rc;
    }
    wait_for_disk(s, w, s->persist_seq);
    return 0;
}

int table_write(struct table_shell *s, unsigned type, struct str key, struct str value,
                table_done_fn *done, void *arg, struct err *e)
{
    return write_shared(s, table_put, type, key, value, done, arg, e);
}

int table_remove(struct table_shell *s, unsigned type, struct str key, table_done_fn *done,
                 void *arg, struct err *e)
{
    return write_shared(s, delete_row, type, key, (struct str){ NULL, 0 }, done, arg, e);
}

static void write_later(struct table_shell *s, const struct table_later *l)
{
    struct str key = { l->bytes, l->key_n };
    struct str value = { l->bytes + l->key_n, l->value_n };
    struct err e = { .code = 0 };
    int rc;

    if (l->op == TABLE_LATER_NODE) {
        rc = table_write_node(s, l->type, key, value, &e);
    } else {
        rc = write_shared(s, l->op == TABLE_LATER_PUT ? table_put : delete_row, l->type, key, value,
                          l->done, l->arg, &e);
    }
    if (rc == 0) {
        return;
    }
    if (l->done == NULL) {
        log_warn("the shared table: %s", err_text(&e));
        return;
    }
    struct table_waiter *w = mem_zalloc(sizeof *w);
    if (w != NULL) {
        list_init(&w->link);
        w->done = l->done;
        w->arg = l->arg;
        w->status = rc;
        list_push_back(&s->answers, &w->link);
        loop_defer_post(s->loop, &s->answer);
    }
}

void table_forget(struct table_shell *s, void *arg)
{
    struct list *lists[] = { &s->waiters, &s->answers };

    for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
        LIST_EACH (k, lists[i]) {
            struct table_waiter *w = LIST_ITEM(k, struct table_waiter, link);
            w->done = w->arg == arg ? NULL : w->done;
        }
    }
    LIST_EACH (k, &s->later) {
        struct table_later *l = LIST_ITEM(k, struct table_later, link);
        l->done = l->arg == arg ? NULL : l->done;
    }
}

/* --- watching --- */

int table_watch(struct table_shell *s, unsigned type, table_watch_fn *fn, void *arg)
{
    REQUIRE(!s->telling);
    if (s->watches_len == TABLE_WATCHES_MAX) {
        return -ENOBUFS;
    }
    s->watches[s->watches_len++] = (struct table_watcher){ type, fn, arg };
    return 0;
}

void table_unwatch(struct table_shell *s, table_watch_fn *fn, void *arg)
{
    size_t n = 0;

    REQUIRE(!s->telling);
    for (size_t i = 0; i < s->watches_len; i++) {
        if (s->watches[i].fn != fn || s->watches[i].arg != arg) {
            s->watches[n++] = s->watches[i];
        }
    }
    s->watches_len = n;
}

const struct table *table_core(const struct table_shell *s)
{
    return s->core;
}

void table_set_send(struct table_shell *s, table_send_fn *send, void *arg)
{
    s->send = send;
    s->send_arg = arg;
}

/* --- opening and closing --- */

struct loading {
    struct table_shell *s;
    uint64_t bad;
};

static int load_one(void *arg, const struct table_record *record)
{
    struct loading *l = arg;
    int rc = table_load(l->s->core, wall_ms(), record);

    if (rc == -EBADMSG) {
        l->bad++; /* left out: it comes again from the others */
        rc = 0;
    }
    return rc;
}

static int make_core(struct table_shell *s, const struct table_options *opt,
                     const struct table_db_life *life, struct err *e)
{
    int64_t away = wall_ms() - life->alive_ms;
    struct table_config cfg = { .name = opt->name,
                                .node_id = opt->node_id,
                                .epoch = (uint64_t)sys_wall_us(),
                                .entropy = sys_random_u64(),
                                .seed = opt->seed != 0 ? opt->seed : sys_random_u64(),
                                .hash_k0 = sys_random_u64(),
                                .hash_k1 = sys_random_u64(),
                                .persist = s->db != NULL,
                                .tombstone_ms = opt->tombstone_ms,
                                .bytes_per_s = opt->bytes_per_s };

    s->was_alone = life->alive_ms == 0 || life->alone;
    if (s->db != NULL && life->alive_ms == 0) {
        cfg.absent_ms = UINT64_MAX;
    } else if (s->db != NULL && !life->alone && away > 0) {
        cfg.absent_ms = (uint64_t)away;
    }
    return table_new(&cfg, &s->core, e);
}

static int load_all(struct table_shell *s, const struct table_options *opt, struct err *e)
{
    struct table_db_life life = { .alive_ms = 0 };
    struct loading l = { .s = s };
    bool kept = opt->dir != NULL && opt->dir[0] != '\0';
    int rc = kept ? table_db_open(opt->dir, &s->db, e) : 0;

    if (rc == 0 && s->db != NULL) {
        rc = table_db_life(s->db, &life);
        rc = rc != 0 ? err_say(e, rc, "%s", table_db_error(s->db)) : 0;
    }
    rc = rc != 0 ? rc : make_core(s, opt, &life, e);
    if (rc == 0 && s->db != NULL) {
        rc = table_db_load(s->db, load_one, &l);
        rc = rc != 0 ? err_say(e, rc, "%s", table_db_error(s->db)) : 0;
    }
    if (l.bad != 0) {
        log_warn("table.db: %llu records made no sense and were left out",
                 (unsigned long long)l.bad);
    }
    return rc;
}

static void shell_closed(struct loop_owner *o)
{
    struct table_shell *s = CONTAINER_OF(o, struct table_shell, owner);
    void (*on_closed)(void *) = s->on_closed;
    void *arg = s->closed_arg;

    answer_up_to(s, UINT64_MAX, s->db != NULL ? -ECANCELED : 0);
    loop_defer_cancel(&s->answer);
    answers_run(&s->answer);
    s->db = table_db_close(s->db);
    table_free(s->core);
    mem_free(s);
    if (on_closed != NULL) {
        on_closed(arg);
    }
}

int table_start(const struct table_options *opt, struct table_shell **ret, struct err *e)
{
    struct table_shell *s = mem_zalloc(sizeof *s);

    if (s == NULL) {
        return err_set(e, -ENOMEM, "make the shared table");
    }
    s->loop = opt->loop;
    s->send = opt->send;
    s->send_arg = opt->send_arg;
    s->fail_limit = (struct log_limit){ .period_ms = 60 * 1000, .burst = 1 };
    list_init(&s->kept);
    list_init(&s->waiters);
    list_init(&s->answers);
    list_init(&s->later);
    loop_defer_init(&s->answer, answers_run);
    int rc = load_all(s, opt, e);
    if (rc != 0) {
        table_db_close(s->db);
        table_free(s->core);
        mem_free(s);
        return rc;
    }
    loop_owner_init(&s->owner, s->loop, shell_closed);
    loop_timer_init(&s->tick, &s->owner, on_tick);
    loop_timer_init(&s->retry, &s->owner, on_retry);
    loop_timer_init(&s->life, &s->owner, on_life);
    loop_timer_start(&s->tick, 1, 0);
    loop_timer_start(&s->life, 1000, TABLE_LIFE_MS);
    *ret = s;
    return 0;
}

void table_close(struct table_shell *s, void (*on_closed)(void *arg), void *arg)
{
    struct table_effects fx;

    REQUIRE(!s->closing && !s->telling);
    (void)table_flush(s->core, loop_now_ms(s->loop), wall_ms(), &fx);
    carry_out(s, &fx);
    s->on_closed = on_closed;
    s->closed_arg = arg;
    s->closing = true;
    loop_timer_stop(&s->tick);
    loop_timer_stop(&s->life);
    loop_timer_stop(&s->retry);
    s->life_due = true;
    begin_batch(s);
    close_if_over(s);
}
