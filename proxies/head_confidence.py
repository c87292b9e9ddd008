"""Head confidence: sum over mixers of the mean, over channels and examples, of a projection's maximum over tokens.

Serianni and Kalita, arXiv:2306.00288, after Voita et al., arXiv:1905.09418. The outputs are those of all projections
that the mixer has (query, key, value, output, ...), or the mixer's own output where it has none.
"""

from __future__ import annotations

from torch import Tensor

from proxies.recording import Recording, recording
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def head_confidence(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the network has no mixer."""
    assert subject.batch is not None
    found, B, total = subject.once(recording), len(subject.batch.inputs), 0.0
    mixers = {name: y for name, y in found.branches if name.endswith(".mixer")}
    if not mixers:
        raise Unscorable("no mixer")
    for name, output in mixers.items():
        values = projected(found, name, B) or [output]
        peaks = [y.detach().reshape(B, -1, y.shape[-1]).amax(1).mean().item() for y in values]
        total += sum(peaks) / len(peaks)
    return total


def projected(found: Recording, mixer: str, B: int) -> list[Tensor]:
    """Outputs [B, T, out] of the mixer's projections of tokens, without those of other inputs (learned queries)."""
    return [u.y for u in found.uses if u.name.startswith(f"{mixer}.") and u.y.shape[0] % B == 0]


PROXY = Proxy(
    name="head_confidence",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=head_confidence,
)
