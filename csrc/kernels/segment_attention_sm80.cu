// segment_attention for any GPU from sm_80 on: mma.sync, ldmatrix, cp.async. See cuda_calls.h for its state.
//
// One block of 8 warps does 128 query rows of one head, 16 rows a warp. Key and value tiles of 64 come through
// two stages of shared memory. Where a segment begins, each warp makes its rows' queries anew: normalised,
// rotated and shifted in float32, rounded once. That costs 16 rows of arithmetic per segment and no memory.
#include <cuda_runtime.h>

#include "kernels/cuda/token_row.cuh"
#include "kernels/tiles.h"

namespace streamchar::cuda {
namespace {

constexpr int kWarps = 8;
constexpr int kThreads = kWarps * 32;
constexpr int kRows = kWarps * 16;  // queries per block
constexpr int kKeys = 64;           // keys per tile
constexpr float kLog2E = 1.4426950408889634f;

using Cursor = TileCursor<kKeys>;

template <int kDim>
struct SharedLayout {
  static constexpr uint32_t kTileBytes = kKeys * kDim * 2;
  static constexpr uint32_t kKeyTiles = kRows * kDim * 2;             // after the queries
  static constexpr uint32_t kValueTiles = kKeyTiles + 2 * kTileBytes;
  static constexpr uint32_t kBytes = kValueTiles + 2 * kTileBytes;
};

// Starts copying a tile of `keys` rows; the rest becomes zero.
template <int kDim>
__device__ __forceinline__ void fetch_tile(uint32_t target, const TokenView& view, int head, int first, int keys) {
  constexpr int kPieces = kDim / 8;
  const auto* source = static_cast<const uint16_t*>(view.data) + head * view.head_stride;
#pragma unroll
  for (int i = 0; i < kKeys * kPieces / kThreads; ++i) {
    const int index = threadIdx.x + i * kThreads, row = index / kPieces, piece = index % kPieces;
    const bool valid = row < keys;
    copy_16(target + swizzled_offset<kDim>(row, piece),
            source + (first + (valid ? row : 0)) * view.token_stride + piece * 8, valid);
  }
}

// The warp's 16 queries for one segment, as operands of multiply_add.
template <int kDim>
__device__ __forceinline__ void make_queries(const SegmentAttention& call, const float* shift, int head, int first_row,
                                             unsigned char* shared, int warp, int lane,
                                             uint32_t (&query)[kDim / 16][4]) {
#pragma unroll 4
  for (int r = 0; r < 16; ++r) {
    const int row = warp * 16 + r, token = min(first_row + row, call.tokens - 1);
    uint32_t packed[kDim / 64];
    ready_row<kDim>(call.q, call.norm, call.rope, shift, token, head, lane, packed);
#pragma unroll
    for (int i = 0; i < kDim / 64; ++i) {
      const int pair = lane + 32 * i;  // 4 pairs to a 16-byte piece
      *reinterpret_cast<uint32_t*>(shared + swizzled_offset<kDim>(row, pair / 4) + pair % 4 * 4) = packed[i];
    }
  }
  __syncwarp();
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    load_matrices(query[k], shared_address(shared) + swizzled_offset<kDim>(warp * 16 + (lane & 15), k * 2 + (lane >> 4)));
  }
  __syncwarp();
}

template <int kDim>
__global__ void __launch_bounds__(kThreads) segment_attention_kernel(const __grid_constant__ SegmentAttention call) {
  using Layout = SharedLayout<kDim>;
  extern __shared__ __align__(128) unsigned char shared[];
  const uint32_t base = shared_address(shared);
  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const int first_row = blockIdx.x * kRows, head = blockIdx.y;
  const float scale = kLog2E * rsqrtf(static_cast<float>(kDim));
  const auto rows_of = [&](int segment) { return call.segments[segment].rows; };

  const auto fetch_keys = [&](const Cursor& at, int stage) {
    if (!at.at_end()) {
      fetch_tile<kDim>(base + Layout::kKeyTiles + stage * Layout::kTileBytes, call.segments[at.segment].key, head,
                       at.first, at.keys);
    }
    close_copies();
  };
  const auto fetch_values = [&](const Cursor& at, int stage) {
    if (!at.at_end()) {
      fetch_tile<kDim>(base + Layout::kValueTiles + stage * Layout::kTileBytes, call.segments[at.segment].value, head,
                       at.first, at.keys);
    }
    close_copies();
  };

  Cursor now = Cursor::begin(rows_of, call.segment_count);
  fetch_keys(now, 0);
  fetch_values(now, 0);

  // Of the rows lane / 4 and lane / 4 + 8 of the warp, this thread has two columns in every eight.
  float sum[kDim / 8][4] = {};
  float maximum[2] = {-INFINITY, -INFINITY}, denominator[2] = {0.0f, 0.0f};
  uint32_t query[kDim / 16][4];

#pragma unroll 1
  for (int stage = 0; !now.at_end(); stage ^= 1) {
    Cursor next = now;
    next.advance(rows_of, call.segment_count);
    if (now.starts_segment()) {
      make_queries<kDim>(call, call.segments[now.segment].shift, head, first_row, shared, warp, lane, query);
    }
    wait_copies<1>();  // the keys of `now`; its values may be under way
    __syncthreads();
    fetch_keys(next, stage ^ 1);

    float logits[kKeys / 8][4] = {};
    const uint32_t keys = base + Layout::kKeyTiles + stage * Layout::kTileBytes;
#pragma unroll
    for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
      for (int n = 0; n < kKeys / 16; ++n) {
        uint32_t b[4];
        load_matrices(b, keys + swizzled_offset<kDim>(n * 16 + (lane & 7) + (lane >> 4) * 8, k * 2 + (lane >> 3 & 1)));
        multiply_add(logits[2 * n], query[k], b[0], b[1]);
        multiply_add(logits[2 * n + 1], query[k], b[2], b[3]);
      }
    }
    if (now.keys < kKeys) {
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (n * 8 + (lane & 3) * 2 + (e & 1) >= now.keys) logits[n][e] = -INFINITY;
        }
      }
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = maximum[r];
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) top = fmaxf(top, fmaxf(logits[n][2 * r], logits[n][2 * r + 1]));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
      top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
      const float factor = exp2_fast((maximum[r] - top) * scale), offset = top * scale;
      maximum[r] = top;
      denominator[r] *= factor;
#pragma unroll
      for (int n = 0; n < kKeys / 8; ++n) {
#pragma unroll
        for (int e = 2 * r; e < 2 * r + 2; ++e) {
          logits[n][e] = exp2_fast(logits[n][e] * scale - offset);
          denominator[r] += logits[n][e];
        }
      }
#pragma unroll
      for (int d = 0; d < kDim / 8; ++d) {
        sum[d][2 * r] *= factor;
        sum[d][2 * r + 1] *= factor;
      }
    }
    uint32_t weights[kKeys / 16][4];
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
      weights[n][0] = pack_bf16(logits[2 * n][0], logits[2 * n][1]);
      weights[n][1] = pack_bf16(logits[2 * n][2], logits[2 * n][3]);
      weights[n][2] = pack_bf16(logits[2 * n + 1][0], logits[2 * n + 1][1]);
      weights[n][3] = pack_bf16(logits[2 * n + 1][2], logits[2 * n + 1][3]);
    }

    wait_copies<1>();  // the values of `now`; the next keys may be under way
    __syncthreads();
    fetch_values(next, stage ^ 1);
    const uint32_t values = base + Layout::kValueTiles + stage * Layout::kTileBytes;
#pragma unroll
    for (int n = 0; n < kKeys / 16; ++n) {
#pragma unroll
      for (int d = 0; d < kDim / 16; ++d) {
        uint32_t b[4];
        load_matrices_transposed(b, values + swizzled_offset<kDim>(n * 16 + (lane & 15), d * 2 + (lane >> 4)));
        multiply_add(sum[2 * d], weights[n], b[0], b[1]);
        multiply_add(sum[2 * d + 1], weights[n], b[2], b[3]);
      }
    }
    now = next;
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float total = denominator[r];
    total += __shfl_xor_sync(~0u, total, 1);
    total += __shfl_xor_sync(~0u, total, 2);
    const float inverse = total > 0.0f ? 1.0f / total : 0.0f;
    const int token = first_row + warp * 16 + r * 8 + lane / 4;
    if (token >= call.tokens) continue;
    const int64_t row = int64_t{token} * call.heads + head;
    auto* out = static_cast<uint32_t*>(call.out) + row * (kDim / 2) + (lane & 3);
#pragma unroll
    for (int d = 0; d < kDim / 8; ++d) out[d * 4] = pack_bf16(sum[d][2 * r] * inverse, sum[d][2 * r + 1] * inverse);
    if (call.lse && (lane & 3) == 0) {
      call.lse[row] = total > 0.0f ? (maximum[r] * scale + log2f(total)) / kLog2E : -INFINITY;
    }
  }
}

template <int kDim>
int launch(const SegmentAttention& call, cudaStream_t stream) {
  constexpr int kBytes = SharedLayout<kDim>::kBytes;
  const cudaError_t error = cudaFuncSetAttribute(segment_attention_kernel<kDim>,
                                                 cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (error != cudaSuccess) return error;
  const dim3 grid((call.tokens + kRows - 1) / kRows, call.heads);
  segment_attention_kernel<kDim><<<grid, kThreads, kBytes, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

int segment_attention_sm80(const SegmentAttention& call, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (call.head_dim == 64) return launch<64>(call, on);
  if (call.head_dim == 128) return launch<128>(call, on);
  return cudaErrorInvalidValue;
}

}  // namespace streamchar::cuda
