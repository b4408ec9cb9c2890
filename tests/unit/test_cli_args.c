/* Command lines, and what is made of the command table. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "agent/cli/cli_internal.h"
#include "common/insist.h"

/* Parses a line of words that single blanks divide. */
static struct cli_args args;
static struct err error;
static char line[4096];
static char *argv[256];

static int parse(const char *text)
{
    int argc = 0;
    assert_true(strlen(text) < sizeof(line));
    memcpy(line, text, strlen(text) + 1);
    argv[argc++] = line;
    for (char *p = line; *p != '\0'; p++) {
        if (*p == ' ') {
            *p = '\0';
            argv[argc++] = p + 1;
        }
    }
    memset(&error, 0, sizeof(error));
    return cli_args_parse(argc, argv, &args, &error);
}

static void test_forms(void **state)
{
    (void)state;
    assert_int_equal(parse("agent runs -n5 --job=a --state failed,lost -qo json"), 0);
    assert_ptr_equal(args.command, &cli_commands[CLI_RUNS]);
    assert_string_equal(cli_args_value(&args, "limit"), "5");
    assert_string_equal(cli_args_value(&args, "job"), "a");
    assert_string_equal(cli_args_value(&args, "state"), "failed,lost");
    assert_string_equal(cli_args_value(&args, "output"), "json");
    assert_true(cli_args_has(&args, "quiet"));
    assert_false(cli_args_has(&args, "no-headers"));
    assert_null(cli_args_value(&args, "node"));

    assert_int_equal(parse("agent logs x -f"), 0);
    assert_string_equal(args.pos[0], "x");
    assert_int_equal(args.pos_len, 1);
    assert_int_equal(parse("agent runs --job="), 0);
    assert_string_equal(cli_args_value(&args, "job"), "");
    assert_int_equal(parse("agent submit - --wait"), 0);
    assert_string_equal(args.pos[0], "-");
}

static void test_before_the_command(void **state)
{
    (void)state;
    assert_int_equal(parse("agent --node h:1 status"), 0);
    assert_string_equal(cli_args_value(&args, "node"), "h:1");
    assert_int_equal(parse("agent --node h:1 doctor"), -EINVAL);
    assert_int_equal(parse("agent --frob status"), -EINVAL);
    assert_int_equal(parse("agent"), 0);
    assert_null(args.command);
    assert_int_equal(parse("agent --help"), 0);
    assert_null(args.command);
    assert_true(cli_args_has(&args, "help"));
    assert_int_equal(parse("agent -V"), 0);
    assert_ptr_equal(args.command, &cli_commands[CLI_VERSION]);
}

static void test_rest(void **state)
{
    (void)state;
    assert_int_equal(parse("agent submit a:1 -e A=1 -e B=2 -- -x --wait y"), 0);
    assert_int_equal(args.rest_len, 3);
    assert_string_equal(args.rest[0], "-x");
    assert_string_equal(args.rest[2], "y");
    assert_false(cli_args_has(&args, "wait"));
    size_t i = 0;
    assert_string_equal(cli_args_next(&args, "env", &i), "A=1");
    assert_string_equal(cli_args_next(&args, "env", &i), "B=2");
    assert_null(cli_args_next(&args, "env", &i));
    assert_int_equal(parse("agent submit a:1 --"), 0);
    assert_true(args.rest_given);
    assert_int_equal(args.rest_len, 0);
}

static void test_settings_as_arguments(void **state)
{
    (void)state;
    assert_int_equal(parse("agent serve --config f --node.slots=2 --http.listen=:1"), 0);
    assert_int_equal(args.pos_len, 2);
    assert_string_equal(args.pos[1], "--http.listen=:1");
    assert_int_equal(parse("agent serve extra"), -EINVAL);
    assert_int_equal(parse("agent status --node.slots=2"), -EINVAL);
}

static void test_errors_suggest(void **state)
{
    static const struct {
        const char *line, *said;
    } cases[] = {
        { "agent runs --lmit 1", "did you mean '--limit'" },
        { "agent runs --job a --job b", "given twice" },
        { "agent runs --job", "needs a value" },
        { "agent logs -fz x", "no option '-z'" },
        { "agent logs", "something is missing" },
        { "agent logs a b", "'b' is too much" },
        { "agent frobnicate", "'agent help' lists them" },
        { "agent stat", "did you mean 'agent status'" },
        { "agent tasks", "did you mean 'agent runs'" },
    };
    (void)state;
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(parse(cases[i].line), -EINVAL);
        assert_non_null(strstr(error.text, cases[i].said));
    }
}

static void test_too_many_options(void **state)
{
    enum { MANY = CLI_GIVEN_MAX + 1 };
    static char *words[MANY + 3];
    static char agent[] = "agent";
    static char submit[] = "submit";
    static char option[] = "-eA=1";
    (void)state;
    words[0] = agent;
    words[1] = submit;
    for (size_t i = 0; i < MANY; i++) {
        words[i + 2] = option;
    }
    assert_int_equal(cli_args_parse(MANY + 2, words, &args, &error), -EINVAL);
    assert_int_equal(args.given_len, CLI_GIVEN_MAX);
}

/* What each row must have, so that help, completion and manual can be made of it. */
static void test_table_is_complete(void **state)
{
    (void)state;
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        const struct cli_command *c = &cli_commands[i];
        assert_non_null(c->name);
        assert_non_null(c->usage);
        assert_non_null(c->text);
        assert_true(strlen(c->summary) < 64);
        assert_int_not_equal(c->summary[strlen(c->summary) - 1], '.');
        assert_true(c->examples_len > 0);
        assert_ptr_equal(cli_command_find(str_of(c->name)), c);
        const struct cli_option *o;
        for (size_t j = 0; (o = cli_command_option(c, j)) != NULL; j++) {
            assert_non_null(o->help);
            const struct cli_option *other;
            for (size_t k = j + 1; (other = cli_command_option(c, k)) != NULL; k++) {
                /* doctor and version have their own -o: no two of one name or letter. */
                assert_string_not_equal(o->name, other->name);
                assert_true(o->letter == 0 || o->letter != other->letter);
            }
        }
        AUTO_BUF struct buf help = BUF_INIT(64 * 1024);
        cli_help_command(c, &help);
        assert_int_equal(buf_error(&help), 0);
        assert_non_null(strstr(buf_cstr(&help), c->summary));
    }
}

static void test_same_text_everywhere(void **state)
{
    (void)state;
    AUTO_BUF struct buf man = BUF_INIT(1024 * 1024);
    AUTO_BUF struct buf bash = BUF_INIT(1024 * 1024);
    AUTO_BUF struct buf zsh = BUF_INIT(1024 * 1024);
    AUTO_BUF struct buf fish = BUF_INIT(1024 * 1024);
    cli_man(&man);
    assert_int_equal(cli_completion(STR("bash"), &bash), 0);
    assert_int_equal(cli_completion(STR("zsh"), &zsh), 0);
    assert_int_equal(cli_completion(STR("fish"), &fish), 0);
    assert_int_equal(cli_completion(STR("sh"), &fish), -EINVAL);
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        assert_non_null(strstr(buf_cstr(&man), cli_commands[i].name));
        assert_non_null(strstr(buf_cstr(&bash), cli_commands[i].name));
        assert_non_null(strstr(buf_cstr(&zsh), cli_commands[i].name));
        assert_non_null(strstr(buf_cstr(&fish), cli_commands[i].name));
        for (size_t j = 0; j < cli_commands[i].options_len; j++) {
            assert_non_null(strstr(buf_cstr(&bash), cli_commands[i].options[j].name));
            assert_non_null(strstr(buf_cstr(&fish), cli_commands[i].options[j].name));
        }
    }
    AUTO_BUF struct buf conf = BUF_INIT(1024 * 1024);
    cli_man_conf(&conf);
    assert_int_equal(buf_error(&conf), 0);
    assert_non_null(strstr(buf_cstr(&conf), "data_dir"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_before_the_command),
        cmocka_unit_test(test_rest),
        cmocka_unit_test(test_settings_as_arguments),
        cmocka_unit_test(test_errors_suggest),
        cmocka_unit_test(test_too_many_options),
        cmocka_unit_test(test_table_is_complete),
        cmocka_unit_test(test_same_text_everywhere),
    };
    return cmocka_run_group_tests_name("cli_args", tests, NULL, NULL);
}
