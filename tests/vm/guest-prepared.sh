#!/bin/sh
# vm: cpu=max memory=1024 smp=2 timeout=240
# Prepared sandboxes on 6.1 with cgroup v2: the probes see the same in one that was built ahead and
# in one built when its run came; none outlives its launcher.
. /root/lib.sh

start_agent || fail "agent serve" "$(cat /tmp/agent.log)"
image=lab/probes:1
check "push" agent push /root/probes.tar
if [ "$(agent submit $image --wait -- ls /bin | grep -c '^probe_')" = 0 ]; then
    fail "the image has probes" "none"
fi

# The agent names a run's host itself: what the probe says of that is for another test.
lines() {
    grep -E '^(ok|FAIL)' | grep -vE 'host name|/etc/hosts has our name|/etc/hostname|HOSTNAME'
}

# probe NAME WARM|COLD: its lines in /tmp/NAME.KIND, from a start of that kind.
probe() {
    _tries=0
    while :; do
        run=$(submit $image -- "$1")
        ended "$run" 60 || fail "$1: an end" "$(cat "/tmp/$run")"
        kind=$(field start_kind <"/tmp/$run")
        if [ "$2" = warm ] && [ "$kind" != warm ] && [ $_tries -lt 20 ]; then
            _tries=$((_tries + 1))
            sleep 1
            continue
        fi
        break
    done
    case "$2:$kind" in
    warm:warm | built:cold | built:cached) pass "$1: the start was $kind" ;;
    *) fail "$1: the start is $2" "it was '$kind'" ;;
    esac
    agent output "$run" | lines >"/tmp/$1.$2"
    check "$1: many lines ($2)" test "$(wc -l <"/tmp/$1.$2")" -ge 100
    equal "$1: all good ($2)" "" "$(grep '^FAIL' "/tmp/$1.$2")"
}

probe probe_calls warm
probe probe_view warm
run=$(submit $image --memory 48MiB -- sh -c 'tail /dev/zero; echo survived')
ended "$run" 40
equal "over memory, prepared: reason" oom "$(field reason <"/tmp/$run")"

waiting() {
    grep -l '^Uid:.1879113727' /proc/[0-9]*/status 2>/dev/null | wc -l
}
within 20 sh -c "grep -l '^Uid:.1879113727' /proc/[0-9]*/status | grep -q ." ||
    fail "one is prepared" "$(waiting)"
# shellcheck disable=SC2154 # set by start_agent
kill -KILL "$agent_pid"
wait "$agent_pid"
within 10 sh -c "! grep -l '^Uid:.1879113727' /proc/[0-9]*/status | grep -q ." ||
    fail "none outlives its launcher" "$(waiting)"
pass "none outlives its launcher"

start_agent --sandbox.prepared=none || fail "agent serve again" "$(cat /tmp/agent.log)"
probe probe_calls built
probe probe_view built
for name in probe_calls probe_view; do
    check "$name: the same on both paths" cmp "/tmp/$name.warm" "/tmp/$name.built"
done
kill -TERM "$agent_pid"
wait "$agent_pid"
check "no group is left" sh -c '! ls -d /sys/fs/cgroup/agent-*/slot-* 2>/dev/null | grep .'
echo DONE
