#include "capi/checks.h"

#include <cmath>
#include <stdexcept>

namespace streamchar::capi {
namespace {

thread_local std::string last_message;

const char* kind_name(Kind kind) {
  switch (kind) {
    case Kind::kContext: return "sc_context";
    case Kind::kSnapshot: return "sc_snapshot";
    case Kind::kLinear: return "sc_linear";
    case Kind::kConv: return "sc_conv";
    case Kind::kJointBlocks: return "sc_joint_blocks";
    case Kind::kLanguageModel: return "sc_language_model";
    case Kind::kPartMotion: return "sc_part_motion";
    case Kind::kVideoDecoder: return "sc_video_decoder";
    case Kind::kLatentDrawing: return "sc_latent_drawing";
  }
  return "handle";
}

sc_status describe_current_exception() {
  try {
    throw;
  } catch (const Failure& failure) {
    return report(failure.status, failure.message);
  } catch (const StateError& error) {
    return report(SC_E_INVALID_STATE, std::string(error.what()) + "; try: " + error.hint);
  } catch (const std::bad_alloc&) {
    return report(SC_E_HOST_MEMORY, "no memory; try: a greater memory_limit, fewer snapshots and forks, "
                                    "sc_context_trim(), or a smaller model");
  } catch (const std::exception& error) {
    return report(SC_E_INTERNAL, std::string(error.what()) + "; try: report this, it is an error of the library");
  } catch (...) {
    return report(SC_E_INTERNAL, "unknown error; try: report this, it is an error of the library");
  }
}

}  // namespace

void fail(sc_status status, std::string_view what, std::string_view remedy) {
  throw Failure{status, std::string(what).append("; try: ").append(remedy)};
}

sc_status report(sc_status status, std::string_view message) noexcept {
  try {
    last_message = message;
  } catch (...) {
    last_message.clear();  // the status alone must do
  }
  return status;
}

sc_status report_current_exception() noexcept {
  try {
    return describe_current_exception();
  } catch (...) {
    return report(SC_E_HOST_MEMORY, "");  // not even for a message
  }
}

void check_range(const char* name, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return;
  fail(SC_E_INVALID_ARGUMENT, std::string(name) + " is " + std::to_string(value),
       most < least ? "there is none yet: append and commit first"
                    : std::to_string(least) + " to " + std::to_string(most));
}

void check_eps(float eps) {
  if (!(eps > 0)) fail(SC_E_INVALID_ARGUMENT, "eps is not positive", "1e-5");
}

void check_finite(const char* name, const float* data, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if (!std::isfinite(data[i])) {
      fail(SC_E_INVALID_ARGUMENT, std::string(name) + "[" + std::to_string(i) + "] is not finite",
           "a model that is not damaged");
    }
  }
}

std::vector<float> copied_vector(const std::string& name, const float* data, int64_t count) {
  check_finite(name.c_str(), check_pointer(name.c_str(), data), count);
  return {data, data + count};
}

void check_struct(const char* name, const void* given, std::size_t known) {
  check_pointer(name, given);
  uint32_t size;
  std::memcpy(&size, given, sizeof size);
  if (size < known) {
    fail(SC_E_ABI_MISMATCH, std::string(name) + " has struct_size " + std::to_string(size) + ", this library needs " +
                                std::to_string(known),
         "prepare it with its _init() function and sizeof");
  }
  const auto* bytes = static_cast<const unsigned char*>(given);
  if (std::any_of(bytes + known, bytes + size, [](unsigned char byte) { return byte != 0; })) {
    fail(SC_E_ABI_MISMATCH, std::string(name) + " uses fields that this library does not know",
         "a later libstreamchar, or leave them zero");
  }
}

void check_handle(const void* given, Kind kind) {
  Kind found{};
  if (given) std::memcpy(&found, given, sizeof found);
  if (found == kind) return;
  fail(SC_E_INVALID_ARGUMENT, (given ? "the handle is no " : "NULL is no ") + std::string(kind_name(kind)),
       "the handle that its create function gave");
}

}  // namespace streamchar::capi

size_t sc_last_error_message(char* buffer, size_t capacity) {
  const std::string& message = streamchar::capi::last_message;
  if (buffer && capacity) {
    const std::size_t count = std::min(message.size(), capacity - 1);
    std::memcpy(buffer, message.data(), count);
    buffer[count] = '\0';
  }
  return message.size();
}
