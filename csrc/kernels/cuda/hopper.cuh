// Wrappers of the instructions of sm_90a: bulk tensor copies, mbarriers, wgmma, register reallocation.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace streamchar::cuda {

// -- mbarriers, by their shared-memory address
__device__ __forceinline__ void barrier_init(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}
__device__ __forceinline__ void barrier_init_done() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
// Arrives, and expects `bytes` from copies before the phase ends.
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// Returns once the phase of this parity has ended.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done;
  do {
    asm volatile(
        "{\n .reg .pred p;\n mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n selp.u32 %0, 1, 0, p;\n}"
        : "=r"(done)
        : "r"(barrier), "r"(parity)
        : "memory");
  } while (!done);
}

// -- bulk tensor copies
// Fetches a box at (column, row, head); rows beyond the tensor become zero.
__device__ __forceinline__ void copy_box(uint32_t target, const CUtensorMap* map, uint32_t barrier, int column, int row,
                                         int head) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
      " [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(target),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "r"(head)
      : "memory");
}
// Makes ordinary stores to shared memory visible to wgmma and copies.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// -- warpgroups
// Waits for all 128 threads that use the named barrier `id` (0 is __syncthreads).
__device__ __forceinline__ void group_sync(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }
// The same of two warpgroups, one of which may arrive and not wait.
__device__ __forceinline__ void pair_sync(int id) { asm volatile("bar.sync %0, 256;" ::"r"(id) : "memory"); }
__device__ __forceinline__ void pair_arrive(int id) { asm volatile("bar.arrive %0, 256;" ::"r"(id) : "memory"); }
template <int kRegisters>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// -- wgmma: sums (64 x kColumns, float32) += a (64 x 16) * b (16 x kColumns); bfloat16 operands, or float16 (kHalf)
__device__ __forceinline__ void multiply_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void multiply_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `kOpen` committed groups are unfinished.
template <int kOpen>
__device__ __forceinline__ void multiply_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
// Keeps the compiler from moving uses of registers that a wgmma owns across this point.
template <int kCount>
__device__ __forceinline__ void pin(float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(x[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(uint32_t (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(x[i])::"memory");
}

// "+f" operands of eight and thirty-two registers.
#define SC_F8(x, i)                                                                                         \
  "+f"(x[i]), "+f"(x[i + 1]), "+f"(x[i + 2]), "+f"(x[i + 3]), "+f"(x[i + 4]), "+f"(x[i + 5]), "+f"(x[i + 6]), \
      "+f"(x[i + 7])
#define SC_F32(x, i) SC_F8(x, i), SC_F8(x, i + 8), SC_F8(x, i + 16), SC_F8(x, i + 24)

#define SC_R64 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
  "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
  "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SC_R32 \
  "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
  "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SC_WGMMA(shape, type) "wgmma.mma_async.sync.aligned." shape ".f32." type "." type " {"

// logits: a and b from shared memory, both with the summed axis contiguous. `add` 0 overwrites the sums.
template <bool kHalf>
__device__ __forceinline__ void multiply_rows(float (&sums)[64], uint64_t a, uint64_t b, int add) {
#define SC_MULTIPLY(type)                                                                    \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %66, 0;\n " SC_WGMMA("m64n128k16", type)  \
               SC_R64 "}, %64, %65, p, 1, 1, 0, 0;\n}"                                      \
               : SC_F32(sums, 0), SC_F32(sums, 32)                                           \
               : "l"(a), "l"(b), "r"(add))
  if constexpr (kHalf) {
    SC_MULTIPLY("f16");
  } else {
    SC_MULTIPLY("bf16");
  }
#undef SC_MULTIPLY
}

// Weighted values of 128 or 64 channels: a from registers, b from shared memory with the channels contiguous.
template <bool kHalf>
__device__ __forceinline__ void multiply_columns(float (&sums)[64], const uint32_t (&a)[4], uint64_t b, int add) {
#define SC_MULTIPLY(type)                                                                                      \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %69, 0;\n " SC_WGMMA("m64n128k16", type) SC_R64               \
               "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;\n}"                                                  \
               : SC_F32(sums, 0), SC_F32(sums, 32)                                                             \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
  if constexpr (kHalf) {
    SC_MULTIPLY("f16");
  } else {
    SC_MULTIPLY("bf16");
  }
#undef SC_MULTIPLY
}
template <bool kHalf>
__device__ __forceinline__ void multiply_columns(float (&sums)[32], const uint32_t (&a)[4], uint64_t b, int add) {
#define SC_MULTIPLY(type)                                                                        \
  asm volatile("{\n .reg .pred p;\n setp.ne.b32 p, %37, 0;\n " SC_WGMMA("m64n64k16", type) SC_R32 \
               "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;\n}"                                    \
               : SC_F32(sums, 0)                                                                 \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add))
  if constexpr (kHalf) {
    SC_MULTIPLY("f16");
  } else {
    SC_MULTIPLY("bf16");
  }
#undef SC_MULTIPLY
}

#undef SC_WGMMA
#undef SC_R32
#undef SC_R64
#undef SC_F32
#undef SC_F8

}  // namespace streamchar::cuda
