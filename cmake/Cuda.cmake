# Decides whether the CUDA kernels are built, and adds them to _native.
#
# Architectures go to nvcc per file as -gencode, because CMake's own list does not know every one that nvcc
# does. The last one is kept as PTX too, for GPUs newer than any in the list. Instructions of sm_90a exist in no
# other architecture, so that kernel is compiled for it alone; without 90 in the list it is left out.
set(SC_CUDA_ARCHITECTURES "80;90" CACHE STRING "Compute capabilities the CUDA kernels are compiled for")

# fused_linear is CUTLASS's and is left out where its headers are not found.
set(cuda_reason "SC_CUDA=OFF")
set(cuda_found OFF)
if(NOT SC_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  set(CMAKE_CUDA_ARCHITECTURES OFF)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    enable_language(CUDA)
    find_package(CUDAToolkit 12.4 QUIET)
  endif()
  if(CUDAToolkit_FOUND)
    set(cuda_found ON)
  elseif(SC_CUDA STREQUAL "ON")
    message(FATAL_ERROR "SC_CUDA=ON, but no CUDA toolkit 12.4 or later was found; set CUDACXX to its nvcc")
  else()
    set(cuda_reason "no CUDA toolkit 12.4 or later found")
  endif()
endif()

if(cuda_found)
  set(gencode "")
  foreach(architecture IN LISTS SC_CUDA_ARCHITECTURES)
    list(APPEND gencode "-gencode=arch=compute_${architecture},code=sm_${architecture}")
    set(newest ${architecture})
  endforeach()
  list(APPEND gencode "-gencode=arch=compute_${newest},code=compute_${newest}")
  set(cuda_sources
    csrc/kernels/segment_attention_sm80.cu
    csrc/kernels/kv_append_sm80.cu
    csrc/kernels/adaln_modulate_sm80.cu
    csrc/kernels/gated_residual_sm80.cu
    csrc/kernels/istft_overlap_add_sm80.cu)
  set_source_files_properties(${cuda_sources} PROPERTIES COMPILE_OPTIONS "${gencode}")
  set(sm90a OFF)
  if(90 IN_LIST SC_CUDA_ARCHITECTURES)
    set(sm90a ON)
    list(APPEND cuda_sources csrc/kernels/segment_attention_sm90.cu)
    set_source_files_properties(csrc/kernels/segment_attention_sm90.cu
      PROPERTIES COMPILE_OPTIONS "-gencode=arch=compute_90a,code=sm_90a")
  endif()
  set(dispatch_sources csrc/bindings/cuda.cc csrc/kernels/segment_attention_cuda.cc)
  include(cmake/Cutlass.cmake)
  if(cutlass_version)
    # One architecture and its PTX: CUTLASS costs a minute for each.
    list(GET SC_CUDA_ARCHITECTURES 0 oldest)
    set(oldest_gencode "-gencode=arch=compute_${oldest},code=sm_${oldest}"
      "-gencode=arch=compute_${oldest},code=compute_${oldest}")
    set(cutlass_options --expt-relaxed-constexpr -isystem "${cutlass_include}")
    list(APPEND cuda_sources csrc/kernels/fused_linear_sm80.cu)
    set_source_files_properties(csrc/kernels/fused_linear_sm80.cu
      PROPERTIES COMPILE_OPTIONS "${cutlass_options};${oldest_gencode}")
    if(sm90a)
      list(APPEND cuda_sources csrc/kernels/fused_linear_sm90.cu)
      set_source_files_properties(csrc/kernels/fused_linear_sm90.cu
        PROPERTIES COMPILE_OPTIONS "${cutlass_options};-gencode=arch=compute_90a,code=sm_90a")
    endif()
    list(APPEND dispatch_sources csrc/kernels/fused_linear_cuda.cc)
  endif()
  target_sources(_native PRIVATE ${dispatch_sources} ${cuda_sources})
  set_source_files_properties(${dispatch_sources} PROPERTIES
    COMPILE_DEFINITIONS "SC_SM90A=$<BOOL:${sm90a}>" INCLUDE_DIRECTORIES "${CUDAToolkit_INCLUDE_DIRS}")
  # The runtime is linked statically and the driver loaded on first use: the module imports without a GPU.
  set_target_properties(_native PROPERTIES
    CUDA_ARCHITECTURES OFF CUDA_RUNTIME_LIBRARY Static CUDA_STANDARD 17 CUDA_STANDARD_REQUIRED ON)
  list(JOIN SC_CUDA_ARCHITECTURES "," cuda_list)
  message(STATUS "streamchar: CUDA kernels: yes, for compute capability ${cuda_list}, with CUDA ${CUDAToolkit_VERSION}")
else()
  set(cuda_list "")
  set(cutlass_version "")
  message(STATUS "streamchar: CUDA kernels: no (${cuda_reason}); the CPU kernels are complete without them")
endif()
target_compile_definitions(_native PRIVATE SC_CUDA_ARCHITECTURES="${cuda_list}" $<$<BOOL:${cuda_found}>:SC_WITH_CUDA>
  SC_CUTLASS_VERSION="${cutlass_version}" $<$<BOOL:${cutlass_version}>:SC_CUTLASS>)
