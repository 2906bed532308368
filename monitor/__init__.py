"""The service: sources, decoders, stages, configuration, web."""

import os

# Windows are small: BLAS threads only spin on them (a product of 250 x 50 took 4 ms of CPU instead of 0.1 on two busy
# cores), and a sidecar must not take the model's cores. Read once, when numpy is first imported.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_threads, "1")
