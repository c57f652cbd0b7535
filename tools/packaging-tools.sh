#!/bin/sh
# The Debian packages that `make test-packages` needs beside those of `make test`: installed
# when we are root and there is an apt-get, otherwise named.
set -eu
packages='debhelper dh-python python3-click python3-yaml fakeroot lintian mmdebstrap cloud-init
rpm cpio man-db groff shellcheck make e2fsprogs python3-pip python3-venv pipx'
missing=
for package in $packages; do
    dpkg-query -Wf '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' ||
        missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "packaging-tools: please install:$missing" >&2
    exit 1
fi
apt-get update -qq
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
