/*
 * sys_zone - finds time zones: the host's zoneinfo directory first (it is kept current by the
 * distribution), then the copy made into the program.
 */
#ifndef AGENT_TRIGGERS_SYS_ZONE_H
#define AGENT_TRIGGERS_SYS_ZONE_H

#include "agent/triggers/zone.h"

/* A zone by its IANA name. Zones are loaded once and shared: *ret lives as long as the process.
 * One thread only. -ENOENT (e lists near names), -EBADMSG, -ENOMEM, -ENOBUFS (over 1,024 zones). */
int trigger_zone_find(struct str name, const struct trigger_zone **ret, struct err *e);
/* Which data is in use: "2026a (host)", "2026a (built in)". */
const char *trigger_zone_version(void);

#endif
