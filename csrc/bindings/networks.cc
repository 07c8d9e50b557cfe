// Chains of ops that run as one call.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"
#include "networks/audible_velocity.h"
#include "networks/joint_blocks.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

using Linear = std::shared_ptr<PackedLinear>;
// (qkv, out, expand, contract, table, q norm, k norm)
using HalfTuple = std::tuple<Linear, Linear, Linear, Linear, Address, Address, Address>;
// (segment, age, shift address or 0)
using ReadTuple = std::tuple<int, int, Address>;

std::unique_ptr<JointBlocks> make(int heads, int head_dim, const std::vector<std::pair<HalfTuple, HalfTuple>>& blocks) {
  const auto half = [&](const HalfTuple& given) {
    const auto& [qkv, out, expand, contract, table, q_norm, k_norm] = given;
    return JointHalf{qkv, out, expand, contract, copied(table, 6 * heads * head_dim), copied(q_norm, head_dim),
                     copied(k_norm, head_dim)};
  };
  std::vector<JointBlock> list;
  for (const auto& [video, audio] : blocks) list.push_back({half(video), half(audio)});
  return std::make_unique<JointBlocks>(heads, head_dim, std::move(list));
}

void run(const JointBlocks& blocks, const std::vector<CpuContext*>& contexts,
         const std::vector<std::vector<ReadTuple>>& reads, int video_tokens, int audio_tokens, Address video,
         Address audio, Address modulation, int64_t modulation_stride, Address rope, std::optional<int> store) {
  std::vector<JointStream> streams;
  for (std::size_t i = 0; i < contexts.size(); ++i) {
    JointStream stream{contexts[i], {}};
    for (const auto& [segment, age, shift] : reads.at(i)) stream.reads.push_back({segment, age, floats(shift)});
    streams.push_back(std::move(stream));
  }
  blocks.run({.streams = streams,
              .video_tokens = video_tokens,
              .audio_tokens = audio_tokens,
              .video = writable_floats(video),
              .audio = writable_floats(audio),
              .modulation = floats(modulation),
              .modulation_stride = modulation_stride,
              .rope = floats(rope),
              .store = store});
}

void velocity(int streams, int frames, int bins, int span, float lost, float t, float variance, Address residual,
              Address noisy, Address mean, Address out) {
  audible_velocity({.streams = streams,
                    .frames = frames,
                    .bins = bins,
                    .span = span,
                    .lost = lost,
                    .t = t,
                    .variance = variance,
                    .residual = floats(residual),
                    .noisy = floats(noisy),
                    .mean = floats(mean),
                    .out = writable_floats(out)});
}

}  // namespace

void bind_networks(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<JointBlocks>(module, "JointBlocks").def(py::init(&make)).def("run", &run, NoGil());
  module.def("audible_velocity", &velocity, NoGil());
}

}  // namespace streamchar::bindings
