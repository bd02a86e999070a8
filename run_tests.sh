#!/usr/bin/env bash
# Sets up .venv where needed and runs the tests: bash run_tests.sh [pytest arguments]
set -euo pipefail
# shellcheck source=environment.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/environment.sh"

prepare_environment requirements-dev.txt
cd -- "$root"
exec "$python" -m pytest "$@"
