// Arithmetic of the inverse real FFT, for host and device.
//
// `size` real samples come from an inverse complex FFT of half as many points: with X the half spectrum,
//   Z[k] = (X[k] + conj X[N/2 - k]) + i e^{2 pi i k / N} (X[k] - conj X[N/2 - k]),   k < N/2
// its inverse transform z, divided by N, holds samples 2n and 2n + 1 as real and imaginary part.
#pragma once

#include "kernels/rotation.h"

namespace streamchar {

inline constexpr int kMinInverseFft = 16;
inline constexpr int kMaxInverseFft = 8192;

// a: X[k], b: X[N/2 - k], turn: e^{2 pi i k / N}.
SC_HOST_DEVICE Pair fold_spectrum(Pair a, Pair b, Pair turn) {
  const Pair sum = {a.x + b.x, a.y - b.y};
  const Pair turned = rotate_pair({a.x - b.x, a.y + b.y}, turn);
  return {sum.x - turned.y, sum.y + turned.x};
}

// One butterfly of a Stockham radix-2 pass over `points` (it leaves the results sorted): from a = in[i] and
// b = in[i + points / 2] it makes out[first] = a + b and out[first + span] = (a - b) e^{2 pi i turn / points}.
// `span` is 1 in the first pass and doubles; i < points / 2.
struct Butterfly {
  int first;
  int turn;
};
SC_HOST_DEVICE Butterfly butterfly(int i, int span) {
  const int block = i / span, inside = i % span;
  return {block * 2 * span + inside, block * span};
}

}  // namespace streamchar
