"""Train the runtime's letter-to-sound net on the lexicon and report its accuracy on held-out words.

python -m tools.train.letter_to_sound --lexicon lexicon.bin --out letter_to_sound.safetensors
"""

from __future__ import annotations

import argparse
import math
import time
import zlib
from pathlib import Path

import numpy as np
import torch
from streamchar_rt.orchestrator.letter_to_sound import LAYERS, MAX_LETTERS, NUM_CLASSES, SLOTS_PER_LETTER, LetterToSound
from streamchar_rt.orchestrator.lexicon import Lexicon, PhoneToken, encode_phone
from torch import Tensor, nn
from torch.nn import functional as F

from tools.evaluate.distance import edit_distance

Pairs = list[tuple[str, tuple[PhoneToken, ...]]]


class Net(nn.Module):
    """(b, n) letters → (b, 2n, 57) logits."""

    def __init__(self, embedding: int = 64, hidden: int = 112) -> None:
        super().__init__()
        self.embedding = nn.Embedding(26, embedding)
        self.gru = nn.GRU(embedding, hidden, num_layers=LAYERS, bidirectional=True, batch_first=True, dropout=0.1)
        self.output = nn.Linear(2 * hidden, SLOTS_PER_LETTER * NUM_CLASSES)

    def forward(self, letters: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(letters))
        return self.output(states).reshape(len(letters), -1, NUM_CLASSES)

    def exported(self) -> dict[str, Tensor]:
        """Weights under the runtime's names, float16."""
        weights = {
            "embedding": self.embedding.weight,
            "output.weight": self.output.weight,
            "output.bias": self.output.bias,
        }
        for layer in range(LAYERS):
            for direction, suffix in (("forward", ""), ("backward", "_reverse")):
                for name, torch_name in (
                    ("input_weight", "weight_ih"),
                    ("hidden_weight", "weight_hh"),
                    ("input_bias", "bias_ih"),
                    ("hidden_bias", "bias_hh"),
                ):
                    weights[f"layer{layer}.{direction}.{name}"] = getattr(self.gru, f"{torch_name}_l{layer}{suffix}")
        return {name: weight.detach().to(torch.float16).contiguous() for name, weight in weights.items()}


def pairs_of(lexicon: Lexicon) -> tuple[Pairs, Pairs]:
    """(training, held-out) words; which one a word is in depends on its letters alone."""
    train, held_out = [], []
    for word in lexicon:
        phones = lexicon.get(word)
        slots = SLOTS_PER_LETTER * len(word)
        repeats = sum(a == b for a, b in zip(phones, phones[1:]))  # each takes a slot of silence between
        if not word.isalpha() or len(word) > MAX_LETTERS or len(phones) + repeats > slots:
            continue
        (held_out if zlib.crc32(word.encode()) % 25 == 0 else train).append((word, phones))
    return train, held_out


def batches(pairs: Pairs, size: int, generator: np.random.Generator):
    """Batches of words of the same length, in random order: (letters (b, n), phone codes, their counts (b,))."""
    order = generator.permutation(len(pairs))
    order = order[np.argsort([len(pairs[i][0]) for i in order], kind="stable")]
    groups = []
    for begin in range(0, len(order), size):
        group = order[begin : begin + size]
        lengths = np.array([len(pairs[i][0]) for i in group])
        groups += [group[lengths == n] for n in np.unique(lengths)]
    for g in generator.permutation(len(groups)):
        chosen = [pairs[i] for i in groups[g]]
        letters = torch.tensor([[ord(c) - 97 for c in word] for word, _ in chosen])
        codes = torch.tensor([1 + encode_phone(p) for _, phones in chosen for p in phones])
        yield letters, codes, torch.tensor([len(phones) for _, phones in chosen])


def train(pairs: Pairs, epochs: int, seed: int) -> Net:
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=4e-3, weight_decay=0.01, betas=(0.9, 0.98))
    started, step = time.monotonic(), 0
    for epoch in range(epochs):
        total = count = 0.0
        for letters, codes, lengths in batches(pairs, 256, generator):
            progress = (epoch + count / len(pairs)) / epochs
            rate = min(1.0, (step + 1) / 100) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * rate
            logits = net(letters).log_softmax(-1).transpose(0, 1)  # (2n, b, classes)
            slots = torch.full((len(letters),), logits.shape[0])
            loss = F.ctc_loss(logits, codes, slots, lengths)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            total, count, step = total + loss.item() * len(letters), count + len(letters), step + 1
        left = (time.monotonic() - started) / (epoch + 1) * (epochs - epoch - 1)
        print(f"epoch {epoch + 1}/{epochs}: loss {total / count:.4f}, {left / 60:.1f} min left", flush=True)
    return net.eval()


def accuracy(net: LetterToSound, pairs: Pairs) -> dict[str, float]:
    """Word and phone accuracy, with and without regard to stress."""
    wrong = phones = words = words_bare = 0
    for word, truth in pairs:
        guess = net.phones(word)
        bare, bare_truth = [p.unit for p in guess], [p.unit for p in truth]
        wrong += edit_distance(bare_truth, bare).errors
        phones += len(truth)
        words += guess == truth
        words_bare += bare == bare_truth
    return {"phone": 1 - wrong / phones, "word": words_bare / len(pairs), "word_with_stress": words / len(pairs)}


def main() -> None:
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m tools.train.letter_to_sound", description=__doc__.splitlines()[0])
    parser.add_argument("--lexicon", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    training, held_out = pairs_of(Lexicon.load(arguments.lexicon))
    net = train(training, arguments.epochs, arguments.seed)
    save_file(net.exported(), arguments.out)
    parameters = sum(p.numel() for p in net.parameters())
    figures = accuracy(LetterToSound.load(arguments.out), held_out)
    print(
        f"{parameters} parameters, {arguments.out.stat().st_size} bytes, "
        f"{len(training)} words; {len(held_out)} held out:"
    )
    print(", ".join(f"{name} {value:.4f}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
