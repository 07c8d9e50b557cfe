// istft_overlap_add in work items, for the instruction set of this translation unit. The transforms of kLanes
// frames run side by side, one to a lane.
#pragma once

#include "kernels/cpu/simd.h"
#include "kernels/inverse_fft.h"
#include "kernels/istft_overlap_add.h"

namespace streamchar::SC_ISA {

// A complex number of every lane.
struct PairVec {
  Vec x;
  Vec y;
};

SC_INLINE PairVec load_pair(const float* p) { return {load(p), load(p + kLanes)}; }
SC_INLINE void store_pair(float* p, PairVec a) {
  store(p, a.x);
  store(p + kLanes, a.y);
}
SC_INLINE PairVec turned(PairVec a, Pair turn) {
  const Vec c = broadcast(turn.x), s = broadcast(turn.y);
  return {sub(mul(a.x, c), mul(a.y, s)), fma(a.x, s, mul(a.y, c))};
}

// One bin of `count` frames; the other lanes become zero.
SC_INLINE PairVec load_bin(const float* p, int64_t frame_stride, int count) {
  alignas(64) float x[kLanes] = {}, y[kLanes] = {};
  for (int i = 0; i < count; ++i) {
    x[i] = p[i * frame_stride];
    y[i] = p[i * frame_stride + 1];
  }
  return {load(x), load(y)};
}

// Windowed inverse transforms of the frames from `first` on, as many as there are lanes: pieces[lane][size].
// turns: e^{2 pi i k / size}, k < size / 2. scratch: 2 * (size + 2) * kLanes floats.
SC_INLINE void istft_transform_any(const IstftOverlapAdd& call, const float* turns, int batch, int first,
                                   float* scratch, float* pieces) {
  const int points = call.size / 2, count = min(kLanes, call.frame_count - first);
  const auto* turn = reinterpret_cast<const Pair*>(turns);
  float* now = scratch;
  float* next = scratch + (call.size + 2) * kLanes;
  const float* source = call.frames + batch * call.batch_stride + first * call.frame_stride;
  for (int k = 0; k <= points; ++k) {
    PairVec bin = load_bin(source + k * call.bin_stride, call.frame_stride, count);
    if (k == 0 || k == points) bin.y = broadcast(0.0f);
    store_pair(now + 2 * kLanes * k, bin);
  }
  for (int k = 0; k < points; ++k) {  // fold_spectrum of every lane
    const PairVec a = load_pair(now + 2 * kLanes * k), b = load_pair(now + 2 * kLanes * (points - k));
    const PairVec odd = turned({sub(a.x, b.x), add(a.y, b.y)}, turn[k]);
    store_pair(next + 2 * kLanes * k, {sub(add(a.x, b.x), odd.y), add(sub(a.y, b.y), odd.x)});
  }
  for (int span = 1; span < points; span *= 2) {
    float* const in = next;
    next = now;
    now = in;
    for (int i = 0; i < points / 2; ++i) {
      const Butterfly at = butterfly(i, span);
      const PairVec a = load_pair(now + 2 * kLanes * i), b = load_pair(now + 2 * kLanes * (i + points / 2));
      store_pair(next + 2 * kLanes * at.first, {add(a.x, b.x), add(a.y, b.y)});
      store_pair(next + 2 * kLanes * (at.first + span), turned({sub(a.x, b.x), sub(a.y, b.y)}, turn[2 * at.turn]));
    }
  }
  const float scale = 1.0f / call.size;
  for (int n = 0; n < call.size; n += kLanes) {
    float* rows = next + n * kLanes;  // real and imaginary parts alternate, and so do even and odd samples
    for (int i = 0; i < kLanes; ++i) {
      store(rows + i * kLanes, mul(load(rows + i * kLanes), broadcast(call.window[n + i] * scale)));
    }
    transpose_square(rows, kLanes, pieces + n, call.size);
  }
}

// Samples [block * hop, ...) up to a hop of them, or up to the end of the tail. pieces: (frames, size) of the batch.
SC_INLINE void istft_add_any(const IstftOverlapAdd& call, const float* pieces, int batch, int block) {
  const int rest = call.size - call.hop, first = block * call.hop, done = call.frame_count * call.hop;
  const bool complete = block < call.frame_count;
  const int count = complete ? call.hop : min(call.hop, done + rest - first);
  float* total = complete ? call.samples + int64_t{batch} * done + first
                          : call.next_tail + int64_t{batch} * rest + (first - done);
  alignas(64) float weight[kMaxInverseFft];
  const int carried = first < rest ? min(count, rest - first) : 0;
  for (int i = 0; i < carried; ++i) {
    total[i] = call.tail[int64_t{batch} * rest + first + i];
    weight[i] = call.weight[first + i];
  }
  for (int i = carried; i < count; ++i) total[i] = weight[i] = 0.0f;
  for (int t = 0; t < call.frame_count && t <= block; ++t) {
    const int64_t offset = int64_t{block - t} * call.hop;
    if (offset >= call.size) continue;
    const int reach = min(count, static_cast<int>(call.size - offset));
    const float* piece = pieces + int64_t{t} * call.size + offset;
    const float* window = call.window + offset;
    for (int i = 0; i < reach; ++i) {
      total[i] += piece[i];
      weight[i] += window[i] * window[i];
    }
  }
  if (complete) {
    for (int i = 0; i < count; ++i) total[i] /= weight[i] > call.floor ? weight[i] : call.floor;
  } else if (batch == 0) {
    __builtin_memcpy(call.next_weight + (first - done), weight, sizeof(float) * count);
  }
}

}  // namespace streamchar::SC_ISA
