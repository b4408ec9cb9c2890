/* The one table of commands: help, completion and agent(8) come from it. */
#include "agent/cli/cli_internal.h"
#include "common/insist.h"

#define OPTIONS(name) .options = (name), .options_len = ARRAY_LEN(name)
#define EXAMPLES(name) .examples = (name), .examples_len = ARRAY_LEN(name)
#define TABLE (CLI_HAS_NODE | CLI_HAS_FORMAT)
#define LISTING (CLI_HAS_NODE | CLI_HAS_FORMAT | CLI_HAS_QUIET)

const struct cli_option cli_common_options[] = {
    { "node", 0, "ADDR", false,
      "the node to talk to, host:port (AGENT_ADDR; default 127.0.0.1:7575); https:// for TLS" },
    { "tls-ca", 0, "FILE", false,
      "speak TLS, and trust the authorities in FILE (AGENT_CA; with https:// only: the system's)" },
    { "token-file", 0, "FILE", false,
      "the token to show to the node is FILE's first line (or AGENT_TOKEN)" },
    { "output", 'o', "FORMAT", false, "table (default), json, or name" },
    { "no-headers", 0, NULL, false, "leave the heading line of a table away" },
    { "quiet", 'q', NULL, false, "print ids or names only" },
    { "help", 'h', NULL, false, "show this text" },
};
const unsigned cli_common_groups[] = {
    CLI_HAS_NODE, CLI_HAS_NODE, CLI_HAS_NODE, CLI_HAS_FORMAT, CLI_HAS_FORMAT, CLI_HAS_QUIET, 0
};
const size_t cli_common_options_len = ARRAY_LEN(cli_common_options);
_Static_assert(ARRAY_LEN(cli_common_groups) == ARRAY_LEN(cli_common_options), "one group each");

static const struct cli_option serve_options[] = {
    { "config", 'c', "FILE", false, "read agent.conf from FILE" },
};
static const struct cli_example serve_examples[] = {
    { "agent serve --config /etc/agent/agent.conf", "as the systemd unit does it" },
    { "agent serve -c b.conf --gossip.join=127.0.0.1:7946",
      "a second node: b.conf gives it a name, a directory and ports of its own" },
};

static const struct cli_option status_options[] = {
    { "watch", 'w', NULL, false, "again every two seconds, until Ctrl-C" },
};
static const struct cli_example status_examples[] = {
    { "agent status", "nodes, jobs and the last failures" },
    { "agent status --watch", "the same, as it changes" },
    { "agent status -o json | jq .runs", "the same, for scripts" },
};

static const struct cli_option submit_options[] = {
    { "wait", 'w', NULL, false,
      "wait for the end: stdin is the payload, stdout and stderr are the run's" },
    { "detach", 0, NULL, false, "print the run's id at once (the default)" },
    { "payload", 'p', "FILE", false, "send FILE as the payload ('-': stdin)" },
    { "data", 'd', "TEXT|@FILE", false, "send TEXT, or FILE's content, as the payload" },
    { "idempotency-key", 0, "KEY", false, "submit once only, however often this is repeated" },
    { "progress", 0, "WHEN", false, "auto (default: on a terminal), always, or never" },
    { "env", 'e', "KEY=VALUE", true, "image: an environment variable" },
    { "memory", 'm', "SIZE", false, "image: memory limit, such as 512MiB" },
    { "cpus", 0, "N", false, "image: CPU limit, such as 1.5" },
    { "pids", 0, "N", false, "image: most processes and threads" },
    { "disk", 0, "SIZE", false, "image: most bytes written to the file system" },
    { "timeout", 't', "TIME", false, "image: most time for an attempt, such as 10m" },
    { "grace", 0, "TIME", false, "image: time between the stop signal and SIGKILL" },
    { "network", 0, "MODE", false, "image: none, nat or host" },
    { "egress", 0, "RULE", true, "image: with network nat, what it may reach: example.org:443" },
    { "retries", 0, "N", false, "image: how often a failed run is tried again" },
    { "retry-delay", 0, "TIME", false, "image: time before the first new try" },
    { "label", 'l', "KEY=VALUE", true, "image: a label" },
    { "require", 0, "WHAT", true, "image: a capability or label=value that the node must have" },
    { "priority", 0, "N", false, "image: 0 to 100, higher runs first" },
    { "entrypoint", 0, "PROGRAM", false, "image: run this instead of the image's entrypoint" },
    { "workdir", 'C', "DIR", false, "image: working directory" },
    { "user", 'u', "USER[:GROUP]", false, "image: user, by name or number" },
};
static const struct cli_example submit_examples[] = {
    { "agent submit encrypt --wait < file > file.enc", "a job as a filter" },
    { "agent submit encrypt -p file", "print the run's id and go" },
    { "agent submit team/tools:1 --wait -- sha256sum < file", "one run of an image" },
};

static const struct cli_option jobs_options[] = {
    { "limit", 'n', "N", false, "at most N (default: all)" },
};
static const struct cli_example jobs_examples[] = {
    { "agent jobs", "all jobs" },
    { "agent jobs rm encrypt", "forget a job; its runs stay" },
};

static const struct cli_option runs_options[] = {
    { "job", 'j', "JOB", false, "only runs of this job" },
    { "state", 's', "STATE,...", false,
      "only these: queued, placed, preparing, running, succeeded, failed, timed_out, cancelled, lost" },
    { "limit", 'n', "N", false, "at most N, newest first (default 20; 0: all)" },
};
static const struct cli_example runs_examples[] = {
    { "agent runs", "the newest 20" },
    { "agent runs -s failed,timed_out,lost -n 0", "all that went wrong" },
    { "agent cancel $(agent runs -q -s queued -j encrypt)", "cancel what waits" },
};

static const struct cli_option failed_options[] = {
    { "job", 'j', "JOB", false, "only runs of this job" },
    { "all", 0, NULL, false, "retry: all of them" },
    { "limit", 'n', "N", false, "ls: at most N, newest first (default 20; 0: all)" },
};
static const struct cli_example failed_examples[] = {
    { "agent failed", "what failed for good" },
    { "agent failed retry --all -j encrypt", "once the cause is mended" },
};

static const struct cli_option logs_options[] = {
    { "follow", 'f', NULL, false, "go on until the run ends" },
    { "stdout", 0, NULL, false, "the run's stdout" },
    { "stderr", 0, NULL, false, "the run's stderr (the default)" },
    { "both", 'b', NULL, false, "both, by time" },
    { "tail", 'n', "N", false, "only the last N lines" },
    { "since", 0, "TIME", false, "only what is younger: 10m, or 2026-11-23T08:00:00Z" },
};
static const struct cli_example logs_examples[] = {
    { "agent logs -f encrypt", "the newest run of a job, live" },
    { "agent logs --both -n 50 7QK2", "a run by the end of its id" },
};

static const struct cli_option output_options[] = {
    { "follow", 'f', NULL, false, "go on until the run ends" },
    { "attempt", 0, "N", false, "of this attempt (default: the last)" },
};
static const struct cli_example output_examples[] = {
    { "agent output 7QK2 > file.enc", "the result of a run" },
};

static const struct cli_example inspect_examples[] = {
    { "agent inspect 7QK2", "one run: times, limits, resources" },
    { "agent inspect encrypt -o json", "one job's document" },
};

static const struct cli_option explain_options[] = {
    { "job", 'j', "JOB", false, "where a run of this job would go now" },
};
static const struct cli_example explain_examples[] = {
    { "agent explain 7QK2", "why this run went where it went" },
    { "agent explain --job encrypt", "where the next one would go" },
};
static const struct cli_example profile_examples[] = {
    { "agent profile", "all jobs" },
    { "agent profile encrypt", "one job: its time by node class, its memory, its limits" },
};
static const struct cli_option top_options[] = {
    { "once", '1', NULL, false, "print once and end (the default without a terminal)" },
};
static const struct cli_example top_examples[] = {
    { "agent top", "nodes and running runs, every two seconds" },
};

static const struct cli_example cancel_examples[] = {
    { "agent cancel 7QK2", "stop signal, then SIGKILL after the job's grace time" },
};
static const struct cli_example retry_examples[] = {
    { "agent retry 7QK2", "run it again with the same payload" },
};

static const struct cli_option apply_options[] = {
    { "file", 'f', "FILE", true, "the document ('-': stdin)" },
};
static const struct cli_example apply_examples[] = {
    { "agent apply -f encrypt.json", "create or change a job" },
    { "cat jobs/*.json | agent apply -f -", "several at once" },
};

static const struct cli_option push_options[] = {
    { "all", 'a', NULL, false, "push every image of the archive under its own name" },
    { "progress", 0, "WHEN", false, "auto (default: on a terminal), always, or never" },
};
static const struct cli_example push_examples[] = {
    { "docker save team/encrypt:1 | gzip > e.tar.gz; agent push e.tar.gz", "from Docker" },
    { "agent push ./layout team/encrypt:1", "an OCI layout, named here" },
};

static const struct cli_option images_options[] = {
    { "yes", 'y', NULL, false, "prune: do not ask" },
};
static const struct cli_example images_examples[] = {
    { "agent images", "what this node holds" },
    { "agent images rm team/encrypt:1", "remove a tag" },
    { "agent images prune", "drop what no tag and no run needs" },
};

static const struct cli_example nodes_examples[] = {
    { "agent nodes", "a table of nodes" },
    { "agent nodes $(hostname)", "one node with its hardware" },
};

static const struct cli_example trigger_examples[] = {
    { "agent trigger ls", "all of them" },
    { "agent trigger ls report", "those of one job" },
    { "agent trigger test deploy/github -p push.json", "would this set it off?" },
    { "agent trigger fire report/nightly", "now, not at its time" },
    { "agent trigger pause report", "until 'agent trigger resume report'" },
};
static const struct cli_option trigger_options[] = {
    { "payload", 'p', "FILE", false, "test, fire: the input ('-': stdin; default: nothing)" },
    { "topic", 0, "TOPIC", false, "test: the topic of a sensor's message" },
};
static const struct cli_example schedule_examples[] = {
    { "agent schedule next report", "when will it run?" },
};
static const struct cli_option hook_options[] = {
    { "payload", 'p', "FILE", false, "the body ('-': stdin; default: {})" },
};
static const struct cli_example hook_examples[] = {
    { "agent hook test deploy github -p push.json | sh", "what the sender would do" },
};
static const struct cli_option callback_options[] = {
    { "job", 'j', "JOB", false, "only this job's" },
    { "state", 's', "STATE", false, "only waiting, delivered, gone, failed or off" },
    { "limit", 0, "N", false, "at most this many (1000)" },
};
static const struct cli_example callback_examples[] = {
    { "agent callback ls --state failed", "what nobody took" },
    { "agent callback ls -q -s failed | xargs agent callback retry", "once more, all of it" },
};
static const struct cli_option events_options[] = {
    { "type", 't', "PREFIX", false, "only events whose type begins with this" },
    { "job", 'j', "JOB", false, "only this job's" },
    { "count", 'n', "N", false, "end after this many" },
    { "after", 0, "ID", false, "begin behind this event, when it is remembered" },
};
static const struct cli_example events_examples[] = {
    { "agent events", "everything that happens on this node" },
    { "agent events -t agent.run.failed -o json | jq .data.id", "runs that fail" },
};
static const struct cli_example secret_examples[] = {
    { "openssl rand -hex 32 | agent secret set gh-hook", "a secret for a web hook" },
    { "agent secret ls", "their names" },
};

static const struct cli_option drain_options[] = {
    { "resume", 0, NULL, false, "take runs again" },
};
static const struct cli_example drain_examples[] = {
    { "agent drain node-a", "before its maintenance: what runs there goes on" },
    { "agent drain node-a --resume", "and back again" },
};

static const struct cli_example leave_examples[] = {
    { "agent leave", "the node that is asked" },
    { "agent leave node-a", "another one, from here" },
};

static const struct cli_example members_examples[] = {
    { "agent members", "who is in the cluster, who lives" },
    { "agent members -o json | jq '.members[] | select(.state != \"alive\") | .name'",
      "those that do not" },
};

static const struct cli_option table_options[] = {
    { "type", 't', "TYPE", false,
      "only these: capability, load, image, job, token, secret, schedule, pause, profile" },
    { "limit", 'n', "N", false, "at most N rows (default 0: all)" },
};
static const struct cli_example table_examples[] = {
    { "agent table -t load", "what this node knows of everybody's load, and how old that is" },
    { "agent table -t job -o json | jq '.rows[].value'", "the documents themselves" },
};

static const struct cli_option token_options[] = {
    { "name", 0, "NAME", false, "whose it is: shown in the audit's lines" },
    { "scope", 0, "SCOPE,...", false, "what it may do: read, submit, apply, push, admin" },
    { "prefix", 0, "PREFIX", false, "only jobs and repositories whose names begin with PREFIX" },
    { "expires", 0, "TIME", false, "from now, such as 30d, or a time: 2027-01-31T00:00:00Z" },
};
static const struct cli_example token_examples[] = {
    { "agent token create --name ci --scope submit,push --expires 90d", "for a build machine" },
    { "agent token new --name root --scope admin", "the first one, for auth.tokens_file" },
    { "agent token revoke ci", "it is good for nothing any more" },
    { "AGENT_TOKEN=agt_... agent status", "show it to a node; --token-file FILE does so too" },
    { "skopeo copy --dest-creds x:$AGENT_TOKEN oci:img docker://HOST:7575/team/img:1",
      "any user name will do" },
    { "echo $AGENT_TOKEN | docker login -u x --password-stdin HOST:7575", "for docker and podman" },
};

static const struct cli_option ca_options[] = {
    { "dir", 0, "DIR", false, "the authority's directory (default: ca)" },
    { "out", 0, "DIR", false, "issue: where NAME.pem and NAME.key go (default: here)" },
    { "name", 0, "NAME", false, "init, rotate: the authority's name (default: agent-cluster)" },
    { "days", 0, "N", false, "how long it is good (init, rotate: 3650; issue: 397)" },
    { "finish", 0, NULL, false, "rotate: trust the old authority no more" },
    { "output", 'o', "FORMAT", false, "show: table (default) or json" },
    { "no-headers", 0, NULL, false, "show: leave the heading line away" },
};
static const struct cli_example ca_examples[] = {
    { "agent ca init", "make ca/ca.pem, ca/ca.key, ca/crl.pem" },
    { "agent ca issue node-a 10.0.0.1", "node-a.pem and node-a.key, for one node" },
    { "agent ca revoke node-a", "whoever has that key is no node any more" },
    { "AGENT_CA=ca/ca.pem agent status --node node-a:7575", "talk to it" },
};

static const struct cli_example keygen_examples[] = {
    { "(umask 077; agent keygen > gossip.key)", "for gossip.key_file on every node" },
};

static const struct cli_option doctor_options[] = {
    { "config", 'c', "FILE", false, "look at the settings of this agent.conf" },
    { "output", 'o', "FORMAT", false, "table (default) or json" },
    { "no-headers", 0, NULL, false, "leave the heading line of a table away" },
};
static const struct cli_example doctor_examples[] = {
    { "sudo agent doctor", "root sees more: mounts, cgroups, the data directory" },
};

static const struct cli_example config_examples[] = {
    { "agent config example > agent.conf", "every key with its default, unit and range" },
    { "agent config check /etc/agent/agent.conf", "what would 'agent serve' say to it?" },
};

static const struct cli_example completion_examples[] = {
    { "agent completion bash > /etc/bash_completion.d/agent", "bash" },
    { "agent completion zsh > /usr/local/share/zsh/site-functions/_agent", "zsh" },
    { "agent completion fish > ~/.config/fish/completions/agent.fish", "fish" },
};

static const struct cli_option version_options[] = {
    { "output", 'o', "FORMAT", false, "table (default) or json" },
};
static const struct cli_example version_examples[] = {
    { "agent version", "number and git revision" },
};

static const struct cli_option help_options[] = {
    { "man", 0, NULL, false, "print agent(8) as roff" },
    { "man-conf", 0, NULL, false, "print agent.conf(5) as roff" },
};
static const struct cli_example help_examples[] = {
    { "agent help submit", "the same as 'agent submit --help'" },
    { "agent help --man | man -l -", "the manual page" },
};

const struct cli_command cli_commands[CLI_COMMANDS] = {
    [CLI_SERVE] = { .name = "serve",
                    .usage = "[--config FILE] [--section.key=value ...]",
                    .summary = "run a node",
                    .text =
                        "Runs the daemon until SIGTERM; needs root. Settings come from agent.conf "
                        "(see agent.conf(5), or 'agent config example'), each also as "
                        "--section.key=value, which wins. SIGHUP reads the file again. On SIGTERM "
                        "no new run starts and running ones get sandbox.grace.",
                    OPTIONS(serve_options),
                    .args_max = 0,
                    .words = CLI_NO_WORDS,
                    EXAMPLES(serve_examples) },
    [CLI_STATUS] = { .name = "status",
                     .usage = "[--watch] [-o json]",
                     .summary = "show nodes, jobs and the last failures",
                     .text =
                         "One page on what goes on: the cluster, its nodes, its jobs with their "
                         "counts, and the runs that failed last. CAN names what a processor can "
                         "do that others may not: aes, sha, avx2, avx512, and rdt where cache and "
                         "memory bandwidth of a run are seen; 'agent nodes NODE' has all of it.",
                     OPTIONS(status_options),
                     .groups = TABLE,
                     EXAMPLES(status_examples) },
    [CLI_SUBMIT] = { .name = "submit",
                     .usage = "JOB|IMAGE [options] [-- ARG ...]",
                     .summary = "start a run of a job or of an image",
                     .text =
                         "A name with '/', ':' or '@' is an image, any other a job. The words "
                         "behind '--' replace the image's Cmd; its Entrypoint stays. Options "
                         "marked 'image' describe a one-off run of an image; a job says these "
                         "things in its document.\n"
                         "Without --wait the run's id is printed. With --wait stdin is the payload "
                         "(unless it is a terminal or --payload or --data says otherwise), and the "
                         "run's stdout and stderr come out as they are. Ctrl-C cancels the run, a "
                         "second one leaves at once.\n"
                         "Exit code with --wait: the run's own; 124 timed out, 125 the agent's side "
                         "failed, 126 not executable, 127 not found, 128+n ended by signal n.",
                     OPTIONS(submit_options),
                     .groups = TABLE,
                     .args_min = 1,
                     .args_max = 1,
                     .rest = true,
                     .words = CLI_WORD_JOB,
                     EXAMPLES(submit_examples) },
    [CLI_JOBS] = { .name = "jobs",
                   .usage = "[ls | rm JOB ...]",
                   .summary = "list jobs, or remove some",
                   .text = "Without a word, or with 'ls', the registered jobs.",
                   OPTIONS(jobs_options),
                   .groups = LISTING,
                   .args_max = CLI_POS_MAX,
                   .words = CLI_WORD_JOB,
                   .list = "ls rm",
                   EXAMPLES(jobs_examples) },
    [CLI_RUNS] = { .name = "runs",
                   .usage = "[-j JOB] [-s STATE,...] [-n N]",
                   .summary = "list runs, newest first",
                   .text = "Wherever a command takes a RUN: an id, the beginning or the end of one "
                           "(at least 4 characters, any case, unique among the newest 1,000), or a "
                           "job's name for its newest run.",
                   OPTIONS(runs_options),
                   .groups = LISTING,
                   EXAMPLES(runs_examples) },
    [CLI_LOGS] = { .name = "logs",
                   .usage = "[-f] [--stdout | --stderr | --both] [-n N] RUN",
                   .summary = "print what a run wrote to stderr, or to both",
                   .text = "The log is a run's stderr: the first and the last half of "
                           "sandbox.log_bytes are kept. 'agent output' prints stdout.",
                   OPTIONS(logs_options),
                   .groups = CLI_HAS_NODE,
                   .args_min = 1,
                   .args_max = 1,
                   .words = CLI_WORD_RUN,
                   EXAMPLES(logs_examples) },
    [CLI_OUTPUT] = { .name = "output",
                     .usage = "[-f] RUN",
                     .summary = "print a run's stdout, raw",
                     .text = "stdout is the result of a run, kept whole and unchanged.",
                     OPTIONS(output_options),
                     .groups = CLI_HAS_NODE,
                     .args_min = 1,
                     .args_max = 1,
                     .words = CLI_WORD_RUN,
                     EXAMPLES(output_examples) },
    [CLI_INSPECT] = { .name = "inspect",
                      .usage = "RUN|JOB",
                      .summary = "show one run or one job in full",
                      .text = "A run: state and reason, times, limits, what it used. A job: its "
                              "document, as the node understands it.",
                      .groups = TABLE,
                      .args_min = 1,
                      .args_max = 1,
                      .words = CLI_WORD_RUN,
                      EXAMPLES(inspect_examples) },
    [CLI_EXPLAIN] = { .name = "explain",
                      .usage = "RUN | --job JOB",
                      .summary = "say why a run went where it went",
                      .text = "Every node that came into question: expected wait, cold start, the "
                              "time that was reckoned with and the learned one with its spread, "
                              "runs on such nodes, health, age of what was known; what was ruled "
                              "out and why. Basis: learned, explore (it may be better there than "
                              "we know), require, prefer, local (as good as any), wait.",
                      OPTIONS(explain_options),
                      .groups = TABLE,
                      .args_max = 1,
                      .words = CLI_WORD_RUN,
                      EXAMPLES(explain_examples) },
    [CLI_PROFILE] = { .name = "profile",
                      .usage = "[JOB]",
                      .summary = "show what runs taught about a job",
                      .text = "Expected time with its spread for each node class, processor, "
                              "memory and I/O, and the limits that the next run gets. A one-off is "
                              "known by its image.",
                      .groups = LISTING,
                      .args_max = 1,
                      .words = CLI_WORD_JOB,
                      EXAMPLES(profile_examples) },
    [CLI_TOP] = { .name = "top",
                  .usage = "",
                  .summary = "watch nodes and running runs",
                  .text = "CPU since the sample before, memory, block I/O and time of each run.",
                  OPTIONS(top_options),
                  .groups = TABLE,
                  .words = CLI_NO_WORDS,
                  EXAMPLES(top_examples) },
    [CLI_CANCEL] = { .name = "cancel",
                     .usage = "RUN ...",
                     .summary = "stop runs",
                     .text =
                         "A waiting run is cancelled at once; a running one gets its stop signal, "
                         "then SIGKILL after its grace time.",
                     .groups = LISTING,
                     .args_min = 1,
                     .args_max = CLI_POS_MAX,
                     .words = CLI_WORD_RUN,
                     EXAMPLES(cancel_examples) },
    [CLI_RETRY] = { .name = "retry",
                    .usage = "RUN ...",
                    .summary = "run ended runs again",
                    .text = "Only a run that has ended can be tried again.",
                    .groups = LISTING,
                    .args_min = 1,
                    .args_max = CLI_POS_MAX,
                    .words = CLI_WORD_RUN,
                    EXAMPLES(retry_examples) },
    [CLI_FAILED] = { .name = "failed",
                     .usage = "[ls] [-j JOB] [-n N] | retry RUN ... | retry --all [-j JOB]",
                     .summary = "list runs that failed for good, and retry them",
                     .text =
                         "Runs that have used up their retries: failed, timed_out or lost. They "
                         "are kept for store.retention_failed. 'retry' queues them again, with "
                         "all retries of their document, one by one or all.",
                     OPTIONS(failed_options),
                     .groups = LISTING,
                     .args_max = CLI_POS_MAX,
                     .words = CLI_WORD_LIST,
                     .list = "ls retry",
                     EXAMPLES(failed_examples) },
    [CLI_APPLY] = { .name = "apply",
                    .usage = "-f FILE ...",
                    .summary = "create or change jobs from JSON documents",
                    .text =
                        "FILE holds one document, an array of them, or several one after another; "
                        "each needs a \"name\". A revision is added only when something changed.",
                    OPTIONS(apply_options),
                    .groups = TABLE,
                    .args_max = CLI_POS_MAX,
                    .words = CLI_WORD_FILE,
                    EXAMPLES(apply_examples) },
    [CLI_PUSH] = { .name = "push",
                   .usage = "FILE [REPOSITORY:TAG]",
                   .summary = "push an image archive to the node",
                   .text =
                       "FILE is what 'docker save' wrote, an OCI archive, or an OCI layout "
                       "directory; archives may be compressed by gzip or zstd. Only blobs that the "
                       "node does not hold travel. Without REPOSITORY:TAG the name in the archive "
                       "is used.",
                   OPTIONS(push_options),
                   .groups = CLI_HAS_NODE | CLI_HAS_QUIET,
                   .args_min = 1,
                   .args_max = 2,
                   .words = CLI_WORD_FILE,
                   EXAMPLES(push_examples) },
    [CLI_IMAGES] = { .name = "images",
                     .usage = "[ls | rm REPOSITORY:TAG ... | prune]",
                     .summary = "list, remove or prune images",
                     .text =
                         "'rm' removes a tag, or with @sha256:... a manifest. 'prune' drops what no "
                         "tag and no run needs any more.",
                     OPTIONS(images_options),
                     .groups = LISTING,
                     .args_max = CLI_POS_MAX,
                     .words = CLI_WORD_LIST,
                     .list = "ls rm prune",
                     EXAMPLES(images_examples) },
    [CLI_NODES] = { .name = "nodes",
                    .usage = "[NODE]",
                    .summary = "list nodes, or show one",
                    .text =
                        "One node is shown with its processor, memory, caches and capabilities.",
                    .groups = LISTING,
                    .args_max = 1,
                    .words = CLI_NO_WORDS,
                    EXAMPLES(nodes_examples) },
    [CLI_DRAIN] = { .name = "drain",
                    .usage = "NODE [--resume]",
                    .summary = "stop (or resume) taking runs on a node",
                    .text = "The node accepts no runs and takes none of its peers; runs that wait "
                            "there go to other nodes, those that run go on.",
                    OPTIONS(drain_options),
                    .args_min = 1,
                    .args_max = 1,
                    .groups = CLI_HAS_NODE,
                    .words = CLI_NO_WORDS,
                    EXAMPLES(drain_examples) },
    [CLI_LEAVE] = { .name = "leave",
                    .usage = "[NODE]",
                    .summary = "take a node out of the cluster",
                    .text = "The node drains, gives what runs sandbox.grace to end (what it runs "
                            "for peers is then run elsewhere, its own when it is started again), "
                            "tells the others that it leaves, and ends. Start it to have it back.",
                    .args_max = 1,
                    .groups = CLI_HAS_NODE,
                    .words = CLI_NO_WORDS,
                    EXAMPLES(leave_examples) },
    [CLI_MEMBERS] = { .name = "members",
                      .usage = "",
                      .summary = "list the members as gossip sees them",
                      .text =
                          "The raw view of the node that is asked: address of its gossip port, "
                          "state (alive, suspect, dead, left), incarnation, round trip of its own "
                          "probes, and the port of the API. Members that do not run this agent "
                          "(memberlist, Serf) are listed as 'other'.",
                      .groups = LISTING,
                      .args_max = 0,
                      .words = CLI_NO_WORDS,
                      EXAMPLES(members_examples) },
    [CLI_TABLE] = { .name = "table",
                    .usage = "[-t TYPE] [-n N]",
                    .summary = "list the shared table as one node knows it",
                    .text =
                        "Every node holds the same rows a few seconds after a write. Those of a "
                        "node (capability, load, image) go with it; those of the cluster (job, "
                        "token, secret, schedule) are kept on every node's disk; profiles are one "
                        "row per node that learned something. Values of tokens and secrets are "
                        "never shown. For debugging: the rows' form may change.",
                    OPTIONS(table_options),
                    .groups = LISTING,
                    .args_max = 0,
                    .words = CLI_NO_WORDS,
                    EXAMPLES(table_examples) },
    [CLI_TRIGGER] = { .name = "trigger",
                      .usage = "[ls [JOB]] | test|fire TRIGGER [-p FILE] | pause|resume TRIGGER",
                      .summary = "list, test, set off, pause what sets jobs off",
                      .text =
                          "'ls': schedules with their next time, web hooks, sensors, events, and "
                          "jobs after jobs, as the documents of the jobs say (\"triggers\"). "
                          "TRIGGER is JOB/NAME, or JOB/KIND/NAME where names are the same; JOB "
                          "alone is its only one, for 'pause' and 'resume' all of them. 'test' says "
                          "whether an input would set it off and starts nothing; 'fire' sets it off "
                          "now, with the input as the run's payload, and prints the run. 'pause' "
                          "holds it on every node, over restarts, until 'resume'; what a schedule "
                          "missed meanwhile is not made up for.",
                      OPTIONS(trigger_options),
                      .groups = LISTING,
                      .args_max = 2,
                      .words = CLI_WORD_LIST,
                      .list = "ls test fire pause resume",
                      EXAMPLES(trigger_examples) },
    [CLI_SCHEDULE] = { .name = "schedule",
                       .usage = "next JOB",
                       .summary = "show when a job runs next",
                       .text = "The next five times of each of the job's schedules, in UTC and in "
                               "the schedule's own zone.",
                       .groups = TABLE,
                       .args_min = 2,
                       .args_max = 2,
                       .words = CLI_WORD_LIST,
                       .list = "next",
                       EXAMPLES(schedule_examples) },
    [CLI_HOOK] = { .name = "hook",
                   .usage = "test JOB HOOK [-p FILE]",
                   .summary = "print a signed call of a web hook",
                   .text = "Prints the curl command that does what the hook's sender would do with "
                           "this body, signed with the hook's secret and the node's clock. Needs "
                           "the scope admin.",
                   OPTIONS(hook_options),
                   .groups = CLI_HAS_NODE,
                   .args_min = 3,
                   .args_max = 3,
                   .words = CLI_WORD_LIST,
                   .list = "test",
                   EXAMPLES(hook_examples) },
    [CLI_CALLBACK] = { .name = "callback",
                       .usage = "[ls] [-j JOB] [-s STATE] | retry ID ...",
                       .summary = "list call-backs, or send them again",
                       .text =
                           "Who is told of a run's end, as its document (\"callbacks\") or the "
                           "header X-Callback-Url says. 'ls' shows the deliveries of all nodes, "
                           "'retry' sends some at once, whatever became of them, with the id "
                           "and the body that they had. A receiver that answers 410 (gone) is told "
                           "of no more runs of the job (off) until the job is applied anew.",
                       OPTIONS(callback_options),
                       .groups = LISTING,
                       .args_max = CLI_POS_MAX,
                       .words = CLI_WORD_LIST,
                       .list = "ls retry",
                       EXAMPLES(callback_examples) },
    [CLI_EVENTS] = { .name = "events",
                     .usage = "[-t PREFIX] [-j JOB] [-n N]",
                     .summary = "follow what happens",
                     .text =
                         "A line for each event as it happens, or with -o json a CloudEvent: runs "
                         "that the node accepted (agent.run.STATE), what set them off "
                         "(agent.trigger.fired), members (agent.node.joined, failed, left, "
                         "draining, resumed), documents (agent.job.applied, deleted), what its "
                         "runs taught (agent.job.profile_updated), call-backs (agent.callback.STATE). "
                         "Goes on where it was when the connection breaks; agent.feed.gap says that "
                         "some are not remembered any more.",
                     OPTIONS(events_options),
                     .groups = CLI_HAS_NODE | CLI_HAS_FORMAT,
                     .args_max = 0,
                     .words = CLI_NO_WORDS,
                     EXAMPLES(events_examples) },
    [CLI_SECRET] = { .name = "secret",
                     .usage = "set NAME | ls | rm NAME ...",
                     .summary = "set, list or delete secrets",
                     .text =
                         "'set' reads the secret from stdin (a newline at its end is not part "
                         "of it). It is sealed under the cluster's key before it goes anywhere, "
                         "and nobody can read it back. Several lines: the new one and those "
                         "that are being replaced; web hooks accept each.",
                     .groups = LISTING,
                     .args_min = 1,
                     .args_max = CLI_POS_MAX,
                     .words = CLI_WORD_LIST,
                     .list = "set ls rm",
                     EXAMPLES(secret_examples) },
    [CLI_TOKEN] = { .name = "token",
                    .usage = "create|new --name NAME --scope SCOPE,... | ls | revoke NAME ...",
                    .summary = "make, list and revoke tokens for the API",
                    .text =
                        "'create' makes a token that every node of the cluster knows, and prints "
                        "it, once: nobody can get it back, for nodes keep its hash. 'ls' shows what "
                        "there is, 'revoke' ends some: at once on the node that is asked, within "
                        "seconds on the others. These need a token with the scope admin.\n"
                        "'new' asks no node: it prints a token and the line for auth.tokens_file, "
                        "which is where a node's first admin token comes from. Add the line and "
                        "send SIGHUP to 'agent serve'; take it away again to revoke the token.\n"
                        "read: see jobs, runs, their outputs, nodes and metrics, and pull images. "
                        "submit: start, cancel and retry runs. apply: create, change and delete "
                        "jobs. push: push, pull and delete images. admin: everything, also drain, "
                        "prune and tokens. No other scope implies another: 'agent submit --wait' "
                        "needs read and submit. With a prefix only what belongs to such jobs can "
                        "be reached, so not the lists of everything, nor one-off runs.\n"
                        "Commands show the token in AGENT_TOKEN or in the file of --token-file; it "
                        "is never taken from a command line, where others can see it. Clients of "
                        "the registry log in with any user name and the token as the password.",
                    OPTIONS(token_options),
                    .groups = LISTING,
                    .args_min = 1,
                    .args_max = CLI_POS_MAX,
                    .words = CLI_WORD_LIST,
                    .list = "create new ls revoke",
                    EXAMPLES(token_examples) },
    [CLI_CA] = { .name = "ca",
                 .usage = "init | issue NAME [ADDRESS ...] | revoke NAME|SERIAL ... | rotate "
                          "[--finish] | show",
                 .summary = "make the cluster's certificates",
                 .text =
                     "A small authority in a directory, for a closed cluster: 'init' makes it, "
                     "'issue' makes a node's key and certificate with its name, its addresses and "
                     "localhost in it, and prints the lines for agent.conf. Certificates are "
                     "ECDSA P-256, for both sides of TLS. Keys are written with mode 0600; files "
                     "are replaced whole, so that running nodes can be pointed at them.\n"
                     "'revoke' puts certificates on the revocation list crl.pem. 'rotate' makes a "
                     "new authority beside the old one, 'rotate --finish' ends the old one's time. "
                     "'show' lists what was issued, and until when it is good.\n"
                     "Keep the directory off the nodes: whoever has ca.key can be any of them.",
                 OPTIONS(ca_options),
                 .args_min = 1,
                 .args_max = CLI_POS_MAX,
                 .words = CLI_WORD_LIST,
                 .list = "init issue revoke rotate show",
                 EXAMPLES(ca_examples) },
    [CLI_KEYGEN] = { .name = "keygen",
                     .usage = "",
                     .summary = "make a key for gossip",
                     .text =
                         "Prints 32 random bytes in base64, as the keygen of Serf and memberlist "
                         "does. To change the key of a running cluster, add the new one as a "
                         "second line of gossip.key_file everywhere, then make it the first "
                         "line everywhere, then take the old one away.",
                     EXAMPLES(keygen_examples) },
    [CLI_DOCTOR] = { .name = "doctor",
                     .usage = "[--config FILE] [--section.key=value ...]",
                     .summary = "say what this machine can and cannot do",
                     .text =
                         "Probes the kernel, cgroups, file systems, clock, disk and settings of "
                         "this machine, and says for each thing that is missing what is lost "
                         "without it and how to get it. Changes nothing. Exit code 1 when a run "
                         "could not work here.",
                     OPTIONS(doctor_options),
                     EXAMPLES(doctor_examples) },
    [CLI_CONFIG] = { .name = "config",
                     .usage = "example | check [FILE] [--section.key=value ...]",
                     .summary = "print an example agent.conf, or check one",
                     .text =
                         "'check' reads FILE as 'agent serve' would and prints the first mistake "
                         "with its line.",
                     .args_min = 1,
                     .args_max = 2,
                     .words = CLI_WORD_FILE,
                     .list = "example check",
                     EXAMPLES(config_examples) },
    [CLI_COMPLETION] = { .name = "completion",
                         .usage = "bash|zsh|fish",
                         .summary = "print a completion script for a shell",
                         .text =
                             "Commands and options are completed from the same table as this help; "
                             "jobs and runs by asking the node.",
                         .args_min = 1,
                         .args_max = 1,
                         .words = CLI_WORD_LIST,
                         .list = "bash zsh fish",
                         EXAMPLES(completion_examples) },
    [CLI_VERSION] = { .name = "version",
                      .usage = "",
                      .summary = "print the version of this binary",
                      .text = "The same as 'agent --version'.",
                      OPTIONS(version_options),
                      EXAMPLES(version_examples) },
    [CLI_HELP] = { .name = "help",
                   .usage = "[COMMAND] [--man | --man-conf]",
                   .summary = "show help",
                   .text = "The manual pages are made from the same text.",
                   OPTIONS(help_options),
                   .args_max = 1,
                   .words = CLI_WORD_LIST,
                   .list = "",
                   EXAMPLES(help_examples) },
};

const struct cli_command *cli_command_find(struct str name)
{
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        if (str_eqs(name, cli_commands[i].name)) {
            return &cli_commands[i];
        }
    }
    return NULL;
}

/* Words that people know from neighbours. */
static const struct {
    const char *word;
    enum cli_id id;
} synonyms[] = {
    { "run", CLI_SUBMIT },   { "dispatch", CLI_SUBMIT },  { "start", CLI_SUBMIT },
    { "ps", CLI_RUNS },      { "tasks", CLI_RUNS },       { "list", CLI_RUNS },
    { "ls", CLI_RUNS },      { "log", CLI_LOGS },         { "kill", CLI_CANCEL },
    { "stop", CLI_CANCEL },  { "peers", CLI_MEMBERS },    { "info", CLI_STATUS },
    { "show", CLI_INSPECT }, { "describe", CLI_INSPECT }, { "create", CLI_APPLY },
    { "image", CLI_IMAGES }, { "load", CLI_PUSH },        { "daemon", CLI_SERVE },
    { "server", CLI_SERVE }, { "result", CLI_OUTPUT },    { "get", CLI_INSPECT },
    { "login", CLI_TOKEN },  { "auth", CLI_TOKEN },       { "tokens", CLI_TOKEN },
    { "cert", CLI_CA },      { "certs", CLI_CA },         { "tls", CLI_CA },
    { "key", CLI_KEYGEN },   { "why", CLI_EXPLAIN },
};

const struct cli_command *cli_command_guess(struct str name)
{
    for (size_t i = 0; i < ARRAY_LEN(synonyms); i++) {
        if (str_eqs(name, synonyms[i].word)) {
            return &cli_commands[synonyms[i].id];
        }
    }
    const struct cli_command *best = NULL;
    unsigned best_distance = 3;
    for (size_t i = 0; i < CLI_COMMANDS; i++) {
        struct str known = str_of(cli_commands[i].name);
        unsigned d = str_distance(name, known);
        /* "sub" means submit: a beginning counts as one mistake. */
        if (name.n >= 2 && name.n < known.n && memcmp(name.p, known.p, name.n) == 0) {
            d = 1;
        }
        if (d < best_distance && d < known.n) {
            best = &cli_commands[i];
            best_distance = d;
        }
    }
    return best;
}

const struct cli_option *cli_command_option(const struct cli_command *c, size_t i)
{
    if (i < c->options_len) {
        return &c->options[i];
    }
    i -= c->options_len;
    for (size_t j = 0; j < cli_common_options_len; j++) {
        unsigned group = cli_common_groups[j];
        if (group != 0 && (c->groups & group) == 0) {
            continue;
        }
        if (i-- == 0) {
            return &cli_common_options[j];
        }
    }
    return NULL;
}
