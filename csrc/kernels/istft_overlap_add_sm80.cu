// istft_overlap_add for any GPU from sm_80 on: one block transforms one frame in shared memory, then one thread
// sums up one sample. See cuda_calls.h for its state.
#include <cuda_runtime.h>

#include "kernels/cuda_calls.h"
#include "kernels/inverse_fft.h"

namespace streamchar::cuda {
namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ Pair turn_by(int k, int size) {
  Pair turn;
  sincospif(2.0f * k / size, &turn.y, &turn.x);
  return turn;
}

__global__ void __launch_bounds__(kThreads)
    transform_kernel(const __grid_constant__ IstftOverlapAdd call, float* pieces) {
  extern __shared__ Pair shared[];
  const int points = call.size / 2, frame = blockIdx.x, batch = blockIdx.y;
  Pair* now = shared;
  Pair* next = shared + points;
  const float* source = call.frames + batch * call.batch_stride + frame * call.frame_stride;
  const auto bin = [&](int k) {
    const float* p = source + k * call.bin_stride;
    return Pair{p[0], k == 0 || k == points ? 0.0f : p[1]};
  };
  for (int k = threadIdx.x; k < points; k += kThreads) {
    next[k] = fold_spectrum(bin(k), bin(points - k), turn_by(k, call.size));
  }
  for (int span = 1; span < points; span *= 2) {
    Pair* const in = next;
    next = now;
    now = in;
    __syncthreads();
    for (int i = threadIdx.x; i < points / 2; i += kThreads) {
      const Butterfly at = butterfly(i, span);
      const Pair a = now[i], b = now[i + points / 2];
      next[at.first] = {a.x + b.x, a.y + b.y};
      next[at.first + span] = rotate_pair({a.x - b.x, a.y - b.y}, turn_by(2 * at.turn, call.size));
    }
  }
  __syncthreads();
  const float scale = 1.0f / call.size;
  float* piece = pieces + (int64_t{batch} * call.frame_count + frame) * call.size;
  for (int n = threadIdx.x; n < points; n += kThreads) {
    piece[2 * n] = next[n].x * (call.window[2 * n] * scale);
    piece[2 * n + 1] = next[n].y * (call.window[2 * n + 1] * scale);
  }
}

__global__ void __launch_bounds__(kThreads)
    add_kernel(const __grid_constant__ IstftOverlapAdd call, const float* pieces) {
  const int rest = call.size - call.hop, done = call.frame_count * call.hop, batch = blockIdx.y;
  const int sample = blockIdx.x * kThreads + threadIdx.x;
  if (sample >= done + rest) return;
  float total = sample < rest ? call.tail[int64_t{batch} * rest + sample] : 0.0f;
  float weight = sample < rest ? call.weight[sample] : 0.0f;
  const int last = min(sample / call.hop, call.frame_count - 1);
  const int first = sample < call.size ? 0 : (sample - call.size) / call.hop + 1;
  for (int t = first; t <= last; ++t) {
    const int n = sample - t * call.hop;
    total += pieces[(int64_t{batch} * call.frame_count + t) * call.size + n];
    weight += call.window[n] * call.window[n];
  }
  if (sample < done) {
    call.samples[int64_t{batch} * done + sample] = total / fmaxf(weight, call.floor);
  } else {
    call.next_tail[int64_t{batch} * rest + sample - done] = total;
    if (batch == 0) call.next_weight[sample - done] = weight;
  }
}

}  // namespace

int istft_overlap_add(const IstftOverlapAdd& call, float* pieces, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  if (!istft_size_supported(call.size) || call.size > kMaxInverseFftSize) return cudaErrorInvalidValue;
  const int samples = call.frame_count * call.hop + call.size - call.hop;
  if (call.batch == 0 || samples == 0) return cudaSuccess;
  if (call.frame_count > 0) {
    transform_kernel<<<dim3(call.frame_count, call.batch), kThreads, call.size * sizeof(Pair), on>>>(call, pieces);
  }
  add_kernel<<<dim3((samples + kThreads - 1) / kThreads, call.batch), kThreads, 0, on>>>(call, pieces);
  return cudaGetLastError();
}

}  // namespace streamchar::cuda
