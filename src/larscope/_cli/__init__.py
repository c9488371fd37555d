"""The command line: commands, their options, and everything they print."""

import os

# Before torch is loaded: its waiting threads spin on the cores of the compiled kernels. Asleep, they leave two threads
# a tenth of a training step.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
