/* agent(8) from the command table and agent.conf(5) from the table of settings, as roff. */
#include "agent/cli/cli_internal.h"
#include "common/insist.h"
#include "common/settings.h"
#include "common/version.h"

/* Text with what roff would take for its own escaped. */
static void roff(struct buf *out, const char *text)
{
    bool line_start = true;
    for (const char *p = text; *p != '\0'; p++) {
        if (line_start && (*p == '.' || *p == '\'')) {
            (void)buf_adds(out, "\\&");
        }
        if (*p == '\\') {
            (void)buf_adds(out, "\\e");
        } else if (*p == '-') {
            (void)buf_adds(out, "\\-");
        } else {
            (void)buf_addc(out, *p);
        }
        line_start = *p == '\n';
    }
}

/* Paragraphs: a newline in the text begins one. */
static void roff_paragraphs(struct buf *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\n') {
            (void)buf_adds(out, "\n.PP\n");
            continue;
        }
        char one[2] = { *p, '\0' };
        roff(out, one);
    }
    (void)buf_addc(out, '\n');
}

static void man_option(struct buf *out, const struct cli_option *o)
{
    (void)buf_adds(out, ".TP\n");
    if (o->letter != 0) {
        (void)buf_addf(out, "\\fB\\-%c\\fR, ", o->letter);
    }
    (void)buf_adds(out, "\\fB\\-\\-");
    roff(out, o->name);
    (void)buf_adds(out, "\\fR");
    if (o->value != NULL) {
        (void)buf_adds(out, " \\fI");
        roff(out, o->value);
        (void)buf_adds(out, "\\fR");
    }
    (void)buf_addc(out, '\n');
    roff(out, o->help);
    (void)buf_adds(out, o->many ? " (may be repeated)\n" : "\n");
}

static void man_command(struct buf *out, const struct cli_command *c)
{
    (void)buf_addf(out, ".SS agent %s ", c->name);
    roff(out, c->usage);
    (void)buf_addc(out, '\n');
    /* The summary is the first sentence. */
    char first[2] = { c->summary[0], '\0' };
    if (first[0] >= 'a' && first[0] <= 'z') {
        first[0] = (char)(first[0] - 'a' + 'A');
    }
    roff(out, first);
    roff(out, c->summary + 1);
    (void)buf_adds(out, ".\n.PP\n");
    roff_paragraphs(out, c->text);
    for (size_t i = 0; i < c->options_len; i++) {
        man_option(out, &c->options[i]);
    }
    for (size_t i = 0; i < c->examples_len; i++) {
        (void)buf_adds(out, ".PP\n");
        roff(out, c->examples[i].text);
        (void)buf_adds(out, ":\n.PP\n.RS 4\n.nf\n");
        roff(out, c->examples[i].line);
        (void)buf_adds(out, "\n.fi\n.RE\n");
    }
}

static void man_head(struct buf *out, const char *name, int section, const char *title)
{
    (void)buf_addf(out, ".\\\" Made by 'agent help', do not edit.\n.TH \"%s\" \"%d\" \"\" \"agent ",
                   name, section);
    roff(out, version_number);
    (void)buf_addf(out, "\" \"%s\"\n.nh\n.ad l\n", title);
}

void cli_man(struct buf *out)
{
    man_head(out, "AGENT", 8, "agent manual");
    (void)buf_adds(out, ".SH NAME\nagent \\- container jobs that find the right processor by "
                        "themselves\n.SH SYNOPSIS\n\\fBagent\\fR \\fICOMMAND\\fR "
                        "[\\fIoptions\\fR] [\\fIarguments\\fR]\n.SH DESCRIPTION\n");
    roff_paragraphs(
        out,
        "One static binary is the daemon of a node and its client. Developers package a job as an "
        "OCI or Docker image, push it to any node, and trigger runs; each run happens in a "
        "sandbox of namespaces while its CPU, memory and block I/O are measured.");
    (void)buf_adds(out, ".SH COMMANDS\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        man_command(out, &cli_commands[i]);
    }
    (void)buf_adds(out, ".SH COMMON OPTIONS\n");
    for (size_t i = 0; i < cli_common_options_len; i++) {
        man_option(out, &cli_common_options[i]);
    }
    static const struct {
        const char *name, *text;
    } variables[] = {
        { "AGENT_ADDR", "The node to talk to, host:port; --node wins." },
        { "NO_COLOR", "When set and not empty, no colours." },
        { "TMPDIR", "Where 'push' keeps what it has to keep (default /tmp)." },
    }, codes[] = {
        { "0", "Done." },
        { "1", "The request failed, or no node answered." },
        { "2", "Wrong usage." },
        { "124", "submit --wait: the run timed out." },
        { "125", "submit --wait: the agent's side failed (image, node, queue, connection)." },
        { "126, 127", "submit --wait: the program could not be executed, was not found." },
        { "128+n", "submit --wait: the run was ended by signal n (137: SIGKILL, also out of memory)." },
        { "other", "submit --wait: the run's own exit code." },
    };
    (void)buf_adds(out, ".SH ENVIRONMENT\n");
    for (size_t i = 0; i < ARRAY_LEN(variables); i++) {
        (void)buf_addf(out, ".TP\n\\fB%s\\fR\n", variables[i].name);
        roff(out, variables[i].text);
        (void)buf_addc(out, '\n');
    }
    (void)buf_adds(out, ".SH EXIT STATUS\n");
    for (size_t i = 0; i < ARRAY_LEN(codes); i++) {
        (void)buf_addf(out, ".TP\n\\fB%s\\fR\n", codes[i].name);
        roff(out, codes[i].text);
        (void)buf_addc(out, '\n');
    }
    (void)buf_adds(out, ".SH FILES\n.TP\n\\fI/etc/agent/agent.conf\\fR\nSettings, see "
                        "\\fBagent.conf\\fR(5).\n.TP\n\\fI/var/lib/agent\\fR\nThe data directory.\n"
                        ".SH SEE ALSO\n\\fBagent.conf\\fR(5)\n");
}

static const char *type_text(const struct conf_key *k)
{
    static const char *const names[] = {
        [CONF_TEXT] = "text",
        [CONF_PATH] = "an absolute path",
        [CONF_ADDR] = "host:port",
        [CONF_LIST] = "a comma-separated list",
        [CONF_BOOL] = "yes or no",
        [CONF_INT] = "a number",
        [CONF_SIZE] = "a size, such as 64KiB, 1.5GiB",
        [CONF_DURATION] = "a time, such as 250ms, 10s, 1h30m",
        [CONF_MILLI] = "a number with decimals",
        [CONF_CHOICE] = "one of",
    };
    return k->unit != NULL ? k->unit : names[k->type];
}

static void man_conf_key(struct buf *out, const struct conf_key *k)
{
    (void)buf_adds(out, ".TP\n\\fB");
    roff(out, k->key);
    (void)buf_adds(out, "\\fR = ");
    roff(out, type_text(k));
    for (size_t i = 0; k->type == CONF_CHOICE && k->choices[i] != NULL; i++) {
        (void)buf_adds(out, i == 0 ? " " : ", ");
        roff(out, k->choices[i]);
    }
    if (k->zero != NULL) {
        (void)buf_adds(out, ", or ");
        roff(out, k->zero);
    }
    (void)buf_addc(out, '\n');
    for (const char *p = k->help; *p != '\0'; p++) {
        char one[2] = { *p == '\n' ? ' ' : *p, '\0' };
        roff(out, one);
    }
    (void)buf_adds(out, "\n");
    if (k->def == NULL) {
        (void)buf_adds(out, "Must be given.");
    } else if (k->def[0] == '\0') {
        (void)buf_adds(out, "Not set by default.");
    } else {
        (void)buf_adds(out, "Default: ");
        roff(out, k->def);
        (void)buf_addc(out, '.');
    }
    (void)buf_adds(out, k->reloadable ? " SIGHUP applies a change.\n" : "\n");
}

void cli_man_conf(struct buf *out)
{
    man_head(out, "AGENT.CONF", 5, "agent manual");
    (void)buf_adds(out, ".SH NAME\nagent.conf \\- settings of agent(8)\n.SH DESCRIPTION\n");
    roff_paragraphs(
        out,
        "Lines of the form \"key = value\" in sections \"[section]\". Whole lines that begin with "
        "'#' or ';' are comments, and so is what follows \" ;\" in a line. Unknown sections and "
        "keys, and values out of range, are errors that name the line.\n"
        "Every key can be given on the command line of 'agent serve' as --section.key=value, which "
        "wins over the file. 'agent config example' prints a file with every key; 'agent config "
        "check FILE' reads one.");
    const struct conf_table *t = &settings_table;
    for (size_t s = 0; s < t->sections_len; s++) {
        (void)buf_adds(out, ".SH [");
        roff(out, t->sections[s].name);
        (void)buf_adds(out, "]\n");
        if (t->sections[s].help != NULL) {
            roff_paragraphs(out, t->sections[s].help);
        }
        for (size_t i = 0; i < t->keys_len; i++) {
            if (strcmp(t->keys[i].section, t->sections[s].name) == 0) {
                man_conf_key(out, &t->keys[i]);
            }
        }
    }
    (void)buf_adds(out, ".SH SEE ALSO\n\\fBagent\\fR(8)\n");
}
