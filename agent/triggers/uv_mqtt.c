#include "agent/triggers/uv_mqtt.h"

#include <MQTTAsync.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "common/banned.h"
#include "common/insist.h"
#include "common/list.h"
#include "common/log.h"
#include "common/mem.h"

enum {
    URL_CAP = 1024,
    KEEP_ALIVE_S = 30,
    RECONNECT_MIN_S = 1,
    RECONNECT_MAX_S = 30,
    DISCONNECT_MS = 200
};

struct message {
    struct list link;
    size_t topic_n, payload_n;
    char bytes[]; /* topic, then payload */
};

struct topic {
    struct list link;
    unsigned qos;
    char filter[];
};

struct trigger_mqtt {
    struct loop_owner owner;
    struct trigger_mqtt_options opt;
    uv_async_t wake;
    MQTTAsync client;
    MQTTAsync_SSLOptions ssl;
    char *ca_file;
    struct list topics; /* of the loop */
    size_t topics_len;
    bool said, said_connected;
    void (*on_closed)(void *arg);
    void *closed_arg;

    pthread_mutex_t lock; /* the rest is shared with paho's threads */
    struct list queue;
    size_t queue_len, queue_bytes;
    bool connected, fresh; /* fresh: subscribe to everything */
    struct trigger_mqtt_counters counters;
};

/* ---- on paho's threads ---- */

static int arrived(void *arg, char *topic, int topic_len, MQTTAsync_message *msg)
{
    struct trigger_mqtt *m = arg;
    size_t topic_n = topic_len > 0 ? (size_t)topic_len : strlen(topic);
    size_t payload_n = msg->payloadlen > 0 ? (size_t)msg->payloadlen : 0;
    bool take = payload_n <= TRIGGER_MQTT_MESSAGE_MAX;
    struct message *copy = NULL;

    (void)pthread_mutex_lock(&m->lock);
    bool full = m->queue_len >= TRIGGER_MQTT_QUEUE_MAX ||
                m->queue_bytes + payload_n > TRIGGER_MQTT_QUEUE_BYTES;
    (void)pthread_mutex_unlock(&m->lock);
    if (take && !full) {
        copy = mem_alloc(sizeof *copy + topic_n + payload_n);
    }
    (void)pthread_mutex_lock(&m->lock);
    if (copy != NULL) {
        copy->topic_n = topic_n;
        copy->payload_n = payload_n;
        memcpy(copy->bytes, topic, topic_n);
        if (payload_n != 0) {
            memcpy(copy->bytes + topic_n, msg->payload, payload_n);
        }
        list_push_back(&m->queue, &copy->link);
        m->queue_len++;
        m->queue_bytes += payload_n;
        m->counters.received++;
    } else if (take) {
        m->counters.refused++;
    } else {
        m->counters.dropped++;
    }
    (void)pthread_mutex_unlock(&m->lock);
    if (copy == NULL && take) {
        return 0; /* it comes again */
    }
    (void)uv_async_send(&m->wake);
    MQTTAsync_freeMessage(&msg);
    MQTTAsync_free(topic);
    return 1;
}

static void state(struct trigger_mqtt *m, bool connected)
{
    (void)pthread_mutex_lock(&m->lock);
    m->connected = connected;
    m->fresh = m->fresh || connected;
    (void)pthread_mutex_unlock(&m->lock);
    (void)uv_async_send(&m->wake);
}

static void connected(void *arg, char *cause)
{
    (void)cause;
    state(arg, true);
}

static void lost(void *arg, char *cause)
{
    (void)cause;
    state(arg, false);
}

/* ---- on the loop ---- */

static void subscribe(struct trigger_mqtt *m, const struct topic *t)
{
    MQTTAsync_responseOptions opt = MQTTAsync_responseOptions_initializer;

    /* While there is no connection it is done by the next one. */
    (void)MQTTAsync_subscribe(m->client, t->filter, (int)t->qos, &opt);
}

static void woken(uv_async_t *h)
{
    struct trigger_mqtt *m = CONTAINER_OF(h, struct trigger_mqtt, wake);
    struct list taken;

    list_init(&taken);
    (void)pthread_mutex_lock(&m->lock);
    while (!list_empty(&m->queue)) {
        struct list *l = m->queue.next;
        list_remove(l);
        list_push_back(&taken, l);
    }
    m->queue_len = 0;
    m->queue_bytes = 0;
    bool is_connected = m->connected;
    bool fresh = m->fresh;
    m->fresh = false;
    (void)pthread_mutex_unlock(&m->lock);
    if (fresh && !m->owner.closing) {
        LIST_EACH (l, &m->topics) {
            subscribe(m, LIST_ITEM(l, struct topic, link));
        }
    }
    if (!m->owner.closing && (!m->said || m->said_connected != is_connected)) {
        m->said = true;
        m->said_connected = is_connected;
        m->opt.on_state(m->opt.arg, is_connected, is_connected ? "" : "the connection was lost");
    }
    LIST_EACH_SAFE (l, &taken) {
        struct message *x = LIST_ITEM(l, struct message, link);
        if (!m->owner.closing) {
            m->opt.on_message(m->opt.arg, (struct str){ x->bytes, x->topic_n },
                              (struct str){ x->bytes + x->topic_n, x->payload_n });
        }
        mem_free(x);
    }
}

static void closed(struct loop_owner *o)
{
    struct trigger_mqtt *m = CONTAINER_OF(o, struct trigger_mqtt, owner);
    void (*fn)(void *arg) = m->on_closed;
    void *arg = m->closed_arg;

    LIST_EACH_SAFE (l, &m->queue) {
        mem_free(LIST_ITEM(l, struct message, link));
    }
    LIST_EACH_SAFE (l, &m->topics) {
        mem_free(LIST_ITEM(l, struct topic, link));
    }
    (void)pthread_mutex_destroy(&m->lock);
    mem_free(m->ca_file);
    mem_free(m);
    fn(arg);
}

static int begin(struct trigger_mqtt *m, struct err *e)
{
    MQTTAsync_connectOptions c = MQTTAsync_connectOptions_initializer;

    c.keepAliveInterval = KEEP_ALIVE_S;
    c.cleansession = 0;
    c.automaticReconnect = 1;
    c.minRetryInterval = RECONNECT_MIN_S;
    c.maxRetryInterval = RECONNECT_MAX_S;
    c.MQTTVersion = MQTTVERSION_3_1_1;
    if (m->opt.username != NULL && m->opt.username[0] != '\0') {
        c.username = m->opt.username;
        c.password = m->opt.password;
    }
    if (strncmp(m->opt.url, "mqtts://", 8) == 0) {
        m->ssl = (MQTTAsync_SSLOptions)MQTTAsync_SSLOptions_initializer;
        m->ssl.trustStore = m->ca_file;
        m->ssl.verify = 1;
        c.ssl = &m->ssl;
    }
    int rc = MQTTAsync_setCallbacks(m->client, m, lost, arrived, NULL);
    rc = rc == MQTTASYNC_SUCCESS ? MQTTAsync_setConnected(m->client, m, connected) : rc;
    rc = rc == MQTTASYNC_SUCCESS ? MQTTAsync_connect(m->client, &c) : rc;
    return rc == MQTTASYNC_SUCCESS ? 0 : err_say(e, -EIO, "mqtt: %s: paho says %d", m->opt.url, rc);
}

/* paho's word for the schemes, and the port when there is none. */
static int broker_url(const char *url, char dst[URL_CAP], struct err *e)
{
    bool tls = strncmp(url, "mqtts://", 8) == 0;
    const char *at = tls ? url + 8 : strncmp(url, "mqtt://", 7) == 0 ? url + 7 : NULL;

    if (at == NULL || at[0] == '\0') {
        return err_say(e, -EINVAL, "mqtt.url '%s' is not mqtt://HOST:PORT or mqtts://HOST:PORT",
                       url);
    }
    const char *bracket = strrchr(at, ']');
    bool port = strchr(bracket != NULL ? bracket : at, ':') != NULL;
    int n = snprintf(dst, URL_CAP, "%s%s%s", tls ? "ssl://" : "tcp://", at,
                     port  ? ""
                     : tls ? ":8883"
                           : ":1883");
    return n < URL_CAP ? 0 : err_say(e, -EINVAL, "mqtt.url is longer than %d bytes", URL_CAP);
}

int trigger_mqtt_start(const struct trigger_mqtt_options *opt, struct trigger_mqtt **ret,
                       struct err *e)
{
    char url[URL_CAP];
    struct trigger_mqtt *m;
    int rc = broker_url(opt->url, url, e);

    if (rc != 0) {
        return rc;
    }
    m = mem_zalloc(sizeof *m);
    if (m == NULL) {
        return err_set(e, -ENOMEM, "mqtt");
    }
    m->opt = *opt;
    list_init(&m->queue);
    list_init(&m->topics);
    (void)pthread_mutex_init(&m->lock, NULL);
    if (opt->ca_file != NULL && opt->ca_file[0] != '\0') {
        m->ca_file = mem_strdup(opt->ca_file);
    }
    MQTTAsync_createOptions how = MQTTAsync_createOptions_initializer;
    how.sendWhileDisconnected = 1;
    rc = MQTTAsync_createWithOptions(&m->client, url, opt->client_id, MQTTCLIENT_PERSISTENCE_NONE,
                                     NULL, &how);
    if (rc != MQTTASYNC_SUCCESS) {
        (void)pthread_mutex_destroy(&m->lock);
        mem_free(m->ca_file);
        mem_free(m);
        return err_say(e, -EIO, "mqtt: %s: paho says %d", opt->url, rc);
    }
    loop_owner_init(&m->owner, opt->loop, closed);
    INSIST(uv_async_init(opt->loop->uv, &m->wake, woken) == 0);
    loop_hold(&m->owner);
    rc = begin(m, e);
    if (rc != 0) {
        return rc; /* the process does not go on without it */
    }
    *ret = m;
    return 0;
}

void trigger_mqtt_close(struct trigger_mqtt *m, void (*on_closed)(void *arg), void *arg)
{
    MQTTAsync_disconnectOptions d = MQTTAsync_disconnectOptions_initializer;

    m->on_closed = on_closed;
    m->closed_arg = arg;
    d.timeout = DISCONNECT_MS;
    (void)MQTTAsync_disconnect(m->client, &d);
    /* No callback runs after this. */
    MQTTAsync_destroy(&m->client);
    loop_owner_close(&m->owner);
    loop_handle_close(&m->owner, (uv_handle_t *)&m->wake);
}

static struct topic *topic_find(struct trigger_mqtt *m, const char *filter)
{
    LIST_EACH (l, &m->topics) {
        struct topic *t = LIST_ITEM(l, struct topic, link);
        if (strcmp(t->filter, filter) == 0) {
            return t;
        }
    }
    return NULL;
}

int trigger_mqtt_subscribe(struct trigger_mqtt *m, const char *filter, unsigned qos)
{
    size_t n = strlen(filter) + 1;
    struct topic *t = topic_find(m, filter);

    if (t != NULL && t->qos >= qos) {
        return 0;
    }
    if (t == NULL) {
        if (m->topics_len == TRIGGER_MQTT_TOPICS_MAX) {
            return -ENOBUFS;
        }
        t = mem_zalloc(sizeof *t + n);
        if (t == NULL) {
            return -ENOMEM;
        }
        memcpy(t->filter, filter, n);
        list_init(&t->link);
        list_push_back(&m->topics, &t->link);
        m->topics_len++;
    }
    t->qos = qos;
    subscribe(m, t);
    return 0;
}

void trigger_mqtt_unsubscribe(struct trigger_mqtt *m, const char *filter)
{
    MQTTAsync_responseOptions opt = MQTTAsync_responseOptions_initializer;
    struct topic *t = topic_find(m, filter);

    if (t != NULL) {
        (void)MQTTAsync_unsubscribe(m->client, filter, &opt);
        list_remove(&t->link);
        m->topics_len--;
        mem_free(t);
    }
}

void trigger_mqtt_counters(struct trigger_mqtt *m, struct trigger_mqtt_counters *ret)
{
    (void)pthread_mutex_lock(&m->lock);
    *ret = m->counters;
    ret->connected = m->connected;
    (void)pthread_mutex_unlock(&m->lock);
}
