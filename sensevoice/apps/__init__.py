"""The entry points: the page, the HTTP service and the command line."""

import os

# PyTorch's threads would spin while they wait for one another. On a machine that has anything else to do,
# that was measured to cost up to eight times the time and four times the processor's.
# It counts only before PyTorch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
