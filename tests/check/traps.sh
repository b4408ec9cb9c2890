#!/bin/bash
# Two traps of static glibc programs, each set here with a module of ours that leaves a mark when it
# is loaded:
#
# * name service: a module that nsswitch.conf names brings a second libc into the process;
# * OpenSSL: a provider that the host's openssl.cnf names does the same, with a second libcrypto.
#
# First a program without the fix must be caught (else the trap is not set), then the agent must
# not be.
#
#   tests/check/traps.sh build/agent
set -u

agent=$(realpath "$1")
if [ "$(id -u)" -ne 0 ]; then
    echo "traps: needs root, for a mount namespace of its own" >&2
    exit 1
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

cat >"$dir/trap.c" <<'C'
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
__attribute__((constructor)) static void mark(void)
{
    const char *path = getenv("TRAP_MARK");
    if (path != NULL) {
        close(open(path, O_CREAT | O_WRONLY, 0644));
    }
}
C
cat >"$dir/nss.c" <<'C'
#include <netdb.h>
#include <pwd.h>
#include <stddef.h>
int main(void)
{
    struct addrinfo *list = NULL;
    (void)getpwnam("nobody-of-this-name");
    return getaddrinfo("localhost", "1", NULL, &list) == 0 ? 0 : 1;
}
C
cat >"$dir/ssl.c" <<'C'
#include <openssl/ssl.h>
int main(void)
{
    return OPENSSL_init_ssl(OPENSSL_INIT_LOAD_CONFIG, NULL) == 1 ? 0 : 1;
}
C
gcc -shared -fPIC -o "$dir/libnss_trap.so.2" "$dir/trap.c" &&
    gcc -static-pie -fPIE -o "$dir/nss" "$dir/nss.c" 2>/dev/null &&
    gcc -static-pie -fPIE -o "$dir/ssl" "$dir/ssl.c" -lssl -lcrypto 2>/dev/null || exit 1

for db in passwd group shadow hosts networks services protocols; do
    echo "$db: trap files"
done >"$dir/nsswitch.conf"
cat >"$dir/openssl.cnf" <<CNF
openssl_conf = init
[init]
providers = providers
[providers]
default = of_openssl
trap = of_ours
[of_openssl]
activate = 1
[of_ours]
module = $dir/libnss_trap.so.2
activate = 1
CNF
export LD_LIBRARY_PATH=$dir OPENSSL_CONF=$dir/openssl.cnf TRAP_MARK=$dir/mark

# Runs a command with both traps set; its output goes to $dir/out.
trapped() {
    rm -f "$dir/mark"
    TRAP_CONF=$dir/nsswitch.conf unshare -m --propagation private \
        sh -c 'mount --bind "$TRAP_CONF" /etc/nsswitch.conf && exec "$@"' sh "$@" \
        >"$dir/out" 2>&1 </dev/null
}

failed=0
fail() {
    echo "traps: $1"
    cat "$dir/out"
    failed=1
}

for control in nss ssl; do
    trapped "$dir/$control"
    [ -e "$dir/mark" ] || fail "the trap does not catch a program without the fix: $control"
done

for command in "status --node localhost:1" "doctor" "version"; do
    # shellcheck disable=SC2086 # words
    trapped "$agent" $command
    rc=$?
    [ "$rc" -lt 126 ] || fail "agent $command ended with $rc"
    [ ! -e "$dir/mark" ] || fail "agent $command loaded a module"
done

# With the user's name to look up, listening addresses, and digests.
trapped timeout -k 5 3 "$agent" serve --node.data_dir="$dir/data" --node.user=nobody \
    --http.listen=localhost:17575 --gossip.listen=localhost:17946
rc=$?
[ "$rc" -eq 0 ] || [ "$rc" -eq 124 ] || fail "agent serve ended with $rc"
[ ! -e "$dir/mark" ] || fail "agent serve loaded a module"

[ "$failed" -eq 0 ] && echo "ok   traps: the agent loads no module of the host"
exit "$failed"
