// What every function of the C interface does around its work: turns exceptions into status codes with a message,
// reads sized structs and checks arguments.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <new>
#include <string>
#include <string_view>
#include <vector>

#include "cache/context_cache.h"
#include "streamchar/streamchar.h"

namespace streamchar::capi {

struct Failure {
  sc_status status;
  std::string message;
};

[[noreturn]] void fail(sc_status status, std::string_view what, std::string_view remedy);

// Keeps the message for sc_last_error_message() and returns the status.
sc_status report(sc_status status, std::string_view message) noexcept;
sc_status report_current_exception() noexcept;

template <typename Body>
sc_status guarded(const Body& body) noexcept {
  try {
    body();
    return SC_OK;
  } catch (...) {
    return report_current_exception();
  }
}

// Dimensions are bounded so that no product of those that a kernel multiplies leaves its integer.
inline constexpr int32_t kMaxCount = 1 << 24;  // tokens, rows, frames, capacity
inline constexpr int32_t kMaxWidth = 1 << 18;  // channels
inline constexpr int32_t kMaxSmall = 1 << 12;  // layers, heads, segments, chunks

void check_range(const char* name, int64_t value, int64_t least, int64_t most);

template <typename T>
T* check_pointer(const char* name, T* pointer) {
  if (!pointer) fail(SC_E_INVALID_ARGUMENT, std::string(name) + " is NULL", "pass an address");
  return pointer;
}

// Layer norm's.
void check_eps(float eps);

// Weights.
void check_finite(const char* name, const float* data, int64_t count);

// A copy of weights, which are there and finite.
std::vector<float> copied_vector(const std::string& name, const float* data, int64_t count);

// Sized structs. A larger one is of a later version: it is taken if what this version does not know is zero.
void check_struct(const char* name, const void* given, std::size_t known);

template <typename T>
T read_struct(const char* name, const T* given) {
  check_struct(name, given, sizeof(T));
  T copy;
  std::memcpy(&copy, given, sizeof copy);
  return copy;
}

template <typename T>
void init_struct(T* target, uint32_t struct_size, T defaults) noexcept {
  if (!target || struct_size < sizeof defaults.struct_size) return;
  defaults.struct_size = struct_size;
  std::memset(static_cast<void*>(target), 0, struct_size);
  std::memcpy(static_cast<void*>(target), &defaults, std::min<std::size_t>(struct_size, sizeof defaults));
}

// Handles begin with a number that tells their kind.
enum class Kind : uint32_t {
  kContext = 0x5C0C0DE1,
  kSnapshot = 0x5C0C0DE2,
  kLinear = 0x5C0C0DE3,
  kConv = 0x5C0C0DE4,
  kJointBlocks = 0x5C0C0DE5,
  kLanguageModel = 0x5C0C0DE6,
  kPartMotion = 0x5C0C0DE7,
  kVideoDecoder = 0x5C0C0DE8,
  kLatentDrawing = 0x5C0C0DE9
};

void check_handle(const void* given, Kind kind);

template <typename T>
T& handle(T* given) {
  check_handle(given, T::kKind);
  return *given;
}

}  // namespace streamchar::capi
