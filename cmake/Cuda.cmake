# Decides whether the CUDA kernels are built.
set(cuda_found OFF)
set(cuda_architectures "")
message(STATUS "streamchar: CUDA kernels: no (SC_CUDA=${SC_CUDA}); the CPU kernels are complete without them")
target_compile_definitions(_native PRIVATE SC_CUDA_ARCHITECTURES="${cuda_architectures}")
