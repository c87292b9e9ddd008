"""Head importance: sum over the mixers' weight matrices of |w dS/dw|, S the sum of the logits.

Serianni and Kalita, "Training-free Neural Architecture Search for RNNs and Transformers", arXiv:2306.00288, after
Michel et al., arXiv:1905.10650. The heads of a mixer are the rows of its matrices, so the sum needs no head and takes
every mixer that has a matrix. Matrices narrower than 128, which the published form leaves out, count.
"""

from __future__ import annotations

from proxies.registry import Proxy
from proxies.subject import Subject
from proxies.synaptic_saliency import saliency


def head_importance(subject: Subject) -> float:
    return saliency(subject, "mixer")


PROXY = Proxy(
    name="head_importance",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=head_importance,
)
