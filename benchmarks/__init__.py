"""Timings, each way of working in turns with the others. OpenMP's waiting threads sleep here, as where this package
imports torch: spinning, they would take the cores from whoever has the next turn."""
from streamchar_rt.threads import import_torch

import_torch()
