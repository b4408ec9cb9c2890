/*
 * cli_internal - what the pure files of cli share: the command table, option parsing, tables, text
 * for people, and the views of the server's JSON. Nothing here reads a clock or a descriptor.
 */
#ifndef AGENT_CLI_CLI_INTERNAL_H
#define AGENT_CLI_CLI_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "agent/cli/cli.h"
#include "common/buf.h"
#include "common/err.h"
#include "common/json.h"
#include "common/str.h"

/* ---- the command table (cli_commands.c) ---- */

enum cli_id {
    CLI_SERVE,
    CLI_STATUS,
    CLI_SUBMIT,
    CLI_JOBS,
    CLI_RUNS,
    CLI_LOGS,
    CLI_OUTPUT,
    CLI_INSPECT,
    CLI_EXPLAIN,
    CLI_PROFILE,
    CLI_TOP,
    CLI_CANCEL,
    CLI_RETRY,
    CLI_FAILED,
    CLI_APPLY,
    CLI_PUSH,
    CLI_IMAGES,
    CLI_NODES,
    CLI_MEMBERS,
    CLI_DRAIN,
    CLI_LEAVE,
    CLI_TABLE,
    CLI_TRIGGER,
    CLI_SCHEDULE,
    CLI_HOOK,
    CLI_CALLBACK,
    CLI_EVENTS,
    CLI_SECRET,
    CLI_TOKEN,
    CLI_CA,
    CLI_KEYGEN,
    CLI_DOCTOR,
    CLI_CONFIG,
    CLI_COMPLETION,
    CLI_VERSION,
    CLI_HELP,
    CLI_COMMANDS, /* how many */
};

/* What a command's arguments are, for completion. */
enum cli_words { CLI_NO_WORDS, CLI_WORD_JOB, CLI_WORD_RUN, CLI_WORD_FILE, CLI_WORD_LIST };

struct cli_option {
    const char *name;  /* without "--" */
    char letter;       /* 0: none */
    const char *value; /* what stands for the value in help; NULL: a switch */
    bool many;         /* may be given more than once */
    const char *help;
};

/* Groups of options that many commands have. */
enum {
    CLI_HAS_NODE = 1,   /* --node */
    CLI_HAS_FORMAT = 2, /* -o, --no-headers */
    CLI_HAS_QUIET = 4,  /* -q */
};

struct cli_example {
    const char *line;
    const char *text;
};

struct cli_command {
    const char *name;
    const char *usage;   /* after "agent NAME" */
    const char *summary; /* one line, no full stop */
    const char *text;    /* paragraphs, '\n' between them */
    const struct cli_option *options;
    size_t options_len;
    unsigned groups;
    unsigned args_min, args_max;
    bool rest; /* takes words after "--" */
    enum cli_words words;
    const char *list; /* CLI_WORD_LIST, or first words beside the others: "ls rm prune" */
    const struct cli_example *examples;
    size_t examples_len;
};

extern const struct cli_command cli_commands[CLI_COMMANDS]; /* by enum cli_id */
extern const struct cli_option cli_common_options[];
extern const unsigned cli_common_groups[]; /* 0: every command */
extern const size_t cli_common_options_len;

/* NULL when there is none. */
const struct cli_command *cli_command_find(struct str name);
/* The command that was probably meant, or NULL. */
const struct cli_command *cli_command_guess(struct str name);
/* The i-th option of a command, its own first, then those of its groups; NULL at the end. */
const struct cli_option *cli_command_option(const struct cli_command *c, size_t i);

/* ---- command lines (cli_args.c) ---- */

enum { CLI_GIVEN_MAX = 512, CLI_POS_MAX = 64 };

struct cli_given {
    const struct cli_option *option;
    const char *value; /* NULL for a switch */
};

/* Everything points into argv. */
struct cli_args {
    const struct cli_command *command; /* NULL: none was named */
    const char *word;                  /* the command as typed */
    struct cli_given given[CLI_GIVEN_MAX];
    size_t given_len;
    const char *pos[CLI_POS_MAX];
    size_t pos_len;
    char **rest; /* after "--" */
    size_t rest_len;
    bool rest_given; /* there was a "--" */
};

/* argv[1..] into *ret. -EINVAL: e says what is wrong (unknown option with the nearest known one,
 * a value missing, too few or too many arguments). With --help nothing else is checked.
 * ret->command is set also on failure when it could be found. */
int cli_args_parse(int argc, char **argv, struct cli_args *ret, struct err *e);
bool cli_args_has(const struct cli_args *a, const char *option);
/* The last value given, or NULL. */
const char *cli_args_value(const struct cli_args *a, const char *option);
/* All values in turn; start with *i = 0. NULL at the end. */
const char *cli_args_next(const struct cli_args *a, const char *option, size_t *i);

/* ---- help, completion, manual (cli_help.c, cli_man.c) ---- */

void cli_help_all(struct buf *out);
void cli_help_command(const struct cli_command *c, struct buf *out);
void cli_man(struct buf *out);      /* agent(8), roff */
void cli_man_conf(struct buf *out); /* agent.conf(5), roff */
/* shell: "bash", "zsh", "fish"; -EINVAL otherwise. */
int cli_completion(struct str shell, struct buf *out);

/* ---- names (cli_names.c) ---- */

enum cli_scheme { CLI_SCHEME_NONE, CLI_SCHEME_HTTP, CLI_SCHEME_HTTPS };

/* host:port, host, :port, [v6]:port, with or without "http://" or "https://" and a final "/".
 * -EINVAL. */
int cli_addr_parse(const char *text, char *host, size_t host_cap, uint16_t *ret_port,
                   enum cli_scheme *ret_scheme, struct err *e);
/* "127.0.0.1:7575", "[::1]:7575". */
void cli_addr_format(const char *host, uint16_t port, char *dst, size_t cap);
/* A name with '/', ':' or '@' is an image, any other a job (DESIGN.md section 8). */
bool cli_is_image(struct str name);
/* An image's name out of an archive without the registry that it came from: the first part goes
 * when it has a dot or a colon or is "localhost", and so does Docker Hub's "library/". */
struct str cli_image_strip(struct str image);
/* Does a full run id begin or end with these characters (any case)? At least 4. */
bool cli_run_matches(struct str id, struct str abbreviated);
/* Percent-encodes all but unreserved characters (and '/' when slash). */
void cli_escape_url(struct buf *out, struct str s, bool slash);

/* ---- text for people (cli_text.c) ---- */

/* Appends s without anything that moves a terminal: control characters, C1, DEL, bidirectional
 * overrides and bytes that are not UTF-8 come out as \x1b, \u202e. Newline and tab too. */
void cli_text_safe(struct buf *out, struct str s);
/* Columns that the text takes on a terminal (code points; safe text only). */
size_t cli_text_width(struct str s);
/* "4s", "3m", "5h", "2d", "6w", "3y": how long ago; "-" when then is 0. */
void cli_text_age(struct buf *out, int64_t now_us, int64_t then_us);
/* Seconds for people: "850 ms", "12.4 s", "3m 20s". */
void cli_text_seconds(struct buf *out, double seconds);
void cli_text_bytes(struct buf *out, double bytes);
/* Words wrapped to the width, each line behind an indent. '\n' begins a new paragraph line. */
void cli_text_wrap(struct buf *out, const char *text, unsigned indent, unsigned width);

/* ---- tables (cli_table.c) ---- */

enum cli_colour { CLI_PLAIN, CLI_RED, CLI_GREEN, CLI_YELLOW, CLI_BLUE, CLI_DIM, CLI_BOLD };
enum { CLI_COLUMNS_MAX = 16, CLI_TABLE_MAX = 64 * 1024 * 1024 };

struct cli_table {
    const char *heads[CLI_COLUMNS_MAX]; /* a leading '>' aligns to the right */
    size_t columns;
    struct buf text;  /* the cells' text, safe, one after another */
    struct buf cells; /* struct cli_cell each */
};

/* heads: NULL-terminated. */
void cli_table_init(struct cli_table *t, const char *const *heads);
void cli_table_release(struct cli_table *t);
/* Cells come row by row. The text is made safe. */
void cli_table_cell(struct cli_table *t, enum cli_colour colour, struct str text);
void cli_table_cellf(struct cli_table *t, enum cli_colour colour, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
size_t cli_table_rows(const struct cli_table *t);
/* Appends the table to out: columns as wide as needed, two spaces between. 0 or the sticky error of
 * a buffer. */
int cli_table_render(const struct cli_table *t, bool heads, bool colour, struct buf *out);
/* Escape sequences, "" when off. */
const char *cli_colour_on(enum cli_colour c, bool on);
const char *cli_colour_off(bool on);

/* ---- views of the server's JSON (cli_view.c, cli_view_run.c) ---- */

enum cli_format { CLI_FORMAT_TABLE, CLI_FORMAT_JSON, CLI_FORMAT_NAME, CLI_FORMAT_QUIET };

struct cli_view {
    struct buf *out;
    enum cli_format format;
    bool heads;
    bool colour;
    int64_t now_us; /* wall clock, for ages */
};

/* "table", "json", "name". -EINVAL. */
int cli_format_parse(const char *text, enum cli_format *ret, struct err *e);
/* Readers with a default. */
struct str cli_json_str(const struct json *o, const char *key); /* "" */
double cli_json_num(const struct json *o, const char *key);     /* 0 */
int64_t cli_json_time(const struct json *o, const char *key);   /* microseconds; 0 */
bool cli_json_null(const struct json *o, const char *key);      /* absent or null */
/* The document again, indented, with a newline. */
void cli_view_json(struct cli_view *v, const struct json *root);
/* One answer each; list answers take the whole answer ({"runs": […]}). */
void cli_view_runs(struct cli_view *v, const struct json *list);
void cli_view_run(struct cli_view *v, const struct json *run);
void cli_view_jobs(struct cli_view *v, const struct json *list);
void cli_view_job(struct cli_view *v, const struct json *job);
void cli_view_nodes(struct cli_view *v, const struct json *list);
void cli_view_members(struct cli_view *v, const struct json *list);
void cli_view_table(struct cli_view *v, const struct json *list);
void cli_view_callbacks(struct cli_view *v, const struct json *list);
void cli_view_triggers(struct cli_view *v, const struct json *list);
void cli_view_schedule(struct cli_view *v, const struct json *list);
void cli_view_secrets(struct cli_view *v, const struct json *list);
void cli_view_node(struct cli_view *v, const struct json *node);
void cli_view_profiles(struct cli_view *v, const struct json *root);
void cli_view_profile(struct cli_view *v, const struct json *root);
void cli_view_explain(struct cli_view *v, const struct json *root);
void cli_view_images(struct cli_view *v, const struct json *list);
void cli_view_status(struct cli_view *v, const struct json *status);
enum cli_colour cli_state_colour(struct str state);

/* ---- answers and requests (cli_request.c) ---- */

enum { CLI_SPEC_MAX = 6 * 1024 }; /* of a one-off's document in the query */

/* The sentence for an answer that is no success: the problem document's detail and field errors, or
 * the status. Returns -EREMOTEIO with e set; code (may be NULL, cap 64) gets the problem's code. */
int cli_problem(int status, struct str body, char *code, struct err *e);
/* The document of a one-off from the flags of `agent submit IMAGE`. -EINVAL. */
int cli_submit_document(const struct cli_args *a, struct buf *out, struct err *e);
/* Flags that only make sense for an image: the first one given, or NULL. */
const char *cli_submit_image_flag(const struct cli_args *a);
/* Is the run over? */
bool cli_run_ended(const struct json *run);
/* The exit code that `submit --wait` ends with, and the sentence for stderr in *why (empty when the
 * program simply ended by itself). */
int cli_run_exit(const struct json *run, struct buf *why);
/* The next JSON value of a text of several: 1 and *ret_doc, 0 at the end, -EINVAL. */
int cli_documents_next(struct str *rest, struct str *ret_doc, struct err *e);

#endif
