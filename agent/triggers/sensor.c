#include "agent/triggers/sensor.h"

#include <stddef.h>

#include "common/insist.h"

static bool go_off(struct trigger_sensor *s, const struct trigger_sensor_rule *r, uint64_t now_ms)
{
    s->state = TRIGGER_SENSOR_SPENT;
    if (s->fired && now_ms - s->fired_ms < r->every_ms) {
        s->limited++;
        return false;
    }
    s->fired = true;
    s->fired_ms = now_ms;
    return true;
}

bool trigger_sensor_tick(struct trigger_sensor *s, const struct trigger_sensor_rule *r,
                         uint64_t now_ms)
{
    return s->state == TRIGGER_SENSOR_PENDING && now_ms >= s->pending_ms &&
           now_ms - s->pending_ms >= r->for_ms && go_off(s, r, now_ms);
}

bool trigger_sensor_reading(struct trigger_sensor *s, const struct trigger_sensor_rule *r,
                            uint64_t now_ms, bool holds, bool rearm, bool missing)
{
    if (s->seen && now_ms < s->last_ms) {
        now_ms = s->last_ms;
    }
    if (missing) {
        return false;
    }
    if (s->seen && now_ms - s->last_ms < r->debounce_ms) {
        s->debounced++;
        return false;
    }
    s->seen = true;
    s->last_ms = now_ms;
    switch (s->state) {
    case TRIGGER_SENSOR_IDLE:
        if (!holds) {
            return false;
        }
        s->state = TRIGGER_SENSOR_PENDING;
        s->pending_ms = now_ms;
        return trigger_sensor_tick(s, r, now_ms);
    case TRIGGER_SENSOR_PENDING:
        if (!holds) {
            s->state = TRIGGER_SENSOR_IDLE;
            return false;
        }
        return trigger_sensor_tick(s, r, now_ms);
    case TRIGGER_SENSOR_SPENT:
        if (r->has_rearm ? rearm : !holds) {
            s->state = TRIGGER_SENSOR_IDLE;
        }
        return false;
    }
    INSIST(false); /* the states above are all there are */
    return false;
}

uint64_t trigger_sensor_deadline_ms(const struct trigger_sensor *s,
                                    const struct trigger_sensor_rule *r)
{
    return s->state == TRIGGER_SENSOR_PENDING ? s->pending_ms + r->for_ms : UINT64_MAX;
}

const char *trigger_sensor_state_name(enum trigger_sensor_state state)
{
    static const char *const names[] = {
        [TRIGGER_SENSOR_IDLE] = "idle",
        [TRIGGER_SENSOR_PENDING] = "pending",
        [TRIGGER_SENSOR_SPENT] = "spent",
    };

    REQUIRE((unsigned)state < ARRAY_LEN(names));
    return names[state];
}
