#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "agent/node/node_internal.h"
#include "common/insist.h"
#include "common/mem.h"
#include "common/rng.h"

/* ---- the core: room is held from PLACED to the end ---- */

struct fixture {
    struct node_core *core;
    struct node_effects fx;
    uint64_t now_ms;
    unsigned next;
};

static void step(struct fixture *f, struct node_event ev)
{
    ev.job.now_ms = f->now_ms;
    ev.job.now_us = (int64_t)f->now_ms * 1000 + 1700000000000000;
    node_core_step(f->core, &ev, &f->fx);
}

static void job_step_of(struct fixture *f, struct job_event ev)
{
    step(f, (struct node_event){ .type = NODE_EV_JOB, .job = ev });
}

static const struct job_effect *effect(const struct fixture *f, enum job_effect_type type)
{
    for (size_t i = 0; i < f->fx.jobs.n; i++) {
        if (f->fx.jobs.v[i].type == type) {
            return &f->fx.jobs.v[i];
        }
    }
    return NULL;
}

static const struct route_fact facts[] = { { { "cpu-cpuid.AESNI", 15 }, { "true", 4 } } };

static int setup(void **state)
{
    struct fixture *f = mem_zalloc(sizeof(*f));
    const struct node_core_config cfg = {
        .jobs = { .max_queued = 1000, .seed = 1, .k0 = 2, .k1 = 3 },
        .name = "n1",
    };

    assert_non_null(f);
    f->now_ms = 5000;
    assert_int_equal(node_core_new(&cfg, &f->core), 0);
    step(f, (struct node_event){ .type = NODE_EV_ROOM,
                                 .room = { .slots = 2, .memory_bytes = 1000, .cpu_milli = 2000 },
                                 .facts = facts,
                                 .facts_len = ARRAY_LEN(facts) });
    job_step_of(f, (struct job_event){ .type = JOB_EV_RECOVERED });
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    node_core_free(f->core);
    mem_free(f);
    return 0;
}

/* Accepts a run and returns when the queue asks for its place (or has let it wait). */
static struct ulid submit(struct fixture *f, uint64_t memory)
{
    struct run run;
    struct ulid id = { .b = { 1, 2, 3, 4, 5, 6 } };

    id.b[15] = (uint8_t)++f->next;
    run_init(&run, id, 1700000000000000);
    run.limits.memory_bytes = memory;
    run_set_text(run.job, sizeof(run.job), STR("j"));
    job_step_of(f, (struct job_event){ .type = JOB_EV_SUBMIT, .id = id, .run = &run, .token = 1 });
    const struct job_effect *store = effect(f, JOB_FX_STORE);
    assert_non_null(store);
    assert_true(store->accept);
    uint64_t seq = store->seq;
    job_step_of(f, (struct job_event){ .type = JOB_EV_STORED, .id = id, .seq = seq });
    return id;
}

static void place(struct fixture *f, struct ulid id, uint64_t memory, const char *require)
{
    struct str r = str_of(require);

    step(f, (struct node_event){
                .type = NODE_EV_PLACE,
                .job = { .id = id, .attempt = 1 },
                .request = { .memory_bytes = memory,
                             .require = &r,
                             .require_len = require != NULL ? 1 : 0 },
            });
}

static void end(struct fixture *f, struct ulid id, enum job_event_type type)
{
    const struct job_result result = { .reason = RUN_REASON_EXIT, .exit_code = 0 };

    job_step_of(f, (struct job_event){ .type = type, .id = id, .attempt = 1, .result = &result });
}

static void room_is_held_until_the_end(void **state)
{
    struct fixture *f = *state;
    struct ulid id = submit(f, 400);

    assert_non_null(effect(f, JOB_FX_PLACE));
    place(f, id, 400, NULL);
    assert_true(f->fx.decided);
    assert_int_equal(f->fx.decision.chosen, 0);
    assert_non_null(effect(f, JOB_FX_PREPARE));
    assert_int_equal(node_core_slots_used(f->core), 1);
    assert_int_equal(node_core_memory_used(f->core), 400);
    job_step_of(f, (struct job_event){ .type = JOB_EV_PREPARED, .id = id, .attempt = 1 });
    assert_non_null(effect(f, JOB_FX_LAUNCH));
    job_step_of(f, (struct job_event){ .type = JOB_EV_STARTED, .id = id, .attempt = 1 });
    assert_int_equal(node_core_slots_used(f->core), 1);
    end(f, id, JOB_EV_ENDED);
    assert_int_equal(node_core_slots_used(f->core), 0);
    assert_int_equal(node_core_memory_used(f->core), 0);
    assert_true(f->fx.capacity);
    /* A second word about the same end changes nothing. */
    end(f, id, JOB_EV_ENDED);
    assert_int_equal(node_core_slots_used(f->core), 0);
}

/* Room is held for what a job is known to need, not for what it asked for. */
static void learned_need_is_what_is_reserved(void **state)
{
    struct fixture *f = *state;
    const struct run asked = { .limits = { .memory_bytes = 900, .memory_reserve_bytes = 300 } };
    const struct run grown = { .limits = { .memory_bytes = 200, .memory_reserve_bytes = 300 } };
    const struct job job = { .name = "" };
    struct str texts[NODE_TEXTS_MAX];
    struct route_request req;

    assert_int_equal(node_reserve_of(&grown.limits), 200);
    node_request_of(&asked, &job, texts, &req);
    assert_int_equal(req.memory_bytes, 300);
    assert_int_equal(req.memory_limit_bytes, 900);
    struct ulid ids[2];
    for (size_t i = 0; i < 2; i++) { /* 1,000 bytes in all: two of 900 would never fit */
        ids[i] = submit(f, 900);
        step(f, (struct node_event){
                    .type = NODE_EV_PLACE, .job = { .id = ids[i], .attempt = 1 }, .request = req });
        assert_int_equal(f->fx.decision.chosen, 0);
    }
    assert_int_equal(node_core_memory_used(f->core), 600);
    for (size_t i = 0; i < 2; i++) {
        job_step_of(f, (struct job_event){ .type = JOB_EV_PREPARED, .id = ids[i], .attempt = 1 });
        end(f, ids[i], JOB_EV_ENDED);
    }
    assert_int_equal(node_core_memory_used(f->core), 0);
    /* The limit itself has to be there. */
    req.memory_limit_bytes = 1001;
    struct route_verdict v;
    assert_false(node_core_possible(f->core, &req, &v));
    assert_int_equal(v.kind, ROUTE_TOO_MUCH_MEMORY);
}

static void every_way_to_end_gives_room_back(void **state)
{
    static const enum job_event_type ends[] = { JOB_EV_PREPARE_FAILED, JOB_EV_NO_ROOM,
                                                JOB_EV_ENDED };
    struct fixture *f = *state;

    for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
        struct ulid id = submit(f, 100);
        assert_non_null(effect(f, JOB_FX_PLACE));
        place(f, id, 100, NULL);
        assert_int_equal(node_core_slots_used(f->core), 1);
        end(f, id, ends[i]);
        assert_int_equal(node_core_slots_used(f->core), 0);
        assert_int_equal(node_core_memory_used(f->core), 0);
        assert_true(f->fx.capacity);
        job_step_of(f, (struct job_event){ .type = JOB_EV_CAPACITY });
        if (ends[i] == JOB_EV_NO_ROOM) {
            job_step_of(f, (struct job_event){ .type = JOB_EV_CANCEL, .id = id, .token = 9 });
        }
    }
}

static void full_memory_waits_though_slots_are_free(void **state)
{
    struct fixture *f = *state;
    struct ulid first = submit(f, 700);

    place(f, first, 700, NULL);
    struct ulid second = submit(f, 700);
    place(f, second, 700, NULL);
    assert_int_equal(f->fx.decision.chosen, -1);
    assert_true(f->fx.decision.possible);
    assert_null(effect(f, JOB_FX_PREPARE));
    assert_int_equal(node_core_slots_used(f->core), 1);
}

static void what_can_never_fit_is_refused_with_a_reason(void **state)
{
    struct fixture *f = *state;
    struct ulid id = submit(f, 100);

    place(f, id, 100, "cpu-cpuid.SHA");
    const struct job_effect *store = effect(f, JOB_FX_STORE);
    assert_non_null(store);
    assert_int_equal(store->run->state, RUN_FAILED);
    assert_int_equal(store->run->reason, RUN_REASON_NO_MATCH);
    assert_non_null(strstr(store->run->detail, "cpu-cpuid.SHA"));

    struct ulid big = submit(f, 5000);
    place(f, big, 5000, NULL);
    assert_int_equal(effect(f, JOB_FX_STORE)->run->reason, RUN_REASON_NO_MATCH);
    assert_int_equal(node_core_slots_used(f->core), 0);

    struct route_verdict v;
    const struct route_request req = { .memory_bytes = 5000 };
    assert_false(node_core_possible(f->core, &req, &v));
    assert_int_equal(v.kind, ROUTE_TOO_MUCH_MEMORY);
}

static void a_run_that_was_alive_before_us_counts(void **state)
{
    struct fixture *f = *state;
    struct ulid id = { .b = { 9 } };

    job_step_of(f, (struct job_event){ .type = JOB_EV_STARTED, .id = id, .attempt = 3 });
    assert_int_equal(node_core_slots_used(f->core), 1);
    job_step_of(f, (struct job_event){ .type = JOB_EV_STARTED, .id = id, .attempt = 3 });
    assert_int_equal(node_core_slots_used(f->core), 1);
}

static void cancelled_while_placing_holds_nothing(void **state)
{
    struct fixture *f = *state;
    struct ulid id = submit(f, 100);

    assert_non_null(effect(f, JOB_FX_PLACE));
    job_step_of(f, (struct job_event){ .type = JOB_EV_CANCEL, .id = id, .token = 5 });
    place(f, id, 100, NULL);
    assert_null(effect(f, JOB_FX_PREPARE));
    assert_int_equal(node_core_slots_used(f->core), 0);
}

/* ---- from document to spec ---- */

static struct image_config config_of(const char *text)
{
    struct image_config c;
    struct err e;

    assert_int_equal(image_config_parse(str_of(text), &c, &e), 0);
    return c;
}

static const char config_text[] =
    "{\"architecture\":\"amd64\",\"os\":\"linux\",\"config\":{\"Entrypoint\":[\"/entry\"],"
    "\"Cmd\":[\"a\",\"b\"],\"Env\":[\"PATH=/bin\",\"X=image\",\"TASK_ID=forged\"],"
    "\"User\":\"job\",\"WorkingDir\":\"/work\",\"StopSignal\":\"SIGUSR1\"},"
    "\"rootfs\":{\"type\":\"layers\",\"diff_ids\":[\"sha256:"
    "0000000000000000000000000000000000000000000000000000000000000001\"]}}";

static const char *env_of(const struct sandbox_spec *s, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < s->env_len; i++) {
        if (strncmp(s->env[i], name, n) == 0 && s->env[i][n] == '=') {
            return s->env[i] + n + 1;
        }
    }
    return NULL;
}

struct spec_case {
    struct settings settings;
    struct job *job;
    struct run run;
    struct image_config config;
    struct node_spec spec;
};

static void spec_begin(struct spec_case *c, const char *document)
{
    struct job_problems problems;
    struct err e = { .code = 0 };
    struct ulid id = { .b = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16 } };

    settings_defaults(&c->settings);
    int rc = job_parse(str_of(document), JOB_ONE_OFF, STR(""), NULL, &c->settings, &c->job,
                       &problems, &e);
    if (rc != 0) {
        fail_msg("%s", err_text(&e));
    }
    job_make_run(c->job, id, 1700000000000000, &c->run);
    run_set_text(c->run.node, sizeof(c->run.node), STR("n1"));
    c->config = config_of(config_text);
}

static void spec_end(struct spec_case *c)
{
    node_spec_release(&c->spec);
    image_config_release(&c->config);
    job_free(c->job);
}

static int spec_make(struct spec_case *c, const struct hardware_caps *mask, struct err *e)
{
    const struct node_spec_input in = {
        .run = &c->run,
        .job = c->job,
        .config = &c->config,
        .layers = c->config.diff_ids,
        .layers_len = c->config.diff_ids_len,
        .settings = &c->settings,
        .mask = mask,
        .now_us = 1700000000000000,
    };

    return node_spec_make(&in, &c->spec, e);
}

static void spec_joins_image_and_job(void **state)
{
    static struct spec_case c;
    struct hardware_caps none = { { 0 } };
    struct err e = { .code = 0 };

    (void)state;
    spec_begin(&c,
               "{\"image\":\"team/x:1\",\"command\":[\"c\"],\"env\":{\"X\":\"job\",\"Y\":\"1\"},"
               "\"memory\":\"64MiB\",\"cpus\":1.5,\"timeout\":\"60s\"}");
    c.run.payload_bytes = 7;
    if (spec_make(&c, &none, &e) != 0) {
        fail_msg("%s", err_text(&e));
    }
    const struct sandbox_spec *s = &c.spec.spec;
    assert_int_equal(s->argv_len, 2);
    assert_string_equal(s->argv[0], "/entry");
    assert_string_equal(s->argv[1], "c");
    assert_string_equal(env_of(s, "X"), "job");
    assert_string_equal(env_of(s, "Y"), "1");
    assert_string_equal(env_of(s, "PATH"), "/bin");
    /* An image cannot speak for us. */
    assert_string_not_equal(env_of(s, "TASK_ID"), "forged");
    assert_string_equal(env_of(s, "TASK_ID"), env_of(s, "AGENT_RUN_ID"));
    assert_string_equal(env_of(s, "AGENT_CPUS"), "1.500");
    assert_string_equal(env_of(s, "AGENT_MEMORY_BYTES"), "67108864");
    assert_string_equal(env_of(s, "AGENT_DEADLINE"), "2023-11-14T22:14:20.000000Z");
    assert_string_equal(env_of(s, "PAYLOAD_FILE"), "/run/agent/payload");
    assert_null(env_of(s, "OPENSSL_ia32cap"));
    assert_string_equal(s->user, "job");
    assert_string_equal(s->workdir, "/work");
    assert_int_equal(s->stop_signal, SIGUSR1);
    assert_true(s->payload);
    assert_int_equal(s->limits.memory_bytes, 64 << 20);
    assert_int_equal(s->limits.timeout_ms, 60000);
    spec_end(&c);
}

static void spec_carries_the_mask_into_the_sandbox(void **state)
{
    static struct spec_case c;
    struct hardware_caps mask;
    struct err e = { .code = 0 };

    (void)state;
    spec_begin(&c, "{\"image\":\"team/x:1\"}");
    assert_int_equal(hardware_mask_parse(STR("-AESNI"), &mask, &e), 0);
    assert_int_equal(spec_make(&c, &mask, &e), 0);
#if defined(__x86_64__)
    assert_non_null(env_of(&c.spec.spec, "OPENSSL_ia32cap"));
#endif
    spec_end(&c);
}

static void requirements_of_a_document_are_checked(void **state)
{
    static struct spec_case c;
    struct job_problems problems = { .n = 0 };
    struct err e = { .code = 0 };

    (void)state;
    spec_begin(&c, "{\"image\":\"team/x:1\",\"require\":[\"zone=a\",\"cpus>=many\",\"zone=\"]}");
    memset(&c.spec, 0, sizeof(c.spec));
    assert_int_equal(node_document_check(c.job, &problems, &e), -EINVAL);
    assert_int_equal(problems.n, 2);
    assert_string_equal(problems.items[0].field, "require[1]");
    assert_string_equal(problems.items[1].field, "require[2]");
    assert_non_null(strstr(err_text(&e), "require[1]"));
    spec_end(&c);
}

static void spec_without_layers_is_refused(void **state)
{
    static struct spec_case c;
    struct hardware_caps none = { { 0 } };
    struct err e = { .code = 0 };

    (void)state;
    spec_begin(&c, "{\"image\":\"team/x:1\"}");
    size_t n = c.config.diff_ids_len;
    c.config.diff_ids_len = 0;
    assert_int_equal(spec_make(&c, &none, &e), -EINVAL);
    assert_non_null(strstr(err_text(&e), "no layers"));
    c.config.diff_ids_len = n;
    memset(&c.spec, 0, sizeof(c.spec));
    spec_end(&c);
}

/* Any allocation may fail: no leak (the sanitizer looks), -ENOMEM, nothing half-made. */
static void spec_survives_every_failed_allocation(void **state)
{
    static struct spec_case c;
    struct hardware_caps none = { { 0 } };
    struct err e = { .code = 0 };
    int rc = -ENOMEM;
    long tried = 0;

    (void)state;
    spec_begin(&c, "{\"image\":\"team/x:1\",\"command\":[\"c\"],\"env\":{\"X\":\"job\"}}");
    for (long n = 0; rc != 0; n++) {
        memset(&c.spec, 0, sizeof(c.spec));
        mem_fail_after(n, 0);
        rc = spec_make(&c, &none, &e);
        mem_fail_after(-1, 0);
        if (rc != 0) {
            assert_int_equal(rc, -ENOMEM);
            tried++;
        }
        assert_true(n < 1000);
    }
    assert_true(tried > 3);
    spec_end(&c);
}

static void results_read_as_the_end_of_an_attempt(void **state)
{
    static const struct {
        enum sandbox_reason from;
        int code;
        enum run_reason to;
        int want_code;
    } rows[] = {
        { SANDBOX_EXIT, 3, RUN_REASON_EXIT, 3 },
        { SANDBOX_SIGNAL, 139, RUN_REASON_SIGNAL, 139 },
        { SANDBOX_OOM, 137, RUN_REASON_OOM, 137 },
        { SANDBOX_TIMEOUT, 124, RUN_REASON_TIMEOUT, 124 },
        { SANDBOX_STOPPED, 143, RUN_REASON_CANCELLED, 143 },
        { SANDBOX_OUTPUT, 137, RUN_REASON_OUTPUT, 137 },
        { SANDBOX_SETUP, 127, RUN_REASON_IMAGE, 127 },
        { SANDBOX_SETUP, 125, RUN_REASON_SANDBOX, 125 },
        { SANDBOX_LOST, 0, RUN_REASON_NODE_LOST, -1 },
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct sandbox_result r = { .reason = rows[i].from, .exit_code = rows[i].code };
        const struct telemetry_totals none = { .has = 0 };
        struct job_result out;
        node_result_of(&r, &none, &out);
        assert_int_equal(out.reason, rows[i].to);
        assert_int_equal(out.exit_code, rows[i].want_code);
    }
}

static void codes_have_names_and_statuses(void **state)
{
    (void)state;
    for (int c = NODE_OK; c <= NODE_INTERNAL; c++) {
        assert_non_null(node_code_name((enum node_code)c));
        int status = node_code_status((enum node_code)c);
        assert_true(status >= 200 && status < 600);
    }
    assert_int_equal(node_code_status(NODE_DISK_FULL), 507);
    assert_string_equal(node_code_name(NODE_KEY_REUSED), "idempotency_key_reused");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(room_is_held_until_the_end, setup, teardown),
        cmocka_unit_test_setup_teardown(learned_need_is_what_is_reserved, setup, teardown),
        cmocka_unit_test_setup_teardown(every_way_to_end_gives_room_back, setup, teardown),
        cmocka_unit_test_setup_teardown(full_memory_waits_though_slots_are_free, setup, teardown),
        cmocka_unit_test_setup_teardown(what_can_never_fit_is_refused_with_a_reason, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_run_that_was_alive_before_us_counts, setup, teardown),
        cmocka_unit_test_setup_teardown(cancelled_while_placing_holds_nothing, setup, teardown),
        cmocka_unit_test(spec_joins_image_and_job),
        cmocka_unit_test(spec_carries_the_mask_into_the_sandbox),
        cmocka_unit_test(requirements_of_a_document_are_checked),
        cmocka_unit_test(spec_without_layers_is_refused),
        cmocka_unit_test(spec_survives_every_failed_allocation),
        cmocka_unit_test(results_read_as_the_end_of_an_attempt),
        cmocka_unit_test(codes_have_names_and_statuses),
    };

    return cmocka_run_group_tests_name("node", tests, NULL, NULL);
}
