// kv_append for any GPU from sm_80 on: one block per token, its heads divided among the warps, so that a norm over all
// heads needs no second read. See cuda_calls.h for its state.
#include <cuda_runtime.h>

#include "kernels/cuda/token_row.cuh"

namespace streamchar::cuda {
namespace {

constexpr int kWarps = 16;                        // at most
constexpr int kHeads = kMaxAppendHeads / kWarps;  // of a warp, at most

// The heads `warp`, `warp + warps`, ... of one token.
template <int kDim>
struct TokenHeads {
  static constexpr int kPairs = kDim / 64;
  Pair x[kHeads][kPairs];

  __device__ __forceinline__ void load(const TokenView& view, int token, int heads, int warp, int warps, int lane) {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = warp + h * warps;
      const uint32_t* row = head_row(view, token, min(head, heads - 1));
#pragma unroll
      for (int i = 0; i < kPairs; ++i) x[h][i] = head < heads ? unpack_bf16(row[lane + 32 * i]) : Pair{0.0f, 0.0f};
    }
  }

  // RMSNorm, then up to two turns; every thread of the block calls.
  __device__ __forceinline__ void ready(const KvAppend& call, const float* weight, int token, int warp, int warps,
                                        int lane, float* shared) {
    float inverse = 0.0f;
    if (weight && call.all_heads) {
      float squares = 0.0f;
#pragma unroll
      for (int h = 0; h < kHeads; ++h) squares += lane_squares(x[h]);
      squares = warp_sum(squares);
      __syncthreads();  // the norm before has been read
      if (lane == 0) shared[warp] = squares;
      __syncthreads();
      float total = 0.0f;
      for (int w = 0; w < warps; ++w) total += shared[w];
      inverse = rsqrtf(total / (call.heads * kDim) + call.norm.eps);
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = warp + h * warps;
      if (head >= call.heads) continue;
      if (weight) {
        if (!call.all_heads) inverse = rsqrtf(warp_sum(lane_squares(x[h])) / kDim + call.norm.eps);
        const int width = call.all_heads ? call.heads * kDim : kDim;
        const float* of_token = token_weight(call.norm, weight, token, width) + (call.all_heads ? head * kDim : 0);
        scale_row(x[h], inverse, of_token, lane);
      }
      if (call.rope) turn_row(x[h], call.rope + int64_t{token} * kDim, lane);
      if (call.shift) turn_row(x[h], call.shift, lane);
    }
  }

  // As rows of (tokens, heads, head_dim).
  __device__ __forceinline__ void store(void* rows, int token, int heads, int warp, int warps, int lane) const {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = warp + h * warps;
      if (head >= heads) continue;
      auto* row = static_cast<uint32_t*>(rows) + (int64_t{token} * heads + head) * (kDim / 2);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) row[lane + 32 * i] = pack_bf16(x[h][i].x, x[h][i].y);
    }
  }

  __device__ __forceinline__ void store_narrow(void* rows, KvStorage storage, const float* range, int token, int heads,
                                               int warp, int warps, int lane) const {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = warp + h * warps;
      if (head >= heads) continue;
      const float factor = to_storage_factor(storage, range[head]);
      auto* row = static_cast<uint16_t*>(rows) + (int64_t{token} * heads + head) * (kDim / 2);
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        row[lane + 32 * i] = static_cast<uint16_t>(to_narrow(storage, x[h][i].x * factor) |
                                                   to_narrow(storage, x[h][i].y * factor) << 8);
      }
    }
  }

  // Raises the heads' ranges to what this token needs. They are not negative, so they compare as integers do, and
  // the order of tokens does not matter.
  __device__ __forceinline__ void raise(float* range, int heads, int warp, int warps, int lane) const {
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = warp + h * warps;
      if (head >= heads) continue;
      float most = 0.0f;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) most = fmaxf(most, fmaxf(fabsf(x[h][i].x), fabsf(x[h][i].y)));
      const unsigned bits = __reduce_max_sync(~0u, __float_as_uint(most));
      if (lane == 0) atomicMax(reinterpret_cast<unsigned*>(range) + head, bits);
    }
  }
};

template <int kDim, bool kMeasure>
__global__ void __launch_bounds__(kWarps * 32) kv_append_kernel(const __grid_constant__ KvAppend call) {
  __shared__ float shared[kWarps];
  const int lane = threadIdx.x & 31, warp = threadIdx.x / 32, warps = blockDim.x / 32;
  const int token = blockIdx.x, heads = call.heads;
  TokenHeads<kDim> key, value, query;
  key.load(call.k, token, heads, warp, warps, lane);
  value.load(call.v, token, heads, warp, warps, lane);
  const bool with_query = !kMeasure && call.q.data;
  if (with_query) query.load(call.q, token, heads, warp, warps, lane);
  key.ready(call, call.norm.weight, token, warp, warps, lane, shared);
  if constexpr (kMeasure) {
    key.raise(call.key_range, heads, warp, warps, lane);
    value.raise(call.value_range, heads, warp, warps, lane);
  } else {
    if (is_narrow(call.storage)) {
      key.store_narrow(call.key, call.storage, call.key_range, token, heads, warp, warps, lane);
      value.store_narrow(call.value, call.storage, call.value_range, token, heads, warp, warps, lane);
    } else {
      key.store(call.key, token, heads, warp, warps, lane);
      value.store(call.value, token, heads, warp, warps, lane);
    }
    if (!with_query) return;
    query.ready(call, call.q_weight, token, warp, warps, lane, shared);
    query.store(call.query, token, heads, warp, warps, lane);
    if (!call.moved) return;
#pragma unroll
    for (int h = 0; h < kHeads; ++h) turn_row(query.x[h], call.moved_shift, lane);
    query.store(call.moved, token, heads, warp, warps, lane);
  }
}

template <int kDim>
int launch(const KvAppend& call, cudaStream_t stream) {
  // Eight warps are enough to hide latency; more where a warp could not hold its heads.
  const int eighth = (call.heads + 7) / 8, each = eighth < kHeads ? eighth : kHeads;
  const int threads = 32 * ((call.heads + each - 1) / each);
  if (is_narrow(call.storage) && call.measure) {
    const size_t bytes = call.heads * sizeof(float);
    cudaError_t error = cudaMemsetAsync(call.key_range, 0, bytes, stream);
    if (!error) error = cudaMemsetAsync(call.value_range, 0, bytes, stream);
    if (error) return error;
    kv_append_kernel<kDim, true><<<call.tokens, threads, 0, stream>>>(call);
  }
  kv_append_kernel<kDim, false><<<call.tokens, threads, 0, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace

int kv_append(const KvAppend& call, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  const bool ranges = call.key_range && call.value_range;
  if (call.heads < 1 || call.heads > kMaxAppendHeads || (is_narrow(call.storage) && !ranges)) {
    return cudaErrorInvalidValue;
  }
  if (call.q.data && (!call.query || (call.moved && !call.moved_shift))) return cudaErrorInvalidValue;
  if (call.tokens == 0) return cudaSuccess;
  if (call.head_dim == 64) return launch<64>(call, on);
  if (call.head_dim == 128) return launch<128>(call, on);
  return cudaErrorInvalidValue;
}

const char* error_text(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

}  // namespace streamchar::cuda
