/* Sensors: messages of an MQTT broker, and this node's own readings, against the conditions of
 * jobs.
 *
 * A topic filter is subscribed to by one node of the cluster, the first live one in rendezvous
 * order of the filter; a node's own readings are looked at by that node. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>

#include "agent/node/uv_node_internal.h"
#include "agent/node/uv_node_triggers.h"
#include "agent/triggers/uv_mqtt.h"
#include "common/insist.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/rendezvous.h"
#include "common/sys/sys.h"

enum {
    LOOK_MS = 1000, /* own readings, `for`, and whose filters are whose */
    STREAMS_MAX = 100000,
    MEMBERS_MAX = 4096,
    PASSWORD_MAX = 4096,
};

/* One sensor's readings from one place: a topic, or this node. */
struct stream {
    struct list link;
    char *key; /* "job\nsensor\nplace": the map's key, owned */
    char job[RUN_JOB_CAP];
    char sensor[TRIGGER_NAME_MAX + 1];
    struct trigger_sensor state;
    struct buf last; /* the reading that it would go off with */
};

struct node_sensors {
    struct node *node;
    struct loop_timer timer;
    struct trigger_mqtt *mqtt; /* NULL: mqtt.url is not set */
    struct map streams;
    struct list all;
    struct list subscribed; /* struct filter */
    bool closed;
    char password[PASSWORD_MAX];
    char client_id[SETTINGS_TEXT_MAX + 16];
};

struct filter {
    struct list link;
    bool wanted;
    char text[TRIGGER_TOPIC_MAX + 1];
};

static void stream_free(struct node_sensors *s, struct stream *x)
{
    (void)map_remove(&s->streams, str_of(x->key));
    list_remove(&x->link);
    buf_release(&x->last);
    mem_free(x->key);
    mem_free(x);
}

static struct stream *stream_of(struct node_sensors *s, struct str job, const char *sensor,
                                struct str place)
{
    AUTO_BUF struct buf key = BUF_INIT(1024);

    (void)buf_addf(&key, "%.*s\n%s\n%.*s", STR_ARG(job), sensor, STR_ARG(place));
    struct stream *x = map_get(&s->streams, buf_str(&key));
    if (x != NULL || buf_error(&key) != 0) {
        return x;
    }
    x = mem_zalloc(sizeof *x);
    if (x == NULL || (x->key = buf_take(&key)) == NULL) {
        node_out_of_memory("a sensor's readings");
    }
    list_init(&x->link);
    buf_init(&x->last, TRIGGER_MQTT_MESSAGE_MAX + 1);
    (void)str_copy(x->job, sizeof x->job, job);
    (void)str_copy(x->sensor, sizeof x->sensor, str_of(sensor));
    if (map_add(&s->streams, str_of(x->key), x) != 0) {
        /* Over the cap: these readings are not looked at. */
        mem_free(x->key);
        mem_free(x);
        return NULL;
    }
    list_push_back(&s->all, &x->link);
    return x;
}

/* ---- going off ---- */

static void on_submitted(void *arg, const struct node_error *error, const struct run *run,
                         bool replayed)
{
    (void)arg;
    (void)replayed;
    if (error != NULL) {
        log_warn("a sensor's run could not be started: %s", error->detail);
    } else {
        log_debug("a sensor has set off '%s'", run->job);
    }
}

static void go_off(struct node_sensors *s, const struct stream *x)
{
    struct digest d;
    struct node_submit submit = { .job = str_of(x->job),
                                  .payload = buf_str(&x->last),
                                  .trigger = RUN_TRIGGER_SENSOR };

    if (digest_of(DIGEST_SHA256, x->last.data, x->last.len, &d) != 0) {
        node_out_of_memory("a sensor's run");
    }
    memcpy(submit.request_hash, d.b, sizeof submit.request_hash);
    log_info("sensor '%s' of job '%s' has gone off", x->sensor, x->job);
    node_submit(s->node, &submit, on_submitted, s);
}

/* values: payload, value, topic, node. */
static void reading(struct node_sensors *s, struct str job, const struct trigger_sensor_def *def,
                    struct str place, struct str payload, const struct json *const *values)
{
    struct stream *x = stream_of(s, job, def->name, place);
    bool missing = false;
    bool unused = false;

    if (x == NULL) {
        return;
    }
    bool holds = trigger_when_holds(def->when, values, &missing);
    bool rearm = def->rearm != NULL && trigger_when_holds(def->rearm, values, &unused);
    if (holds) {
        buf_reset(&x->last);
        (void)buf_addstr(&x->last, payload);
    }
    if (trigger_sensor_reading(&x->state, &def->rule, loop_now_ms(s->node->loop), holds, rearm,
                               missing)) {
        go_off(s, x);
    }
}

static const struct trigger_sensor_def *def_of(const struct node_sensors *s, const struct stream *x)
{
    const struct trigger_set *set = node_triggers_find(s->node, str_of(x->job));

    for (size_t i = 0; set != NULL && i < set->sensors_len; i++) {
        if (strcmp(set->sensors[i].name, x->sensor) == 0) {
            return &set->sensors[i];
        }
    }
    return NULL;
}

/* `for` ends without a reading; sensors that are no more are forgotten. */
static void tick_streams(struct node_sensors *s)
{
    LIST_EACH_SAFE (l, &s->all) {
        struct stream *x = LIST_ITEM(l, struct stream, link);
        const struct trigger_sensor_def *def = def_of(s, x);
        if (def == NULL) {
            stream_free(s, x);
        } else if (!def->held &&
                   trigger_sensor_tick(&x->state, &def->rule, loop_now_ms(s->node->loop))) {
            go_off(s, x);
        }
    }
}

/* ---- messages ---- */

static struct json text_value(struct str s)
{
    return (struct json){ .type = JSON_STRING, .u.s = s };
}

/* One message, or one own reading, on its way through the sensors that it concerns. */
struct passing {
    struct node_sensors *s;
    struct str place;
    struct str payload;
    const struct json *const *values;
};

static void meets(void *arg, struct str job, const struct trigger_sensor_def *def)
{
    const struct passing *p = arg;

    reading(p->s, job, def, p->place, p->payload, p->values);
}

static void on_message(void *arg, struct str topic, struct str payload)
{
    struct node_sensors *s = arg;
    AUTO_JSON struct json_doc *doc = NULL;

    /* A number, a JSON document, or a text. */
    if (json_parse(payload.p, payload.n, NULL, &doc, NULL) != 0) {
        doc = NULL;
    }
    struct json as_text = text_value(payload);
    struct json as_topic = text_value(topic);
    struct json as_node = text_value(str_of(s->node->settings.node.name));
    const struct json *value = doc != NULL            ? json_root(doc)
                               : str_is_utf8(payload) ? &as_text
                                                      : NULL;
    const struct json *values[] = { value, value, &as_topic, &as_node };
    struct passing p = { .s = s, .place = topic, .payload = payload, .values = values };
    node_triggers_topic(s->node, topic, meets, &p);
}

static void on_state(void *arg, bool connected, const char *why)
{
    const struct node_sensors *s = arg;

    if (connected) {
        log_info("connected to the broker %s", s->node->settings.mqtt.url);
    } else {
        log_warn("broker %s: %s; trying again", s->node->settings.mqtt.url, why);
    }
}

/* ---- whose filter is it? ---- */

static bool ours(const struct node_sensors *s, const char *filter, const uint32_t *ids, size_t n)
{
    uint32_t first = 0;

    return rendezvous_pick(rendezvous_key(str_of(filter)), ids, n, &first, 1) == 1 &&
           first == s->node->id32;
}

static void want(struct node_sensors *s, const char *text, unsigned qos)
{
    LIST_EACH (l, &s->subscribed) {
        struct filter *f = LIST_ITEM(l, struct filter, link);
        if (strcmp(f->text, text) == 0) {
            f->wanted = true;
            return;
        }
    }
    struct filter *f = mem_zalloc(sizeof *f);
    if (f == NULL || trigger_mqtt_subscribe(s->mqtt, text, qos) != 0) {
        mem_free(f);
        return; /* looked at again in a second */
    }
    f->wanted = true;
    (void)str_copy(f->text, sizeof f->text, str_of(text));
    list_init(&f->link);
    list_push_back(&s->subscribed, &f->link);
    log_info("subscribed to '%s'", text);
}

struct live {
    struct node_sensors *s;
    size_t n;
    uint32_t ids[MEMBERS_MAX];
};

static void look_at(void *arg, const char *filter, unsigned qos)
{
    const struct live *live = arg;

    if (ours(live->s, filter, live->ids, live->n)) {
        want(live->s, filter, qos);
    }
}

static void subscriptions(struct node_sensors *s)
{
    struct live live = { .s = s };

    live.n = node_live_ids(s->node, live.ids, MEMBERS_MAX);
    LIST_EACH (l, &s->subscribed) {
        LIST_ITEM(l, struct filter, link)->wanted = false;
    }
    node_triggers_filters(s->node, look_at, &live);
    LIST_EACH_SAFE (l, &s->subscribed) {
        struct filter *f = LIST_ITEM(l, struct filter, link);
        if (!f->wanted) {
            trigger_mqtt_unsubscribe(s->mqtt, f->text);
            log_info("no longer subscribed to '%s'", f->text);
            list_remove(&f->link);
            mem_free(f);
        }
    }
}

/* ---- this node's own readings ---- */

/* "some avg10=0.12 avg60=…": the number behind `name` in the line that begins with `line`. */
static bool pressure(const char *file, const char *line, const char *name, double *ret)
{
    char text[512];
    char path[64];

    (void)snprintf(path, sizeof path, "/proc/pressure/%s", file);
    if (sys_read_text(AT_FDCWD, path, text, sizeof text) < 0) {
        return false;
    }
    const char *at = strstr(text, line);
    at = at != NULL ? strstr(at, name) : NULL;
    if (at == NULL) {
        return false;
    }
    *ret = strtod(at + strlen(name) + 1, NULL);
    return true;
}

static bool meminfo(const char *name, double *ret)
{
    char text[8192];

    if (sys_read_text(AT_FDCWD, "/proc/meminfo", text, sizeof text) < 0) {
        return false;
    }
    const char *at = strstr(text, name);
    if (at == NULL) {
        return false;
    }
    *ret = strtod(at + strlen(name), NULL) * 1024;
    return true;
}

static bool temperature(double *ret)
{
    char text[32];

    if (sys_read_text(AT_FDCWD, "/sys/class/thermal/thermal_zone0/temp", text, sizeof text) < 0) {
        return false;
    }
    *ret = strtod(text, NULL) / 1000;
    return true;
}

/* False: there is no such reading here. */
static bool own_reading(struct node *n, const char *name, double *ret)
{
    struct job_counts counts;
    struct str s = str_of(name);
    ptrdiff_t dot = str_find(s, '.');
    double load[3];

    if (str_starts(s, "load") && getloadavg(load, 3) == 3) {
        *ret = strcmp(name, "load15") == 0  ? load[2]
               : strcmp(name, "load5") == 0 ? load[1]
                                            : load[0];
        return strcmp(name, "load1") == 0 || strcmp(name, "load5") == 0 ||
               strcmp(name, "load15") == 0;
    }
    if (strcmp(name, "memory.available_bytes") == 0) {
        return meminfo("MemAvailable:", ret);
    }
    if (strcmp(name, "temperature.celsius") == 0) {
        return temperature(ret);
    }
    if (strcmp(name, "runs.queued") == 0 || strcmp(name, "runs.running") == 0) {
        job_core_counts(node_core_jobs(n->core), &counts);
        *ret = (double)(strcmp(name, "runs.queued") == 0 ? counts.queued : counts.running);
        return true;
    }
    /* memory.pressure_some_avg10: file, line, average. */
    if (dot > 0 && str_starts(str_slice(s, (size_t)dot, s.n), ".pressure_")) {
        char file[16];
        bool some = strstr(name, "_some_") != NULL;
        const char *average = strrchr(name, '_') + 1;
        return str_copy(file, sizeof file, str_slice(s, 0, (size_t)dot)) == 0 &&
               pressure(file, some ? "some" : "full", average, ret);
    }
    return false;
}

static void own_look(void *arg, const char *name)
{
    struct node_sensors *s = arg;
    AUTO_BUF struct buf text = BUF_INIT(1024);
    struct json_w w;
    double value = 0;

    if (!own_reading(s->node, name, &value)) {
        return;
    }
    struct json number = { .type = JSON_REAL, .u.d = value };
    struct json place = text_value(str_of(s->node->settings.node.name));
    const struct json *values[] = { &number, &number, NULL, &place };
    json_w_init(&w, &text, false);
    json_w_obj(&w);
    json_kv_cstr(&w, "node", s->node->settings.node.name);
    json_kv_cstr(&w, "reading", name);
    json_kv_real(&w, "value", value, 6);
    json_w_end(&w);
    struct passing p = { .s = s, .place = STR(""), .payload = buf_str(&text), .values = values };
    node_triggers_reading(s->node, name, meets, &p);
}

static void on_look(struct loop_timer *timer)
{
    struct node_sensors *s = CONTAINER_OF(timer, struct node_sensors, timer);

    if (s->closed) {
        return;
    }
    node_triggers_readings(s->node, own_look, s); /* each reading once, whoever asks */
    tick_streams(s);
    if (s->mqtt != NULL) {
        subscriptions(s);
    }
}

/* ---- start and end ---- */

static int mqtt_start(struct node_sensors *s, struct err *e)
{
    const struct settings_mqtt *m = &s->node->settings.mqtt;
    AUTO_BUF struct buf password = BUF_INIT(PASSWORD_MAX - 1);

    if (m->url[0] == '\0') {
        return 0;
    }
    if (m->password_file[0] != '\0') {
        int rc = sys_read_file(AT_FDCWD, m->password_file, PASSWORD_MAX - 1, &password, e);
        if (rc != 0) {
            return err_prefix(e, "mqtt.password_file");
        }
        (void)str_copy(s->password, sizeof s->password, str_trim(buf_str(&password)));
        mem_wipe(password.data, password.cap);
    }
    (void)snprintf(s->client_id, sizeof s->client_id, "agent-%s", s->node->settings.node.name);
    struct trigger_mqtt_options opt = { .loop = s->node->loop,
                                        .url = m->url,
                                        .client_id = s->client_id,
                                        .username = m->username,
                                        .password = s->password,
                                        .on_message = on_message,
                                        .on_state = on_state,
                                        .arg = s };
    return trigger_mqtt_start(&opt, &s->mqtt, e);
}

int node_sensors_start(struct node *n, uint64_t k0, uint64_t k1, struct err *e)
{
    struct node_sensors *s = mem_zalloc(sizeof *s);

    if (s == NULL) {
        return err_set(e, -ENOMEM, "the sensors");
    }
    s->node = n;
    map_init(&s->streams, STREAMS_MAX, k0, k1);
    list_init(&s->all);
    list_init(&s->subscribed);
    loop_timer_init(&s->timer, &n->owner, on_look);
    n->sensors = s;
    int rc = mqtt_start(s, e);
    if (rc == 0) {
        loop_timer_start(&s->timer, LOOK_MS, LOOK_MS);
    }
    return rc;
}

void node_sensors_metrics(struct node *n, struct buf *out)
{
    struct trigger_mqtt_counters c = { 0 };

    if (n->sensors == NULL || n->sensors->mqtt == NULL) {
        return;
    }
    trigger_mqtt_counters(n->sensors->mqtt, &c);
    (void)buf_addf(out,
                   "# HELP agent_mqtt_connected Is the broker reached?\n"
                   "# TYPE agent_mqtt_connected gauge\nagent_mqtt_connected %d\n"
                   "# HELP agent_mqtt_messages_total Messages of the broker. dropped: too long; "
                   "refused: the broker sends them again.\n"
                   "# TYPE agent_mqtt_messages_total counter\n"
                   "agent_mqtt_messages_total{result=\"received\"} %llu\n"
                   "agent_mqtt_messages_total{result=\"dropped\"} %llu\n"
                   "agent_mqtt_messages_total{result=\"refused\"} %llu\n",
                   c.connected, (unsigned long long)c.received, (unsigned long long)c.dropped,
                   (unsigned long long)c.refused);
}

static void mqtt_closed(void *arg)
{
    struct node *n = arg;

    loop_drop(&n->owner);
}

void node_sensors_close(struct node *n)
{
    struct node_sensors *s = n->sensors;

    s->closed = true;
    loop_timer_close(&s->timer);
    if (s->mqtt != NULL) {
        struct trigger_mqtt *mqtt = s->mqtt;
        s->mqtt = NULL;
        loop_hold(&n->owner);
        trigger_mqtt_close(mqtt, mqtt_closed, n);
    }
}

void node_sensors_free(struct node *n)
{
    struct node_sensors *s = n->sensors;

    if (s == NULL) {
        return;
    }
    LIST_EACH_SAFE (l, &s->all) {
        stream_free(s, LIST_ITEM(l, struct stream, link));
    }
    LIST_EACH_SAFE (l, &s->subscribed) {
        mem_free(LIST_ITEM(l, struct filter, link));
    }
    map_release(&s->streams);
    mem_wipe(s->password, sizeof s->password);
    n->sensors = mem_free(s);
}
