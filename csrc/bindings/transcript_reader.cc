// TranscriptReader: the transcript's window and what was heard, through the language model.
#include "networks/transcript_reader.h"

#include <pybind11/stl.h>

#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

// (address, numbers)
using Array = std::pair<Address, int64_t>;

std::vector<float> copied(const Array& array) { return bindings::copied(array.first, array.second); }

// Tables of units, stresses, word starts, voices and places, then the rotation.
std::unique_ptr<TranscriptReader> make(std::shared_ptr<LanguageModel> model, const std::vector<Array>& tables,
                                       std::shared_ptr<PackedLinear> history, std::shared_ptr<PackedLinear> key,
                                       int64_t absent) {
  return std::make_unique<TranscriptReader>(TranscriptReaderParts{.model = std::move(model),
                                                                  .unit = copied(tables.at(0)),
                                                                  .stress = copied(tables.at(1)),
                                                                  .word_start = copied(tables.at(2)),
                                                                  .voice = copied(tables.at(3)),
                                                                  .place = copied(tables.at(4)),
                                                                  .rope = copied(tables.at(5)),
                                                                  .history = std::move(history),
                                                                  .key = std::move(key),
                                                                  .absent = absent});
}

void run(const TranscriptReader& reader, int streams, Address units, Address history, Address voices, Address memory,
         Address keys, Address padding) {
  reader.run({.streams = streams,
              .units = integers(units),
              .history = floats(history),
              .voices = integers(voices),
              .memory = writable_floats(memory),
              .keys = writable_floats(keys),
              .padding = reinterpret_cast<uint8_t*>(padding)});
}

}  // namespace

void bind_transcript_reader(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::class_<TranscriptReader>(module, "TranscriptReader").def(py::init(&make)).def("run", &run, NoGil());
}

}  // namespace streamchar::bindings
