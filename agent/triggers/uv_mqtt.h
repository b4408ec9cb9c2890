/*
 * uv_mqtt - one connection to an MQTT 3.1.1 broker, over paho's MQTTAsync: messages of the topics
 * that are subscribed to, on the loop.
 *
 * paho runs threads of its own and calls back on them: a message is copied into a bounded queue and
 * the loop is woken; nothing else is touched there. The session is kept by the broker (clean
 * session off, a fixed client id), so what is published at QoS 1 while the connection is gone comes
 * later. Reconnects by itself, for ever. A message that finds the queue full is not acknowledged:
 * the broker sends it again.
 */
#ifndef AGENT_TRIGGERS_UV_MQTT_H
#define AGENT_TRIGGERS_UV_MQTT_H

#include <stdbool.h>
#include <stdint.h>

#include "common/err.h"
#include "common/loop/loop.h"
#include "common/str.h"

enum {
    TRIGGER_MQTT_QUEUE_MAX = 10000, /* messages that the loop has not taken yet */
    TRIGGER_MQTT_QUEUE_BYTES = 16 * 1024 * 1024,
    TRIGGER_MQTT_MESSAGE_MAX = 1024 * 1024, /* bytes of a payload; longer ones are dropped */
    TRIGGER_MQTT_TOPICS_MAX = 4096,
};

struct trigger_mqtt;

struct trigger_mqtt_options {
    struct loop *loop;
    const char *url; /* mqtt://HOST[:PORT], mqtts://HOST[:PORT] */
    const char *client_id;
    const char *username; /* "": none */
    const char *password; /* copied */
    const char *ca_file;  /* ssl: whom to trust; "" or NULL: the system's */
    /* On the loop; valid during the call. */
    void (*on_message)(void *arg, struct str topic, struct str payload);
    void (*on_state)(void *arg, bool connected, const char *why);
    void *arg;
};

struct trigger_mqtt_counters {
    uint64_t received, dropped, refused; /* dropped: too long; refused: sent again later */
    bool connected;
};

/* Begins to connect. -EINVAL (the url), -ENOMEM, -EIO. */
int trigger_mqtt_start(const struct trigger_mqtt_options *opt, struct trigger_mqtt **ret,
                       struct err *e);
/* Disconnects (the broker keeps the session) and is gone; blocks for some milliseconds. on_closed
 * comes from the loop. */
void trigger_mqtt_close(struct trigger_mqtt *m, void (*on_closed)(void *arg), void *arg);
/* From now on and after every reconnect. -ENOBUFS: too many; -ENOMEM. One that is there keeps its
 * place. */
int trigger_mqtt_subscribe(struct trigger_mqtt *m, const char *filter, unsigned qos);
void trigger_mqtt_unsubscribe(struct trigger_mqtt *m, const char *filter);
void trigger_mqtt_counters(struct trigger_mqtt *m, struct trigger_mqtt_counters *ret);

#endif
