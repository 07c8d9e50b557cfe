#include "kernels/sequence_attention.h"

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/kv_layout.h"
#include "kernels/thread_scratch.h"

namespace streamchar {

void sequence_attention_serial(const SequenceAttention& call, int kv_head) {
  const PanelLayout panels{1, call.head_dim, call.keys};
  auto* const scratch = static_cast<float*>(thread_scratch(Scratch::kItem, panels.layer_bytes(KvType::kFloat32)));
  cpu_kernels().sequence_attention(call, kv_head, scratch);
}

}  // namespace streamchar
