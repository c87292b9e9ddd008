"""Taylor-squared saliency: sum over units of (sum over the unit's weights of w dL/dw)^2.

Yang et al., "NViT", arXiv:2110.04869: the squared first-order change of the loss when a structure is removed, which
under the empirical Fisher approximation equals the second-order change. A unit is a row of a weight matrix of a mixer
or an ffn: one value of a query, key, value, hidden or output vector. The published pruning averages over batches with
momentum; a score at initialisation has one batch.
"""

from __future__ import annotations

from proxies.gradients import loss_pass, matrices
from proxies.registry import Proxy
from proxies.subject import Subject


def taylor_squared(subject: Subject) -> float:
    found = matrices(subject, subject.once(loss_pass), "mixer", "ffn")
    return sum((w * g).double().sum(1).square().sum().item() for w, g in found)


PROXY = Proxy(
    name="taylor_squared", paper="Yang et al. 2023, arXiv:2110.04869", needs="batch", score=taylor_squared
)
