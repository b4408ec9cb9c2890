/*
 * cloudevent - events as CloudEvents 1.0 has them over HTTP: structured (application/cloudevents
 * +json), batch (application/cloudevents-batch+json) and binary (ce-* headers, the body is the
 * data). Pure.
 */
#ifndef AGENT_TRIGGERS_CLOUDEVENT_H
#define AGENT_TRIGGERS_CLOUDEVENT_H

#include <stdbool.h>
#include <stddef.h>

#include "agent/triggers/hook.h"
#include "agent/triggers/triggers.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"

enum {
    TRIGGER_EVENT_ATTRIBUTES_MAX = 32,
    TRIGGER_EVENT_BATCH_MAX = 100,
    TRIGGER_EVENT_NAME_MAX = 20,    /* bytes of an attribute's name, as the specification asks */
    TRIGGER_EVENT_VALUE_MAX = 1024, /* bytes of an attribute's value */
};

enum trigger_event_mode { TRIGGER_EVENT_BINARY, TRIGGER_EVENT_STRUCTURED, TRIGGER_EVENT_BATCH };

struct trigger_attribute {
    char name[TRIGGER_EVENT_NAME_MAX + 1];
    char value[TRIGGER_EVENT_VALUE_MAX + 1];
};

/* One event. Zero it, parse into it, release it. */
struct trigger_cloudevent {
    struct trigger_attribute *attributes; /* "id", "source", "type", "specversion", … */
    size_t attributes_len;
    struct buf data; /* what the run gets as its payload */
    bool data_is_json;
};

enum trigger_event_mode trigger_event_mode_of(struct str content_type);
/* binary: headers and body as they came. -EINVAL: e says which attribute; -ENOMEM. */
int trigger_event_from_headers(const struct trigger_hook_header *headers, size_t n, struct str body,
                               struct trigger_cloudevent *ret, struct err *e);
/* structured: one object (also of a batch). */
int trigger_event_from_json(const struct json *v, struct trigger_cloudevent *ret, struct err *e);
void trigger_event_release(struct trigger_cloudevent *ev);

/* "" when it has no such attribute. */
const char *trigger_event_get(const struct trigger_cloudevent *ev, const char *name);
/* Do the filters of a job's trigger let it through? Its `when` apart. */
bool trigger_event_matches(const struct trigger_event *t, const struct trigger_cloudevent *ev);
/* An event of ours, structured. Texts may be NULL or empty where the specification lets an
 * attribute be absent. */
struct trigger_event_head {
    const char *id;
    const char *source;
    const char *type;
    const char *subject;
    const char *job; /* an extension attribute of ours */
    int64_t time_us;
};
/* Begins the object, up to the key "data": the caller writes its value, then json_w_end(). */
void trigger_event_open(struct json_w *w, const struct trigger_event_head *h);
/* The attributes as a JSON object: what `event` is in conditions. */
void trigger_event_to_json(const struct trigger_cloudevent *ev, struct json_w *w);

#endif
