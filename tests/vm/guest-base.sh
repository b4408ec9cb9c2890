#!/bin/sh
# vm: cpu=max memory=1024 smp=2
# A bare 6.1 kernel with cgroup v2: the agent starts, takes an image and runs it.
. /root/lib.sh

for c in cpuset cpu io memory pids; do
    check "controller $c" grep -qw "$c" /sys/fs/cgroup/cgroup.controllers
done
check "pressure stall information" test -r /proc/pressure/cpu
check "agent version" agent version
check "agent doctor" agent doctor

if start_agent; then
    pass "agent serve"
else
    fail "agent serve" "$(cat /tmp/agent.log)"
    echo DONE
    exit
fi
check "push" agent push /root/busybox.tar
equal "run" "hello" "$(agent submit lab/busybox:1 --wait -- echo hello 2>/tmp/err || cat /tmp/err)"
agent submit lab/busybox:1 --wait -- sh -c 'exit 7' >/dev/null 2>&1
equal "exit code" 7 $?
equal "payload" "$(head -c 3000000 /dev/zero | tr '\0' x | md5sum)" \
    "$(head -c 3000000 /dev/zero | tr '\0' x | agent submit lab/busybox:1 --wait -- md5sum)"

# shellcheck disable=SC2154 # set by start_agent
kill -TERM "$agent_pid"
wait "$agent_pid"
equal "SIGTERM" 0 $?
echo DONE
