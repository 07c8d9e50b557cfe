// The emulated kernels by plain numbers; see test_gpu_emulated.py.
#include <exception>
#include <string>

#include "kernels/cuda_calls.h"
#include "machine.h"

namespace {

using namespace streamchar;

struct Numbers {
  const int64_t* next;
  int64_t number() { return *next++; }
  int small() { return static_cast<int>(number()); }
  template <typename T>
  T* address() { return reinterpret_cast<T*>(number()); }
  cuda::TokenView view() {
    const void* data = address<const void>();
    const int64_t token = number();
    return {data, token, number()};
  }
  cuda::HeadNorm norm() {
    cuda::HeadNorm norm{address<const float>(), small(), {}, 1e-6f};
    for (int i = 0; i <= norm.groups; ++i) norm.bounds[i] = small();
    return norm;
  }
};

std::string found;  // what was wrong with the last call

// Zero if nothing was.
template <typename Call>
int outcome(unsigned seed, const Call& call) {
  emulated::Machine& m = emulated::machine();
  m.random.seed(seed);
  m.races.found = 0;
  found.clear();
  try {
    const int code = call();
    m.races.watch_nothing();
    if (m.races.found) found = std::to_string(m.races.found) + " races; " + m.races.first;
    return code;
  } catch (const std::exception& error) {
    m.races.end();
    m.races.watch_nothing();
    found = error.what();
    return -1;
  }
}

}  // namespace

extern "C" int emulated_attention(const int64_t* numbers, int sm90, int processors, unsigned seed) {
  Numbers n{numbers};
  cuda::SegmentAttention call{};
  call.head_dim = n.small();
  call.storage = static_cast<KvStorage>(n.small());
  call.workspace = n.address<void>();
  call.workspace_bytes = n.number();
  emulated::Races& races = emulated::machine().races;
  races.watch(call.workspace, call.workspace_bytes);
  call.stream_count = n.small();
  for (int i = 0; i < call.stream_count; ++i) {
    cuda::AttentionStream& s = call.streams[i];
    s.tokens = n.small();
    s.heads = n.small();
    s.q = n.view();
    s.moved = n.view();
    s.norm = n.norm();
    s.rope = n.address<const float>();
    s.first_segment = n.small();
    s.segment_count = n.small();
    s.out = n.address<void>();
    s.lse = n.address<float>();
    races.watch(s.out, size_t{2} * s.tokens * s.heads * call.head_dim);
    races.watch(s.lse, size_t{4} * s.tokens * s.heads);
  }
  call.segment_count = n.small();
  for (int i = 0; i < call.segment_count; ++i) {
    cuda::Segment& s = call.segments[i];
    s.key = n.view();
    s.value = n.view();
    s.rows = n.small();
    s.moved = n.small();
    s.shift = n.address<const float>();
    s.key_range = n.address<const float>();
    s.value_range = n.address<const float>();
  }
  return outcome(seed, [&] {
    return sm90 ? cuda::segment_attention_sm90(call, processors, nullptr)
                : cuda::segment_attention_sm80(call, processors, nullptr);
  });
}

extern "C" int emulated_append(const int64_t* numbers, unsigned seed) {
  Numbers n{numbers};
  cuda::KvAppend call{};
  call.tokens = n.small();
  call.heads = n.small();
  call.head_dim = n.small();
  call.storage = static_cast<KvStorage>(n.small());
  call.all_heads = n.small();
  call.k = n.view();
  call.v = n.view();
  call.norm = n.norm();
  call.rope = n.address<const float>();
  call.shift = n.address<const float>();
  call.key = n.address<void>();
  call.value = n.address<void>();
  call.key_range = n.address<float>();
  call.value_range = n.address<float>();
  call.measure = n.small();
  call.q = n.view();
  call.q_weight = n.address<const float>();
  call.query = n.address<void>();
  call.moved = n.address<void>();
  call.moved_shift = n.address<const float>();
  return outcome(seed, [&] { return cuda::kv_append(call, nullptr); });
}

// What was wrong with the last call; empty if nothing was.
extern "C" const char* emulated_fault() { return found.c_str(); }

// Tells the search for races nothing of the order that these make, from now on: mbarriers, in the order in which a kernel
// sets them up, and what enum Order names. `own_only`: see Races.
extern "C" void emulated_ignore(const int* what, int count, int own_only) {
  emulated::machine().ignored = {what, what + count};
  emulated::machine().races.own_only = own_only;
}
