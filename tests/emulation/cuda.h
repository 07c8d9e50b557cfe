// Tensor maps, as far as the kernels use them.
#pragma once

#include "cuda_runtime.h"

struct CUtensorMap {
  const char* data;
  uint64_t sizes[3], strides[2];
  uint32_t box[3];
};
using cuuint64_t = uint64_t;
using cuuint32_t = uint32_t;
using CUresult = int;
enum { CUDA_SUCCESS = 0, CUDA_ERROR_INVALID_VALUE = 1 };
enum { CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
       CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE };

inline CUresult cuTensorMapEncodeTiled(CUtensorMap* map, int, uint32_t rank, void* data, const cuuint64_t* sizes,
                                       const cuuint64_t* strides, const cuuint32_t* box, const cuuint32_t*, int, int,
                                       int, int) {
  if (rank != 3 || reinterpret_cast<uintptr_t>(data) % 16 || strides[0] % 16 || strides[1] % 16) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  *map = {static_cast<const char*>(data), {sizes[0], sizes[1], sizes[2]}, {strides[0], strides[1]},
          {box[0], box[1], box[2]}};
  return CUDA_SUCCESS;
}

enum cudaDriverEntryPointQueryResult { cudaDriverEntryPointSuccess };
enum { cudaEnableDefault };
inline cudaError_t cudaGetDriverEntryPointByVersion(const char*, void** function, unsigned, int,
                                                    cudaDriverEntryPointQueryResult* result) {
  *function = reinterpret_cast<void*>(&cuTensorMapEncodeTiled);
  *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}
