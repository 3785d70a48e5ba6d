#!/usr/bin/env bash
# Of a Gradescope autograder: runs once, when its image is made.  Write the address of your copy in place of OWNER.
set -euo pipefail
apt-get update && apt-get install -y git python3 python3-venv
git clone --depth 1 https://github.com/OWNER/minires /autograder/source/minires
python3 -m venv /autograder/source/venv
/autograder/source/venv/bin/pip install -e "/autograder/source/minires[test]"
