// The results of query rows, as mma.sync and wgmma both leave them with the threads: a warp has 16 rows and a thread
// two of them, `lane / 4` and eight further, with two channels in every eight. Writes them out, or merges the parts of
// a tile that was split (work_split.h).
#pragma once

#include "kernels/cuda/key_walk.cuh"
#include "kernels/cuda/ptx.cuh"

namespace streamchar::cuda {

inline constexpr float kLog2E = 1.4426950408889634f;

// Of a thread's two rows.
struct RowState {
  float maximum[2];        // of the logits before they are scaled
  float denominator[2];    // of this thread's columns; of the row after finish()

  __device__ __forceinline__ static RowState none() { return {{-INFINITY, -INFINITY}, {0.0f, 0.0f}}; }
};

template <int kDim>
struct AttentionRows {
  float sum[kDim / 2];     // of row r: elements 4 n + 2 r and the next, channels 8 n + 2 (lane % 4) and the next
  RowState state;

  __device__ __forceinline__ void clear_sums() {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) sum[i] = 0.0f;
  }
  __device__ __forceinline__ void clear() {
    clear_sums();
    state = RowState::none();
  }

  __device__ __forceinline__ void multiply(const float (&factor)[2]) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) sum[i] *= factor[i / 2 % 2];
  }

  // After the last key. `unit`: what narrow values are to be multiplied by.
  __device__ __forceinline__ void finish(float unit) {
    const float factor[2] = {unit, unit};
    multiply(factor);
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      state.denominator[r] += __shfl_xor_sync(~0u, state.denominator[r], 1);
      state.denominator[r] += __shfl_xor_sync(~0u, state.denominator[r], 2);
    }
  }

  // `first_token`: of the warp's first row.
  __device__ __forceinline__ void store(const AttentionStream& stream, int head, int first_token, int lane,
                                        float scale) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int token = first_token + lane / 4 + 8 * r;
      const float inverse = state.denominator[r] > 0.0f ? 1.0f / state.denominator[r] : 0.0f;
      const int64_t row = int64_t{token} * stream.heads + head;
      auto* out = static_cast<uint4*>(stream.out) + row * (kDim / 8) + (lane & 3);
#pragma unroll
      for (int n = 0; n < kDim / 8; n += 4) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int e = 4 * (n + i) + 2 * r;
          words[i] = pack_bf16(sum[e] * inverse, sum[e + 1] * inverse);
        }
        exchange(words, lane);
        if (token < stream.tokens) out[n] = make_uint4(words[0], words[1], words[2], words[3]);
      }
      if (token < stream.tokens && stream.lse && (lane & 3) == 0) {
        stream.lse[row] = state.denominator[r] > 0.0f
                              ? (state.maximum[r] * scale + log2f(state.denominator[r])) / kLog2E
                              : -INFINITY;
      }
    }
  }

  // This warp's part of a split tile goes to its slot. True for the warp that arrives last: it has then merged all of
  // them, with kTogether * 16 bytes of a thread under way at once. A whole warp calls; nobody waits for anybody.
  template <int kTogether>
  __device__ __forceinline__ bool merge(void* workspace, const PartialLayout& layout, const WorkPart& part, int warp,
                                        int lane, float scale) {
    auto* counters = static_cast<unsigned*>(workspace);
    auto* slots = reinterpret_cast<float*>(counters + PartialLayout::kCounters);
    write(slots + layout.partial(part.slot_of(static_cast<int>(blockIdx.x)), warp), lane);
    // Every lane's stores come before lane 0's arrival, which releases them; and the last arrival, which acquires what
    // the others released, before every lane's loads, which skip L1. A warp's barrier orders what its lanes do.
    __syncwarp();
    unsigned arrived = 0, *counter = counters + layout.counter(part.last_block, warp);
    if (lane == 0) arrived = arrive_in_memory(counter) + 1u;
    arrived = __shfl_sync(~0u, arrived, 0);
    if (arrived != static_cast<unsigned>(part.sharers())) return false;
    __syncwarp();
    if (lane == 0) *counter = 0;  // for the next call: nobody else comes to it in this one

    clear();
#pragma unroll 1
    for (int b = part.first_block(); b <= part.last_block; ++b) {
      const float* slot = slots + layout.partial(part.slot_of(b), warp);
      const float4 theirs = read(slot, kDim / 8, lane);
      const float top[2] = {fmaxf(state.maximum[0], theirs.x), fmaxf(state.maximum[1], theirs.y)};
      const float weight[2] = {exp2_fast((theirs.x - top[0]) * scale), exp2_fast((theirs.y - top[1]) * scale)};
      const float factor[2] = {exp2_fast((state.maximum[0] - top[0]) * scale),
                               exp2_fast((state.maximum[1] - top[1]) * scale)};
      state = {{top[0], top[1]},
               {state.denominator[0] * factor[0] + theirs.z * weight[0],
                state.denominator[1] * factor[1] + theirs.w * weight[1]}};
#pragma unroll
      for (int first = 0; first < kDim / 8; first += kTogether) {
        float4 add[kTogether];
#pragma unroll
        for (int i = 0; i < kTogether; ++i) add[i] = read(slot, first + i, lane);
#pragma unroll
        for (int i = 0; i < kTogether; ++i) {
          float* const to = sum + 4 * (first + i);
          to[0] = to[0] * factor[0] + add[i].x * weight[0];
          to[1] = to[1] * factor[0] + add[i].y * weight[0];
          to[2] = to[2] * factor[1] + add[i].z * weight[1];
          to[3] = to[3] * factor[1] + add[i].w * weight[1];
        }
      }
    }
    return true;
  }

 private:
  // Word i of lane j of four becomes word j of lane i: 16 bytes of eight channels in a row.
  __device__ __forceinline__ static void exchange(uint32_t (&words)[4], int lane) {
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const bool upper = lane & step;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if (i & step) continue;
        const uint32_t theirs = __shfl_xor_sync(~0u, upper ? words[i] : words[i + step], step);
        (upper ? words[i] : words[i + step]) = theirs;
      }
    }
  }

  __device__ __forceinline__ void write(float* slot, int lane) const {
    auto* to = reinterpret_cast<float4*>(slot) + lane;
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      __stcg(to + 32 * n, make_float4(sum[4 * n], sum[4 * n + 1], sum[4 * n + 2], sum[4 * n + 3]));
    }
    __stcg(to + 32 * (kDim / 8), make_float4(state.maximum[0], state.maximum[1], state.denominator[0], state.denominator[1]));
  }

  __device__ __forceinline__ static float4 read(const float* slot, int n, int lane) {
    return __ldcg(reinterpret_cast<const float4*>(slot) + 32 * n + lane);
  }
};

}  // namespace streamchar::cuda
