"""Hidden covariance: the spectrum score of the correlations between channels, summed over the blocks' outputs.

Serianni and Kalita, arXiv:2306.00288, use a recurrent layer's hidden units over time. This transformer form has the
channels of the residual stream as rows and all tokens of the batch as columns. Null directions are left out, because
the channels sum to 0 after a centring norm.
"""

from __future__ import annotations

from proxies.correlation import correlation, spectrum_score
from proxies.recording import recording
from proxies.registry import Proxy
from proxies.subject import Subject, Unscorable


def hidden_covariance(subject: Subject) -> float:
    """Return the score. Raises Unscorable where the network has no blocks."""
    streams = subject.once(recording).streams
    if not streams:
        raise Unscorable("no blocks")
    return sum(spectrum_score(correlation(x.detach().flatten(0, -2).mT), drop_null=True) for x in streams)


PROXY = Proxy(
    name="hidden_covariance",
    paper="Serianni and Kalita 2023, arXiv:2306.00288",
    needs="batch",
    score=hidden_covariance,
)
