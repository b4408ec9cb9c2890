/* What people and Prometheus see of it. */
#include <stdlib.h>

#include "agent/gossip/uv_gossip_internal.h"
#include "common/mem.h"

static int by_name(const void *a, const void *b)
{
    const struct gossip_view *x = a;
    const struct gossip_view *y = b;
    return str_cmp(x->name, y->name);
}

static void vsn_json(struct json_w *w, const uint8_t vsn[6])
{
    json_w_key(w, "vsn");
    json_w_arr(w);
    for (unsigned i = 0; i < 6; i++) {
        json_w_u64(w, vsn[i]);
    }
    json_w_end(w);
}

static void hash_json(struct json_w *w, const char *key, uint64_t v)
{
    char text[17];
    uint8_t b[8];

    if (v != 0) {
        for (unsigned i = 0; i < 8; i++) {
            b[i] = (uint8_t)(v >> (56 - 8 * i));
        }
        str_hex(text, b, sizeof(b));
        json_kv_cstr(w, key, text);
    }
}

static void meta_json(struct json_w *w, const struct gossip_view *v)
{
    char hex[2 * GOSSIP_META_MAX + 1];
    struct gossip_meta m;

    json_w_key(w, "meta");
    json_w_obj(w);
    if (gossip_meta_read(v->meta, &m)) {
        json_kv_u64(w, "http_port", m.http_port);
        json_kv_bool(w, "tls", (m.features & GOSSIP_FEATURE_TLS) != 0);
        json_kv_bool(w, "draining", (m.features & GOSSIP_FEATURE_DRAINING) != 0);
        hash_json(w, "class", m.class_hash);
        hash_json(w, "capabilities", m.caps_hash);
        hash_json(w, "boot", m.boot);
    } else if (v->meta.n != 0 && v->meta.n <= GOSSIP_META_MAX) {
        if (str_is_utf8(v->meta)) {
            json_kv_str(w, "text", v->meta);
        } else {
            str_hex(hex, v->meta.p, v->meta.n);
            json_kv_cstr(w, "hex", hex);
        }
    }
    json_w_end(w);
}

static void member_json(const struct gossip_shell *s, struct json_w *w, const struct gossip_view *v)
{
    char addr[GOSSIP_ADDR_TEXT_CAP];
    uint64_t now = loop_now_ms(s->loop);

    json_w_obj(w);
    json_kv_str(w, "name", v->name);
    json_kv_cstr(w, "address", gossip_addr_format(&v->addr, addr));
    json_kv_cstr(w, "state", gossip_state_name(v->state));
    json_kv_u64(w, "incarnation", v->incarnation);
    json_kv_bool(w, "self", v->self);
    json_kv_bool(w, "agent", v->ours);
    if (v->rtt_us != 0) {
        json_kv_u64(w, "rtt_us", v->rtt_us);
    }
    json_kv_u64(w, "state_ms", now > v->changed_ms ? now - v->changed_ms : 0);
    vsn_json(w, v->vsn);
    meta_json(w, v);
    json_w_end(w);
}

void gossip_shell_json(const struct gossip_shell *s, struct json_w *w)
{
    uint32_t n = 0;
    uint32_t at = 0;
    struct gossip_view v;

    for (unsigned st = GOSSIP_ALIVE; st <= GOSSIP_LEFT; st++) {
        n += gossip_count(s->core, (enum gossip_state)st);
    }
    struct gossip_view *all = mem_calloc(n + 1, sizeof(*all));
    uint32_t len = 0;
    while (all != NULL && len < n && gossip_next(s->core, &at, &v)) {
        all[len++] = v;
    }
    json_w_arr(w);
    if (len > 0) {
        qsort(all, len, sizeof(*all), by_name);
    }
    for (uint32_t i = 0; i < len; i++) {
        member_json(s, w, &all[i]);
    }
    json_w_end(w);
    mem_free(all);
}

static void metric(struct buf *out, const char *name, const char *type, const char *help,
                   uint64_t v)
{
    (void)buf_addf(out,
                   "# HELP agent_gossip_%s %s\n# TYPE agent_gossip_%s %s\nagent_gossip_%s %llu\n",
                   name, help, name, type, name, (unsigned long long)v);
}

void gossip_shell_metrics(const struct gossip_shell *s, struct buf *out)
{
    (void)buf_adds(out, "# HELP agent_gossip_members Members by state.\n"
                        "# TYPE agent_gossip_members gauge\n");
    for (unsigned st = GOSSIP_ALIVE; st <= GOSSIP_LEFT; st++) {
        (void)buf_addf(out, "agent_gossip_members{state=\"%s\"} %u\n",
                       gossip_state_name((enum gossip_state)st),
                       gossip_count(s->core, (enum gossip_state)st));
    }
    metric(out, "health", "gauge", "How much this node's own probes fail: 0 is good.",
           gossip_health(s->core));
    metric(out, "queued", "gauge", "Broadcasts that wait.", gossip_queued(s->core));
    for (unsigned c = 0; c < GOSSIP_COUNTERS; c++) {
        metric(out, gossip_counter_name((enum gossip_counter)c), "counter",
               gossip_counter_help((enum gossip_counter)c),
               gossip_counter(s->core, (enum gossip_counter)c));
    }
    (void)buf_adds(out, "# HELP agent_gossip_dropped_total Bytes not taken, by what was wrong.\n"
                        "# TYPE agent_gossip_dropped_total counter\n");
    for (unsigned p = GOSSIP_PEEL_LABEL; p < GOSSIP_PEELS; p++) {
        (void)buf_addf(out, "agent_gossip_dropped_total{reason=\"%s\"} %llu\n",
                       gossip_peel_name((enum gossip_peel)p), (unsigned long long)s->peel_drops[p]);
    }
    metric(out, "send_dropped_total", "counter", "Datagrams that the kernel did not take.",
           s->send_drops);
    metric(out, "streams_dropped_total", "counter", "Streams refused or cut off.", s->stream_drops);
    metric(out, "callbacks_dropped_total", "counter", "News that found no memory.", s->told_drops);
}
