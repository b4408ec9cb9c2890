/*
 * agent - one binary: the daemon of a node (launcher, agent process, inits) and its client.
 */
#include <nss.h>
#include <openssl/ssl.h>

#include "agent/cli/cli.h"
#include "agent/sandbox/sandbox.h"

int main(int argc, char **argv)
{
    sandbox_main_hook(argc, argv);
    /* A static glibc program must not load name service modules: they bring a second libc. */
    (void)__nss_configure_lookup("hosts", "files dns");
    (void)__nss_configure_lookup("passwd", "files");
    (void)__nss_configure_lookup("group", "files");
    (void)__nss_configure_lookup("services", "files");
    /* Nor may the host's openssl.cnf make it load a second libcrypto. */
    (void)OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    return cli_main(argc, argv);
}
