// Marks arithmetic that the GPU runs and CPU tests cover.
#pragma once

#if defined(__CUDACC__)  // nvcc compiles host code too
#define SC_HOST_DEVICE __host__ __device__ __forceinline__
#else
// Forced inline, so that no object compiled for a newer instruction set leaves a shared copy for the others.
#define SC_HOST_DEVICE inline __attribute__((always_inline))
#endif
