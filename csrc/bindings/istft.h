// How Python passes an istft_overlap_add call, for CPU and CUDA.
#pragma once

#include "bindings/bindings.h"
#include "kernels/istft_overlap_add.h"

namespace streamchar::bindings {

// (address, batch, bin and frame stride in floats)
using SpectrumView = std::tuple<Address, int64_t, int64_t, int64_t>;

inline IstftOverlapAdd istft_call(int batch, int frame_count, int size, int hop, const SpectrumView& frames,
                                  Address window, Address tail, Address weight, float floor, Address samples,
                                  Address next_tail, Address next_weight) {
  const auto [data, batch_stride, bin_stride, frame_stride] = frames;
  return {.batch = batch,
          .frame_count = frame_count,
          .size = size,
          .hop = hop,
          .frames = floats(data),
          .batch_stride = batch_stride,
          .bin_stride = bin_stride,
          .frame_stride = frame_stride,
          .window = floats(window),
          .tail = floats(tail),
          .weight = floats(weight),
          .floor = floor,
          .samples = writable_floats(samples),
          .next_tail = writable_floats(next_tail),
          .next_weight = writable_floats(next_weight)};
}

}  // namespace streamchar::bindings
