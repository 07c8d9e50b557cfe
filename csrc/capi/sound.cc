// Streaming inverse STFT.
#include "capi/checks.h"
#include "kernels/istft_overlap_add.h"

using namespace streamchar;
using namespace streamchar::capi;

namespace {

constexpr int64_t kMaxSamples = 1 << 30;

}  // namespace

void sc_istft_overlap_add_call_init(sc_istft_overlap_add_call* call, uint32_t struct_size) {
  sc_istft_overlap_add_call defaults{};
  defaults.floor = 1e-3f;
  init_struct(call, struct_size, defaults);
}

sc_status sc_istft_overlap_add(const sc_istft_overlap_add_call* given) {
  return guarded([&] {
    const auto call = read_struct("call", given);
    check_range("batch", call.batch, 1, kMaxSmall);
    check_range("frame_count", call.frame_count, 0, kMaxCount);
    check_range("batch * frame_count", int64_t{call.batch} * call.frame_count, 0, kMaxCount);
    if (!istft_size_supported(call.size)) {
      fail(SC_E_UNSUPPORTED, "size is " + std::to_string(call.size), "a power of two from 16 to 8192");
    }
    check_range("hop", call.hop, 1, call.size);
    check_range("frame_count * hop", int64_t{call.frame_count} * call.hop, 0, kMaxSamples);
    if (!(call.floor > 0)) fail(SC_E_INVALID_ARGUMENT, "floor is not positive", "1e-3");
    check_pointer("window", call.window);
    if (call.frame_count) check_pointer("frames", call.frames), check_pointer("samples", call.samples);
    if (call.hop < call.size) {
      check_pointer("tail", call.tail), check_pointer("weight", call.weight);
      check_pointer("next_tail", call.next_tail), check_pointer("next_weight", call.next_weight);
    }
    istft_overlap_add_cpu({.batch = call.batch,
                           .frame_count = call.frame_count,
                           .size = call.size,
                           .hop = call.hop,
                           .frames = call.frames,
                           .batch_stride = call.batch_stride,
                           .bin_stride = call.bin_stride,
                           .frame_stride = call.frame_stride,
                           .window = call.window,
                           .tail = call.tail,
                           .weight = call.weight,
                           .floor = call.floor,
                           .samples = call.samples,
                           .next_tail = call.next_tail,
                           .next_weight = call.next_weight});
  });
}
