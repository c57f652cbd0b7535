#!/bin/sh
# Sets up what the make targets and .ci/run need, where it is missing:
#
#   tools/setup.sh demo|bench|test|lint   Debian packages, .venv with this project in it
#   tools/setup.sh python           the .venv only
#   tools/setup.sh packages demo|bench|test
#   tools/setup.sh pythons          "3.X PATH" of each interpreter that the tests can use
#   tools/setup.sh pure 3.X PATH    .venv-3.X with what the pure tests need
#
# Packages are installed when we are root and there is an apt-get; otherwise one line says
# what is missing.  PYTHON=... names the interpreter of .venv (default: python3).
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

DEMO_TOOLS='ip:iproute2 arping:iputils-arping'
BENCH_TOOLS="$DEMO_TOOLS cc:gcc /usr/include/stdio.h:libc6-dev"
TEST_TOOLS="$DEMO_TOOLS ping:iputils-ping tcpdump:tcpdump tshark:tshark busybox:busybox \
shellcheck:shellcheck udevadm:udev keepalived:keepalived socat:socat \
prometheus:prometheus prometheus-node-exporter:prometheus-node-exporter \
systemd-analyze:systemd man:man-db groff:groff-base \
qemu-system-x86_64:qemu-system-x86 lz4:lz4 zstd:zstd \
/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring"
PURE_NEEDS='pytest>=7 pytest-timeout>=2 hypothesis>=6 click>=8.0 pyyaml>=5.3 scapy>=2.5 netifaces2>=0.0.22'

say() { echo "setup: $*" >&2; }

fail() {
    say "$*"
    exit 1
}

# Tools of ours are also where a plain user's PATH does not look.
there() {
    case $1 in
    /*) [ -e "$1" ] ;;
    *) PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" command -v "$1" >/dev/null ;;
    esac
}

missing_packages() {
    for pair; do
        there "${pair%:*}" || echo "${pair##*:}"
    done
}

can_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null
}

# No service is started by what is installed for tests.
apt_install() (
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        trap 'exit 130' INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends "$@" >/dev/null 2>&1
)

# All at once is faster; one by one does not let a single unavailable one stop the others.
install_packages() {
    say "installing the Debian packages $*"
    apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null 2>&1 || true
    apt_install "$@" && return
    for package; do
        apt_install "$package" || true
    done
}

packages() {
    case $1 in
    demo) tools=$DEMO_TOOLS ;;
    bench) tools=$BENCH_TOOLS ;;
    *) tools=$TEST_TOOLS ;;
    esac
    # shellcheck disable=SC2086 # a list of words
    missing=$(missing_packages $tools)
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086
    ! can_install || install_packages $missing
    # shellcheck disable=SC2086
    missing=$(missing_packages $tools | tr '\n' ' ')
    [ -z "$missing" ] || say "missing Debian packages (apt-get install $missing)"
}

version_of() {
    "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# A name on PATH may be a shim that finds nothing: only an interpreter that runs counts.
pythons() {
    for minor in 9 10 11 12 13; do
        for candidate in "python3.$minor" python3 /usr/bin/python3 \
            "${PYENV_ROOT:-${HOME:-/root}/.pyenv}/versions/3.$minor".*/bin/python3; do
            if [ "$(version_of "$candidate")" = "3.$minor" ]; then
                echo "3.$minor $(command -v "$candidate")"
                break
            fi
        done
    done
}

main_python() {
    python=${PYTHON:-python3}
    case $(version_of "$python") in
    3.9 | 3.[1-9][0-9]) echo "$python" ;;
    *)
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python of at least 3.9"
        pythons | tail -n 1 | cut -d ' ' -f 2
        ;;
    esac
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

make_venv() { # FOLDER INTERPRETER
    if "$1/bin/python" -c 'import pip' 2>/dev/null; then
        return
    fi
    say "making $1 with Python $("$2" -c 'import platform; print(platform.python_version())')"
    if ! can_make_venv "$2" && can_install; then
        install_packages python3-venv "python$(version_of "$2")-venv"
    fi
    can_make_venv "$2" || fail "$2 cannot make virtual environments: apt-get install python3-venv"
    rm -rf "$1"
    "$2" -m venv "$1" >/dev/null || fail "could not make $1"
}

# The stamp holds what was asked for, so that a change of it, or an interrupted pip, counts.
pip_install() { # FOLDER REQUIREMENT...
    folder=$1
    shift
    wanted="$* $(cksum <pyproject.toml) $(version_of "$folder/bin/python")"
    stamp=$folder/installed
    if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    say "installing Python packages into $folder"
    "$folder/bin/python" -m pip install -qq "$@" ||
        fail "pip could not install $* into $folder (its message is above)"
    echo "$wanted" >"$stamp"
}

main_venv() { # EXTRAS
    python=$(main_python)
    [ -n "$python" ] || fail "no Python of at least 3.9 here: apt-get install python3 python3-venv"
    make_venv "$1" "$python"
    pip_install "$1" -e ".[$2]"
}

# Two runs of make at once must not build the same folder.
alone() {
    mkdir -p .cache
    if command -v flock >/dev/null; then
        exec 9>.cache/setup.lock
        flock 9
    fi
}

case ${1:-} in
demo | bench | test)
    alone
    packages "$1"
    main_venv .venv test
    ;;
python)
    alone
    main_venv .venv test
    ;;
lint)
    alone
    main_venv .venv-lint test,lint
    ;;
packages)
    alone
    packages "${2:-test}"
    ;;
pythons) pythons ;;
pure)
    alone
    make_venv ".venv-$2" "$3"
    # shellcheck disable=SC2086
    pip_install ".venv-$2" $PURE_NEEDS
    ;;
*) fail "usage: $0 demo|bench|test|python|lint|packages|pythons|pure" ;;
esac
