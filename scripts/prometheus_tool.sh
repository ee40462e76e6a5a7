#!/usr/bin/env bash
# Says where one of Prometheus' programs is: on the path, or fetched from Debian's package.
#
#   scripts/prometheus_tool.sh promtool|prometheus
#
# It goes into build/prometheus; nothing is installed and no service is started. Exit code 1 and a
# reason when it cannot be had.
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?"name a program: promtool or prometheus"}
if command -v "$name"; then exit 0; fi
folder=build/prometheus
if [ ! -x "$folder/$name" ]; then
  if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo "$name: install Prometheus; only Debian's and Ubuntu's package is fetched here" >&2
    exit 1
  fi
  mkdir -p "$folder"
  fetched=$(mktemp -d "$folder/fetch.XXXXXX")
  trap 'rm -rf "$fetched"' EXIT
  if ! (cd "$fetched" && apt-get download prometheus) >/dev/null 2>"$fetched/why"; then
    echo "$name: apt-get could not download the package prometheus: $(tail -n 1 "$fetched/why")" >&2
    exit 1
  fi
  dpkg-deb --extract "$fetched"/prometheus_*.deb "$fetched/tree"
  mv "$fetched/tree/usr/bin/$name" "$folder/$name"
fi
echo "$PWD/$folder/$name"
