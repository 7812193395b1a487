#!/bin/sh
# Installs Chromium and its driver where they are missing. The tests of the report need both.
set -u
present() { command -v chromium >/dev/null && command -v chromedriver >/dev/null; }
if present; then exit 0; fi
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo"
if command -v apt-get >/dev/null; then
    $as_root apt-get update -q && $as_root apt-get install -q -y --no-install-recommends \
        chromium chromium-driver
fi
present && exit 0
echo "The tests of the HTML report need the commands chromium and chromedriver, and they could" \
    "not be installed here (Debian: apt-get install chromium chromium-driver)." >&2
exit 1
