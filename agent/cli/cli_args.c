/* Command lines: GNU style, options and arguments in any order, "--" ends the options. */
#include <errno.h>

#include "agent/cli/cli_internal.h"
#include "common/insist.h"

/* Where a parse stands. */
struct walk {
    int argc;
    char **argv;
    int at;
    struct cli_args *a;
};

static const struct cli_option *find_long(const struct cli_command *c, struct str name)
{
    const struct cli_option *o;
    for (size_t i = 0; (o = cli_command_option(c, i)) != NULL; i++) {
        if (str_eqs(name, o->name)) {
            return o;
        }
    }
    return NULL;
}

static const struct cli_option *find_letter(const struct cli_command *c, char letter)
{
    const struct cli_option *o;
    for (size_t i = 0; (o = cli_command_option(c, i)) != NULL; i++) {
        if (o->letter == letter) {
            return o;
        }
    }
    return NULL;
}

static int unknown_option(const struct cli_command *c, const char *arg, struct str name,
                          struct err *e)
{
    const struct cli_option *best = NULL;
    unsigned best_distance = 3;
    const struct cli_option *o;
    for (size_t i = 0; (o = cli_command_option(c, i)) != NULL; i++) {
        unsigned d = str_distance(name, str_of(o->name));
        if (d < best_distance) {
            best = o;
            best_distance = d;
        }
    }
    if (best != NULL) {
        return err_say(e, -EINVAL, "'agent %s' has no option '%s'; did you mean '--%s'?", c->name,
                       arg, best->name);
    }
    return err_say(e, -EINVAL, "'agent %s' has no option '%s'", c->name, arg);
}

static int give(struct walk *w, const struct cli_option *o, const char *value, struct err *e)
{
    if (!o->many && o->value != NULL && cli_args_has(w->a, o->name)) {
        return err_say(e, -EINVAL, "'--%s' is given twice", o->name);
    }
    if (w->a->given_len == CLI_GIVEN_MAX) {
        return err_say(e, -EINVAL, "too many options");
    }
    w->a->given[w->a->given_len++] = (struct cli_given){ .option = o, .value = value };
    return 0;
}

/* The next word as the value of o. */
static int give_next(struct walk *w, const struct cli_option *o, struct err *e)
{
    if (w->at + 1 >= w->argc) {
        return err_say(e, -EINVAL, "'--%s' needs a value: %s", o->name, o->value);
    }
    w->at++;
    return give(w, o, w->argv[w->at], e);
}

/* "--name", "--name=value". */
static int take_long(struct walk *w, const struct cli_command *c, const char *arg, struct err *e)
{
    struct str body = str_of(arg + 2);
    ptrdiff_t eq = str_find(body, '=');
    struct str name = eq >= 0 ? str_slice(body, 0, (size_t)eq) : body;
    const struct cli_option *o = find_long(c, name);
    if (o == NULL) {
        return unknown_option(c, arg, name, e);
    }
    if (o->value == NULL) {
        if (eq >= 0) {
            return err_say(e, -EINVAL, "'--%s' takes no value", o->name);
        }
        return give(w, o, NULL, e);
    }
    return eq >= 0 ? give(w, o, body.p + eq + 1, e) : give_next(w, o, e);
}

/* "-f", "-fq", "-n5", "-n 5". */
static int take_letters(struct walk *w, const struct cli_command *c, const char *arg, struct err *e)
{
    for (const char *p = arg + 1; *p != '\0'; p++) {
        const struct cli_option *o = find_letter(c, *p);
        if (o == NULL) {
            return err_say(e, -EINVAL, "'agent %s' has no option '-%c'", c->name, *p);
        }
        if (o->value == NULL) {
            int rc = give(w, o, NULL, e);
            if (rc != 0) {
                return rc;
            }
            continue;
        }
        return p[1] != '\0' ? give(w, o, p + 1, e) : give_next(w, o, e);
    }
    return 0;
}

/* Settings on the command line ("--section.key=value") are arguments, for those who take them. */
static bool is_setting(const struct cli_command *c, const char *arg)
{
    bool takes = c == &cli_commands[CLI_SERVE] || c == &cli_commands[CLI_DOCTOR] ||
                 c == &cli_commands[CLI_CONFIG];
    if (!takes || strncmp(arg, "--", 2) != 0) {
        return false;
    }
    struct str body = str_of(arg + 2);
    ptrdiff_t eq = str_find(body, '=');
    ptrdiff_t dot = str_find(body, '.');
    return dot > 0 && (eq < 0 || dot < eq);
}

static int take_pos(struct walk *w, const char *arg, struct err *e)
{
    if (w->a->pos_len == CLI_POS_MAX) {
        return err_say(e, -EINVAL, "more than %d arguments", (int)CLI_POS_MAX);
    }
    w->a->pos[w->a->pos_len++] = arg;
    return 0;
}

static int check_count(const struct cli_args *a, struct err *e)
{
    const struct cli_command *c = a->command;
    size_t words = 0;
    for (size_t i = 0; i < a->pos_len; i++) {
        words += is_setting(c, a->pos[i]) ? 0 : 1;
    }
    if (a->rest_given && !c->rest) {
        return err_say(e, -EINVAL, "'agent %s' takes nothing behind '--'", c->name);
    }
    if (words < c->args_min) {
        return err_say(e, -EINVAL, "something is missing: agent %s %s", c->name, c->usage);
    }
    if (words > c->args_max) {
        return err_say(e, -EINVAL, "'%s' is too much: agent %s %s", a->pos[a->pos_len - 1], c->name,
                       c->usage);
    }
    return 0;
}

/* The command's name: the first word that is no option. Options before it are looked up in the
 * common ones, by `help`, which has none of its own that take part here. */
static const struct cli_command global = { .name = "", .usage = "COMMAND", .groups = ~0U };

static int find_command(struct walk *w, struct err *e)
{
    for (; w->at < w->argc; w->at++) {
        const char *arg = w->argv[w->at];
        int rc = 0;
        if (strcmp(arg, "--version") == 0 || strcmp(arg, "-V") == 0) {
            w->a->command = &cli_commands[CLI_VERSION];
            w->a->word = arg;
            w->at++;
            return 0;
        }
        if (arg[0] != '-' || arg[1] == '\0') {
            w->a->word = arg;
            w->a->command = cli_command_find(str_of(arg));
            w->at++;
            return 0;
        }
        rc = arg[1] == '-' ? take_long(w, &global, arg, e) : take_letters(w, &global, arg, e);
        if (rc != 0) {
            return err_say(e, -EINVAL, "unknown option '%s'; see 'agent help'", arg);
        }
    }
    return 0;
}

static int unknown_command(const char *word, struct err *e)
{
    const struct cli_command *guess = cli_command_guess(str_of(word));
    if (guess != NULL) {
        return err_say(e, -EINVAL, "there is no command '%s'; did you mean 'agent %s'?", word,
                       guess->name);
    }
    return err_say(e, -EINVAL, "there is no command '%s'; 'agent help' lists them", word);
}

/* Options that stood before the command must be the command's too. */
static int check_early(const struct cli_args *a, struct err *e)
{
    for (size_t i = 0; i < a->given_len; i++) {
        const char *name = a->given[i].option->name;
        if (find_long(a->command, str_of(name)) == NULL) {
            return err_say(e, -EINVAL, "'agent %s' has no option '--%s'", a->command->name, name);
        }
    }
    return 0;
}

int cli_args_parse(int argc, char **argv, struct cli_args *ret, struct err *e)
{
    memset(ret, 0, sizeof(*ret));
    struct walk w = { .argc = argc, .argv = argv, .at = 1, .a = ret };
    int rc = find_command(&w, e);
    if (rc != 0) {
        return rc;
    }
    if (ret->command == NULL) {
        return ret->word == NULL ? 0 : unknown_command(ret->word, e);
    }
    rc = check_early(ret, e);
    for (; rc == 0 && w.at < argc; w.at++) {
        const char *arg = argv[w.at];
        if (strcmp(arg, "--") == 0) {
            ret->rest_given = true;
            ret->rest = &argv[w.at + 1];
            ret->rest_len = (size_t)(argc - w.at - 1);
            break;
        }
        if (arg[0] != '-' || arg[1] == '\0' || is_setting(ret->command, arg)) {
            rc = take_pos(&w, arg, e);
        } else if (arg[1] == '-') {
            rc = take_long(&w, ret->command, arg, e);
        } else {
            rc = take_letters(&w, ret->command, arg, e);
        }
    }
    if (rc == 0 && !cli_args_has(ret, "help")) {
        rc = check_count(ret, e);
    }
    return rc;
}

bool cli_args_has(const struct cli_args *a, const char *option)
{
    for (size_t i = 0; i < a->given_len; i++) {
        if (strcmp(a->given[i].option->name, option) == 0) {
            return true;
        }
    }
    return false;
}

const char *cli_args_value(const struct cli_args *a, const char *option)
{
    for (size_t i = a->given_len; i > 0; i--) {
        if (strcmp(a->given[i - 1].option->name, option) == 0) {
            return a->given[i - 1].value;
        }
    }
    return NULL;
}

const char *cli_args_next(const struct cli_args *a, const char *option, size_t *i)
{
    while (*i < a->given_len) {
        const struct cli_given *g = &a->given[(*i)++];
        if (strcmp(g->option->name, option) == 0) {
            return g->value;
        }
    }
    return NULL;
}
