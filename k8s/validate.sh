#!/usr/bin/env bash
# Checks every overlay and component: it builds, fits the schemas, refers to what exists, keeps the policies.
#
#   k8s/validate.sh                 everything; the policy scanner is installed once, into build/checkov
#   k8s/validate.sh --no-policies   without the policy scanner
#
# A component is built on the base. Annotations in its kustomization.yaml say what else it stands on
# (hounsfield/needs: database,tls) and the oldest Kubernetes that has it (hounsfield/kubernetes: "1.35").
# Policies that may fail: k8s/.checkov.yaml, a reason beside each. Secrets of an operator: k8s/secrets.yaml.
set -euo pipefail
cd "$(dirname "$0")/.."

python=.venv/bin/python
checkov=build/checkov/bin/checkov
version=3.3.30

if [ ! -x .venv/bin/kubectl ]; then
  echo "The development tools are missing: run 'make test' or 'make lint' once." >&2
  exit 2
fi
if [ "${1:-}" = --no-policies ]; then
  exec "$python" -m scripts.manifests
fi
# Its 100 dependencies do not agree with ours, so it lives alone.
if ! "$checkov" --version 2>/dev/null | grep -qx "$version"; then
  echo "Installing checkov $version into build/checkov (once, about 300 MB) ..."
  "$python" -m venv --clear build/checkov
  build/checkov/bin/pip --disable-pip-version-check install --quiet "checkov==$version"
fi
exec "$python" -m scripts.manifests --checkov "$checkov"
