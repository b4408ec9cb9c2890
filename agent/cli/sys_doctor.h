/*
 * sys_doctor - what this machine can and cannot do. Pieces of `agent doctor`: rows are filled by
 * probes, cli_doctor.c knows what each means.
 */
#ifndef AGENT_CLI_SYS_DOCTOR_H
#define AGENT_CLI_SYS_DOCTOR_H

#include "agent/cli/cli_doctor.h"
#include "common/settings.h"

/* Kernel features, tried in short-lived children (sys_doctor_kernel.c). path is on the data
 * directory's file system. */
void cli_doctor_kernel(struct cli_doctor *d, const char *path, uint64_t uid_base);
/* What network nat needs (sys_doctor_network.c). */
void cli_doctor_network(struct cli_doctor *d, const struct settings *s);
/* Clock, disk, memory, limits, user, port, data directory (sys_doctor_machine.c). */
/* The certificate (sys_doctor_tls.c). */
void cli_doctor_tls(struct cli_doctor *d, const struct settings *s);
void cli_doctor_machine(struct cli_doctor *d, const struct settings *s, const char *path);

#endif
