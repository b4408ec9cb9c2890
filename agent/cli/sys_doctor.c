/* doctor: looks at this machine as `agent serve` would. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "agent/cli/sys_cli.h"
#include "agent/cli/sys_doctor.h"
#include "agent/hardware/hardware.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/settings.h"
#include "common/sys/sys_settings.h"

/* The data directory, or what there is of the way to it. */
static void existing_part(const char *dir, char *dst, size_t cap)
{
    struct str s = str_of(dir);
    while (str_copy(dst, cap, s) == 0 && s.n > 1 && access(dst, F_OK) != 0) {
        ptrdiff_t slash = str_rfind(s, '/');
        s = str_slice(s, 0, slash > 0 ? (size_t)slash : 1);
    }
}

static void cgroup_rows(struct cli_doctor *d, const struct hardware_facts *f)
{
    static const struct {
        enum cli_check check;
        enum hardware_controller controller;
    } rows[] = {
        { CLI_CHECK_CGROUP_MEMORY, HARDWARE_CGROUP_MEMORY },
        { CLI_CHECK_CGROUP_CPU, HARDWARE_CGROUP_CPU },
        { CLI_CHECK_CGROUP_PIDS, HARDWARE_CGROUP_PIDS },
        { CLI_CHECK_CGROUP_IO, HARDWARE_CGROUP_IO },
    };
    bool v1 = false;
    bool v2 = f->cgroup2_mount[0] != '\0';
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct hardware_cgroup *c = &f->cgroups[rows[i].controller];
        if (c->version == 0 || c->mount[0] == '\0') {
            cli_doctor_note(d, rows[i].check, CLI_WARN, "not there");
        } else {
            cli_doctor_note(d, rows[i].check, CLI_OK, "v%u, %s", (unsigned)c->version, c->mount);
        }
        v1 = v1 || (c->version == 1 && c->mount[0] != '\0');
    }
    cli_doctor_note(d, CLI_CHECK_CGROUP, v1 || v2 ? CLI_OK : CLI_WARN, "%s",
                    v1 && v2 ? "hybrid: v1 controllers, v2 beside them"
                    : v1     ? "v1"
                    : v2     ? "v2"
                             : "none mounted");
}

static void processor_rows(struct cli_doctor *d, const struct hardware_facts *f)
{
    unsigned raw = hardware_caps_count(&f->raw);
    unsigned usable = hardware_caps_count(&f->usable);
    cli_doctor_note(d, CLI_CHECK_CPU, CLI_OK, "%s, %u CPUs, %u of %u capabilities usable",
                    f->brand[0] != '\0' ? f->brand : "unknown model", f->cpus_usable, usable, raw);
    if (f->rdt.mounted) {
        cli_doctor_note(d, CLI_CHECK_RESCTRL, CLI_OK, "mounted, %u monitoring ids", f->rdt.rmids);
    } else {
        cli_doctor_note(d, CLI_CHECK_RESCTRL, CLI_WARN, "not mounted");
    }
}

static void hardware_rows(struct cli_doctor *d, const struct settings *s, const char *path)
{
    struct err e;
    struct hardware_facts *f = mem_zalloc(sizeof(*f));
    const char *resctrl = s->telemetry.resctrl_path;
    const struct hardware_options opt = {
        .resctrl_path = resctrl,
        .resctrl_any_fs = strcmp(resctrl, SETTINGS_RESCTRL_PATH) != 0,
        .data_dir = path,
    };
    if (f != NULL && hardware_probe(f, &opt, &e) == 0) {
        cgroup_rows(d, f);
        processor_rows(d, f);
    } else {
        cli_doctor_note(d, CLI_CHECK_CPU, CLI_WARN, "%s", f != NULL ? e.text : "out of memory");
    }
    mem_free(f);
}

/* Settings as they are given; the defaults when they are wrong, so that the rest can be looked at.
 */
static void load(struct cli_ctx *ctx, struct cli_doctor *d, struct settings *s)
{
    const struct cli_args *a = &ctx->args;
    const char *file = cli_args_value(a, "config");
    struct err e;
    if (sys_settings_load(file, a->pos, a->pos_len, s, &e) == 0) {
        cli_doctor_note(d, CLI_CHECK_SETTINGS, CLI_OK, "%s", file != NULL ? file : "the defaults");
        return;
    }
    cli_doctor_note(d, CLI_CHECK_SETTINGS, CLI_BAD, "%s", e.text);
    settings_defaults(s);
}

int cli_cmd_doctor(struct cli_ctx *ctx)
{
    struct cli_doctor *d = mem_zalloc(sizeof(*d));
    struct settings *s = mem_zalloc(sizeof(*s));
    char path[SETTINGS_PATH_MAX];
    int code = CLI_EXIT_FAILED;
    if (d == NULL || s == NULL) {
        code = cli_fail(CLI_EXIT_FAILED, "out of memory");
    } else {
        bool root = geteuid() == 0;
        load(ctx, d, s);
        cli_doctor_note(d, CLI_CHECK_ROOT, root ? CLI_OK : CLI_WARN, "%s", root ? "yes" : "no");
        existing_part(s->node.data_dir, path, sizeof(path));
        cli_doctor_kernel(d, path, s->sandbox.uid_base);
        cli_doctor_network(d, s);
        hardware_rows(d, s, path);
        cli_doctor_machine(d, s, path);
        cli_doctor_view(d, &ctx->view);
        code = cli_print(ctx, cli_doctor_exit(d));
    }
    mem_free(d);
    mem_free(s);
    return code;
}
