// CpuContext: one session's context cache on the CPU.
#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "bindings/bindings.h"
#include "cache/cpu_context.h"

namespace streamchar::bindings {
namespace {

namespace py = pybind11;

// (name, capacity, chunks, history, is ring)
using SegmentTuple = std::tuple<std::string, int, int, int, bool>;
// (segment, age, shift address or 0)
using ReadTuple = std::tuple<int, int, Address>;

std::unique_ptr<CpuContext> make(int layers, int heads, int head_dim, const std::string& storage,
                                 const std::vector<SegmentTuple>& segments) {
  std::vector<SegmentSpec> specs;
  for (const auto& [name, capacity, chunks, history, ring] : segments) {
    specs.push_back({name, capacity, chunks, history, ring, 0});
  }
  const KvType type = storage == "int8"       ? KvType::kInt8
                      : storage == "bfloat16" ? KvType::kBFloat16
                                              : KvType::kFloat32;
  return std::make_unique<CpuContext>(ContextShape{layers, heads, head_dim, type}, std::move(specs));
}

void append(CpuContext& context, int layer, int segment, int tokens, const View& k, const View& v, Address weight,
            const std::vector<int32_t>& bounds, float eps, Address rope) {
  context.append(layer, segment,
                 {.tokens = tokens,
                  .q = {},
                  .k = token_view(k),
                  .v = token_view(v),
                  .q_norm = {},
                  .k_norm = head_norm(weight, bounds, eps),
                  .rope = floats(rope)});
}

void attend(CpuContext& context, int layer, int tokens, const View& q, const View& k, const View& v, Address q_weight,
            Address k_weight, const std::vector<int32_t>& bounds, float eps, Address rope,
            const std::vector<ReadTuple>& reads, std::optional<int> store, Address out) {
  std::vector<ContextRead> chunks;
  for (const auto& [segment, age, shift] : reads) chunks.push_back({segment, age, floats(shift)});
  context.attend(layer,
                 {.tokens = tokens,
                  .q = token_view(q),
                  .k = token_view(k),
                  .v = token_view(v),
                  .q_norm = head_norm(q_weight, bounds, eps),
                  .k_norm = head_norm(k_weight, bounds, eps),
                  .rope = floats(rope)},
                 chunks, store, writable_floats(out));
}

std::vector<int64_t> live_labels(const CpuContext& context, int segment) {
  std::vector<int64_t> labels;
  for (int age = context.cache().live_count(segment) - 1; age >= 0; --age) {
    labels.push_back(context.cache().live(segment, age).label);
  }
  return labels;
}

int live_rows(const CpuContext& context, int segment) {
  int rows = 0;
  for (int age = 0; age < context.cache().live_count(segment); ++age) rows += context.cache().live(segment, age).rows;
  return rows;
}

// StateError becomes streamchar_rt.errors.StateError(message, hint=hint).
void translate(std::exception_ptr error) {
  try {
    if (error) std::rethrow_exception(error);
  } catch (const StateError& e) {
    const py::object type = py::module_::import("streamchar_rt.errors").attr("StateError");
    const py::object value = type(e.what(), py::arg("hint") = e.hint);
    PyErr_SetObject(type.ptr(), value.ptr());
  }
}

}  // namespace

void bind_context(py::module_& module) {
  using NoGil = py::call_guard<py::gil_scoped_release>;
  py::register_local_exception_translator(&translate);

  py::class_<ContextCache::Snapshot>(module, "Snapshot").def_property_readonly("nbytes", &ContextCache::Snapshot::bytes);

  py::class_<CpuContext>(module, "CpuContext")
      .def(py::init(&make))
      .def("append", &append, NoGil())
      .def("attend", &attend, NoGil())
      .def("commit", [](CpuContext& c, int segment, std::optional<int64_t> label) { c.cache().commit(segment, label); })
      .def("drop", [](CpuContext& c, int segment) { c.cache().drop(segment); })
      .def("rewind", [](CpuContext& c, int segment, int64_t label) { c.cache().rewind(segment, label); })
      .def("clear", [](CpuContext& c, int segment) { c.cache().clear(segment); })
      .def("snapshot", [](const CpuContext& c) { return c.cache().snapshot(); })
      .def("restore", [](CpuContext& c, const ContextCache::Snapshot& snapshot) { c.cache().restore(snapshot); })
      .def("fork", &CpuContext::fork)
      .def("trim", [](CpuContext& c) { c.cache().trim(); })
      .def("read", [](const CpuContext& c, int segment, int index, int layer, Address key, Address value) {
        c.read(segment, index, layer, writable_floats(key), writable_floats(value));
      }, NoGil())
      .def("rows", &live_rows)
      .def("labels", &live_labels)
      .def("committed", [](const CpuContext& c, int segment) { return c.cache().committed_count(segment); })
      .def("committed_rows", [](const CpuContext& c, int segment, int i) { return c.cache().committed(segment, i).rows; })
      .def("committed_label", [](const CpuContext& c, int segment, int i) { return c.cache().committed(segment, i).label; })
      .def("live_count", [](const CpuContext& c, int segment) { return c.cache().live_count(segment); })
      .def("live_generation", [](const CpuContext& c, int segment, int age) { return c.cache().live(segment, age).generation; })
      .def("staged", [](const CpuContext& c, int segment) { return c.cache().staged(segment); })
      .def("generation", [](const CpuContext& c, int segment) { return c.cache().generation(segment); })
      .def("slot_bytes", [](const CpuContext& c, int segment) { return c.cache().spec().segments.at(segment).slot_bytes; })
      .def_property_readonly("bytes_held", &CpuContext::bytes_held);
}

}  // namespace streamchar::bindings
