#!/bin/bash
# Five nodes on one machine as a closed cluster: TLS between them, tokens for people, gossip with a
# key.
#
#   sudo make demo-cluster        or   AGENT=build/agent tests/demo/cluster.sh
#
# Push to one node, register on another, trigger on a third, run on a fourth; one node joins late,
# one is killed in the middle of a run and brought back. At the end nothing may be left: no process,
# mount, cgroup or file.
set -euo pipefail

agent=$(realpath "${AGENT:-build/agent}")
here=$(cd "$(dirname "$0")/../.." && pwd)
if [ "$(id -u)" -ne 0 ]; then
    echo "demo: needs root, as 'agent serve' does: sudo make demo-cluster" >&2
    exit 1
fi

if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then
    bold=$'\033[1m' dim=$'\033[2m' off=$'\033[0m'
else
    bold='' dim='' off=''
fi
step() { printf '\n%s%s%s\n' "$bold" "$*" "$off"; }
show() { printf '%s$ %s%s\n' "$dim" "$*" "$off"; }
die() {
    printf 'demo: %s\n' "$*" >&2
    exit 1
}

dir=$(mktemp -d /tmp/agent-cluster-XXXXXX)
chmod 711 "$dir"
declare -A pid port gossip
cgroups=

stop_node() {
    local p=${pid[$1]-}
    [ -n "$p" ] || return 0
    kill -TERM "$p" 2>/dev/null || true
    for _ in $(seq 200); do
        kill -0 "$p" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$p" 2>/dev/null || true
    wait "$p" 2>/dev/null || true
    unset "pid[$1]"
}
find_cgroups() {
    local p
    for p in "${pid[@]}"; do
        local child
        for child in $(pgrep -P "$p"); do
            cut -d: -f3 "/proc/$child/cgroup" 2>/dev/null || true
        done
    done | grep -o '^/.*agent-[0-9a-f]*' | sort -u | while read -r path; do
        find /sys/fs/cgroup -maxdepth 6 -type d -path "*${path#/}" 2>/dev/null
    done | sort -u
}
stop_all() {
    local name group
    cgroups="$cgroups $(find_cgroups || true)"
    for name in "${!pid[@]}"; do
        kill -TERM "${pid[$name]}" 2>/dev/null || true
    done
    for name in "${!pid[@]}"; do
        stop_node "$name"
    done
    for group in $cgroups; do
        [ ! -d "$group" ] || find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
}
clean() {
    status=$?
    stop_all
    if [ "$status" -ne 0 ]; then
        for log in "$dir"/*.log; do
            [ -s "$log" ] || continue
            echo "demo: the last words of $(basename "$log" .log):" >&2
            tail -n 12 "$log" >&2
        done
    fi
    rm -rf "$dir"
    exit "$status"
}
trap clean EXIT
trap 'exit 130' INT TERM

free_port() {
    local p
    for p in $(shuf -i 20000-32000 -n 50); do
        if ! (exec 3<>"/dev/tcp/127.0.0.1/$p") 2>/dev/null; then
            echo "$p"
            return
        fi
    done
    die "no free port on loopback"
}

# start_node NAME [LABELS]: its own data, ports, certificate
start_node() {
    local name=$1
    if [ -z "${port[$name]-}" ]; then
        port[$name]=$(free_port)
        gossip[$name]=$(free_port)
        "$agent" ca issue "$name" 127.0.0.1 --dir "$dir/ca" --out "$dir" >/dev/null
        cat >"$dir/$name.conf" <<CONF
[node]
name = $name
data_dir = $dir/$name
user = nobody
slots = 2
labels = ${2-}
[http]
listen = 127.0.0.1:${port[$name]}
tls_cert = $dir/$name.pem
tls_key = $dir/$name.key
tls_client_ca = $dir/ca/ca.pem
tls_crl = $dir/ca/crl.pem
[gossip]
listen = 127.0.0.1:${gossip[$name]}
join = 127.0.0.1:${gossip[paris]}
key_file = $dir/gossip.key
[auth]
tokens_file = $dir/tokens
[sandbox]
grace = 2s
CONF
    fi
    "$agent" serve --config "$dir/$name.conf" >>"$dir/$name.log" 2>&1 </dev/null &
    pid[$name]=$!
    for _ in $(seq 200); do
        if at "$name" nodes "$name" >/dev/null 2>"$dir/why"; then
            return
        fi
        kill -0 "${pid[$name]}" 2>/dev/null || die "node $name did not start"
        sleep 0.05
    done
    die "node $name does not answer: $(cat "$dir/why")"
}

# at NAME COMMAND...: a client of that node
at() {
    local name=$1
    shift
    AGENT_ADDR=127.0.0.1:${port[$name]} "$agent" "$@"
}
within() { # SECONDS WHAT...: until it succeeds
    local seconds=$1 begin
    shift
    begin=$(date +%s%N)
    until "$@"; do
        [ $((($(date +%s%N) - begin) / 1000000)) -lt $((seconds * 1000)) ] ||
            die "not within $seconds s: $*"
        sleep 0.05
    done
    took=$((($(date +%s%N) - begin) / 1000000))
}
sees() { # NODE COUNT: that many nodes answered it
    at "$1" status -o json 2>/dev/null | grep -q "\"answered\": *$2[,}]"
}
all_see() {
    local name
    for name in "${!pid[@]}"; do
        sees "$name" "$1" || return 1
    done
}
field() { grep -o "\"$1\": *[^,}]*" | head -n 1 | sed 's/^[^:]*: *//; s/"//g'; }
run_field() { at paris inspect "$1" -o json | field "$2"; }
runs_at() { [ "$(run_field "$1" state)" = running ]; }
knows_job() { at "$1" inspect "$2" >/dev/null 2>&1; }
attempt_is() { [ "$(run_field "$1" attempt)" = "$2" ] && runs_at "$1"; }

# ---------------------------------------------------------------- the story

step "1. A closed cluster takes three commands: an authority, certificates, a key for gossip"
show "agent ca init; agent ca issue NODE ...; agent keygen > gossip.key; agent token new ..."
"$agent" ca init --dir "$dir/ca" >/dev/null
(umask 077 && "$agent" keygen >"$dir/gossip.key")
"$agent" token new --name demo --scope admin >"$dir/token.txt"
AGENT_TOKEN=$(grep -o 'agt_[a-z0-9]*' "$dir/token.txt")
grep 'sha256:' "$dir/token.txt" | sed 's/^ *//' >"$dir/tokens"
# The part without privileges reads them.
chown nobody "$dir/tokens" "$dir/gossip.key"
chmod 400 "$dir/tokens"
export AGENT_TOKEN AGENT_CA=$dir/ca/ca.pem

step "2. Four nodes"
show "agent serve --config paris.conf ..."
start_node paris
start_node tokio
start_node quito
start_node cairo gpu=yes
within 20 all_see 4
at quito status
anonymous=$(AGENT_TOKEN='' at paris nodes 2>&1 || true)
echo "$anonymous" | grep -qi token || die "a stranger was let in: $anonymous"
echo "(without the token: ${anonymous#agent: })"

step "3. Pushed to paris, registered at tokio, triggered at quito, run by cairo"
python3 "$here/tests/lib/tiny_image.py" "$dir/busybox.tar" team/busybox:1
at paris push "$dir/busybox.tar"
cat >"$dir/greet.json" <<'JSON'
{ "name": "greet", "image": "team/busybox:1", "memory": "64MiB", "require": ["gpu=yes"],
  "command": ["sh", "-c", "echo \"from $AGENT_NODE: $(cat)\"; echo done >&2"] }
JSON
show "agent apply -f greet.json            # at tokio"
at tokio apply -f "$dir/greet.json"
within 10 knows_job quito greet
show "echo hello | agent submit greet --wait     # at quito"
begin=$(date +%s%N)
got=$(echo hello | at quito submit greet --wait)
echo "$got   ($((($(date +%s%N) - begin) / 1000000)) ms, the image fetched from paris)"
[ "$got" = "from cairo: hello" ] || die "that is not what was expected: $got"
begin=$(date +%s%N)
got=$(echo again | at quito submit greet --wait)
echo "$got   ($((($(date +%s%N) - begin) / 1000000)) ms)"
run=$(at paris runs -q -n 1)
show "agent inspect $run     # at paris"
at paris inspect "$run"
[ "$(at tokio output "$run")" = "from cairo: again" ] || die "tokio does not have the output"

step "4. A fifth node joins late"
start_node lagos
within 20 all_see 5
echo "every node sees five after $took ms"
cat >"$dir/spread.json" <<'JSON'
{ "name": "spread", "image": "team/busybox:1", "memory": "64MiB",
  "retries": { "max": 3, "delay": "0s" },
  "command": ["sh", "-c", "echo $AGENT_NODE; sleep ${PAUSE:-1}"] }
JSON
at lagos apply -f "$dir/spread.json"
within 10 knows_job quito spread
show "twenty runs, triggered at quito, which has two slots"
declare -A by
ids=$(for _ in $(seq 20); do at quito submit spread -o name | sed 's,.*/,,'; done)
for id in $ids; do
    where=$(at lagos output -f "$id")
    by[$where]=$((${by[$where]-0} + 1))
done
for name in "${!by[@]}"; do echo "  $name ran ${by[$name]}"; done | sort
[ "${#by[@]}" -ge 4 ] || die "the runs were not spread"

step "5. A node is killed while it runs something"
cat >"$dir/long.json" <<'JSON'
{ "name": "long", "image": "team/busybox:1", "memory": "64MiB",
  "retries": { "max": 3, "delay": "0s" }, "require": ["node.name!=quito"],
  "command": ["sh", "-c", "sleep 15; echo \"$AGENT_NODE, attempt $AGENT_ATTEMPT\""] }
JSON
at quito apply -f "$dir/long.json" >/dev/null
id=$(at quito submit long -o name | sed 's,.*/,,')
# Whoever asks is paris, so that one stays.
within 20 runs_at "$id"
victim=$(run_field "$id" node)
if [ "$victim" = paris ]; then
    echo "(paris runs it: another one then)"
    at quito cancel "$id" >/dev/null
    sed -i 's/node.name!=quito"/node.name!=quito", "node.name!=paris"/' "$dir/long.json"
    at quito apply -f "$dir/long.json" >/dev/null
    id=$(at quito submit long -o name | sed 's,.*/,,')
    within 20 runs_at "$id"
    victim=$(run_field "$id" node)
fi
cgroups="$cgroups $(find_cgroups || true)"
show "kill -9 $victim     # launcher and agent; the run is on it"
for child in $(pgrep -P "${pid[$victim]}"); do
    kill -KILL "$child" 2>/dev/null || true
done
kill -KILL "${pid[$victim]}"
wait "${pid[$victim]}" 2>/dev/null || true
unset "pid[$victim]"
within 60 attempt_is "$id" 2
echo "attempt 2 runs on $(run_field "$id" node) after $took ms"
at quito status | sed -n '1,9p'
start_node "$victim"
within 30 all_see 5
echo "$victim is back: every node sees five after $took ms"
at paris output -f "$id"
at paris runs -n 1

step "6. One drains, one leaves"
show "agent drain lagos; agent leave lagos     # at paris"
at paris drain lagos
at paris leave lagos
wait "${pid[lagos]}" || die "lagos ended badly"
unset "pid[lagos]"
at tokio members

step "7. Nothing stays"
stop_all
left=0
for p in /proc/[0-9]*; do
    if [ "${p#/proc/}" != "$$" ] && [ "${p#/proc/}" != "$BASHPID" ] &&
        grep -qaF "$dir/" "$p/cmdline" 2>/dev/null; then
        echo "left: process ${p#/proc/}" && left=1
    fi
done
if grep -F "$dir" /proc/self/mountinfo; then
    echo "left: a mount" && left=1
fi
for group in $cgroups; do
    [ ! -d "$group" ] || { echo "left: cgroup $group" && left=1; }
done
rm -rf "$dir"
[ "$left" -eq 0 ] || die "something was left behind"
echo "no process, no mount, no cgroup, no file of the demo is left"
