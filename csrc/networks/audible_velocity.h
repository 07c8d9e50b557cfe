// audible_velocity: what the denoiser's last layer becomes as the sound's velocity, mended where it would lose sound.
//
// With x the noisy tokens at flow time t < 1, m the mean of the clean ones as the condition has it, s their variance
// about it, r = 1 - t and n = r^2 + t^2 s:
//   v      = (r m + (t s - r) x) / n + sqrt(s / n) residual
//   beyond = x + r v - m                                   the clean sound less its mean
//   keep   = lost / max(lost, -(mean of beyond over a frame's bins and over `span` frames, ends repeated))
//   out    = v - beyond (1 - keep) / r
// A stream's result depends on that stream alone.
#pragma once

namespace streamchar {

struct AudibleVelocity {
  int streams;
  int frames;             // of mel
  int bins;
  int span;               // frames, odd
  float lost;             // by how much sound may be quieter than its mean; positive
  float t;
  float variance;
  const float* residual;  // (streams, frames, bins), like the next three
  const float* noisy;
  const float* mean;
  float* out;             // none of them
};

void audible_velocity(const AudibleVelocity& call);

}  // namespace streamchar
