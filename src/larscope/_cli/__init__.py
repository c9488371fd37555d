"""The command line: parses, calls, prints. No science."""

import os

# Before torch is loaded: its threads spin while they wait, on the cores that compiled kernels need. Asleep they leave
# two threads a tenth of a training step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
