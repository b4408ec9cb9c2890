/* Completion scripts for bash, zsh and fish, from the command table. */
#include <errno.h>

#include "agent/cli/cli_internal.h"

/* 'text' for a shell: a quote inside ends, escapes and reopens. */
static void quoted(struct buf *out, const char *text)
{
    (void)buf_addc(out, '\'');
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '\'') {
            (void)buf_adds(out, "'\\''");
        } else {
            (void)buf_addc(out, *p);
        }
    }
    (void)buf_addc(out, '\'');
}

static void command_names(struct buf *out)
{
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        (void)buf_addf(out, "%s%s", i == 0 ? "" : " ", cli_commands[i].name);
    }
}

static void option_names(struct buf *out, const struct cli_command *c)
{
    const struct cli_option *o;
    for (size_t i = 0; (o = cli_command_option(c, i)) != NULL; i++) {
        (void)buf_addf(out, "%s--%s", i == 0 ? "" : " ", o->name);
        if (o->letter != 0) {
            (void)buf_addf(out, " -%c", o->letter);
        }
    }
}

/* What the words of a command are, as a shell word list or a call. */
static void word_source(struct buf *out, const struct cli_command *c)
{
    if (c == &cli_commands[CLI_HELP]) {
        command_names(out);
        return;
    }
    (void)buf_adds(out, c->list != NULL ? c->list : "");
    if (c->words == CLI_WORD_JOB) {
        (void)buf_adds(out, " $(agent jobs -q 2>/dev/null)");
    } else if (c->words == CLI_WORD_RUN) {
        (void)buf_adds(out, " $(agent runs -q -n 50 2>/dev/null)");
    }
}

static void bash(struct buf *out)
{
    (void)buf_adds(out, "# bash completion for agent, made by 'agent completion bash'\n"
                        "_agent() {\n"
                        "    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                        "    local cmd= i opts= words= files=\n"
                        "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                        "        case ${COMP_WORDS[i]} in\n"
                        "        --node|-o|--output) i=$((i + 1)) ;;\n"
                        "        -*) ;;\n"
                        "        *) cmd=${COMP_WORDS[i]}; break ;;\n"
                        "        esac\n"
                        "    done\n"
                        "    COMPREPLY=()\n"
                        "    case $prev in\n"
                        "    -o|--output) COMPREPLY=($(compgen -W 'table json name' -- \"$cur\"));"
                        " return ;;\n"
                        "    -c|--config|-f|--file|-p|--payload)"
                        " COMPREPLY=($(compgen -f -- \"$cur\")); return ;;\n"
                        "    esac\n"
                        "    case $cmd in\n"
                        "    '') words='");
    command_names(out);
    (void)buf_adds(out, "' opts='--help --version --node' ;;\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        const struct cli_command *c = &cli_commands[i];
        (void)buf_addf(out, "    %s) opts='", c->name);
        option_names(out, c);
        (void)buf_addc(out, '\'');
        if (c->words == CLI_WORD_FILE) {
            (void)buf_adds(out, " files=1");
        }
        (void)buf_adds(out, "\n        [[ $cur == -* ]] || words=\"");
        word_source(out, c);
        (void)buf_adds(out, "\" ;;\n");
    }
    (void)buf_adds(out, "    esac\n"
                        "    if [[ $cur == -* ]]; then\n"
                        "        COMPREPLY=($(compgen -W \"$opts\" -- \"$cur\"))\n"
                        "        return\n"
                        "    fi\n"
                        "    COMPREPLY=($(compgen -W \"$words\" -- \"$cur\"))\n"
                        "    if [[ -n $files ]]; then\n"
                        "        COMPREPLY+=($(compgen -f -- \"$cur\"))\n"
                        "    fi\n"
                        "}\n"
                        "complete -o filenames -F _agent agent\n");
}

/* zsh's _arguments takes '[', ']' and ':' of a description for its own. */
static void zsh_text(struct buf *out, const char *text)
{
    for (const char *p = text; *p != '\0'; p++) {
        if (*p == '[' || *p == ']' || *p == ':') {
            (void)buf_addc(out, '\\');
        }
        if (*p == '\'') {
            (void)buf_adds(out, "'\\''");
        } else {
            (void)buf_addc(out, *p);
        }
    }
}

static void zsh_option(struct buf *out, const struct cli_option *o)
{
    bool is_file = o->value != NULL && strcmp(o->value, "FILE") == 0;
    for (int form = o->letter != 0 ? 0 : 1; form < 2; form++) {
        (void)buf_adds(out, " \\\n            '");
        if (o->many) {
            (void)buf_addc(out, '*');
        }
        if (form == 0) {
            (void)buf_addf(out, "-%c[", o->letter);
        } else {
            (void)buf_addf(out, "--%s%s[", o->name, o->value != NULL ? "=" : "");
        }
        zsh_text(out, o->help);
        (void)buf_addc(out, ']');
        if (o->value != NULL) {
            (void)buf_addc(out, ':');
            zsh_text(out, o->value);
            (void)buf_addf(out, ":%s", is_file ? "_files" : "");
        }
        (void)buf_addc(out, '\'');
    }
}

static void zsh(struct buf *out)
{
    (void)buf_adds(out,
                   "#compdef agent\n# zsh completion for agent, made by 'agent completion zsh'\n"
                   "_agent() {\n"
                   "    local -a commands\n    commands=(\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        (void)buf_addf(out, "        '%s:", cli_commands[i].name);
        zsh_text(out, cli_commands[i].summary);
        (void)buf_adds(out, "'\n");
    }
    (void)buf_adds(out, "    )\n"
                        "    if (( CURRENT == 2 )); then\n"
                        "        _describe command commands\n        return\n    fi\n"
                        "    local cmd=$words[2]\n"
                        "    shift words\n    (( CURRENT-- ))\n"
                        "    case $cmd in\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        const struct cli_command *c = &cli_commands[i];
        (void)buf_addf(out, "    %s)\n        _arguments", c->name);
        const struct cli_option *o;
        for (size_t j = 0; (o = cli_command_option(c, j)) != NULL; j++) {
            zsh_option(out, o);
        }
        if (c->words == CLI_WORD_FILE) {
            (void)buf_adds(out, " \\\n            '*:file:_files'");
        } else if (c->words != CLI_NO_WORDS) {
            (void)buf_adds(out, " \\\n            \"*:word:(");
            word_source(out, c);
            (void)buf_adds(out, ")\"");
        }
        (void)buf_adds(out, " ;;\n");
    }
    (void)buf_adds(out, "    esac\n}\n"
                        "if [ \"$funcstack[1]\" = _agent ]; then _agent \"$@\"; "
                        "else compdef _agent agent; fi\n");
}

static void fish(struct buf *out)
{
    (void)buf_adds(out, "# fish completion for agent, made by 'agent completion fish'\n"
                        "complete -c agent -f\n");
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        (void)buf_addf(out, "complete -c agent -n __fish_use_subcommand -a %s -d ",
                       cli_commands[i].name);
        quoted(out, cli_commands[i].summary);
        (void)buf_addc(out, '\n');
    }
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        const struct cli_command *c = &cli_commands[i];
        const struct cli_option *o;
        for (size_t j = 0; (o = cli_command_option(c, j)) != NULL; j++) {
            bool is_file = o->value != NULL && strcmp(o->value, "FILE") == 0;
            (void)buf_addf(out, "complete -c agent -n '__fish_seen_subcommand_from %s' -l %s",
                           c->name, o->name);
            if (o->letter != 0) {
                (void)buf_addf(out, " -s %c", o->letter);
            }
            (void)buf_adds(out, o->value == NULL ? "" : is_file ? " -r -F" : " -x");
            (void)buf_adds(out, " -d ");
            quoted(out, o->help);
            (void)buf_addc(out, '\n');
        }
        (void)buf_addf(out, "complete -c agent -n '__fish_seen_subcommand_from %s' ", c->name);
        if (c->words == CLI_WORD_FILE) {
            (void)buf_adds(out, "-F\n");
            continue;
        }
        AUTO_BUF struct buf words = BUF_INIT(4096);
        if (c == &cli_commands[CLI_HELP]) {
            command_names(&words);
        } else {
            (void)buf_adds(&words, c->list != NULL ? c->list : "");
            (void)buf_adds(&words, c->words == CLI_WORD_JOB   ? " (agent jobs -q 2>/dev/null)"
                                   : c->words == CLI_WORD_RUN ? " (agent runs -q -n 50 2>/dev/null)"
                                                              : "");
        }
        (void)buf_adds(out, "-a ");
        quoted(out, buf_cstr(&words));
        (void)buf_addc(out, '\n');
    }
}

int cli_completion(struct str shell, struct buf *out)
{
    if (str_eqs(shell, "bash")) {
        bash(out);
    } else if (str_eqs(shell, "zsh")) {
        zsh(out);
    } else if (str_eqs(shell, "fish")) {
        fish(out);
    } else {
        return -EINVAL;
    }
    return buf_error(out);
}
