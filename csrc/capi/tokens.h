// Checks of what attention and its like are given.
#pragma once

#include <string>

#include "capi/checks.h"
#include "kernels/kv_layout.h"
#include "kernels/segment_attention.h"

namespace streamchar::capi {

inline constexpr sc_head_norm kNoNorm = {nullptr, nullptr, 0, 1e-6f};

inline KvType kv_type(int32_t storage) {
  switch (storage) {
    case SC_F32: return KvType::kFloat32;
    case SC_BF16: return KvType::kBFloat16;
    case SC_INT8: return KvType::kInt8;
  }
  fail(SC_E_UNSUPPORTED, "keys and values are not kept in storage " + std::to_string(storage),
       "SC_F32, SC_BF16 or SC_INT8");
}

inline void check_heads(int32_t heads, int32_t head_dim) {
  check_range("heads", heads, 1, kMaxSmall);
  if (!cpu_head_dim_supported(head_dim)) {
    fail(SC_E_UNSUPPORTED, "head_dim is " + std::to_string(head_dim), "64 or 128");
  }
}

inline TokenView token_view(const char* name, const sc_token_view& view) {
  return {check_pointer(name, view.data), view.token_stride, view.head_stride};
}

inline HeadNorm head_norm(const char* name, const sc_head_norm& norm, int32_t tokens) {
  if (!norm.weight) return {};
  const std::string prefix(name);
  check_range((prefix + ".groups").c_str(), norm.groups, 1, kMaxSmall);
  check_pointer((prefix + ".bounds").c_str(), norm.bounds);
  bool rising = norm.bounds[0] == 0 && norm.bounds[norm.groups] == tokens;
  for (int32_t g = 0; g < norm.groups; ++g) rising = rising && norm.bounds[g] <= norm.bounds[g + 1];
  if (!rising) {
    fail(SC_E_INVALID_ARGUMENT, prefix + ".bounds do not divide the tokens",
         "groups + 1 indices that never fall, from 0 to " + std::to_string(tokens));
  }
  if (!(norm.eps > 0)) fail(SC_E_INVALID_ARGUMENT, prefix + ".eps is not positive", "1e-6");
  return {norm.weight, norm.bounds, norm.groups, norm.eps};
}

}  // namespace streamchar::capi
