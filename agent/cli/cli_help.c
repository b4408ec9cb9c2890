/* Help from the command table. */
#include "agent/cli/cli_internal.h"

enum { WIDTH = 92, OPTION_COLUMN = 28 };

void cli_help_all(struct buf *out)
{
    (void)buf_adds(out, "agent - container jobs that find the right processor by themselves\n\n"
                        "Usage: agent COMMAND [options] [arguments]\n\nCommands:\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        (void)buf_addf(out, "  %-12s %s\n", cli_commands[i].name, cli_commands[i].summary);
    }
    (void)buf_adds(out, "\n'agent COMMAND --help' describes a command, with examples.\n"
                        "AGENT_ADDR names the node to talk to (default 127.0.0.1:7575); NO_COLOR "
                        "switches colours off.\n");
}

/* "  -f, --follow           text". */
static void add_option(struct buf *out, const struct cli_option *o)
{
    size_t start = out->len;
    if (o->letter != 0) {
        (void)buf_addf(out, "  -%c, --%s", o->letter, o->name);
    } else {
        (void)buf_addf(out, "      --%s", o->name);
    }
    if (o->value != NULL) {
        (void)buf_addf(out, " %s", o->value);
    }
    size_t used = out->len - start;
    if (used + 2 > OPTION_COLUMN) {
        (void)buf_addc(out, '\n');
        used = 0;
    }
    AUTO_BUF struct buf text = BUF_INIT(4096);
    cli_text_wrap(&text, o->help, OPTION_COLUMN, WIDTH);
    struct str wrapped = buf_str(&text);
    (void)buf_addstr(out, str_slice(wrapped, used, wrapped.n));
}

void cli_help_command(const struct cli_command *c, struct buf *out)
{
    (void)buf_addf(out, "agent %s - %s\n\nUsage: agent %s%s%s\n\n", c->name, c->summary, c->name,
                   c->usage[0] != '\0' ? " " : "", c->usage);
    cli_text_wrap(out, c->text, 0, WIDTH);
    (void)buf_adds(out, "\nOptions:\n");
    const struct cli_option *o;
    for (size_t i = 0; (o = cli_command_option(c, i)) != NULL; i++) {
        add_option(out, o);
    }
    (void)buf_addf(out, "\nExample%s:\n", c->examples_len > 1 ? "s" : "");
    for (size_t i = 0; i < c->examples_len; i++) {
        (void)buf_addf(out, "  # %s\n  %s\n", c->examples[i].text, c->examples[i].line);
    }
}
