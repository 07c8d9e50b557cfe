// istft_overlap_add: the next frames of a stream of spectra, as samples (streaming inverse STFT).
//
//   piece_t  = irfft(frames[b, :, t]) * window                         (the imaginary parts of the first and the
//                                                                       last bin count as zero)
//   total    = tail, then piece_t added at sample t * hop, for t in rising order
//   weight'  = weight, then window^2 added likewise
//   samples  = total / max(weight', floor)   of the first frame_count * hop samples, which are complete
// What remains of total and weight' (size - hop samples each) is carried to the next call. Sums run in the order
// of frames, so a stream cut into calls anywhere gives the same bytes.
#pragma once

#include <cstdint>

namespace streamchar {

struct IstftOverlapAdd {
  int batch;
  int frame_count;
  int size;                   // of the transform: a power of two that istft_size_supported() takes
  int hop;                    // 1 to size
  const float* frames;        // (batch, size / 2 + 1, frame_count) complex: pairs of floats
  int64_t batch_stride;       // of `frames`, in floats, like the next two
  int64_t bin_stride;
  int64_t frame_stride;
  const float* window;        // (size,)
  const float* tail;          // (batch, size - hop) contiguous
  const float* weight;        // (size - hop,)
  float floor;
  float* samples;             // (batch, frame_count * hop) contiguous
  float* next_tail;           // (batch, size - hop) contiguous; not `tail`
  float* next_weight;         // (size - hop,); not `weight`
};

bool istft_size_supported(int size);

// Uses ThreadPool::global().
void istft_overlap_add_cpu(const IstftOverlapAdd& call);

}  // namespace streamchar
