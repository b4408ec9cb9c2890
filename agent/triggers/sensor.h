/*
 * sensor - when a stream of readings sets a job off: once per crossing, not once per reading.
 *
 * A sensor is idle until its condition holds; then, after it has held for `for_ms` without a
 * break, it goes off once and is spent. It is armed again when the `rearm` condition holds (without
 * one: when the condition no longer does). `every_ms` is the least time between two firings: a
 * crossing that comes sooner is counted as limited and waits for the next one. `debounce_ms`:
 * readings within this time of the last accepted one are passed over.
 *
 *            holds                  for_ms passed          rearm
 *   IDLE ------------> PENDING ------------------> SPENT --------> IDLE
 *     ^    (for_ms 0: straight to SPENT, firing)     |
 *     +------ no longer holds ------+                +-- stays while neither
 *
 * A reading of which an operand is missing changes nothing. Pure: time is a parameter; a reading
 * may be late but time never goes back here (an earlier time counts as the last one).
 */
#ifndef AGENT_TRIGGERS_SENSOR_H
#define AGENT_TRIGGERS_SENSOR_H

#include <stdbool.h>
#include <stdint.h>

struct trigger_sensor_rule {
    uint64_t for_ms;
    uint64_t debounce_ms;
    uint64_t every_ms;
    bool has_rearm;
};

enum trigger_sensor_state {
    TRIGGER_SENSOR_IDLE,
    TRIGGER_SENSOR_PENDING,
    TRIGGER_SENSOR_SPENT,
};

/* Zeroed is a new one. */
struct trigger_sensor {
    enum trigger_sensor_state state;
    bool seen;           /* last_ms means something */
    bool fired;          /* fired_ms means something */
    uint64_t last_ms;    /* the last accepted reading */
    uint64_t pending_ms; /* since when it holds */
    uint64_t fired_ms;
    uint64_t limited;   /* firings that every_ms held back */
    uint64_t debounced; /* readings passed over */
};

/* One reading: does the condition hold, does the rearm condition? missing: an operand was not
 * there. True: it goes off now. */
bool trigger_sensor_reading(struct trigger_sensor *s, const struct trigger_sensor_rule *r,
                            uint64_t now_ms, bool holds, bool rearm, bool missing);
/* Time has passed without a reading. True: it goes off now. */
bool trigger_sensor_tick(struct trigger_sensor *s, const struct trigger_sensor_rule *r,
                         uint64_t now_ms);
/* When to call trigger_sensor_tick(); UINT64_MAX: no need. */
uint64_t trigger_sensor_deadline_ms(const struct trigger_sensor *s,
                                    const struct trigger_sensor_rule *r);
const char *trigger_sensor_state_name(enum trigger_sensor_state state); /* "idle" */

#endif
