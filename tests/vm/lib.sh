# What guest scripts share. Source it first: . /root/lib.sh
# shellcheck shell=sh

pass() {
    echo "PASS $1"
}

# fail NAME WHY...
fail() {
    _name=$1
    shift
    echo "FAIL $_name: $*"
}

# check NAME COMMAND...: passes when the command does.
check() {
    _name=$1
    shift
    if _out=$("$@" 2>&1); then
        pass "$_name"
    else
        fail "$_name" "exit $? of '$*': $_out"
    fi
}

# equal NAME WANTED GOT
equal() {
    if [ "$2" = "$3" ]; then
        pass "$1"
    else
        fail "$1" "wanted '$2', got '$3'"
    fi
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
    _left=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        _left=$((_left - 1))
        [ "$_left" -gt 0 ] || return 1
        sleep 1
    done
}

# Starts the agent in a cgroup of its own, as systemd would; its pid is in $agent_pid.
start_agent() {
    mkdir -p /sys/fs/cgroup/agent.service
    sh -c 'echo $$ >/sys/fs/cgroup/agent.service/cgroup.procs; exec agent serve "$@"' sh "$@" \
        >/tmp/agent.log 2>&1 &
    agent_pid=$!
    within 20 agent status
}
