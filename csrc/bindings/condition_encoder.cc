// ConditionEncoder: what the denoiser is conditioned on, from what each half-frame says.
#include "networks/condition_encoder.h"

#include <pybind11/stl.h>

#include <memory>
#include <utility>
#include <vector>

#include "bindings/bindings.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

using Linear = std::shared_ptr<PackedLinear>;
// (address, numbers)
using Array = std::pair<Address, int64_t>;
// (first half-frame, results)
using Span = std::pair<int, int>;

std::vector<float> copied(const Array& array) { return bindings::copied(array.first, array.second); }

// Tables of units, stresses, times and voices.
std::unique_ptr<ConditionEncoder> make(const std::vector<Array>& tables, const std::vector<Linear>& convolutions,
                                       Linear to_audio, Linear to_video, int longest, Span audio, Span video) {
  return std::make_unique<ConditionEncoder>(
      ConditionEncoderParts{.unit = copied(tables.at(0)),
                            .stress = copied(tables.at(1)),
                            .times = copied(tables.at(2)),
                            .voice = copied(tables.at(3)),
                            .convolutions = {convolutions.begin(), convolutions.end()},
                            .to_audio = std::move(to_audio),
                            .to_video = std::move(to_video),
                            .longest = longest,
                            .audio_first = audio.first,
                            .audio_tokens = audio.second,
                            .video_first = video.first,
                            .video_tokens = video.second});
}

void run(const ConditionEncoder& encoder, int streams, int places, Address rows, Address voices, Address video,
         Address audio) {
  encoder.run({.streams = streams,
               .places = places,
               .rows = integers(rows),
               .voices = integers(voices),
               .video = writable_floats(video),
               .audio = writable_floats(audio)});
}

}  // namespace

void bind_condition_encoder(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<ConditionEncoder>(module, "ConditionEncoder").def(py::init(&make)).def("run", &run, NoGil());
}

}  // namespace streamchar::bindings
