#!/bin/sh
# Fetches the libraries, in the versions that README.md names, from npm.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
version() { sed -n "s/^| $1 | [^|]* | \([0-9.]*\) |.*/\1/p" "$here/README.md"; }
cd "$folder"
npm install --silent --no-audit --ignore-scripts "d3@$(version d3.min.js)" \
    "@observablehq/plot@$(version plot.min.js)" "@dagrejs/dagre@$(version dagre.min.js)"
take() {
    sed '/^\/\/# sourceMappingURL/d' "node_modules/$2/dist/$3" > "$here/$1.min.js"
    cp "node_modules/$2/LICENSE" "$here/$1.LICENSE"
}
take d3 d3 d3.min.js
take plot @observablehq/plot plot.umd.min.js
take dagre @dagrejs/dagre dagre.min.js
