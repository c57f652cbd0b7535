#!/bin/sh
# Set up what the make targets and .ci/run need, where it is missing:
#
#   tools/setup.sh demo|bench|peers|man|test|packaging   Debian packages, and .venv with this project
#   tools/setup.sh python        only .venv
#   tools/setup.sh plot|mutation   .venv-plot, .venv-mutation
#   tools/setup.sh release|recording   Debian packages, and .venv-release, .venv-recording
#   tools/setup.sh lint          .venv-lint
#   tools/setup.sh pythons [6]   print "3.X PATH" for each interpreter from 3.9, or 3.6, on
#   tools/setup.sh pure 3.X PATH   .venv-3.X with what the tests of every-python.sh need
#
# As root on a machine with apt-get, install the packages.  Otherwise say in one line which
# are missing.  PYTHON=... selects the interpreter of .venv (default: python3).
set -eu
cd "$(dirname "$0")/.."
unset PYTHONPATH PYTHONHOME PYTHONSAFEPATH
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore

# FILE:PACKAGE, where FILE is a command or a path.
DEMO_TOOLS='ip:iproute2 arping:iputils-arping'
BENCH_TOOLS="$DEMO_TOOLS cc:gcc /usr/include/stdio.h:libc6-dev"
PEERS_TOOLS="$DEMO_TOOLS keepalived:keepalived ovs-vswitchd:openvswitch-switch"
TEST_TOOLS="$DEMO_TOOLS ping:iputils-ping tcpdump:tcpdump tshark:tshark busybox:busybox \
shellcheck:shellcheck udevadm:udev keepalived:keepalived socat:socat \
ksh93:ksh93u+m mksh:mksh posh:posh yash:yash \
nft:nftables arptables-legacy:arptables arptables-nft:iptables \
prometheus:prometheus prometheus-node-exporter:prometheus-node-exporter \
systemd-analyze:systemd man:man-db groff:groff-base mandoc:mandoc pandoc:pandoc \
/usr/lib/python3/dist-packages/libvirt.py:python3-libvirt \
/usr/share/doc/libvirt-daemon-driver-qemu:libvirt-daemon-driver-qemu \
virt-xml-validate:libvirt-clients xmllint:libxml2-utils \
chromium:chromium qemu-system-x86_64:qemu-system-x86 lz4:lz4 zstd:zstd \
/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring"
MODULES=/usr/lib/python3/dist-packages
PACKAGING_TOOLS="$TEST_TOOLS dh:debhelper dh_python3:dh-python $MODULES/click:python3-click \
$MODULES/yaml:python3-yaml fakeroot:fakeroot lintian:lintian mmdebstrap:mmdebstrap \
cloud-init:cloud-init ansible-playbook:ansible-core ssh:openssh-client rpmbuild:rpm rpmlint:rpmlint cpio:cpio make:make mke2fs:e2fsprogs \
$MODULES/pip:python3-pip /usr/share/doc/python3-venv:python3-venv pipx:pipx"
RELEASE_TOOLS="dh:debhelper dh_python3:dh-python $MODULES/click:python3-click \
$MODULES/yaml:python3-yaml fakeroot:fakeroot pandoc:pandoc rpmbuild:rpm git:git"
PURE_NEEDS='pytest>=7 pytest-timeout>=2 hypothesis>=6 click>=8.0 pyyaml>=5.3 scapy>=2.5 netifaces2>=0.0.22'

say() { echo "setup: $*" >&2; }

fail() { say "$*" && exit 1; }

# Look also where the PATH of a plain user does not.
there() (
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    case $1 in
    /*) [ -e "$1" ] ;;
    # Habets' program has the same name and other options.
    arping) arping -V 2>&1 | grep -q iputils ;;
    *) command -v "$1" >/dev/null ;;
    esac
)

missing_packages() {
    for pair; do there "${pair%:*}" || echo "${pair##*:}"; done
}

can_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# Start no service now (policy-rc.d) and enable none for the next boot: deb-systemd-helper(1)
# follows systemd.preset(5), init scripts are disabled afterwards.  Remove no package:
# iputils-arping conflicts with arping, and it is not for us to replace that.
apt_install() (
    made=/run/systemd/system-preset/00-garp-agent-tests.preset
    policy=/usr/sbin/policy-rc.d
    trap 'rm -f $made' EXIT
    trap 'exit 130' INT TERM
    mkdir -p "${made%/*}"
    echo 'disable *' >"$made"
    if [ ! -e "$policy" ]; then
        made="$made $policy"
        printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    fi
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends --no-remove "$@" >/dev/null 2>&1 || return
    for package; do [ ! -e "/etc/init.d/$package" ] || update-rc.d "$package" disable; done >/dev/null
)

# All at once is faster.  One by one, an unavailable package does not stop the others.
install_packages() {
    say "installing the Debian packages $*"
    apt-get -qq -o DPkg::Lock::Timeout=300 update >/dev/null 2>&1 || true
    apt_install "$@" && return
    for package; do apt_install "$package" || true; done
}

packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of words
    ! can_install || install_packages $missing
    missing=$(missing_packages "$@" | tr '\n' ' ')
    [ -z "$missing" ] || say "missing Debian packages, or in conflict with those installed" \
        "(apt-get install $missing)"
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

# The first CPython of each version.  A name on PATH may be pyenv's stand-in, which may start
# nothing: print what sys.executable says.
pythons() { # OLDEST
    for candidate in python3 /usr/bin/python3 python3.6 python3.7 python3.8 python3.9 python3.10 \
        python3.11 python3.12 python3.13 python3.14 python3.15 \
        "${PYENV_ROOT:-${HOME:-/root}/.pyenv}"/versions/3.*/bin/python3; do
        "$candidate" -c 'import sys
if sys.implementation.name == "cpython" and sys.version_info >= (3, int(sys.argv[1])):
    print("%d.%d" % sys.version_info[:2], sys.executable)' "$1" 2>/dev/null || true
    done | sort -u -t . -k 2,2n
}

can_make_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

make_venv() { # FOLDER INTERPRETER
    ! "$1/bin/python" -c 'import pip' 2>/dev/null || return 0
    say "making $1 with Python $(version_of "$2")"
    if ! can_make_venv "$2" && can_install; then
        install_packages python3-venv "python$(version_of "$2")-venv"
    fi
    can_make_venv "$2" || fail "$2 cannot make virtual environments: apt-get install python3-venv"
    rm -rf "$1"
    "$2" -m venv "$1" >/dev/null || fail "could not make $1"
}

# The stamp holds what is installed: a changed request, or an interrupted pip, installs again.
pip_install() { # FOLDER REQUIREMENT...
    folder=$1
    shift
    wanted="$* $(cksum <pyproject.toml) $(version_of "$folder/bin/python")"
    stamp=$folder/installed
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    say "installing Python packages into $folder"
    "$folder/bin/python" -m pip install -qq "$@" ||
        fail "pip could not install $* into $folder (see its message above)"
    echo "$wanted" >"$stamp"
}

main_venv() { # FOLDER EXTRAS
    python=${PYTHON:-python3}
    case $(version_of "$python") in
    3.9 | 3.[1-9][0-9]) ;;
    *)
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is not a Python of at least 3.9"
        python=$(pythons 9 | tail -n 1 | cut -d ' ' -f 2)
        ;;
    esac
    [ -n "$python" ] || fail "no Python of at least 3.9: apt-get install python3 python3-venv"
    make_venv "$1" "$python"
    pip_install "$1" -e ".[$2]"
}

# Two runs of make must not build the same folder at the same time.
if [ "${1:-}" != pythons ] && command -v flock >/dev/null; then
    mkdir -p .cache
    exec 9>.cache/setup.lock
    flock 9
fi

# shellcheck disable=SC2086 # lists of words
case ${1:-} in
demo) packages $DEMO_TOOLS ;;
bench) packages $BENCH_TOOLS ;;
peers) packages $PEERS_TOOLS ;;
man) packages pandoc:pandoc ;;
plot | test) packages $TEST_TOOLS ;;
packaging) packages $PACKAGING_TOOLS ;;
release) packages $RELEASE_TOOLS ;;
recording) packages $DEMO_TOOLS script:bsdutils ;;
python | mutation) ;;
lint) main_venv .venv-lint test,lint ;;
pythons) pythons "${2:-9}" ;;
pure)
    make_venv ".venv-$2" "$3"
    pip_install ".venv-$2" $PURE_NEEDS
    ;;
*) fail "usage: $0 demo|bench|peers|plot|mutation|man|release|recording|test|packaging|python|lint|pythons|pure" ;;
esac
case $1 in
demo | bench | peers | man | test | packaging | python) main_venv .venv test ;;
plot | mutation) main_venv ".venv-$1" "test,$1" ;;
release | recording) main_venv ".venv-$1" "$1" ;;
esac
