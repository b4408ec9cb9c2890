/*
 * agent - one binary: the daemon of a node (launcher, agent process, inits) and its client.
 */
#include <nss.h>
#include <openssl/ssl.h>
#include <string.h>

#include "agent/cli/cli.h"
#include "agent/daemon.h"
#include "agent/sandbox/sandbox.h"
#include "common/mem.h"

static int serve(int argc, char **argv)
{
    struct cli_serve asked;
    int code = cli_serve_parse(argc, argv, &asked);
    if (code != 0) {
        return code;
    }
    const struct daemon_options options = { .config = asked.config,
                                            .overrides = asked.overrides,
                                            .overrides_len = asked.overrides_len };
    code = daemon_serve(&options);
    mem_free(asked.overrides);
    return code;
}

int main(int argc, char **argv)
{
    sandbox_main_hook(argc, argv); /* before anything: a slot's spawner goes no further */
    /* A static glibc program must not load name service modules: they bring a second libc. */
    (void)__nss_configure_lookup("hosts", "files dns");
    (void)__nss_configure_lookup("passwd", "files");
    (void)__nss_configure_lookup("group", "files");
    (void)__nss_configure_lookup("services", "files");
    /* Nor may the host's openssl.cnf make it load a second libcrypto. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    if (argc > 1 && strcmp(argv[1], DAEMON_AGENT_WORD) == 0) {
        return daemon_agent(argc, argv);
    }
    return cli_is_serve(argc, argv) ? serve(argc, argv) : cli_main(argc, argv);
}
