// streamchar_rt._native: the native core as Python sees it. Use it through streamchar_rt.ops.
#include "bindings/bindings.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native core of streamchar_rt; use streamchar_rt.ops.";
  streamchar::bindings::bind_machine(module);
  streamchar::bindings::bind_kernels(module);
  streamchar::bindings::bind_rows(module);
  streamchar::bindings::bind_istft(module);
  streamchar::bindings::bind_linear(module);
  streamchar::bindings::bind_conv(module);
  streamchar::bindings::bind_picture(module);
  streamchar::bindings::bind_video_decoder(module);
  streamchar::bindings::bind_context(module);
  streamchar::bindings::bind_networks(module);
  streamchar::bindings::bind_language_model(module);
  streamchar::bindings::bind_transcript_reader(module);
  streamchar::bindings::bind_condition_head(module);
  streamchar::bindings::bind_condition_encoder(module);
  streamchar::bindings::bind_vocoder_layers(module);
  streamchar::bindings::bind_layout(module);
#if defined(SC_WITH_CUDA)
  streamchar::bindings::bind_cuda(module);
#endif
}
