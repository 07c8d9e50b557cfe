"""The ways of the sm_90a attention kernel that are compared: ``Way`` in ``csrc/kernels/cuda/hopper_attention.cuh``."""

#: Names a way, or "N,M": of head size 128 and of 64.
SETTING = "STREAMCHAR_SM90_WAY"
#: Has a way taken whatever the work; else short work, and rows that clusters would leave empty, go another one.
EXACT = "STREAMCHAR_SM90_EXACT"
SWIFT = 16
#: What is measured together, in one process.
WAYS = ((24, 25), (2, 10, 11), (28, 29))
ALL = tuple(way for group in WAYS for way in group)
