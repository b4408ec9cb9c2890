#!/bin/sh
# vm: cpu=max memory=1024 smp=2 timeout=200
# kill -9 of the agent process, of the launcher, of both: every accepted run is there and ends; live
# sandboxes are taken up again, their output whole.
. /root/lib.sh

start_agent || fail "agent serve" "$(cat /tmp/agent.log)"
agent push /root/busybox.tar >/dev/null || fail "push" "exit $?"
image=lab/busybox:1

# The agent process is the launcher's child that is no sandbox: the one that runs as its user.
agent_process() {
    for p in /proc/[0-9]*; do
        if [ "$(readlink "$p/exe")" = /usr/bin/agent ] && grep -q '^Uid:.990.990' "$p/status"; then
            echo "${p#/proc/}"
        fi
    done
}

# A run of ten seconds that writes a line each second, and the same lines as it should end with.
slow() {
    submit $image -- sh -c 'for i in $(seq 10); do echo line $i; sleep 1; done'
}
wanted=$(for i in $(seq 10); do echo "line $i"; done)

try() { # NAME: kills by the command in $2, then looks at a run that was going on
    run=$(slow)
    within 15 sh -c "agent output $run | grep -q 'line 2'" || fail "$1: running" "no output"
    eval "$2"
    within 30 agent status || fail "$1: back" "$(tail -n 20 /tmp/agent.log)"
    ended "$run" 40 || fail "$1: end" "$(cat "/tmp/$run")"
    equal "$1: state" succeeded "$(field state <"/tmp/$run")"
    equal "$1: attempt" 1 "$(field attempt <"/tmp/$run")"
    equal "$1: output" "$wanted" "$(agent output "$run")"
}

check "one agent process" test "$(agent_process | wc -l)" = 1
try "kill -9 of the agent process" 'kill -9 "$(agent_process)"'
# shellcheck disable=SC2154 # set by start_agent
try "kill -9 of the launcher" 'kill -9 $agent_pid; sleep 1; start_agent'
try "kill -9 of both" 'kill -9 $agent_pid "$(agent_process)"; sleep 1; start_agent'
echo DONE
