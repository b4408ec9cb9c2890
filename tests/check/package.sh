#!/bin/bash
# Builds the Debian package and judges it: content, the same bytes twice, unit, manual pages,
# completion, lintian; then a whole life in an empty root: install, upgrade with an edited
# configuration, remove, purge.
#
#   tests/check/package.sh build 0.1.0-dev
set -u

build=$1
version=$2
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
failed=0
fail() {
    echo "package: $*"
    failed=1
}
make_deb() {
    ${MAKE:-make} --no-print-directory -s B="$build" VERSION="$version" deb >"$dir/log" 2>&1 || {
        cat "$dir/log"
        echo "package: make deb failed"
        exit 1
    }
    deb=$build/$(tail -n 1 "$dir/log" | sed 's,.*/,,')
}

make_deb
cp "$deb" "$dir/first.deb"
make_deb
cmp -s "$deb" "$dir/first.deb" || fail "the same tree gave two different packages"

dpkg-deb -c "$deb" | awk '{ print $1, $2, $6 }' >"$dir/list"
while read -r wanted; do
    grep -qxF -- "$wanted" "$dir/list" || fail "is not in the package: $wanted"
done <<'LIST'
-rwxr-xr-x root/root ./usr/bin/agent
-rw-r--r-- root/root ./lib/systemd/system/agent.service
-rw-r--r-- root/root ./etc/agent/agent.conf
-rw-r--r-- root/root ./usr/share/man/man8/agent.8.gz
-rw-r--r-- root/root ./usr/share/man/man5/agent.conf.5.gz
-rw-r--r-- root/root ./usr/share/bash-completion/completions/agent
-rw-r--r-- root/root ./usr/share/zsh/vendor-completions/_agent
-rw-r--r-- root/root ./usr/share/fish/vendor_completions.d/agent.fish
-rw-r--r-- root/root ./usr/share/doc/agent/copyright
-rw-r--r-- root/root ./usr/share/doc/agent/changelog.gz
LIST
dpkg-deb -I "$deb" conffiles | grep -qx /etc/agent/agent.conf || fail "agent.conf is no conffile"

root=$dir/x
dpkg-deb -x "$deb" "$root"
for page in man8/agent.8 man5/agent.conf.5; do
    gzip -dc "$root/usr/share/man/$page.gz" >"$dir/page"
    [ -s "$dir/page" ] || fail "$page is empty"
    warnings=$(LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings=w -E UTF-8 -l -Tutf8 -Z \
        "$dir/page" 2>&1 >/dev/null)
    [ -z "$warnings" ] || fail "$page: $warnings"
done
bash -n "$root/usr/share/bash-completion/completions/agent" || fail "the completion does not parse"
"$root/usr/bin/agent" version >/dev/null || fail "the packaged binary does not run"
if command -v systemd-analyze >/dev/null; then
    sed "s,/usr/bin/agent,$root&," "$root/lib/systemd/system/agent.service" >"$dir/agent.service"
    verify=$(systemd-analyze verify --man=no "$dir/agent.service" 2>&1 | grep -F agent.service)
    [ -z "$verify" ] || fail "unit: $verify"
fi
if command -v lintian >/dev/null; then
    # bad-distribution and the like are for uploads to Debian.
    lintian --allow-root --tag-display-limit 0 --fail-on error,warning \
        --suppress-tags bogus-mail-host-in-debian-changelog,initial-upload-closes-no-bugs \
        "$deb" >"$dir/lintian" 2>&1 || {
        fail "lintian:"
        cat "$dir/lintian"
    }
fi

# An empty root with a shell; the tools that the scripts call say what they were asked.
if [ "$(id -u)" -eq 0 ]; then
    root=$dir/root
    mkdir -p "$root"/{bin,usr/bin,usr/sbin,etc,dev,var/lib/dpkg/info,var/lib/dpkg/updates,tmp,run}
    : >"$root/var/lib/dpkg/status"
    for tool in sh rm mkdir chmod; do
        path=/bin/$tool
        cp -L "$path" "$root/bin/$tool"
        ldd "$path" | grep -o '/[^ ]*' | while read -r lib; do
            mkdir -p "$root${lib%/*}"
            cp -L "$lib" "$root$lib"
        done
    done
    : >"$root/dev/null"
    for tool in usr/sbin/adduser usr/bin/deb-systemd-helper usr/bin/deb-systemd-invoke; do
        printf '#!/bin/sh\necho "%s $*" >>/calls\n' "${tool##*/}" >"$root/$tool"
        chmod 755 "$root/$tool"
    done
    echo 'root:x:0:0:root:/:/bin/sh' >"$root/etc/passwd"
    echo 'root:x:0:' >"$root/etc/group"
    in_root() {
        DEBIAN_FRONTEND=noninteractive dpkg --root="$root" --force-depends --force-confold "$@" \
            >"$dir/log" 2>&1 </dev/null || {
            fail "dpkg $*:"
            cat "$dir/log"
        }
    }
    in_root -i "$deb"
    [ "$(stat -c %a "$root/var/lib/agent" 2>/dev/null)" = 711 ] ||
        fail "no /var/lib/agent of mode 711"
    grep -q '^adduser .*--system.* agent$' "$root/calls" || fail "the user agent was not made"
    grep -qx 'deb-systemd-helper enable agent.service' "$root/calls" ||
        grep -qx 'deb-systemd-helper --quiet was-enabled agent.service' "$root/calls" ||
        fail "the unit was not enabled"
    echo '# edited' >>"$root/etc/agent/agent.conf"
    in_root -i "$deb"
    grep -qx '# edited' "$root/etc/agent/agent.conf" || fail "an upgrade lost the edited agent.conf"
    in_root -r agent
    [ -e "$root/usr/bin/agent" ] && fail "the binary is left after remove"
    [ -e "$root/etc/agent/agent.conf" ] || fail "remove took agent.conf away"
    in_root -P agent
    for left in etc/agent var/lib/agent usr/share/doc/agent lib/systemd; do
        [ -e "$root/$left" ] && fail "/$left is left after purge"
    done
else
    echo "package: installing was not tried: needs root"
fi

[ "$failed" -eq 0 ] && echo "ok   package: ${deb##*/}, $(stat -c %s "$deb") bytes"
exit "$failed"
