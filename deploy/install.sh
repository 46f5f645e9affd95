#!/usr/bin/env bash
# Installs bargein from this checkout as systemd services, on Debian 12 and Ubuntu 24.04 or newer. Run it again to
# upgrade; a release that is there already is not built again.
set -euo pipefail
umask 022

usage() {
    cat <<'END'
install.sh [OPTION...]              install the checkout that this script lies in, or upgrade to it
install.sh --rollback [--root DIR]  go back to the release before
install.sh --uninstall [--purge] [--root DIR]
                                    remove the services and releases; with --purge also settings, data and the user

  --root DIR      put everything under DIR, create no user and start nothing: for images and for trying it out
  --python PY     the Python for a new release (3.11 or newer; python3)
  --version NAME  the release's name (the version, with the commit)
  --extras LIST   more of bargein to install: tracing, smart-turn, echo, ... (comma-separated)
  --nemo          also an environment for STT_ENGINE=nemo, 2.3 GB
  --chatterbox    also an environment for TTS_ENGINE=chatterbox, 2 GB
  --no-start      enable the services, but do not start them

/opt/bargein/releases/NAME   releases; the last three are kept       /etc/bargein/bargein.env     settings, kept
/opt/bargein/current         the one that runs                       /etc/bargein/credentials/    secrets, kept
/opt/bargein/previous        the one before                          /var/lib/bargein/            data, kept
END
}

fail() { echo "install.sh: $*" >&2; exit 1; }
say() { echo "== $*"; }

source_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
root='' python=python3 version='' extras='' action=install purge='' start=yes copy='' engines=()
while [ $# -gt 0 ]; do
    case $1 in
        --root|--python|--version|--extras)
            [ $# -ge 2 ] || fail "$1: expected a value"
            printf -v "${1#--}" %s "$2"; shift ;;
        --nemo|--chatterbox) engines+=("${1#--}") ;;
        --rollback|--uninstall) action=${1#--} ;;
        --purge) purge=yes ;;
        --no-start) start='' ;;
        -h|--help) usage; exit 0 ;;
        *) usage >&2; fail "$1: no such option" ;;
    esac
    shift
done
if [ -n "$root" ]; then
    mkdir -p "$root"
    root=$(cd "$root" && pwd)
    [ "$root" != / ] || root=''
fi
[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "needs root (sudo deploy/install.sh), or --root DIR"

opt=$root/opt/bargein units=$root/etc/systemd/system etc=$root/etc/bargein data=$root/var/lib/bargein
defaults=(bargein.target bargein-redis.service bargein-gateway.service)
defaults+=(bargein-stt@1.service bargein-llm@1.service bargein-tts@1.service bargein-jobs@1.service)

# systemctl, offline where systemd does not run or everything goes under --root.
runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }
enablement() {
    command -v systemctl >/dev/null || { echo "no systemctl here: not done: systemctl $*" >&2; return; }
    SYSTEMD_LOG_LEVEL=warning systemctl ${root:+--root="$root"} "$@"
}

target_of() { basename "$(readlink "$opt/$1" 2>/dev/null || true)"; }

# The link at once points to the other release: there is no moment without one.
point() { ln -sfn "releases/$2" "$opt/.$1.new" && mv -Tf "$opt/.$1.new" "$opt/$1"; }

release_name() {
    local number commit
    number=$(sed -n 's/^version = "\(.*\)"/\1/p' "$source_dir/pyproject.toml")
    commit=$(git -C "$source_dir" rev-parse --short HEAD 2>/dev/null || true)
    echo "$number${commit:+-$commit}"
}

check_python() {
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null && [ -z "$root" ] && command -v apt-get >/dev/null; then
        say "installing python3-venv"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends python3-venv
    fi
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is $("$python" --version 2>&1 | tail -n 1); expected Python 3.11 or newer: --python PY"
    "$python" -c 'import venv, ensurepip' || fail "$python cannot make environments; apt-get install python3-venv"
}

pip() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check "${@:2}"; }

# A copy without what lies about: setuptools leaves its own in the tree it builds from, and takes it up the next time.
copy_source() {
    [ -z "$copy" ] || return 0
    copy=$(mktemp -d)
    trap 'rm -rf "$copy"' EXIT
    (cd "$source_dir" && cp -RL bargein bus gateway workers pyproject.toml README.md LICENSE "$copy")
}

build_engine() { # ENGINE RELEASE: the recipes of make install-nemo and make install-chatterbox
    local venv=$2/venv-$1
    [ ! -e "$venv/.complete" ] || return 0
    say "$1's environment"
    rm -rf "$venv"
    copy_source
    "$python" -m venv "$venv"
    if [ "$1" = nemo ]; then
        pip "$venv" -c "$source_dir/constraints-nemo.txt" torch
        pip "$venv" -c "$source_dir/constraints-nemo.txt" "bargein[nemo] @ file://$copy"
    else
        pip "$venv" torch==2.13.0
        pip "$venv" -r "$source_dir/chatterbox.txt"
        pip "$venv" --no-deps chatterbox-tts==0.1.7
        pip "$venv" -c "$source_dir/constraints.txt" "bargein @ file://$copy"
    fi
    touch "$venv/.complete"
}

build() { # RELEASE: its environment and its units; what is not whole has no .complete
    local release=$1
    if [ ! -e "$release/.complete" ]; then
        say "building $(basename "$release")"
        rm -rf "$release"
        mkdir -p "$release"
        copy_source
        "$python" -m venv "$release/venv"
        pip "$release/venv" -c "$source_dir/constraints.txt" "bargein${extras:+[$extras]} @ file://$copy"
        (cd / && "$release/venv/bin/python" -c 'import bus.server, gateway.app, workers.supervisor') ||
            fail "$(basename "$release") does not start; nothing was changed"
        cp -R "$source_dir/deploy/systemd" "$release/systemd"
        touch "$release/.complete"
    fi
    for engine in ${engines[@]+"${engines[@]}"}; do build_engine "$engine" "$release"; done
}

install_units() { # of the current release, and no others of ours
    mkdir -p "$units/bargein-.service.d"
    rm -f "$units"/bargein-{redis,gateway}.service "$units"/bargein-{stt,llm,tts,jobs}@.service "$units/bargein.target"
    install -m 0644 "$opt"/current/systemd/bargein*.{service,target} -t "$units"
    install -m 0644 "$opt"/current/systemd/bargein-.service.d/*.conf -t "$units/bargein-.service.d"
    if runs; then systemctl daemon-reload; fi
}

# One after the other, each when the one before is ready again; Redis stays. Calls go on where there are two of each.
restart() {
    runs || return 0
    local unit
    for unit in $(systemctl list-units --plain --no-legend --state=active 'bargein-*.service' | awk '{print $1}'); do
        [ "$unit" = bargein-redis.service ] && continue
        say "restarting $unit"
        systemctl try-restart "$unit"
    done
}

make_user() {
    [ -z "$root" ] || return 0
    getent passwd bargein >/dev/null ||
        useradd --system --user-group --home-dir /var/lib/bargein --no-create-home --shell /usr/sbin/nologin bargein
    chown bargein:bargein "$data"
}

settings() {
    mkdir -p "$etc" "$data"
    install -d -m 0700 "$etc/credentials"
    chmod 0750 "$data"
    [ ! -e "$etc/bargein.env" ] || return 0
    {
        echo "# bargein's settings on this machine: take the # away where you want another value. Secrets do not belong"
        echo "# here but into files in /etc/bargein/credentials: docs/deploy.md."
        sed -e '1,/^$/d' -e 's/^\([A-Z]\)/# \1/' "$source_dir/.env.example"
    } > "$etc/bargein.env"
    chmod 0640 "$etc/bargein.env"
}

prune() { # all releases but the current, the previous and the newest three
    local kept=0 release
    for release in $(cd "$opt/releases" && ls -t); do
        kept=$((kept + 1))
        if [ "$kept" -gt 3 ] && [ "$release" != "$(target_of current)" ] && [ "$release" != "$(target_of previous)" ]; then
            rm -rf "${opt:?}/releases/$release"
        fi
    done
}

do_install() {
    local before
    version=${version:-$(release_name)}
    [[ $version =~ ^[A-Za-z0-9][A-Za-z0-9._+-]*$ ]] || fail "--version $version: expected letters, digits and . _ + -"
    check_python
    mkdir -p "$opt/releases"
    build "$opt/releases/$version"
    settings
    make_user
    before=$(target_of current)
    if [ -n "$before" ] && [ "$before" != "$version" ]; then point previous "$before"; fi
    point current "$version"
    install_units
    if [ -z "$before" ]; then
        enablement enable "${defaults[@]}"
        if runs && [ -n "$start" ]; then systemctl start bargein.target; fi
    elif [ "$before" != "$version" ]; then
        restart
    fi
    prune
    if [ "$before" = "$version" ]; then before=''; fi
    say "bargein $version is installed${before:+; before it was $before}"
}

do_rollback() {
    local now before
    now=$(target_of current) before=$(target_of previous)
    if [ -z "$before" ] || [ ! -e "$opt/releases/$before/.complete" ]; then
        fail "there is no release before ${now:-the first}"
    fi
    point current "$before"
    point previous "$now"
    install_units
    restart
    say "bargein $before runs again; --rollback once more goes back to $now"
}

do_uninstall() {
    if runs; then systemctl stop bargein.target 'bargein-*.service' || true; fi
    # Whatever instances were enabled: their links.
    rm -rf "$units/bargein.target.wants"
    rm -f "$units/multi-user.target.wants/bargein.target"
    rm -f "$units"/bargein-{redis,gateway}.service "$units"/bargein-{stt,llm,tts,jobs}@.service "$units/bargein.target"
    rm -rf "$units/bargein-.service.d" "$opt"
    if runs; then systemctl daemon-reload; fi
    if [ -n "$purge" ]; then
        rm -rf "$etc" "$data"
        if [ -z "$root" ] && getent passwd bargein >/dev/null; then userdel bargein; fi
        say "bargein, its settings and its data are removed"
    else
        say "bargein is removed; its settings ($etc) and data ($data) stay (--purge removes them)"
    fi
}

"do_$action"
